//! `packvault create`: stores a snapshot of an archive.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use packvault::archive::profile::ExtrasChoice;
use packvault::engine::create::{CreateOptions, create};
use packvault::location::Purpose;
use packvault::{Error, ErrorKind, Result};

use super::application::{Hooks, PausableApplication, Status, Surely};
use super::report::Exit;
use super::session::Session;
use super::settings::{Archive, Settings};
use super::sqlite_archive::SqliteParts;
use super::summary;
use super::text::ByteSize;

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
  packvault create --database app.db --files 'media/**'

{}", super::exit_codes("\
  4  done, but the source itself is damaged: see the warnings
  5  done, but something that was asked for is not in it: see the warnings
")))]
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
    /// --include-config and --include-tokens are refused without it. `allow_plaintext_secrets = true` in the
    /// archive's section says the same.
    #[arg(long)]
    allow_plaintext_secrets: bool,
    /// Go on in a repository that holds another archive, or this one under another name or path
    ///
    /// One repository holds one archive: its newest snapshot is what the next one builds on, and what a restore
    /// brings back.
    #[arg(long)]
    adopt: bool,
    /// How many cores to use; all by default
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) jobs: Option<u16>,
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
    /// Read everything back that the snapshot needs, before it exists
    ///
    /// Takes as long as a verify of the snapshot. Without it, create makes sure that every pack and index is there
    /// with its length.
    #[arg(long, conflicts_with = "dry_run")]
    paranoid: bool,
    /// Say what would be stored, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Have SQLite check the captured database, whatever its size
    ///
    /// By default a foreign database below 1 GB is checked. A damaged one is captured all the same; the exit
    /// code is 4 then, and `list` shows it.
    #[arg(long, overrides_with = "no_check_source")]
    check_source: bool,
    /// Do not check the captured database
    #[arg(long, overrides_with = "check_source")]
    no_check_source: bool,
    /// Give up when the write-ahead log grows by more than this meanwhile
    ///
    /// The log cannot start over while its database is being captured.
    #[arg(long, value_name = "SIZE")]
    max_wal_growth: Option<ByteSize>,
    /// Give up when the writers of the database have been held off for this many seconds
    ///
    /// A database with a rollback journal cannot be written to while its pages are read.
    #[arg(long, value_name = "SECONDS")]
    max_hold: Option<NonZeroU32>,
    /// Back up any SQLite application: its database
    ///
    /// ARCHIVE is then the folder that --files are relative to; without it, the database's folder.
    #[arg(long, value_name = "FILE", help_heading = "Any SQLite application")]
    database: Option<PathBuf>,
    /// Files to take along, as a pattern relative to the archive's home; may be repeated
    ///
    /// `*` stays in a folder, `**` goes deeper. Quote it, or the shell expands it.
    #[arg(long, value_name = "GLOB", requires = "database", help_heading = "Any SQLite application")]
    files: Vec<String>,
    /// Files not to take along; may be repeated
    #[arg(long, value_name = "GLOB", requires = "database", help_heading = "Any SQLite application")]
    exclude: Vec<String>,
}

/// Stores the snapshot and sums it up.
pub async fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    let archive = arguments.archive(session)?;
    arguments.refuse_unwanted_secrets(&archive)?;
    let purpose = if arguments.dry_run { Purpose::Look } else { Purpose::Work };
    let repository = session.repository(Some(&archive), purpose).await?;
    let paths = archive.paths();
    let application = PausableApplication::new(arguments.hooks(&archive), session.cancel().clone());
    let options = CreateOptions { application: application.engaged(), ..arguments.options(&archive) };
    let context = session.context(arguments.jobs);
    session.owe(&application);
    let surely = Surely(application);
    let created = create(&repository, archive.implementation(), &paths, options, &context).await;
    let resumed = surely.0.let_go(&Status::of(&created, |report| report.id.clone()));
    let report = match (created, &resumed) {
        (Ok(report), _) => report,
        (Err(error), Ok(())) => return Err(error),
        (Err(error), Err(failed)) => {
            session.warn(&failed.chain());
            return Err(error);
        }
    };
    let shown = session.show(&report, summary::create);
    report.source_problems.iter().chain(&report.warnings).for_each(|sentence| session.warn(sentence));
    if let Err(failed) = &resumed {
        session.warn(&format!("the snapshot was made, but {}", failed.chain()));
    }
    if let Err(error) = shown {
        let made = report.id.as_deref().map(|id| format!("snapshot {id} was made and is in the repository"));
        return session.unshown(made.as_deref().unwrap_or("the dry run was made"), error);
    }
    // A source that is damaged is the graver of the two; both are said.
    Ok(match report.source_problems.is_empty() {
        // The application may still be paused: graver than a file that is missing.
        true if resumed.is_err() => Exit::Unsaid,
        true if report.complete => Exit::Done,
        true => Exit::Incomplete,
        false => Exit::SourceDamaged,
    })
}

impl Arguments {
    fn archive(&self, session: &Session) -> Result<Archive> {
        let Some(database) = &self.database else { return session.archive(self.archive.as_deref()) };
        let parts = SqliteParts {
            database: database.clone(),
            files: self.files.clone(),
            exclude: self.exclude.clone(),
            ..SqliteParts::default()
        };
        session.settings().described_archive(self.archive.as_deref(), parts)
    }

    /// Returns the programs around the backup, which know the archive by the name the user typed.
    fn hooks(&self, archive: &Archive) -> Hooks {
        let typed = self.archive.as_deref().unwrap_or(&archive.home);
        archive.hooks(typed.display().to_string())
    }

    fn options(&self, archive: &Archive) -> CreateOptions {
        let check_source = match (self.check_source, self.no_check_source) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => archive.check_source(),
        };
        let wal_growth_max = self.max_wal_growth.or(archive.max_wal_growth());
        CreateOptions {
            extras: ExtrasChoice { include_config: self.include_config, include_tokens: self.include_tokens },
            allow_plaintext_secrets: self.allows_plaintext_secrets(archive),
            tag: self.tag.clone(),
            zstd_level: Settings::zstd_level(self.zstd_level, archive),
            force_unlock: self.force_unlock,
            paranoid: self.paranoid,
            dry_run: self.dry_run,
            writer_version: concat!("packvault ", env!("CARGO_PKG_VERSION")).to_owned(),
            check_source,
            wal_growth_bytes_max: wal_growth_max.map(|size| size.0),
            reading: None,
            identity: Some(archive.identity()),
            adopt: self.adopt,
            application: None,
            hold_max: self
                .max_hold
                .or(archive.max_hold())
                .map(|seconds| Duration::from_secs(seconds.get().into())),
        }
    }

    fn allows_plaintext_secrets(&self, archive: &Archive) -> bool {
        self.allow_plaintext_secrets || archive.allows_plaintext_secrets()
    }

    fn refuse_unwanted_secrets(&self, archive: &Archive) -> Result<()> {
        if (self.include_config || self.include_tokens) && !self.allows_plaintext_secrets(archive) {
            let message = "the repository is not encrypted: storing secrets in it takes \
                           --allow-plaintext-secrets, or `allow_plaintext_secrets = true` in the archive's section";
            return Err(Error::new(ErrorKind::Usage, message));
        }
        Ok(())
    }
}
