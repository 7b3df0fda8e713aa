//! The database of a capture: pinned, read, and let go; again if it moved meanwhile.
//!
//! What was read is of one moment, or it is read again. A new attempt compares with the parent's hashes
//! anew, so nothing that a failed one has read is referred to; what it has stored is dead weight, or found to
//! be stored already. The last attempt reads through the transaction.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::hold::WriterHold;
use super::keyframe::ParentState;
use super::pages::{self, CapturedPages, ScanLimits};
use super::sink::BlobSink;
use super::{CreateOptions, SourceState, no_room, source_of, tables_bytes};
use crate::archive::bounds::{self, Bounds};
use crate::archive::content::ContentStore;
use crate::archive::database_file::Moved;
use crate::archive::foreign;
use crate::archive::freeze::FrozenDatabase;
use crate::archive::health::{self, Depth};
use crate::archive::pinned::{PinnedDatabase, Reading};
use crate::archive::profile::{Access, ArchivePaths, CapturedFacts, Profile};
use crate::engine::identity::{self, Recorded};
use crate::engine::metadata::MetadataReader;
use crate::engine::pipeline::Pipeline;
use crate::engine::{Context, aside};
use crate::progress::{Stage, Unit};
use crate::{Error, ErrorKind, Result};

/// How often a database that moves is read.
const ATTEMPTS_MAX: u32 = 4;
/// The pause before the second attempt; twice that before the third, and so on.
const PAUSE: Duration = Duration::from_millis(200);

/// What a capture has of the database.
pub struct CapturedDatabase {
    /// What the profile learned from it.
    pub facts: CapturedFacts,
    /// The live attachments.
    pub store: Arc<dyn ContentStore>,
    /// Page size and number of pages.
    pub geometry: (u32, u64),
    /// Its pages.
    pub pages: CapturedPages,
    /// How it was found and left.
    pub source: SourceState,
    /// What its tables are called, hashed.
    pub tables: Vec<String>,
}

/// What a capture of a database works with.
pub struct DatabaseCapture<'a> {
    /// The surroundings of the operation.
    pub context: &'a Context,
    /// Where work is done.
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
            self.context.cancel.check()?;
            if number == ATTEMPTS_MAX {
                return Err(restless(&self.paths.database, moved));
            }
            self.context.progress.remark(&format!("{}; it is read again", moved.chain()));
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
        let Self { context, pipeline, profile, paths, options, .. } = self;
        context.progress.begin(Stage::Freeze, Unit::Steps, None);
        let pinned = self.pin(number).await?;
        let hold = WriterHold::begin(&pinned, options.hold_max)?;
        let (asked, archive) = ((*profile).clone(), (*paths).clone());
        let looked_at = aside::run(&self.bounds_of_questions(&pinned), "ask the database", move |bounds| {
            let facts = asked.capture(&pinned, bounds).map_err(|error| pinned.explain(error))?;
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

        let geometry = (pinned.page_size(), pinned.page_count());
        if number == 1 {
            pipeline.set_aside(tables_bytes(geometry.1, sink.known())).await;
        }
        let parent_hashes = parent.take_hashes(geometry.0);
        let limits = ScanLimits { wal_growth_bytes_max: options.wal_growth_bytes_max, hold: &hold };
        let read = match pages::read(context, pipeline, sink, &pinned, parent_hashes, &limits).await {
            Ok(read) => read,
            Err(error) => return pipeline.run(move |_| Err(pinned.explain(error))).await,
        };
        let source = source_of(&pinned, &facts);
        let released = self.release(pinned, source).await;
        let mut source = hold.explain(released)?;
        source.held_seconds = hold.end();
        source.findings.warnings.extend(read.full_folder().map(no_room));
        let pages = read.store(context, pipeline, sink).await?;
        Ok(CapturedDatabase { facts, store, geometry, pages, source, tables })
    }

    /// Returns what the questions may take. Those to msgvault are ours, and as many as they must be; those to
    /// another application are the user's.
    fn bounds_of_questions(&self, pinned: &PinnedDatabase) -> Bounds {
        let cancel = &self.context.cancel;
        match self.profile.access() {
            Access::Owner => Bounds::unhurried(cancel),
            Access::Foreign => {
                bounds::grant_memory(bounds::MEMORY_BYTES_MAX);
                Bounds::of_questions(cancel, pinned.bytes(), self.profile.questions())
            }
        }
    }

    async fn pin(&self, number: u32) -> Result<PinnedDatabase> {
        let Self { context, pipeline, profile, paths, options, .. } = self;
        let (database, gatekeeper) = (paths.database.clone(), profile.gatekeeper(paths));
        let (cancel, progress) = (context.cancel.clone(), context.progress.clone());
        let forced = if number == ATTEMPTS_MAX { Some(Reading::Transaction) } else { options.reading };
        let asked = (*profile).clone();
        pipeline
            .run(move |_| match asked.access() {
                Access::Owner => {
                    FrozenDatabase::freeze(&database, gatekeeper.as_ref(), &cancel, progress.as_ref())?
                        .pinned()
                }
                Access::Foreign => foreign::pin_reading(&database, &cancel, forced),
            })
            .await
    }

    /// Checks the health of the database, if that is asked for, and ends the pin.
    async fn release(&self, pinned: PinnedDatabase, source: SourceState) -> Result<SourceState> {
        let Self { context, profile, options, .. } = self;
        let checks = options.check_source.unwrap_or(profile.checks_source(pinned.bytes()));
        let depth = match options.check_source {
            Some(true) => Depth::Full,
            _ => Depth::of_size(pinned.bytes()),
        };
        let bounds = Bounds::of_check(&context.cancel, pinned.bytes());
        if checks {
            context.progress.begin(Stage::Health, Unit::Steps, None);
        }
        let released = aside::run(&bounds, "check the database", move |bounds| {
            let mut source = source;
            if checks {
                let found = health::examine_source(&mut pinned.connection(), pinned.path(), depth, bounds);
                let found = found.map_err(|error| pinned.explain(error))?;
                source.problems.extend(found.problems);
                source.findings.warnings.extend(found.unchecked);
            }
            source.wal_grew_bytes = pinned.wal_grew_bytes()?;
            pinned.release()?;
            Ok(source)
        })
        .await?;
        if checks {
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
