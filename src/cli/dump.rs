//! `packvault dump`: writes one file of a snapshot to standard output.

use packvault::engine::inside::dump::{DumpOptions, dump};
use packvault::{Error, ErrorKind, Result};

use super::look::{self, StandardOutput};
use super::report::Exit;
use super::session::Session;

/// Write one file of a snapshot to standard output, without restoring it
///
/// Nothing is written before it was checked: a file as a whole, the database page by page. An attachment is named by its
/// path, as `ls` shows it, by its hash alone, or by the name that msgvault knows it by.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault dump latest deletions/manifest.json --repo /mnt/backup
  packvault dump vaultwarden latest config.json > config.json
  packvault dump a3d383f8 msgvault.db > msgvault.db
  packvault dump mail latest invoice.pdf > invoice.pdf
  packvault dump 0b1f5b2cfa61a5d2e1ce2f1ee3b2b0f0a3e6e5f59d7ed1e0a3c1f5d3c0d5a7e1 > photo.jpg

{}", super::exit_codes("")))]
pub struct Arguments {
    /// The archive, by its name in the configuration; the snapshot, `latest` without one; and the file
    #[arg(value_name = "ARCHIVE] [SNAPSHOT] [PATH", num_args = 1..=3, required = true)]
    words: Vec<String>,
    #[command(flatten)]
    locks: super::ReadLockFlags,
    /// How many cores to use; all by default
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) jobs: Option<u16>,
}

/// Writes the file.
pub async fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    if session.is_json() {
        let message = "dump writes the content of a file, which is no JSON; leave --json out";
        return Err(Error::new(ErrorKind::Usage, message));
    }
    let (subject, path) = look::with_last(session, &arguments.words)?;
    let opened = look::open(session, &subject, arguments.locks).await?;
    let options = DumpOptions { path, locking: arguments.locks.locking() };
    let context = session.context(arguments.jobs);
    let output = StandardOutput::shared();
    let dumped = dump(&opened.repository, opened.selection, &options, &output, &context).await?;
    dumped.warnings.iter().for_each(|sentence| session.warn(sentence));
    Ok(Exit::Done)
}
