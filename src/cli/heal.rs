//! `packvault heal`: brings back from another place what is damaged or lost in a repository.

use std::path::PathBuf;

use packvault::Result;
use packvault::engine::heal::{HealOptions, heal};
use packvault::engine::report::HealReport;
use packvault::location::Purpose;
use packvault::profiles;

use super::report::Exit;
use super::session::Session;
use super::text::{counted, escape};
use super::two_places::{FromKeyFlags, Place, expect_apart};

/// How many healed objects are named; --json names them all.
const NAMED_MAX: usize = 20;

/// Bring back from a copy what is damaged or lost
///
/// Every manifest, note and index is read, and every blob that a snapshot needs. What is damaged is taken from a copy,
/// or from a live archive, and proved before it is put in place. The damaged object is moved to `damaged/`, and nothing
/// is deleted.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault heal --repo disk --from b2 --dry-run
  packvault heal --repo disk --from b2 --attachments mail
  packvault heal --repo disk                    from what the repository holds itself

{}", super::exit_codes("\
  3  something is left that no place it looked at has whole
  6  done, but the summary could not be printed
")))]
pub struct Arguments {
    /// A copy of the repository: a path, a URL, or a name from the configuration
    #[arg(long, value_name = "LOCATION")]
    from: Option<String>,
    /// The live archive, whose attachments have their hashes as names
    #[arg(long, value_name = "ARCHIVE")]
    attachments: Option<PathBuf>,
    /// Show what is damaged, and change nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Break the repository's lock even if it looks alive
    ///
    /// For a holder that is gone for good. One that still works would go on writing.
    #[arg(long)]
    force_unlock: bool,
    /// How many cores to use; all by default
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) jobs: Option<u16>,
    #[command(flatten)]
    keys: FromKeyFlags,
}

/// Heals, and says what.
pub async fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    let purpose = if arguments.dry_run { Purpose::Look } else { Purpose::Work };
    if !arguments.dry_run {
        session.expect_removable(None)?;
    }
    let from = match &arguments.from {
        None => None,
        Some(text) => {
            let keys = arguments.keys.key_flags(session);
            let place = Place::named(session, "--from", text, Purpose::Read, keys)?;
            expect_apart(&place.choice.location, &session.location(None, purpose)?.0)?;
            Some(place.enter(session).await?.0)
        }
    };
    let attachments = match &arguments.attachments {
        None => None,
        Some(given) => Some(session.archive(Some(given))?.paths().content),
    };
    let repository = session.repository(None, purpose).await?;
    let options =
        HealOptions { dry_run: arguments.dry_run, attachments, force_unlock: arguments.force_unlock };
    let context = session.context(arguments.jobs);
    let report = heal(&repository, from.as_ref(), profiles::unnamed(), &options, &context).await?;
    session.record().problems(report.left.len() as u64);
    report.warnings.iter().for_each(|sentence| session.warn(sentence));
    let shown = match report.is_whole() && !report.dry_run {
        true => session.show(&report, summary),
        false => session.show_always(&report, summary),
    };
    if let Err(error) = shown {
        return session.unshown(&sentence(&report), error);
    }
    if !report.is_whole() && from.is_none() {
        session.name_copies();
    }
    Ok(if report.is_whole() { Exit::Done } else { Exit::Problems })
}

fn summary(report: &HealReport) -> String {
    let mut lines = String::new();
    let verb = if report.dry_run { "can be healed" } else { "healed" };
    for healed in report.healed.iter().take(NAMED_MAX) {
        let kept = healed.kept.as_ref().map(|kept| format!("; the damaged one is {}", escape(kept)));
        let (object, from) = (escape(&healed.object), escape(&healed.from));
        lines.push_str(&format!("{verb}: {object}, from {from}{}\n", kept.unwrap_or_default()));
    }
    if let Some(more) = report.healed.len().checked_sub(NAMED_MAX).filter(|more| *more > 0) {
        lines.push_str(&format!("and {} (--json names them all)\n", counted(more as u64, "more object")));
    }
    for problem in &report.left {
        let named = [&problem.snapshot, &problem.object, &problem.blob, &problem.pack];
        let named: Vec<String> = named.into_iter().flatten().map(|name| escape(name)).collect();
        lines.push_str(&format!("damaged: {}: {}\n", named.join(", "), escape(&problem.detail)));
    }
    format!("{lines}{}\n", sentence(report))
}

fn sentence(report: &HealReport) -> String {
    let (healed, left) = (report.healed.len() as u64, report.left.len() as u64);
    match (report.dry_run, healed, left) {
        (_, 0, 0) => format!("nothing is damaged; {} read", counted(report.blobs_read, "blob")),
        (true, ..) => format!("{} damaged or lost; nothing was changed", counted(healed + left, "object")),
        (false, _, 0) => format!("{} healed, nothing is left", counted(healed, "object")),
        (false, ..) => {
            format!(
                "{} healed; {} left that no place it looked at has whole",
                counted(healed, "object"),
                counted(left, "problem")
            )
        }
    }
}
