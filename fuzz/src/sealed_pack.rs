//! Encrypted packs: trailer, footer and frames, sealed with a key the fuzzer has.
//!
//! Input: whether the bytes are sealed first, then the footer as plain bytes, then the file or a frame.

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use packvault::format::pack::encrypted::{Trailer, open_footer, open_frame, seal_footer, seal_frame};
use packvault::format::pack::{Entry, encode_header};
use packvault::format::sealed::{NONCE_BYTES, OVERHEAD_BYTES};
use packvault::format::{BlobFlags, BlobId, Decompressor, PackId, RepositoryKey, crc32c};

use super::input::Input;

const KEY: [u8; 32] = [7; 32];
const NONCE: [u8; NONCE_BYTES] = [9; NONCE_BYTES];
const PACK: PackId = PackId::from_bytes([1; 16]);

/// Opens footers and frames, forged and whole.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (is_sealed, flags) = (input.choice(), input.byte());
    let region = input.piece();
    let rest = input.rest();
    read_footer(region, rest, is_sealed);
    read_frame(rest, flags);
    write(&[region, rest]);
}

fn read_footer(region: &[u8], frames: &[u8], is_sealed: bool) {
    let footer = if is_sealed { seal(&binding(), region) } else { region.to_vec() };
    let start = [&encode_header(true)[..], frames].concat();
    let (offset, bytes) = ((start.len() as u64).to_le_bytes(), (footer.len() as u64).to_le_bytes());
    let file = [&start[..], &footer, &offset, &bytes, b"KPVM"].concat();
    let trailer = Trailer::parse(&file, file.len() as u64).expect("the trailer was made right");
    let sealed = &file[trailer.footer_offset() as usize..][..trailer.region_bytes() as usize];
    let opened = open_footer(sealed, &trailer, &RepositoryKey::from_bytes(KEY), PACK);
    assert!(is_sealed || opened.is_err(), "nothing opens that was not sealed");
    let _ = Trailer::parse(frames, frames.len() as u64);
    for entry in opened.iter().flat_map(|footer| footer.entries()) {
        assert!(entry.offset + entry.stored_bytes <= trailer.footer_offset(), "frames lie before the footer");
    }
}

fn read_frame(frame: &[u8], flags: u8) {
    let Ok(flags) = BlobFlags::parse(flags % 4) else { return };
    let key = RepositoryKey::from_bytes(KEY);
    let id = BlobId::of(frame);
    let stored = seal_frame(&key, NONCE, &id, frame);
    let entry = entry(id, &stored, frame.len() as u64, flags);
    let mut opened = Vec::new();
    let Ok(inner) = open_frame(&key, &entry, &stored, &mut opened) else {
        assert!(!flags.encrypted());
        return;
    };
    assert!(opened == frame);
    let decoded = Decompressor::new().decode(&inner, &opened).map(<[u8]>::to_vec);
    assert!(flags.compressed() || decoded.is_ok_and(|raw| raw == frame));
    let unsealed = Entry { stored_bytes: frame.len() as u64, crc32c: crc32c(frame), ..entry };
    assert!(open_frame(&key, &unsealed, frame, &mut opened).is_err(), "nothing opens that was not sealed");
}

/// What is sealed opens under its name and no other.
fn write(blobs: &[&[u8]]) {
    let key = RepositoryKey::from_bytes(KEY);
    let mut file = encode_header(true).to_vec();
    let mut entries: Vec<Entry> = Vec::new();
    for raw in blobs {
        let id = BlobId::of(raw);
        if entries.iter().all(|entry| entry.id != id) {
            let stored = seal_frame(&key, NONCE, &id, raw);
            let entry = entry(id, &stored, raw.len() as u64, BlobFlags::ENCRYPTED);
            entries.push(Entry { offset: file.len() as u64, ..entry });
            file.extend_from_slice(&stored);
        }
    }
    file.extend(seal_footer(&key, NONCE, PACK, &entries));
    let trailer = Trailer::parse(&file, file.len() as u64).expect("it was just written");
    let sealed = &file[trailer.footer_offset() as usize..][..trailer.region_bytes() as usize];
    assert_eq!(open_footer(sealed, &trailer, &key, PACK).expect("it was just sealed").entries(), entries);
    assert!(open_footer(sealed, &trailer, &key, PackId::from_bytes([2; 16])).is_err());
}

fn entry(id: BlobId, stored: &[u8], raw_bytes: u64, flags: BlobFlags) -> Entry {
    Entry { id, offset: 6, stored_bytes: stored.len() as u64, raw_bytes, flags, crc32c: crc32c(stored) }
}

fn binding() -> Vec<u8> {
    format!("pack-footer\0{PACK}").into_bytes()
}

fn seal(binding: &[u8], plain: &[u8]) -> Vec<u8> {
    let payload = Payload { msg: plain, aad: binding };
    let cipher = XChaCha20Poly1305::new(&KEY.into());
    let sealed = cipher.encrypt(&NONCE.into(), payload).expect("a few bytes can be sealed");
    let whole = [&NONCE[..], &sealed].concat();
    assert_eq!(whole.len(), plain.len() + OVERHEAD_BYTES);
    whole
}
