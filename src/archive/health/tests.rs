use std::path::PathBuf;

use super::*;
use crate::Cancel;
use crate::archive::sqlite::{open_at_rest, open_to_check};

struct Made {
    #[allow(dead_code, reason = "held for its drop")]
    folder: tempfile::TempDir,
    path: PathBuf,
}

/// Makes a database by an application that has more than we have.
fn made(sql: &str) -> Made {
    use rusqlite::functions::FunctionFlags;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let connection = Connection::open(&path).unwrap();
    connection.create_collation("icu_root", |a, b| b.cmp(a)).unwrap();
    let flags = FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    connection.create_scalar_function("sortkey", 1, flags, |context| context.get::<i64>(0)).unwrap();
    connection.execute_batch(sql).unwrap();
    Made { folder, path }
}

fn both(made: &Made, depth: Depth) -> [Health; 2] {
    let bounds = Bounds::unhurried(&Cancel::new());
    [open_at_rest(&made.path).unwrap(), open_to_check(&made.path).unwrap()]
        .map(|mut connection| examine(&mut connection, (&made.path, "app.db"), depth, &bounds).unwrap())
}

const ROWS: &str = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n LIMIT 300) \
                    INSERT INTO m SELECT i, 't' || i FROM n;";

#[test]
fn a_sound_database_has_no_problems_and_stays_as_it_is() {
    for mode in ["delete", "wal"] {
        let sql = format!("PRAGMA journal_mode = {mode}; CREATE TABLE m (a CHECK (a > 0), b UNIQUE); {ROWS}");
        let made = made(&sql);
        let before = std::fs::read(&made.path).unwrap();
        for health in both(&made, Depth::Full) {
            assert_eq!(health, Health::default(), "{mode}");
        }
        assert!(std::fs::read(&made.path).unwrap() == before, "{mode}: it was written to");
        let beside: Vec<_> = std::fs::read_dir(made.path.parent().unwrap()).unwrap().collect();
        assert_eq!(beside.len(), 1, "{mode}: {beside:?}");
    }
}

#[test]
fn a_row_that_breaks_a_constraint_is_found_whichever_way_the_database_is_opened() {
    for table in [
        "m (a CHECK (a > 0), b)",
        "\"we\"\"ird m\" (a, b, CONSTRAINT positive CHECK (a > 0))",
        "m (a INTEGER PRIMARY KEY CHECK (a > 0), b TEXT NOT NULL) STRICT",
        "m (a, b, c AS (a * 2) STORED CHECK (c > 0), PRIMARY KEY (a, b)) WITHOUT ROWID",
        "m (a REFERENCES other (x) CHECK (/* ) */ a > 0), b UNIQUE) -- ) trailing",
    ] {
        let name = table.split(" (").next().unwrap();
        let made = made(&format!(
            "PRAGMA ignore_check_constraints = ON; CREATE TABLE {table}\n; \
             PRAGMA foreign_keys = OFF; INSERT INTO {name} (a, b) VALUES (1, 'x'), (-1, 'y'), (2, 'z')"
        ));
        for depth in [Depth::Quick, Depth::Full] {
            for health in both(&made, depth) {
                assert_eq!(health.problems.len(), 1, "{table}: {health:?}");
                assert!(health.problems[0].contains("CHECK constraint failed in"), "{health:?}");
                assert!(health.unchecked.is_empty(), "{health:?}");
            }
        }
    }
}

#[test]
fn what_only_the_application_has_is_named_and_the_rest_is_checked() {
    for (table, words) in [
        ("CREATE TABLE m (a, b); CREATE INDEX i ON m (b COLLATE icu_root)", "icu_root"),
        ("CREATE TABLE m (a, b COLLATE icu_root UNIQUE)", "icu_root"),
        ("CREATE TABLE m (a, b); CREATE INDEX i ON m (sortkey(a))", "sortkey"),
        ("CREATE TABLE m (a, b); CREATE INDEX i ON m (a) WHERE sortkey(a) > 3", "sortkey"),
        ("CREATE TABLE m (a CHECK (sortkey(a) > 0), b)", "sortkey"),
        ("CREATE TABLE m (a NOT NULL, b, c AS (sortkey(a)) VIRTUAL NOT NULL)", "sortkey"),
    ] {
        let made = made(&format!("{table}; {ROWS} CREATE TABLE other (x); INSERT INTO other VALUES (1)"));
        for health in both(&made, Depth::Full) {
            assert!(health.problems.is_empty(), "{table}: {health:?}");
            assert_eq!(health.unchecked.len(), 1, "{table}: {health:?}");
            assert!(health.unchecked[0].contains("\"m\""), "{table}: {health:?}");
            assert!(health.unchecked[0].contains(words), "{table}: {health:?}");
        }
    }
}

#[test]
fn a_module_and_a_tokenizer_of_the_application_are_named() {
    for (using, replaced, by) in [
        ("fts5(x)", "fts5(x)", "vec0(x)"),
        ("fts5(x)", "fts5(x)", "nosuch"),
        ("fts5(x)", "fts5(x)", "fts5(x, tokenize=ours)"),
        ("fts4(x)", "fts4(x)", "fts4(x, tokenize=collating)"),
    ] {
        let made = made(&format!(
            "CREATE TABLE m (a, b); {ROWS} CREATE VIRTUAL TABLE f USING {using}; INSERT INTO f VALUES ('word'); \
             PRAGMA writable_schema = ON; \
             UPDATE sqlite_master SET sql = replace(sql, '{replaced}', '{by}') WHERE name = 'f'"
        ));
        for depth in [Depth::Quick, Depth::Full] {
            for health in both(&made, depth) {
                assert!(health.problems.is_empty(), "{by}: {health:?}");
                assert_eq!(health.unchecked.len(), 1, "{by}: {health:?}");
                assert!(health.unchecked[0].contains("\"f\""), "{by}: {health:?}");
            }
        }
    }
}

#[test]
fn a_virtual_table_whose_own_tables_are_gone_is_a_problem() {
    let made = made(&format!(
        "CREATE TABLE m (a, b); {ROWS} PRAGMA writable_schema = ON; \
         INSERT INTO sqlite_master VALUES ('table', 'f', 'f', 0, 'CREATE VIRTUAL TABLE f USING fts5(x)')"
    ));
    for health in both(&made, Depth::Full) {
        assert_eq!((health.problems.len(), health.unchecked.len()), (1, 0), "{health:?}");
    }
}

#[test]
fn damage_is_found_in_a_database_that_cannot_be_checked_as_a_whole() {
    let sql = "CREATE TABLE m (a, b); CREATE INDEX i ON m (b COLLATE icu_root);";
    let made = made(&format!("{sql} {ROWS} CREATE TABLE n (a, b UNIQUE); INSERT INTO n VALUES (1, 2)"));
    let sound = std::fs::read(&made.path).unwrap();
    let root = |name: &str| {
        let connection = Connection::open(&made.path).unwrap();
        let sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?1";
        connection.query_row(sql, [name], |row| row.get::<_, i64>(0)).unwrap() as usize
    };
    let pages = [root("m"), root("i"), root("n")];
    for page in pages {
        let mut bytes = sound.clone();
        bytes[(page - 1) * 4096..][..8].fill(0xee);
        std::fs::write(&made.path, bytes).unwrap();
        for health in both(&made, Depth::Full) {
            assert!(!health.problems.is_empty(), "page {page}: {health:?}");
        }
    }
}

#[test]
fn an_old_full_text_index_that_is_out_of_step_is_found_by_either_check() {
    let made = made(&format!(
        "CREATE TABLE m (a INTEGER PRIMARY KEY, b); {ROWS} CREATE VIRTUAL TABLE f USING fts4 (content='m', b); \
         INSERT INTO f (f) VALUES ('rebuild'); UPDATE m SET b = 'changed' WHERE a = 5"
    ));
    for depth in [Depth::Quick, Depth::Full] {
        for health in both(&made, depth) {
            assert_eq!(health.problems.len(), 1, "{health:?}");
            assert!(health.problems[0].contains("inverted index"), "{health:?}");
        }
    }
}

#[test]
fn a_check_that_takes_too_much_is_no_fault_of_a_source() {
    crate::archive::bounds::grant_memory(crate::archive::bounds::MEMORY_BYTES_MAX);
    let made = made(&format!(
        "CREATE TABLE m (a, b); {ROWS} CREATE INDEX i ON m (a); PRAGMA writable_schema = ON; \
         UPDATE sqlite_schema SET sql = 'CREATE INDEX i ON m (0 * length(hex(zeroblob(499000000 + 0 * a))))' \
         WHERE name = 'i'"
    ));
    let bounds = Bounds::unhurried(&Cancel::new());
    let error =
        examine(&mut open_to_check(&made.path).unwrap(), (&made.path, "app.db"), Depth::Full, &bounds)
            .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
    let health =
        examine_source(&mut open_at_rest(&made.path).unwrap(), &made.path, Depth::Full, &bounds).unwrap();
    assert!(health.problems.is_empty() && health.unchecked[0].contains("memory"), "{health:?}");
}

#[test]
fn a_page_that_the_system_refuses_is_no_damage_and_one_that_is_not_there_is() {
    let line = |code: i32| format!("Tree 2 page 43: unable to get the page. error code={code}");
    let no_answer = [ffi::SQLITE_IOERR_READ, ffi::SQLITE_IOERR_CORRUPTFS, ffi::SQLITE_CANTOPEN];
    for code in no_answer {
        let error = unread(&line(code)).unwrap();
        let error = bounded_error("check", "a.db".as_ref(), error);
        assert_eq!(error.kind(), ErrorKind::Io, "{code}");
        assert!(error.chain().contains("cannot check the database a.db"), "{}", error.chain());
    }
    for code in [ffi::SQLITE_CORRUPT, ffi::SQLITE_IOERR_SHORT_READ, ffi::SQLITE_NOTADB] {
        assert!(unread(&line(code)).is_none(), "{code}");
    }
    assert!(unread("row 1 missing from index x").is_none());
}
