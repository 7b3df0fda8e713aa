//! Counts what an archive holds.

use std::fs;
use std::io;
use std::path::Path;

use rusqlite::Connection;

use crate::Summary;
use crate::fail::OrFail;
use crate::fail::Result;
use crate::schema::{number, sidecar};

const BLOBS: &str = "SELECT count(*) FROM (
    SELECT content_hash FROM attachments
        WHERE content_hash<>'' AND storage_path<>'' AND storage_path NOT LIKE 'http%'
    UNION SELECT thumbnail_hash FROM attachments
        WHERE thumbnail_hash<>'' AND thumbnail_path<>'' AND thumbnail_path NOT LIKE 'http%')";

/// Fills in the rows, while the database is open.
pub(crate) fn count_rows(database: &Connection, summary: &mut Summary) -> rusqlite::Result<()> {
    summary.messages = number(database, "SELECT count(*) FROM messages")?;
    summary.conversations = number(database, "SELECT count(*) FROM conversations")?;
    summary.attachment_rows = number(database, "SELECT count(*) FROM attachments")?;
    summary.attachment_blobs = number(database, BLOBS)?;
    Ok(())
}

/// Fills in the sizes, after the database was closed.
pub(crate) fn measure_files(dir: &Path, summary: &mut Summary) -> Result<()> {
    let file_bytes = |suffix| fs::metadata(sidecar(dir, suffix)).map_or(0, |metadata| metadata.len());
    summary.database_bytes = file_bytes("");
    summary.wal_bytes = file_bytes("-wal");
    let attachments = dir.join("attachments");
    summary.attachments_stored_bytes = tree_bytes(&attachments).or_fail_at("measure", &attachments)?;
    Ok(())
}

fn tree_bytes(dir: &Path) -> io::Result<u64> {
    fs::read_dir(dir)?
        .map(|entry| {
            let entry = entry?;
            if entry.file_type()?.is_dir() { tree_bytes(&entry.path()) } else { Ok(entry.metadata()?.len()) }
        })
        .sum()
}
