//! What the demo shows, and in which order.

use std::path::Path;

use packvault::{Error, ErrorKind, Result};
use serde::Deserialize;

use super::shell::Shell;
use crate::cli::select;
use crate::cli::text::{count, counted};

const DATABASE: &str = "msgvault.db";

/// The one field of `list --json` the demo needs.
#[derive(Deserialize)]
struct Snapshot {
    id: String,
}

/// Plays the demo to its end, the proof.
pub fn play(shell: &mut Shell<'_>) -> Result<()> {
    make_archive(shell)?;
    shell.run(&["init", "--repo", "backup"])?;
    shell.run(&["create", "mail", "--repo", "backup", "--tag", "first"])?;
    change_archive(shell)?;
    shell.run(&["create", "mail", "--repo", "backup", "--tag", "second"])?;
    shell.run(&["list", "--repo", "backup"])?;
    shell.run(&["verify", "--all", "--repo", "backup"])?;
    let ids = snapshots(shell)?;
    for (id, target) in ids.iter().zip(["restored-1", "restored-2"]) {
        shell.run(&["restore", id, "--repo", "backup", "--target", target])?;
    }
    shell.note("Is every restored database, byte for byte, what was backed up?")?;
    prove(shell, "restored-1", "copy-1.db")?;
    prove(shell, "restored-2", "copy-2.db")
}

fn make_archive(_: &Shell<'_>) -> Result<()> {
    Err(Error::new(ErrorKind::Unsupported, "cannot make an archive: not built in yet"))
}

fn change_archive(_: &Shell<'_>) -> Result<()> {
    Err(Error::new(ErrorKind::Unsupported, "cannot change the archive: not built in yet"))
}

/// Returns the snapshots, oldest first, as the table names them.
fn snapshots(shell: &Shell<'_>) -> Result<Vec<String>> {
    let json = shell.ask(&["list", "--repo", "backup", "--json"])?;
    let failed = |error| Error::caused(ErrorKind::Damaged, "cannot read the output of `list --json`", error);
    let snapshots: Vec<Snapshot> = serde_json::from_str(&json).map_err(failed)?;
    if snapshots.len() != 2 {
        let message = format!("there are {} and not two", counted(snapshots.len() as u64, "snapshot"));
        return Err(Error::new(ErrorKind::Damaged, message));
    }
    let ids: Vec<&str> = snapshots.iter().map(|snapshot| snapshot.id.as_str()).collect();
    Ok(select::short(&ids))
}

/// Compares a restored database with the copy made at the time of its backup.
fn prove(shell: &Shell<'_>, target: &str, copy: &str) -> Result<()> {
    let restored = read(&shell.path(target).join(DATABASE))?;
    if restored != read(&shell.path(copy))? {
        let message = format!("{target}/{DATABASE} is not what was backed up");
        return Err(Error::new(ErrorKind::Damaged, message));
    }
    shell.note(&format!("{target}: yes, all {} bytes", count(restored.len() as u64)))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| io_error("read", path, error))
}

fn io_error(verb: &str, path: &Path, error: std::io::Error) -> Error {
    Error::caused(ErrorKind::Io, format!("cannot {verb} {}", path.display()), error)
}
