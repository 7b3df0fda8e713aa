//! Clocks that disagree: ours an hour off, and a holder that was stopped for longer than its lock is good for.

use std::fs::{self, File};
use std::process::{Output, Stdio};
use std::time::{Duration, SystemTime};

use packvault::format::LockRecord;
use packvault_test_servers::{Minio, missing, set_clock};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::archives::add_attachment;
use crate::support::backends::{Backend, Place, key};
use crate::support::memory_repo::*;
use crate::support::operations::block_on;
use crate::support::stderr;

/// An hour later, and earlier.
const OFFSETS: [i64; 2] = [3600, -3600];

/// Twice as long as a lock is good for.
const LONG_AGO: Duration = Duration::from_secs(60 * 60);

/// How long a wait for another process may take on a busy machine.
const WAIT_MAX: Duration = Duration::from_secs(120);

/// Returns the name of an exclusive lock of somebody else.
fn foreign_lock(place: &Place) -> &'static str {
    match place.backend.has_renames() {
        true => "locks/exclusive.json",
        false => "locks/exclusive-01arz3ndektsv4rrffq69g5fav.json",
    }
}

fn plant_foreign_lock(place: &Place) {
    let record = LockRecord {
        hostname: "elsewhere".to_owned(),
        pid: 1,
        operation: "create".to_owned(),
        acquired_at: "2026-01-01T00:00:00Z".to_owned(),
        holder: None,
    };
    block_on(place.storage().create(&key(foreign_lock(place)), record.encode().into())).unwrap();
}

/// Lets every lock look as if it had not been touched for long; tells whether that can be done here.
fn age_locks(place: &Place) -> bool {
    // rclone remembers the times of files for minutes.
    let Some(folder) = place.local_folder().filter(|_| place.backend != Backend::RcloneSftp) else {
        return false;
    };
    for entry in fs::read_dir(folder.join("locks")).unwrap() {
        let lock = File::options().write(true).open(entry.unwrap().path()).unwrap();
        lock.set_modified(SystemTime::now() - LONG_AGO).unwrap();
    }
    true
}

/// Runs the program with a clock that is wrong; `None` where that cannot be done, which was then said aloud.
fn run_at(place: &Place, offset: i64, arguments: &[&str]) -> Option<Output> {
    let mut command = place.packvault(arguments);
    if let Err(what) = set_clock(&mut command, offset) {
        missing(&what);
        return None;
    }
    Some(command.output().unwrap())
}

pub fn locks_are_judged_by_the_clock_of_the_store(place: &Place) {
    place.json(&["init"]);
    let archive = Archive::small();
    let home = archive.home();
    let create = ["create", home.to_str().unwrap()];
    place.json(&create);
    for offset in OFFSETS {
        plant_foreign_lock(place);
        let Some(output) = run_at(place, offset, &["verify"]) else { return };
        let said = stderr(&output);
        if is_refused_for_its_clock(place, &output) {
            place.raw().put(foreign_lock(place), None);
            continue;
        }
        assert_eq!(output.status.code(), Some(11), "{offset}: a fresh lock is no stale one: {said}");
        assert!(said.contains("held by elsewhere pid 1"), "{said}");
        if age_locks(place) {
            let output = run_at(place, offset, &create).unwrap();
            assert_eq!(
                output.status.code(),
                Some(0),
                "{offset}: a stale lock is reaped: {}",
                stderr(&output)
            );
            place.raw().assert_no_remains();
        } else {
            place.raw().put(foreign_lock(place), None);
        }
        let output = run_at(place, offset, &create).unwrap();
        assert_eq!(output.status.code(), Some(0), "{offset}: {}", stderr(&output));
    }
    place.json(&create);
    block_on(assert_sound(place.storage(), "clocks an hour off"));
    place.raw().assert_no_remains();
}

/// Checks how a store that looks at the time of each request refuses ours.
fn is_refused_for_its_clock(place: &Place, output: &Output) -> bool {
    let said = stderr(output);
    let is_refused = matches!(output.status.code(), Some(1 | 2));
    if is_refused {
        assert!(place.backend.is_s3(), "{said}");
        assert!(said.contains("this machine's clock says"), "{said}");
    }
    let looks_at_the_time = match place.backend {
        Backend::Rgw => true,
        Backend::Minio => !Minio::is_replaced(),
        _ => false,
    };
    assert!(is_refused || !looks_at_the_time, "{:?} looks at the time: {said}", place.backend);
    is_refused
}

/// Stops a create in the middle, lets its lock grow old and somebody else take over, and wakes it up.
fn pause_a_holder(backend: Backend) {
    let Some(place) = Place::fresh(backend) else { return };
    place.json(&["init"]);
    let archives = [Archive::small(), Archive::small()];
    add_attachment(&archives[0].home(), &noise(150_000));
    let home = archives[0].home();
    let arguments = ["create", home.to_str().unwrap(), "--adopt", "--limit-upload", "40KiB"];
    let mut command = place.packvault(&arguments);
    let holder = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let raw = place.raw();
    let begun = SystemTime::now();
    while raw.names("locks").is_empty() {
        assert!(begun.elapsed().unwrap() < WAIT_MAX, "the holder takes no lock");
    }
    kill_process(Pid::from_child(&holder), Signal::STOP).unwrap();
    // What it has sent before reaches the server all the same, and touches the lock.
    std::thread::sleep(Duration::from_secs(1));
    assert!(age_locks(&place));
    let successor = place.again();
    let home = archives[1].home();
    let report = successor.json(&["create", home.to_str().unwrap()]);
    let made = Made { id: report["id"].as_str().unwrap().to_owned(), files: archives[1].expected() };
    kill_process(Pid::from_child(&holder), Signal::CONT).unwrap();
    let output = holder.wait_with_output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(11), "{said}");
    assert!(said.contains("was taken over by another process"), "{said}");
    let mut manifests = raw.names("snapshots");
    manifests.retain(|name| name.ends_with(".mvmanifest"));
    assert_eq!(manifests, [format!("snapshots/{}.mvmanifest", made.id)]);
    block_on(assert_sound(place.storage(), "a paused holder"));
    block_on(assert_comes_back(place.storage(), &made, "a paused holder"));
    assert_eq!(raw.names("locks"), Vec::<String>::new());
}

/// Returns bytes that no compression makes shorter.
pub fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

#[test]
fn a_paused_holder_on_openssh_publishes_nothing_over_its_successor() {
    pause_a_holder(Backend::Openssh);
}

#[test]
fn a_paused_holder_on_a_plain_nas_publishes_nothing_over_its_successor() {
    pause_a_holder(Backend::PlainProftpd);
}
