//! Which files are not read again: those that are as they were when the parent was made.
//!
//! What is remembered of them decides nothing but that. What an attachment holds its name says, and what an extra file
//! holds the tree of the parent, proved by the parent's manifest; and whether that is stored, the indexes say. So the worst
//! that a memory which is wrong can do is that a file is taken for what it was in the parent. And that ends: each
//! file belongs to one of [`SLOTS`] shares, and in every run one of them is read, whatever is remembered; more where
//! days have passed since, so that each file is read within a month.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::archive::content::SeenContent;
use crate::archive::file_memory::{Binding, FileMemory};
use crate::archive::profile::{ArchivePaths, Profile};
use crate::archive::sighting::{Print, Sighting};
use crate::format::{BlobId, Manifest, RepoId, extras_tree};
use crate::process;
use crate::repo::notes::ArchiveIdentity;

/// For how long a file must have been at rest before it is read, so that every later change has another time:
/// twice what the coarsest clock of a file system counts.
pub const REST: Duration = Duration::from_secs(2);
/// Shares of the files, of which one is read in every run.
const SLOTS: u32 = 30;
/// A share is read for each of these that has passed.
const DAY_SECONDS: i64 = 24 * 60 * 60;

/// How many of the files that did not change are read all the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reread {
    /// All of them.
    All,
    /// One thirtieth, or one for each day since the last; the next ones in the next run.
    #[default]
    Share,
    /// None.
    None,
}

/// What a create may remember of the files it reads, and what it believes of that.
#[derive(Debug, Clone)]
pub struct FileMemoryOptions {
    /// The folder in which it is kept; it need not exist.
    pub folder: PathBuf,
    /// How many files are read all the same.
    pub reread: Reread,
    /// For how long a file must have been at rest to be remembered; [`REST`] but in tests.
    pub rest: Duration,
}

/// What one create believes, and where it keeps that for the next.
#[derive(Debug)]
pub(super) struct Beliefs {
    options: FileMemoryOptions,
    whose: String,
    boot: String,
    now: i64,
    shares: Shares,
    attachments: Vec<Print>,
    extras: Vec<Print>,
    /// What the parent says of each extra file.
    tree: HashMap<String, (u64, BlobId)>,
}

/// What a create has seen, for the next one.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) attachments: Vec<Print>,
    pub(super) extras: Vec<Print>,
    /// The extras tree of the snapshot, as it is stored.
    pub(super) tree: Vec<u8>,
}

impl Beliefs {
    /// Reads what is remembered; nothing is believed where there is any doubt. Blocks.
    pub(super) fn load(options: FileMemoryOptions, whose: String, parent: Option<&Manifest>) -> Self {
        let now = unix_seconds();
        let boot = process::boot().unwrap_or_default();
        let remembered = parent.and_then(|parent| {
            let binding = Binding { whose: &whose, snapshot: &parent.snapshot_id };
            // A clock that was set back makes a time come twice.
            FileMemory::read(&options.folder, binding).filter(|memory| memory.made_at <= now)
        });
        let is_first = remembered.is_none();
        let FileMemory { boot: boot_then, slot, slot_at, attachments, mut extras, tree, .. } =
            remembered.unwrap_or(FileMemory { slot_at: now, ..FileMemory::default() });
        let tree = parent.and_then(|parent| tree_of(parent, &tree)).unwrap_or_default();
        // Bytes and times do not reach the disk together: after a crash, a file may hold new bytes and have its old time.
        if boot_then != boot || boot.is_empty() {
            extras.clear();
        }
        let shares = Shares::of(if is_first { Reread::All } else { options.reread }, slot, slot_at, now);
        tracing::info!(
            target: "packvault::decision",
            attachments = attachments.len(),
            extras = extras.len(),
            share = shares.count,
            "files that did not change are known from the last snapshot"
        );
        Self { options, whose, boot, now, shares, attachments, extras, tree }
    }

    /// Returns a print of an attachment as it lies there now, if it could be remembered so; and whether it need not be
    /// read.
    pub(super) fn attachment(&self, id: &BlobId, seen: &SeenContent) -> (Option<Print>, bool) {
        let print = seen.sighting.print("attachment", id.as_bytes(), seen.place.as_bytes());
        let is_known = self.attachments.binary_search(&print).is_ok();
        // It was at rest when it was remembered, and was not changed since.
        let is_at_rest = || seen.sighting.is_at_rest(SystemTime::now(), self.options.rest);
        let kept = (is_known || is_at_rest()).then_some(print);
        (kept, is_known && !self.shares.is_due(slot_of(id.as_bytes())))
    }

    /// Returns what an extra file holds if it need not be read, and the print by which it is known.
    pub(super) fn extra(&self, path: &str, sighting: &Sighting) -> Option<(BlobId, Print)> {
        let print = self.print_of_extra(path, sighting);
        self.extras.binary_search(&print).ok()?;
        let (bytes, blob) = *self.tree.get(path)?;
        let is_due = self.shares.is_due(slot_of(BlobId::of(path.as_bytes()).as_bytes()));
        (!is_due && bytes == sighting.bytes()).then_some((blob, print))
    }

    /// Returns the print of an extra file.
    pub(super) fn print_of_extra(&self, path: &str, sighting: &Sighting) -> Print {
        sighting.print("extra", path.as_bytes(), b"")
    }

    /// Tells whether an extra file that is read from now on may be remembered by its times.
    pub(super) fn may_remember(&self, sighting: &Sighting) -> bool {
        sighting.is_at_rest(SystemTime::now(), self.options.rest + sighting.more_rest())
    }

    /// Returns about how many bytes of memory it takes to know so many attachments, now and for the next time.
    pub(super) fn table_bytes(&self, attachments: usize) -> u64 {
        ((self.attachments.len() + attachments) * Print::BYTES) as u64
    }

    /// Keeps what was seen for the next create. That it cannot be kept costs the next one a reading, so that is no
    /// failure. Blocks.
    pub(super) fn keep(&self, snapshot: &str, seen: Seen) {
        let Seen { mut attachments, mut extras, tree } = seen;
        for prints in [&mut attachments, &mut extras] {
            prints.sort_unstable();
            prints.dedup();
        }
        let Shares { next: slot, at: slot_at, .. } = self.shares;
        let memory = FileMemory {
            boot: self.boot.clone(),
            made_at: self.now,
            slot,
            slot_at,
            attachments,
            extras,
            tree,
        };
        if let Err(error) = memory.write(&self.options.folder, Binding { whose: &self.whose, snapshot }) {
            let error = error.to_string();
            tracing::info!(target: "packvault::decision", error, "what was seen of files is not kept");
        }
    }
}

/// Returns by what the memory of an archive in a repository is known.
pub(super) fn whose(
    repository: &RepoId,
    identity: Option<&ArchiveIdentity>,
    profile: &dyn Profile,
    paths: &ArchivePaths,
) -> String {
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let identity = identity.cloned().unwrap_or_else(|| ArchiveIdentity {
        profile: profile.name().to_owned(),
        name: None,
        home: text(&paths.home),
        database: text(&paths.database),
        tables: Vec::new(),
    });
    let ArchiveIdentity { profile, name, home, database, .. } = identity;
    // As a list, so that no part runs into the next.
    serde_json::json!([repository.as_str(), profile, name, home, database]).to_string()
}

/// Returns what the parent says of each extra file, if the tree is the one that its manifest names.
fn tree_of(parent: &Manifest, tree: &[u8]) -> Option<HashMap<String, (u64, BlobId)>> {
    let named = parent.extras_tree().ok()??;
    if BlobId::of(tree) != named {
        return None;
    }
    let entries = extras_tree::decode(tree).ok()?;
    Some(entries.into_iter().map(|entry| (entry.path, (entry.size, entry.blob))).collect())
}

/// Which shares are read in this run, and with which the next begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shares {
    first: u32,
    count: u32,
    next: u32,
    at: i64,
}

impl Shares {
    fn of(reread: Reread, slot: u32, slot_at: i64, now: i64) -> Self {
        let first = slot % SLOTS;
        let days = now.saturating_sub(slot_at).max(0) / DAY_SECONDS;
        let (count, at) = match reread {
            Reread::None => (0, slot_at),
            Reread::All => (SLOTS, now),
            // Not from now on: what is left of a day counts for the next share.
            Reread::Share if (1..i64::from(SLOTS)).contains(&days) => {
                (days as u32, slot_at + days * DAY_SECONDS)
            }
            Reread::Share if days >= i64::from(SLOTS) => (SLOTS, now),
            Reread::Share => (1, now),
        };
        Self { first, count, next: (first + count) % SLOTS, at }
    }

    fn is_due(&self, slot: u32) -> bool {
        (slot + SLOTS - self.first) % SLOTS < self.count
    }
}

/// Returns the share to which something with this hash belongs.
fn slot_of(hash: &[u8; 32]) -> u32 {
    u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]]) % SLOTS
}

fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const NOW: i64 = 1_700_000_000;

    fn slots(shares: &Shares) -> Vec<u32> {
        (0..SLOTS).filter(|slot| shares.is_due(*slot)).collect()
    }

    /// Runs after so many seconds each, and returns which shares each run read.
    fn runs(reread: Reread, pauses: &[i64]) -> Vec<Vec<u32>> {
        let (mut slot, mut at, mut now) = (0, NOW, NOW);
        let mut read = Vec::new();
        for pause in pauses {
            now += pause;
            let shares = Shares::of(reread, slot, at, now);
            read.push(slots(&shares));
            (slot, at) = (shares.next, shares.at);
        }
        read
    }

    #[test]
    fn every_share_is_read_within_thirty_runs() {
        for pause in [0, 60, DAY_SECONDS - 1, DAY_SECONDS, DAY_SECONDS + 60] {
            let read = runs(Reread::Share, &vec![pause; SLOTS as usize]);
            let all: BTreeSet<u32> = read.iter().flatten().copied().collect();
            assert_eq!(all.len(), SLOTS as usize, "{pause}");
            assert!(read.iter().all(|one| !one.is_empty() && one.len() <= 2), "{pause}: {read:?}");
        }
    }

    #[test]
    fn every_share_is_read_within_a_month_however_seldom_runs_are() {
        for pause in [DAY_SECONDS * 3 / 2, 3 * DAY_SECONDS, 7 * DAY_SECONDS + 5, 40 * DAY_SECONDS] {
            let count = (i64::from(SLOTS) + 1) * DAY_SECONDS / pause + 1;
            let read = runs(Reread::Share, &vec![pause; count as usize]);
            let all: BTreeSet<u32> = read.iter().flatten().copied().collect();
            assert_eq!(all.len(), SLOTS as usize, "{pause}: {read:?}");
        }
    }

    #[test]
    fn all_is_all_none_is_none_and_a_clock_that_goes_back_reads_one_share() {
        assert_eq!(runs(Reread::All, &[0])[0].len(), SLOTS as usize);
        assert!(runs(Reread::None, &[0, 90 * DAY_SECONDS]).iter().all(Vec::is_empty));
        let waited = Shares::of(Reread::None, 4, NOW, NOW + 3 * DAY_SECONDS);
        assert_eq!((waited.next, waited.at), (4, NOW), "what was not read is still to be read");
        assert_eq!(slots(&Shares::of(Reread::Share, 4, NOW, 0)), [4]);
        assert_eq!(slots(&Shares::of(Reread::Share, u32::MAX, i64::MIN, NOW)).len(), SLOTS as usize);
    }
}
