//! The operations as one blocking call each, with the options that a test does not care for filled in.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use packvault::archive::profile::ArchivePaths;
use packvault::engine::create::CreateOptions;
use packvault::engine::report::{CreateReport, ListRow, RestoreReport, VerifyReport};
use packvault::engine::restore::RestoreOptions;
use packvault::engine::verify::VerifyOptions;
use packvault::engine::{self, Context, Selection};
use packvault::format::{Manifest, SnapshotId};
use packvault::location::{Opening, Purpose};
use packvault::profiles::msgvault::Msgvault;
use packvault::progress::Silent;
use packvault::repo::keys::{self, Choice, KeyIdentity, Secrets};
use packvault::repo::{Repository, Storage};
use packvault::{Cancel, Location, Result};
use tokio::runtime::Runtime;

use super::encrypted;
use super::memory_repo::depth;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.block_on(future)
}

pub fn context(jobs: usize) -> Context {
    Context {
        cancel: Cancel::new(),
        progress: Arc::new(Silent),
        jobs,
        hostname: "test".to_owned(),
        spool: std::env::temp_dir(),
    }
}

/// Makes a repository in a folder that does not exist.
pub fn init(path: &Path) -> PathBuf {
    block_on(async {
        let storage = storage(path, Purpose::Init).await;
        engine::init::init(storage.as_ref()).await.unwrap();
    });
    path.to_owned()
}

/// Opens a repository; one that is encrypted must be so for the age identity of the fixtures.
pub fn open(path: &Path) -> Repository {
    block_on(async {
        let storage = storage(path, Purpose::Work).await;
        let opened = Repository::open_with(Arc::clone(&storage), async |config| {
            if !config.is_encrypted() {
                return Ok(None);
            }
            let identity = std::fs::read_to_string(encrypted::identity("age.txt")).unwrap();
            let identities = KeyIdentity::parse_file(&identity, "age.txt")?;
            let mut secrets = Secrets { passphrase: None, identities };
            let (choice, cancel) = (Choice::default(), Cancel::new());
            let ask = |_: &str| Ok(None);
            let opened =
                keys::open(storage.as_ref(), Some(&config.repo_id), &mut secrets, choice, &ask, &cancel)
                    .await?;
            Ok(Some(opened.key))
        });
        opened.await.unwrap()
    })
}

async fn storage(path: &Path, purpose: Purpose) -> Arc<dyn Storage> {
    let opening = Opening::new(purpose, std::env::temp_dir());
    Location::Local(path.to_owned()).open(&opening).await.unwrap().storage
}

/// Returns where the parts of an archive lie that has everything in its home.
pub fn archive_paths(home: &Path) -> ArchivePaths {
    ArchivePaths {
        home: home.to_owned(),
        database: home.join("msgvault.db"),
        content: home.join("attachments"),
        config: home.join("config.toml"),
    }
}

pub fn try_create(
    repository: &Path,
    home: &Path,
    options: CreateOptions,
    jobs: usize,
) -> Result<CreateReport> {
    let options = CreateOptions { writer_version: "test".to_owned(), ..options };
    let (repository, paths) = (open(repository), archive_paths(home));
    block_on(engine::create::create(&repository, Arc::new(Msgvault), &paths, options, &context(jobs)))
}

pub fn create(repository: &Path, home: &Path) -> CreateReport {
    try_create(repository, home, CreateOptions::default(), 2).unwrap()
}

pub fn list(repository: &Path) -> Vec<ListRow> {
    block_on(engine::list::list(&open(repository))).unwrap()
}

/// Returns every manifest, oldest first.
pub fn manifests(repository: &Path) -> Vec<Manifest> {
    block_on(open(repository).load_snapshots()).unwrap()
}

pub fn manifest(repository: &Path, id: &str) -> Manifest {
    block_on(open(repository).load_snapshot(&SnapshotId::parse(id).unwrap())).unwrap()
}

pub fn verify(repository: &Path, selection: Selection, quick: bool) -> VerifyReport {
    let options = VerifyOptions { depth: depth(quick), paths: !quick, ..VerifyOptions::default() };
    block_on(engine::verify::verify(&open(repository), Arc::new(Msgvault), selection, options, &context(2)))
        .unwrap()
}

/// Reads everything in the repository and sees that nothing is wrong.
pub fn assert_sound(repository: &Path) -> VerifyReport {
    let report = verify(repository, Selection::All, false);
    assert!(report.ok && report.problems.is_empty(), "{:#?}", report.problems);
    report
}

pub fn one(id: &str) -> Selection {
    Selection::One(SnapshotId::parse(id).unwrap())
}

pub fn try_restore(
    repository: &Path,
    selection: Selection,
    options: RestoreOptions,
) -> Result<RestoreReport> {
    let repository = open(repository);
    block_on(engine::restore::restore(&repository, Arc::new(Msgvault), selection, options, &context(2)))
}

pub fn restore(repository: &Path, id: &str, target: &Path) -> RestoreReport {
    let options = RestoreOptions { target: target.to_owned(), ..RestoreOptions::default() };
    try_restore(repository, one(id), options).unwrap()
}
