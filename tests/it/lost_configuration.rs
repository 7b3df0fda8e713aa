//! The danger: one small file of a repository, `config.toml`, is lost or spoiled, and its owner is told that there is no
//! repository, that he should make a new one, or is kept from what is all there.

use std::fs;

use crate::support::encrypted::{Home, identity};
use crate::support::{copy_tree, names};

/// Commands that open a repository.
const COMMANDS: [&[&str]; 8] = [
    &["list"],
    &["create", "--database", "app.db"],
    &["verify"],
    &["restore", "--target", "out"],
    &["ls"],
    &["prune"],
    &["unlock"],
    &["repair", "index"],
];

fn plain() -> Home {
    let mut home = Home::bare();
    home.has_identity = false;
    home.done(&["init", "--repo", "./repo"]);
    home
}

fn config(home: &Home) -> std::path::PathBuf {
    home.path("repo/config.toml")
}

fn id(home: &Home) -> String {
    let config = fs::read_to_string(config(home)).unwrap();
    config.lines().find(|line| line.starts_with("repo_id")).unwrap().to_owned()
}

fn at_repo<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [arguments, &["--repo", "./repo"]].concat()
}

#[test]
fn a_repository_that_lost_its_configuration_is_called_that_and_is_not_made_anew() {
    for home in [plain(), Home::new()] {
        home.create("./repo");
        fs::remove_file(config(&home)).unwrap();
        let before = names(&home.path("repo"));
        for command in COMMANDS {
            let said = home.ends(10, &at_repo(command));
            assert!(
                said.contains("snapshots or packs lie there, and its config.toml is missing"),
                "{command:?}: {said}"
            );
            assert!(said.contains("hint: put config.toml back") && said.contains("repair config"), "{said}");
        }
        let with_key = ["init", "--encrypt", "--recipient", &identity("age.pub")];
        for init in [&["init"][..], &["init", "--plaintext"], &with_key] {
            let mut command = home.command(&at_repo(init));
            let output = command.env_remove("PACKVAULT_IDENTITY").output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{init:?}");
        }
        assert_eq!(names(&home.path("repo")), before, "nothing was made");
    }
}

#[test]
fn a_configuration_that_is_lost_or_spoiled_is_made_anew_with_its_old_id_and_everything_is_there() {
    for home in [plain(), Home::new()] {
        let snapshot = home.create("./repo");
        let (old, whole) = (id(&home), fs::read(config(&home)).unwrap());
        for spoiled in [None, Some(vec![0; whole.len()]), Some(Vec::new()), Some(whole[..20].to_vec())] {
            match &spoiled {
                None => fs::remove_file(config(&home)).unwrap(),
                Some(bytes) => fs::write(config(&home), bytes).unwrap(),
            }
            let code = if spoiled.is_some() { 1 } else { 10 };
            home.ends(code, &at_repo(&["list"]));
            let said = home.done(&at_repo(&["repair", "config", "--dry-run"]));
            assert!(said.contains("would be made anew"), "{said}");
            home.ends(code, &at_repo(&["list"]));
            let said = home.done(&at_repo(&["repair", "config"]));
            assert!(said.contains("was made anew"), "{said}");
            assert_eq!(id(&home), old, "{spoiled:?}");
            assert_eq!(said.contains("what was there is damaged/config.toml-"), spoiled.is_some(), "{said}");
            home.done(&at_repo(&["verify", "--all"]));
            assert!(home.done(&at_repo(&["list", "--long"])).contains(&snapshot));
        }
        let mut kept = names(&home.path("repo/damaged"));
        assert_eq!(kept.len(), 3);
        kept.retain(|name| fs::read(home.path("repo/damaged").join(name)).unwrap() == [0; 0]);
        assert_eq!(kept.len(), 1, "what was there is kept as it was");
        let said = home.done(&at_repo(&["repair", "config"]));
        assert!(said.contains("nothing was changed"), "{said}");
        home.create("./repo");
        home.done(&at_repo(&["restore", "--target", "out"]));
    }
}

#[test]
fn what_does_not_fit_what_lies_there_is_not_made_the_configuration() {
    let mut home = Home::new();
    home.create("./repo");
    let whole = fs::read(config(&home)).unwrap();
    fs::remove_file(config(&home)).unwrap();
    home.has_identity = false;
    let said = home.ends(12, &at_repo(&["repair", "config"]));
    assert!(said.contains("no key was given; it opens with x25519"), "{said}");
    home.ends(12, &at_repo(&["repair", "config", "--identity", &identity("ed25519")]));
    // Without its keys it looks like one that is not encrypted, and nothing in it can be read so.
    copy_tree(&home.path("repo/keys"), &home.path("keys"));
    fs::remove_dir_all(home.path("repo/keys")).unwrap();
    fs::remove_dir_all(home.path(".local/state/packvault")).unwrap();
    let said = home.ends(1, &at_repo(&["repair", "config"]));
    assert!(said.contains("can be read as what is not encrypted"), "{said}");
    // The key of another repository opens, and reads nothing here.
    home.has_identity = true;
    home.done(&["init", "--repo", "./other", "--encrypt", "--recipient", &identity("age.pub")]);
    copy_tree(&home.path("other/keys"), &home.path("repo/keys"));
    let said = home.ends(1, &at_repo(&["repair", "config"]));
    assert!(said.contains("can be read with that key"), "{said}");
    assert!(!config(&home).exists(), "nothing was written");
    fs::write(config(&home), whole).unwrap();
    home.ends(10, &["repair", "config", "--repo", "./nothing"]);
    fs::create_dir(home.path("empty")).unwrap();
    home.ends(10, &["repair", "config", "--repo", "./empty"]);
}
