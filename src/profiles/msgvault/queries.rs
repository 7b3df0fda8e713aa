//! What msgvault's database is asked, at capture and again at restore (sections 7.1-7.4).

use std::path::Path;

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde::Deserialize;

use crate::archive::bounds::bounded_error;
use crate::archive::content::ContentRef;
use crate::archive::profile::{CapturedFacts, ContentPath};
use crate::format::{BlobId, go_json};
use crate::{Error, ErrorKind, Result};

/// A row that bears an attachment: a hash, and a path that is no URL.
const CONTENT_BEARING: &str = "content_hash IS NOT NULL AND content_hash <> '' \
     AND storage_path IS NOT NULL AND storage_path <> '' \
     AND storage_path NOT LIKE 'http://%' AND storage_path NOT LIKE 'https://%'";
/// The same of a thumbnail.
const THUMBNAIL_BEARING: &str = "thumbnail_hash IS NOT NULL AND thumbnail_hash <> '' \
     AND thumbnail_path IS NOT NULL AND thumbnail_path <> '' \
     AND thumbnail_path NOT LIKE 'http://%' AND thumbnail_path NOT LIKE 'https://%'";

/// Bytes that are shown of what is no hash: a few more than one has.
const SHOWN_BYTES_MAX: usize = 80;

/// Questions of the statistics.
pub const QUESTIONS: u64 = 9;

/// Reads everything that a manifest needs from the database.
pub fn capture(connection: &Connection, database: &Path) -> Result<CapturedFacts> {
    let unusual_paths = match is_namespaced(connection, database)? {
        true => Some(content_paths(connection, database, u64::MAX)?),
        false => None,
    };
    Ok(CapturedFacts {
        stats: stats(connection, database)?,
        attachment_rows: count(connection, database, "SELECT count(*) FROM attachments")?,
        content: content(connection, database)?,
        unusual_paths,
        problems: Vec::new(),
        artifacts: Vec::new(),
    })
}

/// Returns the statistics: exactly eight keys, in this order, compact (section 7.2).
pub fn stats(connection: &Connection, database: &Path) -> Result<String> {
    let rows = |table: &str| count(connection, database, &format!("SELECT count(*) FROM {table}"));
    let blobs = format!(
        "SELECT count(*) FROM (SELECT content_hash FROM attachments WHERE {CONTENT_BEARING} \
         UNION SELECT thumbnail_hash FROM attachments WHERE {THUMBNAIL_BEARING})"
    );
    let oldest = moment(connection, database, "SELECT min(sent_at) FROM messages")?;
    let newest = moment(connection, database, "SELECT max(sent_at) FROM messages")?;
    Ok(format!(
        "{{\"messages\":{},\"conversations\":{},\"sources\":{},\"accounts\":{},\"attachment_rows\":{},\
         \"attachment_blobs\":{},\"labels\":{},\"date_range\":[{},{}]}}",
        rows("messages")?,
        rows("conversations")?,
        rows("sources")?,
        rows("account_identities")?,
        rows("attachments")?,
        count(connection, database, &blobs)?,
        rows("labels")?,
        quoted(&oldest),
        quoted(&newest),
    ))
}

/// Returns how many messages the statistics of a snapshot count.
pub fn messages(stats: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Stats {
        messages: Option<u64>,
    }
    serde_json::from_str::<Stats>(stats).ok()?.messages
}

/// Returns every distinct pair of a hash and a path at which it is expected; an error if there are more than
/// `paths_max`.
pub fn content_paths(connection: &Connection, database: &Path, paths_max: u64) -> Result<Vec<ContentPath>> {
    let sql = format!(
        "SELECT content_hash, storage_path FROM attachments WHERE {CONTENT_BEARING} \
         UNION SELECT thumbnail_hash, thumbnail_path FROM attachments WHERE {THUMBNAIL_BEARING}"
    );
    let mut found = 0;
    each_row(connection, database, &sql, |row| {
        found += 1;
        if found > paths_max {
            return Err(rusqlite::Error::UserFunctionError(
                format!("it has more than {paths_max} paths of attachments, the snapshot fewer").into(),
            ));
        }
        let (hash, path) = (text(row.get_ref(0)?), text(row.get_ref(1)?));
        Ok(hash_of(&hash).map(|id| ContentPath { id, path }))
    })?
    .into_iter()
    .collect()
}

/// Returns the contents of attachments of that name, each once, and no more than so many.
pub fn attachments_named(
    connection: &Connection,
    database: &Path,
    name: &str,
    most: usize,
) -> Result<Vec<BlobId>> {
    let sql = format!(
        "SELECT DISTINCT content_hash FROM attachments WHERE filename = ?1 AND {CONTENT_BEARING} \
         ORDER BY content_hash LIMIT ?2"
    );
    let asked = rusqlite::params![name, i64::try_from(most).unwrap_or(i64::MAX)];
    let hashes = each_row_of(connection, database, (&sql, asked), |row| Ok(text(row.get_ref(0)?)))?;
    hashes.iter().map(|hash| hash_of(hash)).collect()
}

/// Returns one reference per distinct hash: contents by their first row, then thumbnails that are not
/// contents too by theirs (section 7.3).
fn content(connection: &Connection, database: &Path) -> Result<Vec<ContentRef>> {
    let contents = format!(
        "SELECT content_hash, min(storage_path), max(size) FROM attachments WHERE {CONTENT_BEARING} \
         GROUP BY content_hash ORDER BY min(id)"
    );
    let thumbnails = format!(
        "SELECT thumbnail_hash, min(thumbnail_path), NULL FROM attachments WHERE {THUMBNAIL_BEARING} \
         AND thumbnail_hash NOT IN (SELECT content_hash FROM attachments WHERE {CONTENT_BEARING}) \
         GROUP BY thumbnail_hash ORDER BY min(id)"
    );
    let mut references = Vec::new();
    for sql in [contents, thumbnails] {
        let rows = each_row(connection, database, &sql, |row| {
            let recorded_bytes = match row.get_ref(2)? {
                ValueRef::Integer(size) => u64::try_from(size).ok(),
                _ => None,
            };
            Ok((text(row.get_ref(0)?), text(row.get_ref(1)?), recorded_bytes))
        })?;
        for (hash, path, recorded_bytes) in rows {
            references.push(ContentRef { id: hash_of(&hash)?, recorded_bytes, path });
        }
    }
    Ok(references)
}

/// Tells whether any row keeps its file elsewhere than under its own hash (section 7.4).
fn is_namespaced(connection: &Connection, database: &Path) -> Result<bool> {
    let sql = format!(
        "SELECT EXISTS (SELECT 1 FROM attachments WHERE {CONTENT_BEARING} \
         AND storage_path <> substr(content_hash, 1, 2) || '/' || content_hash) \
         OR EXISTS (SELECT 1 FROM attachments WHERE {THUMBNAIL_BEARING} \
         AND thumbnail_path <> substr(thumbnail_hash, 1, 2) || '/' || thumbnail_hash)"
    );
    Ok(count(connection, database, &sql)? != 0)
}

/// A hash in a bearing row must be 64 lowercase hexadecimal digits, or nothing could find its file.
fn hash_of(text: &str) -> Result<BlobId> {
    let lower = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    BlobId::parse(text).ok().filter(|_| lower).ok_or_else(|| {
        // Whatever stands there, a sentence stays one.
        let shown = &text[..text.floor_char_boundary(SHOWN_BYTES_MAX)];
        let message =
            format!("the database names an attachment by {shown:?}, which is no SHA-256 in lower case");
        Error::new(ErrorKind::Source, message)
    })
}

/// Returns a point in time as the database holds it, never parsed (section 7.2).
fn moment(connection: &Connection, database: &Path, sql: &str) -> Result<String> {
    let mut found = each_row(connection, database, sql, |row| Ok(text(row.get_ref(0)?)))?;
    Ok(found.pop().unwrap_or_default())
}

fn text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => String::new(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => go_json::go_g_float(number),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// Returns the one number that a query gives.
pub fn count(connection: &Connection, database: &Path, sql: &str) -> Result<u64> {
    let rows = each_row(connection, database, sql, |row| row.get::<_, i64>(0))?;
    let number = rows.first().copied().unwrap_or_default();
    u64::try_from(number)
        .map_err(|_| Error::new(ErrorKind::Source, format!("`{sql}` gives {number}, which is no count")))
}

fn quoted(text: &str) -> String {
    let mut quoted = String::new();
    go_json::push_string(&mut quoted, text);
    quoted
}

/// Runs a query; an error names it, since a missing table or column means another kind of database.
fn each_row<T>(
    connection: &Connection,
    database: &Path,
    sql: &str,
    read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    each_row_of(connection, database, (sql, []), read)
}

/// The same with values that the query is about.
fn each_row_of<T>(
    connection: &Connection,
    database: &Path,
    (sql, values): (&str, impl rusqlite::Params),
    read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    let rows = connection
        .prepare(sql)
        .and_then(|mut statement| statement.query_map(values, read)?.collect::<rusqlite::Result<Vec<T>>>());
    rows.map_err(|error| {
        let cause = bounded_error("query", database, error);
        let message = format!("the database does not answer as a msgvault archive does to `{sql}`");
        Error::caused(cause.kind(), message, cause)
    })
}
