//! What lies in a sample attachment: photos and archives that do not compress, text and tables that do.
//!
//! About half the bytes are incompressible. Contents of a given size are streamed, so that one of many
//! gigabytes takes no more memory than a small one.

use std::fmt::Write;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use crate::message::timestamp;
use crate::people::DOMAINS;
use crate::random::Random;
use crate::words::Words;

/// Fewest and most texts in the pool that compressible contents are cut from.
const POOL_TEXTS_MIN: u64 = 16;
const POOL_TEXTS_MAX: u64 = 110;

/// Words in each text of the pool; about 22 kB.
const POOL_TEXT_WORDS: usize = 4000;

/// Longest cut from the pool.
const CUT_BYTES_MAX: u64 = 2600;

/// Bytes a streamed content makes at a time.
const STREAM_CHUNK_BYTES: usize = 1 << 18;

/// Deviation of the logarithm of attachment sizes.
const SIZE_SIGMA: f64 = 1.5;

/// What the bytes of a content of given size are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContentKind {
    /// Bytes that do not compress.
    Random,
    /// Nothing but zeros.
    Zero,
    /// Prose.
    Text,
}

/// An attachment's bytes and what is said of them.
#[derive(Debug)]
pub(crate) struct Content {
    /// File name.
    pub(crate) name: String,
    /// MIME type.
    pub(crate) mime: &'static str,
    /// msgvault's `media_type`.
    pub(crate) media: &'static str,
    /// The bytes.
    pub(crate) bytes: Vec<u8>,
}

/// Makes contents of all kinds.
#[derive(Debug)]
pub(crate) struct Contents<'a> {
    words: &'a Words,
    pool: Vec<u8>,
    mean_bytes: u64,
}

impl<'a> Contents<'a> {
    /// Makes the pool of text that belongs to a seed.
    pub(crate) fn new(seed: u64, words: &'a Words, mean_bytes: u64) -> Self {
        let mut random = Random::new(seed, "pool");
        // Small contents do well with a small pool, and tests with less to wait for.
        let texts_count = (mean_bytes / 900).clamp(POOL_TEXTS_MIN, POOL_TEXTS_MAX);
        let texts: Vec<String> =
            (0..texts_count).map(|_| words.prose(&mut random, POOL_TEXT_WORDS)).collect();
        Self { words, pool: texts.join("\n").into_bytes(), mean_bytes: mean_bytes.max(16) }
    }

    /// Makes the content of an ordinary attachment.
    pub(crate) fn ordinary(&self, random: &mut Random) -> Content {
        let size = self.size(random);
        let kind = random.fraction();
        let (extension, mime, media, bytes) = match kind {
            _ if kind < 0.34 => {
                ("jpg", "image/jpeg", "image", noise(random, b"\xff\xd8\xff\xe0\0\x10JFIF", size))
            }
            _ if kind < 0.40 => ("zip", "application/zip", "document", noise(random, b"PK\x03\x04", size)),
            _ if kind < 0.66 => ("pdf", "application/pdf", "document", self.half_text(random, size)),
            _ if kind < 0.80 => ("csv", "text/csv", "document", table(random, size)),
            _ => ("txt", "text/plain", "document", self.text(random, size)),
        };
        let name = format!("{}.{extension}", self.words.title(random, 2).replace(' ', "_"));
        Content { name, mime, media, bytes }
    }

    /// Makes the small picture of a picture.
    pub(crate) fn thumbnail(&self, random: &mut Random) -> Vec<u8> {
        let longest = (self.mean_bytes / 2).clamp(60, 7000);
        let size = random.within((longest / 3).min(600)..longest) as usize;
        noise(random, b"\xff\xd8\xff\xdb", size)
    }

    /// Returns a content of exactly this size, made while it is read.
    pub(crate) fn stream(&'a self, random: &'a mut Random, kind: ContentKind, size: u64) -> Stream<'a> {
        Stream { contents: self, random, kind, left: size, chunk: Vec::new(), place: 0 }
    }

    fn size(&self, random: &mut Random) -> usize {
        let mean = self.mean_bytes as f64;
        // The mean of a log-normal number is its median times exp(sigma^2 / 2).
        let median = mean / (SIZE_SIGMA * SIZE_SIGMA / 2.0).exp();
        random.log_normal(median, SIZE_SIGMA).clamp(1.0, mean * 60.0) as usize
    }

    /// Cuts from the pool, each with a number before it, so that no two contents are alike.
    fn text(&self, random: &mut Random, size: usize) -> Vec<u8> {
        let mut text = Vec::with_capacity(size + CUT_BYTES_MAX as usize + 32);
        while text.len() < size {
            let length = random.within(200..CUT_BYTES_MAX) as usize;
            let start = random.index(self.pool.len() - CUT_BYTES_MAX as usize);
            text.extend_from_slice(format!("{};{};", random.below(1 << 30), text.len()).as_bytes());
            text.extend_from_slice(&self.pool[start..start + length]);
        }
        text.truncate(size);
        text
    }

    fn half_text(&self, random: &mut Random, size: usize) -> Vec<u8> {
        let mut bytes = b"%PDF-1.7\n".to_vec();
        bytes.extend(self.text(random, size / 2));
        let missing = size.saturating_sub(bytes.len());
        random.extend(&mut bytes, missing);
        bytes.truncate(size);
        bytes
    }
}

/// A content of exact size, as a reader.
#[derive(Debug)]
pub(crate) struct Stream<'a> {
    contents: &'a Contents<'a>,
    random: &'a mut Random,
    kind: ContentKind,
    left: u64,
    chunk: Vec<u8>,
    place: usize,
}

impl Stream<'_> {
    fn refill(&mut self) {
        let size = self.left.min(STREAM_CHUNK_BYTES as u64) as usize;
        self.chunk = match self.kind {
            ContentKind::Random => self.random.bytes(size),
            ContentKind::Zero => vec![0; size],
            ContentKind::Text => self.contents.text(self.random, size),
        };
        self.left -= size as u64;
        self.place = 0;
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.place == self.chunk.len() {
            self.refill();
        }
        let available = &self.chunk[self.place..];
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.place += count;
        Ok(count)
    }
}

/// Random bytes behind a file type's first bytes.
fn noise(random: &mut Random, head: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = random.bytes(size);
    let head = &head[..head.len().min(size)];
    bytes[..head.len()].copy_from_slice(head);
    bytes
}

/// Lines of a made-up table.
fn table(random: &mut Random, size: usize) -> Vec<u8> {
    let mut lines = String::with_capacity(size + 80);
    while lines.len() < size {
        let (number, when) =
            (random.within(1..90_000), timestamp(1_262_304_000 + random.below(1 << 28) as i64));
        let (whole, cents) = (random.below(1000), random.below(100));
        let _ = writeln!(lines, "{number},{when},{whole}.{cents:02},{}", random.pick(&DOMAINS));
    }
    lines.truncate(size);
    lines.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(bytes: &[u8]) -> f64 {
        zstd::bulk::compress(bytes, 3).unwrap().len() as f64 / bytes.len() as f64
    }

    #[test]
    fn about_half_the_bytes_do_not_compress() {
        let words = Words::new(1);
        let contents = Contents::new(1, &words, 20_000);
        let mut random = Random::new(1, "test");
        let bytes: Vec<u8> = (0..400).flat_map(|_| contents.ordinary(&mut random).bytes).collect();
        assert!((0.55..0.85).contains(&ratio(&bytes)), "ratio {}", ratio(&bytes));
    }

    #[test]
    fn a_stream_has_its_size_and_kind() {
        let words = Words::new(1);
        let contents = Contents::new(1, &words, 1000);
        let size = STREAM_CHUNK_BYTES as u64 + 77;
        let stream = |kind| {
            let mut bytes = Vec::new();
            contents.stream(&mut Random::new(1, "test"), kind, size).read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes.len() as u64, size);
            bytes
        };
        assert!(ratio(&stream(ContentKind::Random)) > 0.99);
        assert!((0.2..0.6).contains(&ratio(&stream(ContentKind::Text))));
        assert!(stream(ContentKind::Zero).iter().all(|&byte| byte == 0));
    }
}
