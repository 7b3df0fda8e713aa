//! The danger: a repository that the other engine wrote opens here, and something in it is missed, misread or
//! put back otherwise than it was.
//!
//! Each fixture is such a repository, with the other engine's own account of what it holds.

use packvault::ErrorKind;
use packvault::engine::Selection;
use packvault::engine::report::Check;
use packvault::engine::restore::RestoreOptions;
use serde_json::Value;

use crate::support::fixture::{Fixture, REPOSITORIES, assert_restored, id};
use crate::support::operations::{list, one, restore, try_restore, verify};
use crate::support::{Scratch, assert_no_remains, stderr};

#[test]
fn every_fixture_lists_what_its_manifests_say() {
    let scratch = Scratch::new();
    for name in REPOSITORIES {
        let fixture = Fixture::copied(name, &scratch);
        let rows = list(&fixture.repository);
        assert_eq!(rows.len(), fixture.snapshots().len(), "{name}");
        for (row, expected) in rows.iter().zip(fixture.snapshots()) {
            let text = |key: &str| expected[key].as_str().unwrap();
            assert_eq!(row.problem, None, "{name}");
            assert_eq!(row.id, text("snapshot_id"));
            assert_eq!(row.parent.as_deref().unwrap_or_default(), text("parent_id"));
            assert_eq!(row.created_at.as_deref(), Some(text("created_at")));
            assert_eq!(row.tag.as_deref(), expected["options"]["tag"].as_str());
            assert_eq!(row.version, expected["format_version"].as_u64());
            assert_eq!(row.attachments, expected["attachments"]["blobs"].as_u64());
            assert_eq!(row.bytes_added, expected["bytes_added"].as_u64());
            let database = &expected["db"];
            let bytes = database["page_size"].as_u64().unwrap() * database["page_count"].as_u64().unwrap();
            assert_eq!(row.database_bytes, Some(bytes));
            let stats: Value = serde_json::from_str(row.stats.as_ref().unwrap().get()).unwrap();
            assert_eq!(stats, expected["stats"]);
        }
    }
}

#[test]
fn every_fixture_verifies_with_the_other_engines_numbers() {
    let scratch = Scratch::new();
    for name in REPOSITORIES {
        let fixture = Fixture::copied(name, &scratch);
        for (selection, quick, key) in
            [(Selection::All, false, "verify_all"), (Selection::Latest, true, "verify_quick")]
        {
            let expected = &fixture.expected[key];
            let report = verify(&fixture.repository, selection, quick);
            assert!(report.ok && report.problems.is_empty(), "{name}: {:#?}", report.problems);
            assert_eq!(report.snapshots, expected["snapshots"].as_u64().unwrap(), "{name} {key}");
            assert_eq!(report.blobs, expected["blobs_checked"].as_u64().unwrap(), "{name} {key}");
        }
        let quick = verify(&fixture.repository, Selection::All, true);
        assert!(quick.ok && quick.bytes == 0, "{name}: {:#?}", quick.problems);
        assert_eq!(quick.blobs, fixture.expected["verify_all"]["blobs_checked"].as_u64().unwrap(), "{name}");
        assert_no_remains(&fixture.repository);
    }
}

#[test]
fn every_snapshot_of_every_fixture_restores_file_for_file_and_mode_for_mode() {
    let scratch = Scratch::new();
    for name in REPOSITORIES {
        let fixture = Fixture::copied(name, &scratch);
        for snapshot in fixture.snapshots() {
            if !snapshot["metadata"].is_null() {
                continue;
            }
            let target = scratch.path(&format!("restored {name} {}", id(snapshot)));
            let options =
                RestoreOptions { target: target.clone(), without_auxiliary: true, ..Default::default() };
            let report = try_restore(&fixture.repository, one(id(snapshot)), options).unwrap();
            assert_restored(snapshot, &target);
            let database = report.database.unwrap();
            assert!(database.identical, "{name}");
            assert_eq!(database.pages, snapshot["db"]["page_count"].as_u64().unwrap());
            assert_eq!(report.extras, snapshot["extras_entries"].as_array().map_or(0, Vec::len) as u64);
            assert_eq!((report.proof.integrity_check, report.proof.stats), (Check::Ok, Check::Ok));
            std::fs::remove_dir_all(&target).unwrap();
        }
        assert_no_remains(&fixture.repository);
    }
}

#[test]
fn the_program_lists_verifies_and_restores_a_fixture() {
    let scratch = Scratch::new();
    let fixture = Fixture::copied("extras", &scratch);
    let newest = fixture.snapshots().last().unwrap();
    let rows = scratch.json(&["list", "--repo", "./extras"]);
    assert_eq!(rows.as_array().unwrap().last().unwrap()["id"], newest["snapshot_id"]);
    let report = scratch.json(&["verify", "--repo", "./extras", "--all"]);
    assert_eq!(
        (&report["ok"], &report["blobs"]),
        (&Value::Bool(true), &fixture.expected["verify_all"]["blobs_checked"])
    );
    let report = scratch.json(&["restore", "--repo", "./extras", "--target", "out/er/most"]);
    assert_eq!(report["id"], newest["snapshot_id"]);
    assert_restored(newest, &scratch.path("out/er/most"));
}

#[test]
fn a_portable_snapshot_is_refused_before_the_target_is_touched() {
    let scratch = Scratch::new();
    let fixture = Fixture::copied("portable", &scratch);
    let portable: Vec<&Value> =
        fixture.snapshots().iter().filter(|snapshot| !snapshot["metadata"].is_null()).collect();
    assert!(portable.len() >= 2, "version 3, and version 4 with portable metadata");
    for snapshot in portable {
        let target = scratch.path("above/target");
        let options = RestoreOptions { target: target.clone(), ..Default::default() };
        let error = try_restore(&fixture.repository, one(id(snapshot)), options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(
            error.to_string().contains("which only the application that wrote it can rebuild"),
            "{error}"
        );
        assert!(!scratch.path("above").exists());
    }
    assert_no_remains(&fixture.repository);
    let snapshot = id(fixture.snapshots().first().unwrap());
    let output = scratch.run(&["restore", snapshot, "--repo", "./portable", "--target", "target"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("portable metadata"), "{}", stderr(&output));
    assert!(!scratch.path("target").exists());
}

#[test]
fn the_applications_own_artifact_restores_and_others_only_when_left_out_by_name() {
    let scratch = Scratch::new();
    let fixture = Fixture::copied("auxiliary", &scratch);
    let [_, own, others] = fixture.snapshots() else { panic!("three snapshots") };
    let target = scratch.path("own");
    let report = restore(&fixture.repository, id(own), &target);
    assert!(report.left_out.is_empty());
    assert_restored(own, &target);

    let target = scratch.path("others");
    let mut options = RestoreOptions { target: target.clone(), ..Default::default() };
    let error = try_restore(&fixture.repository, one(id(others)), options.clone()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("\"alpha.json\""), "{error}");
    assert!(!target.exists());
    options.without_auxiliary = true;
    let report = try_restore(&fixture.repository, one(id(others)), options).unwrap();
    assert_eq!(report.left_out, ["alpha.json", "zz-last"]);
    assert_restored(others, &target);

    let flags = ["restore", id(others), "--repo", "./auxiliary", "--target", "third"];
    let output = scratch.run(&flags);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("alpha.json"), "{}", stderr(&output));
    let report = scratch.json(&[flags.as_slice(), &["--without-auxiliary"]].concat());
    assert_eq!(report["left_out"], serde_json::json!(["alpha.json", "zz-last"]));
}
