//! A bad line between the program and a real server: slow, cut, stalled, or with a server too busy to answer.
//!
//! Each command finishes, or fails with one sentence and the right code; nothing is half visible, and what it
//! leaves behind stops nobody for longer than a lock is good for.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use packvault_test_servers::{Direction, Proxy};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::clocks::noise;
use crate::support::archives::add_attachment;
use crate::support::backends::{Backend, Place, Raw};
use crate::support::memory_repo::*;
use crate::support::operations::block_on;
use crate::support::{hearing_every_signal, stderr};

/// How long the end of a process is waited for on a busy machine; it takes a moment.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// How long a command may take to end on a line that stalls for good, where a second without a sign of life is
/// enough to give an attempt up: a step is tried for three, once more to look whether it was done, and the lock is
/// given back. Beyond that it is the machine that is busy.
const SILENT_MAX: Duration = Duration::from_secs(40);

/// What a command says of a server that gave no sign of life for that second.
const SILENT_NAMES: [&str; 3] =
    ["nothing moved for 1 s", "answered nothing for 1 s", "no SFTP session began within 1 s"];

/// A repository with one snapshot, and a line to it.
struct Scene {
    place: Place,
    /// A client on the line.
    client: Place,
    proxy: Proxy,
    archive: Archive,
    first: Made,
}

impl Scene {
    fn new(backend: Backend, round_trip: Duration) -> Option<Self> {
        let place = Place::fresh(backend)?;
        place.json(&["init"]);
        let archive = Archive::small();
        add_attachment(&archive.home(), &noise(300_000));
        let report = place.json(&["create", archive.home().to_str().unwrap()]);
        let first = Made { id: report["id"].as_str().unwrap().to_owned(), files: archive.expected() };
        let proxy = Proxy::start(place.server_port(), round_trip).unwrap();
        let client = place.through(proxy.port());
        Some(Self { place, client, proxy, archive, first })
    }

    fn home(&self) -> String {
        self.archive.home().to_str().unwrap().to_owned()
    }

    fn target(&self) -> String {
        self.client.scratch.path("above/target").to_str().unwrap().to_owned()
    }

    /// Adds an attachment of which nothing is in the repository.
    fn add_noise(&self, seed: usize) {
        add_attachment(&self.archive.home(), &noise(300_000 + seed));
    }

    /// Checks that all snapshots are whole, and that the first comes back.
    fn assert_sound(&self, snapshots: u64, case: &str) {
        let report = block_on(assert_sound(self.place.storage(), case));
        assert_eq!(report.snapshots, snapshots, "{case}");
        block_on(assert_comes_back(self.place.storage(), &self.first, case));
    }

    /// Runs the next create on a good line; a lock that could not be given back is broken by force.
    fn create_after(&self, case: &str) {
        let output = self.place.run(&["create", &self.home()]);
        if output.status.code() == Some(11) {
            assert!(stderr(&output).contains("--force-unlock"), "{case}: {}", stderr(&output));
            self.place.json(&["create", &self.home(), "--force-unlock"]);
        } else {
            assert_eq!(output.status.code(), Some(0), "{case}: {}", stderr(&output));
        }
        assert_eq!(self.place.raw().names("locks"), Vec::<String>::new(), "{case}");
    }
}

/// Checks that the program ended with code 1 and one error that tells what and why.
fn assert_one_sentence(output: &Output, case: &str) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{case}: {said}");
    assert_eq!(said.matches("error: ").count(), 1, "{case}: {said}");
    assert!(!said.contains("panicked"), "{case}: {said}");
}

fn a_slow_line_carries_every_command(backend: Backend) {
    let Some(scene) = Scene::new(backend, Duration::from_millis(50)) else { return };
    scene.add_noise(1);
    scene.client.json(&["create", &scene.home()]);
    assert_eq!(scene.client.json(&["list"]).as_array().unwrap().len(), 2);
    assert_eq!(scene.client.json(&["verify", "--all"])["ok"], true);
    scene.client.json(&["restore", "--target", &scene.target()]);
    let found = files_below(scene.target().as_ref());
    assert_same_files(&found, &scene.archive.expected(), "over a slow line");
    scene.place.raw().assert_no_remains();
}

fn a_line_that_is_cut_is_taken_up_again(backend: Backend) {
    let Some(scene) = Scene::new(backend, Duration::ZERO) else { return };
    let mut snapshots = 1;
    let cuts = [200, 4_000, 30_000, 200_000].map(|bytes| (Direction::Up, bytes));
    let cuts = cuts.into_iter().chain([200, 4_000, 30_000].map(|bytes| (Direction::Down, bytes)));
    for (number, (direction, bytes)) in cuts.enumerate() {
        let case = format!("{backend:?}, create, {direction:?} cut after {bytes}");
        scene.add_noise(number + 2);
        let before = scene.proxy.cuts();
        scene.proxy.cut_after(direction, bytes);
        let output = scene.client.run(&["create", &scene.home()]);
        let was_cut = scene.proxy.cuts() > before;
        assert!(was_cut, "{case}: the line was not cut: {}", stderr(&output));
        if output.status.code() == Some(0) {
            snapshots += 1;
        } else {
            println!("{case}: {}", stderr(&output));
            assert_one_sentence(&output, &case);
            scene.create_after(&case);
            snapshots += 1;
        }
        scene.assert_sound(snapshots, &case);
        assert_eq!(scene.place.raw().names("locks"), Vec::<String>::new(), "{case}");
    }
    let target = scene.target();
    let reading: [&[&str]; 3] = [
        &["list", "--no-cache"],
        &["verify", "--all"],
        &["restore", &scene.first.id, "--target", &target, "--no-cache"],
    ];
    for arguments in reading {
        // The last is in the middle of a pack, of which a list has no need.
        for bytes in
            [300, 5_000, 100_000].into_iter().filter(|bytes| *bytes < 9_000 || arguments[0] != "list")
        {
            let case = format!("{backend:?}, {arguments:?}, cut after {bytes}");
            let before = scene.proxy.cuts();
            scene.proxy.cut_after(Direction::Down, bytes);
            let output = scene.client.run(arguments);
            assert!(arguments[0] == "list" || scene.proxy.cuts() > before, "{case}: the line was not cut");
            if output.status.code() != Some(0) {
                println!("{case}: {}", stderr(&output));
                assert_one_sentence(&output, &case);
                assert!(!scene.client.scratch.path("above").exists(), "{case}");
            } else if arguments[0] == "restore" {
                assert_same_files(&files_below(target.as_ref()), &scene.first.files, &case);
                fs::remove_dir_all(scene.client.scratch.path("above")).unwrap();
            }
        }
    }
    for (direction, bytes) in [(Direction::Up, 300), (Direction::Up, 9_000), (Direction::Down, 3_000)] {
        let case = format!("{backend:?}, init, {direction:?} cut after {bytes}");
        let place = Place::fresh(backend).unwrap();
        let before = scene.proxy.cuts();
        scene.proxy.cut_after(direction, bytes);
        let output = place.through(scene.proxy.port()).run(&["init"]);
        assert!(scene.proxy.cuts() > before, "{case}: the line was not cut");
        if output.status.code() != Some(0) {
            assert_one_sentence(&output, &case);
            place.json(&["init"]);
        }
        place.json(&["create", &scene.home()]);
        place.raw().assert_no_remains();
    }
    scene.assert_sound(snapshots, "at the end");
}

fn a_busy_server_is_asked_again_and_named_if_it_stays_busy(backend: Backend) {
    let Some(scene) = Scene::new(backend, Duration::ZERO) else { return };
    scene.add_noise(1);
    scene.proxy.be_busy(5);
    let output = scene.client.run(&["create", &scene.home()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(scene.proxy.busy_left(), 0);
    scene.assert_sound(2, "after a burst");
    scene.place.raw().assert_no_remains();

    let unmade = Place::fresh(backend).unwrap();
    let busy = unmade.through(scene.proxy.port());
    let (home, target) = (scene.home(), scene.target());
    let restore: &[&str] = &["restore", "--target", &target, "--no-cache"];
    let commands: [(&Place, &[&str]); 5] = [
        (&busy, &["init"]),
        (&scene.client, &["list", "--no-cache"]),
        (&scene.client, &["verify", "--all"]),
        (&scene.client, restore),
        (&scene.client, &["create", &home]),
    ];
    for (client, arguments) in &commands[..4] {
        scene.proxy.be_busy(5);
        let output = client.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
        assert_eq!(scene.proxy.busy_left(), 0, "{arguments:?}");
    }
    fs::remove_dir_all(scene.client.scratch.path("above")).unwrap();
    unmade.raw().assert_no_remains();

    let fresh = Place::fresh(backend).unwrap();
    let client = fresh.through(scene.proxy.port());
    let commands = commands
        .map(|(_, arguments)| (if arguments[0] == "init" { &client } else { &scene.client }, arguments));
    for client in [&client, &scene.client] {
        client.settle("timeout_seconds = 1");
    }
    scene.proxy.be_busy(u64::MAX);
    for (case, output) in run_side_by_side(&commands) {
        assert_one_sentence(&output, &case);
        assert!(stderr(&output).contains("503"), "{case}: {}", stderr(&output));
    }
    scene.proxy.be_busy(0);
    assert!(!scene.client.scratch.path("above").exists());
    assert_eq!(fresh.raw().names(""), Vec::<String>::new());
    scene.assert_sound(2, "after a server that stayed busy");
    scene.place.raw().assert_no_remains();
}

/// Waits until the program has said how it is to be stopped.
fn wait_until_interruptible(child: &Child) {
    let begun = Instant::now();
    let status = format!("/proc/{}/status", child.id());
    let is_caught = || {
        let status = fs::read_to_string(&status).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(caught.trim(), 16).unwrap() & 2 != 0
    };
    while !is_caught() {
        assert!(begun.elapsed() < WAIT_MAX, "the program listens for no signal");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for the end of a process, which must come.
fn wait_bounded(mut child: Child, case: &str) -> Output {
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > WAIT_MAX {
            child.kill().unwrap();
            panic!("{case}: the program does not end: {}", stderr(&child.wait_with_output().unwrap()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// Runs commands at the same time; returns each as a text, and how it ended.
fn run_side_by_side<'a>(
    commands: &'a [(&Place, &[&str])],
) -> impl Iterator<Item = (String, Output)> + use<'a> {
    let spawn = |(client, arguments): &'a (&Place, &[&str])| {
        let mut command = client.packvault(arguments);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        (format!("{:?}, {arguments:?}", client.backend), child)
    };
    let children: Vec<(String, Child)> = commands.iter().map(spawn).collect();
    children.into_iter().map(|(case, child)| {
        let output = wait_bounded(child, &case);
        (case, output)
    })
}

fn ctrl_c_ends_a_command_whose_line_is_stalled(backend: Backend) {
    let Some(scene) = Scene::new(backend, Duration::ZERO) else { return };
    let (home, target) = (scene.home(), scene.target());
    let unmade = Place::fresh(backend).unwrap().through(scene.proxy.port());
    let commands: [(&Place, &[&str]); 6] = [
        (&unmade, &["init"]),
        (&scene.client, &["list"]),
        (&scene.client, &["create", &home]),
        (&scene.client, &["verify", "--all"]),
        (&scene.client, &["restore", "--target", &target]),
        (&scene.client, &["probe"]),
    ];
    let raw = scene.place.raw();
    let before = raw.names("");
    scene.proxy.stall(true);
    for (client, arguments) in commands {
        let case = format!("{backend:?}, {arguments:?}, stalled from the start");
        let mut command = client.packvault(arguments);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_until_interruptible(&child);
        // Into the middle of its waiting, as a rule; at any moment it must end all the same.
        std::thread::sleep(Duration::from_millis(100));
        interrupt(child, &case);
    }
    scene.proxy.stall(false);
    assert_eq!(raw.names(""), before);
    assert!(!scene.client.scratch.path("above").exists());

    scene.add_noise(1);
    let case = format!("{backend:?}, create, stalled in the middle");
    let mut command = scene.client.packvault(&["create", &home, "--limit-upload", "50KiB"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while raw.names("locks").is_empty() {
        assert!(begun.elapsed() < WAIT_MAX, "{case}: no lock");
    }
    scene.proxy.stall(true);
    interrupt(child, &case);
    scene.proxy.stall(false);
    assert_eq!(manifests(&raw), 1, "{case}");
    scene.create_after(&case);
    scene.assert_sound(2, &case);
}

/// A terminal, `timeout` and a manager of services send their signal to every process of a command, its ssh too.
fn a_signal_to_the_whole_command_lets_it_give_its_lock_back(backend: Backend) {
    let Some(scene) = Scene::new(backend, Duration::ZERO) else { return };
    let (home, raw) = (scene.home(), scene.place.raw());
    for (number, signal) in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT].into_iter().enumerate() {
        scene.add_noise(number + 1);
        let case = format!("{backend:?}, {signal:?} to the group");
        let plain = scene.client.packvault(&["create", &home, "--limit-upload", "50KiB"]);
        let mut command = hearing_every_signal(&plain);
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let begun = Instant::now();
        while raw.names("locks").is_empty() {
            assert!(begun.elapsed() < WAIT_MAX && child.try_wait().unwrap().is_none(), "{case}: no lock");
        }
        kill_process_group(Pid::from_child(&child), signal).unwrap();
        let output = wait_bounded(child, &case);
        assert_eq!(output.status.code(), Some(130), "{case}: {}", stderr(&output));
        assert_eq!(raw.names("locks"), Vec::<String>::new(), "{case}: {}", stderr(&output));
    }
    assert_eq!(manifests(&raw), 1, "{backend:?}");
}

/// Where a line stalls: at once, with the connection or the first answer; or in the middle of what is carried.
#[derive(Debug, Clone, Copy)]
enum Stall {
    AtOnce,
    After(Direction, u64),
}

/// Runs commands side by side over a line that stalls for good, and judges how they end.
fn stall(scene: &Scene, at: Stall, commands: &[(&Place, &[&str])]) {
    match at {
        Stall::AtOnce => scene.proxy.stall(true),
        Stall::After(direction, bytes) => scene.proxy.stall_after(direction, bytes),
    }
    let begun = Instant::now();
    for (case, output) in run_side_by_side(commands) {
        let case = format!("{case}, stalled {at:?}");
        println!("{case}: ended after {:?}", begun.elapsed());
        assert!(scene.proxy.is_stalled(), "{case}: the command needed less: {}", stderr(&output));
        assert_one_sentence(&output, &case);
        let said = stderr(&output);
        assert!(SILENT_NAMES.iter().any(|name| said.contains(name)), "{case}: {said}");
        assert!(begun.elapsed() < SILENT_MAX, "{case}: {:?}: {said}", begun.elapsed());
        assert!(!scene.client.scratch.path("above").exists(), "{case}");
    }
    scene.proxy.stall(false);
    scene.proxy.cut_now();
}

/// What lies beside a manifest is no snapshot.
fn manifests(raw: &Raw) -> usize {
    raw.names("snapshots").iter().filter(|name| name.ends_with(".mvmanifest")).count()
}

fn a_line_that_stalls_for_good_ends_every_command_in_time(backend: Backend) {
    let Some(scene) = Scene::new(backend, Duration::ZERO) else { return };
    scene.client.settle("timeout_seconds = 1");
    // Known by now, the server is not asked what it promises, and what stalls is the command's own.
    scene.client.json(&["verify", "--all"]);
    let unmade = Place::fresh(backend).unwrap().through(scene.proxy.port());
    unmade.settle("timeout_seconds = 1");
    scene.add_noise(1);
    let (client, home, target) = (&scene.client, scene.home(), scene.target());
    let restore: &[&str] = &["restore", "--target", &target, "--no-cache"];
    let (create, verify): (&[&str], &[&str]) = (&["create", &home], &["verify", "--all"]);
    let all: [(&Place, &[&str]); 6] = [
        (&unmade, &["init"]),
        (client, &["list", "--no-cache"]),
        (client, create),
        (client, verify),
        (client, restore),
        (client, &["probe"]),
    ];
    stall(&scene, Stall::AtOnce, &all);
    stall(&scene, Stall::After(Direction::Up, 8_000), &all[..1]);
    stall(&scene, Stall::After(Direction::Up, 100_000), &[(client, create)]);
    assert_eq!(manifests(&scene.place.raw()), 1);
    scene.create_after("after a stall");
    stall(&scene, Stall::After(Direction::Down, 100_000), &[(client, verify), (client, restore)]);
    scene.place.json(&["create", &home, "--force-unlock"]);
    scene.assert_sound(3, "after the stalls");
}

fn interrupt(child: Child, case: &str) {
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let begun = Instant::now();
    let output = wait_bounded(child, case);
    println!("{case}: ended after {:?}", begun.elapsed());
    assert_eq!(output.status.code(), Some(130), "{case}: {}", stderr(&output));
}

macro_rules! on_lines_to {
    ($($module:ident $backend:ident: $($scenario:ident)*;)*) => {
        $(mod $module {
            $(#[test]
            fn $scenario() {
                super::$scenario(crate::support::backends::Backend::$backend);
            })*
        })*
    };
}

on_lines_to! {
    ceph Rgw:
        a_slow_line_carries_every_command
        a_line_that_is_cut_is_taken_up_again
        a_busy_server_is_asked_again_and_named_if_it_stays_busy
        ctrl_c_ends_a_command_whose_line_is_stalled
        a_line_that_stalls_for_good_ends_every_command_in_time;
    minio Minio:
        a_slow_line_carries_every_command
        a_line_that_is_cut_is_taken_up_again
        a_busy_server_is_asked_again_and_named_if_it_stays_busy
        ctrl_c_ends_a_command_whose_line_is_stalled
        a_line_that_stalls_for_good_ends_every_command_in_time;
    moto Moto:
        a_slow_line_carries_every_command
        a_line_that_is_cut_is_taken_up_again
        a_busy_server_is_asked_again_and_named_if_it_stays_busy
        ctrl_c_ends_a_command_whose_line_is_stalled;
    openssh Openssh:
        a_signal_to_the_whole_command_lets_it_give_its_lock_back
        a_slow_line_carries_every_command
        a_line_that_is_cut_is_taken_up_again
        ctrl_c_ends_a_command_whose_line_is_stalled
        a_line_that_stalls_for_good_ends_every_command_in_time;
    openssh_container OpensshContainer:
        a_slow_line_carries_every_command
        a_line_that_is_cut_is_taken_up_again
        ctrl_c_ends_a_command_whose_line_is_stalled
        a_line_that_stalls_for_good_ends_every_command_in_time;
}
