//! `packvault copy`: brings snapshots from one repository to another.

use packvault::engine::copy::{CopyOptions, copy};
use packvault::engine::report::CopyReport;
use packvault::ledger::PlaceKey;
use packvault::location::Purpose;
use packvault::profiles;
use packvault::repo::Repository;
use packvault::{Error, ErrorKind, Result};

use super::door::Known;
use super::init::{self, NewRepository};
use super::report::Exit;
use super::session::Session;
use super::text::{self, counted, escape, size};
use super::two_places::{FromKeyFlags, Place, expect_apart};
use super::{select, terminal};

/// Copy snapshots to another repository
///
/// Either may lie anywhere, and be encrypted or not. Packs are copied whole, under their ids, and every byte is checked
/// on the way: a copy never carries damage on. Only what is missing travels, so an interrupted copy goes on where it
/// was. Snapshots have the same ids in every copy.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault copy --from disk --to b2                every snapshot
  packvault copy --from disk --to b2 latest         the newest, and those it is built on
  packvault copy --from disk --to b2 --dry-run      what would travel
  packvault copy --from /mnt/backup --to sftp://nas/backup --encrypt

{}", super::exit_codes("\
  3  something in the source, or in the target, is damaged: the rest was copied
  6  done, but the summary could not be printed
")))]
pub struct Arguments {
    /// The snapshots to copy: an id or the beginning of one, `latest`, a day, a tag
    ///
    /// Without any, every snapshot is copied. Those that a snapshot is built on come along.
    #[arg(value_name = "SNAPSHOT", conflicts_with = "all")]
    snapshots: Vec<String>,
    /// The repository to copy from: a path, a URL, or a name from the configuration
    #[arg(long, value_name = "LOCATION")]
    from: String,
    /// The repository to copy to
    #[arg(long, value_name = "LOCATION")]
    to: String,
    /// Copy every snapshot, as without a SNAPSHOT
    #[arg(long)]
    all: bool,
    /// Show what would be copied, and write nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Also forget in the target what the source does not list any more
    ///
    /// Snapshots that are newer than the newest of the source stay.
    #[arg(long, conflicts_with = "snapshots")]
    mirror: bool,
    /// Copy although the target holds snapshots of another archive
    #[arg(long)]
    adopt: bool,
    /// Break the target's lock even if it looks alive
    ///
    /// For a holder that is gone for good. One that still works would go on writing.
    #[arg(long)]
    force_unlock: bool,
    /// Take no lock in the source, and ignore the locks of others there
    ///
    /// Where the source cannot be written to, no lock is taken in any case.
    #[arg(long)]
    no_lock: bool,
    /// How many cores to use; all by default
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) jobs: Option<u16>,
    #[command(flatten)]
    new: NewRepository,
    #[command(flatten)]
    keys: FromKeyFlags,
}

/// Copies, and says what.
pub async fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    session.refuse_repo_flag("--from and --to name the repositories of a copy")?;
    arguments.new.check(session)?;
    let reading = if arguments.no_lock { Purpose::Look } else { Purpose::Read };
    let from = Place::named(session, "--from", &arguments.from, reading, arguments.keys.key_flags(session))?;
    let writing = if arguments.dry_run { Purpose::Look } else { Purpose::Work };
    let to = Place::named(session, "--to", &arguments.to, writing, session.key_flags().clone())?;
    expect_apart(&from.choice.location, &to.choice.location)?;
    if arguments.mirror && !arguments.dry_run {
        session.expect_removable_at(&to.choice)?;
    }
    let (source, seen) = from.enter(session).await?;
    if arguments.mirror && !arguments.dry_run && seen.misses_a_snapshot() {
        let message = "--mirror: a snapshot of the source that this machine knows is gone: nothing was copied or forgotten";
        return Err(Error::new(ErrorKind::NotTheSame, message));
    }
    let mut snapshots = Vec::new();
    for text in &arguments.snapshots {
        snapshots.push(select::snapshot(&source, text).await?);
    }
    let (target, mut known) = arguments.target(&to, session).await?;
    let options = CopyOptions {
        snapshots,
        dry_run: arguments.dry_run,
        mirror: arguments.mirror,
        adopt: arguments.adopt,
        locking: packvault::engine::ReadLocking { force_unlock: false, without_lock: arguments.no_lock },
        force_unlock: arguments.force_unlock,
    };
    let context = session.context(arguments.jobs);
    let report = copy(&source, &target, profiles::unnamed(), &options, &context).await?;
    if !report.dry_run {
        report.copied.iter().for_each(|copied| known.saw(&copied.id));
        let (record, repository) = (session.record(), source.config().repo_id.to_string());
        record.place_is(&to.choice.location);
        record.stored(report.bytes_written);
        let place = from.choice.location.settled_place();
        let key = PlaceKey { place, repository: Some(repository) };
        report.copied.iter().for_each(|copied| record.copied(Some(key.clone()), &copied.id));
    }
    session.record().problems(report.problems.len() as u64);
    report.warnings.iter().for_each(|sentence| session.warn(sentence));
    let shown = match report.dry_run || !report.is_whole() {
        true => session.show_always(&report, summary),
        false => session.show(&report, summary),
    };
    if let Err(error) = shown {
        return session.unshown(&sentence(&report), error);
    }
    Ok(if report.is_whole() { Exit::Done } else { Exit::Problems })
}

impl Arguments {
    /// Opens the target; makes it where there is none and somebody has said what it is to be.
    async fn target(&self, to: &Place, session: &Session) -> Result<(Repository, Known)> {
        let missing = match to.enter(session).await {
            Err(error) if error.kind() == ErrorKind::NoRepository && !self.dry_run => error,
            Ok(_) if self.new.is_decided() => {
                let message = format!(
                    "there is a repository at {} already, and it stays as it is: leave --encrypt and --plaintext out",
                    to.choice.location
                );
                return Err(Error::new(ErrorKind::Usage, message));
            }
            entered => return entered,
        };
        if !self.new.is_decided() && !terminal::is_there() {
            let message = format!(
                "there is no repository at {}: say --encrypt or --plaintext to make one",
                to.choice.location
            );
            return Err(Error::caused(ErrorKind::NoRepository, message, missing));
        }
        init::make_beside(&self.new, session, to).await?;
        to.enter(session).await
    }
}

/// Returns what was copied, as a person reads it.
fn summary(report: &CopyReport) -> String {
    let mut lines = String::new();
    for found in &report.problems {
        let named =
            [&found.problem.snapshot, &found.problem.object, &found.problem.blob, &found.problem.pack];
        let named: Vec<String> = named.into_iter().flatten().map(|name| escape(name)).collect();
        let (place, detail) = (escape(&found.place), escape(&found.problem.detail));
        lines.push_str(&format!("{place}: {}: {detail}\n", named.join(", ")));
    }
    for id in &report.not_copied {
        lines.push_str(&format!("not copied: {}\n", escape(id)));
    }
    format!("{lines}{}\n", sentence(report))
}

fn sentence(report: &CopyReport) -> String {
    let snapshots = counted(report.copied.len() as u64, "snapshot");
    let (packs, bytes) = (counted(report.packs_written, "pack"), size(report.bytes_written));
    let there = match report.there {
        0 => String::new(),
        there => format!("; {} there already", text::count(there)),
    };
    if report.dry_run {
        return format!("{snapshots} would be copied: {packs}, {bytes}{there}");
    }
    let forgotten = match report.forgotten.len() as u64 {
        0 => String::new(),
        forgotten => format!("; {} forgotten in the target", text::count(forgotten)),
    };
    format!("{snapshots} copied: {packs}, {bytes}{there}{forgotten}")
}
