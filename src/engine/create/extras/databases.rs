//! The databases among the files: an image of each, and what is wrong with it.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::time::Duration;

use super::{EXTRA_BYTES_MAX, MEMORY_BYTES_MAX, base_of};
use crate::archive::content::Content;
use crate::archive::database_file::Moved;
use crate::archive::extras::{FoundExtra, is_of_the_process};
use crate::archive::other_databases::{CapturedImage, ImageFile, ImageOptions, capture_image};
use crate::archive::pinned::Reading;
use crate::archive::steady::Watched;
use crate::cancel::Cancel;
use crate::engine::create::known::KnownBlobs;
use crate::engine::create::sink::{EncodedBlob, Payload, encode};
use crate::engine::create::spool;
use crate::engine::pipeline::Worker;
use crate::engine::report::PagesRead;
use crate::{Error, ErrorKind, Result};

/// How often a database that moves is read.
const ATTEMPTS_MAX: u32 = 4;
/// The pause before the second attempt; twice that before the third, and so on.
const PAUSE: Duration = Duration::from_millis(200);

/// What came of capturing a database.
#[derive(Debug)]
pub enum Image {
    /// Its permission bits and the image.
    Taken {
        /// The permission bits.
        mode: u32,
        /// The image.
        blob: EncodedBlob,
        /// How its pages were read.
        read: PagesRead,
        /// What is wrong with it.
        problems: Vec<String>,
        /// What could not be checked.
        unchecked: Vec<String>,
    },
    /// It is not there any more.
    Gone,
    /// Its application keeps it for itself.
    Busy(String),
    /// It cannot be captured, and why.
    Refused(String),
}

/// Captures a database.
pub fn capture(
    worker: &mut Worker,
    known: &KnownBlobs,
    extra: &FoundExtra,
    (checks, window): (bool, Duration),
    cancel: &Cancel,
) -> Result<Image> {
    let mut image = ImageFile::new(&worker.spool, checks)?;
    let captured = match capture_still(extra, &mut image.file, window, cancel) {
        Ok(Some(captured)) => captured,
        Ok(None) => return Ok(Image::Gone),
        Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
        Err(error) if error.is_full() || is_of_the_process(&error) => return Err(error),
        Err(error) if error.kind() == ErrorKind::InUse => return Ok(Image::Busy(error.chain())),
        Err(error) => return Ok(Image::Refused(error.chain())),
    };
    let path = extra.path();
    let mut problems = captured.problems;
    let health = image.health(captured.pages, &path, cancel)?;
    problems.extend(health.problems);
    let blob = store(worker, known, extra, &image.file, captured.bytes)?;
    let read = match captured.reading {
        Reading::File => PagesRead::File,
        Reading::Transaction => PagesRead::Transaction,
    };
    Ok(Image::Taken { mode: captured.mode, blob, read, problems, unchecked: health.unchecked })
}

/// Captures the image, again where the database moved while it was read.
fn capture_still(
    extra: &FoundExtra,
    image: &mut File,
    window: Duration,
    cancel: &Cancel,
) -> Result<Option<CapturedImage>> {
    let how = ImageOptions { bytes_max: EXTRA_BYTES_MAX, forced: None, window };
    for attempt in 1..ATTEMPTS_MAX {
        match capture_image(extra, image, &how, cancel) {
            Err(error) if Moved::of(&error).is_some() => {
                cancel.check()?;
                std::thread::sleep(PAUSE * attempt);
            }
            captured => return captured,
        }
    }
    capture_image(extra, image, &ImageOptions { forced: Some(Reading::Transaction), ..how }, cancel)
}

fn store(
    worker: &mut Worker,
    known: &KnownBlobs,
    extra: &FoundExtra,
    image: &File,
    bytes: u64,
) -> Result<EncodedBlob> {
    let failed = |error| {
        let message = format!("cannot read the image of {} back from the spool", extra.path().display());
        Error::caused(ErrorKind::Io, message, error)
    };
    let content = || {
        let mut again = image.try_clone().map_err(failed)?;
        again.seek(SeekFrom::Start(0)).map_err(failed)?;
        Ok(Content::from_stream(Box::new(again), bytes, extra.path()))
    };
    if bytes <= MEMORY_BYTES_MAX {
        let mut raw = vec![0; bytes as usize];
        let mut content = content()?;
        content.read(&mut raw)?;
        content.finish()?;
        return encode(worker, known, raw);
    }
    let id = spool::hash(&mut content()?)?;
    if known.contains(&id) {
        return Ok(EncodedBlob { id, raw_bytes: bytes, payload: Payload::Known });
    }
    spool::encode(worker, (known.sealing(), id), content()?, content, |_, _| Ok(()))
}

/// Splits what is named like a file of SQLite into what belongs to no database, and what does.
///
/// No database may be open in this process, for the file beside each is opened and closed.
pub fn without_base(extras: Vec<FoundExtra>) -> Result<(Vec<FoundExtra>, Vec<FoundExtra>)> {
    let belongs = |extra: &FoundExtra| {
        let base =
            base_of(extra.recorded()).and_then(|base| extra.sibling(extra.recorded().len() - base.len()));
        base.is_some_and(|base| matches!(Watched::open(&base), Ok(Some(base)) if base.is_database()))
    };
    let (orphans, others) = extras.into_iter().partition(belongs);
    Ok((others, orphans))
}
