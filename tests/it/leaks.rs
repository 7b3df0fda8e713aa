//! The danger: a passphrase, or the key of a repository, turns up where others read: in an error, a log, the list of
//! processes, the environment of a child, a core dump.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::encrypted::{Home, PASSPHRASE, identity};
use crate::support::stderr;

/// Returns the key of the repository as the page for a safe has it, in one piece.
fn key_of(home: &Home) -> String {
    let said = home.done(&["key", "export", "--json", "--repo", "./repo"]);
    let page: serde_json::Value = serde_json::from_str(&said).unwrap();
    let page = page["recovery_key"].as_str().unwrap().to_owned();
    let lines = page.lines().skip(2).map(|line| {
        let digits: String = line.chars().skip(1).filter(char::is_ascii_hexdigit).collect();
        digits[..16].to_owned()
    });
    lines.collect()
}

/// Expects neither the passphrase nor the key in what was found, as text or as bytes.
fn expect_none(found: &[u8], key: &str, place: &str) {
    let raw = hex::decode(key).unwrap();
    for secret in [PASSPHRASE.as_bytes(), key.as_bytes(), &key.as_bytes()[..32], &raw, &raw[..16]] {
        let is_there = found.windows(secret.len()).any(|window| window == secret);
        assert!(!is_there, "{place}: {}", String::from_utf8_lossy(found));
    }
}

fn everything(output: &Output) -> Vec<u8> {
    [&output.stdout[..], &output.stderr].concat()
}

fn sections(home: &Home, before: &str) {
    let root = home.path("").display().to_string();
    let root = root.trim_end_matches('/');
    fs::write(
        home.path("c.toml"),
        format!(
            "[archive.app]\nprofile = 'sqlite'\nhome = '{root}'\ndatabase = 'app.db'\n\
             before = ['sh', '-c', '{before}']\n"
        ),
    )
    .unwrap();
}

#[test]
fn no_message_log_process_or_child_holds_a_secret() {
    let mut home = Home::new();
    let key = key_of(&home);
    fs::write(home.path("secret"), PASSPHRASE).unwrap();
    home.done(&["key", "add", "hut", "--new-passphrase-file", "secret", "--repo", "./repo"]);
    home.has_identity = false;
    sections(
        &home,
        "env > child-environment; tr \"\\\\0\" \" \" < /proc/$PPID/cmdline > command-line; \
         tr \"\\\\0\" \"\\\\n\" < /proc/self/environ >> child-environment",
    );
    let commands: [&[&str]; 8] = [
        &["create", "app"],
        &["list"],
        &["verify"],
        &["restore", "--target", "out"],
        &["key", "list"],
        &["key", "test"],
        &["key", "add", "hut", "--recipient", "age1wrong"],
        &["key", "remove", "hut"],
    ];
    for command in commands {
        let mut running = home.command(command);
        running.args(["--repo", "./repo", "-vv", "--log-file", "log"]);
        running.env("PACKVAULT_PASSPHRASE", PASSPHRASE).env("PACKVAULT_CONFIG", home.path("c.toml"));
        running.env("RUST_BACKTRACE", "full");
        let output = running.output().unwrap();
        expect_none(&everything(&output), &key, &format!("{command:?}"));
    }
    for file in ["log", "child-environment", "command-line"] {
        let found = fs::read(home.path(file)).unwrap();
        assert!(found.len() > 20, "{file} was written");
        expect_none(&found, &key, file);
    }
    // The hook would have found it: another variable is there.
    let environment = fs::read_to_string(home.path("child-environment")).unwrap();
    assert!(environment.contains("RUST_BACKTRACE=full") && !environment.contains("PACKVAULT_PASSPHRASE"));
    let remembered = home.path(".local/state/packvault/repositories");
    for entry in fs::read_dir(remembered).unwrap() {
        expect_none(&fs::read(entry.unwrap().path()).unwrap(), &key, "what is remembered");
    }
}

#[test]
fn a_secret_in_the_wrong_place_is_not_repeated() {
    let home = Home::new();
    let key = key_of(&home);
    let private = fs::read_to_string(identity("age.txt")).unwrap();
    let private = private.lines().last().unwrap();
    for arguments in [
        &["key", "add", PASSPHRASE.to_uppercase().as_str(), "--generate", "--repo", "./repo"][..],
        &["key", "add", "a", "--recipient", private, "--repo", "./repo"],
        &["init", "--repo", "./b", "--encrypt", "--recipient", private],
    ] {
        let output = home.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        let said = everything(&output);
        expect_none(&said, &key, "a message");
        let said = String::from_utf8_lossy(&said);
        assert!(!said.contains(private) && !said.contains(&PASSPHRASE.to_uppercase()), "{said}");
    }
    fs::write(home.path("c.toml"), format!("[repository.r]\nlocation = '/x'\npassphrase = '{PASSPHRASE}'"))
        .unwrap();
    let output =
        home.command(&["list", "--repo", "r"]).env("PACKVAULT_CONFIG", home.path("c.toml")).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    expect_none(&everything(&output), &key, "a mistake in the configuration");
}

/// Returns whether a process that is aborted leaves a core dump.
fn dumps(program: &str, folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> (bool, Output) {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "ulimit -c unlimited; exec \"$0\" \"$@\"", program]).args(arguments);
    command.current_dir(folder).env_clear().env("HOME", folder).env("PATH", "/usr/bin:/bin");
    let output = command.envs(variables.iter().copied()).output().unwrap();
    (output.status.core_dumped(), output)
}

#[test]
fn a_core_dump_holds_no_key_for_there_is_none() {
    let home = Home::new();
    sections(&home, "kill -ABRT $PPID; sleep 1");
    let config = home.path("c.toml").display().to_string();
    let (dumped, output) = dumps(
        env!("CARGO_BIN_EXE_packvault"),
        &home.path(""),
        &["create", "app", "--repo", "./repo"],
        &[("PACKVAULT_CONFIG", &config), ("PACKVAULT_IDENTITY", &identity("age.txt"))],
    );
    assert_eq!(output.status.signal(), Some(6), "it was aborted: {}", stderr(&output));
    assert!(!dumped, "it left a core dump");
    // Without a key in its memory the same program does leave one, where this machine makes any.
    home.done(&["init", "--repo", "./plain", "--plaintext"]);
    let (control, _) = dumps("/bin/sh", &home.path(""), &["-c", "kill -ABRT $$"], &[]);
    let (plain, _) = dumps(
        env!("CARGO_BIN_EXE_packvault"),
        &home.path(""),
        &["create", "app", "--repo", "./plain"],
        &[("PACKVAULT_CONFIG", &config)],
    );
    if control {
        assert!(plain, "this test would not see a core dump");
    } else {
        eprintln!(
            "this machine makes no core dumps: the test shows only that the program goes on without them"
        );
    }
}
