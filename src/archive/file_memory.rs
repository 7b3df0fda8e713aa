//! What a create remembers of the files it read, for the next one: so that those which did not change need not be read.
//!
//! ```text
//! b"packvault files 1\n" | text: whose | text: snapshot | text: start of the machine
//! i64 made at | u32 slot | i64 slot at            seconds since 1970, little-endian
//! u64 count | prints of attachments, ascending, 16 bytes each
//! u64 count | prints of extra files, ascending, 16 bytes each
//! u64 length | the snapshot's extras tree
//! SHA-256 of all that                             text: u32 length | UTF-8
//! ```
//!
//! It is a cache: private, replaced in one step, and of no use but for the very archive, repository and snapshot that it
//! was made with. It says which files are as they were when that snapshot was made. What they hold it does not say: for an
//! attachment its name does, for an extra file the tree, which must be the one that the manifest names. And whether
//! that is stored, the indexes say.

use std::fs::OpenOptions;
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::sighting::Print;
use crate::format::{BlobId, Hasher};

const MAGIC: &[u8] = b"packvault files 1\n";
/// Larger files are not read: some fifty million attachments.
const BYTES_MAX: u64 = 1 << 30;
/// Bytes of the hash at the end.
const HASH_BYTES: usize = 32;

/// What it is of. With anything else it is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding<'a> {
    /// The repository and the archive.
    pub whose: &'a str,
    /// The snapshot.
    pub snapshot: &'a str,
}

/// What is remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileMemory {
    /// The start of the machine in which the files were seen.
    pub boot: String,
    /// When it was made, in seconds since 1970.
    pub made_at: i64,
    /// The share of the files that is read next.
    pub slot: u32,
    /// When a share was read last.
    pub slot_at: i64,
    /// Attachments as they were seen, ascending.
    pub attachments: Vec<Print>,
    /// Extra files as they were seen, ascending.
    pub extras: Vec<Print>,
    /// The extras tree of the snapshot; empty if it has none.
    pub tree: Vec<u8>,
}

impl FileMemory {
    /// Reads what is remembered in the folder; nothing if there is any doubt.
    pub fn read(folder: &Path, binding: Binding<'_>) -> Option<Self> {
        let no_wait = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let mut options = OpenOptions::new();
        let options = options.read(true).custom_flags(no_wait.bits() as i32);
        let mut file = options.open(path(folder, binding.whose)).ok()?;
        let found = file.metadata().ok()?;
        let is_ours = found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o022 == 0;
        if !found.is_file() || !is_ours || found.len() > BYTES_MAX {
            return None;
        }
        let mut bytes = Vec::with_capacity(found.len() as usize);
        Read::by_ref(&mut file).take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
        Self::decode(&bytes, binding)
    }

    /// Replaces what is remembered in one step; nothing depends on it being durable.
    pub fn write(&self, folder: &Path, binding: Binding<'_>) -> std::io::Result<()> {
        std::fs::DirBuilder::new().mode(0o700).recursive(true).create(folder)?;
        let mut file =
            tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o600)).tempfile_in(folder)?;
        self.write_to(binding, file.as_file_mut())?;
        file.persist(path(folder, binding.whose))?;
        Ok(())
    }

    fn write_to(&self, binding: Binding<'_>, file: &mut impl Write) -> std::io::Result<()> {
        let mut out = Hashed { out: BufWriter::new(file), hasher: Hasher::new() };
        self.encode(binding, &mut out)?;
        let Hashed { mut out, hasher } = out;
        out.write_all(hasher.finish().as_bytes())?;
        out.flush()
    }

    fn encode(&self, binding: Binding<'_>, out: &mut impl Write) -> std::io::Result<()> {
        out.write_all(MAGIC)?;
        for text in [binding.whose, binding.snapshot, &self.boot] {
            out.write_all(&(text.len() as u32).to_le_bytes())?;
            out.write_all(text.as_bytes())?;
        }
        out.write_all(&self.made_at.to_le_bytes())?;
        out.write_all(&self.slot.to_le_bytes())?;
        out.write_all(&self.slot_at.to_le_bytes())?;
        for prints in [&self.attachments, &self.extras] {
            out.write_all(&(prints.len() as u64).to_le_bytes())?;
            prints.iter().try_for_each(|print| out.write_all(&print.0))?;
        }
        out.write_all(&(self.tree.len() as u64).to_le_bytes())?;
        out.write_all(&self.tree)
    }

    fn decode(bytes: &[u8], binding: Binding<'_>) -> Option<Self> {
        let (content, hash) = bytes.split_at_checked(bytes.len().checked_sub(HASH_BYTES)?)?;
        if BlobId::of(content).as_bytes() != hash {
            return None;
        }
        let mut rest = Rest(content);
        if rest.take(MAGIC.len())? != MAGIC
            || rest.text()? != binding.whose
            || rest.text()? != binding.snapshot
        {
            return None;
        }
        let boot = rest.text()?.to_owned();
        let made_at = i64::from_le_bytes(rest.array()?);
        let slot = u32::from_le_bytes(rest.array()?);
        let slot_at = i64::from_le_bytes(rest.array()?);
        let (attachments, extras) = (rest.prints()?, rest.prints()?);
        let tree_bytes = usize::try_from(u64::from_le_bytes(rest.array()?)).ok()?;
        let tree = rest.take(tree_bytes)?.to_owned();
        let memory = Self { boot, made_at, slot, slot_at, attachments, extras, tree };
        rest.0.is_empty().then_some(memory)
    }
}

/// Returns where it lies.
fn path(folder: &Path, whose: &str) -> PathBuf {
    // What an archive is called may be no file name.
    folder.join(format!("{}.files", &BlobId::of(whose.as_bytes()).to_string()[..32]))
}

/// Bytes that were not looked at yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const BYTES: usize>(&mut self) -> Option<[u8; BYTES]> {
        self.take(BYTES)?.try_into().ok()
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = u32::from_le_bytes(self.array()?) as usize;
        std::str::from_utf8(self.take(length)?).ok()
    }

    fn prints(&mut self) -> Option<Vec<Print>> {
        let count = usize::try_from(u64::from_le_bytes(self.array()?)).ok()?;
        let bytes = self.take(count.checked_mul(Print::BYTES)?)?;
        let (prints, _) = bytes.as_chunks();
        Some(prints.iter().copied().map(Print).collect())
    }
}

/// A writer that hashes what passes.
struct Hashed<W> {
    out: W,
    hasher: Hasher,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let count = self.out.write(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Binding<'static> = Binding { whose: "repository/archive", snapshot: "one" };

    fn memory() -> FileMemory {
        FileMemory {
            boot: "b".into(),
            made_at: 5,
            slot: 7,
            slot_at: -1,
            attachments: vec![Print([1; 16]), Print([2; 16])],
            extras: vec![Print([3; 16])],
            tree: b"tree".to_vec(),
        }
    }

    fn only_file(folder: &Path) -> PathBuf {
        let mut names = std::fs::read_dir(folder).unwrap();
        let path = names.next().unwrap().unwrap().path();
        assert!(names.next().is_none(), "nothing else lies there");
        path
    }

    #[test]
    fn what_is_remembered_is_private_and_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        assert_eq!(FileMemory::read(&inner, OURS), None);
        FileMemory::default().write(&inner, OURS).unwrap();
        memory().write(&inner, OURS).unwrap();
        assert_eq!(FileMemory::read(&inner, OURS), Some(memory()));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&inner), mode(&only_file(&inner))), (0o700, 0o600));
    }

    #[test]
    fn it_is_of_no_use_for_another_repository_archive_or_snapshot() {
        let folder = tempfile::tempdir().unwrap();
        memory().write(folder.path(), OURS).unwrap();
        assert_eq!(FileMemory::read(folder.path(), Binding { snapshot: "two", ..OURS }), None);
        let other = Binding { whose: "repository/other", ..OURS };
        assert_eq!(FileMemory::read(folder.path(), other), None);
        // Even where it lies in the other's place.
        std::fs::rename(only_file(folder.path()), path(folder.path(), other.whose)).unwrap();
        assert_eq!(FileMemory::read(folder.path(), other), None);
    }

    #[test]
    fn every_cut_and_every_flipped_bit_makes_it_absent() {
        let folder = tempfile::tempdir().unwrap();
        memory().write(folder.path(), OURS).unwrap();
        let path = only_file(folder.path());
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            assert_eq!(FileMemory::decode(&whole[..length], OURS), None, "{length}");
        }
        for byte in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[byte] ^= 1 << (byte % 8);
            assert_eq!(FileMemory::decode(&flipped, OURS), None, "{byte}");
        }
        // Counts that lie, under a hash that is right.
        for at in 0..whole.len() - HASH_BYTES {
            let mut forged = whole[..whole.len() - HASH_BYTES].to_vec();
            forged[at] = 0xFF;
            let hash = BlobId::of(&forged);
            forged.extend_from_slice(hash.as_bytes());
            let _ = FileMemory::decode(&forged, OURS);
        }
    }

    #[test]
    fn one_that_others_may_write_or_that_is_a_link_or_a_fifo_is_absent() {
        let folder = tempfile::tempdir().unwrap();
        memory().write(folder.path(), OURS).unwrap();
        let path = only_file(folder.path());
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o620)).unwrap();
        assert_eq!(FileMemory::read(folder.path(), OURS), None);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let moved = folder.path().join("moved");
        std::fs::rename(&path, &moved).unwrap();
        std::os::unix::fs::symlink(&moved, &path).unwrap();
        assert_eq!(FileMemory::read(folder.path(), OURS), None);
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        assert_eq!(FileMemory::read(folder.path(), OURS), None);
    }
}
