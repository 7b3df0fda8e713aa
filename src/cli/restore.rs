//! `packvault restore`: brings a snapshot back, proved.

use std::path::PathBuf;

use packvault::{Error, ErrorKind, Location, Result};

use super::output::RestoreReport;
use super::report::Exit;
use super::session::{Session, jobs};
use super::settings::Archive;
use super::summary;

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
  packvault restore --target ~/.msgvault --overwrite

{}", super::exit_codes("")))]
pub struct Arguments {
    /// The snapshot: its id, or a beginning of it as `list` shows; the newest by default
    snapshot: Option<String>,
    /// The folder to restore into; made if it is missing
    #[arg(long, value_name = "FOLDER")]
    target: PathBuf,
    /// Restore into a folder that is not empty
    ///
    /// Files of the snapshot replace files of the same name; other files stay.
    #[arg(long)]
    overwrite: bool,
    /// Leave out SQLite's integrity check, which reads the whole database
    #[arg(long)]
    skip_integrity_check: bool,
    /// Leave out parts of the snapshot that packvault cannot restore; the result names them
    #[arg(long)]
    without_auxiliary: bool,
    /// How many cores to use; all by default
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: Option<u16>,
}

/// Restores the snapshot and sums up what was proved.
pub async fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    let location = session.location(None)?;
    // Where archives live that may be in use: none of them may be written to while it is.
    let live = session.settings().known_archives()?;
    let report = bring_back(&location, arguments, &live, session).await?;
    session.show(&report, summary::restore)?;
    Ok(Exit::Done)
}

// engine call
async fn bring_back(
    location: &Location,
    arguments: &Arguments,
    live: &[Archive],
    session: &Session,
) -> Result<RestoreReport> {
    session.cancel().check()?;
    let _ = (&arguments.snapshot, arguments.overwrite, arguments.skip_integrity_check, live);
    let _ = (arguments.without_auxiliary, jobs(arguments.jobs), session.progress());
    let target = arguments.target.display();
    Err(Error::new(
        ErrorKind::Unsupported,
        format!("cannot restore {location} into {target}: not built in yet"),
    ))
}
