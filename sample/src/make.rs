//! Makes an archive.

use std::fs;
use std::path::Path;

use rusqlite::{Connection, params};

use crate::attachments;
use crate::content::Contents;
use crate::fail::Result;
use crate::fail::{OrFail, refuse};
use crate::message::{Composer, DAY_SECONDS};
use crate::people::{self, Person};
use crate::random::Random;
use crate::store::Store;
use crate::words::Words;
use crate::{SampleOptions, Summary, documents, files, messages, schema, summary};

/// When the first message was sent: 2010-01-01.
pub(crate) const FIRST_SENT: i64 = 1_262_304_000;

/// The time the messages of a new archive are spread over.
pub(crate) const SPAN_SECONDS: i64 = 15 * 365 * DAY_SECONDS;

/// Labels of each account.
const LABELS: [&str; 8] = ["INBOX", "SENT", "IMPORTANT", "Receipts", "Travel", "Family", "Work", "Lists"];

/// Makes an archive in `dir`, which must be empty or not exist.
///
/// Returns what it holds. On failure the folder holds a part of it.
pub fn make(dir: &Path, options: &SampleOptions) -> Result<Summary> {
    check_options(options)?;
    prepare_dir(dir)?;
    let words = Words::new(options.seed);
    let database = schema::create(dir, options)?;
    database.execute_batch("BEGIN").or_fail("begin to fill msgvault.db")?;
    schema::store_metadata(&database, options)?;
    fill(dir, &database, options, &words)?;
    database.execute_batch("COMMIT").or_fail("fill msgvault.db")?;
    let mut summary = Summary {
        messages_inserted: u64::from(options.messages),
        attachments_added: u64::from(options.attachments) + options.large.len() as u64,
        ..Summary::default()
    };
    schema::finish(&database, options.journal)?;
    summary::count_rows(&database, &mut summary).or_fail("count rows")?;
    schema::close(database)?;
    files::write(dir, options.seed, &words, options.messages)?;
    summary::measure_files(dir, &mut summary)?;
    Ok(summary)
}

fn check_options(options: &SampleOptions) -> Result<()> {
    if !options.page_size.is_power_of_two() || !(512..=65_536).contains(&options.page_size) {
        return refuse(format!("page size {} is not a power of two from 512 to 65536", options.page_size));
    }
    if !(1..=4).contains(&options.sources) {
        return refuse(format!("{} accounts: 1 to 4 are possible", options.sources));
    }
    if !(0.0..=1.0).contains(&options.namespaced_fraction) {
        return refuse(format!("namespaced fraction {} is not between 0 and 1", options.namespaced_fraction));
    }
    if options.messages == 0 && (options.attachments > 0 || !options.large.is_empty()) {
        return refuse("attachments need a message to hang on".to_owned());
    }
    Ok(())
}

fn prepare_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).or_fail_at("create", dir)?;
    if fs::read_dir(dir).or_fail_at("read", dir)?.next().is_some() {
        return refuse(format!("{} is not empty", dir.display()));
    }
    Ok(())
}

fn fill(dir: &Path, database: &Connection, options: &SampleOptions, words: &Words) -> Result<()> {
    let people_count = (options.messages / 12 + 4).min(20_000) as usize;
    let people = people::invent(&mut Random::new(options.seed, "people"), people_count);
    fill_accounts(database, options, &people).or_fail("write accounts")?;
    let composer = Composer {
        words,
        people: &people,
        body_words: f64::from(options.body_words.max(1)),
        label_count: u64::from(options.sources) * LABELS.len() as u64,
    };
    let batch = messages::Batch {
        first_id: 1,
        count: i64::from(options.messages),
        start: FIRST_SENT,
        span_seconds: SPAN_SECONDS,
        first_thread: 1,
    };
    messages::write(database, options, &composer, &mut Random::new(options.seed, "messages"), batch)?;
    fill_attachments(dir, database, options, words)?;
    let mut random = Random::new(options.seed, "documents");
    if options.documents > 0 {
        documents::write(database, words, &mut random, 0, options.documents).or_fail("write documents")?;
    }
    Ok(())
}

fn fill_attachments(dir: &Path, database: &Connection, options: &SampleOptions, words: &Words) -> Result<()> {
    let mut store = Store::open(dir, database, options, 0)?;
    if options.attachments > 0 || !options.large.is_empty() {
        let contents = Contents::new(options.seed, words, options.attachment_mean_bytes);
        let message_ids: Vec<i64> = (1..=i64::from(options.messages)).collect();
        let batch = attachments::Batch {
            first_id: 1,
            count: options.attachments,
            large: &options.large,
            message_ids: &message_ids,
            namespaced_fraction: options.namespaced_fraction,
        };
        let mut random = Random::new(options.seed, "attachments");
        attachments::write(database, &contents, &mut store, &mut random, &batch)?;
    }
    store.flush()
}

fn fill_accounts(database: &Connection, options: &SampleOptions, people: &[Person]) -> rusqlite::Result<()> {
    let mut participant = database.prepare(
        "INSERT INTO participants VALUES(?,?,NULL,?,?,NULL,'2024-01-01 00:00:00','2024-01-01 00:00:00')",
    )?;
    for (id, person) in (1_i64..).zip(people) {
        let domain = person.email.split('@').nth(1);
        participant.execute(params![id, person.email, person.name, domain])?;
    }
    for (id, person) in (1..=i64::from(options.sources)).zip(people) {
        fill_account(database, id, person)?;
    }
    Ok(())
}

fn fill_account(database: &Connection, id: i64, person: &Person) -> rusqlite::Result<()> {
    let kind = if id % 2 == 1 { "gmail" } else { "imap" };
    let (user_id, cursor) = (format!("u{:09}", id * 7919), id + 999);
    database.execute(
        "INSERT INTO sources VALUES(?,?,?,?,?,'2025-01-01 00:00:00',?,NULL,NULL,'2024-01-01 00:00:00',
         '2025-01-01 00:00:00')",
        params![id, kind, person.email, person.name, user_id, cursor],
    )?;
    database.execute(
        "INSERT INTO account_identities VALUES(?,?,'account-identifier','2024-01-01 00:00:00')",
        params![id, person.email],
    )?;
    for (place, name) in (0_i64..).zip(LABELS) {
        let label_id = (id - 1) * LABELS.len() as i64 + place + 1;
        let kind = if place < 3 { "system" } else { "user" };
        let role = (name == "SENT").then_some("sent");
        database.execute(
            "INSERT INTO labels VALUES(?,?,?,?,?,?,NULL)",
            params![label_id, id, format!("L_{id}_{place}"), name, kind, role],
        )?;
    }
    Ok(())
}
