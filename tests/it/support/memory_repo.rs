//! Small archives and repositories for tests: made in a blink, kept in memory, copied for each case.
//!
//! What a restore must bring back is remembered when the snapshot is made: every file below the archive that
//! a snapshot takes, byte for byte.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use futures::FutureExt;
use packvault::archive::profile::ArchivePaths;
use packvault::engine::create::{CreateOptions, create};
use packvault::engine::report::{CreateReport, InitReport, RestoreReport, VerifyReport};
use packvault::engine::restore::{RestoreOptions, restore};
use packvault::engine::verify::{Depth, VerifyOptions, verify};
use packvault::engine::{Context, Selection, init};
use packvault::format::{RepoConfig, RepositoryKey, SnapshotId};
use packvault::profiles::msgvault::Msgvault;
use packvault::progress::Silent;
use packvault::repo::Repository;
use packvault::repo::config::NewKey;
use packvault::repo::locks::LockRequest;
use packvault::{Cancel, Error, ErrorKind, Result};
use packvault_sample::{self as sample, Change, SampleOptions};
use packvault_storage::{Key, MemoryStorage, Storage};
use tempfile::TempDir;

/// Every file of a folder by its path, with its content.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Returns a new folder, in memory where the machine has that: every restore syncs its file system.
pub fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a temporary folder can be made")
}

/// Returns the runtime of one test.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Returns what surrounds an operation of a test.
pub fn context() -> Context {
    Context {
        cancel: Cancel::new(),
        progress: Arc::new(Silent),
        jobs: 2,
        hostname: "testhost".into(),
        spool: std::env::temp_dir(),
    }
}

/// Tells whether every case of every table is to be run.
pub fn runs_everything() -> bool {
    std::env::var("PACKVAULT_FIRE").is_ok_and(|value| value == "all")
}

/// Returns what asks for a lock on behalf of the machine, and breaks nobody's.
pub fn lock_request(hostname: &str) -> LockRequest {
    LockRequest {
        operation: "create",
        hostname: hostname.into(),
        process: packvault::process::Identity::of_this_process(),
        force: false,
        progress: Arc::new(Silent),
        cancel: Cancel::new(),
    }
}

/// How the repository of a test is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Plain,
    Encrypted,
}

impl Kind {
    /// Returns the other one.
    pub fn opposite(self) -> Self {
        match self {
            Self::Plain => Self::Encrypted,
            Self::Encrypted => Self::Plain,
        }
    }
}

pub const KINDS: [Kind; 2] = [Kind::Plain, Kind::Encrypted];

/// The key of every encrypted repository of the tests.
pub fn repository_key() -> RepositoryKey {
    RepositoryKey::from_bytes([7; RepositoryKey::BYTES])
}

/// The key of nothing.
pub fn foreign_key() -> RepositoryKey {
    RepositoryKey::from_bytes([8; RepositoryKey::BYTES])
}

/// Makes a repository. What keeps the key of an encrypted one is a file, as everywhere.
pub async fn make_repository(storage: &dyn Storage, kind: Kind) -> Result<InitReport> {
    let own = repository_key();
    let keep = |config: RepoConfig| {
        async move {
            let text = format!("the key of {} is known to the tests", config.repo_id);
            let file = key("keys/test.age");
            // What an init that died has left is in nobody's way.
            let removed = storage.remove(&file).await;
            let kept = match removed {
                Err(error) if error.kind() != packvault_storage::ErrorKind::NotFound => Err(error),
                _ => storage.create(&file, text.into()).await,
            };
            kept.map_err(|error| {
                let kind = match error.kind() {
                    packvault_storage::ErrorKind::Denied => ErrorKind::NotPermitted,
                    packvault_storage::ErrorKind::Interrupted => ErrorKind::Interrupted,
                    _ => ErrorKind::Io,
                };
                Error::caused(kind, "cannot keep the key", error)
            })
        }
        .boxed()
    };
    let key = (kind == Kind::Encrypted).then(|| NewKey { key: &own, keep: Box::new(keep) });
    init::init_with(storage, false, key).await
}

/// Opens a repository, with the key of the tests if it is encrypted.
pub async fn opened(storage: Arc<dyn Storage>) -> Result<Repository> {
    Repository::open_with(storage, async |config| Ok(config.is_encrypted().then(repository_key))).await
}

/// Returns the storage as operations take it.
pub fn shared(storage: &MemoryStorage) -> Arc<dyn Storage> {
    Arc::new(storage.clone())
}

/// Returns a second storage with the same objects, as fresh as new.
pub fn copy_of(storage: &MemoryStorage) -> MemoryStorage {
    let copy = MemoryStorage::new();
    for (key, bytes) in storage.objects() {
        copy.put_raw(&key, bytes, SystemTime::now());
    }
    copy
}

/// Returns the key of a text that a test knows to be one.
pub fn key(text: &str) -> Key {
    Key::parse(text).expect("a test names keys")
}

/// An archive in a temporary folder.
pub struct Archive {
    folder: TempDir,
}

impl Archive {
    /// Makes an archive of about 100 KiB.
    pub fn small() -> Self {
        Self::make(&SampleOptions {
            messages: 40,
            attachments: 8,
            attachment_mean_bytes: 4000,
            full_text: false,
            raw: false,
            ..SampleOptions::default()
        })
    }

    /// Makes an archive without attachments, whose database has many pages for its size.
    pub fn of_small_pages() -> Self {
        Self::make(&SampleOptions {
            messages: 3000,
            attachments: 0,
            page_size: 512,
            raw: false,
            full_text: false,
            ..SampleOptions::default()
        })
    }

    /// Makes an archive of the given kind.
    pub fn make(options: &SampleOptions) -> Self {
        let folder = scratch();
        sample::make(&folder.path().join("home"), options).expect("a sample can be made");
        Self { folder }
    }

    /// Returns a place for an archive that is yet to be made there.
    pub fn unmade() -> Self {
        Self { folder: scratch() }
    }

    /// Lets a day go by.
    pub fn change(&self) {
        sample::mutate(&self.home(), &Change::default()).expect("a sample can be changed");
    }

    /// Writes one file of the archive.
    pub fn write(&self, path: &str, bytes: &[u8]) {
        std::fs::write(self.home().join(path), bytes).unwrap();
    }

    /// Returns the archive's home.
    pub fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// Returns where the archive lies.
    pub fn paths(&self) -> ArchivePaths {
        let home = self.home();
        ArchivePaths {
            database: home.join("msgvault.db"),
            content: home.join("attachments"),
            config: home.join("config.toml"),
            home,
        }
    }

    /// Returns what a restore of a snapshot made now must bring back.
    pub fn expected(&self) -> Files {
        let mut files = files_below(&self.home());
        files.retain(|path, _| {
            path == "msgvault.db" || path.starts_with("attachments/") || path.starts_with("deletions/")
        });
        files
    }
}

/// Reads every file below the folder; a folder that is not there holds none.
pub fn files_below(folder: &Path) -> Files {
    let mut files = Files::new();
    collect(folder, "", &mut files);
    files
}

fn collect(folder: &Path, prefix: &str, files: &mut Files) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type().unwrap().is_dir() {
            collect(&entry.path(), &format!("{name}/"), files);
        } else {
            files.insert(name, std::fs::read(entry.path()).unwrap());
        }
    }
}

/// A snapshot and what it must bring back.
#[derive(Clone)]
pub struct Made {
    /// Its id.
    pub id: String,
    /// What a restore must bring back.
    pub files: Files,
}

/// Makes a repository in memory with so many snapshots of a small archive that changes between them.
pub async fn repository_of(snapshots: usize) -> (MemoryStorage, Archive, Vec<Made>) {
    repository_of_kind(Kind::Plain, snapshots).await
}

/// The same, plain or encrypted.
pub async fn repository_of_kind(kind: Kind, snapshots: usize) -> (MemoryStorage, Archive, Vec<Made>) {
    let (storage, archive) = (MemoryStorage::new(), Archive::small());
    let made = fill_kind(kind, &storage, &archive, snapshots).await;
    (storage, archive, made)
}

/// Makes a repository and so many snapshots.
pub async fn fill(storage: &MemoryStorage, archive: &Archive, snapshots: usize) -> Vec<Made> {
    fill_kind(Kind::Plain, storage, archive, snapshots).await
}

/// The same, plain or encrypted.
pub async fn fill_kind(
    kind: Kind,
    storage: &MemoryStorage,
    archive: &Archive,
    snapshots: usize,
) -> Vec<Made> {
    make_repository(storage, kind).await.expect("a repository can be made");
    let mut made = Vec::new();
    for number in 0..snapshots {
        match number {
            0 => {}
            // The database stays as it is, which keeps the chain of page maps short in bytes.
            1 => archive.write("deletions/later.json", b"{}"),
            _ => archive.change(),
        }
        let report = capture(shared(storage), archive).await.expect("a snapshot can be made");
        made.push(Made { id: report.id.unwrap(), files: archive.expected() });
    }
    made
}

/// Opens the repository and makes a snapshot.
pub async fn capture(storage: Arc<dyn Storage>, archive: &Archive) -> Result<CreateReport> {
    capture_with(storage, archive, CreateOptions::default()).await
}

/// Opens the repository and makes a snapshot with options.
pub async fn capture_with(
    storage: Arc<dyn Storage>,
    archive: &Archive,
    options: CreateOptions,
) -> Result<CreateReport> {
    let options = CreateOptions { writer_version: "test".into(), ..options };
    let repository = opened(storage).await?;
    create(&repository, Arc::new(Msgvault), &archive.paths(), options, &context()).await
}

/// Returns how far a verify looks that reads everything, or one that is quick.
pub fn depth(quick: bool) -> Depth {
    if quick { Depth::Footers } else { Depth::Content }
}

/// Opens the repository and verifies it.
pub async fn check(storage: Arc<dyn Storage>, selection: Selection, quick: bool) -> Result<VerifyReport> {
    let repository = opened(storage).await?;
    verify(
        &repository,
        Arc::new(Msgvault),
        selection,
        VerifyOptions { depth: depth(quick), paths: !quick, ..VerifyOptions::default() },
        &context(),
    )
    .await
}

/// Opens the repository and restores one snapshot.
pub async fn bring_back(storage: Arc<dyn Storage>, id: &str, target: &Path) -> Result<RestoreReport> {
    let options = RestoreOptions { target: target.to_owned(), ..RestoreOptions::default() };
    bring_back_with(storage, id, options).await
}

/// Opens the repository and restores one snapshot with options.
pub async fn bring_back_with(
    storage: Arc<dyn Storage>,
    id: &str,
    options: RestoreOptions,
) -> Result<RestoreReport> {
    let selection = Selection::One(SnapshotId::parse(id).expect("a test names snapshots"));
    let repository = opened(storage).await?;
    restore(&repository, Arc::new(Msgvault), selection, options, &context()).await
}

/// Restores a snapshot into a new folder and compares every file with what was captured.
pub async fn assert_comes_back(storage: Arc<dyn Storage>, made: &Made, case: &str) {
    let folder = scratch();
    let target = folder.path().join("target");
    let restored = bring_back(storage, &made.id, &target).await;
    let report = restored.unwrap_or_else(|error| panic!("{case}: {} must restore: {error:?}", made.id));
    assert!(report.database.unwrap().identical, "{case}");
    assert_same_files(&files_below(&target), &made.files, case);
}

/// Compares two folders and names the first difference, not its bytes.
pub fn assert_same_files(found: &Files, expected: &Files, case: &str) {
    let names = |files: &Files| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected), "{case}");
    for (name, bytes) in expected {
        assert!(found[name] == *bytes, "{case}: {name} differs");
    }
}

/// Verifies everything in full and expects nothing to be wrong.
pub async fn assert_sound(storage: Arc<dyn Storage>, case: &str) -> VerifyReport {
    let report = check(storage, Selection::All, false).await;
    let report = report.unwrap_or_else(|error| panic!("{case}: cannot verify: {error:?}"));
    assert!(report.ok && report.problems.is_empty(), "{case}: {:#?}", report.problems);
    report
}
