//! Reading one extra file: its content as it was at one moment, or why there is none.
//!
//! Small files are read whole, large ones go through the spool, so memory does not grow with their size. A
//! large file whose content is stored already is only hashed.

use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{EXTRA_BYTES_MAX, MEMORY_BYTES_MAX};
use crate::archive::content::Content;
use crate::archive::extras::{FoundExtra, is_of_the_process};
use crate::archive::selected::root_cause;
use crate::archive::sighting::{Print, Sighting};
use crate::archive::steady::{Noted, Trouble, Watched};
use crate::engine::create::beliefs::Beliefs;
use crate::engine::create::known::KnownBlobs;
use crate::engine::create::sink::{EncodedBlob, Payload, encode};
use crate::engine::create::spool;
use crate::engine::pipeline::Worker;
use crate::format::BlobId;
use crate::{Error, ErrorKind, Result};

/// Bytes that are compared at a time.
const PIECE_BYTES: usize = 64 * 1024;

/// What came of reading a file.
#[derive(Debug)]
pub enum Outcome {
    /// Its permission bits, its content, and by what it is known the next time, if it can be.
    Read(u32, EncodedBlob, Option<Print>),
    /// It is a SQLite database, and was not read.
    Database,
    /// It is not there any more.
    Gone,
    /// It changed while it was read.
    Changed,
    /// It cannot be taken, and why.
    Unreadable(String),
}

/// Reads a file. An error is not about the file: it would meet every other file as well.
pub fn read(
    worker: &mut Worker,
    known: &KnownBlobs,
    beliefs: Option<&Beliefs>,
    extra: &FoundExtra,
) -> Result<Outcome> {
    let watched = match Watched::open(extra) {
        Ok(Some(watched)) => watched,
        Ok(None) => return Ok(Outcome::Gone),
        Err(error) if is_of_the_process(&error) => return Err(error),
        Err(error) => return Ok(Outcome::Unreadable(format!("it cannot be read: {}", root_cause(&error)))),
    };
    if watched.is_database() {
        return Ok(Outcome::Database);
    }
    let raw_bytes = watched.before.st_size as u64;
    let remembered = beliefs.and_then(|beliefs| {
        let may = beliefs.may_remember(&Sighting::of(&watched.before));
        watched.settled().filter(|_| may).map(|sighting| beliefs.print_of_extra(extra.recorded(), &sighting))
    });
    let reading = Reading { extra, trouble: Trouble::default(), changed: Cell::new(false) };
    let blob = match raw_bytes {
        too_many if too_many > EXTRA_BYTES_MAX => {
            return Ok(Outcome::Unreadable("it is larger than 4 GiB, too large for a snapshot".to_owned()));
        }
        few if few <= MEMORY_BYTES_MAX => reading.small(worker, known, &watched),
        _ => reading.large(worker, known, &watched),
    };
    let remembered = remembered.filter(|_| blob.is_ok() && watched.is_unchanged(extra));
    reading.outcome(watched.before.st_mode & 0o777, blob, remembered)
}

/// One reading, and what came in its way.
struct Reading<'a> {
    extra: &'a FoundExtra,
    trouble: Trouble,
    changed: Cell<bool>,
}

impl Reading<'_> {
    fn outcome(self, mode: u32, blob: Result<EncodedBlob>, remembered: Option<Print>) -> Result<Outcome> {
        let trouble = self.trouble.lock().expect("no holder of the trouble panics").take();
        match (blob, trouble) {
            (Err(_), _) if self.changed.get() => Ok(Outcome::Changed),
            (Err(_), Some(trouble)) => Ok(Outcome::Unreadable(format!("it cannot be read: {trouble}"))),
            // Content that is not as long as it was said to be.
            (Err(error), None) if error.kind() == ErrorKind::Source => Ok(Outcome::Changed),
            (Err(error), None) => Err(error),
            (Ok(blob), _) => Ok(Outcome::Read(mode, blob, remembered)),
        }
    }

    fn small(&self, worker: &mut Worker, known: &KnownBlobs, watched: &Watched) -> Result<EncodedBlob> {
        let mut raw = vec![0; watched.before.st_size as usize];
        let mut content = self.content(&watched.file, raw.len() as u64)?;
        content.read(&mut raw)?;
        content.finish()?;
        if !watched.is_proved(self.extra) {
            let again = self.again()?;
            self.compare(&again.file, again.before.st_size as u64, &raw)?;
        }
        encode(worker, known, raw)
    }

    fn large(&self, worker: &mut Worker, known: &KnownBlobs, watched: &Watched) -> Result<EncodedBlob> {
        let raw_bytes = watched.before.st_size as u64;
        let id = spool::hash(&mut self.content(&watched.file, raw_bytes)?)?;
        let reopen = || self.content(&self.again()?.file, raw_bytes);
        let same = |_: &Content, found: BlobId| if found == id { Ok(()) } else { Err(self.has_changed()) };
        if known.contains(&id) {
            if !watched.is_proved(self.extra) {
                let mut again = reopen()?;
                let found = spool::hash(&mut again)?;
                same(&again, found)?;
            }
            return Ok(EncodedBlob { id, raw_bytes, payload: Payload::Known });
        }
        // The second reading compresses; that it gives the same bytes proves the first.
        spool::encode(worker, (known.sealing(), id), reopen()?, reopen, same)
    }

    /// Opens the file once more: another one may have its name by now.
    fn again(&self) -> Result<Watched> {
        match Watched::open(self.extra) {
            Ok(Some(watched)) => Ok(watched),
            Err(error) if is_of_the_process(&error) => Err(error),
            Ok(None) | Err(_) => Err(self.has_changed()),
        }
    }

    fn content(&self, file: &File, raw_bytes: u64) -> Result<Content> {
        let reader = file.try_clone().map_err(|error| {
            Error::caused(ErrorKind::Io, format!("cannot read {}", self.extra.path().display()), error)
        })?;
        let noted = Noted { reader, trouble: self.trouble.clone() };
        Ok(Content::from_stream(Box::new(noted), raw_bytes, self.extra.path()))
    }

    fn compare(&self, file: &File, file_bytes: u64, raw: &[u8]) -> Result<()> {
        let mut piece = vec![0; PIECE_BYTES.min(raw.len())];
        let mut offset = 0;
        let mut same = file_bytes == raw.len() as u64;
        while same && offset < raw.len() {
            let piece = &mut piece[..PIECE_BYTES.min(raw.len() - offset)];
            same = file.read_exact_at(piece, offset as u64).is_ok() && *piece == raw[offset..][..piece.len()];
            offset += piece.len();
        }
        // A byte behind the end: it has grown since it was opened.
        let grew = same && file.read_at(&mut [0], raw.len() as u64).is_ok_and(|count| count > 0);
        if same && !grew { Ok(()) } else { Err(self.has_changed()) }
    }

    fn has_changed(&self) -> Error {
        self.changed.set(true);
        let message = format!("{} changed while it was read", self.extra.path().display());
        Error::new(ErrorKind::Source, message)
    }
}
