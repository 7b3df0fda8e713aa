//! `packvault verify`: checks what a repository holds.

use std::path::PathBuf;

use packvault::engine::Selection;
use packvault::engine::report::VerifyReport;
use packvault::engine::verify::{Depth, VerifyOptions, verify_sample};
use packvault::profiles;
use packvault::repo::Repository;
use packvault::{Error, ErrorKind, Result};

use super::report::Exit;
use super::sample::SampleSize;
use super::session::Session;
use super::subject::Subject;
use super::{restore_check, sampled, select, summary};

/// Check that snapshots can be restored
///
/// Every byte that the snapshots need is read once and compared with its hash. Every problem is reported, with the
/// snapshot it affects. Nothing is changed. With --sample, packs are read in turn, a part each time; with
/// --restore-check, snapshots are restored and proved, into a private folder that is removed.
#[derive(Debug, Default, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault verify --repo /mnt/backup          the newest snapshot
  packvault verify --all                       every snapshot
  packvault verify --all --quick               compares indexes and packs, reads no content
  packvault verify a3d383f8                    one snapshot, as `list` names it
  packvault verify vaultwarden --all           an archive of the configuration
  packvault verify mail --sample 5%            a twentieth, what was read longest ago
  packvault verify mail --restore-check        restore the newest, and prove it

{}", super::exit_codes("  3  problems were found\n")))]
pub struct Arguments {
    /// The archive, by its name in the configuration; the snapshot; or both
    ///
    /// Without a snapshot, the newest is taken. These name a snapshot: its id, or the beginning of it that `list`
    /// shows; `latest`, and `latest~1` for the one before; a day, such as 2026-11-23, for the last snapshot of that
    /// day in UTC; its tag. A single word is an archive if the configuration has one of that name.
    #[arg(value_name = "ARCHIVE] [SNAPSHOT", num_args = 0..=2)]
    words: Vec<String>,
    /// Check every snapshot
    #[arg(long)]
    all: bool,
    /// Compare the indexes with the packs, and read what describes the snapshots, but no content
    ///
    /// Every pack that is needed is opened: its footer must hold each blob where the index says. Of a pack its two ends
    /// are read, and besides that only page maps, lists and trees.
    #[arg(long)]
    quick: bool,
    /// Check presence and length of packs only, and read what describes the snapshots
    ///
    /// Every pack must be there with the length that the index implies. Only the packs that hold page maps, lists
    /// and trees are read.
    #[arg(long, conflicts_with = "quick")]
    presence: bool,
    /// Also restore every snapshot's database to a temporary file, to see where it expects its attachments
    ///
    /// A snapshot whose attachments may lie at unusual paths is always checked in this way. The other ones say by
    /// their version that all paths are the usual ones.
    #[arg(long, conflicts_with_all = ["quick", "presence"])]
    paths: bool,
    /// Read a part of the packs: a share of all bytes, such as 5%, or so many, such as 10GiB
    ///
    /// The packs that were looked at longest ago are read, by the ledger of this machine; with 5%, all are read in
    /// twenty runs. Packs in which damage was found are read again each time. Of all snapshots the structure is read,
    /// and of all other packs it is seen that they are there.
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["quick", "presence", "paths", "all"])]
    sample: Option<SampleSize>,
    /// Restore and prove, into a private folder that is removed whatever happens
    ///
    /// All that a restore does and proves is done, and its time measured. How much room it takes is said before it
    /// begins. What a killed check leaves is removed by the next command.
    #[arg(long, conflicts_with_all = ["quick", "presence", "paths", "sample"])]
    restore_check: bool,
    /// With --restore-check: one of the snapshots, by chance
    #[arg(long, requires = "restore_check", conflicts_with = "all")]
    random: bool,
    /// With --restore-check: the folder in which the restored files lie for a while; the spool by default
    #[arg(long, value_name = "FOLDER", requires = "restore_check")]
    scratch: Option<PathBuf>,
    #[command(flatten)]
    locks: super::ReadLockFlags,
    /// How many cores to use; all by default
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) jobs: Option<u16>,
}

/// A repository that was opened for a check, and which of its snapshots are meant.
pub struct Opened {
    /// The repository.
    pub repository: Repository,
    /// The archive that was named.
    pub subject: Subject,
    /// The snapshots.
    pub selection: Selection,
}

/// Checks and prints every problem.
pub async fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    if arguments.restore_check {
        return restore_check::run(arguments, session).await;
    }
    let report = check(arguments, session).await?;
    report.warnings.iter().for_each(|sentence| session.warn(sentence));
    if report.ok {
        session.show(&report, summary::verify)?;
        return Ok(Exit::Done);
    }
    session.show_always(&report, summary::verify)?;
    session.name_copies();
    Ok(Exit::Problems)
}

/// Checks, and prints nothing on standard output.
pub async fn check(arguments: &Arguments, session: &Session) -> Result<VerifyReport> {
    if let Some(size) = arguments.sample {
        session.record().kind("sample");
        return sampled::check(arguments, size, session).await;
    }
    let Opened { repository, selection, .. } = arguments.open(session).await?;
    let context = session.context(arguments.jobs);
    let options = arguments.options();
    let report = verify_sample(&repository, profiles::unnamed(), selection, options, None, &context).await?;
    session.record().problems(report.problems.len() as u64);
    Ok(report)
}

impl Arguments {
    /// Makes the arguments of a sample of an archive of the configuration.
    pub fn sample_of(archive: &str, size: SampleSize) -> Self {
        Self { words: vec![archive.to_owned()], sample: Some(size), ..Self::default() }
    }

    /// Makes the arguments of a restore check of the newest snapshot of an archive of the configuration.
    pub fn restore_check_of(archive: &str) -> Self {
        Self { words: vec![archive.to_owned()], restore_check: true, ..Self::default() }
    }

    /// Returns how the content is checked.
    pub(super) fn options(&self) -> VerifyOptions {
        VerifyOptions { depth: self.depth(), paths: self.paths, locking: self.locks.locking() }
    }

    fn depth(&self) -> Depth {
        match (self.quick, self.presence) {
            (true, _) => Depth::Footers,
            (_, true) => Depth::Presence,
            _ => Depth::Content,
        }
    }

    /// Returns whether one snapshot is taken by chance.
    pub(super) fn is_random(&self) -> bool {
        self.random
    }

    /// Returns where the restored files lie for a while.
    pub(super) fn scratch(&self) -> Option<&PathBuf> {
        self.scratch.as_ref()
    }

    /// Opens the repository that is meant.
    pub(super) async fn open(&self, session: &Session) -> Result<Opened> {
        let subject = Subject::of(session.settings(), &self.words)?;
        let many = [(self.all, "--all"), (self.random, "--random"), (self.sample.is_some(), "--sample")];
        if let Some((_, flag)) = many.iter().find(|(is_set, _)| *is_set && subject.snapshot.is_some()) {
            let message = format!("a snapshot and {flag} cannot be asked for together");
            return Err(Error::new(ErrorKind::Usage, message));
        }
        let explain = |error| subject.explain(session.settings(), error);
        let repository =
            session.repository(subject.archive.as_ref(), self.locks.purpose()).await.map_err(explain)?;
        let selection = match &subject.snapshot {
            _ if self.all || self.sample.is_some() => Selection::All,
            None => Selection::Latest,
            Some(text) => Selection::One(select::snapshot(&repository, text).await.map_err(explain)?),
        };
        Ok(Opened { repository, subject, selection })
    }
}
