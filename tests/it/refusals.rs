//! The danger: an archive that cannot be captured whole is captured all the same, or what stopped the capture
//! is not named, or the attempt leaves something behind.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use packvault::ErrorKind;
use packvault::engine::create::CreateOptions;
use packvault::format::{BlobId, LockRecord};
use packvault_sample::{AttachmentStorage, ContentKind, SampleOptions};
use rustix::fs::{FileType, Mode, mknodat};

use crate::support::archives::{add_attachment, add_row, canonical, execute, make, tiny, write_attachment};
use crate::support::operations::{assert_sound, create, init, try_create};
use crate::support::{Scratch, assert_no_remains, contents, names, snapshot_files, stderr, tree};

/// An archive and an empty repository; the archive holds one attachment that tests spoil.
struct Case {
    scratch: Scratch,
    home: PathBuf,
    repository: PathBuf,
    attachment: PathBuf,
}

impl Case {
    fn new() -> Self {
        let scratch = Scratch::new();
        let (home, repository) = (scratch.path("home"), init(&scratch.path("repository")));
        make(&home, &tiny());
        let attachment = home.join("attachments").join(add_attachment(&home, b"what a test spoils"));
        Self { scratch, home, repository, attachment }
    }

    /// Runs `create`, which must fail with the code and say all the words, and leave nothing behind.
    fn assert_refused(&self, flags: &[&str], code: i32, words: &[&str]) {
        let arguments = [&["create", "home", "--repo", "./repository"], flags].concat();
        let output = self.scratch.run(&arguments);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(output.stdout.is_empty());
        for word in words {
            assert!(text.contains(word), "{word:?} is missing in: {text}");
        }
        assert_eq!(snapshot_files(&self.repository), Vec::<String>::new());
        assert_eq!(names(&self.repository.join("indexes")), Vec::<String>::new());
        assert_no_remains(&self.repository);
    }

    /// The same, for an attachment that stands in the way.
    fn assert_attachment_refused(&self, words: &[&str]) {
        self.assert_refused(&[], 1, &[words, &[self.shown(&self.attachment).as_str()]].concat());
    }

    /// Returns a path as the program shows it, which was started in the folder above the home.
    fn shown(&self, path: &Path) -> String {
        path.strip_prefix(self.scratch.path("")).unwrap().display().to_string()
    }
}

#[test]
fn a_missing_attachment_is_named() {
    let case = Case::new();
    fs::remove_file(&case.attachment).unwrap();
    case.assert_attachment_refused(&["is missing"]);
    fs::remove_dir_all(case.home.join("attachments")).unwrap();
    case.assert_refused(&[], 1, &["attachments/", "is missing"]);
}

#[test]
fn an_attachment_with_other_bytes_is_named() {
    let case = Case::new();
    for bytes in [&b"what a test spoilt"[..], b"", b"what a test spoils and more"] {
        fs::write(&case.attachment, bytes).unwrap();
        case.assert_attachment_refused(&["is not what its name says"]);
    }
}

#[test]
fn a_large_attachment_with_other_bytes_is_named() {
    let case = Case::new();
    let bytes: Vec<u8> = (0..6_000_000u32).flat_map(|number| number.to_le_bytes()).collect();
    let path = case.home.join("attachments").join(add_attachment(&case.home, &bytes));
    let mut changed = bytes;
    changed[5_999_999] ^= 1;
    fs::write(&path, changed).unwrap();
    case.assert_refused(&[], 1, &["is not what its name says", &case.shown(&path)]);
}

#[test]
fn a_known_attachment_is_read_and_checked_again() {
    let case = Case::new();
    create(&case.repository, &case.home);
    fs::write(&case.attachment, "what a test spoilt").unwrap();
    let error = try_create(&case.repository, &case.home, CreateOptions::default(), 2).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Source);
    assert!(error.chain().contains(&case.attachment.display().to_string()), "{error:?}");
    assert_eq!(snapshot_files(&case.repository).len(), 1);
}

#[test]
fn an_unreadable_attachment_is_named() {
    let case = Case::new();
    fs::set_permissions(&case.attachment, fs::Permissions::from_mode(0o000)).unwrap();
    if File::open(&case.attachment).is_ok() {
        println!("NOT TESTED: this user may read everything, so no attachment is unreadable");
    } else {
        case.assert_attachment_refused(&["ermission denied"]);
    }
}

#[test]
fn an_attachment_that_is_no_plain_file_is_named_and_not_waited_for() {
    let case = Case::new();
    fs::remove_file(&case.attachment).unwrap();
    let elsewhere = case.home.join("elsewhere");
    fs::write(&elsewhere, b"what a test spoils").unwrap();
    symlink(&elsewhere, &case.attachment).unwrap();
    case.assert_attachment_refused(&["a symbolic link"]);

    fs::remove_file(&case.attachment).unwrap();
    fs::create_dir(&case.attachment).unwrap();
    case.assert_attachment_refused(&["a folder"]);

    fs::remove_dir(&case.attachment).unwrap();
    let parent = File::open(case.attachment.parent().unwrap()).unwrap();
    let name = case.attachment.file_name().unwrap();
    mknodat(&parent, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    case.assert_attachment_refused(&["a fifo"]);

    fs::remove_file(&case.attachment).unwrap();
    // The name is longer than a socket's may be, so it is bound from nearby.
    let nearby = case.scratch.path("socket");
    let _socket = UnixListener::bind(&nearby).unwrap();
    fs::rename(&nearby, &case.attachment).unwrap();
    case.assert_attachment_refused(&["a socket"]);

    fs::remove_file(&case.attachment).unwrap();
    let null = rustix::fs::makedev(1, 3);
    match mknodat(&parent, name, FileType::CharacterDevice, Mode::RUSR, null) {
        Ok(()) => case.assert_attachment_refused(&["is not a plain file"]),
        Err(error) => println!("NOT TESTED: no device can be made here: {error}"),
    }
}

#[test]
fn a_link_on_the_way_to_an_attachment_is_refused() {
    let case = Case::new();
    let folder = case.attachment.parent().unwrap();
    let elsewhere = case.scratch.path("elsewhere");
    fs::rename(folder, &elsewhere).unwrap();
    symlink(&elsewhere, folder).unwrap();
    let folder_name = folder.file_name().unwrap().to_str().unwrap();
    case.assert_refused(&[], 1, &[&format!("attachments/{folder_name}/"), "a link or no folder on the way"]);
}

#[test]
fn rows_that_no_restore_could_satisfy_are_refused_by_name() {
    let hash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    for (hash, path, words) in [
        (hash, "../escaped", "unusable path"),
        (hash, "/etc/passwd", "unusable path"),
        (hash, "2c/./x", "unusable path"),
        (hash, "2c/x.", "unusable path"),
        (&hash.to_uppercase(), "2c/x", "no SHA-256 in lower case"),
        ("2cf24dba", "2c/x", "no SHA-256 in lower case"),
    ] {
        let case = Case::new();
        add_row(&case.home, hash, path, None);
        case.assert_refused(&[], 1, &[words, &hash[..8]]);
    }
}

#[test]
fn two_attachments_that_a_restore_would_put_into_one_file_are_refused() {
    for (one, other, words) in [
        ("ns/A", "ns/a", "one file name"),
        ("ns/\u{e9}", "ns/e\u{301}", "one file name"),
        ("ns/x", "ns/x/y", "folder"),
    ] {
        let case = Case::new();
        let rows = [(one, &b"one"[..]), (other, b"two")];
        for (path, bytes) in rows {
            add_row(&case.home, &BlobId::of(bytes).to_string(), path, Some(3));
            write_attachment(&case.home, &canonical(bytes), bytes);
        }
        case.assert_refused(&[], 1, &[words, "ns/"]);
    }
}

#[test]
fn damaged_compressed_and_packed_attachments_are_named() {
    for (storage, is_container) in
        [(AttachmentStorage::CompressedLoose, ".zst"), (AttachmentStorage::Packs, ".mvpack")]
    {
        let scratch = Scratch::new();
        let home = scratch.path("home");
        make(&home, &SampleOptions { storage, large: vec![(50_000, ContentKind::Text)], ..tiny() });
        let folder = home.join("attachments");
        let container = contents(&folder).into_keys().find(|path| path.ends_with(is_container)).unwrap();
        let path = folder.join(&container);
        let sound = fs::read(&path).unwrap();
        let mut flipped = sound.clone();
        flipped[sound.len() / 3] ^= 0x40;
        let mut header = sound.clone();
        header[4] ^= 0x40;
        for damaged in [flipped, header, sound[..sound.len() / 2].to_vec(), sound[..5].to_vec(), Vec::new()] {
            let repository = init(&scratch.path("repository"));
            fs::write(&path, damaged).unwrap();
            let error = try_create(&repository, &home, CreateOptions::default(), 2).unwrap_err();
            let name = path.file_stem().unwrap().to_str().unwrap();
            assert!(error.chain().contains(name), "{container}: {}", error.chain());
            assert_eq!(snapshot_files(&repository), Vec::<String>::new());
            assert_no_remains(&repository);
            fs::remove_dir_all(&repository).unwrap();
        }
    }
}

#[test]
fn extra_files_that_are_links_or_have_no_utf8_name_are_refused() {
    let case = Case::new();
    let deletions = case.home.join("deletions");
    let link = deletions.join("link.json");
    symlink(case.home.join("config.toml"), &link).unwrap();
    case.assert_refused(&[], 1, &["deletions/link.json", "symbolic link"]);
    fs::remove_file(&link).unwrap();

    let odd = deletions.join(OsStr::from_bytes(b"caf\xe9.json"));
    fs::write(&odd, "{}").unwrap();
    case.assert_refused(&[], 1, &["not UTF-8"]);
    fs::remove_file(&odd).unwrap();

    let tokens = case.home.join("tokens");
    let moved = case.scratch.path("moved");
    fs::rename(&tokens, &moved).unwrap();
    symlink(&moved, &tokens).unwrap();
    case.assert_refused(&["--include-tokens", "--allow-plaintext-secrets"], 1, &["home/tokens"]);

    // A fifo among them is passed over, and not waited for.
    let folder = File::open(&deletions).unwrap();
    mknodat(&folder, "pipe", FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    create(&case.repository, &case.home);
}

/// Runs `create` on a home whose database was replaced; nothing may appear in it.
fn assert_database_refused(spoil: impl FnOnce(&Path), words: &[&str]) {
    let case = Case::new();
    let database = case.home.join("msgvault.db");
    fs::remove_file(&database).unwrap();
    for name in ["daemon.lock", "db.write.lock"] {
        let _ = fs::remove_file(case.home.join(name));
    }
    spoil(&database);
    let before = tree(&case.home);
    case.assert_refused(&[], 1, &[words, &["msgvault.db"]].concat());
    assert_eq!(tree(&case.home), before);
    assert_eq!(names(&case.repository.join("packs")), Vec::<String>::new());
}

#[test]
fn a_database_that_is_missing_or_none_is_refused_and_nothing_is_made() {
    assert_database_refused(|_| {}, &["no database at"]);
    assert_database_refused(|path| fs::create_dir(path).unwrap(), &["not a regular file"]);
    assert_database_refused(|path| fs::write(path, "").unwrap(), &["shorter than a database header"]);
    assert_database_refused(|path| fs::write(path, "SQLite format 3").unwrap(), &["shorter than"]);
    let text = "This is a letter and not a database.\n".repeat(300);
    assert_database_refused(|path| fs::write(path, text).unwrap(), &["does not begin like one"]);
    let encrypted: Vec<u8> =
        (0..8192u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    assert_database_refused(|path| fs::write(path, encrypted).unwrap(), &["encrypted"]);
    assert_database_refused(|path| symlink("nowhere.db", path).unwrap(), &["no database at"]);
}

#[test]
fn a_home_that_does_not_exist_is_not_made() {
    let case = Case::new();
    fs::remove_dir_all(&case.home).unwrap();
    case.assert_refused(&[], 1, &["no archive is called home", "nor is there a folder of that name"]);
    assert!(!case.home.exists());
}

#[test]
fn a_database_whose_schema_page_is_damaged_is_refused() {
    let case = Case::new();
    let database = case.home.join("msgvault.db");
    let mut bytes = fs::read(&database).unwrap();
    bytes[100..3000].fill(0xa5);
    fs::write(&database, bytes).unwrap();
    case.assert_refused(&[], 1, &["msgvault.db"]);
}

#[test]
fn a_database_of_another_application_is_refused_with_the_query_that_failed() {
    let case = Case::new();
    execute(&case.home, "DROP TABLE labels");
    case.assert_refused(&[], 1, &["does not answer as a msgvault archive", "labels"]);
}

#[test]
fn a_database_that_ends_early_is_refused() {
    let case = Case::new();
    let database = case.home.join("msgvault.db");
    let length = fs::metadata(&database).unwrap().len();
    File::options().write(true).open(&database).unwrap().set_len(length - 4096).unwrap();
    case.assert_refused(&[], 1, &["msgvault.db"]);
}

#[test]
fn a_running_application_is_not_disturbed_and_waited_for() {
    for name in ["daemon.lock", "db.write.lock"] {
        let case = Case::new();
        let lock = File::create(case.home.join(name)).unwrap();
        lock.try_lock().unwrap();
        // The repository's own lock has nothing to do with it.
        let flags = ["--repo", "./repository", "--force-unlock", "--progress", "plain"];
        let mut command = case.scratch.packvault(&[&["create", "home"], &flags[..]].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let is_named =
            |line: String| line.contains("waiting up to 30 s: the archive is in use") && line.contains(name);
        assert!(said.any(is_named), "{name}: it is said what is waited for");
        assert_eq!(names(&case.repository.join("snapshots")), Vec::<String>::new());
        // Not dropped: a process that another test has just started may hold a copy for a moment.
        lock.unlock().unwrap();
        assert!(child.wait().unwrap().success(), "{name}");
    }
}

#[test]
fn a_writer_that_does_not_stop_is_waited_for_and_then_named() {
    let case = Case::new();
    execute(&case.home, "PRAGMA journal_mode = DELETE");
    let writer = crate::support::archives::database(&case.home);
    writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
    case.assert_refused(&[], 11, &["msgvault.db", "locked"]);
    writer.execute_batch("ROLLBACK").unwrap();
    create(&case.repository, &case.home);
}

#[test]
fn secrets_are_refused_without_the_word_for_it() {
    let case = Case::new();
    for flag in ["--include-config", "--include-tokens"] {
        case.assert_refused(&[flag], 2, &["--allow-plaintext-secrets"]);
    }
}

#[test]
fn a_tag_that_could_steer_a_terminal_is_refused() {
    let case = Case::new();
    for tag in ["a\nb", "\x1b[2J", "bell\x07", "\u{85}"] {
        case.assert_refused(&["--tag", tag], 2, &["control characters"]);
    }
}

#[test]
fn a_locked_repository_is_left_alone_until_the_lock_is_stale_or_broken() {
    let case = Case::new();
    let record = LockRecord {
        hostname: "nas".to_owned(),
        pid: 4711,
        operation: "create".to_owned(),
        acquired_at: "2026-01-02T03:04:05Z".to_owned(),
        holder: None,
    };
    let lock = case.repository.join("locks/exclusive.json");
    fs::create_dir_all(case.repository.join("locks")).unwrap();
    fs::write(&lock, record.encode()).unwrap();
    for arguments in [&["create", "home"][..], &["verify"], &["restore", "--target", "target"]] {
        let output = case.scratch.run(&[arguments, &["--repo", "./repository"]].concat());
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(11), "{text}");
        assert!(text.contains("held by nas pid 4711 (create since 2026-01-02T03:04:05Z)"), "{text}");
        assert_eq!(names(&case.repository.join("locks")), ["exclusive.json"]);
    }
    assert!(!case.scratch.path("target").exists());
    assert_eq!(case.scratch.json(&["list", "--repo", "./repository"]), serde_json::json!([]));

    let long_ago = SystemTime::now() - Duration::from_secs(31 * 60);
    File::options().write(true).open(&lock).unwrap().set_modified(long_ago).unwrap();
    create(&case.repository, &case.home);
    fs::write(&lock, "garbage").unwrap();
    let options = CreateOptions { force_unlock: true, ..CreateOptions::default() };
    try_create(&case.repository, &case.home, options, 2).unwrap();
    assert_no_remains(&case.repository);
    assert_eq!(assert_sound(&case.repository).snapshots, 2);
}
