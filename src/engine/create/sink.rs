//! Where a create puts blobs: deduplicated, in the order in which they are handed in.
//!
//! Workers compress beside each other, but results come here in the order of the plan, so any number of
//! jobs gives the same packs. A dry run counts and writes nothing.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;

use super::known::KnownBlobs;
use crate::engine::pipeline::{Pipeline, Worker};
use crate::error::lift::format_error;
use crate::format::{BlobFlags, BlobId, crc32c};
use crate::repo::packs::{PackWriter, StoredBlob, WrittenPacks};
use crate::repo::{Repository, Sealing};
use crate::{Error, ErrorKind, Result};

/// Bytes of a spooled blob that are moved at a time.
const SPOOL_PIECE_BYTES: usize = 1024 * 1024;

/// A blob that a worker is done with.
#[derive(Debug)]
pub struct EncodedBlob {
    /// The hash of the raw bytes.
    pub id: BlobId,
    /// Length of the raw bytes.
    pub raw_bytes: u64,
    /// What is to be stored.
    pub payload: Payload,
}

/// The stored form of a blob.
#[derive(Debug)]
pub enum Payload {
    /// Nothing: it is stored already.
    Known,
    /// Bytes in memory.
    Memory(StoredBlob),
    /// Bytes in a file without a name, from its beginning.
    Spooled {
        /// The file.
        file: File,
        /// Its length.
        stored_bytes: u64,
        /// How the bytes are stored.
        flags: BlobFlags,
        /// CRC-32C of the stored bytes.
        crc32c: u32,
    },
}

/// Hashes a blob and, unless it is stored already, compresses it. Runs on a worker.
pub fn encode(worker: &mut Worker, known: &KnownBlobs, raw: Vec<u8>) -> Result<EncodedBlob> {
    let id = BlobId::of(&raw);
    encode_hashed(worker, known, id, raw)
}

/// Compresses a blob whose hash is known to be true, unless it is stored already.
pub fn encode_hashed(
    worker: &mut Worker,
    known: &KnownBlobs,
    id: BlobId,
    raw: Vec<u8>,
) -> Result<EncodedBlob> {
    let raw_bytes = raw.len() as u64;
    if known.contains(&id) {
        return Ok(EncodedBlob { id, raw_bytes, payload: Payload::Known });
    }
    let blob = stored_blob(worker, known.sealing(), id, raw)?;
    Ok(EncodedBlob { id, raw_bytes, payload: Payload::Memory(blob) })
}

/// Returns a blob as it is stored: compressed if that is worth it, and sealed if the repository is.
pub fn stored_blob(worker: &mut Worker, sealing: &Sealing, id: BlobId, raw: Vec<u8>) -> Result<StoredBlob> {
    let raw_bytes = raw.len() as u64;
    let kept = worker
        .compressor
        .encode(&raw, &mut worker.frame)
        .map_err(|error| format_error("cannot compress a blob", error))?;
    let (flags, frame) = if kept { (BlobFlags::COMPRESSED, &worker.frame) } else { (BlobFlags::RAW, &raw) };
    let stored = match sealing.seal_frame(&id, frame)? {
        Some(sealed) => Bytes::from(sealed),
        None if kept => Bytes::copy_from_slice(frame),
        None => Bytes::from(raw),
    };
    let flags = sealing.flags(flags);
    let crc32c = crc32c(&stored);
    Ok(StoredBlob { id, raw_bytes, flags, crc32c, stored })
}

/// Takes blobs and fills packs.
pub struct BlobSink {
    known: Arc<KnownBlobs>,
    pipeline: Pipeline,
    /// `None` in a dry run.
    writer: Option<PackWriter>,
    added: HashSet<BlobId>,
    bytes_added: u64,
}

/// What a create has added.
#[derive(Debug, Default)]
pub struct Added {
    /// The sealed packs and their entries; empty in a dry run.
    pub written: WrittenPacks,
    /// Number of blobs.
    pub blobs: u64,
    /// Sum of their stored lengths.
    pub bytes: u64,
}

impl BlobSink {
    /// Makes a sink; `repository` is `None` in a dry run.
    pub fn new(known: Arc<KnownBlobs>, pipeline: Pipeline, repository: Option<Repository>) -> Self {
        let writer = repository.map(PackWriter::new);
        Self { known, pipeline, writer, added: HashSet::new(), bytes_added: 0 }
    }

    /// Returns what is stored already.
    pub fn known(&self) -> &Arc<KnownBlobs> {
        &self.known
    }

    /// Compresses a metadata blob and takes it.
    pub async fn store(&mut self, raw: Vec<u8>) -> Result<BlobId> {
        let known = self.known.clone();
        let encoded = self.pipeline.run(move |worker| encode(worker, &known, raw)).await?;
        let id = encoded.id;
        self.take(encoded).await?;
        Ok(id)
    }

    /// Takes a blob; tells whether it was new.
    pub async fn take(&mut self, encoded: EncodedBlob) -> Result<bool> {
        if matches!(encoded.payload, Payload::Known) || !self.added.insert(encoded.id) {
            return Ok(false);
        }
        match encoded.payload {
            Payload::Known => {}
            Payload::Memory(blob) => {
                self.bytes_added += blob.stored.len() as u64;
                if let Some(writer) = &mut self.writer {
                    writer.append(blob).await?;
                }
            }
            Payload::Spooled { file, stored_bytes, flags, crc32c } => {
                self.bytes_added += stored_bytes;
                self.append_spooled(file, stored_bytes).await?;
                if let Some(writer) = &mut self.writer {
                    let raw_bytes = encoded.raw_bytes;
                    writer.end_blob(encoded.id, stored_bytes, raw_bytes, flags, crc32c).await?;
                }
            }
        }
        Ok(true)
    }

    async fn append_spooled(&mut self, file: File, stored_bytes: u64) -> Result<()> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let mut file = file;
        let mut left = stored_bytes;
        while left > 0 {
            let piece_bytes = left.min(SPOOL_PIECE_BYTES as u64) as usize;
            let (returned, piece) = self
                .pipeline
                .run(move |_| {
                    let mut piece = vec![0; piece_bytes];
                    file.read_exact(&mut piece).map_err(|error| {
                        Error::caused(ErrorKind::Io, "cannot read an attachment back from the spool", error)
                    })?;
                    Ok((file, piece))
                })
                .await?;
            file = returned;
            left -= piece.len() as u64;
            writer.append_piece(Bytes::from(piece)).await?;
        }
        Ok(())
    }

    /// Seals the last pack and returns what was added, once all of it is durable.
    ///
    /// On failure the sink is to be abandoned.
    pub async fn finish(&mut self) -> Result<Added> {
        let blobs = self.added.len() as u64;
        let written = match &mut self.writer {
            Some(writer) => writer.finish().await?,
            None => WrittenPacks::default(),
        };
        Ok(Added { written, blobs, bytes: self.bytes_added })
    }

    /// Gives up; nothing is written after this returns. Returns what is durable all the same.
    pub async fn abandon(self) -> WrittenPacks {
        match self.writer {
            Some(writer) => writer.abandon().await,
            None => WrittenPacks::default(),
        }
    }
}
