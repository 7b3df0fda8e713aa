//! Looking inside a snapshot without restoring it: its files, its database page by page, and what differs.
//!
//! Nothing is written anywhere. Every page and every blob that is handed out was checked against its hash before; what
//! the repository says of names and sizes is checked as a restore checks it. Only what is asked for is read: the files
//! of a snapshot need neither its page map nor the list of packs.

mod btree;
mod content;
pub mod diff;
pub mod dump;
pub mod find;
pub mod history;
mod kept;
pub mod ls;
pub mod mount;
mod output;
mod owners;
pub mod pages;
pub mod pattern;
pub mod report;
mod row;
pub mod rows;
mod scope;
pub mod sql;
pub mod stats;
pub mod tree;

use std::collections::HashMap;
use std::sync::Arc;

use futures::join;

use self::kept::SharedKept;
pub use self::output::Output;
use self::pages::PageReader;
pub use self::tree::Tree;
use super::chain::{self, Manifests};
use super::metadata::MetadataReader;
use super::pipeline::Pipeline;
use super::restore::plan;
use super::{Context, ReadLocking, Selection, logged};
use crate::archive::profile::Profile;
use crate::format::{ArchiveAttributes, ExtrasEntry, ListedAttachment, Manifest};
use crate::profiles;
use crate::repo::Repository;
use crate::repo::blobs::BlobStore;
use crate::repo::indexes::DamagedIndex;
use crate::repo::locks::Pulse;
use crate::repo::snapshots::SnapshotFiles;
use crate::{Error, ErrorKind, Result};

/// How much is read of a repository before anything is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Few blobs are wanted: each pack is asked for its length when it is opened.
    Few,
    /// Many may be: all packs are listed first, so that an index that is wrong about one is found out.
    Many,
}

/// A repository that is open for looks at its snapshots; clones share what was read.
#[derive(Clone)]
pub struct Inside {
    repository: Repository,
    pipeline: Pipeline,
    reader: MetadataReader,
    files: Arc<SnapshotFiles>,
    damaged: Arc<Vec<DamagedIndex>>,
    /// Of the lock; `None` where none is held.
    pulse: Option<Pulse>,
}

/// Opens the repository, does the work under a shared lock, and returns with what came of it what the user should
/// know of the lock.
pub async fn look<T>(
    repository: &Repository,
    operation: &'static str,
    (reach, locking): (Reach, ReadLocking),
    context: &Context,
    work: impl AsyncFnOnce(&Inside) -> Result<T>,
) -> Result<(T, Vec<String>)> {
    let context = &context.logged();
    let span = tracing::info_span!(target: "packvault::operation", "look", command = operation);
    let looking = async |pulse: Option<Pulse>| {
        let inside = Inside::open(repository, reach, context, pulse).await?;
        let done = work(&inside).await;
        inside.pipeline.quiesce().await;
        done.map_err(|error| inside.blamed(error))
    };
    let work = locking.around_with(repository, operation, context, looking);
    logged::operation(span, repository.storage().location(), work).await
}

impl Inside {
    async fn open(
        repository: &Repository,
        reach: Reach,
        context: &Context,
        pulse: Option<Pulse>,
    ) -> Result<Self> {
        let pipeline = Pipeline::new(context, 0);
        let lengths = async {
            match reach {
                Reach::Few => Ok(HashMap::new()),
                Reach::Many => repository.pack_lengths().await,
            }
        };
        let (files, indexes, lengths) = match pulse.is_some() {
            // Side by side, for on a long line each costs several times there and back.
            true => join!(repository.list_snapshots(), repository.find_indexes(), lengths),
            // What names others is read first, so that all it names is there already.
            false => (repository.list_snapshots().await, repository.find_indexes().await, lengths.await),
        };
        let (files, (union, damaged), lengths) = (files?, indexes?, lengths?);
        let union = match reach {
            Reach::Few => union,
            Reach::Many => union.settled(&lengths),
        };
        let store = Arc::new(BlobStore::new(repository.clone(), Arc::new(union), lengths));
        for index in &damaged {
            let remark = format!("index {} cannot be used: {}", index.name, index.error.chain());
            context.progress.remark(&remark);
        }
        let reader = MetadataReader::new(store, pipeline.clone());
        let (files, damaged) = (Arc::new(files), Arc::new(damaged));
        Ok(Self { repository: repository.clone(), pipeline, reader, files, damaged, pulse })
    }

    /// Returns the names of all snapshots that were not forgotten, oldest first.
    pub fn snapshots(&self) -> Vec<String> {
        self.files.listed().map(str::to_owned).collect()
    }

    /// Opens one snapshot.
    pub async fn snapshot(&self, selection: &Selection) -> Result<Snapshot> {
        let name = match selection {
            Selection::One(id) => id.as_str(),
            Selection::Latest => self.files.listed().next_back().ok_or_else(|| {
                Error::new(
                    ErrorKind::NotFound,
                    "the repository holds no snapshot; there is nothing to look at",
                )
            })?,
            Selection::All => return Err(Error::new(ErrorKind::Usage, "one snapshot is looked at, not all")),
        };
        self.named(name).await
    }

    /// Opens the snapshot of that name.
    pub async fn named(&self, name: &str) -> Result<Snapshot> {
        let manifest = self.repository.load_listed_snapshot(&self.files, name).await?;
        let profile = profiles::of_stats(&manifest.stats, &profiles::unnamed())?;
        Ok(Snapshot { inside: self.clone(), manifest, profile })
    }

    /// Names the index that cannot be used because of which something may be missing.
    fn blamed(&self, error: Error) -> Error {
        match self.damaged.first() {
            Some(index) if error.kind() == ErrorKind::Damaged => {
                let why = index.error.chain();
                let message = format!("cannot look inside while index {} cannot be used ({why})", index.name);
                Error::caused(index.error.kind(), message, error)
            }
            _ => error,
        }
    }
}

/// One snapshot that is looked at.
pub struct Snapshot {
    inside: Inside,
    /// What it says of itself.
    pub manifest: Manifest,
    /// What is known of its application.
    pub profile: Arc<dyn Profile>,
}

/// What is wanted of the files of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Each attachment; else only how many there are.
    pub attachments: bool,
    /// The extra files.
    pub extras: bool,
    /// Owners, modes and times.
    pub attributes: bool,
}

impl Snapshot {
    /// Returns its id.
    pub fn id(&self) -> &str {
        &self.manifest.snapshot_id
    }

    /// Returns what reads in its repository.
    pub fn inside(&self) -> &Inside {
        &self.inside
    }

    /// Reads which files it has; what cannot be known besides is in the warnings.
    pub async fn tree(&self, wanted: Wanted, warnings: &mut Vec<String>) -> Result<Tree> {
        let reader = &self.inside.reader;
        let tree = if wanted.extras { self.manifest.extras_tree().ok().flatten() } else { None };
        let lists = if wanted.attachments { self.manifest.lists().unwrap_or_default() } else { Vec::new() };
        reader.expect(lists.into_iter().chain(tree));
        let listed = async {
            match wanted.attachments {
                true => plan::listed(reader, &self.manifest).await.map(Some),
                false => Ok(None),
            }
        };
        let attributes = async {
            match wanted.attributes {
                true => self.attributes().await,
                false => Ok((ArchiveAttributes::default(), None)),
            }
        };
        let contents = async {
            let listed = listed.await?;
            let extras = if wanted.extras { self.extras().await? } else { Vec::new() };
            Ok::<_, Error>((listed, extras))
        };
        let (contents, attributes) = join!(contents, attributes);
        let ((listed, extras), (attributes, warning)) = (contents?, attributes?);
        warnings.extend(warning);
        let listed = listed.map(|listed| {
            listed.into_iter().map(|(id, bytes)| ListedAttachment { id, bytes }).collect::<Vec<_>>()
        });
        Ok(Tree::new(&self.manifest, &self.profile.database_name(), listed, extras, &attributes))
    }

    async fn extras(&self) -> Result<Vec<ExtrasEntry>> {
        plan::extras(&self.inside.reader, &self.manifest, &self.profile.database_name()).await
    }

    /// Reads owners, modes and times; damaged ones are a warning, for the files are whole without.
    async fn attributes(&self) -> Result<(ArchiveAttributes, Option<String>)> {
        match self.inside.repository.read_attributes(&self.inside.files, self.id()).await {
            Ok(recorded) => Ok((recorded.unwrap_or_default(), None)),
            Err(error) if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Unsupported) => {
                let warning = format!("owners, modes and times are not known: {}", error.chain());
                Ok((ArchiveAttributes::default(), Some(warning)))
            }
            Err(error) => Err(error),
        }
    }

    /// Fails where the database is none of pages.
    fn expect_pages(&self) -> Result<()> {
        let Some(metadata) = &self.manifest.metadata else { return Ok(()) };
        let message = format!(
            "snapshot {} holds its database as portable metadata ({}), which only the application that wrote it \
             can rebuild",
            self.id(),
            metadata.format
        );
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    /// Reads where each page lies and what it hashes to. The tables are taken off what is in flight.
    pub async fn pages(&self) -> Result<PageReader> {
        let pages = self.pages_keeping(SharedKept::default()).await?;
        let union = self.inside.reader.store().union().table_bytes();
        self.inside.pipeline.set_aside(pages.table_bytes().saturating_add(union)).await;
        Ok(pages)
    }

    /// The same with what other readers of the repository keep, and without taking anything off.
    async fn pages_keeping(&self, kept: SharedKept) -> Result<PageReader> {
        self.expect_pages()?;
        let Inside { repository, reader, files, pipeline, .. } = &self.inside;
        let steps = usize::try_from(self.manifest.db.map_chain_depth).unwrap_or_default();
        let steps = steps.min(chain::STEPS_MAX);
        let before = repository.load_snapshots_before(files, self.id(), steps).await?;
        let mut manifests = Manifests::new(repository, before.into_iter().chain([self.manifest.clone()]));
        let links = chain::links(&mut manifests, &self.manifest).await?;
        let (map, hashes) = chain::load_both(reader, &links).await?;
        chain::check_geometry(&self.manifest, &map, &hashes)?;
        PageReader::sharing(kept, pipeline.clone(), reader.store().clone(), (map, Arc::new(hashes)))
    }
}
