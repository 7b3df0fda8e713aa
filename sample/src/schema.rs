//! The database file of a sample: its tables, how it is opened, and the facts about itself that it carries.
//!
//! `archive_metadata` holds the options the archive was made with and the number of changes since, which
//! is all [`mutate`](super::mutate()) needs to go on deterministically.

use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, params};

use crate::fail::Result;
use crate::fail::{OrFail, refuse};
use crate::{Journal, SampleOptions};

/// Name of the database in the archive.
pub(crate) const DATABASE_NAME: &str = "msgvault.db";

const CACHE_PRAGMA: &str = "PRAGMA cache_size=-200000";

const DOCUMENT_TABLE: &str = "CREATE TABLE IF NOT EXISTS document_chunks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, extraction_id TEXT NOT NULL,
    chunk_key TEXT NOT NULL, ordinal INTEGER NOT NULL, text TEXT NOT NULL,
    heading_path JSON NOT NULL, first_unit_index INTEGER NOT NULL,
    last_unit_index INTEGER NOT NULL, synthetic_prefix_len INTEGER NOT NULL DEFAULT 0,
    checksum TEXT NOT NULL, char_count INTEGER NOT NULL,
    table_chunk BOOLEAN NOT NULL DEFAULT FALSE, code_chunk BOOLEAN NOT NULL DEFAULT FALSE,
    truncated BOOLEAN NOT NULL DEFAULT FALSE,
    UNIQUE (extraction_id, chunk_key), UNIQUE (extraction_id, ordinal))";

const FULL_TEXT_TABLE: &str = "CREATE VIRTUAL TABLE messages_fts USING fts5(
    message_id UNINDEXED, subject, body, from_addr, to_addr, cc_addr,
    tokenize='unicode61 remove_diacritics 1')";

/// Creates the database with its tables and no index, ready for rows in bulk. A crash may leave it broken.
pub(crate) fn create(dir: &Path, options: &SampleOptions) -> Result<Connection> {
    let path = dir.join(DATABASE_NAME);
    let database = Connection::open(&path).or_fail_at("create", &path)?;
    lay_out(&database, options).or_fail_at("lay out", &path)?;
    Ok(database)
}

fn lay_out(database: &Connection, options: &SampleOptions) -> rusqlite::Result<()> {
    database.execute_batch(&format!(
        "PRAGMA page_size={}; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA locking_mode=EXCLUSIVE;
         {CACHE_PRAGMA};",
        options.page_size
    ))?;
    database.execute_batch(include_str!("tables.sql"))?;
    if options.documents > 0 {
        create_document_table(database)?;
    }
    if options.full_text {
        database.execute_batch(FULL_TEXT_TABLE)?;
    }
    Ok(())
}

/// Creates `document_chunks` where it does not exist.
pub(crate) fn create_document_table(database: &Connection) -> rusqlite::Result<()> {
    database.execute_batch(DOCUMENT_TABLE)
}

/// Adds the indexes and sets the journal for the archive's life.
pub(crate) fn finish(database: &Connection, journal: Journal) -> Result<()> {
    let mode = match journal {
        Journal::Wal => "WAL",
        Journal::Rollback => "DELETE",
    };
    database.execute_batch(include_str!("indexes.sql")).or_fail("create indexes in msgvault.db")?;
    let pragmas = format!("PRAGMA locking_mode=NORMAL; PRAGMA journal_mode={mode};");
    database.execute_batch(&pragmas).or_fail("set the journal of msgvault.db")
}

/// Opens the database of an existing archive and returns it with what it was made from.
pub(crate) fn open(dir: &Path) -> Result<(Connection, SampleOptions, u32)> {
    let path = dir.join(DATABASE_NAME);
    if !path.is_file() {
        return refuse(format!("no archive in {}", dir.display()));
    }
    let database =
        Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE).or_fail_at("open", &path)?;
    let Ok((json, generation)) = load_metadata(&database) else {
        return refuse(format!("{} is not a sample archive", dir.display()));
    };
    let options = serde_json::from_str(&json).or_fail("read the options the sample was made with")?;
    database
        .execute_batch(&format!("PRAGMA synchronous=OFF; {CACHE_PRAGMA};"))
        .or_fail_at("prepare", &path)?;
    Ok((database, options, generation))
}

/// Closes the database; a WAL is then checkpointed and removed.
pub(crate) fn close(database: Connection) -> Result<()> {
    database.close().map_err(|(_, error)| error).or_fail("close msgvault.db")
}

/// Makes the connection leave its changes in the WAL, even when it closes.
pub(crate) fn keep_wal(database: &Connection) -> rusqlite::Result<()> {
    database.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA wal_autocheckpoint=0;")?;
    database.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(())
}

/// Records what the archive is made from.
pub(crate) fn store_metadata(database: &Connection, options: &SampleOptions) -> Result<()> {
    let json = serde_json::to_string(options).or_fail("write the sample's options")?;
    let mut insert = database
        .prepare("INSERT INTO archive_metadata VALUES(?,?)")
        .or_fail("record the sample's options")?;
    for (key, value) in [("sample_options", json.as_str()), ("sample_generation", "0")] {
        insert.execute(params![key, value]).or_fail("record the sample's options")?;
    }
    Ok(())
}

/// Records how many changes the archive has seen.
pub(crate) fn store_generation(database: &Connection, generation: u32) -> rusqlite::Result<()> {
    let update = "UPDATE archive_metadata SET value=? WHERE key='sample_generation'";
    database.execute(update, [generation.to_string()]).map(drop)
}

fn load_metadata(database: &Connection) -> rusqlite::Result<(String, u32)> {
    let query = "SELECT a.value, CAST(b.value AS INTEGER) FROM archive_metadata a, archive_metadata b
                 WHERE a.key='sample_options' AND b.key='sample_generation'";
    database.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Returns the first column of every row.
pub(crate) fn column<T: rusqlite::types::FromSql>(
    database: &Connection,
    query: &str,
    parameters: impl rusqlite::Params,
) -> rusqlite::Result<Vec<T>> {
    database.prepare(query)?.query_map(parameters, |row| row.get(0))?.collect()
}

/// Returns the number a query gives.
pub(crate) fn number(database: &Connection, query: &str) -> rusqlite::Result<u64> {
    database.query_row(query, [], |row| row.get::<_, i64>(0)).map(|number| number.max(0) as u64)
}

/// Returns the path of a file that SQLite keeps beside the database.
pub(crate) fn sidecar(dir: &Path, suffix: &str) -> PathBuf {
    dir.join(format!("{DATABASE_NAME}{suffix}"))
}
