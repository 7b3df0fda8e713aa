//! `packvault forget`: gives up the snapshots that no rule keeps.

use std::collections::BTreeSet;

use packvault::Result;
use packvault::engine::forget::{ForgetOptions, forget};
use packvault::engine::report::ForgetReport;
use packvault::location::Purpose;
use packvault::repo::Repository;

use super::keep::Keep;
use super::report::Exit;
use super::session::Session;
use super::table::{self, Column};
use super::text::{self, escape};
use super::{select, table::TAG_COLUMNS_MAX};

/// Give up the snapshots that no rule keeps
///
/// The rules mean what they mean in restic; a snapshot that any of them keeps stays. Whatever they say, the last
/// snapshot stays, the newest whose source was healthy, and every one whose time cannot be right. Without a rule,
/// here or in the configuration, nothing is done. A forgotten snapshot is not shown any more, and cannot be brought
/// back; where later ones are built on it, its manifest stays for them.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault forget --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --dry-run
  packvault forget mail          by [archive.mail.keep] of the configuration
  packvault forget mail --keep-within 14d --keep-tag before-upgrade

{}", super::exit_codes("")))]
pub struct Arguments {
    /// The archive: a name from the configuration, which says where its snapshots are and what is kept
    archive: Option<String>,
    /// Show what would be kept and why, and do nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// With --dry-run, draw what would be kept: a line for each month, a column for each day
    #[arg(long, requires = "dry_run")]
    chart: bool,
    /// Break the repository's lock even if it looks alive
    ///
    /// For a holder that is gone for good. One that still works would go on writing.
    #[arg(long)]
    force_unlock: bool,
    // Last, for its heading stands above all options that follow.
    #[command(flatten)]
    keep: Keep,
}

/// Forgets, and shows what was kept and why.
pub async fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    let report = give_up(arguments, session).await?;
    match arguments.dry_run {
        true if arguments.chart => session.show_always(&report, super::chart::of)?,
        true => session.show_always(&report, shown)?,
        false => {
            if let Err(error) = session.show(&report, shown) {
                return session.unshown(&sentence(&report), error);
            }
        }
    }
    Ok(Exit::Done)
}

/// Forgets. Nothing is written to standard output.
pub async fn give_up(arguments: &Arguments, session: &Session) -> Result<ForgetReport> {
    let named =
        arguments.archive.as_deref().map(|name| session.settings().archive_to_read(name)).transpose()?;
    let configured = named.as_ref().map(|archive| archive.keep()).unwrap_or_default();
    let keep = arguments.keep.clone().over(configured);
    let zone = keep.zone()?;
    let purpose = if arguments.dry_run { Purpose::Look } else { Purpose::Work };
    if !arguments.dry_run {
        session.expect_removable(named.as_ref())?;
    }
    let repository = session.repository(named.as_ref(), purpose).await?;
    let options = ForgetOptions {
        rules: keep.rules(named_ids(&repository, &keep).await?),
        zone,
        dry_run: arguments.dry_run,
        force_unlock: arguments.force_unlock,
    };
    let report = forget(&repository, &options, &session.context(None)).await?;
    report.warnings.iter().for_each(|sentence| session.warn(sentence));
    Ok(report)
}

/// Returns the ids of the snapshots that the user wants kept.
pub async fn named_ids(repository: &Repository, keep: &Keep) -> Result<BTreeSet<String>> {
    let mut ids = BTreeSet::new();
    for text in keep.ids() {
        ids.insert(select::snapshot(repository, text).await?.to_string());
    }
    Ok(ids)
}

/// One line of the table.
struct Line<'a> {
    id: &'a str,
    created_at: &'a str,
    tag: &'a str,
    what: &'static str,
    why: String,
}

fn shown(report: &ForgetReport) -> String {
    let kept = report.kept.iter().map(|snapshot| Line {
        id: &snapshot.id,
        created_at: &snapshot.created_at,
        tag: &snapshot.tag,
        what: "keep",
        why: snapshot.reasons.join(", "),
    });
    let forgotten = report.forgotten.iter().map(|snapshot| Line {
        id: &snapshot.id,
        created_at: &snapshot.created_at,
        tag: &snapshot.tag,
        what: "forget",
        why: if snapshot.removed { String::new() } else { "later ones are built on it".to_owned() },
    });
    let mut lines: Vec<Line<'_>> = kept.chain(forgotten).collect();
    if lines.is_empty() {
        return "no snapshots yet\n".to_owned();
    }
    lines.sort_by_key(|line| line.id);
    let ids: Vec<&str> = lines.iter().map(|line| line.id).collect();
    let cells = |cell: fn(&Line<'_>) -> String| lines.iter().map(cell).collect::<Vec<_>>();
    let columns = vec![
        Column::of("id", false, select::short(&ids).iter().map(|id| escape(id)).collect()),
        Column::of("date (UTC)", false, cells(|line| text::minute(line.created_at))),
        Column::of("tag", false, cells(|line| text::cut(&escape(line.tag), TAG_COLUMNS_MAX))),
        Column::of("", false, cells(|line| line.what.to_owned())),
        Column::of("why", false, cells(|line| escape(&line.why))),
    ];
    format!("{}{}\n", table::lined_up(columns, lines.len()), sentence(report))
}

/// Returns what was done, in a line.
pub fn sentence(report: &ForgetReport) -> String {
    let (kept, forgotten) = (report.kept.len() as u64, report.forgotten.len() as u64);
    let (kept, forgotten) = (text::counted(kept, "snapshot"), text::count(forgotten));
    if report.dry_run {
        return format!("{kept} would be kept, {forgotten} forgotten");
    }
    let removed = text::counted(report.manifests_removed, "manifest");
    let links = match report.links {
        0 => String::new(),
        links => format!(", {} of forgotten snapshots stay because later ones need them", text::count(links)),
    };
    format!("{kept} kept, {forgotten} forgotten; {removed} removed{links}")
}

#[cfg(test)]
mod tests {
    use packvault::engine::report::{ForgottenSnapshot, KeptSnapshot};

    use super::*;

    #[test]
    fn the_table_says_what_is_kept_and_why() {
        let forgotten = |id: &str, removed| ForgottenSnapshot {
            id: id.into(),
            created_at: "2026-11-22T20:45:17Z".into(),
            tag: String::new(),
            removed,
        };
        let report = ForgetReport {
            dry_run: false,
            kept: vec![KeptSnapshot {
                id: "20261123T204517Z-a3d383f8".into(),
                created_at: "2026-11-23T20:45:17Z".into(),
                tag: "x\x1b".into(),
                reasons: vec!["daily".into(), "the last".into()],
            }],
            forgotten: vec![
                forgotten("20261122T204517Z-b3d383f8", false),
                forgotten("20261121T204517Z-c3d383f8", true),
            ],
            manifests_removed: 1,
            links: 1,
            warnings: Vec::new(),
        };
        let expected = "\
id        date (UTC)        tag              why
c3d383f8  2026-11-22 20:45           forget
b3d383f8  2026-11-22 20:45           forget  later ones are built on it
a3d383f8  2026-11-23 20:45  x\\u{1b}  keep    daily, the last
1 snapshot kept, 2 forgotten; 1 manifest removed, 1 of forgotten snapshots stay because later ones need them
";
        assert_eq!(shown(&report), expected);
        let dry = ForgetReport { dry_run: true, ..report };
        assert!(shown(&dry).ends_with("\n1 snapshot would be kept, 2 forgotten\n"));
    }
}
