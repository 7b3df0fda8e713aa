//! The proof of a restore: what came back is what was true at one moment of the capture, to the last row and
//! the last byte.

use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rusqlite::{Connection, OpenFlags};
use sha2::{Digest as _, Sha256};

use crate::ledger::Ledger;
use crate::schema::{self, DATABASE};

/// Checks what was restored into the folder against the ledger; the capture began and ended at these
/// transactions. Returns the one whose state it is.
pub fn prove(restored: &Path, ledger: &Ledger, window: &RangeInclusive<u64>) -> Result<u64> {
    let path = restored.join(DATABASE);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
    let database = Connection::open_with_flags(&path, flags).context("cannot open the restored database")?;
    let found = schema::read(&database).context("cannot read the restored database")?;
    let transaction = found.transaction;
    ensure!(
        window.contains(&transaction),
        "it is the state after transaction {transaction}, and was captured during {window:?}"
    );
    let expected = ledger.after(transaction);
    ensure!(expected == Some(found.digest), "its rows are not those after transaction {transaction}");
    for name in &found.attachments {
        let path = restored.join(schema::path_of(name));
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let hash = hex::encode(Sha256::digest(&bytes));
        ensure!(hash == *name, "the attachment {name} has other content: {hash}");
    }
    Ok(transaction)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::Application;

    /// Copies a database that nobody writes to, log and all.
    fn copy(home: &Path, to: &Path) {
        let _ = fs::remove_dir_all(to);
        fs::create_dir(to).unwrap();
        let from = Connection::open(home.join(DATABASE)).unwrap();
        from.execute("VACUUM INTO ?1", [to.join(DATABASE).to_str().unwrap()]).unwrap();
        std::process::Command::new("cp").arg("-r").arg(home.join("media")).arg(to).status().unwrap();
    }

    #[test]
    fn a_copy_is_proved_and_each_kind_of_loss_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (home, back) = (folder.path().join("home"), folder.path().join("back"));
        let application = Application::start(&home, folder.path(), 9).unwrap();
        copy(&home, &back);
        let ledger = application.ledger();
        let window = 1..=ledger.promised();
        let transaction = prove(&back, ledger, &window).unwrap();
        assert!(prove(&back, ledger, &(transaction + 1..=u64::MAX)).is_err(), "it is too old");
        assert!(prove(&back, ledger, &(1..=transaction - 1)).is_err(), "it is too new");

        for statement in [
            "DELETE FROM items WHERE id = (SELECT max(id) FROM items)",
            "UPDATE items SET body = body || ' ' WHERE id = (SELECT min(id) FROM items)",
            "DELETE FROM attachments WHERE id = (SELECT max(id) FROM attachments)",
            "INSERT INTO journal VALUES (0, 'forged')",
        ] {
            copy(&home, &back);
            Connection::open(back.join(DATABASE)).unwrap().execute_batch(statement).unwrap();
            assert!(prove(&back, ledger, &(1..=u64::MAX)).is_err(), "{statement}");
        }
        copy(&home, &back);
        let database = Connection::open(back.join(DATABASE)).unwrap();
        let name: String = database.query_row("SELECT name FROM attachments", [], |row| row.get(0)).unwrap();
        fs::write(back.join(schema::path_of(&name)), "other content").unwrap();
        assert!(prove(&back, ledger, &(1..=u64::MAX)).is_err());
        fs::remove_file(back.join(schema::path_of(&name))).unwrap();
        assert!(prove(&back, ledger, &(1..=u64::MAX)).is_err());
    }
}
