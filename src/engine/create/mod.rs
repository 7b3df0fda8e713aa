//! create: captures an archive as a new snapshot (section 9).
//!
//! Durable steps, in this order: exclusive lock; packs; index; `config.toml` if the page size changed;
//! manifest. The manifest is the commit point. Stopped anywhere before it, the repository has the
//! snapshots it had, and what was written is unreferenced.

mod application;
mod attachments;
mod beliefs;
mod captured;
mod database;
mod describe;
mod extras;
mod held;
mod hold;
mod keyframe;
mod known;
mod pages;
mod plan;
mod publish;
mod reach;
mod sight;
pub(super) mod sink;
pub(super) mod spool;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{FutureExt, join};

pub use self::application::Application;
use self::beliefs::Beliefs;
pub use self::beliefs::{FileMemoryOptions, REST, Reread};
use self::captured::{Capture, check_paths};
use self::database::{CapturedDatabase, DatabaseCapture};
use self::describe::Description;
use self::keyframe::ParentState;
use self::known::KnownBlobs;
use self::publish::{Publication, keep_for_next_time};
pub use self::sight::{Sight, look};
pub(super) use self::sink::stored_blob;
use self::sink::{Added, BlobSink};
use super::identity::{self, Recorded};
use super::metadata::MetadataReader;
use super::pipeline::{Pipeline, Worker};
use super::report::CreateReport;
use super::{Context, logged};
use crate::archive::pinned::Reading;
use crate::archive::profile::{ArchivePaths, ExtrasChoice, Profile};
use crate::archive::target::check_finished;
use crate::format::{Manifest, RepoId, effective_level};
use crate::progress::{Stage, Unit};
use crate::repo::Repository;
use crate::repo::blobs::BlobStore;
use crate::repo::locks::Lock;
use crate::repo::notes::ArchiveIdentity;
use crate::{Error, ErrorKind, Result};

/// What a create is asked for.
#[derive(Debug, Clone, Default)]
pub struct CreateOptions {
    /// Which files with secrets are taken.
    pub extras: ExtrasChoice,
    /// Whether the snapshot says that the database holds the text of documents, if it does.
    pub document_text: bool,
    /// Whether secrets may go into a repository that is not encrypted.
    pub allow_plaintext_secrets: bool,
    /// A word for the snapshot.
    pub tag: String,
    /// zstd level; 0 means 3, otherwise 1 to 19.
    pub zstd_level: i32,
    /// Whether locks of others are broken, fresh ones too.
    pub force_unlock: bool,
    /// Whether everything that the snapshot reaches is read back before the snapshot exists.
    pub paranoid: bool,
    /// Whether nothing is written, only counted.
    pub dry_run: bool,
    /// The writer's version, for the manifest.
    pub writer_version: String,
    /// Whether SQLite checks the captured view; the profile decides where nobody says.
    pub check_source: Option<bool>,
    /// By how many bytes the WAL may grow before the capture gives up.
    pub wal_growth_bytes_max: Option<u64>,
    /// How the pages of a foreign database are read, where both ways are open.
    pub reading: Option<Reading>,
    /// Which archive it is, to be recorded and compared; without it, nobody asks.
    pub identity: Option<ArchiveIdentity>,
    /// Whether the repository becomes this archive's, even if its snapshots are of another.
    pub adopt: bool,
    /// What pauses the application while its archive is captured, if there is such a thing.
    pub application: Option<Arc<dyn Application>>,
    /// For how long the writers of the database may be held off.
    pub hold_max: Option<Duration>,
    /// What is remembered of files, so that those which did not change are not read; without it, all are read.
    pub file_memory: Option<FileMemoryOptions>,
    /// Whether no snapshot is made of an archive that is as it is in the newest one.
    pub only_if_changed: bool,
}

/// Captures the archive. On failure, and when interrupted, no snapshot, lock or staging stays behind.
pub async fn create(
    repository: &Repository,
    profile: Arc<dyn Profile>,
    paths: &ArchivePaths,
    options: CreateOptions,
    context: &Context,
) -> Result<CreateReport> {
    let context = &context.logged();
    let span = tracing::info_span!(target: "packvault::operation", "create");
    // On the heap: what an operation keeps would fill much of a small stack.
    let work = Box::pin(alone(repository, profile, paths, options, context));
    logged::operation(span, repository.storage().location(), work).await
}

/// Captures the archive under the lock.
async fn alone(
    repository: &Repository,
    profile: Arc<dyn Profile>,
    paths: &ArchivePaths,
    mut options: CreateOptions,
    context: &Context,
) -> Result<CreateReport> {
    // What lies in an encrypted repository is no plain text.
    options.allow_plaintext_secrets |= repository.sealing().is_encrypted();
    check_options(&options)?;
    super::sweep(context);
    let home = paths.home.clone();
    Pipeline::new(context, 0).run(move |_| check_finished(&home)).await?;
    let sources = profile.extras(paths, options.extras);
    let secrets = (profile.clone(), options.allow_plaintext_secrets);
    let looked = Pipeline::new(context, 0).run(move |_| extras::look(&sources, secrets)).await;
    application::unless_made_later(looked.map(drop), &options)?;
    if options.dry_run {
        return Box::pin(run(repository, profile, paths, &options, context, None)).await;
    }
    let request = context.lock_request("create", options.force_unlock);
    let lock = repository.lock_exclusive(&request).await?;
    let work = Box::pin(run(repository, profile, paths, &options, context, Some(&lock)));
    // A defect must not leave the lock behind.
    let result = AssertUnwindSafe(work).catch_unwind().await;
    match result {
        Ok(done) => lock.settle(done, |report| &mut report.warnings).await,
        Err(panic) => {
            let _ = lock.release().await;
            std::panic::resume_unwind(panic)
        }
    }
}

fn check_options(options: &CreateOptions) -> Result<()> {
    let secrets = options.extras.include_config || options.extras.include_tokens;
    if secrets && !options.allow_plaintext_secrets {
        return Err(Error::new(
            ErrorKind::Refused,
            "configuration and tokens hold secrets, and the repository is not encrypted",
        ));
    }
    effective_level(options.zstd_level)
        .map_err(|error| Error::caused(ErrorKind::Usage, "cannot use the compression level", error))?;
    if options.tag.chars().any(char::is_control) {
        return Err(Error::new(ErrorKind::Usage, "a tag cannot hold control characters"));
    }
    Ok(())
}

async fn run(
    repository: &Repository,
    profile: Arc<dyn Profile>,
    paths: &ArchivePaths,
    options: &CreateOptions,
    context: &Context,
    lock: Option<&Lock>,
) -> Result<CreateReport> {
    let started = Instant::now();
    let level = effective_level(options.zstd_level).expect("checked before");
    let pipeline = Pipeline::new(context, level);
    let cleaning = async {
        match lock {
            Some(_) => repository.clean_staging().await,
            None => Ok(()),
        }
    };
    let manifests = identity::load_snapshots(repository, options.identity.is_some() && !options.adopt);
    // Side by side, for on a long line each costs several times there and back.
    let (cleaned, snapshots, union, lengths) =
        join!(cleaning, manifests, repository.load_indexes(), repository.pack_lengths());
    cleaned?;
    let ((snapshots, recorded), union, lengths) = (snapshots?, union?, lengths?);
    if let Some(ours) = options.identity.as_ref().filter(|_| !options.adopt) {
        identity::check_place(recorded.as_ref(), snapshots.last(), ours)?;
    }
    let union = Arc::new(union.settled(&lengths));
    tracing::info!(
        target: "packvault::decision",
        snapshots = snapshots.len(),
        indexes = union.files().len(),
        packs = lengths.len(),
        "what lies in the repository is known"
    );
    let known = Arc::new(KnownBlobs::check(union.clone(), &lengths, context.progress.as_ref()));
    let store = Arc::new(BlobStore::new(repository.clone(), union, lengths));
    let reader = MetadataReader::new(store, pipeline.clone());
    let cache = profile.cache_folder(paths);
    let mut parent =
        ParentState::load(repository, &reader, &known, snapshots, &cache, context.progress.as_ref()).await?;
    parent.tell();
    let beliefs = believe(repository, &profile, paths, options, &pipeline, parent.manifest()).await?;
    let writes_to = (!options.dry_run).then(|| repository.clone());
    let mut sink = BlobSink::new(known.clone(), pipeline.clone(), writes_to);
    let captured = Box::pin(capture(
        &pipeline,
        &reader,
        &mut sink,
        &profile,
        paths,
        options,
        (&repository.config().repo_id, &mut parent, recorded, beliefs.as_ref()),
    ))
    .await;
    let as_before = parent.manifest().filter(|parent| {
        options.only_if_changed && captured.as_ref().is_ok_and(|captured| captured.is_as_in(parent))
    });
    if let (Ok(captured), Some(parent)) = (&captured, as_before) {
        let sources = Description {
            options,
            profile: profile.as_ref(),
            parent: Some(parent),
            captured,
            added: &Added::default(),
        };
        let manifest = sources.manifest(repository, level, started)?;
        let report = describe::report(options, manifest, captured, &Added::default());
        // What was stored to describe the snapshot that is not made is most often not in a pack yet.
        let durable = sink.abandon().await;
        pipeline.quiesce().await;
        keep_for_next_time(repository, lock, durable).await;
        tracing::info!(target: "packvault::decision", "nothing changed, and no snapshot is made");
        return Ok(CreateReport { id: None, unchanged: true, ..report });
    }
    let finished = match captured {
        Ok(captured) => {
            context.progress.begin(Stage::Seal, Unit::Steps, None);
            sink.finish().await.map(|added| (captured, added))
        }
        Err(error) => Err(error),
    };
    let (mut captured, mut added) = match finished {
        Ok(finished) => finished,
        Err(error) => {
            let durable = sink.abandon().await;
            pipeline.quiesce().await;
            keep_for_next_time(repository, lock, durable).await;
            return Err(error);
        }
    };
    tracing::info!(
        target: "packvault::decision",
        blobs = added.blobs,
        bytes = added.bytes,
        packs = added.written.packs.len(),
        "what is new is in packs"
    );
    let sources = Description {
        options,
        profile: profile.as_ref(),
        parent: parent.manifest(),
        captured: &captured,
        added: &added,
    };
    let manifest = sources.manifest(repository, level, started)?;
    if let Some(lock) = lock {
        let publication = Publication {
            lock,
            manifest: &manifest,
            entries: std::mem::take(&mut added.written.entries),
            note: &captured.note(),
            attributes: &captured.attributes(paths),
            known: &known,
            chain: &if captured.maps.depth > 0 { parent.chain() } else { Vec::new() },
            read_back: options.paranoid.then_some(&profile),
        };
        publication.publish(repository, context).await?;
        captured.maps.write_cache(&cache, repository.config(), &manifest);
        if let Some(beliefs) = beliefs {
            let (seen, id) = (captured.seen(), manifest.snapshot_id.clone());
            let keep = move |_: &mut Worker| {
                beliefs.keep(&id, seen);
                Ok(())
            };
            pipeline.run(keep).await?;
        }
    }
    context.progress.end(Stage::Seal);
    Ok(describe::report(options, manifest, &captured, &added))
}

/// Reads what is remembered of the files, if it is to be.
async fn believe(
    repository: &Repository,
    profile: &Arc<dyn Profile>,
    paths: &ArchivePaths,
    options: &CreateOptions,
    pipeline: &Pipeline,
    parent: Option<&Manifest>,
) -> Result<Option<Arc<Beliefs>>> {
    let Some(memory) = options.file_memory.clone() else { return Ok(None) };
    let repo_id = &repository.config().repo_id;
    let whose = beliefs::whose(repo_id, options.identity.as_ref(), profile.as_ref(), paths);
    let parent = parent.cloned();
    let load = move |_: &mut Worker| Ok(Beliefs::load(memory, whose, parent.as_ref()));
    Ok(Some(Arc::new(pipeline.run(load).await?)))
}

/// Captures everything into packs; nothing here is visible to a reader.
async fn capture(
    pipeline: &Pipeline,
    reader: &MetadataReader,
    sink: &mut BlobSink,
    profile: &Arc<dyn Profile>,
    paths: &ArchivePaths,
    options: &CreateOptions,
    (ours, parent, recorded, beliefs): (&RepoId, &mut ParentState, Option<Recorded>, Option<&Arc<Beliefs>>),
) -> Result<Capture> {
    application::pause(pipeline, paths, options).await?;
    let database = DatabaseCapture { pipeline, profile, paths, options, recorded: recorded.as_ref() };
    let CapturedDatabase { facts, store, geometry, pages, mut source, tables } =
        database.run(reader, sink, parent).await?;
    let identity = options.identity.clone().map(|identity| ArchiveIdentity { tables, ..identity });
    let pages_changed = pages.changed_count();
    let maps = keyframe::store_maps(sink, parent, geometry, pages).await?;
    // First: a pack in which a list cannot be read is not relied on for what it holds besides.
    let inherited = attachments::read_lists(reader, sink.known(), parent.manifest()).await?;
    let inherited = inherited.map(Arc::new);
    let content = facts.content.clone();
    let attachments =
        attachments::capture(pipeline, sink, store, content, beliefs, inherited.as_ref()).await?;
    check_paths(&facts, &attachments)?;
    let lists = attachments::store_lists(sink, inherited.as_deref(), &attachments.listed).await?;
    let artifacts = captured::store_artifacts(sink, &facts.artifacts).await?;
    let sources = profile.extras(paths, options.extras);
    let secrets = (profile.clone(), options.allow_plaintext_secrets);
    let checks = |bytes| options.check_source.unwrap_or(profile.checks_source(bytes));
    let extras = extras::capture(pipeline, sink, sources, secrets, ours, checks, beliefs).await?;
    source.problems.extend(extras.problems.iter().cloned());
    application::let_go(pipeline, options).await?;
    let mut findings = source.findings.clone();
    findings.extend(extras.findings.clone());
    Ok(Capture {
        facts,
        identity,
        geometry,
        pages_changed,
        maps,
        attachments,
        lists,
        artifacts,
        extras,
        source,
        findings,
    })
}
