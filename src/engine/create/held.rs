//! Changed pages that wait until the writers of their database may go on.
//!
//! While writers are held off, pages are only read and hashed; compressing and storing them comes later. The
//! first of them wait in memory, as many as the budget allows, the rest in a file without a name. That file
//! leaves room on its disk. Where none is left, whoever fills this stores what waits here, while writers wait.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::statvfs;

use super::plan::PlannedBlob;
use crate::archive::unnamed::unnamed_file;
use crate::engine::pipeline::{Pipeline, Reservation};
use crate::{Error, ErrorKind, Result};

/// What stays free on the disk of the file, at least.
const FREE_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// And at least this part of what was free.
const FREE_PART: u64 = 10;

/// The changed pages of one database, in their order.
#[derive(Debug)]
pub struct HeldPages {
    waiting: VecDeque<Held>,
    spool: PageSpool,
    /// Whether the file was too small for what changed.
    overflowed: bool,
}

#[derive(Debug)]
enum Held {
    Memory(PlannedBlob, Reservation),
    Spooled { ranges: Vec<(u64, u32)>, offset: u64, bytes: usize },
}

/// A file without a name, written from its beginning.
#[derive(Debug)]
struct PageSpool {
    folder: PathBuf,
    file: Option<File>,
    bytes: u64,
    bytes_max: u64,
}

impl HeldPages {
    /// Makes an empty place; the file, if one is needed, lies in the folder.
    pub fn new(folder: PathBuf) -> Self {
        let spool = PageSpool { folder, file: None, bytes: 0, bytes_max: 0 };
        Self { waiting: VecDeque::new(), spool, overflowed: false }
    }

    /// Keeps a blob for later, or returns it if there is no room.
    pub async fn keep(&mut self, pipeline: &Pipeline, blob: PlannedBlob) -> Result<Option<PlannedBlob>> {
        let bytes = blob.raw.len();
        // Once something lies in the file, nothing is put into memory: what is reserved there is given back
        // first, so that whoever takes from here finds the whole budget free when the file's turn comes.
        if self.spool.bytes == 0 && pipeline.has_room(bytes as u64) {
            let reservation = pipeline.reserve(bytes as u64).await;
            self.waiting.push_back(Held::Memory(blob, reservation));
            return Ok(None);
        }
        let offset = self.spool.bytes;
        match self.spool.append(pipeline, blob.raw).await? {
            Ok(raw) => {
                pipeline.recycle(raw);
                self.waiting.push_back(Held::Spooled { ranges: blob.ranges, offset, bytes });
                Ok(None)
            }
            Err(raw) => {
                self.overflowed = true;
                Ok(Some(PlannedBlob { raw, ranges: blob.ranges }))
            }
        }
    }

    /// Returns the next blob and the memory that was reserved for it, if it was.
    pub async fn next(&mut self, pipeline: &Pipeline) -> Result<Option<(PlannedBlob, Option<Reservation>)>> {
        let next = match self.waiting.pop_front() {
            None => None,
            Some(Held::Memory(blob, reservation)) => Some((blob, Some(reservation))),
            Some(Held::Spooled { ranges, offset, bytes }) => {
                let raw = self.spool.read(pipeline, offset, bytes).await?;
                Some((PlannedBlob { raw, ranges }, None))
            }
        };
        if self.waiting.is_empty() {
            // What comes next overwrites it.
            self.spool.bytes = 0;
        }
        Ok(next)
    }

    /// Returns how many bytes the next blob will take in memory that is not reserved yet.
    pub fn next_bytes(&self) -> u64 {
        match self.waiting.front() {
            Some(Held::Spooled { bytes, .. }) => *bytes as u64,
            _ => 0,
        }
    }

    /// Tells whether there was no room for all, so that writers waited for longer.
    pub fn has_overflowed(&self) -> bool {
        self.overflowed
    }

    /// Returns the folder of the file.
    pub fn folder(&self) -> &std::path::Path {
        &self.spool.folder
    }
}

impl PageSpool {
    /// Writes the bytes behind the others; gives them back in any case, as an error if there is no room.
    ///
    /// Whatever keeps a file from being written, the capture can do without it.
    async fn append(
        &mut self,
        pipeline: &Pipeline,
        raw: Vec<u8>,
    ) -> Result<std::result::Result<Vec<u8>, Vec<u8>>> {
        if self.file.is_none() && self.bytes_max == 0 {
            (self.file, self.bytes_max) = self.make(pipeline).await?;
        }
        let Some(file) = self.file.take() else { return Ok(Err(raw)) };
        if self.bytes + raw.len() as u64 > self.bytes_max {
            self.file = Some(file);
            return Ok(Err(raw));
        }
        let offset = self.bytes;
        let (file, raw, written) = pipeline
            .run(move |_| {
                let written = file.write_all_at(&raw, offset);
                Ok((file, raw, written))
            })
            .await?;
        self.file = Some(file);
        match written {
            Ok(()) => {
                self.bytes += raw.len() as u64;
                Ok(Ok(raw))
            }
            Err(_) => {
                self.bytes_max = self.bytes;
                Ok(Err(raw))
            }
        }
    }

    /// Makes the file and finds out how long it may become; without a file, it may not.
    async fn make(&self, pipeline: &Pipeline) -> Result<(Option<File>, u64)> {
        let folder = self.folder.clone();
        pipeline
            .run(move |_| {
                let made = unnamed_file(&folder);
                let free = statvfs(&folder).map_or(0, |system| system.f_bavail * system.f_frsize);
                let bytes_max = free.saturating_sub(FREE_BYTES_MIN.max(free / FREE_PART));
                Ok((made.ok(), bytes_max.max(1)))
            })
            .await
    }

    async fn read(&mut self, pipeline: &Pipeline, offset: u64, bytes: usize) -> Result<Vec<u8>> {
        let file = self.file.take().expect("what was spooled lies in a file");
        let mut raw = pipeline.buffer();
        let (file, raw) = pipeline
            .run(move |_| {
                raw.resize(bytes, 0);
                file.read_exact_at(&mut raw, offset).map_err(|error| {
                    Error::caused(ErrorKind::Io, "cannot read pages back from the spool", error)
                })?;
                Ok((file, raw))
            })
            .await?;
        self.file = Some(file);
        Ok(raw)
    }
}
