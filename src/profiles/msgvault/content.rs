//! Reading live attachments from every place where a current msgvault keeps them (section 7.7).
//!
//! In this order: the pack that the database names; the compressed loose file; the loose file; the
//! recorded path where it is another one; and the pack index once more, for a packer may have moved the
//! file meanwhile. A compressed loose file that is corrupt is an error, never a reason to look further.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Take};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, Stat};

use super::packed::{LivePacks, PackRow, load_row, load_rows};
use crate::archive::beneath::{file_at, folder_at, open_folder, stat_at};
use crate::archive::content::{Content, ContentRef, ContentStore, SeenContent};
use crate::archive::pinned::PinnedDatabase;
use crate::archive::profile::ArchivePaths;
use crate::archive::sighting::Sighting;
use crate::archive::sqlite::open_existing;
use crate::error::lift::io_error;
use crate::format::{BlobId, paths};
use crate::{Error, ErrorKind, Result};

/// `KPLZ`, version, three zero bytes, logical size.
const LOOSE_HEADER_BYTES: u64 = 16;
/// Larger attachments fit no snapshot.
const RAW_BYTES_MAX: u64 = 1 << 32;
/// The largest zstd window that is granted memory, as a power of two: 512 MiB.
const WINDOW_LOG_MAX: u32 = 29;

/// The attachment store of a live msgvault.
#[derive(Debug)]
pub struct MsgvaultContent {
    folder: Arc<OwnedFd>,
    shown: PathBuf,
    database: PathBuf,
    rows: HashMap<BlobId, PackRow>,
    packs: LivePacks,
}

impl MsgvaultContent {
    /// Opens the folder and reads the pack index inside the pinned transaction.
    pub fn open(archive: &ArchivePaths, pinned: &PinnedDatabase) -> Result<Self> {
        let folder = match open_folder(&archive.content) {
            Ok(folder) => folder,
            // Without a folder every attachment is missing, and the first one wanted is named.
            Err(_) if !archive.content.exists() => open_folder(&archive.home)?,
            Err(error) => return Err(error),
        };
        let folder = Arc::new(folder);
        let rows = load_rows(&pinned.connection(), pinned.path())?;
        Ok(Self {
            packs: LivePacks::new(folder.clone(), archive.content.clone(), rows.len()),
            rows,
            database: pinned.path().to_owned(),
            shown: archive.content.clone(),
            folder,
        })
    }

    fn packed(&self, id: &BlobId, row: Option<&PackRow>) -> Result<Option<Content>> {
        let Some(row) = row else { return Ok(None) };
        let raw = self.packs.read(row)?;
        Ok(raw.map(|raw| Content::from_memory(raw, self.shown.join(canonical(id)))))
    }

    /// Looks the pack index up as it is now, not as it was when the database was pinned.
    fn packed_meanwhile(&self, id: &BlobId) -> Result<Option<Content>> {
        let connection = open_existing(&self.database)?;
        let row = load_row(&connection, &self.database, id)?;
        self.packed(id, row.as_ref())
    }

    fn compressed(&self, relative: &str) -> Result<Option<Content>> {
        let path = self.shown.join(relative);
        let Some((file, stat)) = file_at(self.folder.as_ref(), relative, &path)? else { return Ok(None) };
        let (stream, raw_bytes) = open_compressed(file, stat.st_size as u64, &path)?;
        Ok(Some(Content::from_stream(stream, raw_bytes, path)))
    }

    fn raw(&self, relative: &str) -> Result<Option<Content>> {
        let path = self.shown.join(relative);
        let found = file_at(self.folder.as_ref(), relative, &path)?;
        Ok(found.map(|(file, stat)| Content::from_file(file, stat, path)))
    }

    fn loose(&self, reference: &ContentRef) -> Result<Option<Content>> {
        let canonical = canonical(&reference.id);
        if let Some(content) = self.compressed(&format!("{canonical}.zst"))? {
            return Ok(Some(content));
        }
        if let Some(content) = self.raw(&canonical)? {
            return Ok(Some(content));
        }
        if reference.path == canonical {
            return Ok(None);
        }
        self.raw(&reference.path)
    }
}

/// What looks see where they would read; in the order in which attachments are looked for.
impl MsgvaultContent {
    fn see(&self, reference: &ContentRef) -> Option<SeenContent> {
        let id = &reference.id;
        if let Some(row) = self.rows.get(id) {
            return self.packs.look(row);
        }
        let canonical = canonical(id);
        let (shard, name) = canonical.split_once('/')?;
        // One look at the folder for both names.
        if let Some(shard_folder) = folder_at(self.folder.as_ref(), shard, &self.shown).ok()? {
            for name in [format!("{name}.zst"), name.to_owned()] {
                if let Some(stat) = stat_at(&shard_folder, &name, &self.shown).ok()? {
                    return seen(format!("{shard}/{name}"), &stat);
                }
            }
        }
        let stat = stat_at(self.folder.as_ref(), &reference.path, &self.shown).ok()??;
        seen(reference.path.clone(), &stat)
    }
}

/// Only plain files are attachments.
fn seen(place: String, stat: &Stat) -> Option<SeenContent> {
    let is_plain = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    is_plain.then(|| SeenContent { place, sighting: Sighting::of(stat) })
}

impl ContentStore for MsgvaultContent {
    fn look(&self, reference: &ContentRef) -> Option<SeenContent> {
        check_path(reference).ok()?;
        self.see(reference)
    }

    fn table_bytes_max(&self) -> u64 {
        self.packs.table_bytes_max()
    }

    fn open(&self, reference: &ContentRef) -> Result<Content> {
        let id = &reference.id;
        check_path(reference)?;
        let found = match self.packed(id, self.rows.get(id))? {
            Some(content) => Some(content),
            None => match self.loose(reference)? {
                Some(content) => Some(content),
                None => self.packed_meanwhile(id)?,
            },
        };
        let content = found.ok_or_else(|| {
            let path = self.shown.join(&reference.path);
            Error::new(ErrorKind::Source, format!("the attachment {} is missing", path.display()))
        })?;
        if content.raw_bytes() > RAW_BYTES_MAX {
            let message = format!("the attachment {} is larger than 4 GiB", content.path().display());
            return Err(Error::new(ErrorKind::Source, message));
        }
        Ok(content)
    }
}

/// A path that no restore could recreate is refused when it is captured, not when it is needed.
fn check_path(reference: &ContentRef) -> Result<()> {
    paths::check_attachment_path(&reference.path).map(drop).map_err(|error| {
        let message = format!("the database keeps attachment {} at an unusable path", reference.id);
        Error::caused(ErrorKind::Source, message, error)
    })
}

fn canonical(id: &BlobId) -> String {
    let hash = id.to_string();
    format!("{}/{hash}", &hash[..2])
}

/// Checks the header of a compressed loose file and returns its decoder.
fn open_compressed(mut file: File, file_bytes: u64, path: &Path) -> Result<(Box<dyn Read + Send>, u64)> {
    let corrupt = |why: &str| {
        Error::new(
            ErrorKind::Source,
            format!("the compressed attachment {} is corrupt: {why}", path.display()),
        )
    };
    if file_bytes < LOOSE_HEADER_BYTES {
        return Err(corrupt("it is shorter than its header"));
    }
    let mut header = [0; LOOSE_HEADER_BYTES as usize];
    file.read_exact(&mut header).map_err(|error| io_error("read", path, error))?;
    if header[..8] != *b"KPLZ\x01\0\0\0" {
        return Err(corrupt("its header is not of version 1"));
    }
    let raw_bytes = u64::from_le_bytes(header[8..].try_into().expect("half of sixteen bytes is eight"));
    let frame: Take<File> = file.take(file_bytes - LOOSE_HEADER_BYTES);
    let mut decoder = zstd::stream::read::Decoder::new(frame)
        .map_err(|error| io_error("decompress", path, error))?
        .single_frame();
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(|error| io_error("decompress", path, error))?;
    Ok((Box::new(decoder), raw_bytes))
}
