//! The packets of SFTP version 3 and of OpenSSH's extensions: bytes in, values out, and back.
//!
//! A packet is a length of four bytes, a kind, mostly an id, and fields; numbers are big-endian, strings
//! carry a length of four bytes. Everything here is pure. Lengths are checked before anything is sliced,
//! nothing is allocated by a number off the wire, and handles are bytes without a meaning.

use bytes::{BufMut, Bytes, BytesMut};

/// The version of the protocol that is spoken.
pub(crate) const VERSION: u32 = 3;

/// The largest packet taken from a server: the largest piece of data any server sends, and its frame.
pub(crate) const PACKET_BYTES_MAX: usize = 256 * 1024 + 1024;

/// The longest handle the protocol allows.
pub(crate) const HANDLE_BYTES_MAX: usize = 256;

pub(crate) const OPEN_READ: u32 = 0x01;
pub(crate) const OPEN_WRITE: u32 = 0x02;
pub(crate) const OPEN_CREATE: u32 = 0x08;
pub(crate) const OPEN_EXCLUSIVE: u32 = 0x20;

const ATTRS_SIZE: u32 = 0x01;
const ATTRS_OWNERS: u32 = 0x02;
const ATTRS_PERMISSIONS: u32 = 0x04;
const ATTRS_TIMES: u32 = 0x08;
const ATTRS_EXTENDED: u32 = 0x8000_0000;

mod kind {
    pub(super) const INIT: u8 = 1;
    pub(super) const VERSION: u8 = 2;
    pub(super) const OPEN: u8 = 3;
    pub(super) const CLOSE: u8 = 4;
    pub(super) const READ: u8 = 5;
    pub(super) const WRITE: u8 = 6;
    pub(super) const LSTAT: u8 = 7;
    pub(super) const FSTAT: u8 = 8;
    pub(super) const FSETSTAT: u8 = 10;
    pub(super) const OPENDIR: u8 = 11;
    pub(super) const READDIR: u8 = 12;
    pub(super) const REMOVE: u8 = 13;
    pub(super) const MKDIR: u8 = 14;
    pub(super) const RMDIR: u8 = 15;
    pub(super) const STAT: u8 = 17;
    pub(super) const RENAME: u8 = 18;
    pub(super) const STATUS: u8 = 101;
    pub(super) const HANDLE: u8 = 102;
    pub(super) const DATA: u8 = 103;
    pub(super) const NAME: u8 = 104;
    pub(super) const ATTRS: u8 = 105;
    pub(super) const EXTENDED: u8 = 200;
    pub(super) const EXTENDED_REPLY: u8 = 201;
}

/// The names of the extensions that are used.
pub(crate) mod extension {
    pub(crate) const FSYNC: &str = "fsync@openssh.com";
    pub(crate) const HARDLINK: &str = "hardlink@openssh.com";
    pub(crate) const LIMITS: &str = "limits@openssh.com";
    pub(crate) const POSIX_RENAME: &str = "posix-rename@openssh.com";
    pub(crate) const STATVFS: &str = "statvfs@openssh.com";
}

/// Status codes of version 3.
pub(crate) mod code {
    pub(crate) const OK: u32 = 0;
    pub(crate) const EOF: u32 = 1;
    pub(crate) const NO_SUCH_FILE: u32 = 2;
    pub(crate) const PERMISSION_DENIED: u32 = 3;
    #[cfg(test)]
    pub(crate) const FAILURE: u32 = 4;
    pub(crate) const NO_CONNECTION: u32 = 6;
    pub(crate) const CONNECTION_LOST: u32 = 7;
    pub(crate) const UNSUPPORTED: u32 = 8;
}

/// A packet that says what it cannot mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// What a server tells of a file, or is told to set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Attrs {
    pub size: Option<u64>,
    pub permissions: Option<u32>,
    /// Access and modification, in seconds since 1970.
    pub times: Option<(u32, u32)>,
}

/// What is asked of a server. `Write`'s payload follows the packet and is only counted here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    Init,
    Open { path: &'a str, flags: u32, attrs: Attrs },
    Close { handle: &'a [u8] },
    Read { handle: &'a [u8], offset: u64, len: u32 },
    Write { handle: &'a [u8], offset: u64, len: u32 },
    Lstat { path: &'a str },
    Stat { path: &'a str },
    Fstat { handle: &'a [u8] },
    Fsetstat { handle: &'a [u8], attrs: Attrs },
    OpenFolder { path: &'a str },
    ReadFolder { handle: &'a [u8] },
    Remove { path: &'a str },
    MakeFolder { path: &'a str, attrs: Attrs },
    RemoveFolder { path: &'a str },
    Rename { from: &'a str, to: &'a str },
    Fsync { handle: &'a [u8] },
    Hardlink { from: &'a str, to: &'a str },
    PosixRename { from: &'a str, to: &'a str },
    Statvfs { path: &'a str },
    Limits,
}

impl Request<'_> {
    /// Returns the packet, without the payload of a write.
    pub(crate) fn encode(&self, id: u32) -> Bytes {
        let mut packet = BytesMut::with_capacity(128);
        packet.put_u32(0);
        packet.put_u8(self.kind());
        packet.put_u32(if matches!(self, Self::Init) { VERSION } else { id });
        self.put_fields(&mut packet);
        let payload_bytes = if let Self::Write { len, .. } = self { *len } else { 0 };
        let len = (packet.len() - 4) as u32 + payload_bytes;
        packet[..4].copy_from_slice(&len.to_be_bytes());
        packet.freeze()
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Init => kind::INIT,
            Self::Open { .. } => kind::OPEN,
            Self::Close { .. } => kind::CLOSE,
            Self::Read { .. } => kind::READ,
            Self::Write { .. } => kind::WRITE,
            Self::Lstat { .. } => kind::LSTAT,
            Self::Stat { .. } => kind::STAT,
            Self::Fstat { .. } => kind::FSTAT,
            Self::Fsetstat { .. } => kind::FSETSTAT,
            Self::OpenFolder { .. } => kind::OPENDIR,
            Self::ReadFolder { .. } => kind::READDIR,
            Self::Remove { .. } => kind::REMOVE,
            Self::MakeFolder { .. } => kind::MKDIR,
            Self::RemoveFolder { .. } => kind::RMDIR,
            Self::Rename { .. } => kind::RENAME,
            Self::Fsync { .. }
            | Self::Hardlink { .. }
            | Self::PosixRename { .. }
            | Self::Statvfs { .. }
            | Self::Limits => kind::EXTENDED,
        }
    }

    fn put_fields(&self, packet: &mut BytesMut) {
        match *self {
            Self::Init => {}
            Self::Open { path, flags, attrs } => {
                put_string(packet, path.as_bytes());
                packet.put_u32(flags);
                attrs.put(packet);
            }
            Self::Read { handle, offset, len } | Self::Write { handle, offset, len } => {
                put_string(packet, handle);
                packet.put_u64(offset);
                packet.put_u32(len);
            }
            Self::Close { handle } | Self::Fstat { handle } | Self::ReadFolder { handle } => {
                put_string(packet, handle);
            }
            Self::Lstat { path }
            | Self::Stat { path }
            | Self::OpenFolder { path }
            | Self::Remove { path }
            | Self::RemoveFolder { path } => put_string(packet, path.as_bytes()),
            Self::MakeFolder { path, attrs } => {
                put_string(packet, path.as_bytes());
                attrs.put(packet);
            }
            Self::Fsetstat { handle, attrs } => {
                put_string(packet, handle);
                attrs.put(packet);
            }
            Self::Rename { from, to } => put_strings(packet, [from, to]),
            Self::Fsync { handle } => {
                put_string(packet, extension::FSYNC.as_bytes());
                put_string(packet, handle);
            }
            Self::Hardlink { from, to } => put_strings(packet, [extension::HARDLINK, from, to]),
            Self::PosixRename { from, to } => put_strings(packet, [extension::POSIX_RENAME, from, to]),
            Self::Statvfs { path } => put_strings(packet, [extension::STATVFS, path]),
            Self::Limits => put_strings(packet, [extension::LIMITS]),
        }
    }
}

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub name: Bytes,
    pub attrs: Attrs,
}

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Version { version: u32, extensions: Vec<(Bytes, Bytes)> },
    Status { code: u32, message: Bytes },
    Handle(Bytes),
    Data(Bytes),
    Names(Vec<Entry>),
    Attrs(Attrs),
    Extended(Bytes),
}

impl Reply {
    /// Reads a packet without its length; the id of a `Version` is zero.
    pub(crate) fn decode(packet: Bytes) -> Result<(u32, Self), Malformed> {
        let mut fields = Fields(packet);
        let kind = fields.u8()?;
        if kind == kind::VERSION {
            return Ok((0, Self::decode_version(fields)?));
        }
        let id = fields.u32()?;
        let reply = match kind {
            // Some servers leave the text and the language out.
            kind::STATUS => {
                Self::Status { code: fields.u32()?, message: fields.string().unwrap_or_default() }
            }
            kind::HANDLE => Self::Handle(fields.handle()?),
            kind::DATA => Self::Data(fields.string()?),
            kind::NAME => Self::Names(fields.names()?),
            kind::ATTRS => Self::Attrs(fields.attrs()?),
            kind::EXTENDED_REPLY => Self::Extended(fields.0),
            _ => return Err(Malformed("a packet of an unknown kind")),
        };
        Ok((id, reply))
    }

    fn decode_version(mut fields: Fields) -> Result<Self, Malformed> {
        let version = fields.u32()?;
        let mut extensions = Vec::new();
        while !fields.0.is_empty() {
            extensions.push((fields.string()?, fields.string()?));
        }
        Ok(Self::Version { version, extensions })
    }
}

/// The answer to `limits@openssh.com`; zero is "no limit told".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub read_bytes: u64,
    pub write_bytes: u64,
    pub open_handles: u64,
}

impl Limits {
    pub(crate) fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut fields = Fields(bytes);
        let _packet_bytes = fields.u64()?;
        Ok(Self { read_bytes: fields.u64()?, write_bytes: fields.u64()?, open_handles: fields.u64()? })
    }
}

/// Returns the free bytes out of the answer to `statvfs@openssh.com`.
pub(crate) fn decode_free_bytes(bytes: Bytes) -> Result<u64, Malformed> {
    let mut fields = Fields(bytes);
    let block_bytes = fields.u64()?;
    let fragment_bytes = fields.u64()?;
    let _blocks = fields.u64()?;
    let _free = fields.u64()?;
    let available = fields.u64()?;
    let unit = if fragment_bytes == 0 { block_bytes } else { fragment_bytes };
    Ok(available.saturating_mul(unit))
}

impl Attrs {
    /// Returns attributes that set only the permissions.
    pub(crate) fn mode(permissions: u32) -> Self {
        Self { permissions: Some(permissions), ..Self::default() }
    }

    /// Returns attributes that set only the times.
    pub(crate) fn time(seconds: u32) -> Self {
        Self { times: Some((seconds, seconds)), ..Self::default() }
    }

    fn put(&self, packet: &mut BytesMut) {
        let flag = |is_there: bool, flag| if is_there { flag } else { 0 };
        packet.put_u32(
            flag(self.size.is_some(), ATTRS_SIZE)
                | flag(self.permissions.is_some(), ATTRS_PERMISSIONS)
                | flag(self.times.is_some(), ATTRS_TIMES),
        );
        if let Some(size) = self.size {
            packet.put_u64(size);
        }
        if let Some(permissions) = self.permissions {
            packet.put_u32(permissions);
        }
        if let Some((access, modification)) = self.times {
            packet.put_u32(access);
            packet.put_u32(modification);
        }
    }
}

fn put_string(packet: &mut BytesMut, bytes: &[u8]) {
    packet.put_u32(bytes.len() as u32);
    packet.put_slice(bytes);
}

fn put_strings<const N: usize>(packet: &mut BytesMut, texts: [&str; N]) {
    for text in texts {
        put_string(packet, text.as_bytes());
    }
}

/// What is left of a packet.
struct Fields(Bytes);

impl Fields {
    fn take(&mut self, len: usize) -> Result<Bytes, Malformed> {
        if len > self.0.len() {
            return Err(Malformed("a packet that ends too early"));
        }
        Ok(self.0.split_to(len))
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let bytes = self.take(N)?;
        Ok(*bytes.first_chunk().expect("as many bytes were taken"))
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.number().map(u8::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.number().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.number().map(u64::from_be_bytes)
    }

    fn string(&mut self) -> Result<Bytes, Malformed> {
        let len = self.u32()?;
        self.take(usize::try_from(len).map_err(|_| Malformed("a string that no memory can hold"))?)
    }

    fn handle(&mut self) -> Result<Bytes, Malformed> {
        let handle = self.string()?;
        // A copy, so that a small handle does not keep a large buffer alive.
        match handle.len() <= HANDLE_BYTES_MAX {
            true => Ok(Bytes::copy_from_slice(&handle)),
            false => Err(Malformed("a handle that is longer than the protocol allows")),
        }
    }

    fn attrs(&mut self) -> Result<Attrs, Malformed> {
        let flags = self.u32()?;
        let mut attrs = Attrs::default();
        if flags & ATTRS_SIZE != 0 {
            attrs.size = Some(self.u64()?);
        }
        if flags & ATTRS_OWNERS != 0 {
            self.u64()?;
        }
        if flags & ATTRS_PERMISSIONS != 0 {
            attrs.permissions = Some(self.u32()?);
        }
        if flags & ATTRS_TIMES != 0 {
            attrs.times = Some((self.u32()?, self.u32()?));
        }
        if flags & ATTRS_EXTENDED != 0 {
            for _ in 0..self.u32()? {
                self.string()?;
                self.string()?;
            }
        }
        Ok(attrs)
    }

    fn names(&mut self) -> Result<Vec<Entry>, Malformed> {
        let count = self.u32()?;
        let mut names = Vec::new();
        for _ in 0..count {
            let name = Bytes::copy_from_slice(&self.string()?);
            let _long_name = self.string()?;
            names.push(Entry { name, attrs: self.attrs()? });
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(kind: u8, id: u32, fields: &[u8]) -> Bytes {
        let mut packet = BytesMut::new();
        packet.put_u8(kind);
        packet.put_u32(id);
        packet.put_slice(fields);
        packet.freeze()
    }

    #[test]
    fn requests_have_the_bytes_of_the_protocol() {
        let open = Request::Open { path: "a/b", flags: OPEN_READ, attrs: Attrs::mode(0o600) }.encode(7);
        assert_eq!(open[..], *b"\0\0\0\x18\x03\0\0\0\x07\0\0\0\x03a/b\0\0\0\x01\0\0\0\x04\0\0\x01\x80");
        assert_eq!(Request::Init.encode(0)[..], *b"\0\0\0\x05\x01\0\0\0\x03");
        let write = Request::Write { handle: b"\xff", offset: 1 << 32, len: 5 }.encode(1);
        assert_eq!(write[..4], (u32::try_from(write.len()).unwrap() - 4 + 5).to_be_bytes());
        let link = Request::Hardlink { from: "a", to: "b" }.encode(2);
        assert!(link.ends_with(b"\0\0\0\x14hardlink@openssh.com\0\0\0\x01a\0\0\0\x01b"));
    }

    #[test]
    fn a_handle_is_bytes_and_not_too_many() {
        let handle = |bytes: &[u8]| {
            let mut fields = BytesMut::new();
            put_string(&mut fields, bytes);
            Reply::decode(framed(kind::HANDLE, 1, &fields))
        };
        let raw = b"\xff\0\xfe";
        assert_eq!(handle(raw), Ok((1, Reply::Handle(Bytes::from_static(raw)))));
        assert!(handle(&[0; HANDLE_BYTES_MAX]).is_ok());
        assert!(handle(&[0; HANDLE_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn a_status_without_words_is_a_status() {
        let reply = Reply::decode(framed(kind::STATUS, 3, &4_u32.to_be_bytes()));
        assert_eq!(reply, Ok((3, Reply::Status { code: 4, message: Bytes::new() })));
    }

    #[test]
    fn lengths_and_counts_beyond_the_packet_are_refused() {
        let huge = u32::MAX.to_be_bytes();
        for kind in [kind::HANDLE, kind::DATA, kind::NAME] {
            assert!(Reply::decode(framed(kind, 1, &huge)).is_err());
        }
        let attrs = [ATTRS_EXTENDED.to_be_bytes(), huge].concat();
        assert!(Reply::decode(framed(kind::ATTRS, 1, &attrs)).is_err());
        assert!(Reply::decode(Bytes::new()).is_err());
        assert!(Reply::decode(framed(77, 1, b"")).is_err());
    }

    #[test]
    fn free_space_is_counted_in_fragments() {
        let numbers: Vec<u8> = [4096_u64, 1024, 100, 50, 40].iter().flat_map(|n| n.to_be_bytes()).collect();
        assert_eq!(decode_free_bytes(Bytes::from(numbers)), Ok(40 * 1024));
        assert!(decode_free_bytes(Bytes::from_static(b"short")).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Reply::decode(Bytes::from(bytes.clone()));
            for kind in [kind::VERSION, kind::STATUS, kind::HANDLE, kind::DATA, kind::NAME, kind::ATTRS] {
                let _ = Reply::decode(framed(kind, 1, &bytes));
            }
            let _ = Limits::decode(Bytes::from(bytes));
        }

        #[test]
        fn attributes_survive_the_way_there_and_back(
            size in any::<Option<u64>>(),
            permissions in any::<Option<u32>>(),
            times in any::<Option<(u32, u32)>>(),
        ) {
            let attrs = Attrs { size, permissions, times };
            let mut fields = BytesMut::new();
            attrs.put(&mut fields);
            prop_assert_eq!(Reply::decode(framed(kind::ATTRS, 9, &fields)), Ok((9, Reply::Attrs(attrs))));
        }

        #[test]
        fn entries_survive_whatever_their_names(names in proptest::collection::vec(any::<Vec<u8>>(), 0..8)) {
            let mut fields = BytesMut::new();
            fields.put_u32(names.len() as u32);
            for name in &names {
                put_string(&mut fields, name);
                put_string(&mut fields, b"-rw-------");
                Attrs::mode(0o100_600).put(&mut fields);
            }
            let Ok((5, Reply::Names(entries))) = Reply::decode(framed(kind::NAME, 5, &fields)) else {
                return Err(TestCaseError::fail("no names"));
            };
            let found: Vec<_> = entries.iter().map(|entry| entry.name.to_vec()).collect();
            prop_assert_eq!(found, names);
        }
    }
}
