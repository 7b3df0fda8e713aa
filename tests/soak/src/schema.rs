//! The application's database: its tables, and each of their rows as the ledger counts it.
//!
//! The application and the proof of a restore say through this file alone what a row is.

use anyhow::{Context, Result};
use rusqlite::Connection;

use crate::ledger::Digest;

/// The name of the database in the application's home.
pub const DATABASE: &str = "application.db";

/// The folder of attachments beside it.
pub const MEDIA: &str = "media";

/// The tables.
pub const TABLES: &str = "
    CREATE TABLE counter (id INTEGER PRIMARY KEY, transactions INTEGER NOT NULL);
    CREATE TABLE journal (id INTEGER PRIMARY KEY, note TEXT NOT NULL);
    CREATE TABLE items (id INTEGER PRIMARY KEY, version INTEGER NOT NULL, body TEXT NOT NULL);
    CREATE INDEX items_by_version ON items (version);
    CREATE TABLE attachments (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
    INSERT INTO counter VALUES (1, 0);";

/// Returns the digest of the counter.
pub fn counter(transactions: u64) -> Digest {
    Digest::of_row("counter", 1, &[&transactions.to_le_bytes()])
}

/// Returns the digest of an entry of the journal.
pub fn entry(transaction: i64, note: &str) -> Digest {
    Digest::of_row("journal", transaction, &[note.as_bytes()])
}

/// Returns the digest of an item.
pub fn item(id: i64, version: i64, body: &str) -> Digest {
    Digest::of_row("items", id, &[&version.to_le_bytes(), body.as_bytes()])
}

/// Returns the digest of an attachment; its name is the hash of its content.
pub fn attachment(id: i64, name: &str) -> Digest {
    Digest::of_row("attachments", id, &[name.as_bytes()])
}

/// What was found in a database.
#[derive(Debug)]
pub struct Found {
    /// Its last transaction.
    pub transaction: u64,
    /// All its rows.
    pub digest: Digest,
    /// The names of its attachments.
    pub attachments: Vec<String>,
}

/// Tells the digest of a row.
type RowDigest<'a> = &'a mut dyn FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<Digest>;

/// Reads every row.
pub fn read(database: &Connection) -> Result<Found> {
    let transaction: i64 = database
        .query_row("SELECT transactions FROM counter WHERE id = 1", [], |row| row.get(0))
        .context("cannot read the counter")?;
    let transaction = transaction as u64;
    let (mut digest, mut attachments) = (counter(transaction), Vec::new());
    let mut add = |sql: &str, row_digest: RowDigest<'_>| -> rusqlite::Result<()> {
        let mut statement = database.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            digest.add(row_digest(row)?);
        }
        Ok(())
    };
    add("SELECT id, note FROM journal", &mut |row| Ok(entry(row.get(0)?, &row.get::<_, String>(1)?)))?;
    add("SELECT id, version, body FROM items", &mut |row| {
        Ok(item(row.get(0)?, row.get(1)?, &row.get::<_, String>(2)?))
    })?;
    add("SELECT id, name FROM attachments", &mut |row| {
        let name: String = row.get(1)?;
        let digest = attachment(row.get(0)?, &name);
        attachments.push(name);
        Ok(digest)
    })?;
    Ok(Found { transaction, digest, attachments })
}

/// Returns where an attachment lies, from the application's home.
pub fn path_of(name: &str) -> String {
    format!("{MEDIA}/{}/{name}", &name[..2.min(name.len())])
}
