//! Rows of `document_chunks`: text taken out of attachments. With any, a snapshot carries an extra artifact.

use rusqlite::{Connection, params};
use sha2::{Digest, Sha256};

use crate::random::Random;
use crate::words::Words;

/// Chunks of one document.
const CHUNKS_PER_DOCUMENT: u64 = 8;

/// Writes `count` chunks after the first `start`, inside the caller's transaction.
pub(crate) fn write(
    database: &Connection,
    words: &Words,
    random: &mut Random,
    start: u64,
    count: u32,
) -> rusqlite::Result<()> {
    let mut insert = database.prepare(
        "INSERT INTO document_chunks(extraction_id,chunk_key,ordinal,text,heading_path,first_unit_index,
         last_unit_index,checksum,char_count) VALUES(?1,?2,?3,?4,?5,?3,?3+1,?6,?7)",
    )?;
    for number in start..start + u64::from(count) {
        let words_count = random.within(60..240) as usize;
        let text = words.prose(random, words_count);
        insert.execute(params![
            format!("extraction-{}", number / CHUNKS_PER_DOCUMENT),
            format!("chunk-{number}"),
            (number % CHUNKS_PER_DOCUMENT) as i64,
            text,
            format!("[\"{}\"]", words.title(random, 3)),
            hex::encode(Sha256::digest(text.as_bytes())),
            text.chars().count() as i64,
        ])?;
    }
    Ok(())
}
