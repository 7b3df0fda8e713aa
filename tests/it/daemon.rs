//! The danger: a backup is taken of an archive while its daemon writes to it, and is torn; or the daemon is
//! left paused, or its key is handed to a stranger, because something went wrong on the way.
//!
//! The daemon is a stand-in that speaks msgvault's protocol, not msgvault itself.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use rusqlite::{Connection, OpenFlags};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::operations::{assert_sound, init};
use crate::support::standin_daemon::{KEY, Options, SUM, Standin, make_home};
use crate::support::{Scratch, assert_no_remains, snapshot_files, stderr};

/// The stand-in's own process; does nothing unless a test has started it as one.
#[test]
fn standin_daemon_process() {
    crate::support::standin_daemon::run_if_asked();
}

/// An archive and a repository for it.
struct Place {
    scratch: Scratch,
    home: PathBuf,
    repository: PathBuf,
}

impl Place {
    fn new() -> Self {
        let scratch = Scratch::new();
        let (home, repository) = (scratch.path("home"), init(&scratch.path("repository")));
        make_home(&home);
        Self { scratch, home, repository }
    }

    fn arguments<'a>(&'a self, command: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let mut arguments = vec![command, "--repo", self.repository.to_str().unwrap(), "--progress", "plain"];
        arguments.extend(more);
        arguments
    }

    fn create(&self, more: &[&str]) -> Output {
        let mut arguments = self.arguments("create", more);
        arguments.push(self.home.to_str().unwrap());
        checked(self.scratch.packvault(&arguments).output().unwrap())
    }

    /// Starts a create and does not wait for it.
    fn creating(&self) -> Child {
        let mut arguments = self.arguments("create", &[]);
        arguments.push(self.home.to_str().unwrap());
        let mut command = self.scratch.packvault(&arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn restore(&self, target: &Path) -> Output {
        let more = ["--overwrite", "--target", target.to_str().unwrap()];
        checked(self.scratch.packvault(&self.arguments("restore", &more)).output().unwrap())
    }

    /// Restores the newest snapshot and sees that it is one moment of the archive.
    fn assert_restores(&self) {
        let target = self.scratch.path("restored");
        assert_code(&self.restore(&target), 0);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let database = Connection::open_with_flags(target.join("msgvault.db"), flags).unwrap();
        let one = |query: &str| database.query_row(query, [], |row| row.get::<_, rusqlite::types::Value>(0));
        assert_eq!(one("SELECT sum(balance) FROM accounts").unwrap(), SUM.into());
        assert_eq!(one("PRAGMA integrity_check").unwrap(), "ok".to_owned().into());
        drop(database);
        std::fs::remove_dir_all(target).unwrap();
    }

    fn assert_no_snapshot(&self) {
        assert_eq!(snapshot_files(&self.repository), Vec::<String>::new());
        assert_no_remains(&self.repository);
    }
}

/// Whatever the program was asked and however it went: the key is not for the eyes of anybody.
fn checked(output: Output) -> Output {
    for stream in [&output.stdout, &output.stderr] {
        let text = String::from_utf8_lossy(stream);
        assert!(!text.contains(KEY) && !text.contains("t0ken"), "{text}");
    }
    output
}

fn assert_code(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}", stderr(output));
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Holds the window open: a reader in the WAL keeps it from being emptied.
fn hold_the_wal(home: &Path) -> Connection {
    let reader = Connection::open(home.join("msgvault.db")).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM accounts").unwrap();
    reader
}

#[test]
fn every_capture_of_a_busy_archive_is_one_moment_of_it() {
    let place = Place::new();
    let standin = Standin::start(&place.home);
    let captures: u64 = std::env::var("PACKVAULT_TEST_CAPTURES").map_or(10, |text| text.parse().unwrap());
    for _ in 0..captures {
        standin.assert_writes();
        assert_code(&place.create(&[]), 0);
        place.assert_restores();
    }
    let state = standin.state();
    assert_eq!((&state["begun"], &state["ended"]), (&captures.into(), &captures.into()), "{state}");
    assert_eq!((&state["watchdog_fired"], &state["keys_astray"]), (&0.into(), &0.into()), "{state}");
    assert!(state["longest_wait_milliseconds"].as_u64().unwrap() < 60_000, "{state}");
    if captures > 10 {
        eprintln!("{captures} captures: {state}");
    }
    assert_sound(&place.repository);
}

/// Where the stand-in fails, what the program says, and what it exits with.
const FAILURES: [(&str, &str, i32); 21] = [
    ("begin_unauthorized", "msgvault refuses the API key of its own configuration", 1),
    ("begin_not_same_host", "does not take packvault for a program on its own machine", 1),
    ("begin_active", "another backup of the archive is being taken", 11),
    ("begin_shutting_down", "msgvault is shutting down", 11),
    ("begin_broken", "asked to pause, answers with status 500", 1),
    ("begin_without_token", "named no token", 1),
    ("begin_hangs_up", "goes on by itself within 60 s", 1),
    ("redirect_begin", "answers with a redirect (307), which is not followed", 1),
    ("die_in_window", "cannot tell msgvault to go on", 1),
    ("end_token_refused", "msgvault did not pause for long enough", 1),
    ("end_invalid", "does not understand how it is told to go on", 1),
    ("end_broken", "cannot tell msgvault to go on", 1),
    ("wrong_proof", "is not the archive's daemon: its proof is wrong", 1),
    ("cannot_prove", "and its record does not name the moment at which its process started", 1),
    ("no_token", "and its record does not name the moment at which its process started", 1),
    ("redirect_identity", "answers with a redirect (307), which is not followed", 1),
    ("slow_drip", "msgvault does not answer", 1),
    ("silent", "msgvault does not answer", 1),
    ("huge_body", "msgvault does not answer", 1),
    ("wrong_pid", "process 1 answers in its place", 1),
    ("other_api", "it speaks version \"2\" of its protocol, packvault version 1", 1),
];

#[test]
fn every_failure_of_the_daemon_says_what_it_is_and_leaves_no_snapshot() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let port = elsewhere.local_addr().unwrap().port();
    let place = Place::new();
    for (fail, message, code) in FAILURES {
        let (home, fail_here) = (place.home.clone(), fail.to_owned());
        let standin = Standin::with(Options { home, fail: fail_here, port, watchdog_milliseconds: 60_000 });
        let output = place.create(&[]);
        let text = stderr(&output);
        assert!(text.contains(message), "{fail}: {text}");
        assert_eq!(output.status.code(), Some(code), "{fail}: {text}");
        place.assert_no_snapshot();
        if fail != "die_in_window" {
            let state = standin.state();
            assert_eq!(state["keys_astray"], 0, "{fail}");
            let may_be_frozen = fail.starts_with("end_");
            assert_eq!(state["frozen"], may_be_frozen, "{fail}: {state}");
        }
        let record = standin.record();
        standin.kill();
        assert!(record.exists(), "a record is msgvault's own");
        std::fs::remove_file(record).unwrap();
    }
    assert!(elsewhere.accept().is_err(), "nobody is sent anywhere else");
}

#[test]
fn a_daemon_that_is_starting_is_waited_for_and_asked_once_it_has_started() {
    let place = Place::new();
    let standin = Standin::failing(&place.home, "starting_briefly");
    let output = place.create(&[]);
    assert_code(&output, 0);
    let text = stderr(&output);
    assert_eq!(text.matches("waiting up to 120 s: ").count(), 1, "{text}");
    assert!(text.contains("it is starting (migrating)"), "{text}");
    assert_eq!(standin.count("begin_requests"), 1);
    place.assert_restores();
}

#[test]
fn waiting_for_a_start_ends_with_ctrl_c_and_the_daemon_was_not_asked() {
    let place = Place::new();
    let standin = Standin::failing(&place.home, "starting");
    let mut child = place.creating();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    until(&mut said, "it is starting (migrating)");
    signal(&child, Signal::INT);
    assert_code(&checked(child.wait_with_output().unwrap()), 130);
    assert_eq!(standin.count("begin_requests"), 0);
    place.assert_no_snapshot();
}

/// Reads until a line with these words comes.
fn until(said: &mut impl BufRead, words: &str) {
    let line = said.lines().map(Result::unwrap).find(|line| line.contains(words));
    assert!(line.is_some(), "nobody says: {words}");
}

#[test]
fn a_daemon_that_is_too_old_to_prove_itself_is_known_by_its_socket() {
    let place = Place::new();
    for old in ["old", "old_without_token"] {
        let standin = Standin::failing(&place.home, old);
        standin.assert_writes();
        assert_code(&place.create(&[]), 0);
        let state = standin.state();
        assert_eq!((&state["ended"], &state["keys_astray"]), (&1.into(), &0.into()), "{old}: {state}");
        let record = standin.record();
        standin.kill();
        std::fs::remove_file(record).unwrap();
        place.assert_restores();
    }
}

/// Answers as an old daemon does at the address that its record names, from a process that is another.
#[test]
fn who_answers_in_the_place_of_an_old_daemon_is_given_no_key() {
    let place = Place::new();
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let (home, port) = (place.home.clone(), stranger.local_addr().unwrap().port());
    let options = Options { home, fail: "old_elsewhere".to_owned(), port, watchdog_milliseconds: 60_000 };
    let standin = Standin::with(options);
    let pong = format!(r#"{{"ok":true,"service":"msgvault","pid":{}}}"#, standin.pid());
    let (sender, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in stranger.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let count = stream.read(&mut request).unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..count]).into_owned();
            let (status, body) = if request.contains("/api/ping") { (200, &*pong) } else { (404, "{}") };
            let length = body.len();
            let _ = write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}");
            let _ = sender.send(request);
        }
    });
    let output = place.create(&[]);
    assert_code(&output, 1);
    let text = stderr(&output);
    assert!(text.contains("it is not its process alone that listens at its address"), "{text}");
    assert!(text.contains("stop msgvault, or upgrade it"), "{text}");
    let heard: Vec<String> = heard.try_iter().collect();
    assert!(!heard.is_empty() && heard.iter().all(|request| !request.contains(KEY)), "{heard:?}");
    place.assert_no_snapshot();
}

#[test]
fn a_wrong_key_and_a_missing_one_are_told_apart() {
    let place = Place::new();
    let standin = Standin::start(&place.home);
    for (config, message) in [
        ("[server]\napi_key = 'another'", "refuses the API key"),
        ("", "wants an API key, and its configuration has none"),
    ] {
        std::fs::write(place.home.join("config.toml"), config).unwrap();
        let output = place.create(&[]);
        assert!(stderr(&output).contains(message), "{}", stderr(&output));
        assert_code(&output, 1);
    }
    assert_eq!(standin.count("begun"), 0);
    place.assert_no_snapshot();
}

#[test]
fn other_work_of_the_daemon_is_waited_for_and_named() {
    let place = Place::new();
    let _standin = Standin::failing(&place.home, "busy_twice");
    let output = place.create(&[]);
    assert_code(&output, 0);
    let text = stderr(&output);
    let waits = text.matches("to finish other work: a sync is running").count();
    assert_eq!(waits, 1, "{text}");
    place.assert_restores();
}

#[test]
fn waiting_for_other_work_ends_with_ctrl_c() {
    let place = Place::new();
    let standin = Standin::failing(&place.home, "busy_for_ever");
    let child = place.creating();
    standin.wait_until(|state| state["begin_requests"].as_u64().unwrap() >= 2);
    signal(&child, Signal::INT);
    assert_code(&checked(child.wait_with_output().unwrap()), 130);
    place.assert_no_snapshot();
}

#[test]
fn a_watchdog_that_fires_in_the_window_fails_the_backup() {
    let place = Place::new();
    let (home, fail) = (place.home.clone(), String::new());
    let standin = Standin::with(Options { home, fail, port: 0, watchdog_milliseconds: 50 });
    standin.assert_writes();
    // A reader that needs the log keeps the window open until the watchdog has fired.
    let reader = hold_the_wal(&place.home);
    let child = place.creating();
    standin.wait_until(|state| state["watchdog_fired"] == 1);
    drop(reader);
    let output = checked(child.wait_with_output().unwrap());
    assert!(stderr(&output).contains("msgvault did not pause for long enough"), "{}", stderr(&output));
    assert_code(&output, 1);
    assert_eq!(standin.count("watchdog_fired"), 1);
    place.assert_no_snapshot();
    standin.assert_writes();
}

#[test]
fn ctrl_c_in_the_window_lets_the_daemon_go_on() {
    let place = Place::new();
    let standin = Standin::start(&place.home);
    standin.assert_writes();
    let reader = hold_the_wal(&place.home);
    let child = place.creating();
    standin.wait_until(|state| state["frozen"] == true);
    signal(&child, Signal::INT);
    assert_code(&checked(child.wait_with_output().unwrap()), 130);
    let state = standin.state();
    assert_eq!((&state["ended"], &state["watchdog_fired"]), (&1.into(), &0.into()), "{state}");
    place.assert_no_snapshot();
    drop(reader);
    standin.assert_writes();
    assert_code(&place.create(&[]), 0);
    place.assert_restores();
}

#[test]
fn killed_in_the_window_the_watchdog_lets_the_daemon_go_on_and_the_next_create_works() {
    let place = Place::new();
    let (home, fail) = (place.home.clone(), String::new());
    let standin = Standin::with(Options { home, fail, port: 0, watchdog_milliseconds: 5_000 });
    standin.assert_writes();
    let reader = hold_the_wal(&place.home);
    let mut child = place.creating();
    standin.wait_until(|state| state["frozen"] == true);
    signal(&child, Signal::KILL);
    child.wait().unwrap();
    standin.wait_until(|state| state["watchdog_fired"] == 1);
    drop(reader);
    standin.assert_writes();
    // The killed program's lock in the repository is fresh for a while yet.
    assert_code(&place.create(&["--force-unlock"]), 0);
    place.assert_restores();
    assert_sound(&place.repository);
}

#[test]
fn a_database_that_lies_apart_is_not_replaced_under_the_daemon_of_its_data_folder() {
    let place = Place::new();
    assert_code(&place.create(&[]), 0);
    let standin = Standin::start(&place.home);
    let (apart, own) = (place.scratch.path("apart"), place.scratch.path(".msgvault"));
    std::fs::create_dir_all(&apart).unwrap();
    std::fs::create_dir_all(&own).unwrap();
    let (data, database) = (place.home.display(), apart.join("msgvault.db"));
    let config = format!("[data]\ndata_dir = '{data}'\ndatabase_url = '{}'\n", database.display());
    std::fs::write(own.join("config.toml"), config).unwrap();
    let output = place.restore(&apart);
    assert!(stderr(&output).contains("msgvault is running on it"), "{}", stderr(&output));
    assert_code(&output, 11);
    assert!(!database.exists());
    standin.kill();
    assert_code(&place.restore(&apart), 0);
}

/// A writer that is neither a daemon's nor held off by a lock, as no msgvault is: only the proof of the empty
/// log stands between its commits and the pin.
#[test]
fn a_writer_that_nobody_holds_off_never_tears_a_capture() {
    let place = Place::new();
    let standin = Standin::failing(&place.home, "unseen");
    let mut captures = 0;
    for _ in 0..5 {
        standin.assert_writes();
        let output = place.create(&[]);
        if output.status.code() == Some(0) {
            captures += 1;
            place.assert_restores();
            continue;
        }
        // It may never come to rest; then that is said, and nothing taken.
        assert!(stderr(&output).contains("does not come to rest"), "{}", stderr(&output));
        assert_code(&output, 11);
        break;
    }
    assert_eq!(standin.count("begun"), 0);
    assert_eq!(snapshot_files(&place.repository).len(), captures);
    assert_no_remains(&place.repository);
}

#[test]
#[ignore = "takes the whole window, 30 s"]
fn a_database_that_does_not_come_to_rest_is_given_up_and_the_daemon_goes_on() {
    let place = Place::new();
    let standin = Standin::start(&place.home);
    standin.assert_writes();
    let _reader = hold_the_wal(&place.home);
    let output = place.create(&[]);
    assert!(stderr(&output).contains("a reader or writer holds it"), "{}", stderr(&output));
    assert_code(&output, 11);
    let state = standin.state();
    assert_eq!((&state["ended"], &state["watchdog_fired"]), (&1.into(), &0.into()), "{state}");
    place.assert_no_snapshot();
    standin.assert_writes();
}

#[test]
fn no_proxy_is_asked_whatever_the_environment_says() {
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    let url = format!("http://{}", proxy.local_addr().unwrap());
    let place = Place::new();
    let _standin = Standin::start(&place.home);
    let mut command = place.scratch.packvault(&place.arguments("create", &[place.home.to_str().unwrap()]));
    for name in ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy", "https_proxy", "HTTPS_PROXY"] {
        command.env(name, &url);
    }
    assert_code(&checked(command.output().unwrap()), 0);
    assert!(proxy.accept().is_err(), "nobody has asked the proxy");
}

#[test]
fn the_record_of_a_daemon_that_has_died_is_passed_over_and_kept() {
    let place = Place::new();
    let standin = Standin::start(&place.home);
    let record = standin.record();
    standin.assert_writes();
    standin.kill();
    assert_code(&place.create(&[]), 0);
    place.assert_restores();
    assert!(record.exists());
}

#[test]
fn where_no_daemon_is_found_the_lock_files_decide() {
    let place = Place::new();
    // Its record says that it started at another time: the number of its process was used again.
    let standin = Standin::failing(&place.home, "another_process");
    let mut child = place.creating();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    until(&mut said, "waiting up to 30 s: the archive is in use: another process holds ");
    assert_eq!(snapshot_files(&place.repository), Vec::<String>::new());
    assert_eq!(standin.count("begin_requests"), 0);
    // As one that is started again does, it lets them go.
    standin.kill();
    assert_code(&checked(child.wait_with_output().unwrap()), 0);
    place.assert_restores();
}

#[test]
fn the_home_of_a_live_daemon_is_not_restored_into() {
    let place = Place::new();
    assert_code(&place.create(&[]), 0);
    let before = |name: &str| std::fs::read(place.home.join(name)).unwrap();
    let config = before("config.toml");
    for (fail, message) in [
        ("", "msgvault is running on it"),
        ("no_lock", "msgvault is running on it"),
        ("other_api", "msgvault is running on it"),
        ("wrong_proof", "msgvault is running on it"),
        ("huge_body", "msgvault is running on it"),
        ("another_process", "daemon.lock"),
        ("silent", "daemon.lock"),
    ] {
        let standin = Standin::failing(&place.home, fail);
        let output = place.restore(&place.home);
        let text = stderr(&output);
        assert!(text.contains("cannot restore into the live archive"), "{fail}: {text}");
        assert!(text.contains(message), "{fail}: {text}");
        assert_code(&output, 11);
        standin.assert_writes();
        let record = standin.record();
        standin.kill();
        std::fs::remove_file(record).unwrap();
    }
    assert_eq!(before("config.toml"), config);
    assert_code(&place.restore(&place.home), 0);
}

/// The examples of the page, run: the command of each, and what it says.
#[test]
fn the_examples_of_the_page_are_what_the_program_says() {
    let scratch = Scratch::new();
    let (home, repository) = (scratch.path(".msgvault"), init(&scratch.path("repository")));
    make_home(&home);
    let first = scratch.run(&["create", "--repo", repository.to_str().unwrap()]);
    assert_eq!(first.status.code(), Some(0), "{}", stderr(&first));
    let standin = Standin::failing(&home, "cannot_prove");
    let own = scratch.path("").to_str().unwrap().trim_end_matches('/').to_owned();
    let page = std::fs::read_to_string("docs/msgvault-freeze.md").unwrap();
    let page = page
        .replace("/mnt/backup/mail", repository.to_str().unwrap())
        .replace("/home/ann", &own)
        .replace("~/", &format!("{own}/"))
        .replace("process 4711", &format!("process {}", standin.pid()));
    let examples: Vec<&str> = page.split("```console\n").skip(1).collect();
    assert_eq!(examples.len(), 2);
    for example in examples {
        let example = example.split("```").next().unwrap();
        let (command, said) = example.split_once('\n').unwrap();
        let arguments: Vec<&str> = command.strip_prefix("$ packvault ").unwrap().split_whitespace().collect();
        let output = scratch.run(&arguments);
        assert_ne!(output.status.code(), Some(0), "{command}");
        assert!(stderr(&output).contains(said), "{command}\nsays\n{}not\n{said}", stderr(&output));
    }
}
