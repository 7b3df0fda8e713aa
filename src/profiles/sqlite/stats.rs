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
//! of the data, and their work and their answers are bounded.

use std::path::Path;

use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use serde::Deserialize;

use crate::archive::health::is_damage;
use crate::archive::sqlite::database_error;
use crate::cancel::Cancel;
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
/// SQLite asks after so many steps of its machine whether it should go on.
const STEPS_BETWEEN_QUESTIONS: i32 = 100_000;
/// Steps of one question, in hundred thousands: some minutes. Counting a billion rows takes fewer.
const QUESTIONS_MAX: u64 = 500_000;
/// Functions whose answer is not in the data, or that reach outside of it.
const REFUSED_FUNCTIONS: [&str; 12] = [
    "random",
    "randomblob",
    "current_date",
    "current_time",
    "current_timestamp",
    "changes",
    "total_changes",
    "last_insert_rowid",
    "load_extension",
    "sqlite_log",
    "fts3_tokenizer",
    "sqlite_source_id",
];

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

/// Refuses a question of the user's that may give another answer at another time.
pub fn check_query(query: &Query) -> Result<()> {
    check_form(query)?;
    let sql: String = query.sql.to_lowercase().split_whitespace().collect();
    if sql.contains("'now'") {
        let message = format!("cannot use the statistic {:?}: its answer changes with the time", query.name);
        return Err(Error::new(ErrorKind::Usage, message));
    }
    Ok(())
}

/// Asks every question. The connection may do nothing but read until this returns.
pub fn answer(
    connection: &mut Connection,
    database: &Path,
    queries: &[Query],
    cancel: &Cancel,
    at: At,
) -> Result<Answered> {
    if queries.is_empty() {
        return Ok(Answered::default());
    }
    let watch = |error| database_error("watch", database, error);
    connection.authorizer(Some(authorize)).map_err(watch)?;
    let usual_bytes_max = connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, ROW_BYTES_MAX).map_err(watch)?;
    let mut answered = Answered::default();
    let mut outcome = Ok(());
    for query in queries {
        let (asked, mut left) = (cancel.clone(), QUESTIONS_MAX);
        let bounded = move || {
            left = left.saturating_sub(1);
            left == 0 || asked.is_cancelled()
        };
        connection.progress_handler(STEPS_BETWEEN_QUESTIONS, Some(bounded)).map_err(watch)?;
        match ask(connection, &query.sql) {
            Ok(value) => answered.values.push(value),
            Err(Fault::Sqlite(error)) if is_damage(&error) => {
                answered.problems.push(format!("the statistic {:?} cannot be had: {error}", query.name));
                answered.values.push(Value::Null);
            }
            Err(fault) => {
                outcome = cancel.check().and(Err(fault.into_error(query, at)));
                break;
            }
        }
    }
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, usual_bytes_max).map_err(watch)?;
    connection.progress_handler(0, None::<fn() -> bool>).map_err(watch)?;
    connection.authorizer(None::<fn(AuthContext<'_>) -> Authorization>).map_err(watch)?;
    outcome.map(|()| answered)
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
            Self::Sqlite(error) => Error::caused(kind, format!("{whose} {name:?} ({sql:?})"), error),
            Self::Form(why) => Error::new(kind, format!("{whose} {name:?} ({sql:?}): {why}")),
        }
    }
}

fn ask(connection: &Connection, sql: &str) -> std::result::Result<Value, Fault> {
    let mut statement = connection.prepare(sql)?;
    if statement.column_count() != 1 || !statement.readonly() || statement.is_explain() != 0 {
        return Err(Fault::Form("it is not a SELECT of one value"));
    }
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

fn authorize(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Select | AuthAction::Read { .. } | AuthAction::Recursive => Authorization::Allow,
        AuthAction::Function { function_name } => {
            let refused = REFUSED_FUNCTIONS.iter().any(|name| function_name.eq_ignore_ascii_case(name));
            if refused { Authorization::Deny } else { Authorization::Allow }
        }
        _ => Authorization::Deny,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask_all(sql: &[&str]) -> Result<Answered> {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1), (2.5), ('x')").unwrap();
        let queries: Vec<Query> =
            sql.iter().map(|sql| Query { name: "q".into(), sql: (*sql).to_owned() }).collect();
        answer(&mut connection, Path::new("t.db"), &queries, &Cancel::new(), At::Restore)
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
    fn a_query_without_end_stops_when_asked() {
        let mut connection = Connection::open_in_memory().unwrap();
        let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT count(*) FROM n";
        let queries = [Query { name: "endless".into(), sql: sql.into() }];
        let cancel = Cancel::new();
        cancel.cancel();
        let error = answer(&mut connection, Path::new("t"), &queries, &cancel, At::Restore).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted);
    }

    #[test]
    fn the_connection_is_free_again_afterwards() {
        let mut connection = Connection::open_in_memory().unwrap();
        let queries = [Query { name: "one".into(), sql: "SELECT 1".into() }];
        answer(&mut connection, Path::new("t"), &queries, &Cancel::new(), At::Capture).unwrap();
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
