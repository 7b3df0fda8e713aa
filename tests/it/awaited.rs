//! The danger: a command waits for ever for a secret, a configuration or a program, and cannot be stopped; or what it
//! has started goes on without it.

use std::fs;
use std::io::{PipeReader, PipeWriter, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::support::encrypted::{Home, PASSPHRASE, identity};
use crate::support::{assert_no_remains, hearing_every_signal, stderr, write_program};

/// How long a command may take to end: a second, and what a busy machine adds.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// A command, its flags, and a variable.
type Try<'a> = (&'a [&'a str], &'a [&'a str], Option<(&'a str, &'a str)>);

fn pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// Waits until a thread of the program has waited for something for a while. Whatever is read for the settings has
/// such a thread for a moment.
fn wait_until_it_waits(child: &Child) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let tasks = format!("/proc/{}/task", child.id());
    let waiting = || {
        let threads = fs::read_dir(&tasks).unwrap().flatten().map(|thread| thread.path());
        let is_named = |thread: &PathBuf| {
            fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.trim() == "awaited")
        };
        threads.into_iter().find(is_named)
    };
    let mut since = Instant::now();
    let mut last = None;
    while last.is_none() || since.elapsed() < Duration::from_millis(300) {
        assert!(Instant::now() < deadline, "it never waited");
        let now = waiting();
        if now != last {
            (since, last) = (Instant::now(), now);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends the signal and expects the program to say that it was interrupted.
fn assert_ends(mut child: Child, signal: Signal, what: &str) {
    kill_process(Pid::from_child(&child), signal).unwrap();
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > ENDS_WITHIN {
            child.kill().unwrap();
            panic!("{what}: it did not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{what}: {}", stderr(&output));
    assert!(stderr(&output).contains("interrupted"), "{what}: {}", stderr(&output));
}

fn spawn(command: &mut Command) -> Child {
    let mut heard = hearing_every_signal(command);
    heard.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_pipe_that_nobody_writes_to_is_waited_for_until_a_signal_comes() {
    let mut home = Home::new();
    home.has_identity = false;
    pipe(&home.path("pipe"));
    let path = home.path("pipe").display().to_string();
    let repo = home.path("repo").display().to_string();
    let section = |key: &str| format!("[repository.r]\nlocation = '{repo}'\n{key}\n");
    fs::write(home.path("identity.toml"), section(&format!("identity = '{path}'"))).unwrap();
    fs::write(home.path("file.toml"), section(&format!("passphrase = {{ file = '{path}' }}"))).unwrap();
    let s3 = format!("[repository.r]\nlocation = 's3://bucket/a'\nca_certificate = '{path}'\n");
    fs::write(home.path("s3.toml"), s3).unwrap();
    let list = &["list", "--repo", "./repo"][..];
    let named = &["list", "--repo", "r"][..];
    let tries: [Try<'_>; 9] = [
        (list, &["--passphrase-file", "pipe"], None),
        (list, &["--identity", "pipe"], None),
        (list, &[], Some(("PACKVAULT_PASSPHRASE_FILE", "pipe"))),
        (list, &[], Some(("PACKVAULT_IDENTITY", "pipe"))),
        (list, &[], Some(("PACKVAULT_CONFIG", "pipe"))),
        (named, &[], Some(("PACKVAULT_CONFIG", "identity.toml"))),
        (named, &[], Some(("PACKVAULT_CONFIG", "file.toml"))),
        (named, &[], Some(("PACKVAULT_CONFIG", "s3.toml"))),
        (&["init", "--repo", "./new", "--encrypt"], &["--recipient", "pipe"], None),
    ];
    let signals = [Signal::INT, Signal::TERM, Signal::HUP];
    for (number, (command, flags, variable)) in tries.into_iter().enumerate() {
        let child = spawn(home.command(&[command, flags].concat()).envs(variable));
        wait_until_it_waits(&child);
        assert_ends(child, signals[number % 3], &format!("{command:?} {flags:?} {variable:?}"));
    }
    assert!(!home.path("new/config.toml").exists());
    assert_no_remains(&home.path("repo"));
}

#[test]
fn a_pipe_that_somebody_writes_to_gives_what_a_file_would() {
    let mut home = Home::new();
    home.has_identity = false;
    fs::write(home.path("secret"), format!("{PASSPHRASE}\n")).unwrap();
    home.done(&["init", "--repo", "./other", "--encrypt", "--passphrase-file", "secret"]);
    let config = format!("[repository.r]\nlocation = '{}'\n", home.path("repo").display());
    fs::write(home.path("c.toml"), config).unwrap();
    for (from, arguments, variable) in [
        (identity("age.txt"), &["list", "--repo", "./repo", "--identity", "pipe"][..], None),
        ("secret".to_owned(), &["list", "--repo", "./other", "--passphrase-file", "pipe"], None),
        ("c.toml".to_owned(), &["unlock", "--repo", "r"], Some(("PACKVAULT_CONFIG", "pipe"))),
    ] {
        let _ = fs::remove_file(home.path("pipe"));
        pipe(&home.path("pipe"));
        let child = spawn(home.command(arguments).envs(variable));
        wait_until_it_waits(&child);
        fs::write(home.path("pipe"), fs::read(home.path(&from)).unwrap()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
    }
}

/// Expects a command to end in time, and so; returns what it said on standard error.
fn ends(home: &Home, code: i32, arguments: &[&str]) -> String {
    let mut child = spawn(&mut home.command(arguments));
    let deadline = Instant::now() + Duration::from_secs(20);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("{arguments:?} hangs");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
    stderr(&output)
}

#[test]
fn a_pipe_where_a_file_of_an_application_belongs_is_not_waited_for() {
    let home = Home::new();
    fs::create_dir_all(home.path("app/mail")).unwrap();
    for name in ["app/main.db", "app/other.db", "app/mail/msgvault.db"] {
        fs::copy(home.path("app.db"), home.path(name)).unwrap();
    }
    let create = ["create", "app", "--database", "app/main.db", "--files=*", "--repo", "./repo"];
    for ending in ["-journal", "-wal", "-shm"] {
        for (name, code) in [("app/main.db", 1), ("app/other.db", 5)] {
            let beside = home.path(&format!("{name}{ending}"));
            pipe(&beside);
            let said = ends(&home, code, &create);
            assert!(
                said.contains(&format!("{ending} lies beside it and is no file")),
                "{name}{ending}: {said}"
            );
            fs::remove_file(beside).unwrap();
        }
    }
    ends(&home, 0, &["init", "--repo", "./mails"]);
    for name in ["config.toml", "msgvault.db-journal", "msgvault.db-wal"] {
        let file = home.path("app/mail").join(name);
        pipe(&file);
        let said = ends(
            &home,
            if name == "config.toml" { 2 } else { 1 },
            &["create", "app/mail", "--repo", "./mails"],
        );
        assert!(said.contains(name) && said.contains("no "), "{name}: {said}");
        fs::remove_file(file).unwrap();
    }
    for repository in ["repo", "mails"] {
        assert_no_remains(&home.path(repository));
    }
}

/// Returns the end to write to of a pipe that is full, and the other, which nobody reads.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let flags = rustix::fs::fcntl_getfl(&writer).unwrap();
    rustix::fs::fcntl_setfl(&writer, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
    while writer.write(&[b'x'; 512]).is_ok() {}
    rustix::fs::fcntl_setfl(&writer, flags).unwrap();
    (reader, writer)
}

#[test]
fn a_reader_that_reads_nothing_keeps_nobody_from_stopping_a_command() {
    let home = Home::new();
    home.create("./repo");
    let create = &["create", "--database", "app.db"][..];
    let cases: [(bool, &[&str], &[&str]); 8] = [
        (false, &["list"], &[]),
        (false, &["ls", "latest"], &["--json"]),
        (false, create, &["--dry-run"]),
        (true, create, &["--dry-run"]),
        (true, create, &["--dry-run", "--progress", "json"]),
        (true, create, &["--dry-run", "-vvv"]),
        (true, &["verify", "--all"], &["-v"]),
        (true, &["list"], &["--repo", "./nothing"]),
    ];
    std::thread::scope(|scope| {
        for (is_errors, command, flags) in cases {
            let home = &home;
            scope.spawn(move || {
                let (reader, writer) = full_pipe();
                let mut command = home.command(&[command, flags].concat());
                command.env("PACKVAULT_REPO", "./repo").stdin(Stdio::null());
                match is_errors {
                    true => command.stderr(writer).stdout(Stdio::null()),
                    false => command.stdout(writer).stderr(Stdio::null()),
                };
                let mut child = command.spawn().unwrap();
                std::thread::sleep(Duration::from_millis(1500));
                assert!(child.try_wait().unwrap().is_none(), "{flags:?}: it waits for a reader");
                kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
                let begun = Instant::now();
                while child.try_wait().unwrap().is_none() {
                    if begun.elapsed() > ENDS_WITHIN {
                        child.kill().unwrap();
                        panic!("{is_errors} {flags:?}: it did not end");
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                drop(reader);
            });
        }
    });
    assert_no_remains(&home.path("repo"));
}

/// Returns the processes whose command line has the word.
fn running(word: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| {
        let line = fs::read(process.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.filter(|line| line.contains(word)).collect()
}

#[test]
fn a_program_that_hangs_ends_with_the_command_that_waits_for_it_and_so_does_what_it_has_started() {
    let mut home = Home::new();
    home.has_identity = false;
    // A name of its own, to be found among all processes.
    let own = format!("9{}", std::process::id());
    write_program(
        &home.path(&own),
        &"#!/bin/sh\ntouch \"$1\"\nsh -c \"sleep OWN; : $0\" &\nwait\n".replace("OWN", &own),
    );
    let program = home.path(&own).display().to_string();
    let repo = home.path("repo").display().to_string();
    let configured =
        format!("[repository.r]\nlocation = '{repo}'\npassphrase = {{ command = ['{program}', 'begun'] }}\n");
    fs::write(home.path("c.toml"), configured).unwrap();
    let command = format!("{program} begun");
    let list = &["list", "--repo", "./repo"][..];
    let tries: [Try<'_>; 3] = [
        (list, &["--passphrase-command", &command], None),
        (list, &[], Some(("PACKVAULT_PASSPHRASE_COMMAND", &command))),
        (&["list", "--repo", "r"], &[], Some(("PACKVAULT_CONFIG", "c.toml"))),
    ];
    let signals = [Signal::INT, Signal::TERM, Signal::HUP];
    for (number, (command, flags, variable)) in tries.into_iter().enumerate() {
        let _ = fs::remove_file(home.path("begun"));
        let child = spawn(home.command(&[command, flags].concat()).envs(variable));
        wait_until_it_waits(&child);
        let deadline = Instant::now() + Duration::from_secs(20);
        // The program, the shell that it starts, and what that starts.
        while running(&own).len() < 3 + usize::from(number == 0) {
            assert!(Instant::now() < deadline, "{:?}", running(&own));
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_ends(child, signals[number], &format!("{flags:?} {variable:?}"));
        assert_eq!(running(&own), Vec::<String>::new());
    }
}

/// A terminal, `timeout` and a manager of services send their signal to the whole group, and ssh is in it.
#[test]
fn a_login_that_hangs_is_interrupted_and_no_failure_when_its_ssh_gets_the_signal_too() {
    let home = Home::new();
    write_program(
        &home.path("hang"),
        "#!/bin/sh\n[ \"$1\" = -G ] && exit 0\ntouch \"$HOME/begun\"\nexec sleep 600\n",
    );
    let program = home.path("hang").display().to_string();
    let config = format!("[repository.r]\nlocation = 'sftp://nas/x'\nssh_program = '{program}'\n");
    fs::write(home.path("c.toml"), config).unwrap();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT] {
        let _ = fs::remove_file(home.path("begun"));
        let mut command =
            hearing_every_signal(home.command(&["list", "--repo", "r"]).env("PACKVAULT_CONFIG", "c.toml"));
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        while !home.path("begun").exists() {
            assert!(child.try_wait().unwrap().is_none(), "{}", stderr(&child.wait_with_output().unwrap()));
            std::thread::sleep(Duration::from_millis(5));
        }
        kill_process_group(Pid::from_child(&child), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{signal:?}: {}", stderr(&output));
    }
}

#[test]
fn whoever_is_told_of_a_run_and_hangs_keeps_nobody_from_stopping_it() {
    let home = Home::new();
    write_program(&home.path("hang"), "#!/bin/sh\ntouch \"$HOME/begun\"\nexec sleep 600\n");
    let config = |notify: &str| {
        let place = home.path("").display().to_string();
        let place = place.trim_end_matches('/');
        format!(
            "[archive.a]\nprofile = 'sqlite'\nhome = '{place}'\ndatabase = 'app.db'\nrepository = '{place}/repo'\n\
             [archive.a.notify]\n{notify}\n"
        )
        .replace("HANG", &format!("{place}/hang"))
    };
    for (notify, signal) in [
        ("on_success = ['HANG']", Signal::INT),
        ("after = ['HANG']", Signal::TERM),
        ("ping = { command = ['HANG'] }", Signal::HUP),
    ] {
        let _ = fs::remove_file(home.path("begun"));
        fs::write(home.path("c.toml"), config(notify)).unwrap();
        let mut child = spawn(home.command(&["run", "a"]).env("PACKVAULT_CONFIG", "c.toml"));
        while !home.path("begun").exists() {
            assert!(
                child.try_wait().unwrap().is_none(),
                "{notify}: {}",
                stderr(&child.wait_with_output().unwrap())
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        kill_process(Pid::from_child(&child), signal).unwrap();
        let begun = Instant::now();
        let output = child.wait_with_output().unwrap();
        assert!(begun.elapsed() < ENDS_WITHIN, "{notify}: {}", stderr(&output));
        assert_eq!(output.status.code(), Some(130), "{notify}: {}", stderr(&output));
    }
    assert_no_remains(&home.path("repo"));
}
