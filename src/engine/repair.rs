//! repair: makes anew what the rest of a repository says as well. `config.toml` is `repo::remade`'s; here are indexes,
//! from the footers of the packs alone.
//!
//! What an index says, the footers say too. So where indexes are damaged or lost, nothing is. Of a pack of which anything
//! is not named rightly all is named anew: readers tell from an index how long a pack must be, and do not rely on one
//! that names a part. The order: the new index is durable, its name behind all others, before an index that cannot be
//! read is moved aside. Nothing is deleted.

use std::collections::HashSet;

use futures::{StreamExt, join, stream};

use super::report::{ConfigReport, MovedAside, ProblemKind, RepairReport, VerifyProblem};
use super::{Context, logged};
use crate::format::pack::Entry;
use crate::format::{BlobId, IndexEntry, IndexId, PackId};
use crate::progress::{Stage, Unit};
use crate::repo::Repository;
use crate::repo::blobs::BlobStore;
use crate::repo::indexes::DamagedIndex;
use crate::repo::locks::Lock;
use crate::{Error, Result};

/// Packs whose footers are read at once.
const READS_IN_FLIGHT: usize = 16;
/// Entries of one index.
const INDEX_ENTRIES_MAX: usize = 500_000;

/// How indexes are repaired.
#[derive(Debug, Clone, Copy, Default)]
pub struct RepairOptions {
    /// Only says what would be done, and takes no lock.
    pub dry_run: bool,
    /// Breaks the locks of others.
    pub force_unlock: bool,
}

/// Names in new indexes what the packs hold and no index names rightly.
pub async fn repair_index(
    repository: &Repository,
    options: RepairOptions,
    context: &Context,
) -> Result<RepairReport> {
    let context = &context.logged();
    let span = tracing::info_span!(target: "packvault::operation", "repair");
    let repository = &repository.uncached();
    let work = async {
        if options.dry_run {
            return indexes(repository, None, context).await;
        }
        let lock = repository.lock_exclusive(&context.lock_request("repair", options.force_unlock)).await?;
        let done = Box::pin(indexes(repository, Some(&lock), context)).await;
        lock.settle(done, |report| &mut report.warnings).await
    };
    logged::operation(span, repository.storage().location(), work).await
}

/// Writes the `config.toml` of a repository that was opened with one made anew.
pub async fn repair_config(
    repository: &Repository,
    options: RepairOptions,
    context: &Context,
) -> Result<ConfigReport> {
    let span = tracing::info_span!(target: "packvault::operation", "repair");
    let work = async {
        let kept = match options.dry_run {
            true => None,
            false => {
                repository.put_config_back(&context.lock_request("repair", options.force_unlock)).await?
            }
        };
        let config = repository.config();
        let (id, encrypted) = (config.repo_id.to_string(), config.is_encrypted());
        Ok(ConfigReport { dry_run: options.dry_run, id, encrypted, made: true, kept })
    };
    logged::operation(span, repository.storage().location(), work).await
}

/// The same under the exclusive lock, or without one where nothing is changed.
pub(super) async fn indexes(
    repository: &Repository,
    lock: Option<&Lock>,
    context: &Context,
) -> Result<RepairReport> {
    let (indexes, lengths) = join!(repository.find_indexes(), repository.pack_lengths());
    let ((union, damaged), lengths) = (indexes?, lengths?);
    // What this user may not read is not damaged, and must not be moved.
    if let Some(at) = damaged.iter().position(|index| index.error.is_no_finding()) {
        return Err(damaged.into_iter().nth(at).expect("its position was found").error);
    }
    let mut packs: Vec<PackId> = lengths.keys().copied().collect();
    packs.sort();
    let store = BlobStore::new(repository.clone(), std::sync::Arc::new(union.settled(&lengths)), lengths);
    let mut report = RepairReport { dry_run: lock.is_none(), ..RepairReport::default() };
    context.progress.begin(Stage::Structure, Unit::Items, Some(packs.len() as u64));
    let mut entries: Vec<IndexEntry> = Vec::new();
    let mut named: HashSet<BlobId> = HashSet::new();
    let footers = stream::iter(packs).map(async |pack| (pack, store.entries_of(&pack).await));
    let mut footers = std::pin::pin!(footers.buffered(READS_IN_FLIGHT));
    while let Some((pack, footer)) = footers.next().await {
        context.cancel.check()?;
        match footer {
            Err(error) if error.is_no_finding() => return Err(error),
            Err(error) => report.problems.push(unusable(pack, &error)),
            Ok(footer) => {
                report.packs += 1;
                let missing = missing(&store, pack, &footer, &named).await?;
                if missing > 0 {
                    // An index names no blob twice.
                    if footer.iter().any(|entry| named.contains(&entry.id)) {
                        publish(repository, lock, std::mem::take(&mut entries), &mut report).await?;
                    }
                    named.extend(footer.iter().map(|entry| entry.id));
                    entries.extend(footer.iter().map(|entry| index_entry(pack, entry)));
                }
                report.blobs += missing;
            }
        }
        if entries.len() >= INDEX_ENTRIES_MAX {
            publish(repository, lock, std::mem::take(&mut entries), &mut report).await?;
        }
        context.progress.advance(Stage::Structure, 1);
    }
    context.progress.end(Stage::Structure);
    publish(repository, lock, entries, &mut report).await?;
    for DamagedIndex { name, error } in damaged {
        // What a newer program wrote is not damaged.
        if ProblemKind::of(&error) == ProblemKind::Newer {
            report.problems.push(VerifyProblem {
                object: Some(format!("index {name}")),
                detail: format!("{}; it was left where it is", error.chain()),
                kind: ProblemKind::Newer,
                ..VerifyProblem::default()
            });
            continue;
        }
        let kept = match lock {
            Some(lock) => Some(lock.mending()?.index_aside(&name).await?),
            None => None,
        };
        report.moved.push(MovedAside { object: format!("index {name}"), kept });
    }
    Ok(report)
}

async fn publish(
    repository: &Repository,
    lock: Option<&Lock>,
    entries: Vec<IndexEntry>,
    report: &mut RepairReport,
) -> Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    if let Some(lock) = lock {
        lock.confirm().await?;
        let id = IndexId::from_ulid(repository.ulids().next());
        repository.publish_index(&id, entries).await?;
    }
    report.indexes_written += 1;
    Ok(())
}

/// Counts the blobs of the pack that no index names rightly, an old one or one that is being made.
async fn missing(store: &BlobStore, pack: PackId, footer: &[Entry], named: &HashSet<BlobId>) -> Result<u64> {
    let mut missing = 0;
    for entry in footer.iter().filter(|entry| !named.contains(&entry.id)) {
        missing += u64::from(!is_named(store, pack, entry).await?);
    }
    Ok(missing)
}

/// Tells whether readers find the blob: there, or in another pack that an index describes rightly.
async fn is_named(store: &BlobStore, pack: PackId, entry: &Entry) -> Result<bool> {
    let union = store.union();
    let Some(found) = union.get(&entry.id).filter(|_| union.is_sound(&entry.id)) else { return Ok(false) };
    if found.pack != pack {
        // The blob lies twice, and the footer of the other pack is asked as well.
        return match store.locate(&entry.id).await {
            Ok(_) => Ok(store.outranking(&entry.id).is_none()),
            Err(failure) if failure.error.is_no_finding() => Err(failure.into()),
            Err(_) => Ok(false),
        };
    }
    let is_right =
        (found.offset, found.stored_bytes, found.flags) == (entry.offset, entry.stored_bytes, entry.flags);
    Ok(is_right && !union.is_outranked(&entry.id))
}

/// Returns what an index says of the entry.
pub(super) fn index_entry(pack: PackId, entry: &Entry) -> IndexEntry {
    let Entry { id, offset, stored_bytes, flags, .. } = *entry;
    IndexEntry { id, pack, offset, stored_bytes, flags }
}

fn unusable(pack: PackId, error: &Error) -> VerifyProblem {
    VerifyProblem {
        object: Some("pack".to_owned()),
        pack: Some(pack.to_string()),
        detail: error.chain(),
        kind: ProblemKind::of(error),
        ..VerifyProblem::default()
    }
}
