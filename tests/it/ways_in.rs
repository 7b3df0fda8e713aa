//! The danger: the owner of an encrypted repository stands before a door that does not open, or somebody else before
//! one that does; or nobody can tell from a message what is missing.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use rusqlite::Connection;

use crate::support::backends::{Backend, Place};
use crate::support::encrypted::{Home, PASSPHRASE, identity};
use crate::support::{names, stderr};

/// Every command that must read what is sealed.
const COMMANDS: [&[&str]; 9] = [
    &["list"],
    &["create", "--database", "app.db"],
    &["create", "--database", "app.db", "--dry-run"],
    &["verify"],
    &["restore", "--target", "out"],
    &["key", "test"],
    &["key", "export"],
    &["key", "add", "b", "--generate"],
    &["key", "change", "x25519", "--generate"],
];

fn with_repo<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = arguments.to_vec();
    arguments.extend(["--repo", "./repo"]);
    arguments
}

#[test]
fn without_a_key_every_command_names_the_ways_in_and_ends_with_12() {
    let mut home = Home::new();
    home.create("./repo");
    let before = names(&home.path("repo"));
    home.has_identity = false;
    for command in COMMANDS {
        let said = home.ends(12, &with_repo(command));
        assert!(said.contains("no key was given; it opens with x25519 (x25519)"), "{said}");
        assert!(said.contains("hint: name the secret with --passphrase-file"), "{said}");
    }
    home.ends(12, &["key", "remove", "x25519", "--repo", "./repo"]);
    assert_eq!(names(&home.path("repo")), before, "nothing was written");
    // What needs no key works without one.
    home.done(&["unlock", "--repo", "./repo"]);
    let listed = home.done(&["key", "list", "--repo", "./repo"]);
    assert!(listed.starts_with("x25519  x25519  20"), "{listed}");
}

#[test]
fn a_wrong_key_is_one_sentence_and_ends_with_12() {
    let mut home = Home::new();
    home.create("./repo");
    home.has_identity = false;
    let file = home.path("wrong");
    fs::write(&file, "wrong\n").unwrap();
    for secret in [["--identity", &identity("ed25519")], ["--passphrase-file", "wrong"]] {
        for command in COMMANDS {
            let mut arguments = with_repo(command);
            arguments.extend(secret);
            let said = home.ends(12, &arguments);
            assert!(said.starts_with("error: what was given does not open the repository"), "{said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }
}

#[test]
fn a_whole_round_with_a_passphrase_from_each_place_a_reference_may_stand() {
    let mut home = Home::bare();
    home.has_identity = false;
    fs::write(home.path("secret"), format!("{PASSPHRASE}\n")).unwrap();
    home.done(&["init", "--repo", "./repo", "--encrypt", "--passphrase-file", "secret"]);
    let config = home.path("c.toml");
    let repo = home.path("repo").display().to_string();
    let secret = home.path("secret").display().to_string();
    fs::write(
        &config,
        format!("[repository.r]\nlocation = '{repo}'\npassphrase = {{ file = '{secret}' }}\nencryption = 'required'\n"),
    )
    .unwrap();
    let test = |arguments: &[&str], variable: Option<(&str, &str)>| {
        let mut command = home.command(&["key", "test"]);
        command.args(arguments).envs(variable).env("PACKVAULT_CONFIG", &config);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?} {variable:?}: {}", stderr(&output));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "passphrase (passphrase) opens the repository\n");
    };
    test(&["--repo", "./repo", "--passphrase-command", "cat 'secret'"], None);
    test(&["--repo", "./repo"], Some(("PACKVAULT_PASSPHRASE", PASSPHRASE)));
    test(&["--repo", "./repo"], Some(("PACKVAULT_PASSPHRASE_FILE", "secret")));
    test(&["--repo", "./repo"], Some(("PACKVAULT_PASSPHRASE_COMMAND", "cat secret")));
    test(&["--repo", "r"], None);
    // A flag counts more than a variable, and that more than the configuration.
    test(&["--repo", "./repo", "--passphrase-file", "secret"], Some(("PACKVAULT_PASSPHRASE", "wrong")));
    let mut command = home.command(&["key", "test", "--repo", "r"]);
    command.env("PACKVAULT_CONFIG", &config).env("PACKVAULT_PASSPHRASE", "wrong");
    assert_eq!(command.output().unwrap().status.code(), Some(12));
}

#[test]
fn ways_in_come_and_go_each_by_itself() {
    let home = Home::new();
    let snapshot = home.create("./repo");
    home.done(&["key", "add", "laptop", "--recipient", &identity("ed25519.pub"), "--repo", "./repo"]);
    home.done(&["key", "add", "old", "--recipient", &identity("rsa.pub"), "--repo", "./repo"]);
    fs::write(home.path("new"), PASSPHRASE).unwrap();
    home.done(&["key", "add", "hut", "--new-passphrase-file", "new", "--repo", "./repo"]);
    let said = home.ends(1, &["key", "add", "hut", "--generate", "--repo", "./repo"]);
    assert!(said.contains("a key called hut is there already"), "{said}");
    for (secret, way) in [
        (["--identity", &identity("ed25519")], "laptop (ssh-ed25519)"),
        (["--identity", &identity("rsa")], "old (ssh-rsa)"),
        (["--passphrase-file", "new"], "hut (passphrase)"),
    ] {
        let said = home.done(&["key", "test", "--repo", "./repo", secret[0], secret[1]]);
        assert_eq!(said, format!("{way} opens the repository\n"));
        let listed = home.done(&["list", "--repo", "./repo", "--json", secret[0], secret[1]]);
        assert!(listed.contains(&snapshot));
    }
    // What opens it must be another way in than the one that goes.
    home.ends(12, &["key", "remove", "x25519", "--repo", "./repo"]);
    home.done(&["key", "remove", "x25519", "--repo", "./repo", "--identity", &identity("ed25519")]);
    home.ends(12, &["list", "--repo", "./repo"]);
    home.done(&["key", "remove", "old", "--repo", "./repo", "--identity", &identity("ed25519")]);
    home.done(&["key", "remove", "hut", "--repo", "./repo", "--identity", &identity("ed25519")]);
    let said =
        home.ends(12, &["key", "remove", "laptop", "--repo", "./repo", "--identity", &identity("ed25519")]);
    assert!(said.contains("only its recovery key"), "{said}");
    home.done(&["list", "--repo", "./repo", "--identity", &identity("ed25519")]);
}

#[test]
fn a_passphrase_is_changed_and_one_that_is_made_by_chance_is_shown() {
    let home = Home::new();
    let made = home.done(&["key", "add", "safe", "--generate", "--repo", "./repo", "--json"]);
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    let first = made["passphrase"].as_str().unwrap().to_owned();
    fs::write(home.path("first"), &first).unwrap();
    home.done(&["key", "test", "--repo", "./repo", "--passphrase-file", "first"]);
    let said = home.done(&[
        "key",
        "change",
        "safe",
        "--generate",
        "--repo",
        "./repo",
        "--passphrase-file",
        "first",
        "-q",
    ]);
    assert!(said.contains("passphrase   ") && !said.contains(&first), "it is shown even with -q: {said}");
    home.ends(12, &["list", "--repo", "./repo", "--passphrase-file", "first"]);
    home.done(&["key", "test", "--repo", "./repo"]);
}

#[test]
fn the_page_leads_back_in_when_every_key_file_is_lost() {
    let mut home = Home::new();
    let snapshot = home.create("./repo");
    let page = home.done(&["key", "export", "--repo", "./repo"]);
    fs::write(home.path("page.txt"), &page).unwrap();
    assert!(page.contains('\u{2588}'), "with a QR code");
    assert!(!home.done(&["key", "export", "--no-qr", "--repo", "./repo"]).contains('\u{2588}'));
    fs::remove_dir_all(home.path("repo/keys")).unwrap();
    home.has_identity = false;
    home.ends(12, &["list", "--repo", "./repo"]);
    let listed = home.done(&["list", "--json", "--repo", "./repo", "--identity", "page.txt"]);
    assert!(listed.contains(&snapshot));
    home.done(&["restore", "--repo", "./repo", "--identity", "page.txt", "--target", "out"]);
    let restored = Connection::open(home.path("out/app.db")).unwrap();
    let rows: i64 = restored.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 2);
    home.done(&[
        "key",
        "add",
        "new",
        "--recipient",
        &identity("ed25519.pub"),
        "--repo",
        "./repo",
        "--identity",
        "page.txt",
    ]);
    home.done(&["list", "--repo", "./repo", "--identity", &identity("ed25519")]);
    // One wrong digit is seen, and the line is named.
    let line = page.lines().find(|line| line.starts_with("2  ")).unwrap();
    let mut wrong = line.to_owned();
    let digit = if &line[3..4] == "0" { "1" } else { "0" };
    wrong.replace_range(3..4, digit);
    fs::write(home.path("typed.txt"), page.replace(line, &wrong)).unwrap();
    let said = home.ends(2, &["list", "--repo", "./repo", "--identity", "typed.txt"]);
    assert!(said.contains("line 2 of the key"), "{said}");
}

#[test]
fn a_key_that_is_named_for_a_plain_repository_is_an_error_unless_it_stands_there_for_all() {
    let mut home = Home::bare();
    home.has_identity = false;
    fs::write(home.path("secret"), PASSPHRASE).unwrap();
    let said = home.done(&["init", "--repo", "./repo"]);
    assert!(said.contains("encrypted    no: only you should be able to read it"), "{said}");
    let said = home.ends(13, &["list", "--repo", "./repo", "--passphrase-file", "secret"]);
    assert!(said.contains("is not encrypted, and a flag names a key for it"), "{said}");
    let with = |arguments: &[&str], variables: &[(&str, &str)]| {
        let output = home.command(arguments).envs(variables.iter().copied()).output().unwrap();
        (output.status.code(), stderr(&output))
    };
    let passphrase = ("PACKVAULT_PASSPHRASE", PASSPHRASE);
    let (code, said) = with(&["list", "--repo", "./repo"], &[passphrase]);
    assert_eq!(code, Some(0));
    assert!(said.contains("warning: the repository at") && said.contains("is not used"), "{said}");
    // Variables that came together belong together.
    assert_eq!(with(&["list"], &[passphrase, ("PACKVAULT_REPO", "./repo")]).0, Some(13));
    home.ends(2, &["key", "list", "--repo", "./repo"]);
    // An identity that stands there for all decides nothing of a new repository.
    home.done(&["init", "--repo", "./c"]);
    home.ends(2, &["init", "--repo", "./d", "--identity", &identity("age.txt")]);
    let config = home.path("c.toml");
    fs::write(&config, "encryption = 'required'").unwrap();
    let (code, said) = with(&["list", "--repo", "./repo"], &[("PACKVAULT_CONFIG", config.to_str().unwrap())]);
    assert!(code == Some(13) && said.contains("`encryption = \"required\"`"), "{said}");
    let (code, _) =
        with(&["init", "--repo", "./b", "--plaintext"], &[("PACKVAULT_CONFIG", config.to_str().unwrap())]);
    assert_eq!(code, Some(2));
}

#[test]
fn whoever_says_where_the_passphrase_is_gets_an_encrypted_repository() {
    let mut home = Home::bare();
    home.has_identity = false;
    fs::write(home.path("secret"), PASSPHRASE).unwrap();
    home.done(&["init", "--repo", "./repo", "--passphrase-file", "secret"]);
    assert!(fs::read_to_string(home.path("repo/config.toml")).unwrap().contains("xchacha20poly1305"));
    home.ends(2, &["init", "--repo", "./b", "--plaintext", "--passphrase-file", "secret"]);
    home.ends(2, &["init", "--repo", "./b", "--generate"]);
    let said = home.ends(2, &["init", "--repo", "./b", "--encrypt"]);
    assert!(said.contains("there is no terminal to ask for one"), "{said}");
    assert!(!home.path("b").exists(), "nothing was made");
}

#[test]
fn an_init_does_not_take_away_the_keys_of_a_repository_that_lost_its_configuration() {
    let home = Home::new();
    home.create("./repo");
    let key = fs::read(home.path("repo/keys/x25519.age")).unwrap();
    let config = fs::read(home.path("repo/config.toml")).unwrap();
    fs::remove_file(home.path("repo/config.toml")).unwrap();
    let said = home.ends(1, &["init", "--repo", "./repo", "--encrypt", "--recipient", &identity("age.pub")]);
    assert!(said.contains("and its config.toml is missing"), "{said}");
    assert_eq!(fs::read(home.path("repo/keys/x25519.age")).unwrap(), key);
    fs::write(home.path("repo/config.toml"), config).unwrap();
    home.done(&["list", "--repo", "./repo"]);
    // What an init that died has left is nobody's.
    let home = Home::new();
    fs::remove_file(home.path("repo/config.toml")).unwrap();
    home.done(&["init", "--repo", "./repo", "--encrypt", "--recipient", &identity("age.pub")]);
    home.create("./repo");
}

#[test]
fn secrets_need_no_permission_in_an_encrypted_repository() {
    let home = Home::new();
    fs::create_dir(home.path("mail")).unwrap();
    packvault_sample::make(&home.path("mail"), &crate::support::archives::tiny()).unwrap();
    home.done(&["create", "mail", "--repo", "./repo", "--include-config", "--include-tokens"]);
    home.done(&["init", "--repo", "./plain", "--plaintext"]);
    let said = home.ends(2, &["create", "mail", "--repo", "./plain", "--include-tokens"]);
    assert!(said.contains("--allow-plaintext-secrets"), "{said}");
}

/// Runs the command on a terminal of its own, with somebody who answers each question once it is there.
fn on_a_terminal(command: &Command, answers: &[(&str, &str)]) -> (Option<i32>, String) {
    let quoted = |word: &OsStr| format!("'{}'", word.to_str().unwrap());
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(quoted);
    let mut script = Command::new("/usr/bin/script");
    script
        .args(["-qec", &words.collect::<Vec<_>>().join(" "), "/dev/null"])
        .env_clear()
        .env("SHELL", "/bin/sh");
    script.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    script.current_dir(command.get_current_dir().unwrap()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = script.spawn().expect("this test needs `script` of util-linux");
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (mut said, mut heard, mut piece) = (Vec::new(), 0, [0; 4096]);
    for (question, answer) in answers {
        // What is typed before a question is thrown away.
        while !String::from_utf8_lossy(&said[heard..]).contains(question) {
            match output.read(&mut piece).unwrap() {
                0 => panic!("{question:?} was never asked: {}", String::from_utf8_lossy(&said)),
                read => said.extend(&piece[..read]),
            }
        }
        heard = said.len();
        writeln!(input, "{answer}").unwrap();
    }
    output.read_to_end(&mut said).unwrap();
    let status = child.wait().unwrap();
    (status.code(), String::from_utf8_lossy(&said).into_owned())
}

const NEW: &str = "a passphrase for the new repository: ";
const AGAIN: &str = "the same again: ";

#[test]
fn on_a_terminal_a_passphrase_is_asked_for_and_never_shown() {
    let mut home = Home::bare();
    home.has_identity = false;
    let init = home.command(&["init", "--repo", "./repo", "--encrypt"]);
    let (code, said) = on_a_terminal(&init, &[(NEW, "wombats"), (AGAIN, "wombats")]);
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("wombats"), "{said}");
    let list = home.command(&["list", "--repo", "./repo"]);
    let question = "passphrase of the repository at ./repo: ";
    let (code, said) = on_a_terminal(&list, &[(question, "bats"), (question, "wombats")]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("does not open") && !said.contains("wombats"), "{said}");
    let init = home.command(&["init", "--repo", "./b", "--encrypt"]);
    let (code, said) = on_a_terminal(&init, &[(NEW, "one"), (AGAIN, "other")]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("differ") && !home.path("b/config.toml").exists(), "{said}");
}

#[test]
fn on_a_terminal_whoever_makes_a_repository_on_a_server_decides_what_it_is_to_be() {
    const QUESTION: &str = "Make it [e]ncrypted, [p]lain, or [s]top? ";
    let mut home = Home::bare();
    home.has_identity = false;
    // Nobody is there, and nobody is needed to stop.
    for answer in ["s", "", "what?"] {
        let init = home.command(&["init", "--repo", "sftp://127.0.0.1:1/nowhere"]);
        let (code, said) = on_a_terminal(&init, &[(QUESTION, answer)]);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("stopped; nothing was made"), "{said}");
    }
    for (answers, is_encrypted) in
        [(&[(QUESTION, "e"), (NEW, "wombats"), (AGAIN, "wombats")][..], true), (&[(QUESTION, "P")], false)]
    {
        let Some(place) = Place::fresh(Backend::Openssh) else { return };
        let (code, said) = on_a_terminal(&place.packvault(&["init"]), answers);
        assert_eq!(code, Some(0), "{said}");
        assert!(!said.contains("wombats") && !said.contains("Nobody said"), "{said}");
        let config = String::from_utf8(place.raw().read("config.toml")).unwrap();
        assert_eq!(config.contains("xchacha20poly1305"), is_encrypted, "{config}");
        // Whoever has said it beforehand is not asked.
        let place = Place::fresh(Backend::Openssh).unwrap();
        let (code, said) = on_a_terminal(&place.packvault(&["init", "--plaintext"]), &[]);
        assert_eq!(code, Some(0), "{said}");
        assert!(!said.contains(QUESTION), "{said}");
    }
}
