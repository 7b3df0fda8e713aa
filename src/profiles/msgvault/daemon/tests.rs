//! Which records count, and which processes can have written them.

use std::time::Duration;

use super::*;
use crate::archive::gate::Gatekeeper as _;
use crate::cancel::Cancel;
use crate::progress::Heard;

fn candidate(pid: u32, create_time: Option<i64>) -> Candidate {
    Candidate::Read(Record {
        pid,
        started_at: None,
        address: "127.0.0.1:1".parse().unwrap(),
        api_version: API_VERSION.to_owned(),
        shutdown_token: None,
        create_time,
        startup_phase: None,
    })
}

#[test]
fn a_process_that_started_at_another_time_is_another_process() {
    let lives = |started_at| Process::Lives { started_at };
    for (recorded, process, expected) in [
        (Some(10_000), Process::Gone, false),
        (None, Process::Gone, false),
        (Some(10_000), lives(Some(12_000)), true),
        (Some(10_000), lives(Some(8_000)), true),
        (Some(10_000), lives(Some(12_001)), false),
        (Some(10_000), lives(Some(7_999)), false),
        (None, lives(Some(10_000)), true),
        (Some(10_000), lives(None), true),
    ] {
        assert_eq!(may_be(&candidate(7, recorded), process), expected, "{recorded:?} {process:?}");
    }
}

#[test]
fn what_does_not_pass_is_given_up_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let gatekeeper = MsgvaultGatekeeper {
        data_dir: folder.path().to_owned(),
        config_file: folder.path().join("config.toml"),
        lock_names: vec!["daemon.lock".to_owned()],
        patience: Patience { starting: Duration::ZERO, locked: Duration::from_millis(1) },
    };
    let said = Heard::default();
    let begin = || gatekeeper.begin(&Cancel::new(), &said).unwrap_err();
    let lock = std::fs::File::create(folder.path().join("daemon.lock")).unwrap();
    lock.try_lock().unwrap();
    let error = begin();
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert!(error.to_string().contains("another process holds"), "{error}");
    assert_eq!(said.remarks().len(), 1, "it was waited for");
    let pid = std::process::id();
    let record =
        format!(r#"{{"pid":{pid},"address":"127.0.0.1:1","metadata":{{"startup_phase":"migrating"}}}}"#);
    std::fs::write(folder.path().join(format!("daemon.{pid}.json")), record).unwrap();
    let error = begin();
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert!(error.chain().contains("it is starting (migrating)"), "{error:?}");
}

#[test]
fn without_a_record_there_is_no_daemon() {
    let folder = tempfile::tempdir().unwrap();
    assert!(find(folder.path()).unwrap().is_none());
    assert!(find(&folder.path().join("none")).unwrap().is_none());
}

#[test]
fn a_process_that_lives_and_cannot_be_asked_stops_the_backup() {
    let folder = tempfile::tempdir().unwrap();
    let pid = std::process::id();
    std::fs::write(folder.path().join(format!("daemon.{pid}.json")), "{\"metadata\"").unwrap();
    std::fs::write(folder.path().join("daemon.4294967295.json"), "{").unwrap();
    let error = find(folder.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains(&format!("process {pid}")), "{error}");
    check_none_responds(folder.path()).unwrap();
}
