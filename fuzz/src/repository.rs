//! Whole operations in random order, with deaths, faults and damage between them, against a model that knows what
//! each snapshot must bring back.
//!
//! An undamaged repository verifies clean and every listed snapshot comes back byte for byte, whatever died or
//! failed before. A damaged one restores the right bytes or none. Input: one byte of choice per step, with what
//! the step takes from the bytes behind it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures::FutureExt;
use packvault::archive::profile::ArchivePaths;
use packvault::engine::create::{CreateOptions, create};
use packvault::engine::list::list;
use packvault::engine::report::VerifyReport;
use packvault::engine::restore::{RestoreOptions, restore};
use packvault::engine::verify::{Depth, VerifyOptions, verify};
use packvault::engine::{Context, Selection, init};
use packvault::format::{RepositoryKey, SnapshotId};
use packvault::profiles::msgvault::Msgvault;
use packvault::progress::Silent;
use packvault::repo::Repository;
use packvault::repo::config::NewKey;
use packvault::repo::locks::STALE_AFTER;
use packvault::{Cancel, Result};
use packvault_sample::{self as sample, Change, SampleOptions};
use packvault_storage::{ErrorKind, Fault, FaultStorage, MemoryStorage, Storage};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::input::Input;

/// Steps of one input.
const STEPS_MAX: usize = 8;
/// Storage calls among which one is chosen to fail; more than an operation here takes.
const CALLS: usize = 64;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(super::scratch::runtime);
static SAMPLE: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = super::scratch::folder();
    let options = SampleOptions {
        messages: 3,
        attachments: 3,
        attachment_mean_bytes: 300,
        page_size: 512,
        full_text: false,
        raw: false,
        body_words: 10,
        ..SampleOptions::default()
    };
    sample::make(&folder.path().join("home"), &options).expect("a sample can be made");
    folder
});

type Files = BTreeMap<String, Vec<u8>>;

/// Takes the steps, then looks at everything.
pub fn run(data: &[u8]) {
    RUNTIME.block_on(async {
        let mut input = Input::new(data);
        // The bytes stay what they mean, whichever kind of repository they are played on.
        let mut world = World::new(data.len() % 2 == 1).await;
        for _ in 0..STEPS_MAX {
            if input.is_empty() {
                break;
            }
            world.step(&mut input).await;
        }
        world.check_all().await;
    });
}

fn repository_key() -> RepositoryKey {
    RepositoryKey::from_bytes([7; RepositoryKey::BYTES])
}

/// Opens the repository, with its key if it has one.
async fn open_any(storage: Arc<dyn Storage>) -> Result<Repository> {
    Repository::open_with(storage, async |config| Ok(config.is_encrypted().then(repository_key))).await
}

/// A repository, its archive, and what is known of its snapshots.
struct World {
    storage: MemoryStorage,
    folder: TempDir,
    /// What each snapshot must bring back.
    made: BTreeMap<String, Files>,
    is_damaged: bool,
}

/// What is done to the repository under a fault.
enum Action {
    Create,
    Verify,
    Restore,
}

impl World {
    async fn new(is_encrypted: bool) -> Self {
        let folder = super::scratch::folder();
        copy_below(&SAMPLE.path().join("home"), &folder.path().join("home"));
        let storage = MemoryStorage::new();
        let key = repository_key();
        let keep = |_| async { Ok(()) }.boxed();
        let key = is_encrypted.then(|| NewKey { key: &key, keep: Box::new(keep) });
        init::init_with(&storage, false, key).await.expect("a repository can be made");
        Self { storage, folder, made: BTreeMap::new(), is_damaged: false }
    }

    async fn step(&mut self, input: &mut Input<'_>) {
        match input.below(8) {
            0 => self.create(self.shared()).await,
            1 => self.change(input),
            2 => self.edit(input),
            3 => drop(self.verify(input.choice()).await),
            4 => self.restore_one(input).await,
            5 => self.fail(input, true).await,
            6 => self.fail(input, false).await,
            _ => self.damage(input).await,
        }
    }

    fn shared(&self) -> Arc<dyn Storage> {
        Arc::new(self.storage.clone())
    }

    /// Lets a day go by in the archive.
    fn change(&self, input: &mut Input<'_>) {
        let fraction = |byte: u8| f64::from(byte % 4) / 4.0;
        let change = Change {
            insert_fraction: fraction(input.byte()),
            update_fraction: fraction(input.byte()),
            delete_fraction: fraction(input.byte()),
            add_attachments: Some(input.below(3) as u32),
            remove_attachments: Some(input.below(2) as u32),
            vacuum: input.byte() % 4 == 1,
            ..Change::nothing()
        };
        sample::mutate(&self.home(), &change).expect("a sample can be changed");
    }

    /// Writes a file that a snapshot takes.
    fn edit(&self, input: &mut Input<'_>) {
        let file = self.home().join("deletions").join(format!("{}.json", input.below(3)));
        let bytes = vec![input.byte(); usize::from(input.byte())];
        std::fs::write(file, bytes).expect("the archive can be written");
    }

    fn home(&self) -> std::path::PathBuf {
        self.folder.path().join("home")
    }

    async fn create(&mut self, storage: Arc<dyn Storage>) {
        let created = self.try_create(storage).await;
        assert!(created.is_ok() || self.is_damaged, "a create on a whole repository: {created:?}");
    }

    async fn try_create(&mut self, storage: Arc<dyn Storage>) -> Result<()> {
        let home = self.home();
        let paths = ArchivePaths {
            database: home.join("msgvault.db"),
            content: home.join("attachments"),
            config: home.join("config.toml"),
            home,
        };
        let options = CreateOptions { writer_version: "test".into(), ..CreateOptions::default() };
        let repository = open_any(storage).await?;
        let report = create(&repository, Arc::new(Msgvault), &paths, options, &self.context()).await?;
        self.made.insert(report.id.expect("a create that is no dry run makes a snapshot"), self.expected());
        Ok(())
    }

    async fn verify(&self, quick: bool) -> Result<VerifyReport> {
        let verified = self.try_verify(self.shared(), quick).await;
        if !self.is_damaged && !self.made.is_empty() {
            let report = verified.as_ref().expect("a whole repository can be verified");
            assert!(report.ok && report.problems.is_empty(), "{:#?}", report.problems);
        }
        verified
    }

    async fn try_verify(&self, storage: Arc<dyn Storage>, quick: bool) -> Result<VerifyReport> {
        let repository = open_any(storage).await?;
        let depth = if quick { Depth::Footers } else { Depth::Content };
        let options = VerifyOptions { depth, paths: !quick, ..VerifyOptions::default() };
        verify(&repository, Arc::new(Msgvault), Selection::All, options, &self.context()).await
    }

    async fn restore_one(&self, input: &mut Input<'_>) {
        let Some((id, files)) = self.chosen(input) else { return };
        let restored = self.try_restore(self.shared(), id, files).await;
        assert!(restored.is_ok() || self.is_damaged, "a restore from a whole repository: {restored:?}");
    }

    fn chosen(&self, input: &mut Input<'_>) -> Option<(&String, &Files)> {
        let number = input.below(8);
        self.made.iter().nth(number % self.made.len().max(1))
    }

    /// Restores; what comes back is right, or nothing does.
    async fn try_restore(&self, storage: Arc<dyn Storage>, id: &str, files: &Files) -> Result<()> {
        let folder = super::scratch::folder();
        let options = RestoreOptions { target: folder.path().join("target"), ..RestoreOptions::default() };
        let target = options.target.clone();
        let selection = Selection::One(SnapshotId::parse(id).expect("create returns ids"));
        let repository = open_any(storage).await?;
        let restored = restore(&repository, Arc::new(Msgvault), selection, options, &self.context()).await;
        // After a success the lock may be all that could not be given back.
        if restored.is_ok() || target.exists() {
            assert_same(&files_below(&target), files);
        }
        restored.map(drop)
    }

    /// Lets an operation die, or one of its calls fail, and goes on when its lock has become stale.
    async fn fail(&mut self, input: &mut Input<'_>, is_death: bool) {
        let faulty = FaultStorage::new(self.shared());
        let fault = if is_death { death(input) } else { fault(input) };
        faulty.at_call(1 + input.below(CALLS) as u64, fault);
        let storage: Arc<dyn Storage> = Arc::new(faulty);
        match action(input) {
            Action::Create => drop(self.try_create(storage).await),
            Action::Verify => drop(self.try_verify(storage, false).await),
            Action::Restore => {
                if let Some((id, files)) = self.chosen(input) {
                    let _ = self.try_restore(storage, id, files).await;
                }
            }
        }
        self.storage.advance_clock(STALE_AFTER + Duration::from_secs(1));
        self.adopt().await;
    }

    /// Takes note of a snapshot that became visible although its create failed.
    async fn adopt(&mut self) {
        let Ok(repository) = open_any(self.shared()).await else {
            assert!(self.is_damaged, "a whole repository can be opened");
            return;
        };
        let Ok(rows) = list(&repository).await else {
            assert!(self.is_damaged, "a whole repository can be listed");
            return;
        };
        if !self.is_damaged {
            assert!(rows.iter().all(|row| row.problem.is_none()), "{rows:#?}");
            assert!(self.made.keys().all(|id| rows.iter().any(|row| row.id == *id)), "{rows:#?}");
        }
        let expected = self.expected();
        for row in rows.into_iter().filter(|row| row.problem.is_none()) {
            self.made.entry(row.id).or_insert_with(|| expected.clone());
        }
    }

    /// Damages one object; what it did to it is for the operations to find out. Its time stays, so that nobody
    /// waits for a lock that was left behind.
    async fn damage(&mut self, input: &mut Input<'_>) {
        let objects = self.storage.objects();
        if objects.is_empty() {
            return;
        }
        let (key, bytes) = &objects[usize::from(input.u16()) % objects.len()];
        let (kind, at, count) = (input.below(6), usize::from(input.u16()), 1 + input.below(64));
        let mut damaged = bytes.to_vec();
        let at = at % damaged.len().max(1);
        let end = (at + count).min(damaged.len());
        match kind {
            0 => damaged.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (count % 8)),
            1 => damaged.truncate(at),
            2 => drop(damaged.drain(at.min(end)..end)),
            3 => damaged[at.min(end)..end].fill(0),
            4 => damaged = objects[count % objects.len()].1.to_vec(),
            _ => {
                self.storage.remove(key).await.expect("it was there a moment ago");
                self.is_damaged = true;
                return;
            }
        }
        self.is_damaged |= damaged != *bytes;
        let meta = self.storage.stat(key).await.expect("it was there a moment ago");
        self.storage.put_raw(key, damaged, meta.modified);
    }

    /// What verify calls sound comes back.
    async fn check_all(&self) {
        let verified = self.verify(false).await;
        let is_sound = !self.is_damaged || verified.is_ok_and(|report| report.ok);
        let listed = match open_any(self.shared()).await {
            Ok(repository) => list(&repository).await.unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        for (id, files) in &self.made {
            let restored = self.try_restore(self.shared(), id, files).await;
            let must_restore = is_sound && (!self.is_damaged || listed.iter().any(|row| row.id == *id));
            assert!(restored.is_ok() || !must_restore, "{id} was found sound: {restored:?}");
        }
    }

    fn expected(&self) -> Files {
        let mut files = files_below(&self.home());
        let taken = |path: &str| path.starts_with("attachments/") || path.starts_with("deletions/");
        files.retain(|path, _| path == "msgvault.db" || taken(path));
        files
    }

    fn context(&self) -> Context {
        Context {
            cancel: Cancel::new(),
            progress: Arc::new(Silent),
            jobs: 1,
            hostname: "testhost".into(),
            spool: self.folder.path().to_owned(),
        }
    }
}

fn action(input: &mut Input<'_>) -> Action {
    match input.below(4) {
        0 | 1 => Action::Create,
        2 => Action::Verify,
        _ => Action::Restore,
    }
}

fn death(input: &mut Input<'_>) -> Fault {
    if input.choice() { Fault::StopBefore } else { Fault::StopAfter }
}

fn fault(input: &mut Input<'_>) -> Fault {
    match input.below(7) {
        0 => Fault::Before(ErrorKind::Io),
        1 => Fault::Before(ErrorKind::NotFound),
        2 => Fault::Before(ErrorKind::Connection),
        3 => Fault::After(ErrorKind::Timeout),
        4 => Fault::After(ErrorKind::Io),
        5 => Fault::Truncate,
        _ => Fault::Flip,
    }
}

fn assert_same(found: &Files, expected: &Files) {
    let names = |files: &Files| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected));
    for (name, bytes) in expected {
        assert!(found[name] == *bytes, "{name} differs");
    }
}

fn files_below(folder: &Path) -> Files {
    let mut files = Files::new();
    collect(folder, "", &mut files);
    files
}

fn collect(folder: &Path, prefix: &str, files: &mut Files) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.map(|entry| entry.expect("the scratch folder can be read")) {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            collect(&entry.path(), &format!("{name}/"), files);
        } else {
            files.insert(name, std::fs::read(entry.path()).expect("the scratch folder can be read"));
        }
    }
}

fn copy_below(from: &Path, to: &Path) {
    for (name, bytes) in files_below(from) {
        let file = to.join(name);
        std::fs::create_dir_all(file.parent().expect("a file lies in a folder"))
            .expect("scratch is writable");
        std::fs::write(file, bytes).expect("scratch is writable");
    }
}
