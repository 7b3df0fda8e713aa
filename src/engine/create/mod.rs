//! create: captures an archive as a new snapshot (section 9).
//!
//! Durable steps, in this order: exclusive lock; packs; index; `config.toml` if the page size changed;
//! manifest. The manifest is the commit point. Stopped anywhere before it, the repository has the
//! snapshots it had, and what was written is unreferenced.

mod application;
mod attachments;
mod database;
mod extras;
mod held;
mod hold;
mod keyframe;
mod known;
mod pages;
mod plan;
mod reach;
mod sink;
mod spool;

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{FutureExt, join};
use jiff::Timestamp;

pub use self::application::Application;
use self::attachments::CapturedAttachments;
use self::database::{CapturedDatabase, DatabaseCapture};
use self::extras::CapturedExtras;
use self::keyframe::{ParentState, StoredMaps};
use self::known::KnownBlobs;
use self::reach::Reach;
use self::sink::{Added, BlobSink};
use super::identity::{self, Recorded};
use super::metadata::MetadataReader;
use super::pipeline::Pipeline;
use super::report::{CreateReport, CreatedAttachments, CreatedDatabase, PagesRead};
use super::{Context, content_paths, logged};
use crate::archive::attributes::attributes_at;
use crate::archive::findings::Findings;
use crate::archive::pinned::{PinnedDatabase, Reading};
use crate::archive::profile::{ArchivePaths, CapturedFacts, ExtrasChoice, Profile};
use crate::archive::target::check_finished;
use crate::format::{ArchiveAttributes, IndexId, Manifest, PageHash, effective_level, manifest};
use crate::progress::{Stage, Unit};
use crate::repo::Repository;
use crate::repo::blobs::BlobStore;
use crate::repo::indexes::{claims_of, format_error};
use crate::repo::locks::Lock;
use crate::repo::notes::{ArchiveIdentity, Note};
use crate::repo::packs::WrittenPacks;
use crate::{Error, ErrorKind, Result};

/// What a create is asked for.
#[derive(Debug, Clone, Default)]
pub struct CreateOptions {
    /// Which files with secrets are taken.
    pub extras: ExtrasChoice,
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
    /// Whether the repository becomes this archive's, whose ever it was.
    pub adopt: bool,
    /// Who holds the application still while its archive is captured, if somebody can.
    pub application: Option<Arc<dyn Application>>,
    /// For how long the writers of the database may be held off.
    pub hold_max: Option<Duration>,
}

/// How the source was found and left.
struct SourceState {
    reading: Reading,
    wal_grew_bytes: u64,
    held_seconds: Option<f64>,
    problems: Vec<String>,
    findings: Findings,
}

/// What a capture has put into packs, and what the manifest says of it.
struct Capture {
    facts: CapturedFacts,
    /// Which archive it is of.
    identity: Option<ArchiveIdentity>,
    geometry: (u32, u64),
    pages_changed: u64,
    maps: StoredMaps,
    attachments: CapturedAttachments,
    lists: Option<Vec<String>>,
    extras: CapturedExtras,
    source: SourceState,
    findings: Findings,
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
    options: CreateOptions,
    context: &Context,
) -> Result<CreateReport> {
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
        Ok(Ok(mut report)) => {
            // The snapshot is there, whatever becomes of the lock.
            report.warnings.extend(lock.leave().await);
            Ok(report)
        }
        Ok(failed) => lock.end(failed).await,
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
    let writes_to = (!options.dry_run).then(|| repository.clone());
    let mut sink = BlobSink::new(known.clone(), pipeline.clone(), writes_to);
    let captured = Box::pin(capture(
        context,
        &pipeline,
        &reader,
        &mut sink,
        &profile,
        paths,
        options,
        (&mut parent, recorded),
    ))
    .await;
    let finished = match captured {
        Ok(captured) => {
            context.progress.begin(Stage::Seal, Unit::Steps, None);
            sink.finish().await.map(|added| (captured, added))
        }
        Err(error) => Err(error),
    };
    let (captured, added) = match finished {
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
    let manifest = describe(repository, &profile, options, level, &parent, &captured, &added, started)?;
    if let Some(lock) = lock {
        let index = (added.written.entries, captured.geometry.0);
        let beside = (&note_of(&captured), &attributes_of(&captured, paths));
        let chain = if captured.maps.depth > 0 { parent.chain() } else { Vec::new() };
        let (built_on, read_back) =
            ((known.as_ref(), chain.as_slice()), options.paranoid.then_some(&profile));
        publish(repository, context, lock, &manifest, index, beside, built_on, read_back).await?;
        captured.maps.write_cache(&cache, repository.config(), &manifest);
    }
    context.progress.end(Stage::Seal);
    Ok(report(options, manifest, &captured, added.blobs, added.written.packs.len() as u64))
}

/// Indexes the packs that an unfinished run has sealed: the next one finds their blobs and does not store
/// them again. No snapshot refers to them, so nothing is lost if that fails too.
async fn keep_for_next_time(repository: &Repository, lock: Option<&Lock>, durable: WrittenPacks) {
    let Some(lock) = lock.filter(|_| !durable.entries.is_empty()) else { return };
    if lock.confirm().await.is_ok() {
        let packs = durable.packs.len();
        tracing::info!(
            target: "packvault::decision",
            packs,
            "what is sealed is indexed, and not stored again"
        );
        let id = IndexId::from_ulid(repository.ulids().next());
        let _ = repository.publish_index(&id, durable.entries).await;
    }
}

/// Captures everything into packs; nothing here is visible to a reader.
#[allow(clippy::too_many_arguments, reason = "the parts of one capture, named once here")]
async fn capture(
    context: &Context,
    pipeline: &Pipeline,
    reader: &MetadataReader,
    sink: &mut BlobSink,
    profile: &Arc<dyn Profile>,
    paths: &ArchivePaths,
    options: &CreateOptions,
    (parent, recorded): (&mut ParentState, Option<Recorded>),
) -> Result<Capture> {
    application::pause(pipeline, paths, options).await?;
    let database =
        DatabaseCapture { context, pipeline, profile, paths, options, recorded: recorded.as_ref() };
    let CapturedDatabase { facts, store, geometry, pages, mut source, tables } =
        database.run(reader, sink, parent).await?;
    let identity = options.identity.clone().map(|identity| ArchiveIdentity { tables, ..identity });
    let pages_changed = pages.changed_count();
    let maps = keyframe::store_maps(sink, parent, geometry, pages).await?;
    // First: a pack in which a list cannot be read is not relied on for what it holds besides.
    let inherited = attachments::read_lists(reader, sink.known(), parent.manifest()).await?;
    let attachments = attachments::capture(context, pipeline, sink, store, facts.content.clone()).await?;
    check_paths(&facts, &attachments)?;
    let lists = attachments::store_lists(sink, inherited, &attachments.listed).await?;
    let sources = profile.extras(paths, options.extras);
    let secrets = (profile.clone(), options.allow_plaintext_secrets);
    let checks = |bytes| options.check_source.unwrap_or(profile.checks_source(bytes));
    let extras = extras::capture(context, pipeline, sink, sources, secrets, checks).await?;
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
        extras,
        source,
        findings,
    })
}

/// Returns whose everything is, with modes and times.
fn attributes_of(captured: &Capture, paths: &ArchivePaths) -> ArchiveAttributes {
    ArchiveAttributes {
        home: attributes_at(&paths.home),
        database: attributes_at(&paths.database),
        ..captured.extras.attributes.clone()
    }
}

/// Returns what the note of the snapshot says.
fn note_of(captured: &Capture) -> Note {
    Note {
        source_problems: captured.source.problems.clone(),
        archive: captured.identity.clone(),
        warnings: captured.findings.sentences(),
        complete: captured.findings.is_complete(),
    }
}

/// Returns about how many bytes the hashes of the pages and the places of the blobs take.
fn tables_bytes(pages: u64, known: &KnownBlobs) -> u64 {
    pages.saturating_mul(size_of::<PageHash>() as u64).saturating_add(known.table_bytes())
}

fn source_of(pinned: &PinnedDatabase, facts: &CapturedFacts) -> SourceState {
    let problems = pinned.problems().iter().chain(&facts.problems).cloned().collect();
    SourceState {
        reading: pinned.reading(),
        wal_grew_bytes: 0,
        held_seconds: None,
        problems,
        findings: Findings::default(),
    }
}

fn no_room(folder: &Path) -> String {
    format!(
        "{} had no room for what has changed in the database: its writers were held off until some of it was \
         stored; make room there, or name another folder with --spool",
        folder.display()
    )
}

/// Refuses at capture what no restore could put back (section 12.3).
fn check_paths(facts: &CapturedFacts, attachments: &CapturedAttachments) -> Result<()> {
    let Some(paths) = &facts.unusual_paths else { return Ok(()) };
    let listed = attachments.listed.iter().map(|attachment| (attachment.id, attachment.bytes)).collect();
    match content_paths::check(&listed, paths).into_iter().next() {
        None => Ok(()),
        Some(problem) => {
            let message = format!("the archive could not be restored from a snapshot: {problem}");
            Err(Error::new(ErrorKind::Source, message))
        }
    }
}

/// Makes the snapshot exist: index, page size, manifest, in this order. Packs are durable already.
#[allow(clippy::too_many_arguments, reason = "what one snapshot is published with, named once here")]
async fn publish(
    repository: &Repository,
    context: &Context,
    lock: &Lock,
    manifest: &Manifest,
    (entries, page_size): (Vec<crate::format::IndexEntry>, u32),
    (note, attributes): (&Note, &ArchiveAttributes),
    (known, chain): (&KnownBlobs, &[String]),
    read_back: Option<&Arc<dyn Profile>>,
) -> Result<()> {
    // A holder that was stopped for too long may have a successor, whose configuration it must not rewrite.
    lock.confirm().await?;
    let written = claims_of(&entries);
    if !entries.is_empty() {
        let id = IndexId::parse(&manifest.new_index)
            .map_err(|error| format_error("cannot name the new index", error))?;
        repository.publish_index(&id, entries).await?;
    }
    // Before the manifest: what cannot be restored is never listed.
    Reach { known, written: &written, index: &manifest.new_index, chain }.confirm(repository).await?;
    if let Some(profile) = read_back {
        reach::read_back(repository, profile, manifest, context).await?;
    }
    repository.set_page_size(page_size).await?;
    // The last moment to stop: what lies beside a manifest must not be left without it.
    context.cancel.check()?;
    // Before the manifest: a list that shows the snapshot shows its note, and a restore finds its attributes.
    let noted = async {
        match note.is_empty() {
            true => Ok(()),
            false => repository.publish_note(&manifest.snapshot_id, note).await,
        }
    };
    let (noted, attributed) = join!(noted, repository.publish_attributes(&manifest.snapshot_id, attributes));
    noted?;
    attributed?;
    lock.confirm().await?;
    repository.publish_snapshot(manifest).await
}

#[allow(clippy::too_many_arguments, reason = "the sources of one manifest, named once here")]
fn describe(
    repository: &Repository,
    profile: &Arc<dyn Profile>,
    options: &CreateOptions,
    level: i32,
    parent: &ParentState,
    captured: &Capture,
    added: &Added,
    started: Instant,
) -> Result<Manifest> {
    let version = if captured.facts.unusual_paths.is_some() { 2 } else { 1 };
    let packs: Vec<String> = added.written.packs.iter().map(ToString::to_string).collect();
    let has_index = !added.written.entries.is_empty();
    let mut manifest = Manifest {
        format_version: version,
        min_reader_version: version,
        app_version: options.writer_version.clone(),
        snapshot_id: String::new(),
        parent_id: parent.manifest().map(|parent| parent.snapshot_id.clone()).unwrap_or_default(),
        created_at: created_at(parent.manifest())?,
        options: manifest::Options {
            include_config: options.extras.include_config,
            include_tokens: options.extras.include_tokens,
            zstd_level: i64::from(level),
            tag: options.tag.clone(),
        },
        db: manifest::Database {
            engine: "sqlite".to_owned(),
            page_size: captured.geometry.0,
            page_count: captured.geometry.1,
            page_map: captured.maps.page_map.to_string(),
            page_hash_map: captured.maps.page_hashes.to_string(),
            map_chain_depth: captured.maps.depth,
        },
        metadata: None,
        auxiliary: Vec::new(),
        attachments: manifest::Attachments {
            layout: Some(vec!["loose".to_owned()]),
            rows: captured.facts.attachment_rows as i64,
            blobs: captured.attachments.listed.len() as i64,
            blob_bytes: captured.attachments.total_bytes() as i64,
            recipes: Some(Vec::new()),
            lists: captured.lists.clone(),
        },
        extras_tree: captured.extras.tree.clone().unwrap_or_default(),
        excluded: Some(profile.excluded().iter().map(ToString::to_string).collect()),
        stats: captured.facts.stats.clone(),
        new_packs: if packs.is_empty() { None } else { Some(packs) },
        new_index: if has_index {
            repository.ulids().next().to_string().to_lowercase()
        } else {
            String::new()
        },
        duration_seconds: (started.elapsed().as_secs_f64() * 1e6).round() / 1e6,
        bytes_added: added.bytes as i64,
    };
    manifest.seal_id().map_err(|error| format_error("cannot name the snapshot", error))?;
    Ok(manifest)
}

/// Returns now in whole seconds, or the second after the parent's if the clock is not past it
/// (section 6.6).
fn created_at(parent: Option<&Manifest>) -> Result<String> {
    let now = crate::clock::now()?;
    let second = match parent {
        None => now.as_second(),
        Some(parent) => {
            let time = parent.created_at.parse::<Timestamp>();
            let time = time.map_err(|error| none_after(parent, error))?.as_second();
            now.as_second().max(time + 1)
        }
    };
    let time = Timestamp::from_second(second);
    let time = time.map_err(|error| match parent {
        Some(parent) => none_after(parent, error),
        None => Error::caused(ErrorKind::Refused, "cannot name the time of the snapshot", error),
    })?;
    Ok(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// The newest snapshot is the one whose name sorts last, and no later one can be made.
fn none_after(parent: &Manifest, error: jiff::Error) -> Error {
    let message = format!(
        "no snapshot can follow {}, which says that it was made at {}: some clock was wrong; restore it first if \
         you need it, move its manifest aside, out of `snapshots/`, and run the command again",
        parent.snapshot_id, parent.created_at
    );
    Error::caused(ErrorKind::Refused, message, error)
}

fn report(
    options: &CreateOptions,
    manifest: Manifest,
    captured: &Capture,
    blobs_added: u64,
    packs_added: u64,
) -> CreateReport {
    let (page_size, pages) = captured.geometry;
    CreateReport {
        id: (!options.dry_run).then(|| manifest.snapshot_id.clone()),
        parent: Some(manifest.parent_id).filter(|parent| !parent.is_empty()),
        created_at: manifest.created_at,
        tag: manifest.options.tag,
        bytes_added: manifest.bytes_added as u64,
        blobs_added,
        packs_added,
        database: CreatedDatabase {
            bytes: pages * u64::from(page_size),
            pages,
            pages_changed: captured.pages_changed,
            read: match captured.source.reading {
                Reading::File => PagesRead::File,
                Reading::Transaction => PagesRead::Transaction,
            },
            wal_grew_bytes: captured.source.wal_grew_bytes,
            held_seconds: captured.source.held_seconds,
        },
        attachments: CreatedAttachments {
            blobs: captured.attachments.listed.len() as u64,
            bytes: captured.attachments.total_bytes(),
            blobs_added: captured.attachments.blobs_added,
        },
        extras: captured.extras.count,
        seconds: manifest.duration_seconds,
        left_out: captured.extras.left_out.clone(),
        source_problems: captured.source.problems.clone(),
        warnings: captured.findings.sentences(),
        complete: captured.findings.is_complete(),
        databases: captured.extras.databases.clone(),
    }
}
