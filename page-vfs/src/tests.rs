//! SQLite reads what a source holds, in either journal mode, and nothing that a source does ends the process.

use std::path::Path;

use super::*;

struct Memory {
    bytes: Vec<u8>,
    /// Reads at this offset and beyond fail, or panic.
    fails_from: Option<u64>,
    panics: bool,
}

impl PageSource for Memory {
    fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> bool {
        if self.fails_from.is_some_and(|from| offset >= from) {
            assert!(!self.panics, "a source that panics");
            return false;
        }
        let from = offset as usize;
        buffer.copy_from_slice(&self.bytes[from..from + buffer.len()]);
        true
    }
}

fn made(folder: &Path, mode: &str, more: &str) -> Vec<u8> {
    let path = folder.join(format!("{mode}.db"));
    let connection = Connection::open(&path).unwrap();
    let statements = format!(
        "PRAGMA journal_mode = {mode}; CREATE TABLE t (id INTEGER PRIMARY KEY, word TEXT);
         WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n LIMIT 2000)
         INSERT INTO t SELECT i, 'word ' || i FROM n; {more}"
    );
    connection.execute_batch(&statements).unwrap();
    drop(connection);
    std::fs::read(path).unwrap()
}

fn memory(bytes: Vec<u8>) -> Arc<dyn PageSource> {
    Arc::new(Memory { bytes, fails_from: None, panics: false })
}

fn sum(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT sum(id) FROM t", [], |row| row.get(0))
}

#[test]
fn a_database_is_read_in_either_journal_mode_and_never_written() {
    let folder = tempfile::tempdir().unwrap();
    for mode in ["delete", "wal"] {
        let connection = open(memory(made(folder.path(), mode, ""))).unwrap();
        assert_eq!(sum(&connection).unwrap(), 2000 * 2001 / 2, "{mode}");
        for statement in
            ["DELETE FROM t", "CREATE TABLE u (a)", "VACUUM", "ATTACH '0' AS other; SELECT * FROM other.t"]
        {
            assert!(connection.execute_batch(statement).is_err(), "{mode}: {statement}");
        }
        let word = "SELECT word FROM t WHERE id = 77";
        let word: String = connection.query_row(word, [], |row| row.get(0)).unwrap();
        assert_eq!(word, "word 77");
    }
}

#[test]
fn full_text_search_works() {
    let folder = tempfile::tempdir().unwrap();
    let index = "CREATE VIRTUAL TABLE f USING fts5 (word); INSERT INTO f SELECT word FROM t;";
    let connection = open(memory(made(folder.path(), "wal", index))).unwrap();
    let found = "SELECT count(*) FROM f WHERE f MATCH '1234'";
    assert_eq!(connection.query_row(found, [], |row| row.get::<_, i64>(0)).unwrap(), 1);
}

#[test]
fn several_databases_are_open_at_once_each_with_its_own_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) =
        (made(folder.path(), "delete", ""), made(folder.path(), "wal", "DELETE FROM t WHERE id > 1;"));
    let (one, other) = (open(memory(one)).unwrap(), open(memory(other)).unwrap());
    assert_eq!((sum(&one).unwrap(), sum(&other).unwrap()), (2000 * 2001 / 2, 1));
    drop(one);
    assert_eq!(sum(&other).unwrap(), 1);
}

#[test]
fn a_source_that_fails_or_panics_is_an_error_of_reading() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = made(folder.path(), "delete", "");
    for panics in [false, true] {
        let source = Memory { bytes: bytes.clone(), fails_from: Some(4096 * 3), panics };
        let error = sum(&open(Arc::new(source)).unwrap()).unwrap_err();
        assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::SystemIoFailure), "{error}");
    }
}

#[test]
fn bytes_that_are_no_database_or_end_early_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = made(folder.path(), "delete", "");
    assert!(sum(&open(memory(b"not a database, but long enough to look at".repeat(200))).unwrap()).is_err());
    assert!(sum(&open(memory(Vec::new())).unwrap()).is_err(), "an empty one has no table");
    bytes.truncate(6000);
    assert!(sum(&open(memory(bytes)).unwrap()).is_err());
}

#[test]
fn a_source_is_dropped_with_its_connection() {
    let source = memory(Vec::new());
    let connection = open(source.clone()).unwrap();
    drop(connection);
    assert_eq!(Arc::strong_count(&source), 1);
}
