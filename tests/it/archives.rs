//! The danger: an archive of an unusual shape - its page size, its journal, the way it keeps attachments - is
//! captured without a complaint, and what comes back is not what was there.
//!
//! Each archive is captured, changed and captured again; every snapshot must come back as the archive was then.

use std::fs;
use std::path::Path;

use packvault::engine::report::Check;
use packvault_sample::{AttachmentStorage, Change, ContentKind, Journal, SampleOptions, mutate};
use rusqlite::Connection;

use crate::support::archives::{
    Generation, add_attachment, canonical, execute, expected_attachments, make, tiny, write_attachment,
};
use crate::support::operations::{assert_sound, init, manifest, manifests, restore};
use crate::support::{Scratch, assert_no_remains, contents, sha256, tree};

/// Captures an archive, then changes and captures it again and again; every snapshot must restore.
fn live_through(options: &SampleOptions, changes: &[Change]) {
    let scratch = Scratch::new();
    let (home, repository) = (scratch.path("home"), init(&scratch.path("repository")));
    make(&home, options);
    let mut generations = vec![Generation::capture(&repository, &home, &scratch)];
    for change in changes {
        mutate(&home, change).unwrap();
        generations.push(Generation::capture(&repository, &home, &scratch));
        assert_no_remains(&repository);
    }
    let report = assert_sound(&repository);
    assert_eq!(report.snapshots as usize, generations.len());
    generations.iter().for_each(|generation| generation.assert_restores(&repository, &scratch));
}

fn days(count: usize) -> Vec<Change> {
    vec![Change::default(); count]
}

#[test]
fn ten_days_of_an_ordinary_archive_come_back_byte_for_byte() {
    live_through(&SampleOptions::default(), &days(10));
}

#[test]
fn the_smallest_and_the_largest_pages_come_back() {
    for page_size in [512, 65536] {
        live_through(&SampleOptions { page_size, ..tiny() }, &days(3));
    }
}

#[test]
fn an_archive_with_a_rollback_journal_comes_back() {
    live_through(&SampleOptions { journal: Journal::Rollback, ..tiny() }, &days(3));
}

#[test]
fn changes_that_stand_only_in_the_wal_are_captured() {
    let leave_wal = Change { leave_wal: true, ..Change::default() };
    live_through(&tiny(), &[leave_wal.clone(), leave_wal.clone(), Change::default(), leave_wal]);
}

#[test]
fn a_database_that_shrinks_and_grows_comes_back() {
    let vacuum = Change { vacuum: true, delete_fraction: 0.5, ..Change::default() };
    let growth = Change { insert_fraction: 2.0, ..Change::default() };
    live_through(&SampleOptions::default(), &[vacuum.clone(), growth.clone(), vacuum, growth]);
}

#[test]
fn an_archive_with_documents_comes_back() {
    let more = Change { documents: 3, ..Change::default() };
    live_through(&SampleOptions { documents: 5, ..tiny() }, &[more.clone(), more]);
}

#[test]
fn compressed_loose_attachments_come_back_as_what_they_hold() {
    let options = SampleOptions {
        storage: AttachmentStorage::CompressedLoose,
        large: vec![(9_000_000, ContentKind::Text), (0, ContentKind::Zero)],
        ..tiny()
    };
    live_through(&options, &days(3));
}

#[test]
fn large_and_empty_attachments_come_back() {
    let large = vec![
        (0, ContentKind::Zero),
        (1, ContentKind::Random),
        (20_000_000, ContentKind::Random),
        (20_000_000, ContentKind::Zero),
        (4 * 1024 * 1024, ContentKind::Text),
        (4 * 1024 * 1024 + 1, ContentKind::Text),
    ];
    let more = Change { large: vec![(9_000_000, ContentKind::Text)], ..Change::default() };
    live_through(&SampleOptions { large, ..tiny() }, &[more, Change::default()]);
}

#[test]
fn a_namespaced_archive_comes_back_at_every_path_and_as_version_two() {
    let scratch = Scratch::new();
    let (home, repository) = (scratch.path("home"), init(&scratch.path("repository")));
    make(&home, &SampleOptions { namespaced_fraction: 0.3, attachments: 30, ..tiny() });
    let mut generations = Vec::new();
    for _ in 0..3 {
        generations.push(Generation::capture(&repository, &home, &scratch));
        mutate(&home, &Change::default()).unwrap();
    }
    let paths = expected_attachments(&generations[0].database);
    assert!(paths.keys().any(|path| path.starts_with("synctech-sms/")));
    let versions: Vec<_> = manifests(&repository).iter().map(|manifest| manifest.format_version).collect();
    assert_eq!(versions, [2, 2, 2]);
    assert_sound(&repository);
    generations.iter().for_each(|generation| generation.assert_restores(&repository, &scratch));
}

/// Returns the number of rows that describe the live packs.
fn pack_rows(database: &Path) -> i64 {
    let count =
        "SELECT (SELECT count(*) FROM attachment_pack_index) + (SELECT count(*) FROM attachment_packs)";
    Connection::open(database).unwrap().query_row(count, [], |row| row.get(0)).unwrap()
}

/// Returns every row of a table in a form that can be compared.
fn rows(database: &Path, table: &str) -> Vec<String> {
    let connection = Connection::open(database).unwrap();
    let mut statement = connection.prepare(&format!("SELECT * FROM {table} ORDER BY rowid")).unwrap();
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| {
        Ok((0..columns).map(|column| format!("{:?} ", row.get_ref(column).unwrap())).collect::<String>())
    });
    rows.unwrap().collect::<rusqlite::Result<_>>().unwrap()
}

#[test]
fn packed_attachments_come_back_loose_and_the_database_says_so() {
    let scratch = Scratch::new();
    let (home, repository) = (scratch.path("home"), init(&scratch.path("repository")));
    let storage = AttachmentStorage::Packs;
    make(&home, &SampleOptions { storage, namespaced_fraction: 0.2, attachments: 30, ..tiny() });
    let mut generations = Vec::new();
    for _ in 0..4 {
        generations.push(Generation::capture(&repository, &home, &scratch));
        mutate(&home, &Change::default()).unwrap();
    }
    assert_sound(&repository);
    for generation in &generations {
        assert!(pack_rows(&generation.database) > 0);
        let target = scratch.path(&generation.id);
        let report = restore(&repository, &generation.id, &target);
        assert!(!report.database.unwrap().identical);
        assert_eq!((report.proof.integrity_check, report.proof.stats), (Check::Ok, Check::Ok));
        generation.assert_files(&report, &target);
        let restored = target.join("msgvault.db");
        assert_eq!(pack_rows(&restored), 0);
        for table in ["messages", "attachments", "labels", "conversations"] {
            assert_eq!(rows(&restored, table), rows(&generation.database, table), "{table}");
        }
        fs::remove_dir_all(&target).unwrap();
    }
}

#[test]
fn missing_and_wrong_sizes_in_the_database_do_not_matter() {
    let scratch = Scratch::new();
    let home = scratch.path("home");
    make(&home, &SampleOptions { large: vec![(6_000_000, ContentKind::Random)], ..tiny() });
    let large = "(SELECT max(id) FROM attachments)";
    for sizes in [
        "UPDATE attachments SET size = NULL".to_owned(),
        "UPDATE attachments SET size = 1".to_owned(),
        "UPDATE attachments SET size = 9223372036854775807".to_owned(),
        format!(
            "UPDATE attachments SET size = CASE id % 3 WHEN 0 THEN -5 WHEN 1 THEN 'many' END WHERE id < {large}"
        ),
    ] {
        // A repository for each, so that every attachment is new.
        let repository = init(&scratch.path(&sha256(sizes.as_bytes())));
        execute(&home, &sizes);
        let generation = Generation::capture(&repository, &home, &scratch);
        assert_sound(&repository);
        generation.assert_restores(&repository, &scratch);
        let recorded = manifest(&repository, &generation.id).attachments.blob_bytes as u64;
        assert_eq!(recorded, generation.report.attachments.bytes);
    }
}

#[test]
fn thumbnails_count_as_attachments_and_once_when_they_are_contents_too() {
    let scratch = Scratch::new();
    let (home, repository) = (scratch.path("home"), init(&scratch.path("repository")));
    make(&home, &SampleOptions { attachments: 0, ..tiny() });
    let content = add_attachment(&home, b"a photo");
    add_attachment(&home, b"another photo");
    let thumbnail = canonical(b"a small photo");
    write_attachment(&home, &thumbnail, b"a small photo");
    execute(
        &home,
        &format!(
            "UPDATE attachments SET thumbnail_path = '{thumbnail}', thumbnail_hash = substr('{thumbnail}', 4);
             UPDATE attachments SET thumbnail_path = '{content}', thumbnail_hash = substr('{content}', 4)
             WHERE storage_path <> '{content}'"
        ),
    );
    let generation = Generation::capture(&repository, &home, &scratch);
    assert_eq!(generation.report.attachments.blobs, 3);
    let stats: serde_json::Value =
        serde_json::from_str(&manifest(&repository, &generation.id).stats).unwrap();
    assert_eq!((&stats["attachment_rows"], &stats["attachment_blobs"]), (&2.into(), &3.into()));
    assert_sound(&repository);
    generation.assert_restores(&repository, &scratch);
}

#[test]
fn the_program_captures_and_restores_an_archive_with_its_configuration_and_tokens() {
    let scratch = Scratch::new();
    make(&scratch.path("home"), &tiny());
    let id = scratch.json(&["init", "--repo", "./repository"])["id"].clone();
    assert_eq!(id.as_str().unwrap().len(), 36);
    let flags = ["--include-config", "--include-tokens", "--allow-plaintext-secrets", "--tag", "a <b> & ☃"];
    let created = scratch.json(&[&["create", "home", "--repo", "./repository"], flags.as_slice()].concat());
    assert_eq!(created["tag"], "a <b> & ☃");
    let restored = scratch.json(&["restore", "--repo", "./repository", "--target", "target"]);
    assert_eq!((&restored["id"], &restored["extras"]), (&created["id"], &created["extras"]));
    let derived = ["vectors.db", "analytics", "logs", "imports", "tmp", "backup-cache", "attachments"];
    let is_kept = |path: &String| {
        let first = path.split('/').next().unwrap();
        !derived.contains(&first) && !first.ends_with(".lock")
    };
    let kept = |home: &str| tree(&scratch.path(home)).into_keys().filter(is_kept).collect::<Vec<_>>();
    assert!(kept("home").iter().any(|path| path.starts_with("tokens/")));
    assert_eq!(kept("target"), kept("home"));
    let expected = expected_attachments(&scratch.path("home/msgvault.db"));
    assert_eq!(contents(&scratch.path("target/attachments")), expected);
    let created = scratch.json(&["create", "home", "--repo", "./repository"]);
    assert_eq!(created["parent"], restored["id"]);
    assert_eq!(scratch.json(&["verify", "--all", "--repo", "./repository"])["ok"], true);
}
