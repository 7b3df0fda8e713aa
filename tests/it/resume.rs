//! The danger: a first backup of many gigabytes that never ends, because every run that is stopped starts
//! from nothing. What an unfinished run has made durable must serve the next one, and be no snapshot.

use std::path::Path;

use packvault::engine::create::CreateOptions;
use packvault_sample::{self as sample, ContentKind, SampleOptions};

use crate::support::operations::{assert_sound, create, init, list, try_create};

/// Returns the path of the attachment that is read last.
fn last_attachment(home: &Path) -> std::path::PathBuf {
    let database = rusqlite::Connection::open(home.join("msgvault.db")).unwrap();
    let sql = "SELECT storage_path FROM attachments WHERE content_hash <> '' AND storage_path <> ''
               AND storage_path NOT LIKE 'http%' GROUP BY content_hash ORDER BY min(id) DESC LIMIT 1";
    let path: String = database.query_row(sql, [], |row| row.get(0)).unwrap();
    home.join("attachments").join(path)
}

#[test]
fn what_an_unfinished_create_has_sealed_is_not_stored_again() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("mail");
    // Two packs fill up before the last attachment is missed.
    let large = vec![(40 << 20, ContentKind::Random), (35 << 20, ContentKind::Random)];
    let options = SampleOptions { messages: 20, attachments: 5, large, ..SampleOptions::default() };
    sample::make(&home, &options).unwrap();
    let missing = last_attachment(&home);
    let aside = folder.path().join("aside");
    std::fs::rename(&missing, &aside).unwrap();

    let repository = init(&folder.path().join("backup"));
    let error = try_create(&repository, &home, CreateOptions::default(), 1).unwrap_err();
    assert!(error.chain().contains(missing.to_str().unwrap()), "{}", error.chain());
    assert!(list(&repository).is_empty());

    std::fs::rename(&aside, &missing).unwrap();
    let report = create(&repository, &home);
    assert!(report.bytes_added < 40 << 20, "{} bytes were stored again", report.bytes_added);
    assert_sound(&repository);
}
