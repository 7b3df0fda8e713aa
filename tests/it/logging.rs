//! The danger: something went wrong at night and nothing tells why; or the log that should tell holds a password,
//! is read by everybody, obeys a name from a hostile repository, or stops the backup.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use rusqlite::Connection;
use serde_json::Value;

use crate::support::{Scratch, mode, stderr};

/// What no log may hold.
const SECRET: &str = "hunter2";

/// A folder with an application's database and a file beside it, and a repository.
fn scene() -> Scratch {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("app")).unwrap();
    let database = Connection::open(scratch.path("app/app.db")).unwrap();
    database.execute_batch("CREATE TABLE things (name TEXT); INSERT INTO things VALUES ('x');").unwrap();
    fs::write(scratch.path("app/note.txt"), "a note").unwrap();
    assert_eq!(scratch.run(&["init", "--repo", "./repo"]).status.code(), Some(0));
    scratch
}

const CREATE: [&str; 6] = ["create", "--repo", "./repo", "--database", "app/app.db", "--files=*.txt"];

fn run_logged(scratch: &Scratch, filter: &str, arguments: &[&str]) -> Output {
    scratch.packvault(arguments).env("PACKVAULT_LOG", filter).output().unwrap()
}

/// Returns the events of a log of JSON lines.
fn events(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

fn messages(events: &[Value], target: &str) -> Vec<String> {
    let of_target = events.iter().filter(|event| event["target"] == target);
    of_target.map(|event| event["fields"]["message"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn without_being_asked_the_program_says_what_it_always_said() {
    let scratch = scene();
    for arguments in [&CREATE[..], &["list", "--repo", "./repo"], &["verify", "--repo", "./repo"]] {
        // An empty variable counts as unset.
        for output in [scratch.run(arguments), run_logged(&scratch, "", arguments)] {
            assert_eq!(output.status.code(), Some(0));
            let said = stderr(&output);
            assert!(!said.contains("packvault::") && !said.contains("INFO"), "{said}");
        }
    }
}

#[test]
fn a_log_tells_operations_stages_requests_locks_decisions_and_the_steps_of_a_restore() {
    let scratch = scene();
    let log = scratch.path("log.json");
    let logged = |arguments: &[&str]| {
        let _ = fs::remove_file(&log);
        let output = scratch.run(&[arguments, &["--log-file", "log.json", "--log-format=json"]].concat());
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
        events(&log)
    };
    for (arguments, operation, stages) in [
        (&CREATE[..], "create", &["freeze", "scan", "extras", "seal"][..]),
        (&["verify", "--repo", "./repo"], "verify", &["structure", "blobs"]),
        (
            &["restore", "--repo", "./repo", "--target", "out"],
            "restore",
            &["database", "extras", "proof", "publish"],
        ),
        (&["list", "--repo", "./repo"], "list", &[]),
        (&["unlock", "--repo", "./repo"], "unlock", &[]),
        (&["init", "--repo", "./other"], "init", &[]),
    ] {
        let events = logged(arguments);
        assert_eq!(messages(&events, "packvault::operation"), ["begins", "is done"], "{operation}");
        let within = |event: &&Value| event["spans"][0]["name"] == operation;
        assert!(events.iter().filter(within).count() > 2, "{operation}");
        for stage in stages {
            let of_stage = events.iter().filter(|event| event["span"]["stage"] == *stage);
            let said: Vec<&Value> = of_stage.map(|event| &event["fields"]["message"]).collect();
            assert!(
                said.len() >= 2 && said[0] == "begins" && *said[said.len() - 1] == "ends",
                "{stage}: {said:?}"
            );
        }
        let requests: Vec<&Value> =
            events.iter().filter(|event| event["target"] == "packvault::request").collect();
        assert!(!requests.is_empty(), "{operation}");
        for request in requests {
            for field in ["verb", "key", "milliseconds", "attempt", "outcome"] {
                assert!(!request["fields"][field].is_null(), "{field}: {request}");
            }
        }
        if ["create", "verify", "restore"].contains(&operation) {
            let told = messages(&events, "packvault::lock");
            assert!(told.iter().any(|said| said == "is held"), "{told:?}");
            assert_eq!(told.last().unwrap(), "is given back");
        }
        let decided = messages(&events, "packvault::decision");
        let steps = messages(&events, "packvault::restore");
        match operation {
            "create" => {
                assert!(decided.iter().any(|said| said == "there is no snapshot to build on"), "{decided:?}");
                assert!(decided.iter().any(|said| said == "the page map is a keyframe"), "{decided:?}");
            }
            "restore" => {
                assert_eq!(steps.first().unwrap(), "the journal is written");
                assert!(steps.iter().any(|said| said == "a step is taken"), "{steps:?}");
                assert_eq!(steps.last().unwrap(), "all is in place");
            }
            _ => {}
        }
    }
    let decided = messages(&logged(&CREATE), "packvault::decision");
    assert!(decided.iter().any(|said| said == "the newest snapshot is built on"), "{decided:?}");
}

#[test]
fn v_says_what_is_decided_vv_what_is_asked_of_the_storage_and_a_filter_what_it_names() {
    let scratch = scene();
    let said = |flags: &[&str]| stderr(&scratch.run(&[&CREATE[..], flags].concat()));
    let (one, two) = (said(&["-v"]), said(&["-vv"]));
    assert!(one.contains("packvault::decision") && !one.contains("packvault::request"), "{one}");
    assert!(two.contains("packvault::decision") && two.contains("packvault::request"), "{two}");
    assert!(!said(&["-q", "-v"]).contains("scan: "), "quiet has no progress");
    let filtered = stderr(&run_logged(&scratch, "packvault::lock=debug", &CREATE));
    assert!(filtered.contains("packvault::lock") && !filtered.contains("packvault::stage"), "{filtered}");
    let output = run_logged(&scratch, "packvault=loud", &CREATE);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("PACKVAULT_LOG is no filter"), "{}", stderr(&output));
}

#[test]
fn a_log_file_is_its_owners_grows_and_is_no_link_and_no_pipe() {
    let scratch = scene();
    let list = ["list", "--repo", "./repo", "--quiet", "--log-file"];
    let logged = |name: &str| scratch.run(&[&list[..], &[name]].concat());
    let output = logged("log");
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
    assert_eq!(mode(&scratch.path("log")), 0o600);
    let first = fs::read_to_string(scratch.path("log")).unwrap();
    assert!(first.contains("packvault::request"), "{first}");
    logged("log");
    let both = fs::read_to_string(scratch.path("log")).unwrap();
    assert!(both.starts_with(&first) && both.len() > first.len());
    symlink("log", scratch.path("link")).unwrap();
    symlink("nothing", scratch.path("dangling")).unwrap();
    assert!(Command::new("mkfifo").arg(scratch.path("pipe")).status().unwrap().success());
    for (name, why) in [
        ("link", "is a link"),
        ("dangling", "is a link"),
        ("pipe", "is no file"),
        ("app", "is a folder"),
        ("~/log", "did you mean"),
    ] {
        let output = logged(name);
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert!(stderr(&output).contains(why), "{name}: {}", stderr(&output));
    }
    assert_eq!(fs::read_to_string(scratch.path("log")).unwrap(), both);
    assert!(!scratch.path("nothing").exists());
}

#[test]
fn a_log_that_cannot_be_written_stops_no_backup_and_is_told() {
    let scratch = scene();
    let output = scratch.run(&[&CREATE[..], &["--log-file", "/dev/full"]].concat());
    assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("the log in /dev/full is not complete: No space left"),
        "{}",
        stderr(&output)
    );
    assert_eq!(scratch.json(&["list", "--repo", "./repo"]).as_array().unwrap().len(), 1);
}

#[test]
fn a_name_in_the_log_is_not_obeyed_by_a_terminal_and_makes_no_line_of_its_own() {
    let scratch = scene();
    let forged = "\u{1b}[31m\n2026-01-01T00:00:00Z  INFO forged\u{9b}\u{202e}";
    fs::write(scratch.path(&format!("app/a{forged}.txt")), "x").unwrap();
    assert_eq!(scratch.run(&CREATE).status.code(), Some(0));
    for format in ["text", "json"] {
        let target = format!("{format}{forged}");
        let restore = ["restore", "--repo", "./repo", "--target", &target, "--quiet", "--log-format", format];
        let output = run_logged(&scratch, "trace", &restore);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let said = stderr(&output);
        assert!(said.contains("forged"), "{said}");
        assert!(!said.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{said:?}");
        assert!(!said.lines().any(|line| line.starts_with("2026-01-01T")), "{said:?}");
        if format == "json" {
            let steps = said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            let mut paths = steps.filter_map(|step| Some(step["fields"]["path"].as_str()?.to_owned()));
            assert!(
                paths.any(|path| path == format!("a{forged}.txt")),
                "what is escaped is the same name: {said}"
            );
        }
    }
}

#[test]
fn no_log_holds_a_secret_whatever_is_done() {
    let scratch = scene();
    let hooks = format!("before = ['sh', '-c', ': {SECRET}']\nafter = ['sh', '-c', ': {SECRET}']");
    let keys = format!(
        "access_key_id = 'AKIA{SECRET}'\nsecret_access_key = {{ env = 'KEY' }}\nsession_token = {{ command = ['echo', '{SECRET}'] }}"
    );
    let config = format!(
        "[archive.app]\nprofile = 'sqlite'\nhome = '{0}/app'\ndatabase = 'app.db'\nfiles = ['*.txt']\n{hooks}\n\
         [repository.local]\nlocation = '{0}/repo'\n\
         [repository.far]\nlocation = 's3://bucket/mail'\nendpoint = 'http://127.0.0.1:9'\nallow_http = true\n\
         timeout_seconds = 1\nproxy = 'http://ann:{SECRET}@127.0.0.1:9'\n{keys}\n\
         [repository.chain]\nlocation = 's3://bucket/mail?endpoint=http://127.0.0.1:9&allow_http=true'\ntimeout_seconds = 1\n\
         [repository.ssh]\nlocation = 'sftp://ann@127.0.0.1:9/mail'\ntimeout_seconds = 1\n\
         ssh_options = ['-o', 'SetEnv=TOKEN={SECRET}', '-o', 'BatchMode=yes']\n",
        scratch.path("").display().to_string().trim_end_matches('/')
    );
    fs::write(scratch.path("c.toml"), config).unwrap();
    let commands: [&[&str]; 7] = [
        &["init"],
        &["create", "app"],
        &["list"],
        &["verify", "--all"],
        &["restore", "--target", "out"],
        &["unlock"],
        &["probe"],
    ];
    let endpoint = format!("s3://b?endpoint=https://ann:{SECRET}@127.0.0.1:9");
    let signed = format!("s3://b?endpoint=https://127.0.0.1:9/?X-Amz-Signature={SECRET}");
    let places = ["local", "far", "chain", "ssh", &endpoint, &signed];
    let told: BTreeSet<String> = std::thread::scope(|scope| {
        let tries = places.iter().enumerate().map(|(number, place)| {
            // Whatever is refused or does not answer is the same for every command.
            let commands = if number < 2 { &commands[..] } else { &commands[1..3] };
            let scratch = &scratch;
            scope.spawn(move || targets_of(scratch, number, place, commands))
        });
        let tries: Vec<_> = tries.collect();
        tries.into_iter().flat_map(|tried| tried.join().unwrap()).collect()
    });
    for target in ["operation", "stage", "request", "lock", "decision", "restore", "storage", "retry", "hook"]
    {
        assert!(told.contains(&format!("packvault::{target}")), "{target} was not tried: {told:?}");
    }
}

/// Runs the commands with every secret at hand, checks that none is told, and returns what the log was about.
fn targets_of(scratch: &Scratch, number: usize, place: &str, commands: &[&[&str]]) -> BTreeSet<String> {
    let mut told = BTreeSet::new();
    for command in commands {
        let file = format!("{number}.log");
        let mut program = scratch.packvault(&[*command, &["--repo", place, "--log-file", &file]].concat());
        program.env("PACKVAULT_CONFIG", scratch.path("c.toml")).env("PATH", "/usr/bin:/bin");
        program.env("PACKVAULT_LOG", "trace").env("KEY", SECRET);
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PASSPHRASE"] {
            program.env(name, format!("{SECRET}{name}"));
        }
        for name in ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"] {
            program.env(name, format!("http://ann:{SECRET}@127.0.0.1:9"));
        }
        let output = program.output().unwrap();
        let log = fs::read_to_string(scratch.path(&file)).unwrap();
        for text in [&log, &stderr(&output), &String::from_utf8_lossy(&output.stdout).into_owned()] {
            assert!(!text.contains(SECRET), "{place} {command:?}: {text}");
        }
        for event in log.lines() {
            let target =
                event.split(' ').find_map(|word| word.strip_suffix(':').filter(|word| word.contains("::")));
            let target = target.unwrap_or_else(|| panic!("{event}"));
            assert!(target.starts_with("packvault::"), "{event}");
            told.insert(target.to_owned());
        }
    }
    told
}
