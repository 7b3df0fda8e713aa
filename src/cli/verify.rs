//! `packvault verify`: checks what a repository holds.

use std::sync::Arc;

use packvault::engine::Selection;
use packvault::engine::verify::{VerifyOptions, verify};
use packvault::profiles::msgvault::Msgvault;
use packvault::{Error, ErrorKind, Result};

use super::report::Exit;
use super::session::Session;
use super::subject::Subject;
use super::{select, summary};

/// Check that snapshots can be restored
///
/// Every stored byte is read and compared with its hash, once, however many snapshots share it. All problems
/// are reported, each with what it affects; nothing is changed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault verify --repo /mnt/nas/backup      the newest snapshot
  packvault verify --all                       everything
  packvault verify --all --quick               that everything is there, unread
  packvault verify a3d383f8                    one snapshot, as `list` names it
  packvault verify vaultwarden --all           an archive of the configuration

{}", super::exit_codes("  3  problems were found\n")))]
pub struct Arguments {
    /// The archive, a name from the configuration; the snapshot; or both
    ///
    /// Without a snapshot, the newest is taken. It is named by its id, or a beginning of it as `list` shows; or `latest`,
    /// `latest~1` for the one before, a day (2026-11-23: the last of that day, in UTC), or its tag. One word is an
    /// archive if the configuration has one of that name.
    #[arg(value_name = "ARCHIVE] [SNAPSHOT", num_args = 0..=2)]
    words: Vec<String>,
    /// Check every snapshot
    #[arg(long)]
    all: bool,
    /// Check that everything is there, without reading all of it
    ///
    /// Every pack must be there with the length that the index implies; only those that hold page maps, lists and
    /// trees are opened.
    #[arg(long)]
    quick: bool,
    /// Also build the database of every snapshot aside, to see that attachments can be put where it expects
    /// them
    ///
    /// Snapshots with attachments at unusual paths are always checked so; for the others their version says
    /// that all paths are usual.
    #[arg(long, conflicts_with = "quick")]
    paths: bool,
    #[command(flatten)]
    locks: super::ReadLockFlags,
    /// How many cores to use; all by default
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) jobs: Option<u16>,
}

/// Checks and prints every problem.
pub async fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    let subject = Subject::of(session.settings(), &arguments.words)?;
    if arguments.all && subject.snapshot.is_some() {
        return Err(Error::new(ErrorKind::Usage, "a snapshot and --all cannot be asked for together"));
    }
    let explain = |error| subject.explain(session.settings(), error);
    let repository =
        session.repository(subject.archive.as_ref(), arguments.locks.purpose()).await.map_err(explain)?;
    let selection = match &subject.snapshot {
        _ if arguments.all => Selection::All,
        None => Selection::Latest,
        Some(text) => Selection::One(select::snapshot(&repository, text).await.map_err(explain)?),
    };
    let locking = arguments.locks.locking();
    let options = VerifyOptions { quick: arguments.quick, paths: arguments.paths, locking };
    let report =
        verify(&repository, Arc::new(Msgvault), selection, options, &session.context(arguments.jobs)).await?;
    report.warnings.iter().for_each(|sentence| session.warn(sentence));
    if report.ok {
        session.show(&report, summary::verify)?;
        return Ok(Exit::Done);
    }
    session.show_always(&report, summary::verify)?;
    Ok(Exit::Problems)
}
