//! Changes an archive as a day would: new messages, edits all over the table, deletions, attachments come and go.

use std::collections::BTreeSet;
use std::path::Path;

use rusqlite::{Connection, Row, params};

use crate::attachments;
use crate::content::Contents;
use crate::fail::Result;
use crate::fail::{OrFail, refuse};
use crate::make::{FIRST_SENT, SPAN_SECONDS};
use crate::message::{Composer, DAY_SECONDS, timestamp};
use crate::people::Person;
use crate::random::Random;
use crate::schema::{column, number};
use crate::store::Store;
use crate::words::Words;
use crate::{Change, Journal, SampleOptions, Summary, documents, files, messages, schema, summary};

/// Tables with rows of a message, beside `messages` itself.
const MESSAGE_TABLES: [&str; 4] = ["message_bodies", "message_raw", "message_recipients", "message_labels"];

/// Rows with local content.
const LOCAL_ROWS: &str = "SELECT id FROM attachments
    WHERE attachment_state='stored' AND storage_path NOT LIKE 'http%' ORDER BY id";

/// Changes the archive in `dir`, which [`make`](super::make()) made.
///
/// What happens is determined by the archive's options, the number of changes before, and `change`.
pub fn mutate(dir: &Path, change: &Change) -> Result<Summary> {
    let (database, options, generation) = schema::open(dir)?;
    if change.leave_wal && options.journal != Journal::Wal {
        return refuse(format!("{} has a rollback journal: no WAL to leave", dir.display()));
    }
    if change.leave_wal {
        schema::keep_wal(&database).or_fail("keep the WAL")?;
    }
    let words = Words::new(options.seed);
    let mut day = Day::new(dir, &database, &options, change, &words, generation + 1)?;
    day.pass()?;
    let mut summary = day.summary;
    if change.vacuum {
        database.execute_batch("VACUUM").or_fail("rebuild msgvault.db")?;
    }
    summary::count_rows(&database, &mut summary).or_fail("count rows")?;
    schema::close(database)?;
    summary::measure_files(dir, &mut summary)?;
    Ok(summary)
}

/// One change under way.
struct Day<'a> {
    dir: &'a Path,
    database: &'a Connection,
    options: &'a SampleOptions,
    change: &'a Change,
    words: &'a Words,
    random: Random,
    start: i64,
    summary: Summary,
    store: Store<'a>,
}

impl<'a> Day<'a> {
    fn new(
        dir: &'a Path,
        database: &'a Connection,
        options: &'a SampleOptions,
        change: &'a Change,
        words: &'a Words,
        generation: u32,
    ) -> Result<Self> {
        Ok(Self {
            dir,
            database,
            options,
            change,
            words,
            random: Random::new(options.seed, &format!("day {generation}")),
            start: FIRST_SENT + SPAN_SECONDS + i64::from(generation) * DAY_SECONDS,
            summary: Summary { generation, ..Summary::default() },
            store: Store::open(dir, database, options, generation)?,
        })
    }

    fn pass(&mut self) -> Result<()> {
        let database = self.database;
        if self.change.documents > 0 {
            schema::create_document_table(database).or_fail("create document_chunks")?;
        }
        database.execute_batch("BEGIN").or_fail("begin a change")?;
        let old_ids: Vec<i64> =
            column(database, "SELECT id FROM messages ORDER BY id", []).or_fail("read ids")?;
        let attachment_rows =
            number(database, "SELECT count(*) FROM attachments").or_fail("count attachments")?;
        self.insert_messages(old_ids.len())?;
        self.update_messages(&old_ids).or_fail("update messages")?;
        let orphans = self.delete_rows(&old_ids, attachment_rows).or_fail("delete messages")?;
        self.add_attachments(attachment_rows)?;
        self.add_documents().or_fail("write documents")?;
        schema::store_generation(database, self.summary.generation).or_fail("record the change")?;
        self.remove_contents(orphans)?;
        self.store.flush()?;
        database.execute_batch("COMMIT").or_fail("commit a change")?;
        let description = format!("day {}", self.summary.generation);
        files::write_deletion(self.dir, &mut self.random, "pending", "2026-01-01", &description, 1)
    }

    fn insert_messages(&mut self, old_count: usize) -> Result<()> {
        let count = part(old_count, self.change.insert_fraction);
        let database = self.database;
        let people = load_people(database).or_fail("read participants")?;
        let last = |table: &str| number(database, &format!("SELECT coalesce(max(id),0) FROM {table}"));
        let composer = Composer {
            words: self.words,
            people: &people,
            body_words: f64::from(self.options.body_words.max(1)),
            label_count: number(database, "SELECT count(*) FROM labels").or_fail("count labels")?,
        };
        let batch = messages::Batch {
            first_id: last("messages").or_fail("read the last message")? as i64 + 1,
            count: count as i64,
            start: self.start,
            span_seconds: DAY_SECONDS,
            first_thread: last("conversations").or_fail("read the last conversation")? as i64 + 1,
        };
        messages::write(database, self.options, &composer, &mut self.random, batch)?;
        self.summary.messages_inserted = count as u64;
        Ok(())
    }

    fn update_messages(&mut self, ids: &[i64]) -> rusqlite::Result<()> {
        let chosen = self.random.sample(ids.to_vec(), part(ids.len(), self.change.update_fraction));
        let when = timestamp(self.start);
        for &id in &chosen {
            let kind = self.random.fraction();
            if kind < 0.6 {
                let toggle = "UPDATE messages SET is_read = NOT is_read, last_modified=? WHERE id=?";
                self.database.execute(toggle, params![when, id])?;
            } else if kind < 0.8 {
                let label = self.random.within(1..9) as i64;
                self.database.execute("INSERT OR IGNORE INTO message_labels VALUES(?,?)", [id, label])?;
            } else {
                self.edit_body(id)?;
            }
        }
        self.summary.messages_updated = chosen.len() as u64;
        Ok(())
    }

    fn edit_body(&mut self, id: i64) -> rusqlite::Result<()> {
        let text = self.words.prose(&mut self.random, 120);
        self.database
            .execute("UPDATE message_bodies SET body_text=? WHERE message_id=?", params![text, id])?;
        let update = "UPDATE messages SET snippet=?, is_edited=1 WHERE id=?";
        self.database.execute(update, params![messages::snippet(&text), id]).map(drop)
    }

    /// Deletes messages and attachment rows; returns the paths the rows pointed at.
    fn delete_rows(&mut self, ids: &[i64], attachment_rows: u64) -> rusqlite::Result<BTreeSet<String>> {
        let removals = match self.change.remove_attachments {
            Some(count) => count as usize,
            None => (attachment_rows as usize / 1000).max(1),
        };
        let mut paths = BTreeSet::new();
        let rows = self.random.sample(column(self.database, LOCAL_ROWS, [])?, removals);
        for id in &rows {
            self.delete_attachments("id", *id, &mut paths)?;
        }
        let candidates = if removals > 0 { ids.to_vec() } else { self.without_attachments()? };
        let gone = self.random.sample(candidates, part(ids.len(), self.change.delete_fraction));
        for id in &gone {
            self.delete_attachments("message_id", *id, &mut paths)?;
            self.delete_message(*id)?;
        }
        self.summary.messages_deleted = gone.len() as u64;
        Ok(paths)
    }

    fn without_attachments(&self) -> rusqlite::Result<Vec<i64>> {
        let query =
            "SELECT id FROM messages WHERE id NOT IN (SELECT message_id FROM attachments) ORDER BY id";
        column(self.database, query, [])
    }

    fn delete_attachments(
        &mut self,
        key: &str,
        id: i64,
        paths: &mut BTreeSet<String>,
    ) -> rusqlite::Result<()> {
        let query = format!(
            "SELECT storage_path FROM attachments WHERE {key}=?1 AND storage_path NOT LIKE 'http%'
             UNION SELECT thumbnail_path FROM attachments WHERE {key}=?1 AND thumbnail_path IS NOT NULL"
        );
        paths.extend(
            column::<String>(self.database, &query, [id])?.into_iter().filter(|path| !path.is_empty()),
        );
        let delete = format!("DELETE FROM attachments WHERE {key}=?");
        self.summary.attachments_removed += self.database.execute(&delete, [id])? as u64;
        Ok(())
    }

    fn delete_message(&self, id: i64) -> rusqlite::Result<()> {
        for table in MESSAGE_TABLES {
            self.database.execute(&format!("DELETE FROM {table} WHERE message_id=?"), [id])?;
        }
        if self.options.full_text {
            self.database.execute("DELETE FROM messages_fts WHERE rowid=?", [id])?;
        }
        self.database.execute("DELETE FROM messages WHERE id=?", [id]).map(drop)
    }

    fn add_attachments(&mut self, old_rows: u64) -> Result<()> {
        let count = match self.change.add_attachments {
            Some(count) => count,
            None if old_rows == 0 => 0,
            None => (old_rows as u32 / 250).max(2),
        };
        let newest = "SELECT id FROM messages ORDER BY id DESC LIMIT ?";
        let limit = self.summary.messages_inserted.max(1) as i64;
        let message_ids: Vec<i64> =
            column(self.database, newest, [limit]).or_fail("read the newest messages")?;
        if message_ids.is_empty() || (count == 0 && self.change.large.is_empty()) {
            return Ok(());
        }
        let last = number(self.database, "SELECT coalesce(max(id),0) FROM attachments");
        let batch = attachments::Batch {
            first_id: last.or_fail("read the last attachment")? as i64 + 1,
            count,
            large: &self.change.large,
            message_ids: &message_ids,
            namespaced_fraction: self.options.namespaced_fraction,
        };
        let contents = Contents::new(self.options.seed, self.words, self.options.attachment_mean_bytes);
        self.summary.attachments_added = u64::from(count) + self.change.large.len() as u64;
        attachments::write(self.database, &contents, &mut self.store, &mut self.random, &batch)
    }

    fn add_documents(&mut self) -> rusqlite::Result<()> {
        if self.change.documents == 0 {
            return Ok(());
        }
        let start = number(self.database, "SELECT count(*) FROM document_chunks")?;
        documents::write(self.database, self.words, &mut self.random, start, self.change.documents)
    }

    /// Removes the contents that no row points at any more.
    fn remove_contents(&mut self, paths: BTreeSet<String>) -> Result<()> {
        let query = "SELECT count(*) FROM attachments WHERE storage_path=?1 OR thumbnail_path=?1";
        for path in paths {
            let uses: i64 =
                self.database.query_row(query, [&path], |row| row.get(0)).or_fail("look up a path")?;
            if uses == 0 {
                self.store.remove(&path)?;
            }
        }
        Ok(())
    }
}

/// Returns the part of a number: at least one, unless the fraction is 0.
fn part(count: usize, fraction: f64) -> usize {
    if fraction <= 0.0 { 0 } else { ((count as f64 * fraction).round() as usize).max(1) }
}

fn load_people(database: &Connection) -> rusqlite::Result<Vec<Person>> {
    let person = |row: &Row<'_>| Ok(Person { email: row.get(0)?, name: row.get(1)? });
    let mut query = database.prepare("SELECT email_address, display_name FROM participants ORDER BY id")?;
    query.query_map([], person)?.collect()
}
