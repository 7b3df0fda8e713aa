//! The spool: local disk between what makes objects and a line that carries them away.
//!
//! A streamed object lies here until the store has it, so that a broken upload can begin anew, and so that
//! whoever writes does not wait for the line: a pinned database is let go as soon as its pages are here.
//! What lies here is bounded: a writer waits while the spool is full and something is on its way out of it.
//! An object that is larger than the whole spool, or the only one, is admitted all the same. Files have no
//! name, so that nothing of a killed process stays behind.

use std::fs::File;
use std::io::ErrorKind as IoErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use crate::{Error, ErrorKind, Operation, Result};

/// Bytes that are kept in memory before they are written; an object up to this size never meets the disk.
const BUFFER_BYTES: usize = 1024 * 1024;

/// Objects on local disk on their way into a storage.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    bytes_max: u64,
    uploads: Semaphore,
    load: Mutex<Load>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Load {
    bytes: u64,
    leaving: usize,
}

impl Spool {
    /// Makes a spool in the folder, which is made when first needed: at most so many bytes, and at most so
    /// many uploads out of it at once.
    pub fn new(folder: impl Into<PathBuf>, bytes_max: u64, uploads_max: usize) -> Self {
        Self {
            folder: folder.into(),
            bytes_max,
            uploads: Semaphore::new(uploads_max.clamp(1, Semaphore::MAX_PERMITS)),
            load: Mutex::default(),
            freed: Notify::new(),
        }
    }

    /// Waits for a place among the uploads.
    pub(crate) async fn upload(&self) -> SemaphorePermit<'_> {
        self.uploads.acquire().await.expect("the semaphore is never closed")
    }

    /// Only numbers change under the lock, so a panic leaves them consistent.
    fn load(&self) -> MutexGuard<'_, Load> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn admit(&self, bytes: u64) {
        loop {
            // The waiter is made before the look: what is freed between the two wakes it.
            let freed = self.freed.notified();
            {
                let mut load = self.load();
                // Waiting for nothing would last for ever.
                if load.leaving == 0 || load.bytes.saturating_add(bytes) <= self.bytes_max {
                    load.bytes += bytes;
                    return;
                }
            }
            freed.await;
        }
    }

    fn error(&self, what: &str, error: std::io::Error) -> Error {
        let full = matches!(error.kind(), IoErrorKind::StorageFull | IoErrorKind::QuotaExceeded);
        let kind = if full { ErrorKind::Full } else { ErrorKind::Io };
        let object = format!("the spool in {}", self.folder.display());
        Error::new(kind, Operation::Write, object, what).with_source(error)
    }
}

/// One object in the spool: the beginning in a file, the end still in memory.
#[derive(Debug)]
pub(crate) struct SpoolFile {
    spool: Arc<Spool>,
    file: Option<Arc<File>>,
    written_bytes: u64,
    buffer: BytesMut,
    admitted_bytes: u64,
    leaving: bool,
}

impl SpoolFile {
    pub(crate) fn new(spool: Arc<Spool>) -> Self {
        Self {
            spool,
            file: None,
            written_bytes: 0,
            buffer: BytesMut::new(),
            admitted_bytes: 0,
            leaving: false,
        }
    }

    /// Returns the length of the object so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.written_bytes + self.buffer.len() as u64
    }

    /// Appends bytes, once there is room.
    pub(crate) async fn append(&mut self, bytes: &Bytes) -> Result<()> {
        self.spool.admit(bytes.len() as u64).await;
        self.admitted_bytes += bytes.len() as u64;
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_BYTES { self.write_buffer().await } else { Ok(()) }
    }

    /// Says that the object is complete and on its way out: from now on others may wait for its room.
    pub(crate) fn leave(&mut self) {
        if !std::mem::replace(&mut self.leaving, true) {
            self.spool.load().leaving += 1;
            self.spool.freed.notify_waiters();
        }
    }

    /// Returns the whole object if it never had to be written to disk.
    pub(crate) fn in_memory(&self) -> Option<Bytes> {
        self.file.is_none().then(|| Bytes::copy_from_slice(&self.buffer))
    }

    /// Reads the bytes of a range that lies inside the object.
    pub(crate) async fn read(&self, start: u64, len: usize) -> Result<Bytes> {
        let Some(file) = &self.file else {
            let start = start as usize;
            return Ok(Bytes::copy_from_slice(&self.buffer[start..start + len]));
        };
        let in_file = (self.written_bytes.saturating_sub(start) as usize).min(len);
        let (file, tail) = (Arc::clone(file), &self.buffer);
        let mut bytes = run(&self.spool, "cannot read back from it", move || {
            let mut bytes = vec![0; in_file];
            file.read_exact_at(&mut bytes, start)?;
            Ok(bytes)
        })
        .await?;
        let from = (start + in_file as u64).saturating_sub(self.written_bytes) as usize;
        bytes.extend_from_slice(&tail[from..from + (len - in_file)]);
        Ok(bytes.into())
    }

    async fn write_buffer(&mut self) -> Result<()> {
        let file = match &self.file {
            Some(file) => Arc::clone(file),
            None => {
                let folder = self.spool.folder.clone();
                let make = move || make_file(&folder);
                let file = Arc::new(run(&self.spool, "cannot make a file in it", make).await?);
                self.file = Some(Arc::clone(&file));
                file
            }
        };
        let (bytes, at) = (self.buffer.split().freeze(), self.written_bytes);
        let len = bytes.len() as u64;
        run(&self.spool, "cannot write to it", move || file.write_all_at(&bytes, at)).await?;
        self.written_bytes += len;
        Ok(())
    }
}

impl Drop for SpoolFile {
    fn drop(&mut self) {
        let mut load = self.spool.load();
        load.bytes = load.bytes.saturating_sub(self.admitted_bytes);
        load.leaving -= usize::from(self.leaving);
        drop(load);
        self.spool.freed.notify_waiters();
    }
}

fn make_file(folder: &Path) -> std::io::Result<File> {
    std::fs::create_dir_all(folder)?;
    tempfile::tempfile_in(folder)
}

async fn run<T: Send + 'static>(
    spool: &Arc<Spool>,
    what: &'static str,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| spool.error(what, error)),
        Err(error) => Err(spool.error(what, std::io::Error::other(error))),
    }
}
