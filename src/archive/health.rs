//! The health of a database: what SQLite's own check finds in it, when it is captured and again when it is
//! restored.
//!
//! A database may need something that only its application has: a collation, a function, a tokenizer, a module. SQLite
//! then checks nothing at all. So each table is checked by itself, and those that cannot be checked are named. If only
//! a collation is missing, a stand-in of its name is enough to check how the pages of such a table hang together.

use std::path::Path;

use rusqlite::{Connection, ErrorCode, ffi};

use super::bounds::{Bounds, bounded_error, is_unread_code};
use super::constraints;
use super::sqlite::{open_at_rest, open_to_check};
use crate::{ErrorKind, Result};

/// How many faults are named; one is enough to know.
const PROBLEMS_MAX: usize = 5;
/// How many tables are named that cannot be checked.
const NAMED_MAX: usize = 10;

/// How SQLite's check begins to tell what it found: it says nothing.
const OF_DATABASE: &str = "*** in database";
/// How SQLite says that a schema may not call a function; its name follows.
const UNSAFE_FUNCTION: &str = "unsafe use of";
/// How it tells that a page could not be had; a code of SQLite's follows.
const UNREAD_PAGE: &str = "unable to get the page. error code=";

/// How thoroughly a database is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Pages and rows: one reading of the database.
    Quick,
    /// Also that indexes and tables agree: a look into an index for every row.
    Full,
}

/// A database of this length is checked as thoroughly as a restore does it.
const FULLY_CHECKED_BYTES_MAX: u64 = 64 * 1024 * 1024;

impl Depth {
    /// Returns how thoroughly a source of this length is checked: as a restore will, where that costs little.
    pub fn of_size(database_bytes: u64) -> Self {
        if database_bytes <= FULLY_CHECKED_BYTES_MAX { Self::Full } else { Self::Quick }
    }
}

/// What a check came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// What is wrong with the database, one sentence each; nothing if it is sound as far as it was checked.
    pub problems: Vec<String>,
    /// What could not be checked and why, one sentence each.
    pub unchecked: Vec<String>,
}

/// A table that SQLite cannot check, and what it says.
type Unchecked = (String, String);

/// Checks the database, which sentences call `called`. What is wrong with it is no error, and neither is what
/// this SQLite cannot check.
pub fn examine(
    connection: &mut Connection,
    (path, called): (&Path, &str),
    depth: Depth,
    bounds: &Bounds,
) -> Result<Health> {
    bounds.within(connection, |connection| {
        let mut problems = Vec::new();
        let mut unchecked = Vec::new();
        match check(connection, depth, &mut problems, &mut unchecked) {
            Ok(()) => {}
            Err(error) if is_damage(&error) => problems.push(error.to_string()),
            Err(error) => return Err(bounded_error("check", path, error)),
        }
        problems.truncate(PROBLEMS_MAX);
        Ok(Health { problems, unchecked: sentences(&unchecked, called) })
    })
}

/// Does the same for the database of a restore, which is opened so that SQLite's check sees the most.
///
/// A connection that could write reads every constraint with the schema, and SQLite gives up the whole of a schema in
/// which a function is called that no schema may call. One that only reads passes over constraints: then they are
/// looked at one by one, as in a source, and those that cannot be are named.
pub fn examine_restored(path: &Path, called: &str, depth: Depth, bounds: &Bounds) -> Result<Health> {
    let mut connection = open_to_check(path)?;
    if is_schema_refused(&connection) {
        connection = open_at_rest(path)?;
    }
    examine(&mut connection, (path, called), depth, bounds)
}

/// Tells whether SQLite refuses the schema for what a function in it could do, and not because it is damaged.
fn is_schema_refused(connection: &Connection) -> bool {
    let asked = connection.prepare("SELECT 1 FROM sqlite_schema").map(drop);
    asked.is_err_and(|error| reason(&error).contains(UNSAFE_FUNCTION))
}

/// Does the same for the database of an application that goes on, whose path every sentence has. A check that
/// takes too much is said, and the capture goes on.
pub fn examine_source(
    connection: &mut Connection,
    path: &Path,
    depth: Depth,
    bounds: &Bounds,
) -> Result<Health> {
    let called = path.display().to_string();
    match examine(connection, (path, &called), depth, bounds) {
        Ok(Health { problems, unchecked }) => {
            let problems = problems.iter().map(|problem| format!("{called}: {problem}")).collect();
            Ok(Health { problems, unchecked })
        }
        Err(error) if error.kind() == ErrorKind::Refused => {
            let sentence = format!("{called} could not be checked: {}", error.chain());
            Ok(Health { problems: Vec::new(), unchecked: vec![sentence] })
        }
        Err(error) => Err(error),
    }
}

fn check(
    connection: &Connection,
    depth: Depth,
    problems: &mut Vec<String>,
    unchecked: &mut Vec<Unchecked>,
) -> rusqlite::Result<()> {
    match rows(connection, depth, &PROBLEMS_MAX.to_string()) {
        Ok(found) => problems.extend(found),
        Err(error) if is_foreign(&error) => by_table(connection, depth, problems, unchecked)?,
        Err(error) => return Err(error),
    }
    for table in virtual_tables(connection)? {
        let named = unchecked.iter().any(|(unchecked, _)| *unchecked == table);
        let asked = connection.prepare(&format!("SELECT 1 FROM main.{}", identifier(&table))).map(drop);
        if let Some(error) = asked.err().filter(|error| !named && is_foreign(error) && !is_broken(error)) {
            unchecked.push((table, reason(&error)));
        }
    }
    if connection.is_readonly("main")? {
        constraints::check(connection, problems, unchecked)?;
    }
    Ok(())
}

/// Checks the tables that can be checked, and of the others what can be.
fn by_table(
    connection: &Connection,
    depth: Depth,
    problems: &mut Vec<String>,
    unchecked: &mut Vec<Unchecked>,
) -> rusqlite::Result<()> {
    for table in tables(connection)? {
        let quoted = literal(&table);
        match rows(connection, depth, &quoted) {
            Ok(found) => problems.extend(found),
            Err(error) if is_broken(&error) => problems.push(reason(&error)),
            Err(error) if is_foreign(&error) => unchecked.push((table, reason(&error))),
            Err(error) => return Err(error),
        }
    }
    // How pages hang together depends on no order, so any collation of that name will do.
    connection.collation_needed(|connection, name| connection.create_collation(name, |a, b| a.cmp(b)))?;
    let of_order = |row: &String| row.starts_with("CHECK constraint");
    match rows(connection, Depth::Quick, &PROBLEMS_MAX.to_string()) {
        Ok(found) => problems.extend(found.into_iter().filter(|row| !of_order(row))),
        Err(error) if is_foreign(&error) => {}
        Err(error) => return Err(error),
    }
    problems.sort();
    problems.dedup();
    Ok(())
}

/// Runs SQLite's check; no row if it finds nothing. What the whole check would need must be there for the
/// quick one as well, so that both name the same tables.
fn rows(connection: &Connection, depth: Depth, argument: &str) -> rusqlite::Result<Vec<String>> {
    let pragma = match depth {
        Depth::Quick => "quick_check",
        Depth::Full => "integrity_check",
    };
    connection.prepare(&format!("PRAGMA integrity_check({argument})")).map(drop)?;
    let mut statement = connection.prepare(&format!("PRAGMA {pragma}({argument})"))?;
    let found = statement.query_map([], |row| row.get::<_, String>(0))?.take(PROBLEMS_MAX);
    let found = found.collect::<rusqlite::Result<Vec<_>>>()?;
    if found == ["ok"] {
        return Ok(Vec::new());
    }
    let mut lines: Vec<String> = found.iter().flat_map(|row| row.lines()).map(ToOwned::to_owned).collect();
    lines.retain(|line| !line.starts_with(OF_DATABASE));
    match lines.iter().find_map(|line| unread(line)) {
        None => Ok(lines),
        Some(error) => Err(error),
    }
}

/// Returns the error of a page that the check could not have from the system, and tells of as if it were damaged.
fn unread(line: &str) -> Option<rusqlite::Error> {
    let (_, code) = line.split_once(UNREAD_PAGE)?;
    let code = code.trim().parse().ok().filter(|code| is_unread_code(*code))?;
    Some(rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some(line.to_owned())))
}

/// Returns the tables that SQLite can be asked about by name; one whose name is a number is none of them.
fn tables(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT name FROM main.sqlite_schema WHERE type = 'table' ORDER BY name";
    let mut statement = connection.prepare(sql)?;
    let names = statement.query_map([], |row| row.get::<_, String>(0))?;
    names.filter(|name| !name.as_ref().is_ok_and(|name| name.parse::<i64>().is_ok())).collect()
}

fn virtual_tables(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND rootpage = 0 ORDER BY name";
    let mut statement = connection.prepare(sql)?;
    statement.query_map([], |row| row.get::<_, String>(0))?.collect()
}

/// Tells whether SQLite cannot make sense of a statement that only names what is there: it lacks what the
/// application has.
pub(super) fn is_foreign(error: &rusqlite::Error) -> bool {
    let (rusqlite::Error::SqliteFailure(failure, _) | rusqlite::Error::SqlInputError { error: failure, .. }) =
        error
    else {
        return false;
    };
    failure.extended_code & 0xff == ffi::SQLITE_ERROR
}

/// Tells whether a table of a kind that SQLite knows is not what it must be: its own tables are gone.
fn is_broken(error: &rusqlite::Error) -> bool {
    error.to_string().contains("vtable constructor failed")
}

/// Returns what SQLite says, without the statement that we made.
pub(super) fn reason(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(said)) => said.clone(),
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        error => error.to_string(),
    }
}

fn sentences(unchecked: &[Unchecked], called: &str) -> Vec<String> {
    let said = |(table, why): &Unchecked| {
        format!("the table {table:?} of {called} could not be checked here, only by its application: {why}")
    };
    let mut sentences: Vec<String> = unchecked.iter().take(NAMED_MAX).map(said).collect();
    if let Some(more) = unchecked.len().checked_sub(NAMED_MAX).filter(|more| *more > 0) {
        sentences.push(format!("and {more} more tables of {called} could not be checked"));
    }
    sentences
}

/// Returns a name as SQL takes it.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Tells whether the error is about the content of the database.
pub fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

#[cfg(test)]
mod tests;
