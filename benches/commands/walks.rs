//! Measures each part alone, on one thread.
//!
//! One walk over the archive reads, hashes, compresses and writes blob by blob, with a clock around each step:
//! the steps see the same bytes, and none is measured on a faster or slower machine than the others. A second
//! walk over what was written reads, decompresses and writes the raw bytes. Blobs are 4 MiB of database, or
//! one attachment; packs hold 32 MiB. Packs and the restored database are made durable, nothing else is.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rusqlite::{Connection, OpenFlags};
use sha2::{Digest, Sha256};
use zstd::bulk::{Compressor, Decompressor};

use super::parts::Parts;
use crate::support::archive::files_below;
use crate::support::process::{Cost, timed};

/// Bytes of one database blob, and of one page.
const BLOB_BYTES: u64 = 4 << 20;
const PAGE_BYTES: usize = 4096;

/// Bytes after which a pack is full.
const PACK_BYTES: usize = 32 << 20;

/// Blobs below this size are stored as they are.
const COMPRESSED_BYTES_MIN: usize = 1024;

/// Measures all parts once, with `work` (which must not exist) for what is written.
pub fn measure(archive: &Path, work: &Path, level: i32) -> Result<Parts> {
    fs::create_dir(work).with_context(|| format!("cannot create {}", work.display()))?;
    rustix::fs::sync();
    let mut walk = Capture::new(work, level)?;
    let database = archive.join("msgvault.db");
    walk.capture_database(&database)?;
    for attachment in files_below(&archive.join("attachments"))? {
        walk.capture_attachment(&attachment)?;
    }
    walk.packs.seal(&mut walk.parts.write_stored)?;
    let Capture { mut parts, frames, .. } = walk;
    GiveBack::new(work, &mut parts)?.walk(&frames)?;
    check_database(&database, &mut parts)?;
    Ok(parts)
}

/// Where a blob lies in the packs, which follow one another.
#[derive(Debug, Clone, Copy)]
struct Frame {
    pack: usize,
    stored_bytes: usize,
    raw_bytes: usize,
    is_compressed: bool,
    is_database: bool,
}

/// The walk over the archive.
struct Capture {
    parts: Parts,
    frames: Vec<Frame>,
    packs: Packs,
    compressor: Compressor<'static>,
    raw: Vec<u8>,
    compressed: Vec<u8>,
}

impl Capture {
    fn new(work: &Path, level: i32) -> Result<Self> {
        Ok(Self {
            parts: Parts::default(),
            frames: Vec::new(),
            packs: Packs { dir: work.to_owned(), count: 0, open: None },
            compressor: Compressor::new(level).context("cannot prepare to compress")?,
            raw: Vec::new(),
            compressed: Vec::new(),
        })
    }

    fn capture_database(&mut self, path: &Path) -> Result<()> {
        let mut file = open(path)?;
        loop {
            self.raw.clear();
            let mut blob = (&mut file).take(BLOB_BYTES);
            timed(&mut self.parts.read, || blob.read_to_end(&mut self.raw))
                .with_context(|| format!("cannot read {}", path.display()))?;
            if self.raw.is_empty() {
                return Ok(());
            }
            self.parts.database_bytes += self.raw.len() as u64;
            timed(&mut self.parts.hash_pages, || self.raw.chunks(PAGE_BYTES).for_each(hash));
            timed(&mut self.parts.hash_database, || hash(&self.raw));
            self.store(true)?;
        }
    }

    fn capture_attachment(&mut self, path: &Path) -> Result<()> {
        self.raw.clear();
        let (parts, raw) = (&mut self.parts, &mut self.raw);
        timed(&mut parts.read, || File::open(path)?.read_to_end(raw))
            .with_context(|| format!("cannot read {}", path.display()))?;
        self.parts.attachments_bytes += self.raw.len() as u64;
        timed(&mut self.parts.hash_attachments, || hash(&self.raw));
        self.store(false)
    }

    fn store(&mut self, is_database: bool) -> Result<()> {
        let is_compressed = self.compress()?;
        let stored = if is_compressed { &self.compressed } else { &self.raw };
        let pack = self.packs.write(&mut self.parts.write_stored, stored)?;
        let (stored_bytes, raw_bytes) = (stored.len(), self.raw.len());
        self.parts.stored_bytes += stored_bytes as u64;
        self.parts.frame_bytes += if is_compressed { raw_bytes as u64 } else { 0 };
        self.frames.push(Frame { pack, stored_bytes, raw_bytes, is_compressed, is_database });
        Ok(())
    }

    /// Compresses the blob; returns whether that saves 3 % of it.
    fn compress(&mut self) -> Result<bool> {
        if self.raw.len() < COMPRESSED_BYTES_MIN {
            return Ok(false);
        }
        self.compressed.clear();
        self.compressed.reserve(zstd::zstd_safe::compress_bound(self.raw.len()));
        let compress = || self.compressor.compress_to_buffer(&self.raw, &mut self.compressed);
        timed(&mut self.parts.compress, compress).context("cannot compress")?;
        Ok(self.compressed.len() <= self.raw.len() - (3 * self.raw.len()).div_ceil(100))
    }
}

/// The packs that are written, one at a time.
struct Packs {
    dir: PathBuf,
    count: usize,
    open: Option<(File, usize)>,
}

impl Packs {
    /// Writes a blob and returns the number of its pack.
    fn write(&mut self, cost: &mut Cost, stored: &[u8]) -> Result<usize> {
        let path = pack_path(&self.dir, self.count);
        let number = self.count;
        if self.open.is_none() {
            self.open = Some((timed(cost, || File::create(&path)).context("cannot create a pack")?, 0));
        }
        if let Some((file, bytes)) = &mut self.open {
            timed(cost, || file.write_all(stored)).context("cannot write a pack")?;
            *bytes += stored.len();
            if *bytes >= PACK_BYTES {
                self.seal(cost)?;
            }
        }
        Ok(number)
    }

    fn seal(&mut self, cost: &mut Cost) -> Result<()> {
        if let Some((file, _)) = self.open.take() {
            timed(cost, || file.sync_all()).context("cannot make a pack durable")?;
            self.count += 1;
        }
        Ok(())
    }
}

/// The walk back: reads the packs and writes the files.
struct GiveBack<'a> {
    parts: &'a mut Parts,
    packs_dir: &'a Path,
    restored_dir: PathBuf,
    decompressor: Decompressor<'static>,
    open_pack: Option<(usize, File)>,
    stored: Vec<u8>,
    raw: Vec<u8>,
}

impl<'a> GiveBack<'a> {
    fn new(work: &'a Path, parts: &'a mut Parts) -> Result<Self> {
        let restored_dir = work.join("restored");
        fs::create_dir(&restored_dir).context("cannot create a folder")?;
        Ok(Self {
            parts,
            packs_dir: work,
            restored_dir,
            decompressor: Decompressor::new().context("cannot prepare to decompress")?,
            open_pack: None,
            stored: Vec::new(),
            raw: Vec::new(),
        })
    }

    fn walk(&mut self, frames: &[Frame]) -> Result<()> {
        let path = self.restored_dir.join("msgvault.db");
        let mut database = File::create(path).context("cannot create a database")?;
        for (number, frame) in frames.iter().enumerate() {
            self.read(frame).context("cannot read a pack")?;
            self.decompress(frame)?;
            let path = self.restored_dir.join(format!("attachment-{number}"));
            timed(&mut self.parts.write_raw, || match frame.is_database {
                true => database.write_all(&self.raw),
                false => fs::write(path, &self.raw),
            })
            .context("cannot write a restored file")?;
        }
        timed(&mut self.parts.write_raw, || database.sync_all()).context("cannot make the database durable")
    }

    /// Reads the stored bytes of the next frame.
    fn read(&mut self, frame: &Frame) -> Result<()> {
        self.stored.clear();
        self.stored.reserve(frame.stored_bytes);
        let file = match &mut self.open_pack {
            Some((number, file)) if *number == frame.pack => file,
            pack => &mut pack.insert((frame.pack, open(&pack_path(self.packs_dir, frame.pack))?)).1,
        };
        let mut bytes = file.take(frame.stored_bytes as u64);
        timed(&mut self.parts.read_stored, || bytes.read_to_end(&mut self.stored))?;
        Ok(())
    }

    fn decompress(&mut self, frame: &Frame) -> Result<()> {
        if !frame.is_compressed {
            std::mem::swap(&mut self.raw, &mut self.stored);
            return Ok(());
        }
        self.raw.clear();
        self.raw.reserve(frame.raw_bytes);
        let decompress = || self.decompressor.decompress_to_buffer(&self.stored, &mut self.raw);
        timed(&mut self.parts.decompress, decompress).context("cannot decompress")?;
        ensure!(self.raw.len() == frame.raw_bytes, "a blob came back with another size");
        Ok(())
    }
}

fn check_database(path: &Path, parts: &mut Parts) -> Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let database = Connection::open_with_flags(format!("file:{}?immutable=1", path.display()), flags)?;
    let check = || database.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0));
    let answer = timed(&mut parts.check, check).context("cannot check the database")?;
    ensure!(answer == "ok", "the archive's database is damaged: {answer}");
    Ok(())
}

fn hash(bytes: &[u8]) {
    std::hint::black_box(Sha256::digest(bytes));
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("cannot open {}", path.display()))
}

fn pack_path(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("{number}.pack"))
}
