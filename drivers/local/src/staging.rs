//! The scratch folder `staging/`: where every object is written before it is published.
//!
//! A [`StagingFile`] owns one file there and removes it when dropped, so that an error, a cancelled call
//! or a dropped upload leaves nothing behind. A killed process leaves its files; they carry the names the
//! repository format gives them, and a sweep removes them. Another process may sweep at any time: a file
//! that vanished is no surprise here.

use std::fs::File;
use std::io::{ErrorKind as IoErrorKind, IoSlice, Write};

use bytes::Bytes;
use packvault_storage::{ErrorKind, Key, Result, Step, numbered, pack_staging_name};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::client::Client;
use crate::durable::sync_file;
use crate::error::SystemErrors;

/// The folder's name in the root.
pub(crate) const FOLDER: &str = "staging";

/// How many names are tried for one file before the folder is called unusable.
const NAMES_MAX: u32 = 16;

const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// A file in `staging/` that is gone once this is dropped.
#[derive(Debug)]
pub(crate) struct StagingFile {
    folder: File,
    name: String,
    file: File,
    is_gone: bool,
}

/// Tells whether the key lies in the scratch folder, where no object is.
pub(crate) fn is_scratch(key: &Key) -> bool {
    key.parts().next() == Some(FOLDER)
}

/// Refuses to write an object into the scratch folder.
pub(crate) fn refuse_scratch(step: Step<'_>, key: &Key) -> Result<()> {
    if is_scratch(key) {
        return Err(step.error(ErrorKind::Unsupported, "that folder is for unfinished uploads"));
    }
    Ok(())
}

impl StagingFile {
    /// Makes a new, empty file, and the scratch folder if it is missing.
    pub(crate) fn begin(client: &Client, step: Step<'_>, key: &Key) -> Result<Self> {
        refuse_scratch(step, key)?;
        Self::begin_named(client, step, |attempt| match pack_staging_name(key) {
            Some(name) if attempt == 0 => name,
            _ => numbered(key.name()),
        })
    }

    /// Makes a new, empty file for a purpose of the driver's own.
    pub(crate) fn begin_scratch(client: &Client, step: Step<'_>, purpose: &str) -> Result<Self> {
        Self::begin_named(client, step, |_| numbered(purpose))
    }

    fn begin_named(client: &Client, step: Step<'_>, name: impl Fn(u32) -> String) -> Result<Self> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for attempt in 0..NAMES_MAX {
            let folder = client.make_folder(step, FOLDER)?;
            let name = name(attempt);
            match retry_on_intr(|| rustix::fs::openat(&folder, &name, flags, FILE_MODE)) {
                Ok(file) => return Ok(Self { folder, name, file: File::from(file), is_gone: false }),
                // The name is taken, or the whole folder was removed under us.
                Err(Errno::EXIST | Errno::NOENT) => {}
                Err(errno) => return Err(step.failed("make a file in staging", errno)),
            }
        }
        Err(step.error(
            ErrorKind::Io,
            "no file can be made in staging: its names are taken, or the folder is removed again and again",
        ))
    }

    /// Appends the pieces, as they are, in as few system calls as the system allows.
    pub(crate) fn write(&mut self, step: Step<'_>, pieces: &[Bytes]) -> Result<()> {
        let mut slices: Vec<_> =
            (pieces.iter()).filter(|piece| !piece.is_empty()).map(|p| IoSlice::new(p)).collect();
        let mut rest = slices.as_mut_slice();
        while !rest.is_empty() {
            match self.file.write_vectored(rest) {
                Ok(0) => {
                    return Err(step.error(ErrorKind::Io, "the system writes nothing to its staging file"));
                }
                Ok(written_bytes) => IoSlice::advance_slices(&mut rest, written_bytes),
                Err(error) if error.kind() == IoErrorKind::Interrupted => {}
                Err(error) => return Err(step.failed_io("write its staging file", error)),
            }
        }
        Ok(())
    }

    /// Makes the bytes durable.
    pub(crate) fn sync(&self, step: Step<'_>) -> Result<()> {
        sync_file(step, &self.file)
    }

    pub(crate) fn folder(&self) -> &File {
        &self.folder
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Records that the name is no longer ours: the file was renamed to where it belongs.
    pub(crate) fn moved_away(&mut self) {
        self.is_gone = true;
    }

    /// Removes the file; one that another process swept away is removed already.
    pub(crate) fn remove(mut self, step: Step<'_>) -> Result<()> {
        self.is_gone = true;
        match rustix::fs::unlinkat(&self.folder, &self.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(step.failed("remove its staging file", errno)),
        }
    }
}

impl Drop for StagingFile {
    fn drop(&mut self) {
        if !self.is_gone {
            // Nobody is left to hear of a failure; what remains is for the sweep.
            let _ = rustix::fs::unlinkat(&self.folder, &self.name, AtFlags::empty());
        }
    }
}
