//! Attachments and extra files of a restore: written into the staging, each proved against its id.

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use crate::archive::sparse;
use crate::archive::target::Target;
use crate::engine::bulk::{BlobVisitor, PieceSink};
use crate::error::lift::io_error;
use crate::format::BlobId;
use crate::format::pack::Entry;
use crate::progress::{Progress, Stage};
use crate::repo::blobs::BlobFailure;
use crate::{Error, ErrorKind, Result};

/// A file to be written.
#[derive(Debug, Clone)]
pub struct RestoredFile {
    /// The checked path below the target.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// The content.
    pub blob: BlobId,
    /// Its length, as the snapshot lists it.
    pub bytes: u64,
}

/// Writes blobs to the files that have them as content.
pub struct FilesVisitor {
    target: Arc<Target>,
    progress: Arc<dyn Progress>,
    stage: Stage,
    files: HashMap<BlobId, Vec<RestoredFile>>,
}

impl FilesVisitor {
    /// Makes a visitor for the files of one stage.
    pub fn new(
        target: Arc<Target>,
        progress: Arc<dyn Progress>,
        stage: Stage,
        files: Vec<RestoredFile>,
    ) -> Self {
        let mut by_blob: HashMap<BlobId, Vec<RestoredFile>> = HashMap::new();
        for file in files {
            by_blob.entry(file.blob).or_default().push(file);
        }
        Self { target, progress, stage, files: by_blob }
    }

    /// Returns the blobs that are wanted.
    pub fn blobs(&self) -> Vec<BlobId> {
        self.files.keys().copied().collect()
    }

    fn files_of(&self, id: &BlobId) -> &[RestoredFile] {
        self.files.get(id).map(Vec::as_slice).unwrap_or_default()
    }

    fn write(&self, file: &RestoredFile, raw: &[u8]) -> Result<()> {
        let staged = self.target.stage_file(&file.path, file.mode)?;
        let written = sparse::write_at(&staged, raw, 0).and_then(|()| staged.set_len(raw.len() as u64));
        written.map_err(|error| io_error("write", &self.target.staged_path(&file.path), error))
    }
}

impl BlobVisitor for FilesVisitor {
    fn takes_pieces(&self, _: &BlobId) -> bool {
        true
    }

    fn located(&self, entry: &Entry) -> Result<()> {
        match self.files_of(&entry.id).iter().find(|file| file.bytes != entry.raw_bytes) {
            None => Ok(()),
            Some(file) => {
                let message = format!("{:?} is listed with {} bytes", file.path, file.bytes);
                Err(Error::new(ErrorKind::Damaged, message))
            }
        }
    }

    fn whole(&self, entry: &Entry, raw: &[u8]) -> Result<()> {
        self.files_of(&entry.id).iter().try_for_each(|file| self.write(file, raw))
    }

    fn pieces(&self, entry: &Entry) -> Result<Box<dyn PieceSink>> {
        let mut files = Vec::new();
        for file in self.files_of(&entry.id) {
            files.push((self.target.stage_file(&file.path, file.mode)?, self.target.staged_path(&file.path)));
        }
        Ok(Box::new(StagedFiles { files, written_bytes: 0 }))
    }

    fn failed(&self, failure: BlobFailure) -> Result<()> {
        Err(failure.into())
    }

    fn done(&self, entry: &Entry) {
        self.progress.advance(self.stage, self.files_of(&entry.id).len() as u64);
    }
}

/// Files that take the same bytes, piece by piece; discarded with the staging if the blob proves damaged.
struct StagedFiles {
    files: Vec<(File, PathBuf)>,
    written_bytes: u64,
}

impl PieceSink for StagedFiles {
    fn accept(&mut self, piece: &[u8]) -> Result<()> {
        for (file, path) in &self.files {
            sparse::write_at(file, piece, self.written_bytes)
                .map_err(|error| io_error("write", path, error))?;
        }
        self.written_bytes += piece.len() as u64;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        // A hole at the end is there only when the length says so.
        let sized = |(file, path): &(File, PathBuf)| {
            file.set_len(self.written_bytes).map_err(|error| io_error("write", path, error))
        };
        self.files.iter().try_for_each(sized)
    }
}
