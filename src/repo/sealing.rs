//! What distinguishes an encrypted repository from a plain one, in one type: the rest of the house asks it.
//!
//! A plain repository's objects lie as `format` writes them. In an encrypted one every frame and footer of a pack,
//! every index, manifest and object beside a manifest is sealed with the repository's key, bound to its name; ids,
//! and what the objects say once they are opened, are the same. A repository is one or the other from its first byte
//! to its last: an object that is not as the repository is, is damaged. `config.toml` and locks lie plain in both.

use std::borrow::Cow;
use std::ops::Range;

use rustix::io::retry_on_intr;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::format::pack::encrypted::{self, FrameCheck};
use crate::format::pack::{self, Entry, Footer};
use crate::format::sealed::{self, Binding, Nonce, StreamSealer};
use crate::format::{BlobFlags, BlobId, FormatError, FormatErrorKind, PackId, RepositoryKey};
use crate::{Error, ErrorKind, Result};

/// How the objects of a repository are sealed, and with what.
#[derive(Debug, Clone, Default)]
pub struct Sealing(Option<RepositoryKey>);

/// The end of a pack, which says where its footer lies.
#[derive(Debug)]
pub(super) enum PackTrailer {
    Plain(pack::Trailer),
    Encrypted(encrypted::Trailer),
}

impl PackTrailer {
    /// Returns where the footer lies in the file.
    pub(super) fn region(&self) -> Range<u64> {
        let (offset, bytes) = match self {
            Self::Plain(trailer) => (trailer.footer_offset(), trailer.region_bytes()),
            Self::Encrypted(trailer) => (trailer.footer_offset(), trailer.region_bytes()),
        };
        offset..offset + bytes
    }
}

impl Sealing {
    /// Seals nothing.
    pub const fn plain() -> Self {
        Self(None)
    }

    /// Seals everything with the key.
    pub const fn with_key(key: RepositoryKey) -> Self {
        Self(Some(key))
    }

    /// Returns the key, for wrapping it.
    pub const fn key(&self) -> Option<&RepositoryKey> {
        self.0.as_ref()
    }

    /// Tells whether what the other has sealed can be stored here as it is.
    pub fn seals_like(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(own), Some(other)) => own.expose() == other.expose(),
            _ => false,
        }
    }

    /// Tells whether the repository is encrypted.
    pub const fn is_encrypted(&self) -> bool {
        self.0.is_some()
    }

    /// Returns an object as it is stored.
    pub(super) fn seal(&self, binding: &Binding<'_>, plain: Vec<u8>) -> Result<Vec<u8>> {
        match &self.0 {
            None => Ok(plain),
            Some(key) => Ok(sealed::seal(key, nonce()?, binding, &plain)),
        }
    }

    /// Returns the object that was stored.
    pub(super) fn open<'a>(
        &self,
        binding: &Binding<'_>,
        stored: &'a [u8],
    ) -> std::result::Result<Cow<'a, [u8]>, FormatError> {
        match &self.0 {
            None => Ok(Cow::Borrowed(stored)),
            Some(key) => sealed::open(key, binding, stored).map(Cow::Owned),
        }
    }

    /// Returns how many bytes sealing adds to an object.
    pub const fn overhead_bytes(&self) -> u64 {
        if self.is_encrypted() { sealed::OVERHEAD_BYTES as u64 } else { 0 }
    }

    /// Returns the frame of a blob as it is stored, `None` where that is as it is.
    pub fn seal_frame(&self, id: &BlobId, frame: &[u8]) -> Result<Option<Vec<u8>>> {
        let Some(key) = &self.0 else { return Ok(None) };
        Ok(Some(encrypted::seal_frame(key, nonce()?, id, frame)))
    }

    /// Returns the flags of a frame as it is stored.
    pub const fn flags(&self, frame: BlobFlags) -> BlobFlags {
        if self.is_encrypted() { frame.with(BlobFlags::ENCRYPTED) } else { frame }
    }

    /// Returns the frame that was stored, with the entry that describes it; the buffer is for one that was sealed.
    pub fn open_frame<'a>(
        &self,
        entry: &Entry,
        stored: &'a [u8],
        buffer: &'a mut Vec<u8>,
    ) -> std::result::Result<(Entry, &'a [u8]), FormatError> {
        match &self.0 {
            None => Ok((*entry, stored)),
            Some(key) => {
                let entry = encrypted::open_frame(key, entry, stored, buffer)?;
                Ok((entry, buffer))
            }
        }
    }

    /// Begins to seal the frame of a blob that comes in pieces.
    pub fn frame_sealer(&self, id: &BlobId) -> Result<FrameSealer> {
        let Some(key) = &self.0 else { return Ok(FrameSealer { sealing: None, piece: Vec::new() }) };
        let nonce = nonce()?;
        let sealer = StreamSealer::new(key, &nonce, &Binding::Frame(id));
        Ok(FrameSealer { sealing: Some((nonce, sealer)), piece: Vec::new() })
    }

    /// Begins to check a stored frame that comes in pieces, `None` where frames lie as they are.
    pub fn frame_check(&self, entry: &Entry) -> std::result::Result<Option<FrameCheck>, FormatError> {
        self.0.as_ref().map(|key| FrameCheck::new(key, entry)).transpose()
    }

    /// Returns the first bytes of a pack.
    pub(super) fn pack_header(&self) -> [u8; pack::HEADER_BYTES] {
        pack::encode_header(self.is_encrypted())
    }

    /// Returns what is written after the last frame of a pack.
    pub(super) fn pack_footer(&self, pack: PackId, entries: &[Entry]) -> Result<Vec<u8>> {
        match &self.0 {
            None => Ok(pack::encode_footer(entries)),
            Some(key) => Ok(encrypted::seal_footer(key, nonce()?, pack, entries)),
        }
    }

    /// Returns the size of a pack whose frames end at the given offset.
    pub(super) const fn pack_bytes(&self, frames_end: u64, entry_count: u64) -> u64 {
        match self.is_encrypted() {
            false => pack::expected_file_bytes(frames_end, entry_count),
            true => encrypted::expected_file_bytes(frames_end, entry_count),
        }
    }

    /// Checks the first bytes of a pack, and reads the last ones.
    pub(super) fn pack_trailer(
        &self,
        start: &[u8],
        end: &[u8],
        file_bytes: u64,
    ) -> std::result::Result<PackTrailer, FormatError> {
        let header = pack::check_header(start)?;
        let last = |bytes: usize| &end[end.len().saturating_sub(bytes)..];
        if !self.is_encrypted() {
            header.require_plain()?;
            return pack::Trailer::parse(last(pack::TRAILER_BYTES), file_bytes).map(PackTrailer::Plain);
        }
        if !header.encrypted {
            return Err(FormatError::corrupt("pack is not encrypted, and the repository is"));
        }
        encrypted::Trailer::parse(last(encrypted::TRAILER_BYTES), file_bytes).map(PackTrailer::Encrypted)
    }

    /// Reads the footer of a pack, which lies in the trailer's region.
    pub(super) fn read_footer(
        &self,
        pack: PackId,
        region: &[u8],
        trailer: &PackTrailer,
        file_bytes: u64,
    ) -> std::result::Result<Footer, FormatError> {
        match (trailer, &self.0) {
            (PackTrailer::Plain(trailer), _) => Footer::parse(region, trailer, file_bytes),
            (PackTrailer::Encrypted(trailer), Some(key)) => {
                encrypted::open_footer(region, trailer, key, pack)
            }
            (PackTrailer::Encrypted(_), None) => {
                Err(FormatError::new(FormatErrorKind::Encrypted, "pack is encrypted, and there is no key"))
            }
        }
    }
}

/// A frame that is sealed piece by piece: first the head, then what comes of each piece, then the end.
#[derive(Debug)]
pub struct FrameSealer {
    sealing: Option<(Nonce, StreamSealer)>,
    piece: Vec<u8>,
}

impl FrameSealer {
    /// Returns what goes before the first piece.
    pub fn head(&self) -> &[u8] {
        self.sealing.as_ref().map_or(&[], |(nonce, _)| nonce)
    }

    /// Returns the next piece as it is stored.
    pub fn seal<'a>(&'a mut self, piece: &'a [u8]) -> &'a [u8] {
        let Some((_, sealer)) = &mut self.sealing else { return piece };
        self.piece.clear();
        self.piece.extend_from_slice(piece);
        sealer.seal(&mut self.piece);
        &self.piece
    }

    /// Returns what goes behind the last piece.
    pub fn end(&mut self) -> Vec<u8> {
        self.sealing.take().map_or(Vec::new(), |(_, sealer)| sealer.finish().to_vec())
    }
}

/// Returns a nonce that was never used: of 192 random bits no two are ever equal.
pub(super) fn nonce() -> Result<Nonce> {
    let mut nonce = Nonce::default();
    let mut filled = 0;
    while filled < nonce.len() {
        let got = retry_on_intr(|| getrandom(&mut nonce[filled..], GetRandomFlags::empty()));
        filled +=
            got.map_err(|error| Error::caused(ErrorKind::Io, "the system gives no random bytes", error))?;
    }
    Ok(nonce)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_byte_of_a_nonce_is_random_and_no_two_are_equal() {
        let nonces: Vec<Nonce> = (0..64).map(|_| nonce().unwrap()).collect();
        assert_eq!(nonces.iter().collect::<BTreeSet<_>>().len(), nonces.len());
        for at in 0..sealed::NONCE_BYTES {
            // That all of them are equal by chance happens once in 256 to the 63rd.
            assert!(nonces.iter().any(|other| other[at] != nonces[0][at]), "byte {at}");
        }
    }
}
