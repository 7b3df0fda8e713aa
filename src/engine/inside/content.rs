//! One blob, handed out only when all of it was checked: a small one from memory, a large one by way of a file
//! without a name.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::output::{Output, hand_out};
use crate::archive::unnamed::unnamed_file;
use crate::engine::bulk::{self, BlobVisitor, PieceSink};
use crate::engine::pipeline::Pipeline;
use crate::format::BlobId;
use crate::format::pack::Entry;
use crate::repo::blobs::{BlobFailure, BlobStore};
use crate::{Error, ErrorKind, Result};

/// Bytes handed out at a time.
const PIECE_BYTES: usize = 1024 * 1024;

/// A blob that was checked.
pub enum Checked {
    /// A small one.
    Memory(Vec<u8>),
    /// A large one, in a file without a name, from its beginning on.
    Spooled(File),
}

/// Reads a blob of a known length.
pub async fn fetch(
    pipeline: &Pipeline,
    store: &Arc<BlobStore>,
    (id, bytes): (BlobId, u64),
) -> Result<Checked> {
    let spool = pipeline.context().spool.clone();
    let visitor = Arc::new(Taking { bytes, spool, taken: Arc::default() });
    bulk::read(pipeline, store, [id], &visitor).await?;
    let taken = visitor.taken.lock().expect("no holder of a blob panics").take();
    taken.ok_or_else(|| Error::new(ErrorKind::Io, format!("blob {id} was not read to its end")))
}

/// Reads a blob of a known length and hands it out.
pub async fn copy(
    pipeline: &Pipeline,
    store: &Arc<BlobStore>,
    blob: (BlobId, u64),
    output: &Arc<dyn Output>,
) -> Result<()> {
    match fetch(pipeline, store, blob).await? {
        Checked::Memory(raw) => hand_out(pipeline, output, raw).await,
        Checked::Spooled(file) => from_spool(pipeline, file, &pipeline.context().spool, output).await,
    }
}

async fn from_spool(
    pipeline: &Pipeline,
    mut file: File,
    spool: &Path,
    output: &Arc<dyn Output>,
) -> Result<()> {
    loop {
        let shown = spool.to_owned();
        let read = pipeline.run(move |_| {
            let mut piece = Vec::new();
            let read = (&mut file).take(PIECE_BYTES as u64).read_to_end(&mut piece);
            read.map_err(|error| spool_error("read", &shown, error))?;
            Ok((file, piece))
        });
        let piece;
        (file, piece) = read.await?;
        if piece.is_empty() {
            return Ok(());
        }
        hand_out(pipeline, output, piece).await?;
    }
}

pub(super) fn spool_error(what: &str, spool: &Path, error: std::io::Error) -> Error {
    let message = format!("cannot {what} the spool in {}; --spool names another folder", spool.display());
    Error::caused(ErrorKind::Io, message, error)
}

/// Takes one blob whole.
struct Taking {
    bytes: u64,
    spool: PathBuf,
    taken: Arc<Mutex<Option<Checked>>>,
}

impl BlobVisitor for Taking {
    fn takes_pieces(&self, _: &BlobId) -> bool {
        true
    }

    fn located(&self, entry: &Entry) -> Result<()> {
        if entry.raw_bytes == self.bytes {
            return Ok(());
        }
        let message =
            format!("the snapshot lists it with {} bytes, and it has {}", self.bytes, entry.raw_bytes);
        Err(Error::new(ErrorKind::Damaged, message))
    }

    fn whole(&self, _: &Entry, raw: &[u8]) -> Result<()> {
        *self.taken.lock().expect("no holder of a blob panics") = Some(Checked::Memory(raw.to_vec()));
        Ok(())
    }

    fn pieces(&self, _: &Entry) -> Result<Box<dyn PieceSink>> {
        let file = unnamed_file(&self.spool)?;
        Ok(Box::new(Spooling { file, spool: self.spool.clone(), taken: Arc::clone(&self.taken) }))
    }

    fn failed(&self, failure: BlobFailure) -> Result<()> {
        Err(failure.into())
    }

    fn done(&self, _: &Entry) {}
}

/// A blob on its way into the spool, where it waits until its end shows that it is what its id says.
struct Spooling {
    file: File,
    spool: PathBuf,
    taken: Arc<Mutex<Option<Checked>>>,
}

impl PieceSink for Spooling {
    fn accept(&mut self, piece: &[u8]) -> Result<()> {
        self.file.write_all(piece).map_err(|error| spool_error("write a large file to", &self.spool, error))
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let Self { mut file, spool, taken } = *self;
        file.seek(SeekFrom::Start(0)).map_err(|error| spool_error("read", &spool, error))?;
        *taken.lock().expect("no holder of a blob panics") = Some(Checked::Spooled(file));
        Ok(())
    }
}
