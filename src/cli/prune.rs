//! `packvault prune`: frees what no snapshot needs.

use std::str::FromStr;

use packvault::engine::prune::{Limits, Policy, PruneOptions, Unused, prune, reach};
use packvault::engine::report::{PruneReport, ReachReport};
use packvault::format::BlobId;
use packvault::location::Purpose;
use packvault::{Error, ErrorKind, Result};

use super::forget::named_ids;
use super::keep::Keep;
use super::report::Exit;
use super::session::Session;
use super::text::{self, ByteSize};

/// Free what no snapshot needs
///
/// `forget` gives up snapshots, and what only they held stays in packs until it is pruned. Packs of which nothing is
/// needed are removed. Packs of which less than half is needed are repacked, small ones are merged. Everything that
/// a snapshot needs is copied, read back and found again before anything is removed.
///
/// Where the rules of what is kept are known, from here or from the configuration, snapshots that are built on forgotten
/// ones are squashed: they get new page maps, and a new id. The old id goes on working.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault prune --dry-run             what would be freed
  packvault prune mail                  by [archive.mail.keep] of the configuration
  packvault prune --max-unused 5%       repack until at most this much is not needed
  packvault prune --max-repack-bytes 10GiB

{}", super::exit_codes("")))]
pub struct Arguments {
    /// The archive: a name from the configuration, which says where its snapshots are
    archive: Option<String>,
    /// Show what would be freed, and do nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Show which snapshots need a blob, and which packs hold it, and do nothing
    ///
    /// The blob of an attachment or of an extra file is named by the SHA-256 of its content, in 64 hexadecimal digits.
    #[arg(long, value_name = "BLOB", conflicts_with_all = ["dry_run", "max_unused", "max_repack_bytes", "now", "later"])]
    report: Option<String>,
    /// Repack until at most so much that nobody needs is left in packs: 5%, 10GiB or unlimited
    ///
    /// Without it, packs are repacked of which less than half is needed.
    #[arg(long, value_name = "LIMIT")]
    max_unused: Option<UnusedText>,
    /// Copy at most so many bytes into new packs
    #[arg(long, value_name = "SIZE")]
    max_repack_bytes: Option<ByteSize>,
    /// Remove packs at once
    ///
    /// On a server, packs that are out of use are condemned first, and removed by a later run, not before an hour has
    /// passed. On a local disk they are removed at once in any case.
    #[arg(long)]
    now: bool,
    /// Condemn packs first on a local disk too, and leave their removal to a later run
    ///
    /// For a folder that other machines reach as well.
    #[arg(long, conflicts_with = "now")]
    later: bool,
    /// Go on although something that snapshots need is lost
    ///
    /// What is left of them stays. Where it cannot be told what a snapshot needs, nothing is done in any case.
    #[arg(long)]
    despite_damage: bool,
    /// Break the repository's lock even if it looks alive
    ///
    /// For a holder that is gone for good. One that still works would go on writing.
    #[arg(long)]
    force_unlock: bool,
    /// How many cores to use; all by default
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) jobs: Option<u16>,
    // Last, for its heading stands above all options that follow.
    #[command(flatten)]
    keep: Keep,
}

/// How much may stay that nobody needs, as people write it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct UnusedText(Unused);

impl FromStr for UnusedText {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == "unlimited" {
            return Ok(Self(Unused::Unlimited));
        }
        let Some(percent) = text.strip_suffix('%') else {
            return Ok(Self(Unused::Bytes(text.parse::<ByteSize>()?.0)));
        };
        match percent.trim().parse::<f64>() {
            Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Self(Unused::Share(percent / 100.0))),
            _ => Err(format!("{text:?} is no share; write 5%, 10GiB or unlimited")),
        }
    }
}

impl Arguments {
    /// Returns what prunes the repository of an archive of the configuration.
    pub fn of_archive(name: &str) -> Self {
        Self {
            archive: Some(name.to_owned()),
            dry_run: false,
            report: None,
            max_unused: None,
            max_repack_bytes: None,
            now: false,
            later: false,
            despite_damage: false,
            force_unlock: false,
            jobs: None,
            keep: Keep::default(),
        }
    }
}

/// Prunes, and shows what was freed.
pub async fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    if let Some(blob) = &arguments.report {
        return report_on(blob, arguments, session).await;
    }
    let report = prune_step(arguments, session).await?;
    match arguments.dry_run {
        true => session.show_always(&report, shown)?,
        false => {
            if let Err(error) = session.show(&report, shown) {
                return session.unshown(shown(&report).trim_end(), error);
            }
        }
    }
    Ok(Exit::Done)
}

/// Shows who needs a blob.
async fn report_on(blob: &str, arguments: &Arguments, session: &Session) -> Result<Exit> {
    let blob = BlobId::parse(blob).map_err(|error| {
        Error::caused(ErrorKind::Usage, "a blob is named by 64 hexadecimal digits", error)
    })?;
    let named =
        arguments.archive.as_deref().map(|name| session.settings().archive_to_read(name)).transpose()?;
    let repository = session.repository(named.as_ref(), Purpose::Look).await?;
    let report = reach(&repository, blob, &session.context(arguments.jobs)).await?;
    session.show_always(&report, reaching)?;
    Ok(Exit::Done)
}

fn reaching(report: &ReachReport) -> String {
    let mut lines: Vec<String> = Vec::new();
    for snapshot in &report.snapshots {
        let forgotten = if snapshot.forgotten { ", forgotten: others are built on it" } else { "" };
        lines.push(format!("needed by snapshot {}{forgotten}", text::escape(&snapshot.id)));
    }
    for pack in &report.packs {
        let waiting = if pack.indexed { "" } else { ", out of use: a later prune removes it" };
        lines.push(format!("held by pack {}{waiting}", pack.id));
    }
    lines.push(format!(
        "{} need it, {} hold it",
        text::counted(report.snapshots.len() as u64, "snapshot"),
        text::counted(report.packs.len() as u64, "pack")
    ));
    lines.join("\n") + "\n"
}

/// Prunes, and prints nothing but warnings and progress.
pub async fn prune_step(arguments: &Arguments, session: &Session) -> Result<PruneReport> {
    let named =
        arguments.archive.as_deref().map(|name| session.settings().archive_to_read(name)).transpose()?;
    let purpose = if arguments.dry_run { Purpose::Look } else { Purpose::Work };
    if !arguments.dry_run {
        session.expect_removable(named.as_ref())?;
    }
    let is_local = session.location(named.as_ref(), purpose)?.0.is_local();
    let repository = session.repository(named.as_ref(), purpose).await?;
    if !arguments.dry_run && session.misses_a_snapshot() {
        let message = "nothing was pruned: a snapshot that this machine knows is gone, and what it needs may be all that \
                       is left of it";
        return Err(Error::new(ErrorKind::NotTheSame, message));
    }
    let configured = named.as_ref().map(|archive| archive.keep()).unwrap_or_default();
    let keep = arguments.keep.clone().over(configured);
    let policy = Policy { zone: keep.zone()?, rules: keep.rules(named_ids(&repository, &keep).await?) };
    let options = PruneOptions {
        policy: Some(policy),
        limits: Limits {
            unused_max: arguments.max_unused.map(|unused| unused.0),
            repack_bytes_max: arguments.max_repack_bytes.map(|size| size.0),
        },
        now: arguments.now || (is_local && !arguments.later),
        despite_damage: arguments.despite_damage,
        dry_run: arguments.dry_run,
        force_unlock: arguments.force_unlock,
    };
    let report = prune(&repository, &options, &session.context(arguments.jobs)).await?;
    for squashed in &report.squashed {
        if let Some(to) = &squashed.to {
            session.squashed(&squashed.from, to);
        }
    }
    report.warnings.iter().for_each(|sentence| session.warn(sentence));
    Ok(report)
}

/// Returns what was freed, in a line.
pub fn sentence(report: &PruneReport) -> String {
    let removed = text::counted(report.packs.removed, "pack");
    format!("{removed} removed, {} freed", text::size(report.bytes.removed))
}

fn shown(report: &PruneReport) -> String {
    let PruneReport { packs, bytes, indexes, .. } = report;
    let of_packs = |number: u64| text::counted(number, "pack");
    let mut lines = vec![format!(
        "{} in {}, of which {} are needed by {}",
        text::size(bytes.before),
        of_packs(packs.before),
        text::size(bytes.needed),
        text::counted(report.snapshots, "snapshot")
    )];
    let copied = packs.repacked + packs.merged;
    let squashed = report.squashed.len() as u64;
    if squashed + report.manifests_removed > 0 {
        let (would, manifests) = (if report.dry_run { "would be " } else { "" }, report.manifests_removed);
        lines.push(format!(
            "{} {would}squashed, {} {would}removed",
            text::counted(squashed, "snapshot"),
            text::counted(manifests, "manifest")
        ));
    }
    if report.dry_run {
        lines.push(format!(
            "would remove {} that nothing needs, and copy {} of {} into new ones",
            of_packs(packs.unneeded),
            text::size(bytes.repacked),
            of_packs(copied)
        ));
        lines.push(format!(
            "would free {}, and replace {} of {} indexes, with about {} requests",
            text::size(bytes.freed),
            text::count(indexes.removed),
            text::count(indexes.before),
            text::count(report.requests)
        ));
        return lines.join("\n") + "\n";
    }
    if copied > 0 {
        lines.push(format!(
            "{} repacked, {} merged: {} copied into {}",
            of_packs(packs.repacked),
            text::count(packs.merged),
            text::size(bytes.written),
            of_packs(packs.written)
        ));
    }
    lines.push(format!("{} removed, {} freed", of_packs(packs.removed), text::size(bytes.removed)));
    if packs.condemned > 0 {
        let when = report
            .removable_at
            .as_deref()
            .map_or("a later run".to_owned(), |time| format!("a run after {} (UTC)", text::minute(time)));
        lines.push(format!(
            "{} with {} to be removed by {when}",
            of_packs(packs.condemned),
            text::size(bytes.condemned)
        ));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use packvault::engine::report::{PrunedBytes, PrunedIndexes, PrunedPacks};

    use super::*;

    #[test]
    fn what_may_stay_is_a_share_a_size_or_anything() {
        for (text, unused) in [
            ("5%", Unused::Share(0.05)),
            ("0%", Unused::Share(0.0)),
            ("10GiB", Unused::Bytes(10 << 30)),
            ("unlimited", Unused::Unlimited),
        ] {
            assert_eq!(text.parse(), Ok(UnusedText(unused)), "{text}");
        }
        for text in ["", "-1%", "101%", "x%", "many", "NaN%"] {
            assert!(text.parse::<UnusedText>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_summary_says_what_was_freed_and_what_is_still_to_be() {
        let report = PruneReport {
            snapshots: 3,
            packs: PrunedPacks {
                before: 12,
                repacked: 2,
                merged: 8,
                written: 1,
                removed: 1,
                condemned: 9,
                unneeded: 0,
            },
            bytes: PrunedBytes {
                before: 10 << 20,
                needed: 4 << 20,
                written: 1 << 20,
                removed: 2 << 20,
                condemned: 3 << 20,
                ..PrunedBytes::default()
            },
            indexes: PrunedIndexes { before: 12, removed: 10, written: 2 },
            removable_at: Some("2026-11-23T20:45:17Z".into()),
            requests: 40,
            ..PruneReport::default()
        };
        let expected = "\
10.0 MiB in 12 packs, of which 4.0 MiB are needed by 3 snapshots
2 packs repacked, 8 merged: 1.0 MiB copied into 1 pack
1 pack removed, 2.0 MiB freed
9 packs with 3.0 MiB to be removed by a run after 2026-11-23 20:45 (UTC)
";
        assert_eq!(shown(&report), expected);
        let dry = PruneReport { dry_run: true, ..report };
        assert!(shown(&dry).contains("would free 0 B, and replace 10 of 12 indexes, with about 40 requests"));
    }
}
