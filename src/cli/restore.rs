//! `packvault restore`: brings a snapshot back, proved.

use std::path::PathBuf;
use std::sync::Arc;

use packvault::Result;
use packvault::archive::attributes::Owners;
use packvault::engine::Selection;
use packvault::engine::restore::{RestoreOptions, restore};
use packvault::profiles::msgvault::Msgvault;

use super::report::Exit;
use super::session::Session;
use super::settings::{Archive, given};
use super::subject::Subject;
use super::{owner, select, summary};

/// Restore a snapshot into a folder, and prove it
///
/// Everything is written beside its place first and checked there: each database page and each attachment
/// against its hash, the database by SQLite's own integrity check, and the recorded statistics by counting
/// again. Only then it is put in place.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault restore --repo /mnt/nas/backup --target /srv/restored
  packvault restore a3d383f8 --target /srv/restored
  packvault restore vaultwarden --target /srv/restored
  packvault restore --target ~/.msgvault --overwrite

{}", super::exit_codes("")))]
pub struct Arguments {
    /// The archive, a name from the configuration; the snapshot; or both
    ///
    /// Without a snapshot, the newest is taken. It is named by its id, or a beginning of it as `list` shows; or `latest`,
    /// `latest~1` for the one before, a day (2026-11-23: the last of that day, in UTC), or its tag. One word is an
    /// archive if the configuration has one of that name.
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
    /// Restore into the folder of another application, or a snapshot of another archive than the one named
    #[arg(long)]
    adopt: bool,
    /// Restore over a database that another program has open
    ///
    /// That program goes on writing to the file that was there, and what it writes is lost.
    #[arg(long)]
    force: bool,
    /// Leave out SQLite's integrity check, which reads the whole database
    #[arg(long)]
    skip_integrity_check: bool,
    /// Give every restored file this user and group, as names or numbers
    ///
    /// Without it: the owners that were captured, if you are root, else you.
    #[arg(long, value_name = "USER:GROUP", conflicts_with = "no_owner")]
    owner: Option<String>,
    /// Let the restored files belong to whoever runs the restore
    #[arg(long)]
    no_owner: bool,
    /// Do not compute the recorded statistics again: a last resort
    ///
    /// Where the restored database answers otherwise, or cannot answer, the restore refuses without it.
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
    };
    let context = session.context(arguments.jobs);
    let report = restore(&repository, Arc::new(Msgvault), selection, options, &context).await?;
    let shown = session.show(&report, summary::restore);
    report.warnings.iter().for_each(|sentence| session.warn(sentence));
    match shown {
        Ok(()) => Ok(Exit::Done),
        Err(error) => session.unshown(&format!("snapshot {} was restored and is in place", report.id), error),
    }
}

impl Arguments {
    fn owners(&self) -> Result<Owners> {
        match &self.owner {
            Some(text) => owner::parse(text),
            None if self.no_owner => Ok(Owners::Own),
            None => Ok(Owners::Captured),
        }
    }
}
