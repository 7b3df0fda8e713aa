//! The danger: a comparison of rows leaves out one that differs, for it looks only at pages that seem to; invents one; or
//! takes a row for another.
//!
//! Tables of every kind are changed at random, and what is told is compared with what SQLite finds in the two files.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use packvault::engine::Selection;
use packvault::engine::inside::rows::{
    DifferentRow, DifferentRows, RowChange, RowsOptions, RowsReport, rows,
};
use packvault::engine::inside::sql::{More, Value};
use packvault::format::SnapshotId;
use packvault::{ErrorKind, Result};
use packvault_storage::{MemoryStorage, RecordStorage, Storage};
use rusqlite::Connection;
use rusqlite::types::ValueRef;

use crate::support::memory_repo::*;
use crate::support::{Scratch, archives, stderr};

/// A table, and the expression that tells its rows apart.
const TABLES: [(&str, &str); 5] = [
    ("numbered", "quote(id)"),
    ("named", "CASE WHEN k IS NULL THEN 'rowid ' || rowid ELSE quote(k) END"),
    ("bare", "'rowid ' || rowid"),
    ("paired", "quote(a) || ' ' || quote(b)"),
    ("odd \"one\"", "quote(rowid) || quote(\"oid\")"),
];

const SCHEMA: &str = "
    CREATE TABLE numbered (id INTEGER PRIMARY KEY, a TEXT, b BLOB);
    CREATE TABLE named (k TEXT PRIMARY KEY, v);
    CREATE TABLE bare (v);
    CREATE TABLE paired (a INTEGER, b TEXT, v, PRIMARY KEY (b, a)) WITHOUT ROWID;
    CREATE TABLE \"odd \"\"one\"\"\" (rowid TEXT, oid INTEGER, v, PRIMARY KEY (rowid, oid));
    WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 2000)
    INSERT INTO numbered SELECT i * 3, 'text ' || i, CASE WHEN i % 100 = 0 THEN zeroblob(9000) ELSE zeroblob(90) END FROM c;
    INSERT INTO named SELECT CASE WHEN id % 50 = 0 THEN NULL ELSE 'key ' || id END, a FROM numbered;
    INSERT INTO bare SELECT a FROM numbered;
    INSERT INTO paired SELECT id % 7, a, id FROM numbered;
    INSERT INTO \"odd \"\"one\"\"\" SELECT a, id, id FROM numbered;";

/// What is done before each snapshot but the first.
const CHANGES: [&str; 7] = [
    // A few rows, here and there.
    "UPDATE numbered SET a = 'new' WHERE id IN (3, 2400); DELETE FROM numbered WHERE id = 900;
     INSERT INTO numbered VALUES (901, 'late', x'00'), (-5, 'before all', NULL);
     UPDATE named SET v = 1 WHERE k = 'key 99'; DELETE FROM named WHERE rowid = 50; INSERT INTO named VALUES (NULL, 'x');
     UPDATE bare SET v = 2 WHERE rowid = 77; DELETE FROM bare WHERE rowid = 1999;
     UPDATE paired SET v = NULL WHERE a = 3 AND b = 'text 1'; INSERT INTO paired VALUES (3, 'TEXT 1', 0);
     UPDATE \"odd \"\"one\"\"\" SET v = 0 WHERE oid = 30; DELETE FROM \"odd \"\"one\"\"\" WHERE oid = 33;",
    // Only pages on which a value goes on: its leaf stays as it was.
    "UPDATE numbered SET b = CAST(substr(b, 1, 8990) || '0123456789' AS BLOB) WHERE id = 300;",
    // Nothing of these tables.
    "CREATE TABLE other (x); INSERT INTO other VALUES (zeroblob(50000));",
    // Everything lies elsewhere, and leaves are free that lie there still.
    "DELETE FROM numbered WHERE id BETWEEN 1000 AND 3000; DROP TABLE other;",
    "VACUUM",
    // Another definition, with no page of a row changed.
    "ALTER TABLE numbered ADD COLUMN later TEXT DEFAULT 'x'",
    "UPDATE numbered SET id = id + 1 WHERE id > 5990; UPDATE numbered SET later = 'y' WHERE id = 3;
     INSERT OR REPLACE INTO named VALUES ('key 12', 'again'); UPDATE named SET k = 'KEY 15' WHERE k = 'key 15';",
];

/// What was told: how each row differs, by what tells it apart.
type Told = BTreeMap<String, RowChange>;

#[derive(Clone, Default)]
struct Taking(Arc<Mutex<Vec<(String, RowChange)>>>);

impl DifferentRows for Taking {
    fn begin(&mut self, _: &str, _: &str) -> Result<()> {
        Ok(())
    }

    fn row(&mut self, row: &DifferentRow<'_>) -> Result<More> {
        let key = row.key.iter().map(|(name, value)| format!("{name} {}", shown(value)));
        self.0.lock().unwrap().push((key.collect::<Vec<_>>().join(" "), row.change));
        let (before, after) = (row.before.len(), row.after.len());
        let is_as_said = match row.change {
            RowChange::Added => before == 0 && after > 0,
            RowChange::Removed => before > 0 && after == 0,
            RowChange::Changed => before == after && after > 0,
        };
        assert!(is_as_said, "{row:?}");
        Ok(More::Wanted)
    }

    fn end(&mut self, _: &RowsReport) -> Result<()> {
        Ok(())
    }
}

fn shown(value: &Value<'_>) -> String {
    match value {
        Value::Text(text) => format!("'{}'", String::from_utf8_lossy(text)),
        Value::Integer(number) => number.to_string(),
        other => format!("{other:?}"),
    }
}

async fn told(
    storage: Arc<dyn Storage>,
    ids: (&str, &str),
    table: &str,
) -> Result<(Vec<(String, RowChange)>, RowsReport)> {
    let one = |id: &str| Selection::One(SnapshotId::parse(id).unwrap());
    let options = RowsOptions { table: table.to_owned(), ..RowsOptions::default() };
    let (taking, repository) = (Taking::default(), opened(storage).await?);
    let sides = (one(ids.0), one(ids.1));
    let report = rows(&repository, sides, &options, Box::new(taking.clone()), &context()).await?;
    let told = taking.0.lock().unwrap().clone();
    Ok((told, report))
}

/// All rows of a table in a database: what tells each apart, and its columns.
fn all(database: &[u8], table: &str, key: &str) -> BTreeMap<String, Vec<(String, String)>> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), database).unwrap();
    let connection = Connection::open(file.path()).unwrap();
    let sql = format!("SELECT {key}, * FROM \"{}\"", table.replace('"', "\"\""));
    let mut statement = connection.prepare(&sql).unwrap();
    let names: Vec<String> = statement.column_names().skip(1).map(str::to_owned).collect();
    let mut rows = statement.query([]).unwrap();
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next().unwrap() {
        let text = |column: usize| match row.get_ref(column).unwrap() {
            ValueRef::Text(text) => format!("'{}'", String::from_utf8_lossy(text)),
            other => format!("{other:?}"),
        };
        let columns = names.iter().enumerate().map(|(place, name)| (name.clone(), text(place + 1)));
        found.insert(row.get::<_, String>(0).unwrap(), columns.collect());
    }
    found
}

/// How many rows were added, removed and changed, by SQLite's word.
fn truth(before: &[u8], after: &[u8], table: &str, key: &str) -> (Told, [u64; 3]) {
    let (before, after) = (all(before, table, key), all(after, table, key));
    let mut found = Told::new();
    for (key, row) in &before {
        match after.get(key) {
            None => _ = found.insert(key.clone(), RowChange::Removed),
            // Columns that only one has are not compared.
            Some(other)
                if row.iter().any(|column| other.iter().any(|it| it.0 == column.0 && it != column)) =>
            {
                found.insert(key.clone(), RowChange::Changed);
            }
            Some(_) => {}
        }
    }
    let added = after.keys().filter(|key| !before.contains_key(*key));
    found.extend(added.map(|key| (key.clone(), RowChange::Added)));
    let count = |change: RowChange| found.values().filter(|found| **found == change).count() as u64;
    let counts = [RowChange::Added, RowChange::Removed, RowChange::Changed].map(count);
    (found, counts)
}

/// Makes snapshots with a change before each, and returns them with the database of each.
async fn captured(kind: Kind) -> (MemoryStorage, Vec<(String, Vec<u8>)>) {
    let (storage, archive) = (MemoryStorage::new(), Archive::small());
    make_repository(&storage, kind).await.unwrap();
    let database = archive.home().join("msgvault.db");
    let mut made = Vec::new();
    for sql in [SCHEMA].into_iter().chain(CHANGES) {
        let connection = Connection::open(&database).unwrap();
        connection.execute_batch(sql).unwrap();
        connection.close().unwrap();
        let id = capture(shared(&storage), &archive).await.unwrap().id.unwrap();
        made.push((id, std::fs::read(&database).unwrap()));
    }
    (storage, made)
}

#[test]
fn the_rows_that_differ_are_those_that_sqlite_finds_to_differ() {
    runtime().block_on(async {
        let (storage, made) = captured(Kind::Plain).await;
        let mut by_pages = 0;
        let neighbours = (1..made.len()).map(|number| (number - 1, number));
        for (one, other) in neighbours.chain([(0, made.len() - 1), (made.len() - 1, 0), (2, 2)]) {
            let (before, after) = (&made[one], &made[other]);
            for (table, key) in TABLES {
                let (rows, report) = told(shared(&storage), (&before.0, &after.0), table).await.unwrap();
                let (expected, counts) = truth(&before.1, &after.1, table, key);
                let case = format!("{table} from {one} to {other}: {rows:?}, {expected:?}");
                assert_eq!([report.added, report.removed, report.changed], counts, "{case}");
                assert_eq!(rows.len(), expected.len(), "{case}");
                // Where the key is a number, it is that of the row.
                if table == "numbered" {
                    let rows: Told =
                        rows.iter().map(|(key, change)| (key.replace("id ", ""), *change)).collect();
                    assert_eq!(rows, expected, "{case}");
                }
                by_pages += u64::from(report.by_pages);
            }
        }
        assert!(by_pages >= 8, "{by_pages} comparisons looked only at what differs");
    });
}

#[test]
fn only_pages_that_differ_are_read_of_a_table_of_which_little_has_changed() {
    runtime().block_on(async {
        let (storage, made) = captured(Kind::Encrypted).await;
        let (_, report) = told(shared(&storage), (&made[0].0, &made[1].0), "numbered").await.unwrap();
        assert!(report.by_pages);
        let (_, report) = told(shared(&storage), (&made[1].0, &made[2].0), "numbered").await.unwrap();
        assert!(!report.by_pages, "a value that goes on elsewhere may have changed");
        let (rows, report) = told(shared(&storage), (&made[2].0, &made[3].0), "numbered").await.unwrap();
        assert!(report.by_pages && rows.is_empty());
        // A snapshot with itself: the rows need not be read at all.
        let record = Arc::new(RecordStorage::new(shared(&storage)));
        let own: Arc<dyn Storage> = record.clone();
        let (rows, report) = told(own, (&made[1].0, &made[1].0), "bare").await.unwrap();
        assert!(report.by_pages && rows.is_empty());
    });
}

#[test]
fn a_table_that_is_not_there_or_has_another_key_is_told_as_such() {
    runtime().block_on(async {
        let (storage, made) = captured(Kind::Plain).await;
        let compare = async |one: usize, other: usize, table: &str| {
            told(shared(&storage), (&made[one].0, &made[other].0), table).await
        };
        let (rows, report) = compare(2, 3, "OTHER").await.unwrap();
        assert_eq!((rows.len(), report.added, report.warnings.len()), (1, 1, 1), "{report:?}");
        let (_, report) = compare(3, 4, "other").await.unwrap();
        assert_eq!((report.removed, report.warnings.len()), (1, 1), "{report:?}");
        let error = compare(0, 1, "nowhere").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let (_, report) = compare(5, 6, "numbered").await.unwrap();
        assert!(report.changed == 0 && report.warnings[0].contains("\"later\""), "{report:?}");
    });
}

#[test]
fn the_program_shows_rows_as_text_and_as_json_and_nothing_moves_the_terminal() {
    let scratch = Scratch::new();
    let home = scratch.path("home");
    archives::make(&home, &archives::tiny());
    let run = |words: &[&str]| scratch.run(&[words, &["--repo", "./repo"]].concat());
    assert!(run(&["init"]).status.success());
    for sql in [
        "CREATE VIRTUAL TABLE f USING fts5 (x); CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT);
                 INSERT INTO t VALUES (1, 'one'), (2, 'two')",
        "UPDATE t SET v = char(27) || '[2J' WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (3, NULL)",
    ] {
        Connection::open(home.join("msgvault.db")).unwrap().execute_batch(sql).unwrap();
        let made = run(&["create", "home"]);
        assert!(made.status.success(), "{}", stderr(&made));
    }
    let output = run(&["diff", "latest~1", "latest", "--rows", "t"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let expected = "\
changed  id=1
  v  one
     -> \\u{1b}[2J
removed  id=2
  v  two
added    id=3
  v  NULL
1 row added, 1 removed, 1 changed
";
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&text).last(), lines(expected).last());
    assert_eq!(text, expected);
    let words = ["diff", "latest~1", "latest", "--rows", "t", "--repo", "./repo"];
    let json = scratch.json(&words);
    assert_eq!((&json["added"], &json["removed"], &json["changed"]), (&1.into(), &1.into(), &1.into()));
    let rows = serde_json::json!([
        {"change": "changed", "key": {"id": 1}, "before": {"v": "one"}, "after": {"v": "\u{1b}[2J"}},
        {"change": "removed", "key": {"id": 2}, "before": {"id": 2, "v": "two"}, "after": null},
        {"change": "added", "key": {"id": 3}, "before": null, "after": {"id": 3, "v": null}},
    ]);
    assert_eq!(json["rows"], rows);
    for (table, code) in [("nowhere", 1), ("f", 2)] {
        let output = run(&["diff", "latest~1", "latest", "--rows", table]);
        assert_eq!(output.status.code(), Some(code), "{table}: {}", stderr(&output));
    }
}
