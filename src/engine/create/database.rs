//! The database of a capture: pinned, read, and let go; again if it moved meanwhile.
//!
//! What was read is of one moment, or it is read again. A new attempt compares with the parent's hashes
//! anew, so nothing that a failed one has read is referred to; what it has stored is dead weight, or found to
//! be stored already. The last attempt reads through the transaction.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::CreateOptions;
use super::captured::{SourceState, source_of};
use super::hold::WriterHold;
use super::keyframe::ParentState;
use super::known::KnownBlobs;
use super::pages::{self, CapturedPages, ScanLimits};
use super::sink::BlobSink;
use crate::archive::bounds::{self, Bounds};
use crate::archive::cloned;
use crate::archive::content::ContentStore;
use crate::archive::database_file::Moved;
use crate::archive::foreign;
use crate::archive::freeze::FrozenDatabase;
use crate::archive::health::{self, Depth, Health};
use crate::archive::pinned::{PinnedDatabase, Reading};
use crate::archive::profile::{Access, ArchivePaths, CapturedFacts, Profile};
use crate::engine::aside;
use crate::engine::identity::{self, Recorded};
use crate::engine::metadata::MetadataReader;
use crate::engine::pipeline::{Pipeline, Task};
use crate::format::{Geometry, PageHash};
use crate::progress::{Stage, Unit};
use crate::{Error, ErrorKind, Result};

/// How often a database that moves is read.
const ATTEMPTS_MAX: u32 = 4;
/// What the check of a database is called.
const CHECK: &str = "check the database";
/// The pause before the second attempt; twice that before the third, and so on.
const PAUSE: Duration = Duration::from_millis(200);

/// What a capture has of the database.
pub struct CapturedDatabase {
    /// What the profile learned from it.
    pub facts: CapturedFacts,
    /// The live attachments.
    pub store: Arc<dyn ContentStore>,
    /// Its pages, counted.
    pub geometry: Geometry,
    /// Its pages.
    pub pages: CapturedPages,
    /// How it was found and left.
    pub source: SourceState,
    /// What its tables are called, hashed.
    pub tables: Vec<String>,
}

impl SourceState {
    fn add(&mut self, found: Health) {
        self.problems.extend(found.problems);
        self.findings.warnings.extend(found.unchecked);
    }
}

/// What a capture of a database works with.
pub struct DatabaseCapture<'a> {
    /// Where work is done, and what surrounds the operation.
    pub pipeline: &'a Pipeline,
    /// The kind of application.
    pub profile: &'a Arc<dyn Profile>,
    /// Where the archive lies.
    pub paths: &'a ArchivePaths,
    /// What was asked for.
    pub options: &'a CreateOptions,
    /// Whose the repository is.
    pub recorded: Option<&'a Recorded>,
}

impl DatabaseCapture<'_> {
    /// Captures the database, again where it moved while it was read.
    pub async fn run(
        &self,
        reader: &MetadataReader,
        sink: &mut BlobSink,
        parent: &mut ParentState,
    ) -> Result<CapturedDatabase> {
        let mut without_locks = false;
        for number in 1..=ATTEMPTS_MAX {
            let moved = match self.attempt(sink, parent, number).await {
                Ok(mut captured) => {
                    let warning = without_locks.then(|| writes_without_locks(&self.paths.database));
                    captured.source.findings.warnings.extend(warning);
                    return Ok(captured);
                }
                // Once it has moved, what is found wrong with it may be a write under way.
                Err(error) if Moved::of(&error).is_some() => error,
                Err(error) if number > 1 && error.kind() == ErrorKind::Source => error,
                Err(error) => return Err(error),
            };
            without_locks |= Moved::of(&moved).is_some_and(Moved::is_without_locks);
            // What is still being read holds the database, and locks with it.
            self.pipeline.quiesce().await;
            self.pipeline.context().cancel.check()?;
            if number == ATTEMPTS_MAX {
                return Err(restless(&self.paths.database, moved));
            }
            self.pipeline.context().progress.remark(&format!("{}; it is read again", moved.chain()));
            tokio::time::sleep(PAUSE * number).await;
            parent.reload_hashes(reader).await;
        }
        unreachable!("the last attempt returns")
    }

    async fn attempt(
        &self,
        sink: &mut BlobSink,
        parent: &mut ParentState,
        number: u32,
    ) -> Result<CapturedDatabase> {
        let Self { pipeline, profile, paths, options, .. } = self;
        let context = pipeline.context();
        context.progress.begin(Stage::Freeze, Unit::Steps, None);
        let (pinned, held) = self.pin(number).await?;
        let hold = WriterHold::begin(&pinned, held, options.hold_max)?;
        let (asked, archive) = ((*profile).clone(), (*paths).clone());
        let has_document_text = options.document_text;
        let looked_at = aside::run(&self.bounds_of_questions(&pinned), "ask the database", move |bounds| {
            let mut facts = asked.capture(&pinned, bounds).map_err(|error| pinned.explain(error))?;
            if has_document_text {
                facts.artifacts.extend(asked.document_text(&pinned, bounds)?);
            }
            let store = asked.content_store(&archive, &pinned)?;
            // A database that cannot be asked says nothing of whose it is.
            let tables = identity::tables(&pinned.connection()).unwrap_or_default();
            Ok((pinned, facts, store, tables))
        })
        .await;
        let (pinned, facts, store, tables) = hold.explain(looked_at)?;
        if let Some(ours) = options.identity.as_ref().filter(|_| !options.adopt) {
            identity::check_tables(self.recorded, ours, &tables)?;
        }
        context.progress.end(Stage::Freeze);

        let geometry = pinned.geometry();
        tracing::info!(
            target: "packvault::decision",
            attempt = number,
            reading = ?pinned.reading(),
            pages = geometry.page_count,
            page_size = geometry.page_size,
            "the database is at rest"
        );
        if number == 1 {
            pipeline.set_aside(tables_bytes(geometry.page_count, sink.known())).await;
        }
        let parent_hashes = parent.take_hashes(geometry.page_size);
        let limits = ScanLimits { wal_growth_bytes_max: options.wal_growth_bytes_max, hold: &hold };
        let checking = self.check_beside(&pinned, &hold);
        let read = match pages::read(pipeline, sink, &pinned, parent_hashes, &limits).await {
            Ok(read) => read,
            Err(error) => return pipeline.run(move |_| Err(pinned.explain(error))).await,
        };
        let mut source = source_of(&pinned, &facts);
        let is_checked = checking.is_some();
        if let Some(checking) = checking {
            match checking.await {
                Ok(found) => source.add(found),
                Err(error) => {
                    let explained = pipeline.run(move |_| Err(pinned.explain(error))).await;
                    return hold.explain(explained);
                }
            }
        }
        let released = self.release(pinned, source, is_checked).await;
        let mut source = hold.explain(released)?;
        source.held_seconds = hold.end();
        source.findings.warnings.extend(read.full_folder().map(no_room));
        let pages = read.store(pipeline, sink).await?;
        Ok(CapturedDatabase { facts, store, geometry, pages, source, tables })
    }

    /// Returns what the questions may take. Those to msgvault are ours, and as many as they must be; those to
    /// another application are the user's.
    fn bounds_of_questions(&self, pinned: &PinnedDatabase) -> Bounds {
        let cancel = &self.pipeline.context().cancel;
        match self.profile.access() {
            Access::Owner => Bounds::unhurried(cancel),
            Access::Foreign => {
                bounds::grant_memory(bounds::MEMORY_BYTES_MAX);
                Bounds::of_questions(cancel, pinned.bytes(), self.profile.questions())
            }
        }
    }

    /// Pins the database. Where a copy of it can be had at once, that one takes its place; then it is known for how
    /// long writers were held off.
    async fn pin(&self, number: u32) -> Result<(PinnedDatabase, Option<Duration>)> {
        let Self { pipeline, profile, paths, options, .. } = self;
        let context = pipeline.context();
        let (database, gatekeeper) = (paths.database.clone(), profile.gatekeeper(paths));
        let (cancel, progress) = (context.cancel.clone(), context.progress.clone());
        let forced = if number == ATTEMPTS_MAX { Some(Reading::Transaction) } else { options.reading };
        let (asked, spool) = ((*profile).clone(), context.spool.clone());
        pipeline
            .run(move |_| match asked.access() {
                Access::Owner => {
                    let frozen =
                        FrozenDatabase::freeze(&database, gatekeeper.as_ref(), &cancel, progress.as_ref())?;
                    Ok((frozen.pinned()?, None))
                }
                Access::Foreign => {
                    cloned::let_writers_go(foreign::pin_reading(&database, &cancel, forced)?, &spool)
                }
            })
            .await
    }

    fn checks(&self, pinned: &PinnedDatabase) -> bool {
        self.options.check_source.unwrap_or(self.profile.checks_source(pinned.bytes()))
    }

    fn depth(&self, pinned: &PinnedDatabase) -> Depth {
        match self.options.check_source {
            Some(true) => Depth::Full,
            _ => Depth::of_size(pinned.bytes()),
        }
    }

    /// Begins to check the health of the database beside the scan, where it is asked for and writers wait for
    /// both, unless both need the one connection.
    fn check_beside(&self, pinned: &PinnedDatabase, hold: &WriterHold) -> Option<Task<Health>> {
        if !hold.is_on() || pinned.reading() != Reading::File || !self.checks(pinned) {
            return None;
        }
        self.pipeline.context().progress.begin(Stage::Health, Unit::Steps, None);
        let bounds = Bounds::of_check(&self.pipeline.context().cancel, pinned.bytes());
        let ((connection, scan), path, depth) =
            (pinned.share(), pinned.path().to_owned(), self.depth(pinned));
        let work = move |bounds: &Bounds| {
            let held = connection.lock();
            let mut held = held.expect("no holder of the connection panics");
            let found = health::examine_source(&mut held, &path, depth, bounds);
            drop(held);
            drop(connection);
            drop(scan);
            found
        };
        Some(self.pipeline.fetch(async move { aside::run(&bounds, CHECK, work).await }))
    }

    /// Checks the health of the database, if that is asked for and not done, and ends the pin.
    async fn release(
        &self,
        pinned: PinnedDatabase,
        source: SourceState,
        is_checked: bool,
    ) -> Result<SourceState> {
        let context = self.pipeline.context();
        let (checks, depth) = (self.checks(&pinned) && !is_checked, self.depth(&pinned));
        let bounds = Bounds::of_check(&context.cancel, pinned.bytes());
        if checks {
            context.progress.begin(Stage::Health, Unit::Steps, None);
        }
        let released = aside::run(&bounds, CHECK, move |bounds| {
            let mut source = source;
            if checks {
                let found = health::examine_source(&mut pinned.connection(), pinned.path(), depth, bounds);
                source.add(found.map_err(|error| pinned.explain(error))?);
            }
            source.wal_grew_bytes = pinned.wal_grew_bytes()?;
            pinned.release()?;
            Ok(source)
        })
        .await?;
        if checks || is_checked {
            context.progress.end(Stage::Health);
        }
        Ok(released)
    }
}

fn writes_without_locks(database: &Path) -> String {
    format!(
        "the database {} changed while it was read, although SQLite's locks forbade that: somebody writes to it \
         without them (a copy over it, a file system without locks, `nolock`), and it was read again",
        database.display()
    )
}

fn restless(database: &Path, moved: Error) -> Error {
    let message = format!(
        "the database {} cannot be captured: it changed each of the {ATTEMPTS_MAX} times that it was read, so \
         somebody writes to it without SQLite's locks, or opens and closes it all the time; pause its application \
         for the backup (`before` and `after`)",
        database.display()
    );
    Error::caused(ErrorKind::Source, message, moved)
}

/// Returns about how many bytes the hashes of the pages and the places of the blobs take.
fn tables_bytes(pages: u64, known: &KnownBlobs) -> u64 {
    pages.saturating_mul(size_of::<PageHash>() as u64).saturating_add(known.table_bytes())
}

fn no_room(folder: &Path) -> String {
    format!(
        "{} had no room for what has changed in the database: its writers were held off until some of it was \
         stored; make room there, or name another folder with --spool",
        folder.display()
    )
}
