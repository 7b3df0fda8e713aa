//! The danger: backups stop and nobody notices; one failure takes the others with it; or a schedule says that all is
//! well when it is not.
//!
//! The program runs as a timer would start it. The simulated weeks need faketime; what of it did not run is said.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;

use crate::support::encrypted::identity;
use crate::support::{Scratch, names, stderr, write_program};

/// A folder with applications, repositories and a configuration.
struct Machine {
    scratch: Scratch,
    config: String,
}

impl Machine {
    /// Sets up one application and its repository for each name, and the keys that the archive has besides.
    fn new(names: &[&str], keys: &str) -> Self {
        let scratch = Scratch::new();
        let mut machine = Self { scratch, config: String::new() };
        for name in names {
            machine.application(name);
            let (home, repository) = (machine.path(name), machine.path(&format!("repo-{name}")));
            machine.config.push_str(&format!(
                "[archive.{name}]\nprofile = 'sqlite'\nhome = '{home}'\ndatabase = 'app.db'\nrepository = \
                 '{repository}'\n{keys}\n"
            ));
            assert_eq!(machine.run(&["init", "--repo", &repository]).status.code(), Some(0));
        }
        machine.configure("");
        machine
    }

    fn application(&self, name: &str) {
        fs::create_dir_all(self.scratch.path(name)).unwrap();
        let database = rusqlite::Connection::open(self.scratch.path(name).join("app.db")).unwrap();
        database
            .execute_batch("CREATE TABLE IF NOT EXISTS notes (text TEXT); INSERT INTO notes VALUES ('x')")
            .unwrap();
    }

    /// Writes the configuration, and more of it.
    fn configure(&self, more: &str) {
        fs::write(self.scratch.path("config.toml"), format!("{}{more}", self.config)).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.scratch.path(name).to_str().unwrap().to_owned()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.scratch.packvault(arguments);
        command.env("PACKVAULT_CONFIG", self.scratch.path("config.toml"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that answers with JSON; returns its exit code too.
    fn json(&self, arguments: &[&str]) -> (i32, Value) {
        let output = self.command(arguments).arg("--json").output().unwrap();
        let json = serde_json::from_slice(&output.stdout);
        let json = json.unwrap_or_else(|_| panic!("{arguments:?}: {}", stderr(&output)));
        (output.status.code().unwrap(), json)
    }

    fn snapshots(&self, name: &str) -> usize {
        crate::support::snapshot_files(&self.scratch.path(&format!("repo-{name}"))).len()
    }
}

fn outcomes(archive: &Value) -> Vec<String> {
    let steps = archive["steps"].as_array().unwrap();
    steps
        .iter()
        .map(|step| format!("{} {}", step["work"].as_str().unwrap(), step["outcome"].as_str().unwrap()))
        .collect()
}

/// A server that takes requests one by one and tells of each: its first line and its body.
struct Listener {
    port: u16,
    told: Receiver<(String, String)>,
}

impl Listener {
    /// Starts one that answers like this, one after the other, and then that all is well.
    fn start(answers: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, told) = channel();
        std::thread::spawn(move || {
            let mut answers = answers.iter();
            for mut stream in listener.incoming().flatten() {
                let Some(request) = read_request(&mut stream) else { continue };
                // Told before it is answered: whoever has the answer finds it told.
                if tell.send(request).is_err() {
                    return;
                }
                let answer = answers.next().unwrap_or(&"204 No Content");
                let _ = write!(stream, "HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
        });
        Self { port, told }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    /// Returns the requests so far: `POST /path` and the body.
    fn told(&self) -> Vec<(String, String)> {
        self.told.try_iter().collect()
    }
}

fn read_request(stream: &mut TcpStream) -> Option<(String, String)> {
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    let (head, body) = loop {
        let count = stream.read(&mut buffer).ok()?;
        received.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&received).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                break (head.to_owned(), body.to_owned());
            }
        }
        if count == 0 {
            return None;
        }
    };
    let line = head.lines().next()?.trim_end_matches(" HTTP/1.1").to_owned();
    Some((line, body))
}

#[test]
fn one_archive_that_fails_stops_neither_the_others_nor_the_exit_code() {
    let machine = Machine::new(&["a", "b", "c"], "keep = { last = 1 }");
    fs::rename(machine.scratch.path("b/app.db"), machine.scratch.path("b/gone.db")).unwrap();
    machine.run(&["run", "--all"]);
    let (code, report) = machine.json(&["run", "--all"]);
    assert_eq!((code, report["exit_code"].as_i64()), (1, Some(1)), "{report}");
    let archives = report["archives"].as_array().unwrap();
    assert_eq!(outcomes(&archives[0]), ["create done", "forget done"]);
    assert_eq!(outcomes(&archives[1]), ["create failed", "forget held_back"]);
    assert_eq!(outcomes(&archives[2]), ["create done", "forget done"]);
    assert_eq!(machine.snapshots("b"), 0);
    assert!(machine.snapshots("a") >= 1 && machine.snapshots("c") >= 1);
}

#[test]
fn a_section_that_is_wrong_leaves_its_archive_out_loudly() {
    let machine = Machine::new(&["a"], "");
    machine.configure("[archive.b]\nhome = '/srv/b'\nverify = { every = '1d', sample = '400%' }\n");
    let output = machine.run(&["run", "--all"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("`verify`") || stderr(&output).contains("4% or 10GiB"),
        "{}",
        stderr(&output)
    );
    assert_eq!(machine.snapshots("a"), 1, "the other archive is backed up all the same");
    assert_eq!(machine.run(&["status"]).status.code(), Some(2));
}

#[test]
fn the_plan_is_shown_with_reasons_and_changes_nothing() {
    let machine = Machine::new(&["a"], "keep = { daily = 7 }");
    let listener = Listener::start(&[]);
    machine.configure(&format!("[notify]\nping = '{}'\n", listener.url("hush")));
    let output = machine.run(&["run", "a", "--dry-run"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.lines().next(), Some("a"), "{said}");
    assert!(said.contains("do    create: in every run"), "{said}");
    assert_eq!((machine.snapshots("a"), listener.told().len()), (0, 0));
    assert!(!machine.scratch.path(".local/state/packvault/runs").exists());
}

#[test]
fn two_runs_of_an_archive_refuse_or_wait_and_a_killed_one_is_in_nobodys_way() {
    let machine = Machine::new(&["a", "b"], "");
    write_program(
        &machine.scratch.path("slow"),
        "#!/bin/sh\ntouch \"$HOME/begun\"\nwhile [ ! -e \"$HOME/go\" ]; do sleep 0.05; done\n",
    );
    machine.configure("");
    let slow =
        machine.config.replacen("home =", &format!("before = ['{}']\nhome =", machine.path("slow")), 1);
    fs::write(machine.scratch.path("config.toml"), &slow).unwrap();
    let mut first = machine.command(&["run", "a"]).spawn().unwrap();
    while !machine.scratch.path("begun").exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let second = machine.run(&["run", "--all"]);
    assert_eq!(second.status.code(), Some(11), "{}", stderr(&second));
    assert!(stderr(&second).contains("another run of a is at work (process "), "{}", stderr(&second));
    assert_eq!(machine.snapshots("b"), 1, "the other archive is run");
    let waiting = machine.command(&["run", "a", "--wait"]).spawn().unwrap();
    fs::write(machine.scratch.path("go"), "").unwrap();
    assert!(first.wait().unwrap().success());
    assert!(waiting.wait_with_output().unwrap().status.success());
    assert_eq!(machine.snapshots("a"), 2);

    for name in ["go", "begun"] {
        fs::remove_file(machine.scratch.path(name)).unwrap();
    }
    let mut killed = machine.command(&["run", "a"]).spawn().unwrap();
    while !machine.scratch.path("begun").exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    fs::write(machine.scratch.path("go"), "").unwrap();
    let next = machine.run(&["run", "a"]);
    // The lock of the repository may count as held for a while; the turn of the archive is free at once.
    assert!(!stderr(&next).contains("another run"), "{}", stderr(&next));
    assert!(matches!(next.status.code(), Some(0 | 11)), "{}", stderr(&next));
}

#[test]
fn a_machine_that_can_remember_nothing_makes_its_backups_all_the_same() {
    let machine = Machine::new(&["a"], "");
    let output = machine.command(&["run", "a"]).env("XDG_STATE_HOME", "/dev/null/state").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("cannot keep runs of a apart"), "{}", stderr(&output));
    assert_eq!(machine.snapshots("a"), 1);
}

#[test]
fn a_listener_hears_the_beginning_and_the_end_and_no_secret_reaches_anybody() {
    let machine = Machine::new(&["a"], "");
    let (whole, own) = (Listener::start(&[]), Listener::start(&[]));
    let urls = format!(
        "[notify]\nping = '{}'\n[archive.a.notify]\nping = '{}'\n",
        whole.url("hush"),
        own.url("hush/x")
    );
    machine.configure(&urls);
    let output = machine.run(&["run", "--all", "-vv"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let (whole_told, own_told) = (whole.told(), own.told());
    let lines = |told: &[(String, String)]| told.iter().map(|(line, _)| line.clone()).collect::<Vec<_>>();
    assert_eq!(lines(&whole_told), ["POST /hush/start", "POST /hush"]);
    assert_eq!(lines(&own_told), ["POST /hush/x/start", "POST /hush/x"]);
    assert_eq!(whole_told[1].1, "a: done\nexit code 0\n");
    let said = format!("{}{}", stderr(&output), String::from_utf8_lossy(&output.stdout));
    assert!(!said.contains("hush"), "{said}");

    fs::rename(machine.scratch.path("a/app.db"), machine.scratch.path("a/gone.db")).unwrap();
    let output = machine.run(&["run", "--all"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let told = whole.told();
    assert_eq!(lines(&told), ["POST /hush/start", "POST /hush/fail"]);
    assert_eq!(told[1].1, "a: create: exit code 1\nexit code 1\n", "no path leaves this machine");
    assert!(!stderr(&output).contains("hush"), "{}", stderr(&output));
}

#[test]
fn a_ping_is_tried_twice_and_that_it_failed_costs_no_backup() {
    let machine = Machine::new(&["a"], "");
    let listener = Listener::start(&["500 Oops", "200 OK", "404 Not Found", "404 Not Found"]);
    machine.configure(&format!("[notify]\nping = '{}'\n", listener.url("hush")));
    let output = machine.run(&["run", "--all"]);
    assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
    let lines: Vec<String> = listener.told().into_iter().map(|(line, _)| line).collect();
    assert_eq!(lines, ["POST /hush/start", "POST /hush/start", "POST /hush"], "a 404 would be one again");
    assert!(stderr(&output).contains("the server answered 404") && !stderr(&output).contains("hush"));
    assert_eq!(machine.snapshots("a"), 1);
}

#[test]
fn programs_are_told_what_happened_on_standard_input_and_are_tried_twice() {
    let machine = Machine::new(&["a"], "");
    write_program(&machine.scratch.path("tell"), "#!/bin/sh\ncat > \"$HOME/told-$1\"\n");
    write_program(&machine.scratch.path("bad"), "#!/bin/sh\necho x >> \"$HOME/tried\"\nexit 3\n");
    let (tell, bad) = (machine.path("tell"), machine.path("bad"));
    machine.configure(&format!(
        "[notify]\non_success = ['{tell}', 'success']\non_failure = ['{tell}', 'failure']\nafter = ['{bad}', 'a b']\n"
    ));
    let output = machine.run(&["run", "--all"]);
    assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
    assert!(stderr(&output).contains("notify: the hook `after`"), "{}", stderr(&output));
    assert_eq!(fs::read_to_string(machine.scratch.path("tried")).unwrap(), "x\nx\n");
    let message: Value =
        serde_json::from_slice(&fs::read(machine.scratch.path("told-success")).unwrap()).unwrap();
    assert_eq!((message["event"].as_str(), message["exit_code"].as_i64()), (Some("success"), Some(0)));
    assert_eq!(message["run"]["archives"][0]["archive"], "a");
    assert!(!machine.scratch.path("told-failure").exists());

    fs::rename(machine.scratch.path("a/app.db"), machine.scratch.path("a/gone.db")).unwrap();
    assert_eq!(machine.run(&["run", "--all"]).status.code(), Some(1));
    let message: Value =
        serde_json::from_slice(&fs::read(machine.scratch.path("told-failure")).unwrap()).unwrap();
    let text = message["text"].as_str().unwrap();
    assert!(text.contains("a needs a look (exit code 1)\na: create (exit code 1): "), "{text}");
}

#[test]
fn status_tells_what_is_stale_and_answers_from_memory_where_a_place_is_away() {
    let machine = Machine::new(&["a"], "max_age = '2d'");
    let (code, report) = machine.json(&["status"]);
    assert_eq!((code, report["archives"][0]["findings"][0]["fault"].as_str()), (20, Some("stale")));
    assert_eq!(machine.run(&["run", "--all"]).status.code(), Some(0));
    let (code, report) = machine.json(&["status"]);
    assert_eq!((code, report["ok"].as_bool()), (0, Some(true)), "{report}");
    let place = &report["archives"][0]["places"][0];
    assert!(place["asked"].as_bool().unwrap() && place["free_bytes"].as_u64().unwrap() > 0, "{report}");
    fs::rename(machine.scratch.path("repo-a"), machine.scratch.path("away")).unwrap();
    let (_, report) = machine.json(&["status"]);
    let place = &report["archives"][0]["places"][0];
    assert!(!place["asked"].as_bool().unwrap() && place["not_asked"].is_string(), "{report}");
    let output = machine.run(&["status", "--offline"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("not asked: --offline was given"), "{said}");
    assert!(!said.contains('\x1b'), "no colour where there is no terminal");
}

#[test]
fn the_numbers_for_a_monitor_are_what_prometheus_reads() {
    let machine = Machine::new(&["a"], "max_age = '2d'");
    machine.run(&["run", "--all"]);
    let file = machine.path("numbers.prom");
    fs::write(&file, "# HELP packvault_ok Of yesterday.\n").unwrap();
    let output = machine.run(&["status", "--metrics", &file, "--quiet"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0), "{}", stderr(&output));
    let text = fs::read_to_string(&file).unwrap();
    assert_is_prometheus(&text);
    match promtool(&text) {
        Some(output) => assert!(output.status.success(), "{}{text}", stderr(&output)),
        None => {
            let required = std::env::var("PACKVAULT_REQUIRE").unwrap_or_default();
            assert!(
                !required.split(',').any(|name| name == "promtool"),
                "PACKVAULT_REQUIRE demands promtool"
            );
            eprintln!("NOT RUN: promtool is not here (apt-get install prometheus)");
        }
    }
    assert!(text.contains("packvault_ok{archive=\"a\"} 1\n"), "{text}");
    assert_eq!(crate::support::mode(Path::new(&file)), 0o644);
    let left = fs::read_dir(machine.scratch.path(""))
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".packvault-"));
    assert_eq!(left.count(), 0);
    // A folder that is not there is an error, and no file appears elsewhere.
    assert_eq!(machine.run(&["status", "--metrics", "/no/such/folder/x.prom"]).status.code(), Some(1));
}

/// Expects the text format of Prometheus, line by line.
fn assert_is_prometheus(text: &str) {
    let mut typed = std::collections::BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert!(typed.insert(rest.strip_suffix(" gauge").unwrap()), "{line} is said twice");
        } else if !line.starts_with("# HELP ") {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let name = name.split('{').next().unwrap();
            assert!(typed.contains(name), "{line} has no type before it");
        }
    }
}

/// Has Prometheus's own tool read the text; `None` where it is not installed.
fn promtool(text: &str) -> Option<Output> {
    let mut tool = Command::new("promtool");
    tool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut tool = tool.spawn().ok()?;
    tool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    Some(tool.wait_with_output().unwrap())
}

#[test]
fn what_is_shown_of_a_schedule_is_understood_by_what_reads_it() {
    let machine = Machine::new(&["a"], "");
    for kind in ["--system", "--user"] {
        let (code, files) = machine.json(&["schedule", "show", kind]);
        let texts: Vec<&str> =
            files.as_array().unwrap().iter().map(|file| file["text"].as_str().unwrap()).collect();
        assert_eq!((code, texts.len()), (0, 2));
        assert!(
            texts[0].contains(&format!("ExecStart={} run --all", env!("CARGO_BIN_EXE_packvault"))),
            "{}",
            texts[0]
        );
    }
    let (_, files) = machine.json(&["schedule", "show", "cron"]);
    let line = files[0]["text"].as_str().unwrap();
    // What cron would run, without waiting for chance.
    let (_, command) = line.trim_end().split_once("*  ").unwrap();
    let command = command
        .replace("--jitter 30m", "--jitter 0s")
        .replace("PACKVAULT_CONFIG=/etc/packvault/config.toml ", "");
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", &command])
        .env_clear()
        .env("HOME", machine.scratch.path(""))
        .env("PATH", "/usr/bin:/bin");
    let output = shell.env("PACKVAULT_CONFIG", machine.scratch.path("config.toml")).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{command}: {}", stderr(&output));
    assert_eq!(machine.snapshots("a"), 1);
}

/// The example is read by the tool it is for, and what packvault's container runs does wait and then run.
#[test]
fn the_example_for_containers_is_understood_and_starts_a_run_in_the_night() {
    let machine = Machine::new(&[], "");
    let (_, files) = machine.json(&["schedule", "show", "compose"]);
    let compose = files[0]["text"].as_str().unwrap();
    for part in ["\nservices:\n", "packvault run --all", "- state:/state", "\nvolumes:\n"] {
        assert!(compose.contains(part), "{part}: {compose}");
    }
    let lines = compose.lines().skip_while(|line| line.trim() != "- |").skip(1);
    let lines: Vec<&str> = lines.map_while(|line| line.strip_prefix("        ")).collect();
    assert!(lines.len() > 3, "{compose}");
    // Compose turns two dollars into one.
    let script = lines.join("\n").replace("$$", "$");
    write_program(&machine.scratch.path("sleep"), "#!/bin/sh\necho \"$1\" > \"$HOME/slept\"\n");
    write_program(&machine.scratch.path("packvault"), "#!/bin/sh\necho \"$*\" > \"$HOME/ran\"\nkill $PPID\n");
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &script]).env_clear().env("HOME", machine.scratch.path(""));
    shell.env("PATH", format!("{}:/usr/bin:/bin", machine.scratch.path("").display()));
    let output = shell.output().unwrap();
    let told =
        |name: &str| fs::read_to_string(machine.scratch.path(name)).unwrap_or_else(|_| stderr(&output));
    assert_eq!(told("ran").trim(), "run --all --progress none");
    let slept: u32 = told("slept").trim().parse().unwrap();
    // A day has 25 hours at most.
    assert!((1..=90_000).contains(&slept), "{slept} s");

    fs::write(machine.scratch.path("compose.yml"), compose).unwrap();
    let mut tool = Command::new("docker-compose");
    tool.args(["--file", "compose.yml", "config"]).current_dir(machine.scratch.path(""));
    let Ok(output) = tool.output() else {
        let required = std::env::var("PACKVAULT_REQUIRE").unwrap_or_default();
        assert!(
            !required.split(',').any(|name| name == "compose"),
            "PACKVAULT_REQUIRE demands docker-compose"
        );
        eprintln!("NOT RUN: docker-compose is not here (apt-get install docker-compose)");
        return;
    };
    assert!(output.status.success(), "{}", stderr(&output));
    // A variable that is missing would be one that the shell should have had.
    assert_eq!(stderr(&output), "");
    let read = String::from_utf8(output.stdout).unwrap();
    for part in
        ["image: packvault:latest", "init: true", "recipes:/srv/recipes", "/etc/packvault/config.toml:ro"]
    {
        assert!(read.contains(part), "{part}: {read}");
    }
}

/// Days that are simulated: enough for one of each event, or ten weeks.
fn days() -> i64 {
    let is_long = std::env::var("PACKVAULT_WEEKS").is_ok_and(|weeks| weeks == "all");
    if is_long { 70 } else { 12 }
}

/// What happens on which day; each ends before the next begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Well,
    /// The server of `b` is away.
    Away,
    /// The disk of `c` is full.
    Full,
    /// The timer starts nothing.
    Stopped,
}

fn event(day: i64, last: i64) -> Event {
    match day {
        // Three days.
        2..=4 => Event::Away,
        6 => Event::Full,
        day if day >= last - 3 => Event::Stopped,
        _ => Event::Well,
    }
}

/// Runs the program as on that day, at three o'clock as it were; `None` where no clock can be moved.
fn on_day(machine: &Machine, day: i64, hours: i64, arguments: &[&str]) -> Option<Output> {
    let mut command = machine.command(arguments);
    if let Err(what) = packvault_test_servers::set_clock(&mut command, day * 86_400 + hours * 3_600) {
        packvault_test_servers::missing(&what);
        return None;
    }
    Some(command.output().unwrap())
}

/// Flips a byte in the middle of the largest pack of a repository.
fn rot(repository: &Path) {
    let packs = names(&repository.join("packs"));
    let packs = packs.into_iter().map(|name| repository.join("packs").join(name));
    let pack = packs.max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(&pack, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&pack, bytes).unwrap();
}

/// A pack rots: the sample that reads it says so, and from then on every question, until it is seen whole again.
#[test]
fn a_pack_that_rots_is_told_within_the_runs_that_the_sample_promises() {
    let keys = "max_age = '2d'\nverify = { every = '1d', sample = '50%' }\nrestore_check = '4d'";
    let machine = Machine::new(&["a"], keys);
    let mut told = Vec::new();
    for day in 0..6 {
        machine.application("a");
        if day == 2 {
            rot(&machine.scratch.path("repo-a"));
        }
        let Some(output) = on_day(&machine, day, 0, &["run", "a", "--json"]) else { return };
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let steps = outcomes(&report["archives"][0]);
        assert_eq!(steps[0], "create done", "day {day}: {report}");
        let Some(asked) = on_day(&machine, day, 6, &["status", "--json"]) else { return };
        let status: Value = serde_json::from_slice(&asked.stdout).unwrap();
        let place = &status["archives"][0]["places"][0];
        assert!(place["read_share"].as_f64().is_some_and(|share| share > 0.0), "day {day}: {status}");
        assert!(place["restore_check"]["at"].is_string(), "day {day}: {status}");
        assert_eq!(status["archives"][0]["last_run"]["exit_code"], report["exit_code"], "day {day}");
        told.push((output.status.code().unwrap(), asked.status.code().unwrap()));
    }
    assert_eq!(told[..2], [(0, 0), (0, 0)], "{told:?}");
    // Half of it is read each day: on the second day at the latest.
    let found = told.iter().position(|(run, _)| *run == 3);
    assert!(found.is_some_and(|day| (2..=3).contains(&day)), "{told:?}");
    assert!(told[3..].iter().all(|(run, status)| (*run, *status) == (3, 21)), "{told:?}");
}

/// Weeks of runs and questions: each event is told on the day it must be, and on no other.
#[test]
fn weeks_of_runs_tell_of_each_event_on_its_day() {
    let machine = Machine::new(&["a", "b", "c"], "max_age = '2d'\nkeep = { daily = 5 }");
    let Some(disk) = crate::support::small_disk::SmallDisk::mount("size=3m") else { return };
    let listener = Listener::start(&[]);
    // The third lies on a disk that can be filled.
    let config = machine.config.replace(&machine.path("repo-c"), disk.path("repo").to_str().unwrap());
    let config = format!("{config}[notify]\nping = '{}'\n", listener.url("hush"));
    fs::write(machine.scratch.path("config.toml"), config).unwrap();
    assert_eq!(machine.run(&["init", "--repo", disk.path("repo").to_str().unwrap()]).status.code(), Some(0));
    let last = days();
    for day in 0..=last {
        let event = event(day, last);
        let (repository, away) = (machine.scratch.path("repo-b"), machine.scratch.path("away"));
        match (event, away.exists()) {
            (Event::Away, false) => fs::rename(&repository, &away).unwrap(),
            (Event::Away, true) => {}
            (_, true) => fs::rename(&away, &repository).unwrap(),
            _ => {}
        }
        match event {
            Event::Full => disk.leave_bytes(0),
            _ if disk.path("ballast").exists() => disk.make_room(),
            _ => {}
        }
        for name in ["a", "b", "c"] {
            machine.application(name);
        }
        if event != Event::Stopped {
            let Some(output) = on_day(&machine, day, 0, &["run", "--all"]) else { return };
            let expected = match event {
                Event::Away => 10,
                Event::Full => 1,
                _ => 0,
            };
            assert_eq!(output.status.code(), Some(expected), "day {day}: {}", stderr(&output));
            let told: Vec<String> = listener.told().into_iter().map(|(line, _)| line).collect();
            let end = if expected == 0 { "POST /hush" } else { "POST /hush/fail" };
            assert_eq!(told, ["POST /hush/start", end], "day {day}");
        }
        // Six hours later somebody asks.
        let file = machine.path("numbers.prom");
        let Some(output) = on_day(&machine, day, 6, &["status", "--json", "--metrics", &file]) else {
            return;
        };
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let stale: Vec<&str> = report["archives"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|archive| {
                archive["findings"].as_array().unwrap().iter().any(|finding| finding["fault"] == "stale")
            })
            .map(|archive| archive["archive"].as_str().unwrap())
            .collect();
        let expected: &[&str] = match event {
            // The snapshot of day 1 is two days and six hours old on day 3.
            Event::Away if day >= 3 => &["b"],
            Event::Stopped if day >= last - 2 => &["a", "b", "c"],
            _ => &[],
        };
        assert_eq!(stale, expected, "day {day}: {report}");
        assert_eq!(output.status.code(), Some(if expected.is_empty() { 0 } else { 20 }), "day {day}");
        let numbers = fs::read_to_string(&file).unwrap();
        for name in ["a", "b", "c"] {
            let is_stale = u8::from(expected.contains(&name));
            let line =
                format!("packvault_fault{{archive=\"{name}\",place=\"\",fault=\"stale\"}} {is_stale}\n");
            assert!(numbers.contains(&line), "day {day}: {line} is not in:\n{numbers}");
        }
    }
    // Nothing was told while the timer was off: the listener notices that by itself.
    assert!(listener.told().is_empty());
}

/// Gives the archive `a` copies in these folders, of which each but those named has a repository.
fn with_copies(machine: &mut Machine, copies: &[&str], without: &str) {
    let listed: Vec<String> = copies.iter().map(|name| format!("'{}'", machine.path(name))).collect();
    let keys = format!("copies = [{}]\nrepository =", listed.join(", "));
    machine.config = machine.config.replacen("repository =", &keys, 1);
    machine.configure("");
    for name in copies.iter().filter(|name| **name != without) {
        assert_eq!(machine.run(&["init", "--repo", &machine.path(name)]).status.code(), Some(0));
    }
}

#[test]
fn a_copy_that_fails_stops_no_other_and_status_names_what_it_lacks() {
    let mut machine = Machine::new(&["a"], "keep = { last = 5 }");
    with_copies(&mut machine, &["one", "gone", "two"], "gone");
    let copies = |machine: &Machine| {
        ["one", "gone", "two"].map(|name| crate::support::snapshot_files(&machine.scratch.path(name)).len())
    };
    let missing = |machine: &Machine| {
        let (code, report) = machine.json(&["status"]);
        let findings = report["archives"][0]["findings"].as_array().unwrap().clone();
        assert!(findings.iter().all(|finding| finding["fault"] == "copy_missing"), "{findings:?}");
        let named = |finding: &Value| {
            let place = finding["place"].as_str().unwrap();
            Path::new(place).file_name().unwrap().to_str().unwrap().to_owned()
        };
        (code, findings.iter().map(named).collect::<Vec<_>>())
    };
    let (code, report) = machine.json(&["run", "a"]);
    assert_eq!(code, 6, "{report}");
    let steps = ["create done", "copy done", "copy failed", "copy done", "forget done"];
    assert_eq!(outcomes(&report["archives"][0]), steps, "{report}");
    assert_eq!((machine.snapshots("a"), copies(&machine)), (1, [1, 0, 1]));
    assert_eq!(missing(&machine), (22, vec!["gone".to_owned()]));

    // The server of one copy is away for a run, the other comes into being.
    fs::rename(machine.scratch.path("two"), machine.scratch.path("away")).unwrap();
    assert_eq!(machine.run(&["init", "--repo", &machine.path("gone")]).status.code(), Some(0));
    let (code, report) = machine.json(&["run", "a"]);
    assert_eq!(code, 6, "{report}");
    assert_eq!(outcomes(&report["archives"][0])[1..4], ["copy done", "copy done", "copy failed"]);
    fs::rename(machine.scratch.path("away"), machine.scratch.path("two")).unwrap();
    assert_eq!(copies(&machine), [2, 2, 1]);
    assert_eq!(missing(&machine), (22, vec!["two".to_owned()]));

    // What is missing is made up for, however many runs it missed.
    let (code, report) = machine.json(&["run", "a"]);
    assert_eq!((code, copies(&machine)), (0, [3, 3, 3]), "{report}");
    assert_eq!(missing(&machine), (0, vec![]));
}

#[test]
fn a_run_that_is_killed_at_any_moment_is_taken_up_by_the_next() {
    let mut machine = Machine::new(&["a"], "keep = { last = 3 }\nverify = { every = '1d', sample = '50%' }");
    with_copies(&mut machine, &["copy"], "");
    let begun = std::time::Instant::now();
    assert_eq!(machine.run(&["run", "a"]).status.code(), Some(0));
    let whole = begun.elapsed();
    for part in 1..8 {
        machine.application("a");
        let mut run =
            machine.command(&["run", "a"]).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole * part / 8);
        run.kill().unwrap();
        run.wait().unwrap();
    }
    // The locks of the dead would count for ninety seconds more.
    for place in ["repo-a", "copy"] {
        assert_eq!(machine.run(&["unlock", "--repo", &machine.path(place)]).status.code(), Some(0));
    }
    let (code, report) = machine.json(&["run", "a"]);
    assert_eq!(code, 0, "{report}");
    let (code, report) = machine.json(&["status"]);
    assert_eq!((code, report["ok"].as_bool()), (0, Some(true)), "{report}");
    for place in ["repo-a", "copy"] {
        let output = machine.run(&["verify", "--all", "--repo", &machine.path(place)]);
        assert_eq!(output.status.code(), Some(0), "{place}: {}", stderr(&output));
        crate::support::assert_no_remains(&machine.scratch.path(place));
    }
}

/// A schedule whose places are encrypted, each with a key of its own, beside an archive that is not.
struct Sealed {
    machine: Machine,
}

impl Sealed {
    fn new() -> Self {
        let mut machine = Machine::new(&["b"], "");
        machine.application("a");
        let place = |name: &str| {
            let (location, key) = (machine.path(name), machine.path(&format!("key-of-{name}")));
            format!(
                "[repository.{name}]\nlocation = '{location}'\nidentity = '{key}'\nencryption = 'required'\n"
            )
        };
        let section = format!(
            "{}{}[archive.a]\nprofile = 'sqlite'\nhome = '{}'\ndatabase = 'app.db'\nrepository = 'disk'\ncopies = \
             ['far']\nmax_age = '2d'\nverify = {{ every = '1d', sample = '50%' }}\nrestore_check = '7d'\nkeep = {{ last \
             = 2 }}\n",
            place("disk"),
            place("far"),
            machine.path("a")
        );
        machine.config = format!("{section}{}", machine.config);
        machine.configure("");
        let sealed = Self { machine };
        for (name, key) in [("disk", "age"), ("far", "ed25519")] {
            sealed.give(name, if key == "age" { "age.txt" } else { key });
            let recipient = identity(&format!("{key}.pub"));
            let init = ["init", "--repo", name, "--encrypt", "--recipient", &recipient];
            let output = sealed.machine.run(&init);
            assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        }
        sealed
    }

    /// Puts a key of the fixtures where that of the place is looked for.
    fn give(&self, place: &str, key: &str) {
        fs::copy(identity(key), self.key_of(place)).unwrap();
    }

    fn key_of(&self, place: &str) -> std::path::PathBuf {
        self.machine.scratch.path(&format!("key-of-{place}"))
    }

    fn stored(&self, place: &str) -> Vec<String> {
        crate::support::snapshot_files(&self.machine.scratch.path(place))
    }

    /// Runs everything; returns the exit code and what became of the steps of `a`, with what was said of one that failed.
    fn run(&self) -> (i32, Vec<String>, String) {
        let (code, report) = self.machine.json(&["run", "--all"]);
        let archives = report["archives"].as_array().unwrap();
        let of = |name: &str| archives.iter().find(|archive| archive["archive"] == name).unwrap();
        assert_eq!(outcomes(of("b"))[0], "create done", "{report}");
        (code, outcomes(of("a")), of("a").to_string())
    }
}

#[test]
fn places_that_are_encrypted_with_different_keys_are_run_proved_and_seen() {
    let sealed = Sealed::new();
    let (code, steps, said) = sealed.run();
    let expected = [
        "create done",
        "copy done",
        "forget done",
        "verify done",
        "verify done",
        "restore_check done",
        "restore_check done",
    ];
    assert_eq!((code, steps), (0, expected.map(str::to_owned).to_vec()), "{said}");
    assert_eq!(sealed.stored("disk"), sealed.stored("far"));
    for place in ["disk", "far"] {
        let config = fs::read_to_string(sealed.machine.scratch.path(place).join("config.toml")).unwrap();
        assert!(config.contains("xchacha20poly1305"), "{config}");
        // A key that opens one place opens the other not.
        fs::rename(sealed.key_of(place), sealed.machine.scratch.path("aside")).unwrap();
    }
    // `status` needs no key, and knows what was read and proved.
    let (code, report) = sealed.machine.json(&["status", "a"]);
    assert_eq!(code, 0, "{report}");
    let places = report["archives"][0]["places"].as_array().unwrap();
    assert_eq!(places.len(), 2, "{report}");
    for place in places {
        assert!(place["read_share"].as_f64().is_some_and(|share| share > 0.0), "{report}");
        assert_eq!((&place["asked"], &place["restore_check"]["proved"]), (&true.into(), &true.into()));
        assert_eq!(place["newest"]["id"], places[0]["newest"]["id"], "{report}");
    }
}

#[test]
fn a_key_of_one_place_that_is_wrong_or_gone_costs_no_other_and_is_made_up_for() {
    let sealed = Sealed::new();
    assert_eq!(sealed.run().0, 0);
    sealed.machine.application("a");

    // The copy's key is another one: what opens it is said, and the snapshot is there.
    sealed.give("far", "rsa");
    let (code, steps, said) = sealed.run();
    assert_eq!(
        (code, &steps[..3]),
        (6, &["create done", "copy failed", "forget done"].map(str::to_owned)[..]),
        "{said}"
    );
    assert!(said.contains("it opens with ssh-ed25519 (ssh-ed25519)"), "{said}");
    assert_eq!((sealed.stored("disk").len(), sealed.stored("far").len()), (2, 1));
    let (code, report) = sealed.machine.json(&["status", "a"]);
    assert_eq!((code, &report["archives"][0]["findings"][0]["place"]), (22, &"far".into()), "{report}");
    sealed.give("far", "ed25519");
    let (code, _, said) = sealed.run();
    assert_eq!((code, sealed.stored("far")), (0, sealed.stored("disk")), "{said}");
    assert_eq!(sealed.machine.json(&["status", "a"]).0, 0);

    // The key of the repository is gone: nothing of the archive is done, all of the other is.
    let before = (sealed.stored("disk"), sealed.stored("far"));
    fs::remove_file(sealed.key_of("disk")).unwrap();
    let (code, steps, said) = sealed.run();
    assert_eq!((code, steps[0].as_str()), (2, "create failed"), "{said}");
    sealed.give("disk", "rsa");
    let (code, steps, said) = sealed.run();
    assert_eq!((code, steps[0].as_str()), (12, "create failed"), "{said}");
    assert_eq!((sealed.stored("disk"), sealed.stored("far")), before);
    sealed.give("disk", "age.txt");
    assert_eq!(sealed.run().0, 0);
}

#[test]
fn a_copy_that_was_exchanged_for_a_plain_one_gets_nothing_and_is_not_taken_for_the_copy() {
    let sealed = Sealed::new();
    assert_eq!(sealed.run().0, 0);
    let far = sealed.machine.scratch.path("far");
    fs::rename(&far, sealed.machine.scratch.path("aside")).unwrap();
    let plain = sealed.machine.path("plain");
    assert_eq!(sealed.machine.run(&["init", "--repo", &plain]).status.code(), Some(0));
    fs::rename(&plain, &far).unwrap();
    let before = crate::support::contents(&far);
    let (code, steps, said) = sealed.run();
    assert_eq!((code, steps[1].as_str()), (13, "copy failed"), "{said}");
    assert_eq!(crate::support::contents(&far), before, "nothing was stored in plain text");
    let (code, report) = sealed.machine.json(&["status", "a"]);
    assert_eq!(code, 22, "{report}");
    let place = &report["archives"][0]["places"][1];
    assert!(place["not_asked"].as_str().is_some_and(|why| why.contains("encrypted")), "{report}");
    fs::remove_dir_all(&far).unwrap();
    fs::rename(sealed.machine.scratch.path("aside"), &far).unwrap();
    assert_eq!(sealed.run().0, 0);
    assert_eq!(sealed.machine.json(&["status", "a"]).0, 0);
}

/// Six steps open two repositories: each passphrase is asked for once, and paid for once.
#[test]
fn a_run_fetches_the_passphrase_of_each_place_once_however_many_steps_it_has() {
    let sealed = Sealed::new();
    let asking = |place: &str| {
        let program = sealed.machine.scratch.path(&format!("ask-{place}"));
        write_program(
            &program,
            &format!("#!/bin/sh\necho asked >> \"$HOME/asked-{place}\"\necho 'the words of {place}'\n"),
        );
        program.to_str().unwrap().to_owned()
    };
    let mut config = sealed.machine.config.clone();
    for place in ["disk", "far"] {
        let program = asking(place);
        let output = sealed.machine.run(&[
            "key",
            "add",
            "--repo",
            place,
            "--new-passphrase-command",
            &program,
            "words",
        ]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        fs::remove_file(sealed.machine.scratch.path(&format!("asked-{place}"))).unwrap();
        let key = format!("identity = '{}'", sealed.machine.path(&format!("key-of-{place}")));
        config = config.replace(&key, &format!("passphrase = {{ command = ['{program}'] }}"));
    }
    fs::write(sealed.machine.scratch.path("config.toml"), &config).unwrap();
    let (code, steps, said) = sealed.run();
    assert_eq!((code, steps.len()), (0, 7), "{said}");
    for place in ["disk", "far"] {
        let asked = fs::read_to_string(sealed.machine.scratch.path(&format!("asked-{place}"))).unwrap();
        assert_eq!(asked.lines().count(), 1, "{place}");
    }
}
