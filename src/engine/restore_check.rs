//! The restore check: everything that a restore does and proves, into a private folder that is removed.
//!
//! It is the restore itself, so that what is shown is what will happen on the day it matters; its time is measured. How
//! much room it takes is said before it begins, and where there is not as much, nothing is begun. A snapshot that cannot
//! be restored is a problem, and the next is tried; what says nothing about the snapshot (no room, no answer, no
//! permission) ends the check.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::list::list;
use super::report::{CheckedRestore, ProblemKind, RestoreCheckReport};
use super::restore::{RestoreOptions, restore};
use super::{Context, ReadLocking, Selection};
use crate::archive::attributes::Owners;
use crate::archive::drill::DrillFolder;
use crate::archive::profile::Profile;
use crate::archive::target::LiveHome;
use crate::format::SnapshotId;
use crate::repo::Repository;
use crate::{Error, ErrorKind, Result};

/// Which snapshots are restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chosen {
    /// The newest.
    Latest,
    /// The one with this id.
    One(SnapshotId),
    /// Every one that was not forgotten.
    All,
    /// One of these, by chance.
    Random,
}

/// What a restore check is asked for.
#[derive(Debug, Clone)]
pub struct RestoreCheckOptions {
    /// The folder below which the restored files lie for a while.
    pub scratch: PathBuf,
    /// Where it is marked that something lies there, for whoever comes after a kill.
    pub marks: Option<PathBuf>,
    /// Which snapshots.
    pub chosen: Chosen,
    /// The repository, if it is a folder of this machine: nothing is restored into it.
    pub repository: Option<PathBuf>,
    /// The homes of this machine's own archives: nothing is restored into them.
    pub live_homes: Vec<LiveHome>,
    /// How others are kept from removing what is read.
    pub locking: ReadLocking,
}

/// Restores the chosen snapshots one after the other, and removes each before the next. Problems are part of the report;
/// an error means that nothing is known of the rest.
///
/// `done` is told of each snapshot as soon as it is known, so that what was shown is kept if the next cannot be tried.
pub async fn restore_check(
    repository: &Repository,
    profile: Arc<dyn Profile>,
    options: &RestoreCheckOptions,
    context: &Context,
    done: impl Fn(&CheckedRestore),
) -> Result<RestoreCheckReport> {
    // What is judged is what the store holds, not what was copied from it.
    let repository = &repository.uncached();
    let begun = Instant::now();
    let mut report =
        RestoreCheckReport { scratch: options.scratch.display().to_string(), ..Default::default() };
    for selection in chosen(repository, &options.chosen, &mut report).await? {
        context.cancel.check()?;
        let checked = one(repository, &profile, selection, options, context).await?;
        report.warnings.extend(checked.1);
        done(&checked.0);
        report.snapshots.push(checked.0);
    }
    report.snapshots.iter().for_each(|snapshot| report.bytes += snapshot.bytes);
    report.seconds = begun.elapsed().as_secs_f64();
    report.ok = report.snapshots.iter().all(|snapshot| snapshot.problem.is_none());
    Ok(report)
}

/// Returns what is to be restored; a manifest that cannot be used is a problem of its own.
async fn chosen(
    repository: &Repository,
    chosen: &Chosen,
    report: &mut RestoreCheckReport,
) -> Result<Vec<Selection>> {
    if let Chosen::One(id) = chosen {
        return Ok(vec![Selection::One(id.clone())]);
    }
    if *chosen == Chosen::Latest {
        return Ok(vec![Selection::Latest]);
    }
    let rows = list(repository).await?;
    if rows.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "the repository holds no snapshot to restore"));
    }
    if let Some(row) = rows.iter().find(|row| row.problem_kind == Some(ProblemKind::NotPermitted)) {
        let why = row.problem.as_deref().unwrap_or_default();
        return Err(Error::new(ErrorKind::NotPermitted, format!("cannot read snapshot {}: {why}", row.id)));
    }
    let (sound, damaged): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.problem.is_none());
    if *chosen == Chosen::All || sound.is_empty() {
        report.snapshots.extend(damaged.into_iter().map(|row| CheckedRestore {
            id: row.id,
            problem: row.problem,
            problem_kind: row.problem_kind,
            ..CheckedRestore::default()
        }));
    }
    let ids: Vec<SnapshotId> =
        sound.iter().map(|row| SnapshotId::parse(&row.id)).collect::<std::result::Result<_, _>>().map_err(
            |error| Error::caused(ErrorKind::Damaged, "cannot read the name of a snapshot", error),
        )?;
    Ok(match *chosen == Chosen::All {
        true => ids.into_iter().map(Selection::One).collect(),
        false => by_chance(&ids)?.cloned().map(Selection::One).into_iter().collect(),
    })
}

fn by_chance<T>(all: &[T]) -> Result<Option<&T>> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Error::caused(ErrorKind::Io, "cannot choose a snapshot by chance", error))?;
    let number = u64::from_ne_bytes(bytes) as usize;
    Ok(number.checked_rem(all.len()).and_then(|index| all.get(index)))
}

/// Restores one snapshot, and removes it.
async fn one(
    repository: &Repository,
    profile: &Arc<dyn Profile>,
    selection: Selection,
    options: &RestoreCheckOptions,
    context: &Context,
) -> Result<(CheckedRestore, Vec<String>)> {
    let folder = DrillFolder::make(&options.scratch, options.marks.as_deref())?;
    let id = match &selection {
        Selection::One(id) => id.to_string(),
        // Known before, so that a problem of it has a name.
        Selection::Latest | Selection::All => newest(repository).await?,
    };
    let asked = RestoreOptions {
        target: folder.target(),
        repository: options.repository.clone(),
        live_homes: options.live_homes.clone(),
        owners: Owners::Own,
        adopt: true,
        expects_room: true,
        locking: options.locking,
        ..RestoreOptions::default()
    };
    let begun = Instant::now();
    let one =
        Selection::One(SnapshotId::parse(&id).map_err(|error| {
            Error::caused(ErrorKind::Damaged, "cannot read the name of a snapshot", error)
        })?);
    let restored = restore(repository, profile.clone(), one, asked, context).await;
    let seconds = begun.elapsed().as_secs_f64();
    let removed = folder.remove();
    let mut checked = CheckedRestore { id, seconds, ..CheckedRestore::default() };
    let mut warnings = Vec::new();
    match restored {
        Ok(report) => {
            checked.bytes = report.bytes;
            checked.database_bytes = report.database.map_or(0, |database| database.bytes);
            checked.attachments = report.attachments.files;
            checked.extras = report.extras;
            checked.proof = Some(report.proof);
            warnings = report.warnings;
        }
        Err(error) if is_a_finding(&error) => {
            checked.problem_kind = Some(ProblemKind::of(&error));
            checked.problem = Some(error.chain());
        }
        Err(error) => return Err(error),
    }
    // Plain text that stays is worth an error, and no less than what was shown.
    removed.map(|()| (checked, warnings))
}

async fn newest(repository: &Repository) -> Result<String> {
    let files = repository.list_snapshots().await?;
    files.listed().next_back().map(str::to_owned).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "the repository holds no snapshot; there is nothing to restore")
    })
}

/// Tells what an error says of the snapshot from what it says of this machine or the line.
fn is_a_finding(error: &Error) -> bool {
    // What the proof finds has no cause but itself; a database that cannot be opened has.
    let is_disproved = error.kind() == ErrorKind::Source && std::error::Error::source(error).is_none();
    let is_of_the_snapshot =
        is_disproved || matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Unsupported);
    is_of_the_snapshot && !error.is_no_finding() && error.obstacle().is_none()
}

/// Refuses to begin where the disk of a folder has less room than a restore is expected to need, and says both.
pub(super) fn expect_room(target: &Path, needed: u64, context: &Context) -> Result<()> {
    let folder = target.parent().unwrap_or(target);
    let found = rustix::fs::statvfs(folder).map_err(|errno| {
        let message = format!("cannot ask how much room is left in {}", folder.display());
        Error::caused(ErrorKind::Io, message, std::io::Error::from(errno))
    })?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let shown = folder.parent().unwrap_or(folder).display();
    if free < needed {
        let message = format!(
            "no room in {shown}: the restore check needs about {needed} bytes there, and {free} are free; --scratch names \
             another folder"
        );
        return Err(Error::new(ErrorKind::Refused, message).lacking_room());
    }
    context
        .progress
        .remark(&format!("the restore check needs about {needed} bytes in {shown}, where {free} are free"));
    Ok(())
}
