//! Archives to back up, and changes to them.

use std::fs;
use std::path::Path;

use packvault::format::BlobId;
use packvault::sample::SampleOptions;
use rusqlite::{Connection, params};

/// An archive that is made and captured in a blink.
pub fn tiny() -> SampleOptions {
    SampleOptions {
        messages: 20,
        attachments: 8,
        attachment_mean_bytes: 2_000,
        body_words: 30,
        ..SampleOptions::default()
    }
}

pub fn make(home: &Path, options: &SampleOptions) {
    packvault::sample::make(home, options).unwrap();
}

pub fn database(home: &Path) -> Connection {
    Connection::open(home.join("msgvault.db")).unwrap()
}

/// Runs statements on the archive's database and closes it.
pub fn execute(home: &Path, statements: &str) {
    database(home).execute_batch(statements).unwrap();
}

/// Returns the path of an attachment at its own hash, relative to the folder of attachments.
pub fn canonical(bytes: &[u8]) -> String {
    let hash = BlobId::of(bytes).to_string();
    format!("{}/{hash}", &hash[..2])
}

/// Writes the file of an attachment.
pub fn write_attachment(home: &Path, path: &str, bytes: &[u8]) {
    let file = home.join("attachments").join(path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, bytes).unwrap();
}

/// Adds an attachment: its file and its row. The tables differ between archives, so only the columns that
/// a capture reads are filled in, and those that may not be empty.
pub fn add_attachment(home: &Path, bytes: &[u8]) -> String {
    let path = canonical(bytes);
    write_attachment(home, &path, bytes);
    add_row(home, &BlobId::of(bytes).to_string(), &path, Some(bytes.len() as i64));
    path
}

/// Adds a row that refers to an attachment, whether or not there is a file.
pub fn add_row(home: &Path, hash: &str, path: &str, size: Option<i64>) {
    let database = database(home);
    let message: i64 = database.query_row("SELECT min(id) FROM messages", [], |row| row.get(0)).unwrap();
    database
        .execute(
            "INSERT INTO attachments (message_id, content_hash, storage_path, size) VALUES (?, ?, ?, ?)",
            params![message, hash, path, size],
        )
        .unwrap();
}
