//! The extra files of a capture, and the tree that names them (section 5).
//!
//! Small files are read whole and several at once, large ones go through the spool, so memory does not grow
//! with their size. A large file whose content is stored already is only hashed.

use std::sync::Arc;

use futures::{StreamExt, stream};

use super::known::KnownBlobs;
use super::sink::{BlobSink, EncodedBlob, Payload, encode};
use super::spool;
use crate::archive::attributes::attributes_of_found;
use crate::archive::content::Content;
use crate::archive::extras::{ExtrasSource, FoundExtra, FoundExtras, find};
use crate::archive::findings::Findings;
use crate::archive::profile::{Profile, database_files};
use crate::engine::Context;
use crate::engine::pipeline::{Pipeline, Reservation, Worker};
use crate::engine::report::LeftOut;
use crate::format::ArchiveAttributes;
use crate::format::{BlobId, ExtrasEntry, extras_tree, paths};
use crate::progress::{Stage, Unit};
use crate::{Error, ErrorKind, Result};

/// Files up to this size are compressed in memory; larger ones through the spool.
const MEMORY_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Larger files fit no snapshot (section 5.1).
const EXTRA_BYTES_MAX: u64 = 1 << 32;

/// The profile that tells which files hold secrets, and whether those may be stored.
pub type Secrets = (Arc<dyn Profile>, bool);

/// The extra files of a snapshot.
#[derive(Debug, Default)]
pub struct CapturedExtras {
    /// The id of the tree; `None` without a file.
    pub tree: Option<String>,
    /// The number of files.
    pub count: u64,
    /// What was found and not taken.
    pub left_out: Vec<LeftOut>,
    /// What the user is told of them.
    pub findings: Findings,
    /// Owners, modes and times of the files and of their folders.
    pub attributes: ArchiveAttributes,
}

/// Finds the extra files, and refuses what may not or cannot be part of a snapshot.
pub fn look(sources: &[ExtrasSource], (profile, allowed): Secrets) -> Result<FoundExtras> {
    let found = find(sources)?;
    let secret = found.extras.iter().find(|extra| profile.is_secret(&extra.recorded));
    if let Some(secret) = secret.filter(|_| !allowed) {
        let message = format!(
            "{} holds secrets, and the repository is not encrypted: storing it takes \
             --allow-plaintext-secrets",
            secret.path.display()
        );
        return Err(Error::new(ErrorKind::Usage, message));
    }
    let database = database_files(&profile.database_name());
    let recorded = found.extras.iter().map(|extra| extra.recorded.as_str());
    match paths::find_conflicts(recorded.chain(database.iter().map(String::as_str))).first() {
        None => Ok(found),
        Some(conflict) => {
            let message = format!("an extra file would be restored over the database: {conflict}");
            Err(Error::new(ErrorKind::Source, message))
        }
    }
}

/// Reads and stores every extra file.
pub async fn capture(
    context: &Context,
    pipeline: &Pipeline,
    sink: &mut BlobSink,
    sources: Vec<ExtrasSource>,
    secrets: Secrets,
) -> Result<CapturedExtras> {
    let (found, attributes) = pipeline
        .run(move |_| {
            let found = look(&sources, secrets)?;
            let attributes = attributes_of_found(&found.extras);
            Ok((found, attributes))
        })
        .await?;
    context.progress.begin(Stage::Extras, Unit::Items, Some(found.extras.len() as u64));
    let mut entries = Vec::with_capacity(found.extras.len());
    let mut left_out = found.left_out;
    let known = sink.known().clone();
    let mut encoded = stream::iter(found.extras)
        .map(|extra| encode_one(pipeline, known.clone(), extra))
        .buffered(pipeline.jobs() + 2);
    while let Some(one) = encoded.next().await {
        context.cancel.check()?;
        let (path, read, reservation) = one?;
        match read {
            Some((mode, blob)) => {
                entries.push(ExtrasEntry { path, mode, size: blob.raw_bytes, blob: blob.id });
                sink.take(blob).await?;
            }
            None => left_out.push((path, "it was removed meanwhile".to_owned())),
        }
        drop(reservation);
        context.progress.advance(Stage::Extras, 1);
    }
    drop(encoded);
    let tree = match entries.len() {
        0 => None,
        _ => Some(sink.store(extras_tree::encode(&entries)).await?.to_string()),
    };
    context.progress.end(Stage::Extras);
    let left_out = left_out.into_iter().map(|(path, reason)| LeftOut { path, reason }).collect();
    let findings = Findings::default();
    Ok(CapturedExtras { tree, count: entries.len() as u64, left_out, findings, attributes })
}

/// A file's path, its mode and content unless it is gone, and the memory that is kept for it.
type Encoded = (String, Option<(u32, EncodedBlob)>, Reservation);

async fn encode_one(pipeline: &Pipeline, known: Arc<KnownBlobs>, extra: FoundExtra) -> Result<Encoded> {
    // The budget is asked for in the order of the files, and those in front are stored first, so a file
    // that waits for room never waits for itself.
    let reservation = pipeline.reserve(2 * extra.file_bytes.min(MEMORY_BYTES_MAX)).await;
    let path = extra.recorded.clone();
    let read = pipeline
        .run(move |worker| {
            let Some((file, stat)) = extra.open()? else { return Ok(None) };
            let mode = stat.st_mode & 0o777;
            let content = Content::from_file(file, stat, extra.path.clone());
            Ok(Some((mode, encode_content(worker, &known, &extra, content)?)))
        })
        .await?;
    Ok((path, read, reservation))
}

fn encode_content(
    worker: &mut Worker,
    known: &KnownBlobs,
    extra: &FoundExtra,
    mut content: Content,
) -> Result<EncodedBlob> {
    let raw_bytes = content.raw_bytes();
    if raw_bytes > EXTRA_BYTES_MAX {
        let message = format!("{} is larger than 4 GiB, too large for a snapshot", extra.path.display());
        return Err(Error::new(ErrorKind::Source, message));
    }
    if raw_bytes <= MEMORY_BYTES_MAX {
        let mut raw = vec![0; raw_bytes as usize];
        content.read(&mut raw)?;
        content.finish()?;
        return encode(worker, known, raw);
    }
    let reopen = || match extra.open()? {
        Some((file, stat)) => Ok(Content::from_file(file, stat, extra.path.clone())),
        None => {
            let message = format!("{} vanished while it was captured", extra.path.display());
            Err(Error::new(ErrorKind::Source, message))
        }
    };
    let id = spool::hash(&mut content)?;
    if known.contains(&id) {
        return Ok(EncodedBlob { id, raw_bytes, payload: Payload::Known });
    }
    drop(content);
    spool::encode(worker, reopen()?, reopen, |content, found| same(content, id, found))
}

fn same(content: &Content, expected: BlobId, found: BlobId) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    let message = format!("{} changed while it was read", content.path().display());
    Err(Error::new(ErrorKind::Source, message))
}
