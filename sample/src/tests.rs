//! A sample that is not what it says misleads every test and measurement built on it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use packvault::format::BlobId;
use packvault::format::frame::Decompressor;
use packvault::format::pack::{self, BlobFlags, Entry, Footer, Trailer};
use rusqlite::{Connection, OptionalExtension};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::*;

fn small() -> SampleOptions {
    SampleOptions { messages: 60, attachments: 60, attachment_mean_bytes: 3000, ..SampleOptions::default() }
}

fn made(options: &SampleOptions) -> (TempDir, Summary) {
    let dir = TempDir::new().unwrap();
    let summary = make(dir.path(), options).unwrap();
    (dir, summary)
}

fn database(dir: &Path) -> Connection {
    Connection::open(dir.join("msgvault.db")).unwrap()
}

fn text(dir: &Path, query: &str) -> String {
    database(dir).query_row(query, [], |row| row.get::<_, rusqlite::types::Value>(0)).map(show).unwrap()
}

fn show(value: rusqlite::types::Value) -> String {
    match value {
        rusqlite::types::Value::Text(text) => text,
        rusqlite::types::Value::Integer(number) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn count(dir: &Path, query: &str) -> u64 {
    text(dir, query).parse().unwrap()
}

/// Every row of every ordinary table, as text.
fn rows(dir: &Path) -> BTreeMap<String, Vec<String>> {
    let database = database(dir);
    let tables: Vec<String> =
        schema::column(&database, "SELECT name FROM sqlite_schema WHERE type='table' ORDER BY name", [])
            .unwrap();
    tables.into_iter().map(|table| (table.clone(), table_rows(&database, &table))).collect()
}

fn table_rows(database: &Connection, table: &str) -> Vec<String> {
    let mut query = database.prepare(&format!("SELECT * FROM \"{table}\"")).unwrap();
    let columns = query.column_count();
    let row_text = |row: &rusqlite::Row<'_>| {
        Ok((0..columns).map(|place| show(row.get_unwrap(place))).collect::<Vec<_>>().join("|"))
    };
    let mut rows: Vec<String> = query.query_map([], row_text).unwrap().map(Result::unwrap).collect();
    rows.sort();
    rows
}

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    files
}

fn relative_files(dir: &Path, part: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let strip = |(path, bytes): (PathBuf, _)| (path.strip_prefix(dir).unwrap().to_owned(), bytes);
    files(&dir.join(part)).into_iter().map(strip).collect()
}

/// Paths and hashes of all rows with local content, thumbnails included.
fn locators(dir: &Path) -> Vec<(String, String)> {
    let database = database(dir);
    let mut query = database
        .prepare(
            "SELECT content_hash, storage_path FROM attachments
             WHERE content_hash<>'' AND storage_path<>'' AND storage_path NOT LIKE 'http%'
             UNION SELECT thumbnail_hash, thumbnail_path FROM attachments WHERE thumbnail_hash<>''",
        )
        .unwrap();
    query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
}

/// Reads a content as msgvault does: from its pack, else its compressed file, else its plain file.
fn read_content(dir: &Path, hash: &str, path: &str) -> Vec<u8> {
    let plain = dir.join("attachments").join(path);
    if path.starts_with("synctech-sms/") {
        return fs::read(plain).unwrap();
    }
    if let Some((pack_id, entry)) = index_row(dir, hash) {
        return read_packed(dir, &pack_id, entry);
    }
    match fs::read(plain.with_extension("zst")) {
        Ok(file) => {
            let raw = zstd::stream::decode_all(&file[16..]).unwrap();
            assert_eq!(file[..16], loose::compressed_header(raw.len() as u64));
            raw
        }
        Err(_) => fs::read(plain).unwrap(),
    }
}

fn index_row(dir: &Path, hash: &str) -> Option<(String, Entry)> {
    let query = "SELECT pack_id, pack_offset, stored_len, raw_len, flags, crc32c FROM attachment_pack_index
        WHERE blob_hash=?";
    let entry = |row: &rusqlite::Row<'_>| {
        let number = |column| row.get_unwrap::<_, i64>(column) as u64;
        Ok((
            row.get(0)?,
            Entry {
                id: BlobId::parse(hash).unwrap(),
                offset: number(1),
                stored_bytes: number(2),
                raw_bytes: number(3),
                flags: BlobFlags::parse(number(4) as u8).unwrap(),
                crc32c: number(5) as u32,
            },
        ))
    };
    database(dir).query_row(query, [hash], entry).optional().unwrap()
}

fn read_packed(dir: &Path, pack_id: &str, entry: Entry) -> Vec<u8> {
    let path = dir.join("attachments/packs").join(&pack_id[..2]).join(format!("{pack_id}.mvpack"));
    let file = fs::read(path).unwrap();
    pack::check_header(&file).unwrap().require_plain().unwrap();
    let trailer = Trailer::parse(&file[file.len() - pack::TRAILER_BYTES..], file.len() as u64).unwrap();
    let region = &file[trailer.footer_offset() as usize..file.len() - pack::TRAILER_BYTES];
    let footer = Footer::parse(region, &trailer, file.len() as u64).unwrap();
    assert_eq!(footer.get(&entry.id), Some(&entry));
    let stored = &file[entry.offset as usize..(entry.offset + entry.stored_bytes) as usize];
    Decompressor::new().decode(&entry, stored).unwrap().to_vec()
}

/// Checks the database and every content, and that no file is there that no row points at.
fn assert_sound(dir: &Path) {
    assert_eq!(text(dir, "PRAGMA integrity_check"), "ok");
    let mut left = relative_files(&dir.join("attachments"), "");
    for (hash, path) in locators(dir) {
        let bytes = read_content(dir, &hash, &path);
        assert_eq!(hex::encode(Sha256::digest(&bytes)), hash, "{path}");
        left.remove(&PathBuf::from(&path));
        left.remove(&PathBuf::from(path).with_extension("zst"));
    }
    left.retain(|path, _| path.extension().is_none_or(|end| end != "mvpack"));
    assert_eq!(left.into_keys().collect::<Vec<_>>(), Vec::<PathBuf>::new());
}

#[test]
fn equal_options_make_equal_archives() {
    let options = SampleOptions { documents: 9, namespaced_fraction: 0.3, ..small() };
    let ((a, summary), (b, other)) = (made(&options), made(&options));
    assert_eq!(summary, other);
    for change in [Change::default(), Change { vacuum: true, ..Change::default() }] {
        assert_eq!(rows(a.path()), rows(b.path()));
        assert_eq!(relative_files(a.path(), "attachments"), relative_files(b.path(), "attachments"));
        assert_eq!(relative_files(a.path(), "deletions"), relative_files(b.path(), "deletions"));
        assert_eq!(mutate(a.path(), &change).unwrap(), mutate(b.path(), &change).unwrap());
    }
}

#[test]
fn another_seed_makes_another_archive() {
    let (a, b) = (made(&small()).0, made(&SampleOptions { seed: 2, ..small() }).0);
    assert_ne!(rows(a.path())["messages"], rows(b.path())["messages"]);
    assert_ne!(locators(a.path()), locators(b.path()));
}

#[test]
fn what_is_made_is_sound_and_counted() {
    let (dir, summary) = made(&small());
    assert_sound(dir.path());
    assert_eq!((summary.messages, summary.attachment_rows), (60, 60));
    assert_eq!(summary.conversations, count(dir.path(), "SELECT count(*) FROM conversations"));
    assert_eq!(summary.database_bytes, fs::metadata(dir.path().join("msgvault.db")).unwrap().len());
    let hashes: std::collections::BTreeSet<_> =
        locators(dir.path()).into_iter().map(|(hash, _)| hash).collect();
    assert_eq!(summary.attachment_blobs, hashes.len() as u64);
    assert_eq!(text(dir.path(), "PRAGMA journal_mode"), "wal");
    assert_eq!(
        count(dir.path(), "SELECT sum(attachment_count) FROM messages"),
        count(dir.path(), "SELECT count(*) FROM attachments")
    );
}

#[test]
fn attachments_come_in_all_the_kinds_a_capture_meets() {
    let options = SampleOptions { messages: 20, attachments: 600, attachment_mean_bytes: 300, ..small() };
    let (dir, _) = made(&options);
    let some = |condition: &str| {
        let rows = count(dir.path(), &format!("SELECT count(*) FROM attachments WHERE {condition}"));
        assert!(rows > 0, "no row with {condition}");
        rows
    };
    some("storage_path LIKE 'https://%'");
    some("storage_path='' AND content_hash IS NULL");
    some("size IS NULL AND content_hash IS NOT NULL");
    some("thumbnail_hash IS NOT NULL");
    some("thumbnail_hash=content_hash");
    let repeated = some(
        "EXISTS (SELECT 1 FROM attachments b WHERE b.content_hash=attachments.content_hash
        AND b.id<attachments.id)",
    );
    assert!((60..200).contains(&repeated), "{repeated} repeated");
    let wrong = locators(dir.path()).into_iter().any(|(hash, path)| {
        let bytes = fs::metadata(dir.path().join("attachments").join(path)).unwrap().len();
        count(
            dir.path(),
            &format!("SELECT count(*) FROM attachments WHERE content_hash='{hash}' AND size<>{bytes}"),
        ) > 0
    });
    assert!(wrong, "every recorded size is right");
}

#[test]
fn every_page_size_and_journal_works() {
    for page_size in [512, 4096, 65_536] {
        for (journal, mode) in [(Journal::Wal, "wal"), (Journal::Rollback, "delete")] {
            let (dir, _) =
                made(&SampleOptions { page_size, journal, messages: 12, attachments: 3, ..small() });
            assert_eq!(count(dir.path(), "PRAGMA page_size"), u64::from(page_size));
            mutate(dir.path(), &Change::default()).unwrap();
            assert_eq!(text(dir.path(), "PRAGMA journal_mode"), mode);
            assert_sound(dir.path());
        }
    }
}

#[test]
fn namespaced_contents_lie_outside_their_canonical_path_and_some_at_both() {
    let options = SampleOptions { namespaced_fraction: 0.5, attachments: 200, ..small() };
    let (dir, _) = made(&options);
    assert_sound(dir.path());
    let outside =
        count(dir.path(), "SELECT count(*) FROM attachments WHERE storage_path LIKE 'synctech-sms/__/%'");
    assert!((50..150).contains(&outside), "{outside} outside");
    let twice = "SELECT count(*) FROM (SELECT content_hash FROM attachments WHERE content_hash IS NOT NULL
        GROUP BY content_hash HAVING count(DISTINCT storage_path)>1)";
    assert!(count(dir.path(), twice) > 0);
}

#[test]
fn large_contents_have_exactly_their_size() {
    let large = vec![(700_001, ContentKind::Random), (300_000, ContentKind::Zero), (1, ContentKind::Text)];
    let (dir, summary) = made(&SampleOptions { attachments: 0, large: large.clone(), ..small() });
    assert_sound(dir.path());
    assert_eq!(summary.attachments_added, 3);
    for (size, _) in large {
        assert_eq!(count(dir.path(), &format!("SELECT count(*) FROM attachments WHERE size={size}")), 1);
    }
}

#[test]
fn options_leave_out_what_they_say() {
    let (full, _) = made(&SampleOptions { documents: 5, ..small() });
    assert!(rows(full.path()).contains_key("messages_fts"));
    assert_eq!(count(full.path(), "SELECT count(*) FROM document_chunks"), 5);
    assert_eq!(count(full.path(), "SELECT count(*) FROM message_raw"), 60);
    let (bare, summary) = made(&SampleOptions { full_text: false, raw: false, attachments: 0, ..small() });
    assert!(
        !rows(bare.path())
            .keys()
            .any(|table| table.starts_with("messages_fts") || table == "document_chunks")
    );
    assert_eq!(count(bare.path(), "SELECT count(*) FROM message_raw"), 0);
    assert_eq!(summary.attachment_rows, 0);
}

#[test]
fn side_files_are_there_and_secrets_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, _) = made(&small());
    let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
    for name in ["config.toml", "client_secret.json", "tokens/ada.abara@example.com.json"] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    for name in
        ["vectors.db", "logs/msgvault.log", "imports/inbox.mbox", "tmp/partial.download", "daemon.lock"]
    {
        assert_eq!(mode(name), 0o644, "{name}");
    }
    assert_eq!(files(&dir.path().join("deletions")).len(), 4);
}

#[test]
fn an_ordinary_day_changes_a_little_of_everything() {
    let (dir, before) = made(&SampleOptions { messages: 1000, attachments: 100, ..small() });
    let after = mutate(dir.path(), &Change::default()).unwrap();
    assert_sound(dir.path());
    assert_eq!((after.generation, after.messages_inserted, after.messages_updated), (1, 10, 5));
    assert_eq!(after.messages, before.messages + 10 - after.messages_deleted);
    assert_eq!(
        after.attachment_rows,
        before.attachment_rows + after.attachments_added - after.attachments_removed
    );
    assert!(after.messages_deleted == 2 && after.attachments_added == 2 && after.attachments_removed >= 1);
    assert_eq!(after.wal_bytes, 0);
    assert_eq!(mutate(dir.path(), &Change::default()).unwrap().generation, 2);
    assert_eq!(
        count(dir.path(), "SELECT count(*) FROM messages_fts WHERE rowid NOT IN (SELECT id FROM messages)"),
        0
    );
}

#[test]
fn removed_rows_take_their_contents_along() {
    let (dir, before) = made(&small());
    let change = Change { remove_attachments: Some(1000), ..Change::nothing() };
    let after = mutate(dir.path(), &change).unwrap();
    assert!(after.attachments_stored_bytes < before.attachments_stored_bytes / 4);
    assert_eq!((after.attachment_blobs, after.messages), (0, 60));
    assert_sound(dir.path());
}

#[test]
fn no_removals_keep_messages_that_have_attachments() {
    let (dir, before) = made(&small());
    let change = Change { delete_fraction: 1.0, ..Change::nothing() };
    let after = mutate(dir.path(), &change).unwrap();
    assert!(after.messages > 0 && after.messages < before.messages);
    assert_eq!(after.attachment_rows, before.attachment_rows);
}

#[test]
fn vacuum_shrinks_the_database() {
    let (dir, _) = made(&SampleOptions { messages: 300, ..small() });
    let deleted = mutate(dir.path(), &Change { delete_fraction: 0.5, ..Change::default() }).unwrap();
    let rebuilt = mutate(dir.path(), &Change { vacuum: true, ..Change::nothing() }).unwrap();
    assert!(rebuilt.database_bytes < deleted.database_bytes * 9 / 10);
    assert_sound(dir.path());
}

#[test]
fn a_wal_left_behind_holds_the_change_and_the_database_file_does_not() {
    let (dir, _) = made(&small());
    let before = fs::read(dir.path().join("msgvault.db")).unwrap();
    let after = mutate(dir.path(), &Change { leave_wal: true, ..Change::default() }).unwrap();
    assert!(after.wal_bytes > 0);
    assert_eq!(fs::metadata(dir.path().join("msgvault.db-wal")).unwrap().len(), after.wal_bytes);
    assert!(before == fs::read(dir.path().join("msgvault.db")).unwrap());
    assert_eq!(count(dir.path(), "SELECT count(*) FROM messages"), after.messages);
    assert_eq!(mutate(dir.path(), &Change::default()).unwrap().wal_bytes, 0);
    assert_sound(dir.path());
}

#[test]
fn compressed_loose_contents_are_those_that_gain() {
    let large = vec![(200_000, ContentKind::Text), (200_000, ContentKind::Random)];
    let storage = AttachmentStorage::CompressedLoose;
    let (dir, _) = made(&SampleOptions { storage, large, namespaced_fraction: 0.2, ..small() });
    assert_sound(dir.path());
    mutate(dir.path(), &Change { remove_attachments: Some(10), ..Change::default() }).unwrap();
    assert_sound(dir.path());
    let is_compressed = |path: &PathBuf| path.extension().is_some();
    let names: Vec<bool> = relative_files(dir.path(), "attachments").keys().map(is_compressed).collect();
    assert!(names.contains(&true) && names.contains(&false));
}

#[test]
fn packed_contents_are_read_through_their_rows() {
    let options = SampleOptions {
        storage: AttachmentStorage::Packs,
        namespaced_fraction: 0.2,
        large: vec![(34 << 20, ContentKind::Random), (5000, ContentKind::Zero)],
        ..small()
    };
    let (dir, _) = made(&options);
    assert_sound(dir.path());
    let (same, _) = made(&options);
    assert_eq!(relative_files(dir.path(), "attachments"), relative_files(same.path(), "attachments"));
    assert_eq!(count(dir.path(), "SELECT count(*) FROM attachment_packs"), 2);
    mutate(dir.path(), &Change { large: vec![(5000, ContentKind::Zero)], ..Change::default() }).unwrap();
    assert_sound(dir.path());
    assert_eq!(count(dir.path(), "SELECT count(*) FROM attachment_packs"), 3);
    mutate(dir.path(), &Change { remove_attachments: Some(1000), ..Change::nothing() }).unwrap();
    assert_eq!(count(dir.path(), "SELECT count(*) FROM attachment_packs"), 0);
    let packs = relative_files(dir.path(), "attachments").into_keys();
    assert_eq!(packs.filter(|path| path.extension().is_some_and(|end| end == "mvpack")).count(), 0);
}

#[test]
fn what_cannot_be_made_is_refused() {
    let dir = TempDir::new().unwrap();
    let refused = |options: SampleOptions| make(dir.path(), &options).unwrap_err();
    assert!(matches!(refused(SampleOptions { page_size: 1000, ..small() }), Error::Refused(_)));
    assert!(matches!(refused(SampleOptions { messages: 0, ..small() }), Error::Refused(_)));
    assert!(matches!(refused(SampleOptions { sources: 9, ..small() }), Error::Refused(_)));
    assert!(matches!(mutate(dir.path(), &Change::default()).unwrap_err(), Error::Refused(_)));
    fs::write(dir.path().join("something"), "").unwrap();
    assert!(matches!(refused(small()), Error::Refused(_)));
    let (rollback, _) = made(&SampleOptions { journal: Journal::Rollback, ..small() });
    let change = Change { leave_wal: true, ..Change::default() };
    assert!(matches!(mutate(rollback.path(), &change).unwrap_err(), Error::Refused(_)));
}
