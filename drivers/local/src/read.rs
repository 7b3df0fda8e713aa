//! Reading: positional, into buffers of exactly the length that was asked for.
//!
//! Lengths are checked against the open file before anything is allocated, and a file that ends early is
//! `ErrorKind::Short`, never a short answer.

use std::fs::File;
use std::ops::Range;

use bytes::Bytes;
use packvault_storage::{ErrorKind, Key, Operation, Result, Step, range_bytes};
use rustix::buffer::spare_capacity;
use rustix::io::retry_on_intr;

use crate::client::{Client, open_object};
use crate::error::SystemErrors;
use crate::staging::is_scratch;

/// Reads the whole object.
pub(crate) fn read(client: &Client, key: &Key) -> Result<Bytes> {
    let step = Step::new(Operation::Read, key.as_str());
    let (file, size_bytes) = open_sized(client, step, key)?;
    let len = range_bytes(key, &(0..size_bytes), size_bytes)?;
    read_exactly(step, &file, 0, len)
}

/// Reads one range of the object.
pub(crate) fn read_range(client: &Client, key: &Key, range: &Range<u64>) -> Result<Bytes> {
    let step = Step::new(Operation::Read, key.as_str());
    let (file, size_bytes) = open_sized(client, step, key)?;
    let len = range_bytes(key, range, size_bytes)?;
    read_exactly(step, &file, range.start, len)
}

/// Reads the object up to a length.
pub(crate) fn read_start(client: &Client, key: &Key, bytes_max: u64) -> Result<Bytes> {
    let step = Step::new(Operation::Read, key.as_str());
    let (file, size_bytes) = open_sized(client, step, key)?;
    let len = range_bytes(key, &(0..size_bytes.min(bytes_max)), size_bytes)?;
    read_exactly(step, &file, 0, len)
}

/// Reads the ranges from one open file, so that all of them are of the same object.
pub(crate) fn read_ranges(client: &Client, key: &Key, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
    let step = Step::new(Operation::Read, key.as_str());
    let (file, size_bytes) = open_sized(client, step, key)?;
    let lens: Vec<_> =
        ranges.iter().map(|range| range_bytes(key, range, size_bytes)).collect::<Result<_>>()?;
    ranges.iter().zip(lens).map(|(range, len)| read_exactly(step, &file, range.start, len)).collect()
}

/// Reads exactly `len` bytes from the offset on.
pub(crate) fn read_exactly(step: Step<'_>, file: &File, offset: u64, len: usize) -> Result<Bytes> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(len).map_err(|error| {
        step.error(ErrorKind::Io, format!("no memory for {len} bytes of it")).with_source(error)
    })?;
    while buffer.len() < len {
        let at = offset + buffer.len() as u64;
        match retry_on_intr(|| rustix::io::pread(file, spare_capacity(&mut buffer), at)) {
            Ok(0) => {
                let detail = format!("ends after {} of {len} bytes from {offset} on", buffer.len());
                return Err(step.error(ErrorKind::Short, detail));
            }
            Ok(_) => {}
            Err(errno) => return Err(step.failed("read its file", errno)),
        }
    }
    // The allocator may have given room for more.
    buffer.truncate(len);
    Ok(Bytes::from(buffer))
}

fn open_sized(client: &Client, step: Step<'_>, key: &Key) -> Result<(File, u64)> {
    if is_scratch(key) {
        return Err(step.not_found());
    }
    let file = open_object(client, step, key)?;
    let meta = file.metadata().map_err(|error| step.failed_io("look at its file", error))?;
    Ok((file, meta.len()))
}
