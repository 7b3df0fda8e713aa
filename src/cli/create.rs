//! `packvault create`: stores a snapshot of an archive.

use std::path::PathBuf;

use packvault::archive::profile::ExtrasChoice;
use packvault::engine::create::{CreateOptions, create};
use packvault::{Error, ErrorKind, Result};

use super::report::Exit;
use super::session::Session;
use super::settings::Settings;
use super::summary;

/// Back up an archive: store a snapshot of it in the repository
///
/// Only what changed since the last snapshot is stored, yet every snapshot is whole. It appears in the
/// repository when all of it is safely there, and not before; an interrupted run leaves nothing behind.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault create --repo /mnt/nas/backup      back up ~/.msgvault
  packvault create mail --tag before-upgrade   an archive from the configuration
  packvault create ~/mail --dry-run            what would be stored

{}", super::exit_codes("  4  done, but the source itself is damaged: see the warnings\n")))]
pub struct Arguments {
    /// The archive: a name from the configuration, or its home folder
    ///
    /// Without it: MSGVAULT_HOME, or ~/.msgvault.
    archive: Option<PathBuf>,
    /// A word to remember the snapshot by
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    tag: String,
    /// Also store the application's configuration file, which may hold secrets
    #[arg(long)]
    include_config: bool,
    /// Also store tokens and client secrets
    #[arg(long)]
    include_tokens: bool,
    /// Store secrets although the repository is not encrypted
    ///
    /// --include-config and --include-tokens are refused without it.
    #[arg(long)]
    allow_plaintext_secrets: bool,
    /// How many cores to use; all by default
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: Option<u16>,
    /// How hard to compress, from 1 (fast) to 19 (small)
    ///
    /// Without it: `zstd_level` of the configuration, then of msgvault's, then 3.
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(i32).range(1..=19))]
    zstd_level: Option<i32>,
    /// Remove the repository's lock first
    ///
    /// Only when the process that holds it is known to be gone for good.
    #[arg(long)]
    force_unlock: bool,
    /// Say what would be stored, and write nothing
    #[arg(long)]
    dry_run: bool,
}

/// Stores the snapshot and sums it up.
pub async fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    arguments.refuse_unwanted_secrets()?;
    let archive = session.archive(arguments.archive.as_deref())?;
    let repository = session.repository(Some(&archive)).await?;
    let paths = archive.paths();
    let options = CreateOptions {
        extras: ExtrasChoice {
            include_config: arguments.include_config,
            include_tokens: arguments.include_tokens,
        },
        allow_plaintext_secrets: arguments.allow_plaintext_secrets,
        tag: arguments.tag.clone(),
        zstd_level: Settings::zstd_level(arguments.zstd_level, &archive),
        force_unlock: arguments.force_unlock,
        dry_run: arguments.dry_run,
        writer_version: concat!("packvault ", env!("CARGO_PKG_VERSION")).to_owned(),
    };
    let profile = archive.profile.implementation();
    let report = create(&repository, profile, &paths, options, &session.context(arguments.jobs)).await?;
    session.show(&report, summary::create)?;
    report.source_problems.iter().for_each(|problem| session.warn(problem));
    Ok(if report.source_problems.is_empty() { Exit::Done } else { Exit::SourceDamaged })
}

impl Arguments {
    fn refuse_unwanted_secrets(&self) -> Result<()> {
        if (self.include_config || self.include_tokens) && !self.allow_plaintext_secrets {
            let message =
                "the repository is not encrypted: storing secrets in it takes --allow-plaintext-secrets";
            return Err(Error::new(ErrorKind::Usage, message));
        }
        Ok(())
    }
}
