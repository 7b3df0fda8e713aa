//! What a running operation tells whoever watches: stages, amounts, and remarks.
//!
//! The library reports through a [`Progress`]; how it looks is the watcher's. Amounts are added by many
//! workers at once, so implementations must be cheap and must not block.

mod logged;

use std::sync::{Mutex, PoisonError};

pub use logged::Logged;

/// A part of an operation that a user can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// create: the database is being brought to rest and pinned.
    Freeze,
    /// create: database pages are read and hashed.
    Scan,
    /// create: changed pages are compressed and written into packs.
    Pack,
    /// create and restore: attachments.
    Attachments,
    /// create and restore: extra files.
    Extras,
    /// create: the pinned database is checked by SQLite.
    Health,
    /// create: packs, index and manifest are made durable.
    Seal,
    /// forget: snapshots are marked, and manifests removed.
    Forget,
    /// prune: what is needed of packs that go is copied into new ones, and read back.
    Repack,
    /// prune: packs that no index names are removed.
    Remove,
    /// verify and prune: snapshots, chains and lists are read.
    Structure,
    /// verify: stored blobs are read and checked.
    Blobs,
    /// verify: databases are built aside to see where attachments belong.
    Paths,
    /// restore: database pages are written and checked.
    Database,
    /// restore: the staged result is proved.
    Proof,
    /// restore: the proved result is put in place.
    Publish,
    /// Bytes that have gone to a server.
    Sent,
    /// Bytes that have come from one.
    Received,
}

impl Stage {
    /// Returns the word a user sees.
    pub fn name(self) -> &'static str {
        match self {
            Self::Freeze => "freeze",
            Self::Scan => "scan",
            Self::Pack => "pack",
            Self::Attachments => "attachments",
            Self::Extras => "extras",
            Self::Health => "health",
            Self::Seal => "seal",
            Self::Structure => "structure",
            Self::Blobs => "blobs",
            Self::Paths => "paths",
            Self::Database => "database",
            Self::Forget => "forget",
            Self::Repack => "repack",
            Self::Remove => "remove",
            Self::Proof => "proof",
            Self::Publish => "publish",
            Self::Sent => "sent",
            Self::Received => "received",
        }
    }
}

/// What a stage counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes, shown as KiB, MiB, GiB.
    Bytes,
    /// Database pages.
    Pages,
    /// Files, blobs, snapshots: whole things.
    Items,
    /// The steps of a proof.
    Steps,
}

/// Receives the progress of one operation. Stages may overlap.
pub trait Progress: Send + Sync {
    /// A stage begins; `total` is `None` where the amount is not known beforehand.
    fn begin(&self, stage: Stage, unit: Unit, total: Option<u64>);
    /// The stage has done `amount` more of its unit.
    fn advance(&self, stage: Stage, amount: u64);
    /// The stage is now busy with the named step ("integrity check").
    fn step(&self, stage: Stage, name: &str);
    /// The stage is over.
    fn end(&self, stage: Stage);
    /// Something a user should know now: what the operation waits for, what it works around.
    fn remark(&self, text: &str);
}

/// A watcher that keeps what is remarked, for whoever looks at it later.
#[derive(Debug, Default)]
pub struct Heard(Mutex<Vec<String>>);

impl Heard {
    /// Returns what was remarked so far.
    pub fn remarks(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Progress for Heard {
    fn begin(&self, _: Stage, _: Unit, _: Option<u64>) {}
    fn advance(&self, _: Stage, _: u64) {}
    fn step(&self, _: Stage, _: &str) {}
    fn end(&self, _: Stage) {}
    fn remark(&self, text: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
    }
}

/// A watcher that looks away.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: Stage, _: Unit, _: Option<u64>) {}
    fn advance(&self, _: Stage, _: u64) {}
    fn step(&self, _: Stage, _: &str) {}
    fn end(&self, _: Stage) {}
    fn remark(&self, _: &str) {}
}
