//! The danger: a slip names the wrong file to be written - the repository's configuration, the database, a note of the
//! user's - and it is spoiled; or what was to be written is there by half.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use rusqlite::Connection;

use crate::support::small_disk::SmallDisk;
use crate::support::{Scratch, stderr, tree};

/// An application, its repository with a snapshot, and a configuration that names both.
fn scene() -> Scratch {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.path("place/app")).unwrap();
    let database = Connection::open(scratch.path("place/app/app.db")).unwrap();
    database.execute_batch("CREATE TABLE things (name TEXT); INSERT INTO things VALUES ('x');").unwrap();
    fs::write(scratch.path("place/app/note.txt"), "a note").unwrap();
    fs::create_dir(scratch.path("place/other")).unwrap();
    fs::write(scratch.path("place/other/other.db"), "").unwrap();
    let home = scratch.path("place").display().to_string();
    let archive = |name: &str| {
        format!(
            "[archive.{name}]\nprofile = 'sqlite'\nhome = '{home}/{name}'\ndatabase = '{name}.db'\n\
             repository = '{home}/repo'\n"
        )
    };
    fs::write(scratch.path("place/c.toml"), archive("app") + &archive("other")).unwrap();
    assert_eq!(run(&scratch, &["init", "--repo", "place/repo"]).status.code(), Some(0));
    assert_eq!(run(&scratch, &["create", "app"]).status.code(), Some(0));
    scratch
}

fn run(scratch: &Scratch, arguments: &[&str]) -> Output {
    let mut command = scratch.packvault(arguments);
    command.env("PACKVAULT_CONFIG", scratch.path("place/c.toml")).output().unwrap()
}

/// The flags that name a file to be written, and a command that has each.
const FLAGS: [(&str, &[&str]); 3] =
    [("--log-file", &["list", "app"]), ("--html", &["report"]), ("--metrics", &["status", "app"])];

#[test]
fn nothing_is_written_over_but_what_packvault_wrote_there() {
    let scratch = scene();
    let below = |folder: &str| {
        let name = fs::read_dir(scratch.path(folder)).unwrap().next().unwrap().unwrap().file_name();
        format!("{folder}/{}", name.into_string().unwrap())
    };
    let manifest = below("place/repo/snapshots");
    let index = below("place/repo/indexes");
    symlink("app", scratch.path("place/link")).unwrap();
    symlink("note.txt", scratch.path("place/app/note-link")).unwrap();
    assert!(Command::new("mkfifo").arg(scratch.path("place/pipe")).status().unwrap().success());
    let victims = [
        ("place/repo/config.toml", "lies in the repository"),
        (manifest.as_str(), "lies in the repository"),
        (index.as_str(), "lies in the repository"),
        ("place/repo/new", "lies in the repository"),
        ("place/repo/packs/../snapshots/new", "lies in the repository"),
        ("place/c.toml", "is packvault's configuration"),
        ("place/app/app.db", "stays as it is"),
        ("place/app/app.db-wal", "would be taken for a part of the database"),
        ("place/link/app.db-journal", "would be taken for a part of the database"),
        ("place/other/other.db", "stays as it is"),
        ("place/app/note.txt", "stays as it is"),
        ("place/app/note-link", "is a link"),
        ("place/app", "is a folder"),
        ("place/pipe", "is no file"),
        ("~/log", "did you mean"),
        ("..", "names no file"),
    ];
    let before = tree(&scratch.path("place"));
    for (flag, command) in FLAGS {
        for (victim, why) in victims {
            let output = run(&scratch, &[command, &[&format!("{flag}={victim}")]].concat());
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{flag} {victim}: {said}");
            assert!(said.contains(flag) && said.contains(why), "{flag} {victim}: {said}");
        }
    }
    assert_eq!(tree(&scratch.path("place")), before);
    for device in ["/dev/null", "/dev/tty", "/dev/zero"] {
        for (flag, command) in FLAGS {
            let output = run(&scratch, &[command, &[flag, device]].concat());
            let is_sink = (flag, device) == ("--log-file", "/dev/null");
            let expected = if is_sink { 0 } else { 2 };
            assert_eq!(output.status.code(), Some(expected), "{flag} {device}: {}", stderr(&output));
        }
    }
}

#[test]
fn what_packvault_wrote_and_what_is_empty_is_written_over() {
    let scratch = scene();
    for (flag, command) in FLAGS {
        fs::write(scratch.path("place/file"), "").unwrap();
        for _ in 0..2 {
            let output = run(&scratch, &[command, &["--quiet", flag, "place/file"]].concat());
            assert_eq!(output.status.code(), Some(0), "{flag}: {}", stderr(&output));
            assert!(fs::metadata(scratch.path("place/file")).unwrap().len() > 100, "{flag}");
        }
        fs::remove_file(scratch.path("place/file")).unwrap();
    }
    // A log may change its format, and share its file with what else the program says.
    fs::write(scratch.path("place/log"), "app: create done\n").unwrap();
    let log = ["list", "app", "--log-file", "place/log"];
    assert_eq!(run(&scratch, &log).status.code(), Some(2), "nothing in it is a log yet");
    fs::write(scratch.path("place/log"), "").unwrap();
    for format in ["text", "json", "text"] {
        let output = run(&scratch, &[&log[..], &["--log-format", format]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
}

#[test]
fn what_finds_no_room_leaves_the_old_file_whole() {
    let scratch = scene();
    for (flag, command) in &FLAGS[1..] {
        let Some(disk) = SmallDisk::mount("size=256k") else { return };
        let file = disk.path("file").display().to_string();
        let written = [command, &["--quiet", *flag, &file][..]].concat();
        assert_eq!(run(&scratch, &written).status.code(), Some(0), "{flag}");
        disk.leave_bytes(0);
        let before = tree(disk.root());
        let output = run(&scratch, &written);
        assert_eq!(output.status.code(), Some(1), "{flag}: {}", stderr(&output));
        assert!(stderr(&output).contains("error: cannot write the"), "{flag}: {}", stderr(&output));
        assert_eq!(tree(disk.root()), before, "{flag}");
    }
}

#[test]
fn no_folder_is_made_in_a_repository_for_what_is_no_part_of_it() {
    let scratch = scene();
    symlink("app", scratch.path("place/link")).unwrap();
    let before = tree(&scratch.path("place/repo"));
    for (flag, command) in [
        ("--spool", &["create", "app"][..]),
        ("--spool", &["verify", "app"]),
        ("--scratch", &["verify", "app", "--restore-check"]),
    ] {
        for folder in ["place/repo/new", "place/repo/packs", "place/link/../repo/new/deep"] {
            let output = run(&scratch, &[command, &[flag, folder]].concat());
            assert_eq!(output.status.code(), Some(2), "{command:?} {folder}: {}", stderr(&output));
            assert!(stderr(&output).contains("lies in the repository"), "{}", stderr(&output));
        }
    }
    assert_eq!(tree(&scratch.path("place/repo")), before);
}

#[test]
fn manual_pages_are_written_over_manual_pages_alone() {
    let scratch = scene();
    let man = |folder: &str| run(&scratch, &["man", folder]);
    assert_eq!((man("man1").status.code(), man("man1").status.code()), (Some(0), Some(0)));
    let page = scratch.path("man1/packvault-create.1");
    fs::remove_file(&page).unwrap();
    symlink(scratch.path("place/app/note.txt"), &page).unwrap();
    let before = tree(&scratch.path(""));
    for folder in ["man1", "place/repo", "place/repo/packs"] {
        let output = man(folder);
        assert_eq!(output.status.code(), Some(2), "{folder}: {}", stderr(&output));
    }
    let left = |tree: &std::collections::BTreeMap<String, crate::support::Found>| {
        tree.keys().filter(|path| !path.starts_with(".local/")).cloned().collect::<Vec<_>>()
    };
    assert_eq!(left(&tree(&scratch.path(""))), left(&before));
    assert_eq!(fs::read_to_string(scratch.path("place/app/note.txt")).unwrap(), "a note");
    assert!(!Path::new(&scratch.path("place/repo/packvault.1")).exists());
}
