//! The danger: what was done at night is nowhere to be seen, or is where a password can be seen; or what remembers it
//! stops the backup.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Stdio;

use rusqlite::Connection;
use serde_json::Value;

use crate::support::{Scratch, mode, stderr};

/// The ledger of a scratch folder.
const LEDGER: &str = ".local/state/packvault/ledger.sqlite";
const CREATE: [&str; 5] = ["create", "--repo", "./repo", "--database", "app/app.db"];

/// A folder with an application's database.
fn scene() -> Scratch {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("app")).unwrap();
    let database = Connection::open(scratch.path("app/app.db")).unwrap();
    database.execute_batch("CREATE TABLE things (name TEXT); INSERT INTO things VALUES ('x');").unwrap();
    scratch
}

fn runs(scratch: &Scratch) -> Vec<Value> {
    scratch.json(&["history"])["runs"].as_array().unwrap().clone()
}

#[test]
fn every_command_leaves_a_row_with_what_it_did_and_how_it_ended() {
    let scratch = scene();
    let end = |code: i32, arguments: &[&str]| {
        let output = scratch.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
    };
    end(0, &["init", "--repo", "./repo"]);
    end(0, &CREATE);
    end(0, &["list", "--repo", "./repo"]);
    end(0, &["verify", "--repo", "./repo"]);
    end(0, &["restore", "--repo", "./repo", "--target", "out"]);
    end(10, &["verify", "--repo", "./nowhere"]);
    end(0, &["history"]);
    let rows = runs(&scratch);
    let found: Vec<(&str, i64)> =
        rows.iter().map(|row| (row["kind"].as_str().unwrap(), row["exit_code"].as_i64().unwrap())).collect();
    let expected = [("init", 0), ("create", 0), ("list", 0), ("verify", 0), ("restore", 0), ("verify", 10)];
    assert_eq!(found, expected);
    let [_, create, _, verify, restore, failed] = &rows[..] else { panic!("{rows:?}") };
    assert!(create["snapshot"].is_string() && create["bytes_stored"].as_i64() > Some(0), "{create}");
    assert!(create["archive"].as_str().unwrap().ends_with("/app"), "{create}");
    assert!(verify["bytes_read"].as_i64() > Some(0) && verify["problems"] == 0, "{verify}");
    assert_eq!(restore["snapshot"], create["snapshot"]);
    assert!(failed["error"].as_str().unwrap().contains("no repository"), "{failed}");
    assert!(failed["location"].as_str().unwrap().ends_with("nowhere") && failed["repository"].is_null());
    for row in &rows {
        assert!(row["ended_at"].as_str() >= row["began_at"].as_str(), "{row}");
    }
    let table = String::from_utf8(scratch.run(&["history", "--failed"]).stdout).unwrap();
    assert_eq!(table.lines().count(), 2, "{table}");
    assert!(table.contains("failed (10)"), "{table}");
    assert_eq!(mode(&scratch.path(LEDGER)), 0o600);
}

#[test]
fn a_run_that_was_killed_is_seen_not_to_have_ended() {
    let scratch = scene();
    assert_eq!(scratch.run(&["init", "--repo", "./repo"]).status.code(), Some(0));
    fs::write(
        scratch.path("c.toml"),
        format!(
            "[archive.app]\nprofile = 'sqlite'\nhome = '{0}'\ndatabase = 'app.db'\nrepository = '{1}'\n\
             before = ['sh', '-c', 'touch {0}/before; sleep 60']\nafter = ['true']\n",
            scratch.path("app").display(),
            scratch.path("repo").display()
        ),
    )
    .unwrap();
    let mut command = scratch.packvault(&["create", "app"]);
    command.env("PACKVAULT_CONFIG", scratch.path("c.toml")).env("PATH", "/usr/bin:/bin");
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !scratch.path("app/before").exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let rows = runs(&scratch);
    let last = rows.last().unwrap();
    assert_eq!((&last["kind"], &last["archive"]), (&"create".into(), &"app".into()));
    assert!(last["ended_at"].is_null() && last["exit_code"].is_null(), "{last}");
    assert!(last["location"].as_str().unwrap().ends_with("/repo"), "it is known where: {last}");
    let table = String::from_utf8(scratch.run(&["history", "--failed"]).stdout).unwrap();
    assert!(table.contains("did not end"), "{table}");
}

#[test]
fn no_secret_of_a_location_reaches_the_ledger() {
    let scratch = scene();
    for location in ["s3://AK:hush-hush@mail/a", "sftp://ann:hush-hush@127.0.0.1:1/x", "hush-hush://ann@x/y"]
    {
        assert_ne!(scratch.run(&["list", "--repo", location]).status.code(), Some(0));
    }
    for name in ["ledger.sqlite", "ledger.sqlite-wal"] {
        let bytes = fs::read(scratch.path(".local/state/packvault").join(name)).unwrap_or_default();
        let found = bytes.windows(9).any(|window| window == b"hush-hush");
        assert!(!found, "{name} holds a password");
    }
    assert_eq!(runs(&scratch).len(), 3);
}

#[test]
fn whatever_lies_in_the_ledgers_place_every_command_ends_as_it_would_without() {
    let scratch = scene();
    assert_eq!(scratch.run(&["init", "--repo", "./repo"]).status.code(), Some(0));
    let state = scratch.path(".local/state/packvault");
    let ledger = scratch.path(LEDGER);
    let clear = || {
        for part in ["", "-wal", "-shm"] {
            let path = scratch.path(&format!("{LEDGER}{part}"));
            let _ = fs::remove_file(&path);
            let _ = fs::remove_dir(&path);
        }
    };
    let end = |warnings: usize, case: &str| {
        let output = scratch.run(&CREATE);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{case}: {said}");
        let found = said.lines().filter(|line| line.starts_with("warning: ")).count();
        assert_eq!(found, warnings, "{case}: {said}");
    };
    end(0, "as it should be");
    clear();
    fs::write(&ledger, vec![0x5a; 9000]).unwrap();
    end(1, "rubbish");
    end(0, "the next after rubbish");
    assert!(state.join("ledger.damaged.sqlite").exists());
    clear();
    symlink("/dev/full", &ledger).unwrap();
    end(1, "a link");
    clear();
    fs::create_dir(&ledger).unwrap();
    end(1, "a folder");
    clear();
    rustix::fs::mkfifoat(rustix::fs::CWD, &ledger, rustix::fs::Mode::RWXU).unwrap();
    end(1, "a pipe that nobody writes to");
    clear();
    end(0, "nothing");
    let held = Connection::open(&ledger).unwrap();
    held.execute_batch("BEGIN IMMEDIATE").unwrap();
    end(1, "another program that holds it");
    drop(held);
    let newer = Connection::open(&ledger).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    drop(newer);
    end(1, "a newer version");
    fs::remove_dir_all(&state).unwrap();
    fs::write(&state, "x").unwrap();
    end(0, "a file where the folder should be");
    let mut homeless = scratch.packvault(&CREATE);
    let output = homeless.env_remove("HOME").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(!stderr(&output).contains("ledger"), "{}", stderr(&output));
}

#[test]
fn a_ledger_that_cannot_be_read_is_not_taken_for_an_empty_one() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let scratch = scene();
    let state = scratch.path("state/packvault");
    fs::create_dir_all(&state).unwrap();
    let mut config = String::new();
    for name in ["a", "b"] {
        let repository = scratch.path(&format!("repo-{name}")).display().to_string();
        assert_eq!(scratch.run(&["init", "--repo", &repository]).status.code(), Some(0));
        let home = scratch.path("app").display().to_string();
        config.push_str(&format!(
            "[archive.{name}]\nprofile = 'sqlite'\nhome = '{home}'\ndatabase = 'app.db'\nrepository = '{repository}'\n"
        ));
    }
    fs::write(scratch.path("c.toml"), config).unwrap();
    std::os::unix::fs::chown(&state, Some(1234), None).unwrap();
    let ends = |code: i32, told: usize, arguments: &[&str]| {
        let mut command = scratch.packvault(arguments);
        command.env("XDG_STATE_HOME", scratch.path("state")).env("PACKVAULT_CONFIG", scratch.path("c.toml"));
        let output = command.output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        let why = "ledger.sqlite cannot be used: its folder belongs to another user";
        assert_eq!(said.matches(why).count(), told, "{arguments:?}: {said}");
    };
    ends(0, 0, &["create", "a"]);
    ends(0, 1, &["run", "--all"]);
    ends(0, 1, &["status"]);
    ends(1, 1, &["history"]);
    ends(1, 1, &["report"]);
}

#[test]
fn whatever_is_remembered_on_this_machine_is_private_to_its_user() {
    let scratch = scene();
    let lock = scratch.path(".local/state/packvault/repositories/.lock");
    fs::create_dir_all(lock.parent().unwrap()).unwrap();
    // One that an earlier version made.
    fs::write(&lock, "").unwrap();
    let script = "umask 0; exec \"$0\" init --repo ./repo";
    let mut init = std::process::Command::new("/bin/sh");
    init.args(["-c", script, env!("CARGO_BIN_EXE_packvault")]).current_dir(scratch.path(""));
    init.env("HOME", scratch.path("")).env("PACKVAULT_CONFIG", "/dev/null");
    assert_eq!(init.output().unwrap().status.code(), Some(0));
    let found = crate::support::tree(&scratch.path(".local/state/packvault"));
    assert!(found.len() > 3);
    for (path, found) in found {
        if let crate::support::Found::File { mode, .. } = found {
            assert_eq!(mode & 0o077, 0, "{path}");
        }
    }
}
