//! `packvault stats`: shows how large snapshots are and how the repository grew.

use packvault::Result;
use packvault::engine::inside::stats::{SnapshotStats, StatsReport, stats};

use super::report::Exit;
use super::session::Session;
use super::table::{self, Column};
use super::text::{self, count, counted, escape, size};
use super::{select, summary};

/// Show how large the snapshots are, and what the repository takes
///
/// Manifests, indexes and the list of packs tell it; no pack is read.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault stats --repo /mnt/backup
  packvault stats vaultwarden --json

{}", super::exit_codes("  3  a manifest or an index cannot be used\n")))]
pub struct Arguments {
    /// The archive: a name from the configuration, which names its repository
    archive: Option<String>,
    #[command(flatten)]
    locks: super::ReadLockFlags,
}

/// Shows the amounts.
pub async fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    let named =
        arguments.archive.as_deref().map(|name| session.settings().archive_to_read(name)).transpose()?;
    let repository = session.repository(named.as_ref(), arguments.locks.purpose()).await?;
    let report = stats(&repository, arguments.locks.locking(), &session.context(None)).await?;
    session.show_always(&report, shown)?;
    report.warnings.iter().for_each(|sentence| session.warn(sentence));
    let is_damaged =
        report.damaged_indexes > 0 || report.snapshots.iter().any(|snapshot| snapshot.problem.is_some());
    Ok(if is_damaged { Exit::Problems } else { Exit::Done })
}

fn shown(report: &StatsReport) -> String {
    let snapshots = &report.snapshots;
    let ids: Vec<&str> = snapshots.iter().map(|snapshot| snapshot.id.as_str()).collect();
    let cells = |cell: fn(&SnapshotStats) -> Option<String>| {
        snapshots.iter().map(|snapshot| cell(snapshot).unwrap_or_default()).collect()
    };
    let columns = vec![
        Column::of("id", false, select::short(&ids).iter().map(|id| escape(id)).collect()),
        Column::of(
            "date (UTC)",
            false,
            cells(|row| Some(row.created_at.as_deref().map_or_else(|| "damaged".to_owned(), text::minute))),
        ),
        Column::of("database", true, cells(|row| row.database_bytes.map(size))),
        Column::of("attachments", true, cells(|row| row.attachments.map(count))),
        Column::of("size", true, cells(|row| row.attachment_bytes.map(size))),
        Column::of("added", true, cells(|row| row.bytes_added.map(size))),
    ];
    let mut shown = match snapshots.is_empty() {
        true => "no snapshots yet\n".to_owned(),
        false => table::lined_up(columns, snapshots.len()),
    };
    for snapshot in snapshots {
        if let Some(problem) = &snapshot.problem {
            shown.push_str(&format!("problem: snapshot {}: {}\n", escape(&snapshot.id), escape(problem)));
        }
    }
    let all = counted(snapshots.len() as u64, "snapshot");
    summary::part(&mut shown, "copied", &format!("{} in {all}, each whole", size(report.snapshot_bytes)));
    let packs = counted(report.packs, "pack");
    let blobs = counted(report.blobs, "blob");
    summary::part(&mut shown, "stored", &format!("{} in {packs}, {blobs}", size(report.pack_bytes)));
    summary::part(&mut shown, "indexes", &format!("{}, {}", count(report.indexes), size(report.index_bytes)));
    if let Some(saved) = report.saved {
        summary::part(&mut shown, "saved", &format!("{saved:.1} bytes of snapshots for each stored byte"));
    }
    shown
}
