//! What the demo shows, and in which order.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use packvault::repo::keys;
use packvault::{Error, ErrorKind, Result};
use packvault_sample::{self as sample, Change, SampleOptions};
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
pub fn play(shell: &mut Shell<'_>, encrypts: bool) -> Result<()> {
    make_archive(shell)?;
    match encrypts {
        true => init_encrypted(shell)?,
        false => shell.run(&["init", "--repo", "./backup"])?,
    }
    shell.run(&["create", "mail", "--repo", "./backup", "--tag", "first"])?;
    change_archive(shell)?;
    shell.run(&["create", "mail", "--repo", "./backup", "--tag", "second"])?;
    shell.run(&["list", "--repo", "./backup"])?;
    shell.run(&["verify", "--all", "--repo", "./backup"])?;
    let ids = snapshots(shell)?;
    for (id, target) in ids.iter().zip(["restored-1", "restored-2"]) {
        shell.run(&["restore", id, "--repo", "./backup", "--target", target])?;
    }
    shell.note("Is every restored database, byte for byte, what was backed up?")?;
    prove(shell, "restored-1", "copy-1.db")?;
    prove(shell, "restored-2", "copy-2.db")
}

fn init_encrypted(shell: &mut Shell<'_>) -> Result<()> {
    shell.note("A passphrase by chance, in a file that only you can read.")?;
    let file = shell.path("passphrase");
    let passphrase = keys::generate()?;
    let options = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file);
    let written =
        options.and_then(|mut file| std::io::Write::write_all(&mut file, passphrase.expose().as_bytes()));
    written.map_err(|error| io_error("write", &file, error))?;
    shell.export("PACKVAULT_PASSPHRASE_FILE", file)?;
    shell.run(&["init", "--repo", "./backup", "--encrypt"])?;
    shell.run(&["key", "list", "--repo", "./backup"])
}

fn make_archive(shell: &Shell<'_>) -> Result<()> {
    let summary = sample::make(&shell.path("mail"), &SampleOptions::default()).map_err(not_invented)?;
    let (messages, attachments) = (summary.messages, summary.attachment_rows);
    let holds = format!("{} and {}", counted(messages, "message"), counted(attachments, "attachment"));
    shell.note(&format!("An archive like msgvault's, all invented: {holds}."))?;
    keep_copy(shell, "copy-1.db")
}

fn change_archive(shell: &Shell<'_>) -> Result<()> {
    let change = Change { insert_fraction: 0.05, add_attachments: Some(3), ..Change::default() };
    let summary = sample::mutate(&shell.path("mail"), &change).map_err(not_invented)?;
    let (new, changed) = (summary.messages_inserted, summary.messages_updated);
    let deleted = summary.messages_deleted;
    shell.note(&format!("A day goes by: {new} messages new, {changed} changed, {deleted} deleted."))?;
    keep_copy(shell, "copy-2.db")
}

fn not_invented(error: sample::Error) -> Error {
    Error::caused(ErrorKind::Io, "cannot make the archive of the demonstration", error)
}

/// Keeps the database as it is now, to compare with later. The log is empty: nobody has the database open.
fn keep_copy(shell: &Shell<'_>, copy: &str) -> Result<()> {
    let database = shell.path("mail").join(DATABASE);
    std::fs::copy(&database, shell.path(copy)).map_err(|error| io_error("copy", &database, error))?;
    Ok(())
}

/// Returns the snapshots, oldest first, as the table names them.
fn snapshots(shell: &Shell<'_>) -> Result<Vec<String>> {
    let json = shell.ask(&["list", "--repo", "./backup", "--json"])?;
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
