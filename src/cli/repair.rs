//! `packvault repair`: makes anew what the rest of a repository says as well.

use packvault::Result;
use packvault::engine::repair::{RepairOptions, repair_config, repair_index};
use packvault::engine::report::{ConfigReport, RepairReport};
use packvault::format::RepoConfig;
use packvault::location::Purpose;
use packvault::repo::config::read;
use packvault::repo::remade::is_mended_here;

use super::door::Door;
use super::report::Exit;
use super::session::Session;
use super::text::{counted, escape};

/// Make indexes or config.toml anew
///
/// What an index says stands in the packs as well, and what config.toml says in the key files. Nothing is deleted: what
/// cannot be read is kept in `damaged/`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault repair index --repo /mnt/backup --dry-run
  packvault repair index --repo /mnt/backup
  packvault repair config --repo /mnt/backup

{}", super::exit_codes("\
  3  a pack cannot be opened
  6  done, but the summary could not be printed
")))]
pub struct Arguments {
    /// What is made anew
    #[arg(value_enum)]
    what: What,
    /// Show what would be done, and change nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Break the repository's lock even if it looks alive
    ///
    /// For a holder that is gone for good. One that still works would go on writing.
    #[arg(long)]
    force_unlock: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// The indexes, from the footers of the packs
    Index,
    /// The config.toml of a repository that has lost it, from its keys
    Config,
}

/// Repairs, and says what.
pub async fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    let purpose = if arguments.dry_run { Purpose::Look } else { Purpose::Work };
    if !arguments.dry_run {
        session.expect_removable(None)?;
    }
    let options = RepairOptions { dry_run: arguments.dry_run, force_unlock: arguments.force_unlock };
    match arguments.what {
        What::Index => index(session, purpose, options).await,
        What::Config => config(session, purpose, options).await,
    }
}

async fn config(session: &Session, purpose: Purpose, options: RepairOptions) -> Result<Exit> {
    let (choice, opening) = session.chosen(None, purpose)?;
    let storage = session.open(&choice.location, &opening).await?;
    let report = match read(storage.as_ref()).await {
        Ok(config) => whole(&config, options),
        Err(error) if is_mended_here(&error) => {
            let repository = Door::of(session, &choice).enter_without_config(storage).await?;
            session.record().opened(&choice.location, &repository);
            repair_config(&repository, options, &session.context(None)).await?
        }
        Err(error) => return Err(error),
    };
    match if options.dry_run { session.show_always(&report, said) } else { session.show(&report, said) } {
        Ok(()) => Ok(Exit::Done),
        Err(error) => session.unshown(said(&report).trim_end(), error),
    }
}

fn whole(config: &RepoConfig, options: RepairOptions) -> ConfigReport {
    ConfigReport {
        dry_run: options.dry_run,
        id: config.repo_id.to_string(),
        encrypted: config.is_encrypted(),
        made: false,
        kept: None,
    }
}

fn said(report: &ConfigReport) -> String {
    if !report.made {
        return "config.toml is there and can be read; nothing was changed\n".to_owned();
    }
    let kind = if report.encrypted { "encrypted" } else { "not encrypted" };
    let done = if report.dry_run { "would be made anew; nothing was changed" } else { "was made anew" };
    let kept = report.kept.as_ref().map(|kept| format!("; what was there is {} now", escape(kept)));
    format!("config.toml of the repository {}, {kind}, {done}{}\n", report.id, kept.unwrap_or_default())
}

async fn index(session: &Session, purpose: Purpose, options: RepairOptions) -> Result<Exit> {
    let repository = session.repository(None, purpose).await?;
    let report = repair_index(&repository, options, &session.context(None)).await?;
    report.warnings.iter().for_each(|sentence| session.warn(sentence));
    let shown = match report.problems.is_empty() && !report.dry_run {
        true => session.show(&report, summary),
        false => session.show_always(&report, summary),
    };
    if let Err(error) = shown {
        return session.unshown(&sentence(&report), error);
    }
    Ok(if report.problems.is_empty() { Exit::Done } else { Exit::Problems })
}

fn summary(report: &RepairReport) -> String {
    let mut lines = String::new();
    for moved in &report.moved {
        let kept = moved.kept.as_ref().map(|kept| format!(": it is {} now", escape(kept)));
        lines.push_str(&format!("damaged: {}{}\n", escape(&moved.object), kept.unwrap_or_default()));
    }
    for problem in &report.problems {
        let named = [&problem.object, &problem.pack];
        let named: Vec<String> = named.into_iter().flatten().map(|name| escape(name)).collect();
        lines.push_str(&format!("cannot be repaired: {}: {}\n", named.join(" "), escape(&problem.detail)));
    }
    format!("{lines}{}\n", sentence(report))
}

fn sentence(report: &RepairReport) -> String {
    let (packs, blobs) = (counted(report.packs, "pack"), counted(report.blobs, "blob"));
    let indexes = counted(report.indexes_written, "new index file");
    match report.dry_run {
        true => format!("{packs} read: {blobs} would be named in {indexes}"),
        false => format!("{packs} read: {blobs} named in {indexes}"),
    }
}
