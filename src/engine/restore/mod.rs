//! restore: brings a snapshot back, and proves it before anything visible changes (section 12).
//!
//! Order: everything that the snapshot needs is found and read through; the database is written and every
//! page checked; attachments and extras are written and every blob checked, while the proof is made on the
//! staged database; all of it is made durable; then it is put in place, the database last.

mod database;
mod files;
mod owner;
mod part;
pub(super) mod plan;
mod proof;
mod statistics;

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;

use futures::future::{Either, select};
use futures::join;

use self::files::{FilesVisitor, RestoredFile};
use self::part::Part;
use self::plan::Plan;
use self::proof::Proved;
use super::inside::pattern::Patterns;
use super::metadata::MetadataReader;
use super::pipeline::Pipeline;
use super::report::{Check, Proof, RestoreReport, RestoredAttachments, RestoredDatabase};
use super::{Context, ReadLocking, Selection, bulk, logged, restore_check};
use crate::archive::attributes::{Outcome, Owners, RestoredAttributes};
use crate::archive::profile::{CONTENT_NAME, Profile};
use crate::archive::target::{LiveHome, Target, TargetPolicy};
use crate::format::ArchiveAttributes;
use crate::progress::{Stage, Unit};
use crate::repo::Repository;
use crate::repo::blobs::BlobStore;
use crate::repo::indexes::DamagedIndex;
use crate::repo::notes::ArchiveIdentity;
use crate::repo::snapshots::SnapshotFiles;
use crate::{Cancel, Error, ErrorKind, Result};

/// What a restore is asked for.
#[derive(Debug, Clone, Default)]
pub struct RestoreOptions {
    /// The folder to restore into.
    pub target: PathBuf,
    /// Whether a folder that holds something is merged into.
    pub overwrite: bool,
    /// Whether SQLite's own check is left out of the proof.
    pub skip_integrity_check: bool,
    /// Whether the recorded statistics are left out of it.
    pub skip_stats: bool,
    /// Whether auxiliary artifacts that nobody here understands are left out.
    pub without_auxiliary: bool,
    /// Whether a database that another program has open is restored over.
    pub force: bool,
    /// The repository, if it is a folder of this machine: it is not restored into.
    pub repository: Option<PathBuf>,
    /// The homes of this machine's own archives.
    pub live_homes: Vec<LiveHome>,
    /// Whose the restored files shall be.
    pub owners: Owners,
    /// Whose those are that the configuration names, with the folder each lies in.
    pub archives: Vec<(PathBuf, ArchiveIdentity)>,
    /// The archive whose snapshot is meant, if the user named one.
    pub expected: Option<ArchiveIdentity>,
    /// Whether it does not matter whose the snapshot and the target are.
    pub adopt: bool,
    /// How others are kept from removing what is read.
    pub locking: ReadLocking,
    /// What matches is restored, and nothing else; without patterns all is.
    pub only: Option<Patterns>,
    /// Whether it is refused, before anything is written, where there is less room than it is expected to need.
    pub expects_room: bool,
}

/// Restores a snapshot. On failure the target is as it was. `profile` is that of snapshots which do not say
/// whose they are.
pub async fn restore(
    repository: &Repository,
    profile: Arc<dyn Profile>,
    selection: Selection,
    options: RestoreOptions,
    context: &Context,
) -> Result<RestoreReport> {
    let context = &context.logged();
    let span = tracing::info_span!(target: "packvault::operation", "restore");
    let locking = options.locking;
    let work = |is_locked| run(repository, profile, selection, options, context, is_locked);
    let work = locking.around(repository, "restore", context, work);
    let (mut report, warnings) = logged::operation(span, repository.storage().location(), work).await?;
    report.warnings.extend(warnings);
    Ok(report)
}

async fn run(
    repository: &Repository,
    profile: Arc<dyn Profile>,
    selection: Selection,
    options: RestoreOptions,
    context: &Context,
    is_locked: bool,
) -> Result<RestoreReport> {
    let pipeline = Pipeline::new(context, 0);
    let (files, indexes, lengths) = match is_locked {
        // Side by side, for on a long line each costs several times there and back.
        true => join!(repository.list_snapshots(), repository.find_indexes(), repository.pack_lengths()),
        // What names others is read first, so that all it names is there already.
        false => (
            repository.list_snapshots().await,
            repository.find_indexes().await,
            repository.pack_lengths().await,
        ),
    };
    let (files, (union, damaged_indexes), lengths) = (files?, indexes?, lengths?);
    let union = Arc::new(union.settled(&lengths));
    let store = Arc::new(BlobStore::new(repository.clone(), union, lengths));
    let reader = MetadataReader::new(store.clone(), pipeline.clone());
    let asked = plan::Asked { only: options.only.as_ref(), without_auxiliary: options.without_auxiliary };
    let plan = plan::make(repository, &reader, &profile, &files, selection, asked).await;
    let plan = plan.map_err(|error| blame_indexes(error, &damaged_indexes))?;
    tracing::info!(
        target: "packvault::decision",
        snapshot = plan.manifest.snapshot_id,
        pages = plan.manifest.db.page_count,
        attachments = plan.listed.len(),
        extras = plan.extras.len(),
        "what is restored is known"
    );
    let mut warnings = Vec::new();
    if files.forgotten().contains(plan.manifest.snapshot_id.as_str()) {
        let id = &plan.manifest.snapshot_id;
        warnings
            .push(format!("snapshot {id} was forgotten; it can be restored only as long as others need it"));
    }
    let recorded = recorded_attributes(repository, &files, &plan, &mut warnings).await?;
    let profile = plan.profile.clone();
    for damaged in &damaged_indexes {
        // Every blob is proved against its id, so a snapshot that is found without this file is whole.
        let remark = format!(
            "the snapshot is restored without index {}, which cannot be used: {}",
            damaged.name,
            damaged.error.chain()
        );
        context.progress.remark(&remark);
    }
    context.cancel.check()?;
    pipeline.set_aside(plan.table_bytes().saturating_add(store.union().table_bytes())).await;

    if options.expects_room {
        restore_check::expect_room(&options.target, plan.needed_bytes(), context)?;
    }
    if !options.adopt {
        owner::check(repository, (&pipeline, &context.cancel), &files, &plan, &options).await?;
    }
    let policy = TargetPolicy {
        overwrite: options.overwrite,
        database_name: profile.database_name(),
        ownership_names: profile.ownership_names(),
        live_homes: options.live_homes.clone(),
        files: plan.extras.iter().map(|entry| entry.path.clone()).collect(),
        repository: options.repository.clone(),
        force: options.force,
        application: Some(profile.clone()),
        without_database: plan.database().is_none(),
    };
    let ulid = repository.ulids().next().to_string().to_lowercase();
    let path = options.target.clone();
    let target = pipeline.run(move |_| Target::open(&path, &policy, &ulid)).await?;
    let target = Arc::new(target);
    // Said with the result; without one, at once.
    let say_remarks = || target.remarks().iter().for_each(|remark| context.progress.remark(remark));
    let wanted = Arc::new(RestoredAttributes {
        recorded,
        owners: options.owners,
        database_name: profile.database_name(),
    });
    let staged = Box::pin(stage(&pipeline, &reader, &plan, &target, &wanted, &options)).await;
    pipeline.quiesce().await;
    let mut staged = match staged {
        Ok(staged) => staged,
        Err(error) => {
            say_remarks();
            let error = target.blamed(error);
            target.discard().iter().for_each(|remark| context.progress.remark(remark));
            return Err(if error.is_full() { lacks_room(&plan, &target, error) } else { error });
        }
    };
    let shown = target.path().display().to_string();
    context.progress.begin(Stage::Publish, Unit::Steps, None);
    // From here on the restore is not interrupted: half of a merge would be neither the old nor the new.
    let uninterrupted = Context { cancel: Cancel::new(), ..context.clone() };
    let held = target.clone();
    warnings.extend_from_slice(target.remarks());
    let published = Pipeline::new(&uninterrupted, 0)
        .run(move |_| held.publish().map(|remarks| (remarks, held.settle_made(&wanted))))
        .await;
    match published {
        Ok((remarks, settled)) => {
            warnings.extend(remarks);
            staged.settled.extend(settled);
        }
        Err(error) => {
            say_remarks();
            target.discard().iter().for_each(|remark| context.progress.remark(remark));
            return Err(error);
        }
    }
    warnings.extend(staged.unchecked);
    warnings.extend(staged.settled.iter().filter_map(warning_of));
    context.progress.end(Stage::Publish);
    let bytes = plan.restored_bytes();
    Ok(RestoreReport {
        id: plan.manifest.snapshot_id.clone(),
        target: shown,
        database: plan.database().map(|pages| RestoredDatabase {
            bytes: plan.database_bytes(),
            pages: pages.map.page_count(),
            identical: staged.changed.is_none(),
            changed: staged.changed,
        }),
        attachments: staged.attachments,
        extras: plan.extras.len() as u64,
        proof: Proof {
            pages: plan.database().map_or(0, |pages| pages.map.page_count()),
            blobs: staged.blobs,
            integrity_check: staged.integrity_check,
            stats: staged.stats,
        },
        left_out: plan.left_out,
        warnings,
        owner: staged
            .settled
            .iter()
            .find_map(|outcome| outcome.given_to)
            .map(|(user, group)| format!("{user}:{group}")),
        part: plan.part.map(|part| part.told),
        bytes,
    })
}

/// Says how much room the whole restore takes.
fn lacks_room(plan: &Plan, target: &Target, error: Error) -> Error {
    let bytes = plan.restored_bytes();
    let message = format!("no room in {}: the snapshot needs {bytes} bytes there", target.path().display());
    Error::caused(error.kind(), message, error)
}

/// Names the index that cannot be used because of which something may be missing.
fn blame_indexes(error: Error, damaged: &[DamagedIndex]) -> Error {
    match damaged.first() {
        Some(index) if error.kind() == ErrorKind::Damaged => {
            let why = index.error.chain();
            let message = format!("cannot restore while index {} cannot be used ({why})", index.name);
            Error::caused(index.error.kind(), message, error)
        }
        _ => error,
    }
}

struct Staged {
    /// What had to be changed in the database.
    changed: Option<&'static str>,
    attachments: RestoredAttachments,
    blobs: u64,
    /// How owners, modes and times could be given back.
    settled: Vec<Outcome>,
    integrity_check: Check,
    stats: Check,
    /// What the proof could not check.
    unchecked: Vec<String>,
}

/// Reads owners, modes and times. A snapshot whose attributes are damaged is restored without them.
async fn recorded_attributes(
    repository: &Repository,
    files: &SnapshotFiles,
    plan: &Plan,
    warnings: &mut Vec<String>,
) -> Result<ArchiveAttributes> {
    match repository.read_attributes(files, &plan.manifest.snapshot_id).await {
        Ok(recorded) => Ok(recorded.unwrap_or_default()),
        Err(error) if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Unsupported) => {
            warnings.push(format!("owners, modes and times are not restored: {}", error.chain()));
            Ok(ArchiveAttributes::default())
        }
        Err(error) => Err(error),
    }
}

fn warning_of(outcome: &Outcome) -> Option<String> {
    let (count, first) = outcome.failures.as_ref()?;
    let more = match count {
        1 => String::new(),
        count => format!(" (and {} more)", count - 1),
    };
    Some(format!("not everything could be given its owner, mode and time: {first}{more}"))
}

/// Writes everything into the staging and proves it there.
async fn stage(
    pipeline: &Pipeline,
    reader: &MetadataReader,
    plan: &Plan,
    target: &Arc<Target>,
    wanted: &Arc<RestoredAttributes>,
    options: &RestoreOptions,
) -> Result<Staged> {
    let (context, store) = (pipeline.context(), reader.store());
    let mut blobs = 0;
    let mut database = None;
    if let Some(pages) = plan.database() {
        blobs += database::write(pipeline, store, pages, target, plan.profile.database_name()).await?;
        database = Some(target.staged_database());
    }
    let (expected, warning) = match (&plan.part, &database) {
        (None, Some(database)) => {
            (proof::content_paths(plan, database.clone(), &context.cancel).await?, None)
        }
        _ => part::paths((pipeline, reader), plan, database.clone()).await?,
    };
    let content: Vec<RestoredFile> = expected
        .into_iter()
        .map(|expected| RestoredFile {
            path: format!("{CONTENT_NAME}/{}", expected.path),
            mode: 0o600,
            blob: expected.id,
            bytes: plan.listed[&expected.id],
        })
        .collect();
    let attachments = RestoredAttachments {
        files: content.len() as u64,
        bytes: content.iter().map(|file| file.bytes).sum(),
    };
    let extras = plan.extras.iter().map(|entry| RestoredFile {
        path: entry.path.clone(),
        mode: entry.restored_mode(),
        blob: entry.blob,
        bytes: entry.size,
    });
    let extras = extras.collect();
    let writing = async {
        let attachments = write_files(pipeline, store, target, content, Stage::Attachments).await?;
        Ok(attachments + write_files(pipeline, store, target, extras, Stage::Extras).await?)
    };
    let proving = |context| prove(context, plan, database, options);
    let (files, proved) = side_by_side(context, writing, proving).await?;
    blobs += files;
    let (held, wanted) = (target.clone(), wanted.clone());
    context.progress.step(Stage::Proof, "making it durable");
    let outcome = pipeline
        .run(move |_| {
            let outcome = held.settle_staged(&wanted)?;
            held.sync_staged()?;
            held.check_merge()?;
            Ok(outcome)
        })
        .await?;
    context.progress.end(Stage::Proof);
    context.cancel.check()?;
    Ok(Staged {
        changed: proved.changed,
        attachments,
        blobs,
        settled: vec![outcome],
        integrity_check: proved.integrity_check,
        stats: proved.stats,
        unchecked: warning.into_iter().chain(proved.warnings).collect(),
    })
}

/// Does both at once: the proof needs the database alone, and the line carries files meanwhile.
///
/// SQLite may be at work in the staged database, which the caller removes after a failure: so where the writing fails,
/// the proof is stopped and waited for. It goes the other way by itself, for who drops the writing waits for its pieces.
async fn side_by_side<T, Proving: Future<Output = Result<Proved>>>(
    context: &Context,
    writing: impl Future<Output = Result<T>>,
    prove: impl FnOnce(Context) -> Proving,
) -> Result<(T, Proved)> {
    let stop = Cancel::new();
    let stopped_too = async {
        context.cancel.cancelled().await;
        stop.cancel();
        std::future::pending::<()>().await
    };
    let proving = pin!(prove(Context { cancel: stop.clone(), ..context.clone() }));
    let both = async {
        match select(pin!(writing), proving).await {
            Either::Left((Ok(written), proving)) => Ok((written, proving.await?)),
            Either::Left((Err(error), proving)) => {
                stop.cancel();
                let _ = proving.await;
                Err(error)
            }
            Either::Right((proved, writing)) => {
                let proved = proved?;
                Ok((writing.await?, proved))
            }
        }
    };
    tokio::select! {
        done = both => done,
        () = stopped_too => unreachable!("it waits for ever"),
    }
}

/// Proves the database if it was staged. What describes the live store is emptied only where all attachments come
/// loose: some of them may still lie in the packs of a store that is merged into.
async fn prove(
    context: Context,
    plan: &Plan,
    database: Option<PathBuf>,
    options: &RestoreOptions,
) -> Result<Proved> {
    let Some(database) = database else {
        context.progress.begin(Stage::Proof, Unit::Steps, None);
        return Ok(Proved::nothing());
    };
    let wanted = proof::Wanted {
        settled: plan.part.as_ref().is_none_or(Part::has_all_attachments),
        integrity_check: !options.skip_integrity_check,
        stats: !options.skip_stats,
    };
    proof::settle_and_prove(&context, &plan.profile, &plan.manifest, database, wanted).await
}

async fn write_files(
    pipeline: &Pipeline,
    store: &Arc<BlobStore>,
    target: &Arc<Target>,
    files: Vec<RestoredFile>,
    stage: Stage,
) -> Result<u64> {
    let context = pipeline.context();
    context.progress.begin(stage, Unit::Items, Some(files.len() as u64));
    let visitor = Arc::new(FilesVisitor::new(target.clone(), context.progress.clone(), stage, files));
    let ids = visitor.blobs();
    let count = ids.len() as u64;
    bulk::read(pipeline, store, ids, &visitor).await?;
    context.progress.end(stage);
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::sync::Notify;

    use super::*;
    use crate::progress::Silent;

    fn context() -> Context {
        Context {
            cancel: Cancel::new(),
            progress: Arc::new(Silent),
            jobs: 1,
            hostname: String::new(),
            spool: PathBuf::new(),
        }
    }

    fn failed() -> Error {
        Error::new(ErrorKind::Damaged, "failed")
    }

    /// Proves nothing, and ends only when it is stopped.
    async fn until_stopped(context: Context, ended: &Mutex<bool>) -> Result<Proved> {
        context.cancel.cancelled().await;
        *ended.lock().unwrap() = true;
        context.cancel.check().map(|()| Proved::nothing())
    }

    #[tokio::test]
    async fn files_are_written_while_the_database_is_proved() {
        let (proving, writing) = (Notify::new(), Notify::new());
        // Each waits for the other to have begun.
        let write = async {
            writing.notify_one();
            proving.notified().await;
            Ok(3)
        };
        let prove = |_| async {
            proving.notify_one();
            writing.notified().await;
            Ok(Proved::nothing())
        };
        assert_eq!(side_by_side(&context(), write, prove).await.unwrap().0, 3);
    }

    #[tokio::test]
    async fn a_proof_is_stopped_and_waited_for_where_the_writing_fails() {
        let (context, ended) = (context(), Mutex::new(false));
        let done = side_by_side(&context, async { Err::<(), _>(failed()) }, |own| until_stopped(own, &ended));
        assert_eq!(done.await.unwrap_err().kind(), ErrorKind::Damaged);
        assert!(*ended.lock().unwrap());
    }

    #[tokio::test]
    async fn nothing_more_is_written_where_the_proof_fails() {
        let context = context();
        let done = side_by_side(&context, std::future::pending::<Result<()>>(), |_| async { Err(failed()) });
        assert_eq!(done.await.unwrap_err().kind(), ErrorKind::Damaged);
    }

    #[tokio::test]
    async fn a_proof_that_goes_on_alone_hears_of_the_interruption() {
        let (context, ended) = (context(), Mutex::new(false));
        let cancel = context.cancel.clone();
        let write = async {
            tokio::spawn(async move { cancel.cancel() });
            Ok(())
        };
        let done = side_by_side(&context, write, |own| until_stopped(own, &ended)).await;
        assert_eq!(done.unwrap_err().kind(), ErrorKind::Interrupted);
        assert!(*ended.lock().unwrap());
    }
}
