//! The danger: a command that a user of msgvault has in a script is refused for an option that says what is done anyway;
//! or a snapshot says nothing of the text of documents although it was asked to, or is of no use to who reads it.

use packvault::engine::copy::{CopyOptions, copy};
use packvault::engine::create::CreateOptions;
use packvault::engine::list::list;
use packvault::profiles;

use crate::support::memory_repo::*;
use crate::support::{Scratch, stderr};

/// A folder with a database that was backed up once to `./repo`.
fn scene() -> Scratch {
    let scratch = Scratch::new();
    let database = rusqlite::Connection::open(scratch.path("app.db")).unwrap();
    database.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES ('first')").unwrap();
    drop(database);
    ends(&scratch, 0, &["init", "--repo", "./repo", "--progress", "bar"]);
    ends(&scratch, 0, &["create", "--database", "app.db", "--repo", "./repo"]);
    scratch
}

/// Runs a command that must end so, and returns what it said on both outputs.
fn ends(scratch: &Scratch, code: i32, arguments: &[&str]) -> (String, String) {
    let output = scratch.packvault(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
    (String::from_utf8(output.stdout.clone()).unwrap(), stderr(&output))
}

#[test]
fn what_a_restore_does_anyway_can_be_asked_for() {
    let scratch = scene();
    let asked = ["--integrity-check", "--loose-attachments"];
    let restore = ["restore", "--repo", "./repo", "--target", "restored", "--json"];
    let (report, _) = ends(&scratch, 0, &[&restore[..], &asked].concat());
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["proof"]["integrity_check"], "ok");
    let both = ["--integrity-check", "--skip-integrity-check"];
    ends(&scratch, 2, &["restore", "--repo", "./repo", "--target", "elsewhere", both[0], both[1]]);
}

#[test]
fn a_long_list_shows_the_ids_that_the_json_has() {
    let scratch = scene();
    let (json, _) = ends(&scratch, 0, &["list", "--repo", "./repo", "--json"]);
    let rows: serde_json::Value = serde_json::from_str(&json).unwrap();
    let id = rows[0]["id"].as_str().unwrap();
    let (long, _) = ends(&scratch, 0, &["list", "--repo", "./repo", "--long"]);
    assert!(long.lines().nth(1).unwrap().starts_with(&format!("{id}  ")), "{long}");
    assert!(!ends(&scratch, 0, &["list", "--repo", "./repo"]).0.contains(id));
}

#[test]
fn quiet_takes_away_progress_of_any_style() {
    let scratch = scene();
    for style in ["bar", "bars", "plain", "json"] {
        let verify = ["verify", "--repo", "./repo", "-q", "--progress", style];
        assert_eq!(ends(&scratch, 0, &verify), (String::new(), String::new()), "{style}");
    }
    let shown = ends(&scratch, 0, &["verify", "--repo", "./repo", "--progress", "plain"]).1;
    assert!(!shown.is_empty(), "without it there is something to see");
}

/// Has the archive hold the text of documents, as newer versions of msgvault do.
fn add_documents(archive: &Archive) {
    let database = rusqlite::Connection::open(archive.home().join("msgvault.db")).unwrap();
    let statements = "
        CREATE TABLE document_chunks (id INTEGER PRIMARY KEY, text TEXT, char_count INTEGER);
        INSERT INTO document_chunks (text, char_count) VALUES ('what it says', 12);";
    database.execute_batch(statements).unwrap();
}

fn asking() -> CreateOptions {
    CreateOptions { document_text: true, ..CreateOptions::default() }
}

#[test]
fn a_snapshot_says_that_it_holds_text_of_documents_and_comes_back_from_every_copy() {
    runtime().block_on(async {
        for kind in KINDS {
            let (storage, archive, _) = repository_of_kind(kind, 1).await;
            assert!(capture_with(shared(&storage), &archive, asking()).await.is_ok());
            add_documents(&archive);
            let said = capture_with(shared(&storage), &archive, asking()).await.unwrap();
            let made = Made { id: said.id.unwrap(), files: archive.expected() };
            capture(shared(&storage), &archive).await.unwrap();
            let repository = opened(shared(&storage)).await.unwrap();
            let rows = list(&repository).await.unwrap();
            let versions: Vec<Option<u64>> = rows.iter().map(|row| row.version).collect();
            // Before there is such text, and unasked, nothing is said.
            assert_eq!(versions, [Some(1), Some(1), Some(4), Some(1)], "{kind:?}");
            assert_eq!(rows[2].artifacts, ["document-derivatives"]);
            assert_sound(shared(&storage), "with an artifact").await;
            assert_comes_back(shared(&storage), &made, "with an artifact").await;
            let other = packvault_storage::MemoryStorage::new();
            make_repository(&other, kind.opposite()).await.unwrap();
            let target = opened(shared(&other)).await.unwrap();
            copy(&repository, &target, profiles::unnamed(), &CopyOptions::default(), &context())
                .await
                .unwrap();
            assert_sound(shared(&other), "copied").await;
            assert_comes_back(shared(&other), &made, "copied").await;
        }
    });
}

#[test]
fn an_archive_that_is_not_msgvaults_cannot_be_asked_for_text_of_documents() {
    let scratch = scene();
    let create = ["create", "--database", "app.db", "--repo", "./repo", "--document-text"];
    assert!(ends(&scratch, 2, &create).1.contains("only msgvault's snapshots say"));
}
