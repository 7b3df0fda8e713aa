//! The danger: the history of a row leaves out a version, invents one, or pays for every snapshot what only a few changed.

use std::sync::Arc;

use packvault::engine::inside::history::{
    HistoryOptions, OwnedValue, RowHistory, Version, Versions, history,
};
use packvault::{ErrorKind, Result};
use packvault_storage::{MemoryStorage, Operation, RecordStorage, Storage};
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::support::memory_repo::*;
use crate::support::{Scratch, archives, stderr};

/// Versions as they were told: the snapshot, the text of a column, and which columns changed.
#[derive(Default)]
struct Told(Vec<(String, Option<String>, Vec<String>)>);

impl Versions for Told {
    fn version(&mut self, version: &Version<'_>) -> Result<()> {
        let subject = version.row.map(|row| {
            let value = row.iter().find(|(name, _)| name == "subject").map(|(_, value)| value.clone());
            match value.unwrap() {
                OwnedValue::Text(text) => String::from_utf8(text).unwrap(),
                other => format!("{other:?}"),
            }
        });
        self.0.push((version.snapshot.to_owned(), subject, version.changed.to_vec()));
        Ok(())
    }
}

async fn of_message(storage: Arc<dyn Storage>, table: &str, key: &str) -> (Told, Result<RowHistory>) {
    let options =
        HistoryOptions { table: table.into(), key: vec![key.to_owned()], ..HistoryOptions::default() };
    let mut told = Told::default();
    let repository = opened(storage).await.unwrap();
    let found = history(&repository, &options, &mut told, &context()).await;
    (told, found)
}

fn change(archive: &Archive, sql: &str) {
    let connection = Connection::open(archive.home().join("msgvault.db")).unwrap();
    connection.execute_batch(sql).unwrap();
    connection.close().unwrap();
}

/// Makes snapshots, with a change of the archive before each.
async fn captured(kind: Kind, archive: &Archive, changes: &[&str]) -> (MemoryStorage, Vec<String>) {
    let storage = MemoryStorage::new();
    make_repository(&storage, kind).await.unwrap();
    let mut ids = Vec::new();
    for sql in changes {
        change(archive, sql);
        ids.push(capture(shared(&storage), archive).await.unwrap().id.unwrap());
    }
    (storage, ids)
}

const CHANGES: [&str; 7] = [
    "DELETE FROM messages WHERE id = 7",
    "INSERT INTO messages (id, conversation_id, source_id, message_type, subject) VALUES (7, 1, 1, 'email', 'one')",
    "UPDATE messages SET subject = 'another one' WHERE id = 8",
    "UPDATE messages SET subject = 'two', snippet = 'new' WHERE id = 7",
    "ALTER TABLE messages ADD COLUMN late TEXT",
    "DELETE FROM messages WHERE id = 7",
    "INSERT INTO labels (name) VALUES ('nothing about it')",
];

#[test]
fn every_version_of_a_row_is_told_with_the_first_snapshot_that_has_it() {
    runtime().block_on(async {
        for kind in KINDS {
            let (storage, ids) = captured(kind, &Archive::small(), &CHANGES).await;
            let (told, found) = of_message(shared(&storage), "messages", "7").await;
            let version = |id: usize, subject: Option<&str>, changed: &[&str]| {
                let changed = changed.iter().map(|name| (*name).to_owned()).collect();
                (ids[id].clone(), subject.map(str::to_owned), changed)
            };
            let expected = [
                version(1, Some("one"), &[]),
                version(3, Some("two"), &["subject", "snippet"]),
                version(4, Some("two"), &["late"]),
                version(5, None, &[]),
            ];
            assert_eq!(told.0, expected, "{kind:?}");
            let found = found.unwrap();
            assert_eq!((found.snapshots, found.versions, found.problems.len()), (7, 4, 0), "{kind:?}");
            for (table, key, words) in
                [("messages", "123456", "no snapshot has a row"), ("nowhere", "1", "a table")]
            {
                let (told, found) = of_message(shared(&storage), table, key).await;
                let error = found.unwrap_err();
                assert!(told.0.is_empty() && error.kind() == ErrorKind::NotFound, "{error:?}");
                assert!(error.to_string().contains(words), "{error}");
            }
        }
    });
}

#[test]
fn a_snapshot_that_is_damaged_is_named_and_the_others_are_told() {
    runtime().block_on(async {
        let (storage, ids) = captured(Kind::Plain, &Archive::small(), &CHANGES).await;
        storage.put_raw(
            &key(&format!("snapshots/{}.mvmanifest", ids[6])),
            "no manifest",
            std::time::SystemTime::now(),
        );
        let (told, found) = of_message(shared(&storage), "messages", "7").await;
        let found = found.unwrap();
        assert_eq!((told.0.len(), found.snapshots), (4, 6));
        assert_eq!(found.problems.iter().map(|problem| &problem.snapshot).collect::<Vec<_>>(), [&ids[6]]);
    });
}

#[test]
fn a_snapshot_in_which_nothing_on_the_way_to_the_row_has_changed_costs_its_maps_alone() {
    runtime().block_on(async {
        let archive = Archive::of_small_pages();
        let (storage, ids) = captured(Kind::Plain, &archive, &["SELECT 1"]).await;
        let reads = async |storage: &MemoryStorage| {
            let record = RecordStorage::new(shared(storage));
            let (told, found) = of_message(Arc::new(record.clone()), "messages", "7").await;
            assert_eq!((told.0.len(), found.unwrap().versions), (1, 1));
            let calls = record.take_calls();
            let is_of_packs = |call: &&packvault_storage::record::Call| call.object.starts_with("packs/");
            let reads = calls.iter().filter(|call| call.operation == Operation::Read).filter(is_of_packs);
            reads.map(|call| call.bytes).sum::<u64>()
        };
        let alone = reads(&storage).await;
        for number in 0..6 {
            change(&archive, &format!("UPDATE labels SET name = name || '{number}' WHERE id = 1"));
            capture(shared(&storage), &archive).await.unwrap();
        }
        let all = reads(&storage).await;
        // Each brought a few pages and small maps; what the row was found by is kept.
        assert!(all < alone + 6 * 16 * 1024, "{alone} bytes for one snapshot, {all} for seven of {}", ids[0]);
    });
}

#[test]
fn the_program_shows_the_versions_and_answers_for_words_that_make_no_sense() {
    let scratch = Scratch::new();
    archives::make(&scratch.path("home"), &archives::tiny());
    let database = scratch.path("home/msgvault.db");
    let change = |sql: &str| Connection::open(&database).unwrap().execute_batch(sql).unwrap();
    assert!(scratch.run(&["init", "--repo", "./repo"]).status.success());
    for subject in ["first", "\u{1b}[2J second", "third"] {
        change(&format!("UPDATE messages SET subject = '{subject}', metadata = x'00ff' WHERE id = 1"));
        let output = scratch.run(&["create", "home", "--repo", "./repo"]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    let row = ["history", "--table", "messages", "--row", "1", "--repo", "./repo"];
    let output = scratch.run(&row);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.ends_with("3 versions in 3 snapshots\n") && text.contains("  changed: subject\n"), "{text}");
    assert!(
        text.contains("  subject  third\n") && text.contains("\\u{1b}[2J") && !text.contains('\u{1b}'),
        "{text}"
    );
    let report = scratch.json(&row);
    let versions: Vec<&Value> = report["versions"].as_array().unwrap().iter().collect();
    assert_eq!(versions.len(), 3);
    assert_eq!(versions[2]["row"]["subject"], "third");
    assert_eq!(versions[2]["row"]["metadata"], json!({ "blob": "00ff" }));
    assert_eq!(versions[2]["changed"], json!(["subject"]));
    assert_eq!((&report["snapshots"], &report["problems"]), (&json!(3), &json!([])));
    for (words, code) in [
        (&["history", "--table", "messages", "--repo", "./repo"][..], 2),
        (&["history", "--row", "1"], 2),
        (&["history", "--table", "messages", "--row", "1", "--failed", "--repo", "./repo"], 2),
        (&["history", "--table", "message_labels", "--row", "1", "--repo", "./repo"], 2),
        (&["history", "--table", "messages", "--row", "987654321", "--repo", "./repo"], 1),
        (&["history", "--table", "nowhere", "--row", "-1", "--repo", "./repo", "--json"], 1),
    ] {
        let output = scratch.run(words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{words:?}");
    }
}
