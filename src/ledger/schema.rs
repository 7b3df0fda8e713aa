//! What stands in the ledger. A version is a step from the one before; a step is never changed once it was published.
//!
//! Times are milliseconds since 1970 by this machine's clock, which may be wrong: what decides about the order of work
//! goes by the numbers of runs, which only grow.

use rusqlite::{Connection, TransactionBehavior};

/// Tells the ledger from other databases: the letters `pvlg`.
pub(super) const APPLICATION_ID: i32 = 0x7076_6c67;

/// The steps from an empty file to the present version.
pub(super) const STEPS: [&str; 1] = [FIRST];

/// The version that this program writes and reads.
pub(super) const VERSION: i64 = STEPS.len() as i64;

const FIRST: &str = "
CREATE TABLE places (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    repository TEXT NOT NULL,
    place TEXT NOT NULL,
    location TEXT NOT NULL,
    seen_ms INTEGER NOT NULL,
    packs INTEGER,
    stored_bytes INTEGER,
    first_listed_ms INTEGER,
    UNIQUE (place, repository)
) STRICT;
CREATE TABLE runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    parent INTEGER,
    kind TEXT NOT NULL,
    version TEXT NOT NULL,
    machine TEXT NOT NULL,
    archive TEXT,
    place INTEGER,
    location TEXT,
    began_ms INTEGER NOT NULL,
    ended_ms INTEGER,
    milliseconds INTEGER,
    exit_code INTEGER,
    snapshot TEXT,
    error TEXT,
    problems INTEGER,
    bytes_read INTEGER,
    bytes_stored INTEGER,
    bytes_sent INTEGER,
    bytes_received INTEGER
) STRICT;
CREATE INDEX runs_by_time ON runs (began_ms);
CREATE INDEX runs_by_kind ON runs (kind, archive, place);
CREATE TABLE packs (
    place INTEGER NOT NULL,
    pack TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    listed_run INTEGER NOT NULL,
    looked_run INTEGER,
    read_ms INTEGER,
    part_ms INTEGER,
    part_bytes INTEGER NOT NULL DEFAULT 0,
    damaged INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (place, pack)
) STRICT, WITHOUT ROWID;
CREATE TABLE readings (
    run INTEGER NOT NULL,
    place INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    packs INTEGER NOT NULL,
    whole_packs INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    damaged_packs INTEGER NOT NULL,
    repository_packs INTEGER,
    repository_bytes INTEGER,
    PRIMARY KEY (run, place)
) STRICT, WITHOUT ROWID;
CREATE TABLE drills (
    run INTEGER NOT NULL,
    place INTEGER NOT NULL,
    snapshot TEXT NOT NULL,
    archive TEXT,
    kind TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    milliseconds INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    proved INTEGER NOT NULL,
    problem TEXT,
    PRIMARY KEY (run, place, snapshot)
) STRICT, WITHOUT ROWID;
CREATE TABLE copies (
    run INTEGER NOT NULL,
    to_place INTEGER NOT NULL,
    snapshot TEXT NOT NULL,
    from_place INTEGER,
    archive TEXT,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (run, to_place, snapshot)
) STRICT, WITHOUT ROWID;
CREATE TABLE sizes (
    run INTEGER NOT NULL,
    place INTEGER NOT NULL,
    archive TEXT,
    snapshot TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    database_bytes INTEGER NOT NULL,
    attachment_bytes INTEGER NOT NULL,
    added_bytes INTEGER NOT NULL,
    PRIMARY KEY (run, place)
) STRICT, WITHOUT ROWID;
";

/// What a file is, by its own word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing is in it.
    Empty,
    /// A ledger of this version, or of an earlier one.
    Known(i64),
    /// A ledger of a later version, which is left alone.
    Newer,
    /// Another database, or a ledger whose tables are not those of its version.
    Foreign,
}

/// Looks at what an open file says of itself.
pub(super) fn look(connection: &Connection) -> rusqlite::Result<Found> {
    let number =
        |pragma: &str| connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, i64>(0));
    let (application, version) = (number("application_id")?, number("user_version")?);
    let objects: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if (application, version, objects) == (0, 0, 0) {
        return Ok(Found::Empty);
    }
    if application != i64::from(APPLICATION_ID) {
        return Ok(Found::Foreign);
    }
    match version {
        version if version > VERSION => Ok(Found::Newer),
        version if version < 1 => Ok(Found::Foreign),
        version => {
            let expected = objects_of(&fresh(version)?)?;
            Ok(if objects_of(connection)? == expected { Found::Known(version) } else { Found::Foreign })
        }
    }
}

/// Brings the file from where it is to the present version, in one transaction. Another program may do the same at
/// that moment: who is second finds nothing to do.
pub(super) fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let from = match look(&transaction)? {
        Found::Empty => 0,
        Found::Known(version) => version,
        Found::Newer | Found::Foreign => return Ok(()),
    };
    for step in &STEPS[from as usize..] {
        transaction.execute_batch(step)?;
    }
    if from < VERSION {
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    transaction.commit()
}

/// Makes a ledger of a version in memory, to compare with.
fn fresh(version: i64) -> rusqlite::Result<Connection> {
    let connection = Connection::open_in_memory()?;
    STEPS[..version as usize].iter().try_for_each(|step| connection.execute_batch(step))?;
    Ok(connection)
}

/// Returns every table, index, view and trigger with its text.
fn objects_of(connection: &Connection) -> rusqlite::Result<Vec<(String, String, Option<String>)>> {
    let text = "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
                ORDER BY type, name";
    let mut statement = connection.prepare(text)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    rows.collect()
}
