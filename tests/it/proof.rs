//! The danger: a backup is called proved that nobody could restore; a pack that rotted is never read, or is read once
//! and forgotten; or the proof itself leaves somebody's mail lying about.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rusqlite::Connection;
use serde_json::Value;

use crate::support::encrypted::Home;
use crate::support::small_disk::SmallDisk;
use crate::support::{Scratch, stderr};

const REPO: [&str; 2] = ["--repo", "./repo"];

/// A repository of a database that grew, a pack or two for each of so many snapshots.
fn scene(snapshots: u64) -> Scratch {
    let scratch = Scratch::new();
    assert_eq!(scratch.run(&["init", "--repo", "./repo"]).status.code(), Some(0));
    let database = Connection::open(scratch.path("app.db")).unwrap();
    database.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES ('first')").unwrap();
    for _ in 0..snapshots {
        database.execute_batch("INSERT INTO t VALUES (randomblob(300000))").unwrap();
        scratch.json(&["create", "--repo", "./repo", "--database", "app.db"]);
    }
    scratch
}

/// Runs a command that must end so, and returns its JSON.
fn ends(scratch: &Scratch, code: i32, arguments: &[&str]) -> Value {
    let output = scratch.run(&[arguments, &REPO, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

fn packs(scratch: &Scratch) -> Vec<PathBuf> {
    let shards = fs::read_dir(scratch.path("repo/packs")).unwrap().map(|shard| shard.unwrap().path());
    let mut packs: Vec<PathBuf> =
        shards.flat_map(|shard| fs::read_dir(shard).unwrap().map(|pack| pack.unwrap().path())).collect();
    packs.sort();
    packs
}

/// Turns a bit over in the middle of a file.
fn rot(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

fn count(folder: PathBuf) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

#[test]
fn a_restore_check_restores_measures_and_leaves_nothing() {
    let scratch = scene(2);
    let report = ends(&scratch, 0, &["verify", "--restore-check", "--scratch", "./aside"]);
    assert_eq!((&report["ok"], report["snapshots"].as_array().unwrap().len()), (&true.into(), 1));
    let checked = &report["snapshots"][0];
    assert_eq!(checked["proof"]["integrity_check"], "ok");
    assert!(
        checked["bytes"].as_u64() > Some(600_000) && checked["seconds"].as_f64() > Some(0.0),
        "{checked}"
    );
    assert_eq!(
        ends(&scratch, 0, &["verify", "--restore-check", "--all"])["snapshots"].as_array().unwrap().len(),
        2
    );
    assert_eq!(
        ends(&scratch, 0, &["verify", "--restore-check", "--random"])["snapshots"].as_array().unwrap().len(),
        1
    );
    assert_eq!((count(scratch.path("aside")), count(scratch.path(".local/state/packvault/scratch"))), (0, 0));
    let rows = ends(&scratch, 0, &["history", "--kind", "restore_check"]);
    assert_eq!(rows["runs"].as_array().unwrap().len(), 3);
    assert!(rows["runs"][0]["bytes_read"].as_u64() > Some(0), "{rows}");
    let said = scratch.run(&["verify", "--restore-check", "--repo", "./repo"]);
    assert!(stderr(&said).contains("the restore check needs about"), "{}", stderr(&said));
    assert!(String::from_utf8(said.stdout).unwrap().contains("can be restored: database and 0 files"));
    ends(&scratch, 2, &["verify", "--restore-check", "--sample", "5%"]);
    ends(&scratch, 2, &["verify", "--scratch", "x"]);
}

#[test]
fn a_restore_check_says_what_cannot_be_restored_and_goes_on_to_the_next() {
    let scratch = scene(3);
    let sound: BTreeSet<String> =
        packs(&scratch)[..1].iter().map(|path| path.display().to_string()).collect();
    assert_eq!(sound.len(), 1);
    rot(packs(&scratch).last().unwrap());
    let report = ends(&scratch, 3, &["verify", "--restore-check", "--all", "--scratch", "./aside"]);
    let problems: Vec<bool> =
        report["snapshots"].as_array().unwrap().iter().map(|row| row["problem"].is_string()).collect();
    assert_eq!(problems, [false, false, true], "{report}");
    assert_eq!(count(scratch.path("aside")), 0);
    let row = &ends(&scratch, 0, &["history", "--failed"])["runs"][0];
    assert_eq!((&row["kind"], &row["problems"]), (&"restore_check".into(), &1.into()));
}

#[test]
fn an_encrypted_snapshot_is_restored_for_the_check_with_its_key() {
    let home = Home::new();
    home.create("./repo");
    let said = home.done(&["verify", "--restore-check", "--repo", "./repo"]);
    assert!(said.contains("can be restored"), "{said}");
    let said = home.done(&["verify", "--sample", "100%", "--repo", "./repo"]);
    assert!(said.contains("no problems") && said.contains("coverage: "), "{said}");
}

#[test]
fn a_restore_check_without_room_is_refused_before_it_begins() {
    let scratch = scene(1);
    let Some(disk) = SmallDisk::mount("size=512k") else { return };
    let place = disk.path("").display().to_string();
    let output = scratch.run(&["verify", "--restore-check", "--scratch", &place, "--repo", "./repo"]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(
        said.contains("no room in ") && said.contains("are free") && said.contains("hint: make room"),
        "{said}"
    );
    assert_eq!(count(disk.path("")), 0);
}

const CHECK: [&str; 6] = ["verify", "--restore-check", "--scratch", "./aside", "--repo", "./repo"];

/// Starts a restore check that takes a while, and kills it when its folder is there.
fn killed_check(scratch: &Scratch, state: &str) {
    let database = Connection::open(scratch.path("app.db")).unwrap();
    for _ in 0..40 {
        database.execute_batch("INSERT INTO t VALUES (randomblob(1000000))").unwrap();
    }
    scratch.json(&["create", "--repo", "./repo", "--database", "app.db"]);
    let mut command = scratch.packvault(&CHECK);
    let command = command.env("XDG_STATE_HOME", state).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let is_there = |entry: fs::DirEntry| entry.file_type().unwrap().is_dir();
    while !fs::read_dir(scratch.path("aside")).is_ok_and(|entries| entries.flatten().any(is_there)) {
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was seen");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn what_a_killed_restore_check_leaves_beside_its_scratch_goes_with_the_next_one() {
    let scratch = scene(1);
    killed_check(&scratch, "/dev/null/state");
    assert_eq!(count(scratch.path("aside")), 2, "it left its folder and its mark");
    // One of somebody else, or that leads nowhere, is left.
    fs::write(scratch.path("aside/.packvault-restore-check-other.mark"), "/nowhere").unwrap();
    let output = scratch.packvault(&CHECK).env("XDG_STATE_HOME", "/dev/null/state").output().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 11)), "{}", stderr(&output));
    assert_eq!(count(scratch.path("aside")), 1);
}

#[test]
fn what_a_killed_restore_check_leaves_goes_with_the_next_command() {
    let scratch = scene(1);
    killed_check(&scratch, scratch.path(".local/state").to_str().unwrap());
    assert_eq!(count(scratch.path("aside")), 1, "it left something");
    scratch.json(&["history"]);
    assert_eq!((count(scratch.path("aside")), count(scratch.path(".local/state/packvault/scratch"))), (0, 0));
}

#[test]
fn samples_read_every_pack_in_turn_and_say_how_much_that_is() {
    let scratch = scene(4);
    let number = packs(&scratch).len();
    let mut packs_read = Vec::new();
    for run in 1..=number {
        let report = ends(&scratch, 0, &["verify", "--sample", "1 B"]);
        let sample = &report["sample"];
        assert_eq!((&sample["packs"], &sample["packs_total"]), (&1.into(), &number.into()), "{sample}");
        packs_read.push(sample["coverage"]["packs"].as_u64().unwrap());
        assert_eq!(sample["coverage"]["packs_unread"].as_u64(), Some((number - run) as u64), "{sample}");
    }
    assert_eq!(packs_read, (1..=number as u64).collect::<Vec<_>>());
    let report = ends(&scratch, 0, &["verify", "--sample", "50%"]);
    let coverage = &report["sample"]["coverage"];
    assert_eq!(coverage["bytes"], report["sample"]["bytes_total"], "{report}");
    // Who forgets begins anew, and says so.
    fs::remove_dir_all(scratch.path(".local/state/packvault")).unwrap();
    let report = ends(&scratch, 0, &["verify", "--sample", "1 B"]);
    assert_eq!(report["sample"]["coverage"]["packs"], 1, "{report}");
    fs::remove_dir_all(scratch.path(".local/state/packvault")).unwrap();
    fs::write(scratch.path(".local/state/packvault"), "x").unwrap();
    let report = ends(&scratch, 0, &["verify", "--sample", "1 B"]);
    assert!(report["sample"]["coverage"].is_null(), "{report}");
    assert!(report["warnings"][0].as_str().unwrap().contains("cannot be recorded"), "{report}");
}

#[test]
fn a_rotten_pack_is_found_within_the_promised_runs_named_as_a_whole_verify_names_it_and_not_forgotten() {
    let scratch = scene(3);
    let number = packs(&scratch).len();
    ends(&scratch, 0, &["verify", "--sample", "1 B"]);
    let rotten = packs(&scratch)[number / 2].clone();
    let sound = fs::read(&rotten).unwrap();
    rot(&rotten);
    let whole = ends(&scratch, 3, &["verify", "--all"]);
    fs::remove_dir_all(scratch.path(".local/state/packvault")).unwrap();
    let mut found = None;
    for run in 1..=number {
        let output = scratch.run(&["verify", "--sample", "1 B", "--repo", "./repo", "--json"]);
        if output.status.code() == Some(3) {
            found = Some((run, serde_json::from_slice::<Value>(&output.stdout).unwrap()));
            break;
        }
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    let (_, report) = found.expect("it is found");
    assert_eq!(report["problems"], whole["problems"]);
    for _ in 0..2 {
        let again = ends(&scratch, 3, &["verify", "--sample", "1 B"]);
        assert_eq!(again["sample"]["packs_again"], 1, "{again}");
    }
    fs::remove_file(&rotten).unwrap();
    fs::write(&rotten, sound).unwrap();
    assert_eq!(ends(&scratch, 0, &["verify", "--sample", "1 B"])["sample"]["packs_again"], 1);
    assert_eq!(ends(&scratch, 0, &["verify", "--sample", "1 B"])["sample"]["packs_again"], 0);
}

#[test]
fn a_pack_that_is_gone_is_told_by_every_sample() {
    let scratch = scene(3);
    fs::remove_file(packs(&scratch).last().unwrap()).unwrap();
    let whole = ends(&scratch, 3, &["verify", "--all"]);
    for _ in 0..3 {
        let report = ends(&scratch, 3, &["verify", "--sample", "1 B"]);
        let gone = |report: &Value| {
            let problems = report["problems"].as_array().unwrap().iter();
            problems.map(|problem| problem["blob"].to_string()).collect::<BTreeSet<_>>()
        };
        assert_eq!(gone(&report), gone(&whole));
    }
}

#[test]
fn the_report_tells_backups_proof_reading_and_failures_and_is_one_page_without_a_script() {
    let scratch = scene(2);
    ends(&scratch, 0, &["verify", "--restore-check"]);
    ends(&scratch, 0, &["verify", "--sample", "100%"]);
    let nowhere = "./<script>alert(1)</script>";
    assert_eq!(scratch.run(&["list", "--repo", nowhere]).status.code(), Some(10));
    let report = scratch.json(&["report"]);
    let place =
        report["places"].as_array().unwrap().iter().find(|place| place["backups"]["done"] == 2).unwrap();
    assert_eq!((&place["proof"]["proved"], &place["restored"][0]["proved"]), (&1.into(), &true.into()));
    assert_eq!(place["reading"]["bytes_read"], place["reading"]["bytes_total"], "{place}");
    assert!(place["made"][1]["bytes"].as_u64() > Some(600_000), "{place}");
    let failed: Vec<&Value> = report["places"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|place| place["failures"].as_array().unwrap())
        .collect();
    assert_eq!(failed.iter().filter(|failure| failure["exit_code"] == 10).count(), 1, "{report}");
    let output = scratch.run(&["report", "--html", "page.html", "--since", "30d"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0), "{}", stderr(&output));
    let page = fs::read_to_string(scratch.path("page.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("&lt;script&gt;") && !page.contains("<script"), "{page}");
    assert_eq!(scratch.run(&["report", "--html", "no/such/folder/page.html"]).status.code(), Some(1));
    let text = String::from_utf8(scratch.run(&["report"]).stdout).unwrap();
    assert!(text.contains("2 done, 0 failed") && text.contains("(100 %)"), "{text}");
    let empty = Scratch::new();
    let text = String::from_utf8(empty.run(&["report"]).stdout).unwrap();
    assert!(text.starts_with("nothing was recorded"), "{text}");
}

#[test]
fn a_snapshot_of_a_damaged_source_is_a_finding_of_a_restore_check_and_the_others_are_tried() {
    let scratch = scene(1);
    let create = ["create", "--repo", "./repo", "--database", "app.db", "--json"];
    let database = Connection::open(scratch.path("app.db")).unwrap();
    let broken =
        "CREATE TABLE c (a CHECK (a > 0)); PRAGMA ignore_check_constraints = ON; INSERT INTO c VALUES (-1)";
    database.execute_batch(broken).unwrap();
    assert_eq!(scratch.run(&create).status.code(), Some(4));
    database.execute_batch("DELETE FROM c").unwrap();
    assert_eq!(scratch.run(&create).status.code(), Some(0));
    let report = ends(&scratch, 3, &["verify", "--restore-check", "--all"]);
    let problems: Vec<&str> = report["snapshots"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["problem"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(problems.len(), 3, "{report}");
    assert!(problems[0].is_empty() && problems[2].is_empty(), "{problems:?}");
    assert!(problems[1].contains("CHECK constraint failed in c"), "{problems:?}");
}
