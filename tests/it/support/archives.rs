//! Archives to back up, and changes to them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use packvault::engine::report::{CreateReport, RestoreReport};
use packvault::format::BlobId;
use packvault_sample::SampleOptions;
use rusqlite::{Connection, OpenFlags, params};

use super::operations::{create, restore};
use super::{Scratch, contents, tree};

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
    packvault_sample::make(home, options).unwrap();
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

/// Adds a row that refers to an attachment, whether or not there is a file. Archives differ in what else a
/// row has; nothing of it matters to a capture.
pub fn add_row(home: &Path, hash: &str, path: &str, size: Option<i64>) {
    let database = database(home);
    let message: i64 = database.query_row("SELECT min(id) FROM messages", [], |row| row.get(0)).unwrap();
    let has_message = "SELECT count(*) FROM pragma_table_info('attachments') WHERE name = 'message_id'";
    let columns = "content_hash, storage_path, size";
    if database.query_row(has_message, [], |row| row.get::<_, bool>(0)).unwrap() {
        let insert = format!("INSERT INTO attachments ({columns}, message_id) VALUES (?, ?, ?, ?)");
        database.execute(&insert, params![hash, path, size, message]).unwrap();
    } else {
        let insert = format!("INSERT INTO attachments ({columns}) VALUES (?, ?, ?)");
        database.execute(&insert, params![hash, path, size]).unwrap();
    }
}

/// Returns where a restore of this database must put attachments, and their hashes.
pub fn expected_attachments(database: &Path) -> BTreeMap<String, String> {
    let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let rows = "SELECT storage_path, content_hash FROM attachments WHERE content_hash <> '' \
         AND storage_path <> '' AND storage_path NOT LIKE 'http%' \
         UNION SELECT thumbnail_path, thumbnail_hash FROM attachments WHERE thumbnail_hash <> '' \
         AND thumbnail_path <> '' AND thumbnail_path NOT LIKE 'http%'";
    let mut statement = connection.prepare(rows).unwrap();
    let pairs = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    pairs.collect::<rusqlite::Result<_>>().unwrap()
}

/// One capture, and what a restore of it must bring back.
pub struct Generation {
    pub report: CreateReport,
    pub id: String,
    /// A copy of the database file, made right after the capture.
    pub database: PathBuf,
    /// Hashes of the extra files, by path.
    pub deletions: BTreeMap<String, String>,
}

impl Generation {
    /// Captures the archive and keeps a copy of what it was.
    pub fn capture(repository: &Path, home: &Path, scratch: &Scratch) -> Self {
        Self::kept(create(repository, home), home, scratch)
    }

    /// Keeps a copy of an archive that was just captured.
    pub fn kept(report: CreateReport, home: &Path, scratch: &Scratch) -> Self {
        let id = report.id.clone().unwrap();
        let database = scratch.path(&format!("{id}.db"));
        fs::copy(home.join("msgvault.db"), &database).unwrap();
        let deletions = home.join("deletions");
        let deletions = if deletions.exists() { contents(&deletions) } else { BTreeMap::new() };
        Self { report, id, database, deletions }
    }

    /// Restores the snapshot and checks every byte of it: only then is it removed again.
    pub fn assert_restores(&self, repository: &Path, scratch: &Scratch) {
        let target = scratch.path(&format!("restored {}", self.id));
        let report = restore(repository, &self.id, &target);
        assert!(report.database.unwrap().identical);
        assert_same_file(&target.join("msgvault.db"), &self.database);
        self.assert_files(&report, &target);
        fs::remove_dir_all(&target).unwrap();
    }

    /// Checks everything but the database.
    pub fn assert_files(&self, report: &RestoreReport, target: &Path) {
        let expected = expected_attachments(&self.database);
        let folder = target.join("attachments");
        let found = if folder.exists() { contents(&folder) } else { BTreeMap::new() };
        assert_eq!(found, expected, "{}", self.id);
        assert_eq!(report.attachments.files, expected.len() as u64);
        let folder = target.join("deletions");
        let found = if folder.exists() { contents(&folder) } else { BTreeMap::new() };
        assert_eq!(found, self.deletions, "{}", self.id);
        let mut top = vec!["attachments", "deletions", "msgvault.db"];
        top.retain(|name| target.join(name).exists());
        let names: Vec<String> = tree(target).into_keys().filter(|name| !name.contains('/')).collect();
        assert_eq!(names[1..], top, "nothing else lies in the target");
    }
}

fn assert_same_file(one: &Path, other: &Path) {
    let (one_bytes, other_bytes) = (fs::read(one).unwrap(), fs::read(other).unwrap());
    let differs = one_bytes.iter().zip(&other_bytes).position(|(a, b)| a != b);
    assert_eq!(
        (one_bytes.len(), differs),
        (other_bytes.len(), None),
        "{} {}",
        one.display(),
        other.display()
    );
}
