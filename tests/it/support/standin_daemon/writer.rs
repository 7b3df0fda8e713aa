//! The application at work: money moves between rows at full speed, and others read meanwhile.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::gate::Gate;
use super::{ACCOUNTS, SUM};

/// Transfers between two runs of VACUUM.
const VACUUM_EVERY: i64 = 400;

/// Moves money for ever, each transfer a transaction, with automatic checkpoints and a VACUUM now and then.
pub fn write(home: &Path, gate: &Gate) {
    let database = open(home);
    database.execute_batch("PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 50").unwrap();
    for round in 1_i64.. {
        gate.write(|| {
            if round % VACUUM_EVERY == 0 {
                // It needs the database for itself and may not get it; the next one will.
                let _ = database.execute_batch("VACUUM");
                return;
            }
            let (from, to) = (round * 7 % ACCOUNTS + 1, round * 11 % ACCOUNTS + 1);
            let transfer = format!(
                "BEGIN IMMEDIATE;
                 UPDATE accounts SET balance = balance - 3, padding = randomblob(400) WHERE id = {from};
                 UPDATE accounts SET balance = balance + 3 WHERE id = {to};
                 COMMIT"
            );
            database.execute_batch(&transfer).unwrap();
        });
    }
}

/// Reads for ever, and never sees money missing.
pub fn read(home: &Path) {
    let database = open(home);
    loop {
        let sum: i64 = database.query_row("SELECT sum(balance) FROM accounts", [], |row| row.get(0)).unwrap();
        assert_eq!(sum, SUM);
        std::thread::sleep(Duration::from_millis(3));
    }
}

fn open(home: &Path) -> Connection {
    let database = Connection::open(home.join("msgvault.db")).unwrap();
    // Longer than anybody may hold it off.
    database.busy_timeout(Duration::from_secs(60)).unwrap();
    database
}
