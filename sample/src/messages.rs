//! The rows that messages make: conversations, bodies, originals, recipients, labels, the full-text index.
//!
//! `message_raw` holds the MIME text compressed with zstd (its column `compression` says so), where msgvault
//! itself uses zlib: to a backup both are bytes that do not compress again.

use rusqlite::{Connection, Statement, params};
use zstd::bulk::Compressor;

use crate::SampleOptions;
use crate::fail::OrFail;
use crate::fail::Result;
use crate::message::{Composer, DAY_SECONDS, Message, Thread, prefix, timestamp};
use crate::random::Random;

/// Conversations that can be answered at a time.
const LIVE_THREADS_MAX: usize = 60;

/// Characters of a message that its row repeats.
const SNIPPET_BYTES: usize = 120;

/// zstd level of the originals.
const ORIGINAL_LEVEL: i32 = 3;

/// Which messages to write.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batch {
    /// Row id of the first.
    pub(crate) first_id: i64,
    /// How many.
    pub(crate) count: i64,
    /// When the first was sent, in seconds since 1970.
    pub(crate) start: i64,
    /// The time over which they are spread.
    pub(crate) span_seconds: i64,
    /// Row id of the first new conversation.
    pub(crate) first_thread: i64,
}

/// Writes the rows of a batch, inside the caller's transaction.
pub(crate) fn write(
    database: &Connection,
    options: &SampleOptions,
    composer: &Composer<'_>,
    random: &mut Random,
    batch: Batch,
) -> Result<()> {
    let mut inserts = Inserts::prepare(database, options).or_fail("prepare to write messages")?;
    let mut originals = options
        .raw
        .then(|| Originals::prepare(database).or_fail("prepare to write originals"))
        .transpose()?;
    let mut threads = Threads { live: Vec::new(), next_id: batch.first_thread };
    for place in 0..batch.count {
        let sent = batch.start + batch.span_seconds * place / batch.count + random.below(60) as i64;
        let thread = threads.choose(random, composer, u64::from(options.sources));
        let message = composer.compose(random, batch.first_id + place, sent, thread);
        inserts.write(composer, &message, thread).or_fail("write a message")?;
        if let Some(originals) = &mut originals {
            originals.write(message.id, &composer.mime(random, &message)).or_fail("write an original")?;
        }
        thread.position += 1;
        thread.latest = Some((message.sender, message.text));
    }
    Ok(())
}

/// Returns the first characters of a text, on one line.
pub(crate) fn snippet(text: &str) -> String {
    prefix(text, SNIPPET_BYTES).replace('\n', " ")
}

/// The conversations of a batch that are still going on.
struct Threads {
    live: Vec<Thread>,
    next_id: i64,
}

impl Threads {
    /// Returns the thread the next message belongs to: mostly an old one, else a new one.
    fn choose(&mut self, random: &mut Random, composer: &Composer<'_>, sources: u64) -> &mut Thread {
        if self.live.is_empty() || random.chance(0.4) {
            self.begin(random, composer, sources);
            let newest = self.live.len() - 1;
            return &mut self.live[newest];
        }
        let index = random.index(self.live.len());
        &mut self.live[index]
    }

    fn begin(&mut self, random: &mut Random, composer: &Composer<'_>, sources: u64) {
        let title_words = random.within(2..9) as usize;
        let title = composer.words.title(random, title_words);
        let source = 1 + random.below(sources) as i64;
        if self.live.len() == LIVE_THREADS_MAX {
            self.live.remove(0);
        }
        self.live.push(Thread { id: self.next_id, source, title, position: 0, latest: None });
        self.next_id += 1;
    }
}

/// The statements that write everything of a message but its original.
struct Inserts<'c> {
    message: Statement<'c>,
    body: Statement<'c>,
    recipient: Statement<'c>,
    label: Statement<'c>,
    full_text: Option<Statement<'c>>,
    new_thread: Statement<'c>,
    longer_thread: Statement<'c>,
    member: Statement<'c>,
}

impl<'c> Inserts<'c> {
    fn prepare(database: &'c Connection, options: &SampleOptions) -> rusqlite::Result<Self> {
        let full_text = "INSERT INTO messages_fts(rowid,message_id,subject,body,from_addr,to_addr,cc_addr)
            VALUES(?1,?1,?2,?3,?4,?5,'')";
        Ok(Self {
            message: database.prepare(
                "INSERT INTO messages(id,conversation_id,source_id,source_message_id,rfc822_message_id,
                 message_type,sent_at,received_at,internal_date,sender_id,is_from_me,identity_is_from_me,
                 subject,snippet,thread_position,is_read,size_estimate,archived_at,last_modified,
                 content_changed_at) VALUES(?,?,?,?,?,'email',?6,?7,?6,?8,?9,?9,?10,?11,?12,?13,?14,?15,?15,
                 ?15||'.000')",
            )?,
            body: database.prepare("INSERT INTO message_bodies VALUES(?,?,?)")?,
            recipient: database.prepare(
                "INSERT INTO message_recipients(message_id,participant_id,recipient_type,display_name,
                 email_address) VALUES(?,?,?,?,?)",
            )?,
            label: database.prepare("INSERT INTO message_labels VALUES(?,?)")?,
            full_text: options.full_text.then(|| database.prepare(full_text)).transpose()?,
            new_thread: database.prepare(
                "INSERT INTO conversations VALUES(?1,?2,?3,'email_thread',?4,2,1,0,?5,NULL,NULL,?5,?5)",
            )?,
            longer_thread: database.prepare(
                "UPDATE conversations SET message_count=message_count+1, last_message_at=?2, updated_at=?2
                 WHERE id=?1",
            )?,
            member: database
                .prepare("INSERT OR IGNORE INTO conversation_participants VALUES(?,?,'member',NULL,NULL)")?,
        })
    }

    fn write(&mut self, composer: &Composer<'_>, message: &Message, thread: &Thread) -> rusqlite::Result<()> {
        self.write_thread(message, thread)?;
        self.write_message(message, thread)?;
        self.body.execute(params![message.id, message.text, message.html])?;
        for (place, &receiver) in message.receivers.iter().enumerate() {
            let (kind, person) = (if place < 3 { "to" } else { "cc" }, &composer.people[receiver]);
            self.recipient.execute(params![message.id, row_id(receiver), kind, person.name, person.email])?;
        }
        for label in &message.labels {
            self.label.execute(params![message.id, label])?;
        }
        if let Some(full_text) = &mut self.full_text {
            let sender = &composer.people[message.sender].email;
            let receivers = composer.addresses(message);
            full_text.execute(params![message.id, message.subject, message.text, sender, receivers])?;
        }
        Ok(())
    }

    fn write_thread(&mut self, message: &Message, thread: &Thread) -> rusqlite::Result<()> {
        let when = timestamp(message.sent);
        if thread.latest.is_some() {
            self.longer_thread.execute(params![thread.id, when])?;
        } else {
            let source_id = format!("t{:012x}", thread.id.wrapping_mul(2_654_435_761));
            self.new_thread.execute(params![thread.id, thread.source, source_id, thread.title, when])?;
        }
        self.member.execute(params![thread.id, row_id(message.sender)]).map(drop)
    }

    fn write_message(&mut self, message: &Message, thread: &Thread) -> rusqlite::Result<()> {
        self.message
            .execute(params![
                message.id,
                thread.id,
                thread.source,
                message.source_message_id,
                message.rfc822_id,
                timestamp(message.sent),
                timestamp(message.sent + 2),
                row_id(message.sender),
                message.sender == 0,
                message.subject,
                snippet(&message.text),
                thread.position,
                message.is_read,
                message.text.len() as i64 + 900,
                timestamp(message.sent + DAY_SECONDS),
            ])
            .map(drop)
    }
}

/// Writes the originals.
struct Originals<'c> {
    insert: Statement<'c>,
    compressor: Compressor<'static>,
}

impl<'c> Originals<'c> {
    fn prepare(
        database: &'c Connection,
    ) -> std::result::Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let insert = database.prepare("INSERT INTO message_raw VALUES(?,?,'mime','zstd',0)")?;
        Ok(Self { insert, compressor: Compressor::new(ORIGINAL_LEVEL)? })
    }

    fn write(
        &mut self,
        message_id: i64,
        mime: &str,
    ) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let compressed = self.compressor.compress(mime.as_bytes())?;
        self.insert.execute(params![message_id, compressed])?;
        Ok(())
    }
}

/// Returns the row id of the person at an index.
fn row_id(index: usize) -> i64 {
    index as i64 + 1
}
