//! The application that is backed up: a thread that goes on writing to its database, whatever happens around
//! it, and the files that belong to it.
//!
//! It writes in a write-ahead log, empties it now and then, rolls back, vacuums, rests for a moment and then
//! hurries. An attachment lies in its place before the row that names it is committed. A file that no row
//! names any longer is removed by [`Application::remove_files`] alone, between two captures: packvault takes
//! the files after the database, and an application that deletes meanwhile has to pause for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use rusqlite::{Connection, params};
use sha2::{Digest as _, Sha256};

use crate::changes::{Content, Plan, Step};
use crate::ledger::Ledger;
use crate::schema::{self, DATABASE, MEDIA};

/// How long the application waits for a lock.
const PATIENCE: Duration = Duration::from_secs(60);

/// Transactions that are made at once in the beginning, so that there is something to back up.
const FIRST_TRANSACTIONS: u64 = 600;

/// Between two transactions, as a rule.
const PAUSE_MILLIS: std::ops::Range<u64> = 5..45;

/// The application at work.
#[derive(Debug)]
pub struct Application {
    home: PathBuf,
    ledger: Arc<Ledger>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// Files that no row names any longer.
    removable: Mutex<Vec<PathBuf>>,
}

impl Application {
    /// Makes the database and starts the thread; files are made in `scratch` and moved to the home.
    pub fn start(home: &Path, scratch: &Path, seed: u64) -> Result<Self> {
        fs::create_dir_all(home.join(MEDIA)).context("cannot make the application's home")?;
        let (ledger, shared) = (Arc::<Ledger>::default(), Arc::<Shared>::default());
        let mut writer = Writer {
            connection: open(&home.join(DATABASE))?,
            home: home.to_owned(),
            scratch: scratch.join("attachment"),
            random: Rng::with_seed(seed),
            content: Content::new(),
            ledger: Arc::clone(&ledger),
            shared: Arc::clone(&shared),
        };
        writer.connection.execute_batch(schema::TABLES).context("cannot make the application's tables")?;
        while ledger.committed() < FIRST_TRANSACTIONS {
            writer.transact()?;
        }
        let thread = thread::spawn(move || writer.work());
        Ok(Self { home: home.to_owned(), ledger, shared, thread: Some(thread) })
    }

    /// Returns what was true after each transaction.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Returns the application's home.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Tells whether it still works.
    pub fn is_at_work(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Removes the files that no row names any longer. No capture may run.
    pub fn remove_files(&self) -> Result<()> {
        let removable = std::mem::take(&mut *lock(&self.shared.removable));
        for path in removable {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }

    /// Stops it, and checks that its database holds what it wrote; the backups took nothing from it.
    pub fn stop(mut self) -> Result<()> {
        self.shared.stop.store(true, Ordering::SeqCst);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| anyhow::anyhow!("the application has panicked"))??;
        let database = open(&self.home.join(DATABASE))?;
        let check: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        ensure!(check == "ok", "the application's database is damaged: {check}");
        let found = schema::read(&database)?;
        let expected = self.ledger.after(self.ledger.committed());
        ensure!(Some(found.digest) == expected, "the application's database does not hold what was written");
        Ok(())
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(path: &Path) -> Result<Connection> {
    let connection = Connection::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    connection.busy_timeout(PATIENCE)?;
    let settings = "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 200";
    connection.execute_batch(settings)?;
    Ok(connection)
}

/// The thread's own.
struct Writer {
    connection: Connection,
    home: PathBuf,
    scratch: PathBuf,
    random: Rng,
    content: Content,
    ledger: Arc<Ledger>,
    shared: Arc<Shared>,
}

impl Writer {
    fn work(mut self) -> Result<()> {
        let mut hurried = 0_u32;
        while !self.shared.stop.load(Ordering::SeqCst) {
            self.transact()?;
            self.care_for_the_log()?;
            hurried = hurried.saturating_sub(1);
            match self.random.u32(0..400) {
                0 => hurried = 60,
                1 => self.rest()?,
                _ if hurried > 0 => {}
                _ => thread::sleep(Duration::from_millis(self.random.u64(PAUSE_MILLIS))),
            }
        }
        Ok(())
    }

    fn transact(&mut self) -> Result<()> {
        let (home, scratch) = (&self.home, &self.scratch);
        let store = |random: &mut Rng, bytes: usize| store_attachment(home, scratch, random, bytes);
        let plan = self.content.plan(&mut self.random, store)?;
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        execute(&self.connection, &plan).context("the application cannot write")?;
        if plan.is_rolled_back {
            self.connection.execute_batch("ROLLBACK")?;
        } else {
            self.content.apply(&plan);
            self.ledger.promise(self.content.digest());
            self.connection.execute_batch("COMMIT").context("the application cannot commit")?;
            self.ledger.commit();
        }
        let removable = plan.steps.iter().filter_map(|step| match step {
            Step::Attach { name, .. } if plan.is_rolled_back => Some(name),
            Step::Detach { name, .. } if !plan.is_rolled_back => Some(name),
            _ => None,
        });
        lock(&self.shared.removable).extend(removable.map(|name| self.home.join(schema::path_of(name))));
        Ok(())
    }

    /// Does nothing for a while, with an empty log: the database is then read from its file.
    fn rest(&mut self) -> Result<()> {
        self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").context("the log is not emptied")?;
        thread::sleep(Duration::from_millis(self.random.u64(500..5000)));
        Ok(())
    }

    /// Empties the log or the free pages now and then; a reader in the way is no error.
    fn care_for_the_log(&mut self) -> Result<()> {
        let statement = match self.random.u32(0..6000) {
            0 => "VACUUM",
            1..20 => "PRAGMA wal_checkpoint(PASSIVE)",
            20..40 => "PRAGMA wal_checkpoint(FULL)",
            40..60 => "PRAGMA wal_checkpoint(TRUNCATE)",
            _ => return Ok(()),
        };
        self.connection
            .execute_batch(statement)
            .with_context(|| format!("the application cannot {statement}"))
    }
}

fn execute(connection: &Connection, plan: &Plan) -> rusqlite::Result<()> {
    let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| match connection.execute(sql, values)? {
        1 => Ok(()),
        rows => Err(rusqlite::Error::StatementChangedRows(rows)),
    };
    for step in &plan.steps {
        match step {
            Step::Insert { id, body } => run("INSERT INTO items VALUES (?1, 1, ?2)", params![id, body])?,
            Step::Update { id, version, body } => {
                run("UPDATE items SET version = ?2, body = ?3 WHERE id = ?1", params![id, version, body])?;
            }
            Step::Delete { id } => run("DELETE FROM items WHERE id = ?1", params![id])?,
            Step::Attach { id, name } => run("INSERT INTO attachments VALUES (?1, ?2)", params![id, name])?,
            Step::Detach { id, .. } => run("DELETE FROM attachments WHERE id = ?1", params![id])?,
        }
    }
    let number = plan.transaction as i64;
    run("INSERT INTO journal VALUES (?1, ?2)", params![number, plan.note])?;
    if let Some(forgotten) = plan.forgotten {
        connection.execute("DELETE FROM journal WHERE id <= ?1", [forgotten])?;
    }
    run("UPDATE counter SET transactions = ?1 WHERE id = 1", params![number])
}

/// Puts a new file into the application's home and returns its name, the hash of its content. Half of it
/// compresses.
fn store_attachment(home: &Path, scratch: &Path, random: &mut Rng, bytes: usize) -> Result<String> {
    let mut content = vec![0; bytes];
    random.fill(&mut content[..bytes / 2 + 1]);
    let name = hex::encode(Sha256::digest(&content));
    let path = home.join(schema::path_of(&name));
    let folder = path.parent().context("an attachment lies in a folder")?;
    fs::create_dir_all(folder).and_then(|()| fs::write(scratch, &content)).context("cannot write a file")?;
    fs::rename(scratch, &path).with_context(|| format!("cannot put {} in place", path.display()))?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_holds_what_the_ledger_says() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("home");
        let application = Application::start(&home, folder.path(), 3).unwrap();
        thread::sleep(Duration::from_millis(300));
        assert!(application.is_at_work());
        application.remove_files().unwrap();
        let ledger = Arc::clone(&application.ledger);
        application.stop().unwrap();
        let connection = open(&home.join(DATABASE)).unwrap();
        let found = schema::read(&connection).unwrap();
        assert!(found.transaction > FIRST_TRANSACTIONS);
        assert_eq!(ledger.after(found.transaction), Some(found.digest));
        connection
            .execute_batch("UPDATE items SET body = body || '.' WHERE id = (SELECT min(id) FROM items)")
            .unwrap();
        assert_ne!(ledger.after(found.transaction), Some(schema::read(&connection).unwrap().digest));
    }
}
