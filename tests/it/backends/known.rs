//! What is asked of a server, what is remembered of it, and what is told to nobody.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use packvault_test_servers::Minio;
use serde_json::Value;

use crate::support::backends::{Backend, Place};
use crate::support::memory_repo::Archive;
use crate::support::{names, stderr};

/// What each server is known to promise: create-only, the same for large objects, renames, confirmed syncs.
/// Of a user's own server nothing is known beforehand, nor of an image that stands in for MinIO.
fn expected(backend: Backend) -> Option<[bool; 4]> {
    match backend {
        Backend::Memory | Backend::Local | Backend::OwnS3 | Backend::OwnSftp => None,
        // It ignores the condition where an upload in parts ends, before release 20.
        Backend::Rgw => Some([true, false, false, true]),
        Backend::Minio if Minio::is_replaced() => None,
        Backend::Minio | Backend::Moto => Some([true, true, false, true]),
        Backend::RcloneS3 => Some([false, false, false, true]),
        Backend::Openssh | Backend::OpensshContainer => Some([true, true, true, true]),
        // It syncs files, not folders.
        Backend::Proftpd => Some([true, true, true, false]),
        // A claim decides who may publish.
        Backend::PlainProftpd => Some([true, true, false, false]),
        Backend::RcloneSftp => Some([false, false, false, false]),
    }
}

pub fn a_server_is_asked_once_and_its_answers_are_remembered(place: &Place) {
    let location = place.location();
    let said = place.run(&["init"]);
    assert_eq!(said.status.code(), Some(0), "{}", stderr(&said));
    let said = String::from_utf8(said.stdout).unwrap();
    if place.backend == Backend::Local {
        assert!(!said.contains("locks"), "{said}");
        let output = place.run(&["probe"]);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains("there is no server to ask"), "{}", stderr(&output));
        return;
    }
    let exclusion = if place.backend.has_renames() {
        "the format's lock files, claimed by a rename"
    } else {
        "locks under unique names, found by listing"
    };
    assert!(said.contains(exclusion), "{said}");
    let memory = remembered(place);
    let first = fs::read(&memory).unwrap();

    let archive = Archive::small();
    place.json(&["create", archive.home().to_str().unwrap()]);
    assert_eq!(fs::read(&memory).unwrap(), first, "the server was asked again");

    let report = place.json(&["probe"]);
    println!("{location}\n{report:#}");
    println!("{}", String::from_utf8(place.run(&["probe"]).stdout).unwrap());
    assert_eq!(report["exclusion"], exclusion);
    let promises = ["create_only", "create_only_streamed", "rename", "sync"];
    if let Some(expected) = expected(place.backend) {
        assert_eq!(promises.map(|promise| report[promise] == true), expected, "{report:#}");
    }
    assert_ne!(fs::read(&memory).unwrap(), first, "a probe asks anew");

    for damaged in ["{", "", "{\"version\":1}"] {
        fs::write(&memory, damaged).unwrap();
        place.json(&["verify", "--all"]);
        let found: Value = serde_json::from_slice(&fs::read(&memory).unwrap()).unwrap();
        assert!(found["features"].is_object(), "a damaged memory is replaced: {found}");
    }
    place.raw().assert_no_remains();
}

/// Returns the one file in which answers are remembered.
fn remembered(place: &Place) -> PathBuf {
    let folder = place.scratch.path(".cache/packvault/servers");
    let [name] = &names(&folder)[..] else { panic!("one server is remembered: {:?}", names(&folder)) };
    folder.join(name)
}

pub fn secrets_stay_where_they_are(place: &Place) {
    // Each run looks at what it has printed.
    place.json(&["init"]);
    let archive = Archive::small();
    let home = archive.home();
    let arguments = ["create", home.to_str().unwrap(), "--limit-upload", "100KiB", "--progress", "json"];
    let mut command = place.packvault(&arguments);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut seen = BTreeSet::new();
    while child.try_wait().unwrap().is_none() {
        seen.extend(command_lines(child.id()));
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    place.assert_silent_about_secrets(&output);
    assert!(seen.iter().any(|line| line.contains("packvault")), "{seen:?}");
    let secrets = place.secrets();
    let is_silent = |text: &str| !secrets.iter().any(|secret| text.contains(secret));
    assert!(seen.iter().all(|line| is_silent(line)), "{seen:?}");
    let output = place.run(&["list", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(!place.raw().names("snapshots").is_empty());
    for file in files_of(&place.scratch.path(".cache")) {
        assert!(is_silent(&String::from_utf8_lossy(&fs::read(&file).unwrap())), "{}", file.display());
    }
    if place.s3().is_some() {
        // A wrong secret is not repeated either.
        let mut command = place.packvault(&["list"]);
        let output = command.env("AWS_SECRET_ACCESS_KEY", "a-wrong-one-entirely").output().unwrap();
        assert!(!stderr(&output).contains("a-wrong-one"), "{}", stderr(&output));
    }
}

/// Everything that can be logged is, by every command.
pub fn the_log_of_every_command_holds_no_secret(place: &Place) {
    let archive = Archive::small();
    let home = archive.home();
    let commands: [&[&str]; 7] = [
        &["init"],
        &["create", home.to_str().unwrap()],
        &["list"],
        &["verify", "--all"],
        &["restore", "--target", "restored"],
        &["unlock"],
        &["probe"],
    ];
    for (number, command) in commands.into_iter().enumerate() {
        let format = if number % 2 == 0 { "text" } else { "json" };
        let mut program = place.packvault(&[command, &["--log-format", format]].concat());
        let output = program.env("PACKVAULT_LOG", "trace").output().unwrap();
        place.assert_silent_about_secrets(&output);
        let said = stderr(&output);
        if command != ["probe"] {
            assert_eq!(output.status.code(), Some(0), "{command:?}: {said}");
            assert!(said.contains("packvault::request"), "{command:?}: {said}");
        }
        let signed = ["Authorization", "X-Amz-", "x-amz-", "AWS4-HMAC"];
        assert!(!signed.iter().any(|word| said.contains(word)), "{command:?}: {said}");
    }
}

/// Returns the command lines of the process and of those that descend from it.
fn command_lines(process: u32) -> Vec<String> {
    let mut family = BTreeSet::from([process]);
    let mut lines = Vec::new();
    let processes = || fs::read_dir("/proc").unwrap().flatten();
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    // Children have higher numbers, but for the rare wrap.
    let mut numbers: Vec<u32> = processes().filter_map(number).collect();
    numbers.sort_unstable();
    for number in numbers {
        // A process may end while it is looked at.
        let stat = fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        if number == process || parent.is_some_and(|parent| family.contains(&parent)) {
            family.insert(number);
            let line = fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
            lines.push(String::from_utf8_lossy(&line).replace('\0', " "));
        }
    }
    lines
}

fn files_of(folder: &Path) -> Vec<PathBuf> {
    names(folder).into_iter().map(|name| folder.join(name)).collect()
}
