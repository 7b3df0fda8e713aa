//! `packvault restore`: brings a snapshot back, proved.

use std::path::PathBuf;
use std::time::Instant;

use packvault::Result;
use packvault::archive::attributes::Owners;
use packvault::engine::Selection;
use packvault::engine::inside::pattern::Patterns;
use packvault::engine::report::{Check, Proof, RestoreReport};
use packvault::engine::restore::{RestoreOptions, restore};
use packvault::ledger::Drill;
use packvault::profiles;

use super::record::now_ms;
use super::report::Exit;
use super::session::Session;
use super::settings::{Archive, given};
use super::subject::Subject;
use super::{owner, select, summary};

/// Restore a snapshot into a folder, and prove it
///
/// Everything is first written to a temporary folder inside the target and checked there: each database page and
/// each attachment against its hash, the database by SQLite's own integrity check, and the recorded statistics by
/// counting again. Only then is it put in place.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault restore --repo /mnt/backup --target /srv/restored
  packvault restore a3d383f8 --target /srv/restored
  packvault restore vaultwarden --target /srv/restored
  packvault restore --target ~/.msgvault --overwrite
  packvault restore --target /srv/part --only 'deletions/*.json' --only config.json

{}", super::exit_codes("  6  done, but the summary could not be printed\n")))]
pub struct Arguments {
    /// The archive, by its name in the configuration; the snapshot; or both
    ///
    /// Without a snapshot, the newest is taken. These name a snapshot: its id, or the beginning of it that `list`
    /// shows; `latest`, and `latest~1` for the one before; a day, such as 2026-11-23, for the last snapshot of that
    /// day in UTC; its tag. A single word is an archive if the configuration has one of that name.
    #[arg(value_name = "ARCHIVE] [SNAPSHOT", num_args = 0..=2)]
    words: Vec<String>,
    /// The folder to restore into; made if it is missing
    #[arg(long, value_name = "FOLDER")]
    target: PathBuf,
    /// Restore into a folder that is not empty
    ///
    /// Files of the snapshot replace files of the same name; other files stay.
    #[arg(long)]
    overwrite: bool,
    /// Restore only what matches: the database, attachments and files by the names that `ls` shows
    ///
    /// Patterns are those of `find`. May be given several times; each must match something. The result says what was left
    /// out.
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,
    /// Restore into the folder of another application, or the snapshot of another archive than the one you name
    #[arg(long)]
    adopt: bool,
    /// Restore over a database that another program has open
    ///
    /// That program goes on writing to the old file, and what it writes is lost.
    #[arg(long)]
    force: bool,
    /// Do without SQLite's integrity check, which reads the whole database
    #[arg(long, conflicts_with = "integrity_check")]
    skip_integrity_check: bool,
    /// As in msgvault: ask for SQLite's integrity check, which is made anyway
    #[arg(long)]
    integrity_check: bool,
    /// As in msgvault: restore each attachment as a file of its own, which is done anyway
    #[arg(long)]
    loose_attachments: bool,
    /// Give every restored file this user and group, as names or numbers
    ///
    /// Without it, files get the owners that were recorded if root restores them. Else they belong to you.
    #[arg(long, value_name = "USER:GROUP", conflicts_with = "no_owner")]
    owner: Option<String>,
    /// Let the restored files belong to the user who runs the restore
    #[arg(long)]
    no_owner: bool,
    /// Do not compute the recorded statistics again: a last resort
    ///
    /// Without it, the restore refuses when the restored database gives another answer than recorded, or none.
    #[arg(long)]
    skip_stats: bool,
    /// Leave out parts of the snapshot that packvault cannot restore; the result names them
    #[arg(long)]
    without_auxiliary: bool,
    #[command(flatten)]
    locks: super::ReadLockFlags,
    /// How many cores to use; all by default
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) jobs: Option<u16>,
}

/// Restores the snapshot and sums up what was proved.
pub async fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    given::refuse_tilde(&arguments.target, "--target", session.settings().user_home())?;
    if !arguments.only.is_empty() {
        session.record().kind("restore_part");
    }
    let subject = Subject::of(session.settings(), &arguments.words)?;
    let explain = |error| subject.explain(session.settings(), error);
    let repository =
        session.repository(subject.archive.as_ref(), arguments.locks.purpose()).await.map_err(explain)?;
    let selection = match &subject.snapshot {
        None => Selection::Latest,
        Some(text) => Selection::One(select::snapshot(&repository, text).await.map_err(explain)?),
    };
    let options = RestoreOptions {
        target: arguments.target.clone(),
        overwrite: arguments.overwrite,
        skip_integrity_check: arguments.skip_integrity_check,
        skip_stats: arguments.skip_stats,
        without_auxiliary: arguments.without_auxiliary,
        force: arguments.force,
        repository: session.local_repository(subject.archive.as_ref())?,
        // Where archives live that may be in use: none of them may be written to while it is.
        live_homes: session.settings().known_homes(),
        owners: arguments.owners()?,
        archives: session.settings().known_archives(),
        expected: subject.archive.as_ref().map(Archive::identity),
        adopt: arguments.adopt,
        locking: arguments.locks.locking(),
        only: arguments.only()?,
        expects_room: false,
    };
    let context = session.context(arguments.jobs);
    let begun = Instant::now();
    let report = restore(&repository, profiles::unnamed(), selection, options, &context).await?;
    note(&report, begun, session);
    let shown = session.show(&report, summary::restore);
    report.warnings.iter().for_each(|sentence| session.warn(sentence));
    match shown {
        Ok(()) => Ok(Exit::Done),
        Err(error) => {
            let what = if report.part.is_some() { "the part of snapshot" } else { "snapshot" };
            session.unshown(&format!("{what} {} was restored and is in place", report.id), error)
        }
    }
}

/// Has the ledger know what was restored, and whether all of it was proved. A part proves nothing of the snapshot.
fn note(report: &RestoreReport, begun: Instant, session: &Session) {
    session.record().snapshot(&report.id);
    if report.part.is_some() {
        return;
    }
    let Proof { integrity_check, stats, .. } = report.proof;
    let left_out = [(integrity_check, "SQLite's integrity check"), (stats, "the recorded statistics")];
    let skipped = left_out.into_iter().find(|(check, _)| *check == Check::Skipped);
    session.record().drill(Drill {
        snapshot: report.id.clone(),
        archive: None,
        kind: "restore",
        at_ms: now_ms(),
        milliseconds: begun.elapsed().as_millis() as u64,
        bytes: report.bytes,
        problem: skipped.map(|(_, what)| format!("{what} was left out of the proof")),
    });
}

impl Arguments {
    fn only(&self) -> Result<Option<Patterns>> {
        if self.only.is_empty() { Ok(None) } else { Patterns::parse(&self.only, false).map(Some) }
    }

    fn owners(&self) -> Result<Owners> {
        match &self.owner {
            Some(text) => owner::parse(text),
            None if self.no_owner => Ok(Owners::Own),
            None => Ok(Owners::Captured),
        }
    }
}
