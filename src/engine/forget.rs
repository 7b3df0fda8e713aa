//! forget: gives up the snapshots that no rule keeps. What only they hold is freed by a later prune.
//!
//! A manifest goes at once where nothing that stays is built on it; else it is marked and stays as a link (see
//! `repo::forgotten`). The order of what becomes durable:
//!
//! 1. a mark beside every snapshot that is given up: from here on it is not shown, whatever happens;
//! 2. the manifests that nothing needs are removed, the youngest first;
//! 3. what lay beside these manifests, and at last their marks.
//!
//! Killed anywhere, every snapshot that is shown restores, and the next run does what is left. A manifest that was
//! marked earlier goes only if the rules of today would not keep it either: whoever can add an object to the
//! repository, but remove none, must not be able to have its owner remove snapshots.

use std::collections::{BTreeMap, HashSet};

use futures::join;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::report::{ForgetReport, ForgottenSnapshot, KeptSnapshot};
use super::retention::links;
use super::retention::policy::{Candidate, Reason, Rules, decide};
use super::{Context, logged};
use crate::error::lift::format_error;
use crate::format::{Manifest, SnapshotId};
use crate::progress::{Stage, Unit};
use crate::repo::Repository;
use crate::repo::locks::Lock;
use crate::repo::notes::Note;
use crate::repo::removal::Remover;
use crate::repo::snapshots::SnapshotFiles;
use crate::{Error, ErrorKind, Result};

/// How snapshots are forgotten.
#[derive(Debug, Clone)]
pub struct ForgetOptions {
    /// What is kept; without any rule nothing is done.
    pub rules: Rules,
    /// Where days, weeks, months and years begin.
    pub zone: TimeZone,
    /// Only says what would be forgotten, and takes no lock.
    pub dry_run: bool,
    /// Breaks the locks of others.
    pub force_unlock: bool,
}

/// Forgets the snapshots that no rule keeps.
pub async fn forget(
    repository: &Repository,
    options: &ForgetOptions,
    context: &Context,
) -> Result<ForgetReport> {
    let context = &context.logged();
    let span = tracing::info_span!(target: "packvault::operation", "forget");
    let work = Box::pin(locked(repository, options, context));
    logged::operation(span, repository.storage().location(), work).await
}

async fn locked(repository: &Repository, options: &ForgetOptions, context: &Context) -> Result<ForgetReport> {
    if options.rules.is_empty() {
        let message = "no rule says what is kept, and without one nothing is forgotten";
        return Err(Error::new(ErrorKind::Usage, message));
    }
    // What is removed is decided by what the store holds, not by what was copied from it.
    let repository = &repository.uncached();
    if options.dry_run {
        return Ok(Found::read(repository).await?.plan(options)?.report(true));
    }
    let lock = repository.lock_exclusive(&context.lock_request("forget", options.force_unlock)).await?;
    let done = run(repository, options, &lock, context).await;
    lock.settle(done, |report| &mut report.warnings).await
}

async fn run(
    repository: &Repository,
    options: &ForgetOptions,
    lock: &Lock,
    context: &Context,
) -> Result<ForgetReport> {
    let found = Found::read(repository).await?;
    let mut plan = found.plan(options)?;
    plan.tell();
    plan.execute(&Remover::new(repository, lock, &context.cancel), context).await?;
    Ok(plan.report(false))
}

/// What lies in the repository.
pub(super) struct Found {
    pub(super) files: SnapshotFiles,
    /// Oldest first.
    pub(super) manifests: Vec<Manifest>,
    notes: BTreeMap<String, Note>,
}

impl Found {
    /// Reads every manifest and note. While a manifest cannot be read, nobody knows what it needs.
    pub(super) async fn read(repository: &Repository) -> Result<Self> {
        let files = repository.list_snapshots().await?;
        let (found, notes) = join!(repository.read_snapshots(&files), repository.read_notes(&files));
        let manifests: Result<Vec<Manifest>> = found?.into_iter().map(|found| found.manifest).collect();
        let (manifests, notes) = (manifests?, notes?);
        Ok(Self { files, manifests, notes })
    }

    fn candidate(&self, manifest: &Manifest) -> Candidate {
        let note = self.notes.get(&manifest.snapshot_id);
        Candidate {
            id: manifest.snapshot_id.clone(),
            parent: manifest.parent_id.clone(),
            created_at: manifest.created_at().ok(),
            tag: manifest.options.tag.clone(),
            is_healthy: note.is_none_or(|note| note.source_problems.is_empty() && note.complete),
            // Nothing records yet that a restore was proved.
            is_proved: false,
        }
    }

    fn plan(&self, options: &ForgetOptions) -> Result<Plan<'_>> {
        let now = crate::clock::now()?;
        let forgotten = self.files.forgotten();
        self.expect_named(&options.rules, &forgotten)?;
        let mut plan = Plan { gone: self.files.gone(), ..Plan::default() };
        let listed = self.manifests.iter().filter(|manifest| !forgotten.contains(id_of(manifest)));
        for (manifest, reasons) in self.decided(listed, &options.rules, &options.zone, now) {
            match reasons.is_empty() {
                true => plan.dropped.push(manifest),
                false => plan.kept.push((manifest, reasons)),
            }
        }
        let kept = plan.kept.iter().map(|(manifest, _)| id_of(manifest));
        // Those that were marked before, and would be kept today.
        let given_up_before = self.given_up(&options.rules, &options.zone)?;
        let kept_before = forgotten.iter().copied().filter(|id| !given_up_before.contains(id));
        let needed = match links::needed(&self.manifests, kept.chain(kept_before)) {
            Ok(needed) => needed,
            Err(error) => {
                plan.warnings.push(format!(
                    "no manifest is removed, for nobody can say what is needed: {}; run `packvault verify --all`",
                    error.chain()
                ));
                self.manifests.iter().map(id_of).collect()
            }
        };
        let given_up = plan.dropped.iter().map(|manifest| id_of(manifest)).chain(forgotten.iter().copied());
        let given_up: HashSet<&str> = given_up.collect();
        let (links, removed) = self
            .manifests
            .iter()
            .filter(|manifest| given_up.contains(id_of(manifest)))
            .partition(|manifest| needed.contains(id_of(manifest)));
        (plan.links, plan.removed) = (links, removed);
        Ok(plan)
    }

    /// Returns the snapshots that were marked as forgotten and that the rules of today would not keep either.
    pub(super) fn given_up(&self, rules: &Rules, zone: &TimeZone) -> Result<HashSet<&str>> {
        let forgotten = self.files.forgotten();
        let all = self.decided(self.manifests.iter(), rules, zone, crate::clock::now()?);
        let dropped = all.into_iter().filter(|(_, reasons)| reasons.is_empty());
        Ok(dropped.map(|(manifest, _)| id_of(manifest)).filter(|id| forgotten.contains(id)).collect())
    }

    /// Fails if a snapshot that is to be kept by name is not there: the name may be wrong, and another meant.
    fn expect_named(&self, rules: &Rules, forgotten: &HashSet<&str>) -> Result<()> {
        let is_listed = |id: &str| self.files.has(id) && !forgotten.contains(id);
        match rules.ids.iter().find(|id| !is_listed(id)) {
            Some(id) => {
                let message = format!("nothing was forgotten: there is no snapshot {id} to keep");
                Err(Error::new(ErrorKind::NotFound, message))
            }
            None => Ok(()),
        }
    }

    fn decided<'a>(
        &self,
        manifests: impl Iterator<Item = &'a Manifest>,
        rules: &Rules,
        zone: &TimeZone,
        now: Timestamp,
    ) -> Vec<(&'a Manifest, Vec<Reason>)> {
        let manifests: Vec<&Manifest> = manifests.collect();
        let candidates: Vec<Candidate> = manifests.iter().map(|manifest| self.candidate(manifest)).collect();
        let reasons = decide(&candidates, rules, now, zone);
        manifests.into_iter().zip(reasons).collect()
    }
}

fn id_of(manifest: &Manifest) -> &str {
    &manifest.snapshot_id
}

/// What is kept, what is given up, and what becomes of the manifests of that.
#[derive(Default)]
struct Plan<'a> {
    /// Snapshots that stay, with the reasons.
    kept: Vec<(&'a Manifest, Vec<Reason>)>,
    /// Snapshots that are given up now.
    dropped: Vec<&'a Manifest>,
    /// Manifests that stay although their snapshots were given up, now or earlier.
    links: Vec<&'a Manifest>,
    /// Manifests that go, oldest first.
    removed: Vec<&'a Manifest>,
    /// Snapshots of which an earlier run has left something.
    gone: Vec<SnapshotId>,
    warnings: Vec<String>,
}

impl Plan<'_> {
    fn tell(&self) {
        for (manifest, reasons) in &self.kept {
            let (snapshot, why) = (id_of(manifest), shown(reasons).join(", "));
            tracing::debug!(target: "packvault::decision", snapshot, why, "is kept");
        }
        for manifest in &self.dropped {
            tracing::info!(target: "packvault::decision", snapshot = id_of(manifest), "is forgotten");
        }
        tracing::info!(
            target: "packvault::decision",
            kept = self.kept.len(),
            forgotten = self.dropped.len(),
            links = self.links.len(),
            removed = self.removed.len(),
            "what is forgotten is known"
        );
    }

    async fn execute(&mut self, remover: &Remover<'_>, context: &Context) -> Result<()> {
        let steps = self.dropped.len() + self.removed.len();
        context.progress.begin(Stage::Forget, Unit::Steps, Some(steps as u64));
        remover.mark_forgotten(&ids(&self.dropped)?).await?;
        context.progress.advance(Stage::Forget, self.dropped.len() as u64);
        let youngest_first: Vec<&Manifest> = self.removed.iter().rev().copied().collect();
        remover.manifests(&ids(&youngest_first)?).await?;
        // Without its mark, one that is there after all would be shown, and what it is built on is gone.
        let shown = remover.still_shown(&ids(&self.removed)?).await?;
        if let Some(first) = shown.first() {
            self.removed.retain(|manifest| !shown.iter().any(|id| id.as_str() == id_of(manifest)));
            let more = shown.len() - 1;
            self.warnings.push(format!(
                "the store shows the manifest of snapshot {first} (and {more} more) although it was removed; the \
                 next forget looks again"
            ));
        }
        let remains = [ids(&self.removed)?, self.gone.clone()].concat();
        remover.remains(&remains).await?;
        context.progress.advance(Stage::Forget, steps as u64 - self.dropped.len() as u64);
        context.progress.end(Stage::Forget);
        Ok(())
    }

    fn report(self, dry_run: bool) -> ForgetReport {
        let removed: HashSet<&str> = self.removed.iter().map(|manifest| id_of(manifest)).collect();
        let kept = self.kept.iter().map(|(manifest, reasons)| KeptSnapshot {
            id: manifest.snapshot_id.clone(),
            created_at: manifest.created_at.clone(),
            tag: manifest.options.tag.clone(),
            reasons: shown(reasons),
        });
        let forgotten = self.dropped.iter().map(|manifest| ForgottenSnapshot {
            id: manifest.snapshot_id.clone(),
            created_at: manifest.created_at.clone(),
            tag: manifest.options.tag.clone(),
            removed: removed.contains(id_of(manifest)),
        });
        ForgetReport {
            dry_run,
            kept: kept.collect(),
            forgotten: forgotten.collect(),
            manifests_removed: self.removed.len() as u64,
            links: self.links.len() as u64,
            warnings: self.warnings,
        }
    }
}

fn shown(reasons: &[Reason]) -> Vec<String> {
    reasons.iter().map(Reason::to_string).collect()
}

fn ids(manifests: &[&Manifest]) -> Result<Vec<SnapshotId>> {
    let parsed = manifests.iter().map(|manifest| SnapshotId::parse(id_of(manifest)));
    parsed
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| format_error("cannot name a snapshot", error))
}
