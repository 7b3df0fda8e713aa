//! The danger: somebody who can write where the repository lies lays another in its place, a plain one, an older
//! copy, or a key file of his own; and the backup goes on as if nothing had happened.
//!
//! The tests are that somebody. What this machine remembers is all that can show it, and is never in the way.

use std::fs;

use packvault::format::{KeyName, RepoConfig, RepoId, RepositoryKey};
use packvault::repo::keys::{NewWay, Recipient, wrap};

use crate::support::encrypted::{Home, identity};
use crate::support::{contents, copy_tree, names};

const LIST: [&str; 3] = ["list", "--repo", "./repo"];
const CREATE: [&str; 5] = ["create", "--database", "app.db", "--repo", "./repo"];

fn config(home: &Home) -> RepoConfig {
    RepoConfig::parse(&fs::read(home.path("repo/config.toml")).unwrap(), 5).unwrap()
}

#[test]
fn a_plain_configuration_in_the_place_of_the_encrypted_one_is_refused() {
    let mut home = Home::new();
    home.create("./repo");
    let id = config(&home).repo_id;
    let plain = RepoConfig::new(id.clone(), "2026-11-29T00:00:00Z".parse().unwrap());
    fs::write(home.path("repo/config.toml"), plain.encode()).unwrap();
    let before = names(&home.path("repo"));
    for has_identity in [true, false] {
        home.has_identity = has_identity;
        for command in
            [&LIST[..], &CREATE, &["verify", "--repo", "./repo"], &["key", "test", "--repo", "./repo"]]
        {
            let said = home.ends(13, command);
            assert!(said.contains(&format!("was {id}, encrypted, when it was seen last")), "{said}");
            assert!(said.contains("not encrypted") && said.contains("--accept-change"), "{said}");
        }
    }
    assert_eq!(names(&home.path("repo")), before, "nothing was stored in plain text");
}

#[test]
fn another_repository_in_the_place_is_refused_before_a_secret_is_asked_for() {
    let home = Home::new();
    home.create("./repo");
    home.done(&["init", "--repo", "./other", "--encrypt", "--recipient", &identity("age.pub")]);
    home.create("./other");
    fs::rename(home.path("repo"), home.path("third")).unwrap();
    fs::rename(home.path("other"), home.path("repo")).unwrap();
    fs::rename(home.path("third"), home.path("other")).unwrap();
    for repository in ["./repo", "./other"] {
        let list = ["list", "--repo", repository, "--passphrase-command", "touch asked"];
        let said = home.ends(13, &list);
        assert!(said.contains("is not the one this machine saw there"), "{said}");
    }
    assert!(!home.path("asked").exists(), "no secret was fetched for it");
    home.done(&["list", "--repo", "./repo", "--accept-change"]);
    home.done(&LIST);
    // The one that was there before is known as well: disks are changed over.
    fs::rename(home.path("repo"), home.path("third")).unwrap();
    fs::rename(home.path("other"), home.path("repo")).unwrap();
    home.done(&LIST);
}

#[test]
fn an_older_copy_is_told_by_every_command_until_it_is_accepted() {
    for encrypted in [true, false] {
        let mut home = if encrypted { Home::new() } else { Home::bare() };
        if !encrypted {
            home.has_identity = false;
            home.done(&["init", "--repo", "./repo"]);
        }
        home.create("./repo");
        copy_tree(&home.path("repo"), &home.path("yesterday"));
        let newest = home.create("./repo");
        fs::remove_dir_all(home.path("repo")).unwrap();
        copy_tree(&home.path("yesterday"), &home.path("repo"));
        let told = format!("warning: snapshot {newest}, the newest this machine made or saw, is no longer");
        let said = home.ends(13, &LIST);
        assert!(said.contains(&told) && said.contains("--accept-change"), "{said}");
        for command in [
            &["verify", "--repo", "./repo", "-q"][..],
            &["restore", "--repo", "./repo", "--target", "out"],
            &CREATE,
        ] {
            assert!(home.ends(0, command).contains(&told), "{command:?}");
        }
        // A new snapshot does not hide it.
        assert!(home.ends(13, &LIST).contains(&told));
        home.done(&["list", "--repo", "./repo", "--accept-change"]);
        assert!(home.ends(0, &LIST).is_empty());
    }
}

#[test]
fn a_newest_snapshot_that_is_hidden_is_missed_and_may_come_back() {
    let home = Home::new();
    home.create("./repo");
    let newest = home.create("./repo");
    let manifest = format!("repo/snapshots/{newest}.mvmanifest");
    fs::rename(home.path(&manifest), home.path("hidden")).unwrap();
    assert!(home.ends(13, &LIST).contains(&newest));
    // What only it needs is not removed, also when a newer one was made meanwhile.
    let packs = contents(&home.path("repo/packs"));
    for _ in 0..2 {
        let said = home.ends(13, &["prune", "--now", "--repo", "./repo"]);
        assert!(said.contains("nothing was pruned: a snapshot that this machine knows is gone"), "{said}");
        assert!(said.contains("--accept-change"), "{said}");
        home.create("./repo");
    }
    let now = contents(&home.path("repo/packs"));
    assert!(packs.iter().all(|(name, hash)| now.get(name) == Some(hash)));
    fs::rename(home.path("hidden"), home.path(&manifest)).unwrap();
    assert!(home.ends(0, &LIST).is_empty());
    home.done(&["prune", "--now", "--repo", "./repo"]);
    home.done(&["verify", "--all", "--repo", "./repo"]);
}

/// A mark hides its snapshot, and its name is all it needs.
#[test]
fn a_newest_snapshot_that_somebody_marks_as_forgotten_is_missed() {
    let home = Home::new();
    home.create("./repo");
    let newest = home.create("./repo");
    let mark = home.path(&format!("repo/snapshots/{newest}.packvault-forgotten"));
    fs::write(&mark, "This snapshot was forgotten; its manifest stays while others build on it.\n").unwrap();
    let told = format!("warning: snapshot {newest}, the newest this machine made or saw, is no longer");
    assert!(home.ends(13, &LIST).contains(&told));
    assert!(home.ends(0, &["restore", "--repo", "./repo", "--target", "out"]).contains(&told));
    // Its owner may still have it by its name, and taking the mark away brings it back.
    home.done(&["restore", &newest, "--repo", "./repo", "--target", "named"]);
    fs::remove_file(mark).unwrap();
    assert!(home.ends(0, &LIST).is_empty());
}

#[test]
fn a_key_file_of_another_repository_is_refused_by_name() {
    let home = Home::new();
    home.done(&["init", "--repo", "./other", "--encrypt", "--recipient", &identity("age.pub")]);
    fs::copy(home.path("other/keys/x25519.age"), home.path("repo/keys/x25519.age")).unwrap();
    let said = home.ends(12, &LIST);
    assert!(said.contains("x25519 is the key file of another repository"), "{said}");
}

/// Whoever knows a public key can make a key file for it that wraps a key of his own, and a configuration that agrees.
#[test]
fn a_key_that_somebody_else_has_put_in_the_place_is_refused() {
    let home = Home::new();
    home.create("./repo");
    let before = config(&home);
    let theirs = RepositoryKey::from_bytes([7; 32]);
    let public = fs::read_to_string(identity("age.pub")).unwrap();
    let way = NewWay::Recipient(Recipient::parse(&public).unwrap());
    let file = wrap(&way, &before.repo_id, &theirs).unwrap();
    fs::write(home.path("repo/keys/x25519.age"), file).unwrap();
    let created_at = before.created_at.parse().unwrap();
    let forged = RepoConfig::new(before.repo_id.clone(), created_at).encrypted(&theirs, [7; 24]);
    fs::write(home.path("repo/config.toml"), forged.encode()).unwrap();
    for folder in ["snapshots", "packs", "indexes"] {
        fs::remove_dir_all(home.path("repo").join(folder)).unwrap();
    }
    let said = home.ends(13, &CREATE);
    assert!(said.contains("sealed under another key than the one that now opens it"), "{said}");
    assert!(home.snapshots("repo").is_empty());
}

#[test]
fn key_files_that_cost_too_much_or_are_too_many_are_bounded() {
    let home = Home::new();
    let secret = home.path("secret");
    fs::write(&secret, "wombat").unwrap();
    home.done(&["key", "add", "own", "--new-passphrase-file", "secret", "--repo", "./repo"]);
    let own = fs::read(home.path("repo/keys/own.age")).unwrap();
    let text = String::from_utf8_lossy(&own[..100]).into_owned();
    let line = text.lines().nth(1).unwrap();
    let dear = line.replace(" 17", " 40");
    let at = text.find(line).unwrap();
    let file = [&own[..at], dear.as_bytes(), &own[at + line.len()..]].concat();
    fs::write(home.path("repo/keys/dear.age"), &file).unwrap();
    home.done(&["key", "test", "--repo", "./repo", "--passphrase-file", "secret"]);
    fs::write(home.path("wrong"), "bat").unwrap();
    let said = home.ends(12, &["key", "test", "--repo", "./repo", "--passphrase-file", "wrong"]);
    assert!(said.contains("dear asks for more work than a passphrase needs"), "{said}");
    for number in 0..1001 {
        let name = KeyName::parse(&format!("flood-{number}")).unwrap();
        fs::write(home.path("repo/keys").join(name.file()), &file).unwrap();
    }
    let said = home.ends(1, &LIST);
    assert!(said.contains("more than 1000 key files"), "{said}");
    home.done(&["key", "test", "--repo", "./repo", "--key", "x25519"]);
}

#[test]
fn a_memory_that_cannot_be_kept_or_read_is_in_nobodys_way() {
    let home = Home::new();
    home.create("./repo");
    let folder = home.path(".local/state/packvault/repositories");
    let mut files = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let file = files.find(|path| path.extension().is_some_and(|suffix| suffix == "json")).unwrap();
    let remembered = fs::read_to_string(&file).unwrap();
    assert!(remembered.contains(config(&home).repo_id.as_str()), "{remembered}");
    for damaged in ["", "{", "[]", "null"] {
        fs::write(&file, damaged).unwrap();
        assert!(home.ends(0, &LIST).is_empty());
    }
    fs::remove_dir_all(home.path(".local")).unwrap();
    fs::write(home.path(".local"), "a file in the way").unwrap();
    assert!(home.ends(0, &LIST).is_empty());
    home.create("./repo");
    // An id that is remembered elsewhere says nothing about this place.
    assert!(RepoId::parse(config(&home).repo_id.as_str()).is_ok());
}
