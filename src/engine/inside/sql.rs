//! sql: a question to the database of a snapshot, answered from the pages that it needs.
//!
//! The database may be hostile, as every one that comes from a repository. What restrains it is what restrains the
//! restored database of a proof (`archive/bounds.rs`); besides, nothing is allowed that a question does not need.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use packvault_page_vfs::PageSource;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode};
use tokio::runtime::Handle;

use super::pages::PageReader;
use super::{Inside, Reach, Snapshot, look};
use crate::archive::bounds::{self, Bounds};
use crate::cancel::Cancel;
use crate::engine::{Context, ReadLocking, Selection, aside};
use crate::repo::Repository;
use crate::{Error, ErrorKind, Result};

/// How often a question may read the whole database, by the time it has.
pub(super) const READINGS: u64 = 20;
/// Memory that SQLite keeps pages in, of what it may have.
const CACHE_KIB: i32 = 64 * 1024;

/// Questions about the schema that may be asked by PRAGMA.
const PRAGMAS: [&str; 22] = [
    "application_id",
    "auto_vacuum",
    "collation_list",
    "compile_options",
    // Full-text search asks it, to see that nothing has changed.
    "data_version",
    "database_list",
    "encoding",
    "foreign_key_check",
    "foreign_key_list",
    "freelist_count",
    "function_list",
    "index_info",
    "index_list",
    "index_xinfo",
    "integrity_check",
    "page_count",
    "page_size",
    "quick_check",
    "table_info",
    "table_list",
    "table_xinfo",
    "user_version",
];

/// Those of them that may be asked about something.
const PRAGMAS_WITH_ARGUMENT: [&str; 10] = [
    "foreign_key_check",
    "foreign_key_list",
    "index_info",
    "index_list",
    "index_xinfo",
    "integrity_check",
    "quick_check",
    "table_info",
    "table_list",
    "table_xinfo",
];

/// Functions that reach beyond the database.
const FUNCTIONS_REFUSED: [&str; 2] = ["load_extension", "fts3_tokenizer"];

/// What `sql` is asked for.
#[derive(Debug, Clone, Default)]
pub struct SqlOptions {
    /// One statement.
    pub statement: String,
    /// How long it may take; without it, as long as reading the database a number of times takes.
    pub time: Option<Duration>,
    /// How others are kept from removing what is read.
    pub locking: ReadLocking,
}

/// A value of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// None.
    Null,
    /// A whole number.
    Integer(i64),
    /// Another number.
    Real(f64),
    /// A text, which need not be UTF-8.
    Text(&'a [u8]),
    /// Bytes.
    Blob(&'a [u8]),
}

/// Whether more rows are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum More {
    /// They are.
    Wanted,
    /// Whoever reads them has seen enough.
    Unwanted,
}

/// Takes the rows of an answer, on a thread of its own.
pub trait Rows: Send {
    /// Takes the names of the columns, before any row.
    fn columns(&mut self, snapshot: &str, names: &[String]) -> Result<()>;
    /// Takes a row.
    fn row(&mut self, values: &[Value<'_>]) -> Result<More>;
    /// Is told that there are no more.
    fn end(&mut self) -> Result<()>;
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// The snapshot.
    pub snapshot: String,
    /// How many rows were given.
    pub rows: u64,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Asks the database of a snapshot.
pub async fn sql(
    repository: &Repository,
    selection: Selection,
    options: &SqlOptions,
    mut rows: Box<dyn Rows>,
    context: &Context,
) -> Result<Answered> {
    let work = async |inside: &Inside| {
        let snapshot = inside.snapshot(&selection).await?;
        let statement = options.statement.clone();
        let id = snapshot.id().to_owned();
        let count = snapshot
            .ask(context, options.time, move |connection| answer(connection, &id, &statement, rows.as_mut()));
        Ok(Answered { snapshot: snapshot.id().to_owned(), rows: count.await?, warnings: Vec::new() })
    };
    let (mut answered, warnings) =
        look(repository, "sql", (Reach::Many, options.locking), context, work).await?;
    answered.warnings.extend(warnings);
    Ok(answered)
}

impl Snapshot {
    /// Does something with a connection to the database, which nobody trusts and which can only be read.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        context: &Context,
        time: Option<Duration>,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let pages = self.pages().await?;
        let bounds = match time {
            Some(time) => Bounds::new(&context.cancel, time),
            None => Bounds::of_questions(&context.cancel, pages.bytes(), READINGS),
        };
        ask(pages, &bounds, work).await
    }
}

/// The same with pages that were found already.
pub(in crate::engine) async fn ask<T: Send + 'static>(
    pages: PageReader,
    bounds: &Bounds,
    work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
) -> Result<T> {
    ask_source(&Source::new(pages, bounds, None), bounds, work).await
}

/// The same; also returns the pages that the answer was read from, unless they are more than so many.
pub(super) async fn ask_noting<T: Send + 'static>(
    pages: PageReader,
    bounds: &Bounds,
    pages_max: usize,
    work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
) -> Result<(T, Option<BTreeSet<u64>>)> {
    let source = Source::new(pages, bounds, Some(Noted { pages: BTreeSet::new(), pages_max }));
    let answered = ask_source(&source, bounds, work).await?;
    let noted = source.noted.lock().unwrap_or_else(PoisonError::into_inner).take();
    Ok((answered, noted.map(|noted| noted.pages)))
}

/// The same with the databases of two snapshots.
pub(super) async fn ask_both<T: Send + 'static>(
    (before, after): (PageReader, PageReader),
    bounds: &Bounds,
    work: impl FnOnce(&Connection, &Connection) -> Result<T> + Send + 'static,
) -> Result<T> {
    bounds::grant_memory(bounds::MEMORY_BYTES_MAX);
    let sources = [Source::new(before, bounds, None), Source::new(after, bounds, None)];
    let [first, second] = sources.clone();
    let asked = aside::run(bounds, "compare the databases of the snapshots", move |bounds| {
        let opened = |source| open(source).map_err(|error| sql_error("open", error));
        let (mut first, mut second) = (opened(first)?, opened(second)?);
        bounds.within(&mut first, |first| bounds.within(&mut second, |second| work(first, second)))
    });
    let answered = asked.await;
    let failure = sources.iter().find_map(|source| source.failure());
    match failure {
        Some(failure) if answered.is_err() => Err(failure),
        _ => answered,
    }
}

async fn ask_source<T: Send + 'static>(
    source: &Arc<Source>,
    bounds: &Bounds,
    work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
) -> Result<T> {
    bounds::grant_memory(bounds::MEMORY_BYTES_MAX);
    let own = Arc::clone(source);
    let asked = aside::run(bounds, "ask the database of the snapshot", move |bounds| {
        let mut connection = open(own).map_err(|error| sql_error("open", error))?;
        bounds.within(&mut connection, |connection| work(connection))
    });
    let answered = asked.await;
    match source.failure() {
        // SQLite knows only that reading failed.
        Some(failure) if answered.is_err() => Err(failure),
        _ => answered,
    }
}

/// The pages of a snapshot, for SQLite.
struct Source {
    pages: PageReader,
    runtime: Handle,
    cancel: Cancel,
    /// Why pages could not be read: the first reason.
    failure: Mutex<Option<Error>>,
    /// What is read; `None` where nobody asks, or it was too much.
    noted: Mutex<Option<Noted>>,
}

/// Pages that were read.
struct Noted {
    pages: BTreeSet<u64>,
    pages_max: usize,
}

impl Source {
    fn new(pages: PageReader, bounds: &Bounds, noted: Option<Noted>) -> Arc<Self> {
        Arc::new(Self {
            pages,
            runtime: Handle::current(),
            cancel: bounds.cancel().clone(),
            failure: Mutex::default(),
            noted: Mutex::new(noted),
        })
    }

    /// Takes why pages could not be read, if any could not.
    fn failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn note(&self, offset: u64, bytes: u64) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(found) = noted.as_mut() else { return };
        let page_size = self.pages.page_size();
        found.pages.extend(offset / page_size..offset.saturating_add(bytes).div_ceil(page_size));
        if found.pages.len() > found.pages_max {
            *noted = None;
        }
    }
}

impl PageSource for Source {
    fn bytes(&self) -> u64 {
        self.pages.bytes()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> bool {
        self.note(offset, buffer.len() as u64);
        let read = async {
            tokio::select! {
                read = self.pages.read(offset, buffer) => read,
                () = self.cancel.cancelled() => self.cancel.check(),
            }
        };
        match self.runtime.block_on(read) {
            Ok(()) => true,
            Err(error) => {
                let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
                failure.get_or_insert(error);
                false
            }
        }
    }
}

fn open(source: Arc<Source>) -> rusqlite::Result<Connection> {
    let mut connection = packvault_page_vfs::open(source)?;
    bounds::restrain(&connection)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.authorizer(Some(|context: AuthContext<'_>| judged(&context.action)))?;
    Ok(connection)
}

/// Allows what a question needs, and nothing else.
fn judged(action: &AuthAction<'_>) -> Authorization {
    let is_allowed = match action {
        AuthAction::Select
        | AuthAction::Read { .. }
        | AuthAction::Recursive
        | AuthAction::Transaction { .. } => true,
        // A virtual table that says which columns it has asks for leave to write the schema, and writes nothing. A
        // statement that would is refused by SQLite itself: the file can only be read.
        AuthAction::Insert { table_name } | AuthAction::Update { table_name, .. } => {
            matches!(*table_name, "sqlite_master" | "sqlite_schema")
        }
        AuthAction::Function { function_name } => {
            !FUNCTIONS_REFUSED.iter().any(|refused| function_name.eq_ignore_ascii_case(refused))
        }
        AuthAction::Pragma { pragma_name, pragma_value } => {
            let name = pragma_name.to_ascii_lowercase();
            match pragma_value {
                None => PRAGMAS.contains(&name.as_str()),
                Some(_) => PRAGMAS_WITH_ARGUMENT.contains(&name.as_str()),
            }
        }
        _ => false,
    };
    if is_allowed { Authorization::Allow } else { Authorization::Deny }
}

/// Runs one statement and hands its rows out.
fn answer(connection: &Connection, snapshot: &str, statement: &str, rows: &mut dyn Rows) -> Result<u64> {
    let failed = |error| sql_error("answer", error);
    let mut statement = connection.prepare(statement).map_err(failed)?;
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    rows.columns(snapshot, &names)?;
    let mut answer = statement.query([]).map_err(failed)?;
    let mut count = 0;
    while let Some(row) = answer.next().map_err(failed)? {
        let mut values = Vec::with_capacity(names.len());
        for column in 0..names.len() {
            values.push(match row.get_ref(column).map_err(failed)? {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(number) => Value::Integer(number),
                ValueRef::Real(number) => Value::Real(number),
                ValueRef::Text(text) => Value::Text(text),
                ValueRef::Blob(bytes) => Value::Blob(bytes),
            });
        }
        count += 1;
        if rows.row(&values)? == More::Unwanted {
            return Ok(count);
        }
    }
    rows.end()?;
    Ok(count)
}

/// Says what SQLite did not do, and whose fault it is.
pub(super) fn sql_error(what: &str, error: rusqlite::Error) -> Error {
    let refused = "a snapshot can only be read, and only its own database";
    // Of a function SQLite says it in words alone.
    let is_refused_in_words = error.to_string().contains("not authorized");
    let (kind, message) = match error.sqlite_error_code() {
        Some(ErrorCode::OperationInterrupted) => (ErrorKind::Interrupted, "interrupted".to_owned()),
        Some(ErrorCode::AuthorizationForStatementDenied | ErrorCode::ReadOnly) => {
            (ErrorKind::Refused, format!("cannot {what} that: {refused}"))
        }
        Some(ErrorCode::OutOfMemory | ErrorCode::TooBig) => {
            let mebibytes = bounds::MEMORY_BYTES_MAX >> 20;
            (ErrorKind::Refused, format!("cannot {what} that: it takes more than {mebibytes} MiB of memory"))
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            let message = format!(
                "cannot {what} that: SQLite finds the database damaged, and every page is as it was captured"
            );
            (ErrorKind::Source, message)
        }
        Some(ErrorCode::SystemIoFailure) => (ErrorKind::Io, format!("cannot {what} that")),
        _ if is_refused_in_words => (ErrorKind::Refused, format!("cannot {what} that: {refused}")),
        _ => (ErrorKind::Usage, format!("cannot {what} that")),
    };
    Error::caused(kind, message, error)
}
