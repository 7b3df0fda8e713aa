//! Reading: whole objects, ranges, sizes and times; exactly the bytes asked for or an error.
//!
//! A server may answer a range with the range, with the whole object, or with a status that says the one
//! and a body that is the other. What decides is the `Content-Range`; without one, the whole object is
//! assumed and the range cut out of it.

use std::ops::Range;
use std::time::SystemTime;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use http::header::{HeaderValue, RANGE};
use http::{Method, StatusCode};
use packvault_storage::{ErrorKind, Key, ObjectMeta, Operation, Result, Step, range_bytes};

use crate::client::{Answer, Client, Request};
use crate::times::parse_http_date;

/// The largest object that is read whole; larger ones are read by ranges.
const WHOLE_BYTES_MAX: u64 = 5 << 30;

/// Where a range may end before it is certain that no store has such an object.
const RANGE_END_MAX: u64 = 1 << 46;

/// Ranges that lie no further apart are asked for together.
const GAP_BYTES_MAX: u64 = 128 << 10;

/// What is asked for together has no more bytes than this, unless one range alone has.
const TOGETHER_BYTES_MAX: u64 = 8 << 20;

/// How many ranges are under way at a time.
const RANGES_AT_ONCE: usize = 4;

pub(crate) async fn head(client: &Client, step: Step<'_>, key: &Key) -> Result<ObjectMeta> {
    let full_key = client.place.full_key(key);
    let answer = client.send(step, Request::new(Method::HEAD, Some(&full_key))).await?;
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Err(step.not_found()),
        _ => return Err(answer.refused(step).await),
    }
    let lacks = |what: &str| step.error(ErrorKind::Io, format!("the server tells no {what} of it"));
    let size_bytes = answer.length().ok_or_else(|| lacks("length"))?;
    Ok(ObjectMeta { size_bytes, modified: modified(&answer).ok_or_else(|| lacks("time"))? })
}

fn modified(answer: &Answer<'_>) -> Option<SystemTime> {
    answer.header("last-modified").and_then(parse_http_date)
}

/// Returns the object's tag as it was told.
pub(crate) fn tag(answer: &Answer<'_>) -> Option<HeaderValue> {
    answer.header("etag").and_then(|tag| HeaderValue::from_str(tag).ok())
}

/// Asks for an object and returns the head of the answer, if the object is there.
pub(crate) async fn get<'c>(client: &'c Client, step: Step<'_>, key: &Key) -> Result<Answer<'c>> {
    let full_key = client.place.full_key(key);
    let answer = client.send(step, Request::new(Method::GET, Some(&full_key))).await?;
    match answer.status() {
        StatusCode::OK => Ok(answer),
        _ => Err(answer.refused(step).await),
    }
}

pub(crate) async fn read(client: &Client, key: &Key) -> Result<Bytes> {
    let step = Step::new(Operation::Read, key.as_str());
    get(client, step, key).await?.bytes(step, WHOLE_BYTES_MAX).await
}

pub(crate) async fn read_range(client: &Client, key: &Key, range: Range<u64>) -> Result<Bytes> {
    if range.is_empty() || range.end > RANGE_END_MAX {
        check_ranges(client, key, &[range]).await?;
        return Ok(Bytes::new());
    }
    let step = Step::new(Operation::Read, key.as_str());
    let full_key = client.place.full_key(key);
    let asked = HeaderValue::from_str(&format!("bytes={}-{}", range.start, range.end - 1));
    let asked = asked.map_err(|error| step.error(ErrorKind::Io, "no such range").with_source(error))?;
    let answer = client.send(step, Request::new(Method::GET, Some(&full_key)).header(RANGE, asked)).await?;
    match answer.status() {
        StatusCode::OK | StatusCode::PARTIAL_CONTENT => {}
        StatusCode::RANGE_NOT_SATISFIABLE => {
            return Err(step.error(ErrorKind::Short, format!("it ends before byte {}", range.start)));
        }
        _ => return Err(answer.refused(step).await),
    }
    match found(step, &answer)? {
        Found::Whole => {
            let size_bytes = answer.length().ok_or_else(|| strange(step, "tells no length"))?;
            let take = range_bytes(key, &range, size_bytes)?;
            answer.cut_out(step, range.start, take).await
        }
        Found::Part { part, size_bytes } => {
            range_bytes(key, &range, size_bytes)?;
            if part != range {
                return Err(strange(step, "answers with another range"));
            }
            answer.take(step, range.end - range.start, true).await
        }
    }
}

/// What the body of an answer holds of the object.
enum Found {
    Whole,
    Part { part: Range<u64>, size_bytes: u64 },
}

fn found(step: Step<'_>, answer: &Answer<'_>) -> Result<Found> {
    let Some(told) = answer.header("content-range") else {
        return match answer.status() {
            StatusCode::PARTIAL_CONTENT => Err(strange(step, "does not say which range it answers with")),
            _ => Ok(Found::Whole),
        };
    };
    let (part, size_bytes) = content_range(told).ok_or_else(|| strange(step, "tells no sensible range"))?;
    if answer.length().is_some_and(|length| length != part.end - part.start) {
        return Err(strange(step, "tells a range and another length"));
    }
    Ok(Found::Part { part, size_bytes })
}

fn strange(step: Step<'_>, what: &str) -> packvault_storage::Error {
    step.error(ErrorKind::Io, format!("the server {what}"))
}

/// Reads `bytes 0-9/100`.
fn content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (part, size) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = part.split_once('-')?;
    let (first, last, size): (u64, u64, u64) =
        (first.trim().parse().ok()?, last.trim().parse().ok()?, size.trim().parse().ok()?);
    (first <= last && last < size).then(|| (first..last + 1, size))
}

/// Returns an error unless the object holds all the ranges.
async fn check_ranges(client: &Client, key: &Key, ranges: &[Range<u64>]) -> Result<()> {
    let step = Step::new(Operation::Read, key.as_str());
    let size_bytes = head(client, step, key).await?.size_bytes;
    ranges.iter().try_for_each(|range| range_bytes(key, range, size_bytes).map(drop))
}

pub(crate) async fn read_ranges(client: &Client, key: &Key, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
    let (sure, odd): (Vec<_>, Vec<_>) =
        ranges.iter().cloned().partition(|range| !range.is_empty() && range.end <= RANGE_END_MAX);
    if !odd.is_empty() {
        check_ranges(client, key, &odd).await?;
    }
    let together = together(&sure);
    let found: Vec<Bytes> = stream::iter(together.iter().cloned())
        .map(|range| read_range(client, key, range))
        .buffered(RANGES_AT_ONCE)
        .try_collect()
        .await?;
    let cut = |range: &Range<u64>| {
        let number = together.partition_point(|whole| whole.start <= range.start).checked_sub(1);
        let covering = number.and_then(|number| Some((together.get(number)?, found.get(number)?)));
        match covering {
            Some((whole, bytes)) if !range.is_empty() => {
                let at = |place: u64| usize::try_from(place - whole.start).unwrap_or(usize::MAX);
                bytes.slice(at(range.start)..at(range.end))
            }
            _ => Bytes::new(),
        }
    };
    Ok(ranges.iter().map(cut).collect())
}

/// Joins neighbours, in the order of their starts. Every range lies in exactly the last one that starts no
/// later.
fn together(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted = ranges.to_vec();
    sorted.sort_by_key(|range| (range.start, range.end));
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match joined.last_mut() {
            // One inside another, or one that begins where another does, can only be part of it.
            Some(last)
                if range.end <= last.end
                    || range.start == last.start
                    || (range.start <= last.end.saturating_add(GAP_BYTES_MAX)
                        && range.end - last.start <= TOGETHER_BYTES_MAX) =>
            {
                last.end = last.end.max(range.end);
            }
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_or_refused() {
        assert_eq!(content_range("bytes 0-9/100"), Some((0..10, 100)));
        assert_eq!(content_range("bytes 99-99/100"), Some((99..100, 100)));
        for bad in ["", "bytes */100", "bytes 0-9/*", "bytes 9-0/100", "bytes 0-100/100", "0-9/100"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
        assert_eq!(content_range("bytes 0-18446744073709551615/18446744073709551615"), None);
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "it is meant: one range")]
    fn neighbours_are_joined_and_every_range_lies_in_one() {
        const MEBI: u64 = 1 << 20;
        assert_eq!(together(&[10..20, 0..5, 5..12]), vec![0..20]);
        assert_eq!(together(&[0..1, MEBI..MEBI + 1]), [0..1, MEBI..MEBI + 1]);
        assert_eq!(together(&[0..9 * MEBI, 9 * MEBI..10 * MEBI]), [0..9 * MEBI, 9 * MEBI..10 * MEBI]);
        assert_eq!(together(&[0..20 * MEBI, MEBI..2 * MEBI]), vec![0..20 * MEBI]);
        assert_eq!(together(&[0..MEBI, 0..20 * MEBI]), vec![0..20 * MEBI]);
        let many: Vec<_> =
            (0..500_u64).map(|number| number * 77_777 % 9_999_999).map(|at| at..at + 60_000).collect();
        let joined = together(&many);
        for range in &many {
            let number = joined.partition_point(|whole| whole.start <= range.start) - 1;
            assert!(joined[number].start <= range.start && range.end <= joined[number].end);
        }
    }
}
