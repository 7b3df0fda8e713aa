//! Questions to a database whose answers a snapshot records and a restore must reproduce.
//!
//! ```text
//! {"profile":"sqlite","database":"data/app.db","attachment_blobs":0,
//!  "queries":[{"name":"recipes","sql":"SELECT count(*) FROM recipes","value":42}]}
//! ```
//!
//! (compact, strings escaped as everywhere in a manifest). A value is an integer, a text or null; a real is
//! recorded as the text of its shortest form, for numbers are respelled by other programs. A question that
//! fails because the database is damaged has the value null, at capture and at restore alike.
//!
//! Questions come from a repository that may be hostile: they may only read, nothing that is not a function
//! of the data (see `functions`), and their work and their answers are bounded: memory here, time by whoever
//! asks. They write nothing, not even temporary files: connections are opened so.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode};
use serde::Deserialize;

use super::functions;
use crate::archive::bounds::is_too_much;
use crate::archive::health::is_damage;
use crate::error::lift::database_error;
use crate::format::go_json::JsonWriter;
use crate::{Error, ErrorKind, Result};

/// Bytes of one text that is an answer.
const VALUE_BYTES_MAX: usize = 4096;
/// Bytes of any value that a question works with, so that none can ask for all memory.
const ROW_BYTES_MAX: i32 = 64 * 1024 * 1024;
/// Bytes of one question.
const SQL_BYTES_MAX: usize = 16 * 1024;
/// Questions of one archive.
const QUERIES_MAX: usize = 64;
/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// What it is called.
    pub name: String,
    /// A single SELECT that gives one value.
    pub sql: String,
}

/// When questions are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// Of the live database: a fault is the user's configuration.
    Capture,
    /// Of a restored one: a fault is the snapshot's.
    Restore,
}

/// The statistics of a snapshot.
#[derive(Debug, Deserialize)]
pub struct Recorded {
    /// The database's path in a restored archive.
    pub database: String,
    /// The questions; their answers are compared as text, with all the rest.
    pub queries: Vec<RecordedQuery>,
}

/// A question of [`Recorded`].
#[derive(Debug, Deserialize)]
pub struct RecordedQuery {
    /// What it is called.
    pub name: String,
    /// The question.
    pub sql: String,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// NULL, or nothing to be had from a damaged database.
    Null,
    /// An integer.
    Integer(i64),
    /// A text; also a real.
    Text(String),
}

/// The answers to all questions.
#[derive(Debug, Default)]
pub struct Answered {
    /// One per question.
    pub values: Vec<Value>,
    /// Questions that a damaged database could not answer.
    pub problems: Vec<String>,
}

impl Recorded {
    /// Reads the statistics of a snapshot.
    pub fn parse(stats: &str) -> Result<Self> {
        let recorded: Self = serde_json::from_str(stats).map_err(|error| {
            Error::caused(ErrorKind::Damaged, "cannot read the statistics of the snapshot", error)
        })?;
        if recorded.queries.len() > QUERIES_MAX {
            let message = format!("the snapshot records {} statistics", recorded.queries.len());
            return Err(Error::new(ErrorKind::Damaged, message));
        }
        Ok(recorded)
    }
}

/// Returns the statistics as the manifest records them.
pub fn text(database: &str, queries: &[Query], values: &[Value]) -> String {
    let mut json = JsonWriter::new();
    json.begin_object();
    json.key("profile");
    json.string(super::NAME);
    json.key("database");
    json.string(database);
    json.key("attachment_blobs");
    json.integer(0);
    json.key("queries");
    json.begin_array();
    for (query, value) in queries.iter().zip(values) {
        json.begin_object();
        json.key("name");
        json.string(&query.name);
        json.key("sql");
        json.string(&query.sql);
        json.key("value");
        match value {
            Value::Null => json.null(),
            Value::Integer(number) => json.integer(*number),
            Value::Text(text) => json.string(text),
        }
        json.end_object();
    }
    json.end_array();
    json.end_object();
    json.finish()
}

/// Refuses what no question may be, whatever the database.
pub fn check_form(query: &Query) -> Result<()> {
    let refuse = |why: &str| {
        let message = format!("cannot use the statistic {:?}: {why}", query.name);
        Err(Error::new(ErrorKind::Usage, message))
    };
    if query.sql.len() > SQL_BYTES_MAX || query.name.len() > SQL_BYTES_MAX {
        return refuse("it is too long");
    }
    if query.sql.contains('\0') {
        return refuse("it holds a zero byte");
    }
    Ok(())
}

/// Asks every question. The connection may do nothing but read until this returns.
pub fn answer(connection: &mut Connection, database: &Path, queries: &[Query], at: At) -> Result<Answered> {
    if queries.is_empty() {
        return Ok(Answered::default());
    }
    let failed = |error| database_error("ask", database, error);
    let usual_bytes_max = connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, ROW_BYTES_MAX).map_err(failed)?;
    let runs = functions::restrict(connection).map_err(failed)?;
    let answered = ask_all(connection, queries, at, &runs);
    functions::release(connection).map_err(failed)?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, usual_bytes_max).map_err(failed)?;
    answered
}

fn ask_all(connection: &Connection, queries: &[Query], at: At, runs: &AtomicBool) -> Result<Answered> {
    let mut answered = Answered::default();
    for query in queries {
        let answer = ask(connection, &query.sql, runs);
        runs.store(false, Ordering::Relaxed);
        match answer {
            Ok(value) => answered.values.push(value),
            Err(Fault::Sqlite(error)) if is_damage(&error) => {
                answered.problems.push(format!("the statistic {:?} cannot be had: {error}", query.name));
                answered.values.push(Value::Null);
            }
            Err(fault) => return Err(fault.into_error(query, at)),
        }
    }
    Ok(answered)
}

/// Why there is no answer.
enum Fault {
    Sqlite(rusqlite::Error),
    Form(&'static str),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Fault {
    fn into_error(self, query: &Query, at: At) -> Error {
        let (kind, whose) = match at {
            At::Capture => (ErrorKind::Usage, "cannot use the statistic"),
            At::Restore => (ErrorKind::Refused, "cannot use the snapshot's statistic"),
        };
        let Query { name, sql } = query;
        match self {
            Self::Sqlite(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
                Error::caused(ErrorKind::Interrupted, format!("{whose} {name:?} ({sql:?})"), error)
            }
            Self::Sqlite(error) if is_too_much(&error) => {
                let message = format!("{whose} {name:?} ({sql:?}): it takes more memory than it may have");
                Error::caused(kind, message, error)
            }
            Self::Sqlite(error) => Error::caused(kind, format!("{whose} {name:?} ({sql:?})"), error),
            Self::Form(why) => Error::new(kind, format!("{whose} {name:?} ({sql:?}): {why}")),
        }
    }
}

fn ask(connection: &Connection, sql: &str, runs: &AtomicBool) -> std::result::Result<Value, Fault> {
    let mut statement = connection.prepare(sql)?;
    if statement.column_count() != 1 || !statement.readonly() || statement.is_explain() != 0 {
        return Err(Fault::Form("it is not a SELECT of one value"));
    }
    runs.store(true, Ordering::Relaxed);
    let mut rows = statement.query([])?;
    let Some(row) = rows.next()? else { return Err(Fault::Form("it gives no row")) };
    let value = match row.get_ref(0)? {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Real(number) => Value::Text(number.to_string()),
        ValueRef::Text(bytes) if bytes.len() <= VALUE_BYTES_MAX => {
            Value::Text(String::from_utf8_lossy(bytes).into_owned())
        }
        ValueRef::Text(_) => return Err(Fault::Form("its answer is too long")),
        ValueRef::Blob(_) => return Err(Fault::Form("its answer is a BLOB; use hex()")),
    };
    match rows.next()? {
        None => Ok(value),
        Some(_) => Err(Fault::Form("it gives more than one row")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask_all(sql: &[&str]) -> Result<Answered> {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1), (2.5), ('x')").unwrap();
        let hidden = "CREATE VIEW hides_now AS SELECT a FROM t WHERE a < datetime('now'); \
                      CREATE VIEW hides_chance AS SELECT random() AS a; \
                      CREATE TABLE hides_in_column (a); INSERT INTO hides_in_column VALUES ('now'); \
                      ALTER TABLE hides_in_column ADD COLUMN b AS (date(a)); \
                      CREATE VIRTUAL TABLE words USING fts5 (w); INSERT INTO words VALUES ('one two')";
        connection.execute_batch(hidden).unwrap();
        connection.execute_batch("PRAGMA temp_store = MEMORY").unwrap();
        let queries: Vec<Query> =
            sql.iter().map(|sql| Query { name: "q".into(), sql: (*sql).to_owned() }).collect();
        answer(&mut connection, Path::new("t.db"), &queries, At::Restore)
    }

    #[test]
    fn answers_are_integers_texts_and_null() {
        let sql = ["SELECT count(*) FROM t", "SELECT sum(a) FROM t", "SELECT max(a) FROM t", "SELECT NULL"];
        let found = ask_all(&sql).unwrap().values;
        let text = |text: &str| Value::Text(text.to_owned());
        assert_eq!(found, [Value::Integer(3), text("3.5"), text("x"), Value::Null]);
    }

    #[test]
    fn whatever_is_not_a_question_about_the_data_is_refused() {
        for sql in [
            "DELETE FROM t",
            "INSERT INTO t VALUES (1) RETURNING a",
            "PRAGMA user_version",
            "SELECT * FROM pragma_database_list",
            "ATTACH '/tmp/x.db' AS x",
            "SELECT random()",
            "SELECT CURRENT_TIMESTAMP",
            "SELECT load_extension('x')",
            "SELECT a, a FROM t",
            "SELECT a FROM t",
            "SELECT a FROM t WHERE 0",
            "SELECT 1; DELETE FROM t",
            "EXPLAIN SELECT 1",
            "CREATE TABLE u (a)",
            "SELECT zeroblob(10)",
            "SELECT hex(zeroblob(5000))",
            "VACUUM",
            "",
        ] {
            assert_eq!(ask_all(&[sql]).unwrap_err().kind(), ErrorKind::Refused, "{sql}");
        }
    }

    #[test]
    fn what_is_no_part_of_the_data_is_refused_wherever_it_stands() {
        for sql in [
            "SELECT CURRENT_DATE",
            "SELECT CURRENT_TIME",
            "SELECT date()",
            "SELECT date('now')",
            "SELECT time('NOW')",
            "SELECT datetime(x'6e6f77')",
            "SELECT datetime('now' || char(0) || 'x')",
            "SELECT julianday()",
            "SELECT julianday('now', '-1 day')",
            "SELECT unixepoch('subsec')",
            "SELECT unixepoch()",
            "SELECT strftime('%s')",
            "SELECT strftime('%Y', 'now')",
            "SELECT timediff('now', '2026-01-01')",
            "SELECT timediff('2026-01-01', 'now')",
            "SELECT datetime('2026-01-01', 'localtime')",
            "SELECT datetime('2026-01-01', '+1 day', 'UTC')",
            "SELECT count(*) FROM t WHERE a < date('now')",
            "SELECT max(a) FROM hides_now",
            "SELECT max(a) FROM hides_chance",
            "SELECT max(b) FROM hides_in_column",
            "SELECT sqlite_version()",
            "SELECT sqlite_source_id()",
            "SELECT sqlite_compileoption_get(1)",
            "SELECT sqlite_compileoption_used('x')",
            "SELECT changes()",
            "SELECT total_changes()",
            "SELECT last_insert_rowid()",
            "SELECT hex(randomblob(4))",
            "SELECT a FROM t ORDER BY random() LIMIT 1",
            "SELECT fts3_tokenizer('simple')",
            "SELECT optimize(1)",
            "SELECT data_version FROM pragma_data_version",
            "PRAGMA main.data_version",
        ] {
            let error = ask_all(&[sql]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused, "{sql}: {error:?}");
        }
    }

    #[test]
    fn what_is_in_the_data_may_be_asked_whatever_the_words() {
        for (sql, value) in [
            ("SELECT count(*) FROM t WHERE a = 'now'", Value::Integer(0)),
            ("SELECT 'random() now localtime'", Value::Text("random() now localtime".into())),
            ("SELECT date('2026-11-29', '+1 day')", Value::Text("2026-11-30".into())),
            ("SELECT strftime('%Y', 0, 'unixepoch')", Value::Text("1970".into())),
            (
                "SELECT datetime(1764374400.5, 'unixepoch', 'subsec')",
                Value::Text("2025-11-29 00:00:00.500".into()),
            ),
            ("SELECT timediff('2026-01-02', '2026-01-01')", Value::Text("+0000-00-01 00:00:00.000".into())),
            ("SELECT date(NULL)", Value::Null),
            ("SELECT group_concat(upper(a), '-') FROM t", Value::Text("1-2.5-X".into())),
            ("SELECT json_extract('{\"a\":7}', '$.a')", Value::Integer(7)),
            ("SELECT sum(n) FROM (SELECT row_number() OVER (ORDER BY a) AS n FROM t)", Value::Integer(6)),
            ("SELECT count(*) FROM words WHERE words MATCH 'one'", Value::Integer(1)),
        ] {
            assert_eq!(ask_all(&[sql]).unwrap().values, [value], "{sql}");
        }
    }

    #[test]
    fn a_question_that_takes_too_much_memory_says_so_and_writes_nothing() {
        crate::archive::bounds::grant_memory(crate::archive::bounds::MEMORY_BYTES_MAX);
        for sql in [
            "SELECT length(printf('%.*c', 1000000000, 'x'))",
            "SELECT length(zeroblob(1000000000))",
            "WITH RECURSIVE n(i, b) AS (SELECT 1, zeroblob(60000000) UNION \
             SELECT i + 1, zeroblob(60000000) FROM n LIMIT 60) SELECT count(*) FROM n",
        ] {
            let error = ask_all(&[sql]).unwrap_err();
            assert!(error.to_string().contains("more memory"), "{sql}: {error:?}");
        }
    }

    #[test]
    fn the_connection_is_free_again_afterwards() {
        let mut connection = Connection::open_in_memory().unwrap();
        let queries = [Query { name: "one".into(), sql: "SELECT 1".into() }];
        answer(&mut connection, Path::new("t"), &queries, At::Capture).unwrap();
        connection.execute_batch("CREATE TABLE t (a)").unwrap();
    }

    #[test]
    fn the_text_reads_back_as_what_it_records() {
        let queries = [Query { name: "a<b".into(), sql: "SELECT 1".into() }];
        let text = text("data/app.db", &queries, &[Value::Integer(7)]);
        let expected = concat!(
            r#"{"profile":"sqlite","database":"data/app.db","attachment_blobs":0,"#,
            r#""queries":[{"name":"a\u003cb","sql":"SELECT 1","value":7}]}"#
        );
        assert_eq!(text, expected);
        let recorded = Recorded::parse(&text).unwrap();
        assert_eq!((recorded.queries[0].name.as_str(), recorded.database.as_str()), ("a<b", "data/app.db"));
    }
}
