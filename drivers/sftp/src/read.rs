//! Reading: pieces asked for side by side, until exactly the bytes that were wanted are there.
//!
//! A server may answer a piece short; what is missing is asked for again from where the answer ended. An
//! object that ends early is `ErrorKind::Short`, never a short answer. The length is checked against the
//! open file before anything is allocated. Beside the result, one read holds one window of pieces.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future;
use futures::stream::{self, StreamExt, TryStreamExt};
use packvault_storage::{ErrorKind, Key, Operation, Result, Step, range_bytes};

use crate::answers::{OpenHandle, Waiting};
use crate::channel::{Channel, WINDOW_BYTES};
use crate::client::{Client, Found, LINK, classify, folder_of, is_scratch};
use crate::codec::{Attrs, OPEN_READ, Request};
use crate::error::{Breakage, Failure, ServerErrors};
use crate::handles::Opened;

/// An object up to this size is read while its size is still being confirmed.
const HASTY_BYTES_MAX: u64 = 1 << 20;

/// Reads up to this many bytes go over a channel that others use.
const LIGHT_BYTES_MAX: u64 = 256 * 1024;

/// How often an object is read anew that changed its size meanwhile.
const CHANGES_MAX: u32 = 8;

/// Reads the whole object.
pub(crate) async fn read(client: &Client, key: &Key) -> Result<Bytes> {
    read_start(client, key, u64::MAX).await
}

/// Reads the first bytes of the object: all of them, or `bytes_max` of a longer one.
pub(crate) async fn read_start(client: &Client, key: &Key, bytes_max: u64) -> Result<Bytes> {
    let step = Step::new(Operation::Read, key.as_str());
    let channel = client.light(step).await?;
    let (handle, seen) = open(client, &channel, step, key).await?;
    let seen = seen.size.map(|size| size.min(bytes_max));
    let mut expected = seen.filter(|wanted| *wanted <= HASTY_BYTES_MAX).unwrap_or(0);
    for _ in 0..CHANGES_MAX {
        let reading = read_exactly(client, &channel, step, &handle, 0, expected as usize);
        let (size, bytes) = future::join(size(&channel, step, &handle), reading).await;
        let size = size?.min(bytes_max);
        // Of an object that takes another's place meanwhile, the first look told another size.
        if size == expected {
            return bytes;
        }
        range_bytes(key, &(0..size), size)?;
        expected = size;
    }
    Err(step.error(ErrorKind::Conflict, "it changes its size again and again"))
}

/// Reads the ranges from one open file, so that all of them are of the same object.
pub(crate) async fn read_ranges(client: &Client, key: &Key, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
    let step = Step::new(Operation::Read, key.as_str());
    let wanted: u64 =
        ranges.iter().map(|range| range.end.saturating_sub(range.start)).fold(0, u64::saturating_add);
    let channel = match wanted <= LIGHT_BYTES_MAX {
        true => client.light(step).await?,
        false => client.heavy(step).await?,
    };
    let opened = match client.handles.find(&channel, key) {
        Some(opened) => opened,
        None => {
            let (handle, _) = open(client, &channel, step, key).await?;
            // What little is wanted is asked for while the size is still being confirmed.
            let hasty = async {
                match wanted <= HASTY_BYTES_MAX {
                    true => Some(read_all(client, &channel, step, &handle, ranges).await),
                    false => None,
                }
            };
            let (size, hasty) = future::join(size(&channel, step, &handle), hasty).await;
            let size_bytes = size?;
            let opened = Arc::new(Opened { handle, size_bytes });
            client.handles.keep(key, &opened);
            if let Some(read) = hasty {
                check_ranges(key, ranges, size_bytes)?;
                return read;
            }
            opened
        }
    };
    check_ranges(key, ranges, opened.size_bytes)?;
    read_all(client, &channel, step, &opened.handle, ranges).await
}

/// Sees that every range lies in an object of that size.
fn check_ranges(key: &Key, ranges: &[Range<u64>], size_bytes: u64) -> Result<()> {
    ranges.iter().try_for_each(|range| range_bytes(key, range, size_bytes).map(drop))
}

/// Reads ranges whose lengths are known to be sane.
async fn read_all(
    client: &Client,
    channel: &Channel,
    step: Step<'_>,
    handle: &OpenHandle,
    ranges: &[Range<u64>],
) -> Result<Vec<Bytes>> {
    let reads = ranges.iter().map(|range| {
        let len = range.end.saturating_sub(range.start) as usize;
        read_exactly(client, channel, step, handle, range.start, len)
    });
    let at_once = WINDOW_BYTES / channel.greeting().piece_bytes();
    stream::iter(reads.collect::<Vec<_>>()).buffered(at_once).try_collect().await
}

/// Opens the object for reading, and tells what lay under its name just before.
///
/// A server that opens a fifo waits for its other end and answers nothing meanwhile, so what was never seen
/// is looked at first. What was a plain file once is looked at and opened in one go.
pub(crate) async fn open(
    client: &Client,
    channel: &Channel,
    step: Step<'_>,
    key: &Key,
) -> Result<(OpenHandle, Attrs)> {
    if !client.was_plain(key) {
        let attrs = client.require_object(channel, step, key).await?;
        return Ok((opened(step, begin_open(client, channel, key).await).await?, attrs));
    }
    if is_scratch(key) || !client.find_folder(channel, step, folder_of(key.as_str())).await? {
        return Err(step.not_found());
    }
    let mut look = std::pin::pin!(client.look(channel, step, key.as_str()));
    // Asked once, so that the look is sent before the opening.
    let answered = future::poll_immediate(look.as_mut()).await;
    let opening = begin_open(client, channel, key).await;
    let found = match answered {
        Some(found) => found?,
        None => look.await?,
    };
    match found {
        Found::Object(attrs) => Ok((opened(step, opening).await?, attrs)),
        Found::Nothing | Found::Folder => Err(step.not_found()),
        Found::Other(what) => {
            if what != LINK {
                let text = format!("{key} has become {what}, and the server may wait for it");
                channel.give_up(Breakage::new(ErrorKind::Connection, text));
            }
            Err(step.refused(key.as_str(), what))
        }
    }
}

async fn begin_open(client: &Client, channel: &Channel, key: &Key) -> std::result::Result<Waiting, Failure> {
    let path = client.path(key.as_str());
    channel.begin(Request::Open { path: &path, flags: OPEN_READ, attrs: Attrs::default() }).await
}

async fn opened(step: Step<'_>, opening: std::result::Result<Waiting, Failure>) -> Result<OpenHandle> {
    let opened = match opening {
        Ok(waiting) => waiting.handle().await,
        Err(failure) => Err(failure),
    };
    match opened {
        Err(failure) if failure.is_no_such_file() => Err(step.not_found()),
        opened => opened.map_err(|failure| step.failed("open its file", failure)),
    }
}

async fn size(channel: &Channel, step: Step<'_>, handle: &OpenHandle) -> Result<u64> {
    let attrs = look_at(channel, step, handle).await?;
    attrs.size.ok_or_else(|| step.error(ErrorKind::Unsupported, "the server tells no sizes of files"))
}

/// Tells what the server knows of the open file.
pub(crate) async fn look_at(channel: &Channel, step: Step<'_>, handle: &OpenHandle) -> Result<Attrs> {
    let looking = async { channel.begin(Request::Fstat { handle: handle.raw() }).await?.attrs().await };
    let attrs = looking.await.map_err(|failure| step.failed("look at its open file", failure))?;
    match classify(attrs) {
        Found::Object(attrs) => Ok(attrs),
        _ => Err(step.refused(step.object, "no plain file")),
    }
}

/// Reads exactly `len` bytes from the offset on.
pub(crate) async fn read_exactly(
    client: &Client,
    channel: &Channel,
    step: Step<'_>,
    handle: &OpenHandle,
    offset: u64,
    len: usize,
) -> Result<Bytes> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(len).map_err(|error| {
        step.error(ErrorKind::Io, format!("no memory for {len} bytes of it")).with_source(error)
    })?;
    let piece_bytes = channel.greeting().piece_bytes();
    let pieces = (0..len).step_by(piece_bytes).map(|start| start..len.min(start + piece_bytes));
    let reads = pieces.map(|piece| read_piece(client, channel, step, handle, offset, piece));
    let mut reads = stream::iter(reads).buffered(WINDOW_BYTES / piece_bytes);
    while let Some(answers) = reads.try_next().await? {
        answers.iter().for_each(|answer| buffer.extend_from_slice(answer));
    }
    Ok(Bytes::from(buffer))
}

/// Reads one piece, in as many answers as the server needs for it.
async fn read_piece(
    client: &Client,
    channel: &Channel,
    step: Step<'_>,
    handle: &OpenHandle,
    offset: u64,
    piece: Range<usize>,
) -> Result<Vec<Bytes>> {
    let failed = |failure| step.failed("read its file", failure);
    let mut answers = Vec::with_capacity(1);
    let mut at = piece.start;
    while at < piece.end {
        let len = piece.end - at;
        let room = channel.room(len).await.map_err(failed)?;
        let asked = channel.read(handle, offset + at as u64, len as u32, room).map_err(failed)?;
        let answer = asked.data(len).await.map_err(failed)?;
        if answer.is_empty() {
            let detail = format!("it ends at byte {}, before what was asked for", offset + at as u64);
            return Err(step.error(ErrorKind::Short, detail));
        }
        client.wire.receive(answer.len() as u64).await;
        at += answer.len();
        answers.push(answer);
    }
    Ok(answers)
}
