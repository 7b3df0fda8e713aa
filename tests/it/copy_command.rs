//! The danger: a copy into the wrong place, out of the wrong one, or with the wrong key; a script that is told that all
//! is well when it is not; a backup that is called failed because its copy failed.

use std::fs;

use serde_json::Value;

use crate::support::archives::{make, tiny};
use crate::support::{Scratch, names, snapshot_files, stderr};

/// A home, a repository with one snapshot, and a configuration that names two more places.
struct Ground(Scratch);

impl Ground {
    fn new() -> Self {
        let ground = Self(Scratch::new());
        make(&ground.0.path("home"), &tiny());
        let folder = ground.0.path("");
        let folder = folder.to_str().unwrap().trim_end_matches('/');
        let config = format!(
            "[repository.disk]\nlocation = \"{folder}/disk\"\n\
             [repository.second]\nlocation = \"{folder}/second\"\npassphrase = {{ file = \"{folder}/word\" }}\n\
             [archive.mail]\nhome = \"{folder}/home\"\nrepository = \"disk\"\ncopies = [\"second\"]\n"
        );
        fs::write(ground.0.path("config.toml"), config).unwrap();
        fs::write(ground.0.path("word"), "correct horse\n").unwrap();
        ground.ends(0, &["init", "--repo", "disk"]);
        ground
    }

    fn ends(&self, code: i32, arguments: &[&str]) -> String {
        let mut command = self.0.packvault(arguments);
        command.env("PACKVAULT_CONFIG", self.0.path("config.toml")).args(["--progress", "none"]);
        let output = command.output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), stderr(&output));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        said
    }
}

#[test]
fn a_create_copies_afterwards_and_a_copy_that_fails_undoes_nothing() {
    let ground = Ground::new();
    let said = ground.ends(6, &["create", "mail"]);
    assert!(said.contains("the copy to second failed: no repository at"), "{said}");
    assert_eq!(snapshot_files(&ground.0.path("disk")).len(), 1, "the snapshot was made");

    let said = ground.ends(10, &["copy", "--from", "disk", "--to", "second"]);
    assert!(said.contains("say --encrypt or --plaintext to make one"), "{said}");
    ground.ends(0, &["copy", "--from", "disk", "--to", "second", "--encrypt"]);
    assert_eq!(snapshot_files(&ground.0.path("second")), snapshot_files(&ground.0.path("disk")));
    assert_eq!(names(&ground.0.path("second/keys")), ["passphrase.age"]);
    ground.ends(0, &["create", "mail"]);
    assert_eq!(snapshot_files(&ground.0.path("second")), snapshot_files(&ground.0.path("disk")));
    ground.ends(0, &["verify", "--all", "--repo", "second"]);
    ground.ends(2, &["copy", "--from", "disk", "--to", "second", "--plaintext"]);

    // Back, with the passphrase by a flag, and no word of the configuration.
    let second = ground.0.path("second");
    let second = second.to_str().unwrap();
    let back = ["copy", "--from", second, "--to", "./back", "--plaintext", "--json"];
    let said = ground.ends(12, &back);
    assert!(said.contains("no key was given"), "{said}");
    let said = ground.ends(0, &[&back[..], &["--from-passphrase-file", "word"]].concat());
    let report: Value =
        serde_json::from_str(said.lines().find(|line| line.starts_with('{')).unwrap()).unwrap();
    assert_eq!(report["copied"].as_array().unwrap().len(), 2);
    ground.ends(0, &["restore", "--repo", "./back", "--target", "restored"]);
}

#[test]
fn one_place_twice_and_one_inside_the_other_are_refused() {
    let ground = Ground::new();
    ground.ends(6, &["create", "mail"]);
    let before = names(&ground.0.path("disk"));
    std::os::unix::fs::symlink(ground.0.path("disk"), ground.0.path("link")).unwrap();
    for to in ["disk", "./disk", "./disk/", "./link", "./disk/inner"] {
        let said = ground.ends(2, &["copy", "--from", "disk", "--to", to, "--plaintext"]);
        assert!(said.contains("the same place") || said.contains("inside the other"), "{said}");
    }
    ground.ends(2, &["copy", "--from", "disk", "--to", "second", "--repo", "disk"]);
    assert_eq!(names(&ground.0.path("disk")), before);
}

#[test]
fn nothing_is_mirrored_from_a_source_that_lost_a_known_snapshot() {
    let ground = Ground::new();
    ground.ends(6, &["create", "mail"]);
    let newest = snapshot_files(&ground.0.path("disk")).pop().unwrap();
    let manifest = ground.0.path("disk/snapshots").join(newest);
    fs::rename(&manifest, ground.0.path("hidden")).unwrap();
    let mirror = ["copy", "--from", "disk", "--to", "second", "--encrypt", "--mirror"];
    let said = ground.ends(13, &mirror);
    assert!(said.contains("--mirror: a snapshot of the source that this machine knows is gone"), "{said}");
    assert!(!ground.0.path("second").exists(), "{said}");
    fs::rename(ground.0.path("hidden"), manifest).unwrap();
    ground.ends(0, &mirror);
}

#[test]
fn damage_is_named_by_verify_with_the_copy_and_healed_from_it() {
    let ground = Ground::new();
    ground.ends(6, &["create", "mail"]);
    ground.ends(0, &["copy", "--from", "disk", "--to", "second", "--encrypt"]);
    let pack = ground.0.path("disk/packs").join(&names(&ground.0.path("disk/packs"))[0]);
    let mut bytes = fs::read(&pack).unwrap();
    bytes.truncate(100);
    fs::write(&pack, bytes).unwrap();
    let said = ground.ends(3, &["verify", "--all", "--repo", "disk"]);
    assert!(said.contains("packvault heal --repo disk --from second"), "{said}");
    // Whoever needs it now is told where it is whole, also by what comes to nothing.
    let said = ground.ends(1, &["restore", "mail", "--target", "back"]);
    let hints: Vec<&str> = said.lines().filter(|line| line.starts_with("hint: packvault ")).collect();
    let (heals, looks) = ("disk --from second may heal it", "restore --repo second looks there instead");
    assert!(hints.len() == 2 && hints[0].ends_with(heals) && hints[1].contains(looks), "{said}");
    assert!(!ground.0.path("back").exists(), "{said}");
    let said = ground.ends(3, &["heal", "--repo", "disk"]);
    assert!(
        said.contains("that no place it looked at has whole") && said.contains("--from second"),
        "{said}"
    );
    ground.ends(0, &["restore", "--repo", "second", "--target", "back"]);
    let said = ground.ends(3, &["heal", "--repo", "disk", "--from", "second", "--dry-run"]);
    assert!(said.contains("nothing was changed"), "{said}");
    let said = ground.ends(0, &["heal", "--repo", "disk", "--from", "second"]);
    assert!(said.contains("nothing is left"), "{said}");
    assert_eq!(names(&ground.0.path("disk/damaged")).len(), 1);
    ground.ends(0, &["verify", "--all", "--repo", "disk"]);

    for index in names(&ground.0.path("disk/indexes")) {
        fs::write(ground.0.path("disk/indexes").join(index), "rotten").unwrap();
    }
    ground.ends(3, &["verify", "--all", "--repo", "disk"]);
    ground.ends(0, &["repair", "index", "--repo", "disk", "--dry-run"]);
    ground.ends(0, &["repair", "index", "--repo", "disk"]);
    ground.ends(0, &["verify", "--all", "--repo", "disk"]);
}
