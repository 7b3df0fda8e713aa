//! Blobs that cannot be had: found as `verify` finds them, and brought back from wherever they are whole.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use super::Ward;
use super::attachments;
use crate::Result;
use crate::engine::bulk::carry::{Carrier, Damage};
use crate::engine::bulk::{self, BlobVisitor, NoSink, PieceSink};
use crate::engine::chain::Manifests;
use crate::engine::copy::Side;
use crate::engine::metadata::MetadataReader;
use crate::engine::pipeline::Pipeline;
use crate::engine::report::{HealReport, Healed, ProblemKind, VerifyProblem};
use crate::engine::verify::checks::{Checker, Fault};
use crate::engine::verify::survey::{self, Survey};
use crate::format::pack::{self, Entry};
use crate::format::{BlobId, IndexEntry, IndexId, PackId};
use crate::progress::{Stage, Unit};
use crate::repo::blobs::{BlobFailure, BlobStore};
use crate::repo::packs::PackWriter;

/// How often what was healed is looked through: what a list holds is known once the list is healed.
const ROUNDS_MAX: usize = 4;

/// What one look through the repository has found.
struct Found {
    here: Side,
    pipeline: Pipeline,
    /// Every blob that a snapshot needs.
    needed: HashSet<BlobId>,
    /// Those that cannot be had, and why.
    lost: BTreeMap<BlobId, String>,
    /// What is wrong and lies in no single blob.
    others: Vec<VerifyProblem>,
}

/// Heals what the packs hold.
pub(super) async fn heal(ward: &Ward<'_>, report: &mut HealReport) -> Result<()> {
    let there = match ward.from {
        Some(from) => Some(Side::read(from, true).await?),
        None => None,
    };
    let mut proved: HashSet<BlobId> = HashSet::new();
    for round in 1.. {
        let found = look(ward, &mut proved).await?;
        report.blobs_read = proved.len() as u64;
        let healed = match ward.lock.is_some() && !found.lost.is_empty() {
            true => Healer { ward, found: &found, there: there.as_ref() }.run(report).await?,
            false => HashSet::new(),
        };
        if healed.is_empty() || round == ROUNDS_MAX {
            let left = found.lost.iter().filter(|(blob, _)| !healed.contains(blob));
            report.left.extend(left.map(|(blob, why)| VerifyProblem {
                object: Some("blob".to_owned()),
                blob: Some(blob.to_string()),
                pack: found.here.store.pack_of(blob).map(|pack| pack.to_string()),
                detail: why.clone(),
                ..VerifyProblem::default()
            }));
            report.left.extend(found.others);
            return Ok(());
        }
        proved.extend(healed);
    }
    Ok(())
}

/// Reads everything that the snapshots need and that was not proved yet.
async fn look(ward: &Ward<'_>, proved: &mut HashSet<BlobId>) -> Result<Found> {
    let context = ward.context;
    let here = Side::read(ward.repository, ward.lock.is_some()).await?;
    let pipeline = Pipeline::new(context, 0);
    let reader = MetadataReader::new(here.store.clone(), pipeline.clone());
    let manifests = Manifests::new(ward.repository, here.manifests.iter().cloned());
    context.progress.begin(Stage::Structure, Unit::Items, Some(here.manifests.len() as u64));
    let mut survey = Survey::new(manifests, &reader, ward.profile.clone());
    let described = survey::order_of_reading(&here.manifests);
    reader.expect(described.iter().copied());
    for manifest in &here.manifests {
        context.cancel.check()?;
        survey.snapshot(manifest).await?;
        context.progress.advance(Stage::Structure, 1);
    }
    context.progress.end(Stage::Structure);
    let (mut checks, problems, _) = survey.finish();
    // The walk stops at the first object of a chain that is damaged; the others may be as well.
    described.into_iter().for_each(|object| checks.expect(object));
    pipeline.set_aside(checks.table_bytes().saturating_add(here.store.union().table_bytes())).await;
    let checker = Arc::new(Checker::new(checks, context.progress.clone()));
    let unread: Vec<BlobId> =
        checker.checks().unread().into_iter().filter(|blob| !proved.contains(blob)).collect();
    context.progress.begin(Stage::Blobs, Unit::Items, Some(unread.len() as u64));
    bulk::read(&pipeline, &here.store, unread, &checker).await?;
    context.progress.end(Stage::Blobs);
    let (mut lost, mut others) = (BTreeMap::new(), Vec::new());
    for finding in checker.take_findings() {
        match finding.fault {
            Fault::Unreadable(why, ProblemKind::Damaged | ProblemKind::Newer | ProblemKind::Encrypted) => {
                lost.insert(finding.blob, why);
            }
            Fault::Unreadable(detail, kind) => others.push(of_blob(finding.blob, detail, kind)),
            Fault::Length(_, detail) => others.push(of_blob(finding.blob, detail, ProblemKind::Damaged)),
            Fault::Page(_) => {
                let detail = "a page in it is not what a page-hash map says: no copy can heal that";
                others.push(of_blob(finding.blob, detail.to_owned(), ProblemKind::Damaged));
            }
        }
    }
    for problem in problems {
        let blob = problem.blob.as_deref().and_then(|blob| BlobId::parse(blob).ok());
        if !blob.is_some_and(|blob| lost.contains_key(&blob)) && problem.object.as_deref() != Some("manifest")
        {
            others.push(problem);
        }
    }
    let needed: HashSet<BlobId> = checker.checks().blobs().collect();
    proved.extend(needed.iter().filter(|blob| !lost.contains_key(blob)));
    Ok(Found { here, pipeline, needed, lost, others })
}

fn of_blob(blob: BlobId, detail: String, kind: ProblemKind) -> VerifyProblem {
    VerifyProblem {
        object: Some("blob".to_owned()),
        blob: Some(blob.to_string()),
        detail,
        kind,
        ..VerifyProblem::default()
    }
}

/// Brings back what one look has found to be lost.
struct Healer<'a> {
    ward: &'a Ward<'a>,
    found: &'a Found,
    there: Option<&'a Side>,
}

/// What is known of one pack of the repository.
struct Patient {
    /// The blobs that are lost.
    lost: Vec<BlobId>,
    /// What its footer says, if it can be opened.
    entries: Option<Vec<Entry>>,
}

impl Healer<'_> {
    /// Returns the blobs that are whole again.
    async fn run(&self, report: &mut HealReport) -> Result<HashSet<BlobId>> {
        let (mut healed, mut left) = (HashSet::new(), Vec::new());
        let mut patients: BTreeMap<PackId, Patient> = BTreeMap::new();
        let (here, there) = (&self.found.here.store, self.there.map(|there| &there.store));
        for blob in self.found.lost.keys() {
            match here.pack_of(blob).or_else(|| there?.pack_of(blob)) {
                Some(pack) => {
                    let patient = patients.entry(pack).or_insert(Patient { lost: Vec::new(), entries: None });
                    patient.lost.push(*blob);
                }
                None => left.push(*blob),
            }
        }
        for (pack, patient) in &mut patients {
            patient.entries = openable(here, pack).await?;
            let is_whole = patient.entries.is_none() && self.bring_whole(*pack, &mut healed, report).await?;
            if !is_whole || !patient.lost.iter().all(|blob| healed.contains(blob)) {
                left.extend(patient.lost.iter().filter(|blob| !healed.contains(blob)));
            }
        }
        self.bring_in_pieces(left, &patients, &mut healed, report).await?;
        healed.retain(|blob| self.found.lost.contains_key(blob));
        Ok(healed)
    }

    /// Brings a pack that is lost, or cannot be opened, from the copy, if it is whole there.
    async fn bring_whole(
        &self,
        pack: PackId,
        healed: &mut HashSet<BlobId>,
        report: &mut HealReport,
    ) -> Result<bool> {
        let (Some(there), Some(from), Some(lock)) = (self.there, self.ward.from, self.ward.lock) else {
            return Ok(false);
        };
        let Some(entries) = openable(&there.store, &pack).await? else { return Ok(false) };
        if entries.len() > pack::ENTRIES_MAX || entries.is_empty() {
            return Ok(false);
        }
        // Proved before anything of ours is moved: the frames wait in the staging of an open pack.
        let mut writer = PackWriter::of_one_pack(self.ward.repository.clone(), pack);
        let witness = Arc::new(Witness);
        let sealing = self.ward.repository.sealing();
        let carrier = Carrier::new(&self.found.pipeline, &there.store, sealing, &witness);
        match carrier.append(pack, entries, Damage::Stop, &mut writer).await {
            Ok(failures) if failures.is_empty() => {}
            Ok(_) => {
                writer.abandon().await;
                return Ok(false);
            }
            Err(error) => {
                writer.abandon().await;
                return Err(error);
            }
        }
        let placed = async {
            lock.confirm().await?;
            let kept = match self.found.here.store.is_there(&pack) {
                true => Some(lock.mending()?.pack_aside(&pack).await?),
                false => None,
            };
            Ok::<_, crate::Error>((kept, writer.finish().await?.entries))
        };
        let (kept, written) = match placed.await {
            Ok(placed) => placed,
            Err(error) => {
                writer.abandon().await;
                return Err(error);
            }
        };
        healed.extend(written.iter().map(|entry| entry.id));
        self.publish(written).await?;
        let from = from.storage().location();
        report.healed.push(Healed { object: format!("pack {pack}"), from, kept });
        Ok(true)
    }

    /// Stores blobs again, from wherever they are whole, and moves the packs aside that nothing needs any more.
    async fn bring_in_pieces(
        &self,
        lost: Vec<BlobId>,
        patients: &BTreeMap<PackId, Patient>,
        healed: &mut HashSet<BlobId>,
        report: &mut HealReport,
    ) -> Result<()> {
        let Some(lock) = self.ward.lock else { return Ok(()) };
        let mut writer = PackWriter::new(self.ward.repository.clone());
        let brought = match self.pieces(lost, patients, &mut writer).await {
            Ok(brought) => brought,
            Err(error) => {
                writer.abandon().await;
                return Err(error);
            }
        };
        let written = match writer.finish().await {
            Ok(written) => written.entries,
            Err(error) => {
                writer.abandon().await;
                return Err(error);
            }
        };
        lock.confirm().await?;
        self.publish(written).await?;
        for (blob, from) in &brought.from {
            report.healed.push(Healed { object: format!("blob {blob}"), from: from.clone(), kept: None });
            healed.insert(*blob);
        }
        for pack in brought.emptied {
            let kept = Some(lock.mending()?.pack_aside(&pack).await?);
            let from = self.ward.repository.storage().location();
            report.healed.push(Healed { object: format!("pack {pack}"), from, kept });
        }
        Ok(())
    }

    async fn pieces(
        &self,
        lost: Vec<BlobId>,
        patients: &BTreeMap<PackId, Patient>,
        writer: &mut PackWriter,
    ) -> Result<Brought> {
        let mut brought = Brought::default();
        let here = &self.found.here.store;
        let mut rest: BTreeSet<BlobId> = lost.into_iter().collect();
        if let (Some(there), Some(from)) = (self.there, self.ward.from) {
            let name = from.storage().location();
            self.carry(&there.store, located(&there.store, &rest).await?, writer, |blob| {
                brought.from.insert(blob, name.clone());
            })
            .await?;
            rest.retain(|blob| !brought.from.contains_key(blob));
        }
        // A second place of the repository itself.
        let own = self.ward.repository.storage().location();
        self.carry(here, located_elsewhere(here, &rest).await?, writer, |blob| {
            brought.from.insert(blob, own.clone());
        })
        .await?;
        rest.retain(|blob| !brought.from.contains_key(blob));
        if let Some(folder) = &self.ward.options.attachments {
            for blob in &rest {
                self.ward.context.cancel.check()?;
                if attachments::store(&self.found.pipeline, folder, *blob, self.ward.repository, writer)
                    .await?
                {
                    brought.from.insert(*blob, folder.display().to_string());
                }
            }
        }
        for (pack, patient) in patients {
            let Some(entries) = &patient.entries else { continue };
            if !patient.lost.iter().all(|blob| brought.from.contains_key(blob)) {
                continue;
            }
            // What is sound and needed in it goes along, so that nothing needs it any more.
            let is_left = |entry: &&Entry| {
                self.found.needed.contains(&entry.id)
                    && !self.found.lost.contains_key(&entry.id)
                    && here.pack_of(&entry.id) == Some(*pack)
            };
            let sound: Vec<Entry> = entries.iter().filter(is_left).copied().collect();
            let count = sound.len();
            let mut carried = 0;
            self.carry(here, [(*pack, sound)].into(), writer, |_| carried += 1).await?;
            if carried == count {
                brought.emptied.push(*pack);
            }
        }
        Ok(brought)
    }

    async fn carry(
        &self,
        from: &Arc<BlobStore>,
        wanted: BTreeMap<PackId, Vec<Entry>>,
        writer: &mut PackWriter,
        mut done: impl FnMut(BlobId),
    ) -> Result<()> {
        let witness = Arc::new(Witness);
        let carrier = Carrier::new(&self.found.pipeline, from, self.ward.repository.sealing(), &witness);
        for (pack, mut entries) in wanted {
            entries.sort_by_key(|entry| entry.offset);
            let ids: Vec<BlobId> = entries.iter().map(|entry| entry.id).collect();
            let failures = carrier.append(pack, entries, Damage::PassOver, writer).await?;
            let failed: HashSet<BlobId> = failures.iter().map(|failure| failure.blob).collect();
            ids.into_iter().filter(|blob| !failed.contains(blob)).for_each(&mut done);
        }
        Ok(())
    }

    async fn publish(&self, entries: Vec<IndexEntry>) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let id = IndexId::from_ulid(self.ward.repository.ulids().next());
        self.ward.repository.publish_index(&id, entries).await
    }
}

/// What was stored again.
#[derive(Default)]
struct Brought {
    /// Where each blob came from.
    from: BTreeMap<BlobId, String>,
    /// Packs of which nothing is needed any more.
    emptied: Vec<PackId>,
}

/// Returns what the footer says, if the pack can be opened.
async fn openable(store: &BlobStore, pack: &PackId) -> Result<Option<Vec<Entry>>> {
    if !store.is_there(pack) {
        return Ok(None);
    }
    match store.entries_of(pack).await {
        Ok(entries) => Ok(Some(entries)),
        Err(error) if error.is_no_finding() => Err(error),
        Err(_) => Ok(None),
    }
}

/// Returns where the blobs lie, as far as they can be found.
async fn located(store: &BlobStore, blobs: &BTreeSet<BlobId>) -> Result<BTreeMap<PackId, Vec<Entry>>> {
    let mut found: BTreeMap<PackId, Vec<Entry>> = BTreeMap::new();
    for blob in blobs {
        match store.locate(blob).await {
            Ok((pack, entry)) => found.entry(pack).or_default().push(entry),
            Err(failure) if failure.error.is_no_finding() => return Err(failure.into()),
            Err(_) => {}
        }
    }
    Ok(found)
}

/// Returns where else in their own repository the blobs lie.
async fn located_elsewhere(
    store: &BlobStore,
    blobs: &BTreeSet<BlobId>,
) -> Result<BTreeMap<PackId, Vec<Entry>>> {
    let mut found: BTreeMap<PackId, Vec<Entry>> = BTreeMap::new();
    for blob in blobs {
        let elsewhere: Vec<PackId> = store.union().others(blob).map(|location| location.pack).collect();
        for pack in elsewhere.into_iter().filter(|pack| store.pack_of(blob) != Some(*pack)) {
            let entries = openable(store, &pack).await?.unwrap_or_default();
            if let Some(entry) = entries.iter().find(|entry| entry.id == *blob) {
                found.entry(pack).or_default().push(*entry);
                break;
            }
        }
    }
    Ok(found)
}

/// Sees what is carried, and has nothing to say of it: each frame is proved against its id in any case.
struct Witness;

impl BlobVisitor for Witness {
    fn takes_pieces(&self, _: &BlobId) -> bool {
        true
    }

    fn whole(&self, _: &Entry, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn pieces(&self, _: &Entry) -> Result<Box<dyn PieceSink>> {
        Ok(Box::new(NoSink))
    }

    fn failed(&self, failure: BlobFailure) -> Result<()> {
        Err(failure.into())
    }

    fn done(&self, _: &Entry) {}
}
