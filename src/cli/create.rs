//! `packvault create`: stores a snapshot of an archive.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use packvault::archive::profile::ExtrasChoice;
use packvault::engine::create::{CreateOptions, FileMemoryOptions, REST, create};
use packvault::engine::report::CreateReport;
use packvault::ledger::Sizes;
use packvault::location::Purpose;
use packvault::profiles::sqlite::SqliteKeys;
use packvault::repo::Repository;
use packvault::{Error, ErrorKind, Result};

use super::application::{Hooks, PausableApplication, Status, Surely};
use super::copies;
use super::report::Exit;
use super::session::Session;
use super::settings::{Archive, RereadChoice, Settings};
use super::summary;
use super::text::ByteSize;

/// Back up an archive: store a snapshot of it in the repository
///
/// Only what changed since the last snapshot is stored, and every snapshot can be restored by itself. It appears in
/// the repository when all of it is stored, and not before. After an interrupted run there is no snapshot, and the
/// next run needs no repair.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault create --repo /mnt/backup          back up ~/.msgvault
  packvault create mail --tag before-upgrade   an archive of the configuration
  packvault create ~/mail --dry-run            show what would be stored
  packvault create --database app.db --files 'media/**'

{}", super::exit_codes("\
  4  done, but the source itself is damaged: see the warnings
  5  done, but something that was asked for is not in it: see the warnings
  6  done, but the hook `after` or a copy failed, or the summary could not be printed
")))]
pub struct Arguments {
    /// The archive: a name from the configuration, or its home folder
    ///
    /// Without it: MSGVAULT_HOME, or ~/.msgvault.
    archive: Option<PathBuf>,
    /// A text to find the snapshot by
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
    /// Without it, --include-config and --include-tokens are refused. `allow_plaintext_secrets = true` in the
    /// archive's section of the configuration means the same.
    #[arg(long)]
    allow_plaintext_secrets: bool,
    /// Say in the snapshot that msgvault's database holds the text of documents, if it does
    ///
    /// msgvault reads such snapshots from 0.19.1 on, and restores them only in versions that write them too. packvault
    /// restores them.
    #[arg(long)]
    document_text: bool,
    /// Add to a repository whose snapshots are of another archive, or of this one under another name or path
    ///
    /// One repository is for one archive: a snapshot builds on the one before it, and a restore takes the newest.
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
    /// Remove the locks of other commands first, even fresh ones
    ///
    /// Only when you know that the other commands have ended.
    #[arg(long)]
    force_unlock: bool,
    /// Read back everything that the snapshot needs, before the snapshot appears
    ///
    /// This takes as long as a verify of the snapshot. Without it, create checks presence and length of every pack
    /// and index only.
    #[arg(long, conflicts_with = "dry_run")]
    paranoid: bool,
    /// How many of the files are read that did not change since the last snapshot: a share, all, or none
    ///
    /// A file whose identity, length and times are those of the last create on this machine is not read, but for
    /// one thirtieth in every run, so that each is read within a month. `reread` in the archive's section of the
    /// configuration means the same.
    #[arg(long, value_name = "WHICH")]
    reread: Option<RereadChoice>,
    /// Make no snapshot if nothing changed since the newest one
    ///
    /// The archive is read as always, and compared with the newest snapshot: pages, attachments, files and their modes.
    #[arg(long, conflicts_with = "dry_run")]
    if_changed: bool,
    /// Show what would be stored, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Have SQLite check the captured database, whatever its size
    ///
    /// By default, another application's database is checked if it is smaller than 1 GB, and msgvault's is not. A
    /// damaged database is stored all the same; the exit code is 4 then, and `list` shows it.
    #[arg(long, overrides_with = "no_check_source")]
    check_source: bool,
    /// Do not check the captured database
    #[arg(long, overrides_with = "check_source")]
    no_check_source: bool,
    /// Give up when the database's write-ahead log grows by more than this
    ///
    /// While a database is read, its write-ahead log can only grow.
    #[arg(long, value_name = "SIZE")]
    max_wal_growth: Option<ByteSize>,
    /// Give up when the database could not be written to for this many seconds
    ///
    /// Nobody can write to a database with a rollback journal while its pages are read.
    #[arg(long, value_name = "SECONDS")]
    max_hold: Option<NonZeroU32>,
    /// The database of the application
    ///
    /// ARCHIVE is then the folder that --files are relative to. Without ARCHIVE, it is the database's folder.
    #[arg(long, value_name = "FILE", help_heading = "Any SQLite application")]
    database: Option<PathBuf>,
    /// Files to store too, as a pattern relative to the archive's home; may be repeated
    ///
    /// `*` stands for names in one folder, `**` also for folders below it. Put the pattern in quotes, or the shell
    /// expands it.
    #[arg(long, value_name = "GLOB", requires = "database", help_heading = "Any SQLite application")]
    files: Vec<String>,
    /// Files not to store; may be repeated
    #[arg(long, value_name = "GLOB", requires = "database", help_heading = "Any SQLite application")]
    exclude: Vec<String>,
}

/// A snapshot that was made, and whether the application goes on.
pub struct Made {
    /// What was stored.
    pub report: CreateReport,
    let_go: Result<()>,
    /// What was stored, and where: for the copies that come after.
    archive: Archive,
    repository: Repository,
}

impl Made {
    /// Returns how the command ends.
    pub fn exit(&self) -> Exit {
        // A source that is damaged is the graver of the two; both are said.
        match self.report.source_problems.is_empty() {
            // The application may still be paused: graver than a file that is missing.
            true if self.let_go.is_err() => Exit::Unsaid,
            true if self.report.complete => Exit::Done,
            true => Exit::Incomplete,
            false => Exit::SourceDamaged,
        }
    }

    /// Says what the user should know.
    pub fn warn(&self, session: &Session) {
        let Self { report, let_go, .. } = self;
        report.source_problems.iter().chain(&report.warnings).for_each(|sentence| session.warn(sentence));
        if let Err(failed) = let_go {
            session.warn(&format!("the snapshot was made, but {}", failed.chain()));
        }
    }
}

/// Stores the snapshot and sums it up.
pub async fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    let made = make(arguments, session).await?;
    let report = &made.report;
    let shown = session.show(report, summary::create);
    made.warn(session);
    let copied = match arguments.dry_run {
        true => Vec::new(),
        false => copies::copy_to_all(&made.archive, &made.repository, session, arguments.jobs).await,
    };
    let lacks_a_copy = copies::warn(&copied, session);
    if let Err(error) = shown {
        let made = report.id.as_deref().map(|id| format!("snapshot {id} was made and is in the repository"));
        return session.unshown(made.as_deref().unwrap_or("the dry run was made"), error);
    }
    Ok(match made.exit() {
        Exit::Done | Exit::Incomplete if lacks_a_copy => Exit::Unsaid,
        exit => exit,
    })
}

/// Stores the snapshot. Nothing is written to standard output.
pub async fn make(arguments: &Arguments, session: &Session) -> Result<Made> {
    let archive = arguments.archive(session)?;
    let purpose = if arguments.dry_run { Purpose::Look } else { Purpose::Work };
    let repository = session.repository(Some(&archive), purpose).await?;
    arguments.refuse_unwanted_secrets(&archive, repository.sealing().is_encrypted())?;
    let paths = archive.paths();
    let application = PausableApplication::new(arguments.hooks(&archive), session.cancel().clone());
    let file_memory = arguments.file_memory(&archive, session);
    let options =
        CreateOptions { application: application.engaged(), file_memory, ..arguments.options(&archive) };
    let context = session.context(arguments.jobs);
    session.owe(&application);
    let surely = Surely(application);
    let created = create(&repository, archive.profile(), &paths, options, &context).await;
    let resumed = surely.0.let_go(&Status::of(&created, |report| report.id.clone()));
    let report = match (created, &resumed) {
        (Ok(report), _) => report,
        (Err(error), Ok(())) => return Err(error),
        (Err(error), Err(failed)) => {
            session.warn(&failed.chain());
            return Err(error);
        }
    };
    if let Some(id) = &report.id {
        session.made(id);
    }
    note(&report, session);
    Ok(Made { report, let_go: resumed, archive, repository })
}

/// Has the ledger know what was stored.
fn note(report: &CreateReport, session: &Session) {
    let record = session.record();
    record.problems(report.source_problems.len() as u64);
    if report.id.is_some() {
        record.stored(report.bytes_added);
        record.sizes(Sizes {
            database_bytes: report.database.bytes,
            attachment_bytes: report.attachments.bytes,
            added_bytes: report.bytes_added,
        });
    }
}

impl Arguments {
    fn archive(&self, session: &Session) -> Result<Archive> {
        let Some(database) = &self.database else { return session.archive(self.archive.as_deref()) };
        let keys = SqliteKeys {
            database: Some(database.clone()),
            files: self.files.clone(),
            exclude: self.exclude.clone(),
            ..SqliteKeys::default()
        };
        session.settings().described_archive(self.archive.as_deref(), keys)
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
            document_text: self.document_text,
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
            file_memory: None,
            only_if_changed: self.if_changed,
            hold_max: self
                .max_hold
                .or(archive.max_hold())
                .map(|seconds| Duration::from_secs(seconds.get().into())),
        }
    }

    /// Returns what is remembered of files; nothing where this user has no folder for it.
    fn file_memory(&self, archive: &Archive, session: &Session) -> Option<FileMemoryOptions> {
        let reread = self.reread.or(archive.reread()).unwrap_or_default().into();
        let folder = session.settings().file_memory().filter(|_| session.uses_cache())?;
        Some(FileMemoryOptions { folder, reread, rest: REST })
    }

    fn allows_plaintext_secrets(&self, archive: &Archive) -> bool {
        self.allow_plaintext_secrets || archive.allows_plaintext_secrets()
    }

    fn refuse_unwanted_secrets(&self, archive: &Archive, is_encrypted: bool) -> Result<()> {
        let wants_secrets = self.include_config || self.include_tokens;
        if wants_secrets && !is_encrypted && !self.allows_plaintext_secrets(archive) {
            let message = "the repository is not encrypted: storing secrets in it takes \
                           --allow-plaintext-secrets, or `allow_plaintext_secrets = true` in the archive's section";
            return Err(Error::new(ErrorKind::Usage, message));
        }
        Ok(())
    }
}
