//! Each check of opening a pack, plain or encrypted, broken once.

use proptest::prelude::*;

use super::*;
use crate::format::hash::crc32c;
use crate::format::ids::PackId;
use crate::format::repository_key::RepositoryKey;

const FRAMES: [&[u8]; 4] = [b"hello", b"", b"world!", b"x"];

#[test]
fn the_limits_are_those_of_the_format() {
    assert_eq!(TARGET_STORED_BYTES, 33_554_432);
    assert_eq!(BLOB_RAW_BYTES_MAX, 4_294_967_296);
    assert_eq!(BLOB_STORED_BYTES_MAX, 4_311_744_616);
    assert_eq!(FOOTER_BYTES_MAX, 1_073_741_824);
}

fn entries(frames: &[&[u8]]) -> Vec<Entry> {
    let mut offset = HEADER_BYTES as u64;
    let append = |frame: &&[u8]| {
        let bytes = frame.len() as u64;
        offset += bytes;
        Entry {
            id: BlobId::of(frame),
            offset: offset - bytes,
            stored_bytes: bytes,
            raw_bytes: bytes,
            flags: BlobFlags::RAW,
            crc32c: crc32c(frame),
        }
    };
    frames.iter().map(append).collect()
}

/// Returns a pack whose footer lists whatever it is given.
fn pack_listing(listed: &[Entry]) -> Vec<u8> {
    let mut file = encode_header(false).to_vec();
    file.extend_from_slice(&FRAMES.concat());
    let region = footer::encode_region(listed);
    append_footer(file, &region)
}

fn append_footer(mut file: Vec<u8>, region: &[u8]) -> Vec<u8> {
    let mut sealed = region.to_vec();
    sealed.extend_from_slice(&(region.len() as u32).to_le_bytes());
    file.extend_from_slice(&sealed);
    file.extend_from_slice(BlobId::of(&sealed).as_bytes());
    file.extend_from_slice(TRAILER_MAGIC);
    file
}

fn open(file: &[u8]) -> Result<Footer> {
    check_header(file)?.require_plain()?;
    let file_bytes = file.len() as u64;
    let trailer = Trailer::parse(&file[file.len().saturating_sub(TRAILER_BYTES)..], file_bytes)?;
    let start = trailer.footer_offset() as usize;
    Footer::parse(&file[start..start + trailer.region_bytes() as usize], &trailer, file_bytes)
}

fn refusal(file: &[u8]) -> FormatErrorKind {
    open(file).unwrap_err().kind()
}

fn refusal_of(damage: impl Fn(&mut Vec<Entry>)) -> FormatErrorKind {
    let mut listed = entries(&FRAMES);
    damage(&mut listed);
    refusal(&pack_listing(&listed))
}

#[test]
fn a_pack_opens_and_finds_its_blobs() {
    let listed = entries(&FRAMES);
    let file = pack_listing(&listed);
    let frames_end = HEADER_BYTES + FRAMES.concat().len();
    assert_eq!(file[frames_end..], encode_footer(&listed));
    assert_eq!(file.len() as u64, expected_file_bytes(frames_end as u64, 4));
    let footer = open(&file).unwrap();
    assert_eq!(footer.entries(), listed);
    for entry in &listed {
        assert_eq!(footer.get(&entry.id), Some(entry));
    }
    assert_eq!(footer.get(&BlobId::of(b"other")), None);
    assert!(open(&append_footer(encode_header(false).to_vec(), &[0; 4])).unwrap().entries().is_empty());
}

#[test]
fn the_header_is_checked_in_order() {
    let good = pack_listing(&entries(&FRAMES));
    let with = |position: usize, value: u8| {
        let mut file = good.clone();
        file[position] = value;
        file
    };
    assert_eq!(refusal(b"MVPK\x01"), FormatErrorKind::Truncated);
    assert_eq!(refusal(b"XXXX\x02\xff"), FormatErrorKind::BadMagic);
    assert_eq!(refusal(b"MVPK\x02\xff"), FormatErrorKind::UnsupportedVersion);
    assert_eq!(refusal(b"MVPK\x01\x02"), FormatErrorKind::Corrupt);
    assert_eq!(refusal(b"MVPK\x01\x01"), FormatErrorKind::Encrypted);
    assert_eq!(refusal(b"MVPK\x01\x00"), FormatErrorKind::Truncated);
    assert_eq!(refusal(&with(4, 0)), FormatErrorKind::UnsupportedVersion);
    assert_eq!(refusal(&with(5, 3)), FormatErrorKind::Corrupt);
}

#[test]
fn the_trailer_is_checked_before_the_footer_is_read() {
    let good = pack_listing(&entries(&FRAMES));
    let trailer_at = good.len() - TRAILER_BYTES;
    for position in 36..40 {
        let mut file = good.clone();
        file[trailer_at + position] ^= 1;
        assert_eq!(refusal(&file), FormatErrorKind::BadMagic);
    }
    let room = (trailer_at - HEADER_BYTES) as u32;
    for region_bytes in [room + 1, (1 << 30) + 1, u32::MAX] {
        let mut file = good.clone();
        file[trailer_at..trailer_at + 4].copy_from_slice(&region_bytes.to_le_bytes());
        assert_eq!(refusal(&file), FormatErrorKind::Truncated);
        // However large the file claims to be, the footer stays bounded.
        let bounded = Trailer::parse(&file[trailer_at..], u64::MAX).is_ok();
        assert_eq!(bounded, u64::from(region_bytes) <= FOOTER_BYTES_MAX);
    }
    for position in (4..36).chain(0..4) {
        let mut file = good.clone();
        file[trailer_at + position] ^= 1;
        assert!(matches!(refusal(&file), FormatErrorKind::Checksum | FormatErrorKind::Truncated));
    }
    for position in HEADER_BYTES + FRAMES.concat().len()..trailer_at {
        let mut file = good.clone();
        file[position] ^= 1;
        assert_eq!(refusal(&file), FormatErrorKind::Checksum);
    }
}

#[test]
fn a_pack_cut_anywhere_is_refused() {
    let good = pack_listing(&entries(&FRAMES));
    for bytes in 0..good.len() {
        assert!(open(&good[..bytes]).is_err(), "{bytes}");
    }
}

#[test]
fn a_footer_of_the_wrong_size_is_refused() {
    let good = footer::encode_region(&entries(&FRAMES));
    let header = [&encode_header(false)[..], &FRAMES.concat()].concat();
    for region in [&good[..0], &good[..3], &good[..good.len() - 1], &[&good[..], &[0]].concat()] {
        assert_eq!(refusal(&append_footer(header.clone(), region)), FormatErrorKind::Corrupt);
    }
    for count in [0, 3, 5, u32::MAX] {
        let mut region = good.clone();
        region[..4].copy_from_slice(&u32::to_le_bytes(count));
        assert_eq!(refusal(&append_footer(header.clone(), &region)), FormatErrorKind::Corrupt);
    }
    let file = pack_listing(&entries(&FRAMES));
    let trailer = Trailer::parse(&file, file.len() as u64).unwrap();
    let short = Footer::parse(&good[1..], &trailer, file.len() as u64).unwrap_err();
    let other_file = Footer::parse(&good, &trailer, file.len() as u64 + 1).unwrap_err();
    let tiny_file = Footer::parse(&good, &trailer, 1).unwrap_err();
    for error in [short, other_file, tiny_file] {
        assert_eq!(error.kind(), FormatErrorKind::Truncated);
    }
}

#[test]
fn entries_outside_the_frames_or_the_limits_are_refused() {
    let damages: [fn(&mut Entry); 10] = [
        |entry| entry.offset = 5,
        |entry| entry.offset = 0,
        |entry| entry.offset = u64::MAX,
        |entry| entry.offset = u64::MAX - 4,
        |entry| entry.offset += 20,
        |entry| entry.stored_bytes += 20,
        |entry| entry.stored_bytes = u64::MAX,
        |entry| entry.stored_bytes = BLOB_STORED_BYTES_MAX + 1,
        |entry| entry.raw_bytes = BLOB_RAW_BYTES_MAX + 1,
        |entry| entry.flags = BlobFlags(4),
    ];
    for (number, damage) in damages.iter().enumerate() {
        assert_eq!(refusal_of(|listed| damage(&mut listed[2])), FormatErrorKind::Corrupt, "{number}");
    }
    let mut listed = entries(&FRAMES);
    listed[2].raw_bytes = BLOB_RAW_BYTES_MAX;
    open(&pack_listing(&listed)).unwrap();
}

#[test]
fn each_limit_of_an_entry_holds_by_itself() {
    let largest =
        Entry { stored_bytes: BLOB_STORED_BYTES_MAX, raw_bytes: BLOB_RAW_BYTES_MAX, ..entries(&FRAMES)[0] };
    let end = largest.offset + largest.stored_bytes;
    let refused = |entry: Entry, end: u64| footer::check_entry(&entry, end).is_err();
    assert!(!refused(largest, end) && !refused(largest, end + 1));
    assert!(refused(largest, end - 1));
    assert!(refused(Entry { offset: largest.offset + 1, ..largest }, end));
    assert!(refused(Entry { offset: largest.offset - 1, ..largest }, end));
    for more in [1, 2] {
        assert!(refused(Entry { stored_bytes: BLOB_STORED_BYTES_MAX + more, ..largest }, u64::MAX));
        assert!(refused(Entry { raw_bytes: BLOB_RAW_BYTES_MAX + more, ..largest }, u64::MAX));
    }
}

#[test]
fn overlaps_and_duplicates_are_refused_but_order_and_gaps_are_not() {
    assert_eq!(refusal_of(|listed| listed[2].offset -= 1), FormatErrorKind::Corrupt);
    assert_eq!(refusal_of(|listed| listed[0].stored_bytes += 1), FormatErrorKind::Corrupt);
    assert_eq!(refusal_of(|listed| listed[3].id = listed[0].id), FormatErrorKind::Corrupt);
    let mut listed = entries(&FRAMES);
    listed.reverse();
    listed.remove(1);
    open(&pack_listing(&listed)).unwrap();
    // An empty frame takes no room, wherever it lies.
    let mut listed = entries(&FRAMES);
    listed[1].offset = 8;
    open(&pack_listing(&listed)).unwrap();
}

#[test]
fn a_writer_stops_before_it_seals_what_readers_refuse() {
    let damages: [fn(&mut Vec<Entry>); 4] = [
        |listed| listed[1].offset += 1,
        |listed| listed.swap(0, 2),
        |listed| listed[3].id = listed[0].id,
        |listed| listed.resize(ENTRIES_MAX + 1, listed[0]),
    ];
    for damage in damages {
        let mut listed = entries(&FRAMES);
        damage(&mut listed);
        assert!(std::panic::catch_unwind(|| encode_footer(&listed)).is_err());
    }
}

#[test]
fn flags_say_what_their_bits_say() {
    for bits in 0..4 {
        let flags = BlobFlags::parse(bits).unwrap();
        assert_eq!(
            (flags.compressed(), flags.encrypted(), flags.bits()),
            (bits & 1 != 0, bits & 2 != 0, bits)
        );
    }
    assert!((4..=255).all(|bits| BlobFlags::parse(bits).is_err()));
    assert_eq!(BlobFlags::COMPRESSED.with(BlobFlags::ENCRYPTED).bits(), 3);
}

fn pack_id(number: u8) -> PackId {
    PackId::from_bytes([number; 16])
}

/// Returns an encrypted pack of the frames, and its entries.
fn sealed_pack(key: &RepositoryKey) -> (Vec<u8>, Vec<Entry>) {
    let mut file = encode_header(true).to_vec();
    let mut listed = entries(&FRAMES);
    for (number, (entry, frame)) in listed.iter_mut().zip(FRAMES).enumerate() {
        let sealed = encrypted::seal_frame(key, [number as u8; 24], &entry.id, frame);
        entry.offset = file.len() as u64;
        entry.stored_bytes = sealed.len() as u64;
        entry.flags = BlobFlags::ENCRYPTED;
        entry.crc32c = crc32c(&sealed);
        file.extend_from_slice(&sealed);
    }
    let frames_end = file.len() as u64;
    file.extend_from_slice(&encrypted::seal_footer(key, [9; 24], pack_id(1), &listed));
    assert_eq!(file.len() as u64, encrypted::expected_file_bytes(frames_end, listed.len() as u64));
    (file, listed)
}

fn open_sealed(file: &[u8], key: &RepositoryKey, pack: PackId) -> Result<Footer> {
    assert!(check_header(file)?.encrypted);
    let trailer = encrypted::Trailer::parse(file, file.len() as u64)?;
    let start = trailer.footer_offset() as usize;
    encrypted::open_footer(&file[start..start + trailer.region_bytes() as usize], &trailer, key, pack)
}

#[test]
fn an_encrypted_pack_opens_with_its_key_and_under_its_name() {
    let key = RepositoryKey::from_bytes([7; 32]);
    let (file, listed) = sealed_pack(&key);
    assert_eq!(open_sealed(&file, &key, pack_id(1)).unwrap().entries(), listed);
    assert_eq!(open_sealed(&file, &key, pack_id(2)).unwrap_err().kind(), FormatErrorKind::Decrypt);
    let other = RepositoryKey::from_bytes([8; 32]);
    assert_eq!(open_sealed(&file, &other, pack_id(1)).unwrap_err().kind(), FormatErrorKind::Decrypt);
    for (entry, frame) in listed.iter().zip(FRAMES) {
        let stored = &file[entry.offset as usize..][..entry.stored_bytes as usize];
        let mut opened = Vec::new();
        let inner = encrypted::open_frame(&key, entry, stored, &mut opened).unwrap();
        assert_eq!(opened, frame);
        assert_eq!((inner.stored_bytes, inner.crc32c), (frame.len() as u64, crc32c(frame)));
    }
}

#[test]
fn a_sealed_frame_is_bound_to_its_blob_and_its_bytes() {
    let key = RepositoryKey::from_bytes([7; 32]);
    let (file, listed) = sealed_pack(&key);
    let entry = listed[0];
    let stored = &file[entry.offset as usize..][..entry.stored_bytes as usize];
    let kind = |entry: Entry, stored: &[u8]| {
        encrypted::open_frame(&key, &entry, stored, &mut Vec::new()).unwrap_err().kind()
    };
    assert_eq!(kind(Entry { id: listed[2].id, ..entry }, stored), FormatErrorKind::Decrypt);
    assert_eq!(kind(Entry { flags: BlobFlags::RAW, ..entry }, stored), FormatErrorKind::Corrupt);
    assert_eq!(kind(entry, &stored[1..]), FormatErrorKind::Corrupt);
    let mut altered = stored.to_vec();
    altered[30] ^= 1;
    assert_eq!(kind(entry, &altered), FormatErrorKind::Corrupt);
    assert_eq!(kind(Entry { crc32c: crc32c(&altered), ..entry }, &altered), FormatErrorKind::Decrypt);
    let short = Entry { stored_bytes: 3, crc32c: crc32c(b"abc"), ..entry };
    assert_eq!(kind(short, b"abc"), FormatErrorKind::Truncated);
}

#[test]
fn the_trailer_of_an_encrypted_pack_must_meet_the_end_of_the_file() {
    let key = RepositoryKey::from_bytes([7; 32]);
    let (good, _) = sealed_pack(&key);
    let trailer_at = good.len() - encrypted::TRAILER_BYTES;
    let kind = |footer_offset: u64, region_bytes: u64| {
        let mut file = good.clone();
        file[trailer_at..trailer_at + 8].copy_from_slice(&footer_offset.to_le_bytes());
        file[trailer_at + 8..trailer_at + 16].copy_from_slice(&region_bytes.to_le_bytes());
        open_sealed(&file, &key, pack_id(1)).unwrap_err().kind()
    };
    let end = trailer_at as u64;
    let trailer = |footer_offset: u64, region_bytes: u64| {
        [&footer_offset.to_le_bytes()[..], &region_bytes.to_le_bytes(), &good[good.len() - 4..]].concat()
    };
    for (footer_offset, region_bytes) in
        [(end - 8, 9), (end - 8, 7), (5, end - 5), (end + 1, u64::MAX), (u64::MAX, end + 1), (0, u64::MAX)]
    {
        assert_eq!(kind(footer_offset, region_bytes), FormatErrorKind::Truncated);
        // Before a byte of the footer is read.
        let last = trailer(footer_offset, region_bytes);
        encrypted::Trailer::parse(&last, good.len() as u64).unwrap_err();
    }
    let largest =
        |region_bytes: u64| encrypted::Trailer::parse(&trailer(6, region_bytes), 6 + region_bytes + 20);
    largest(FOOTER_BYTES_MAX).unwrap();
    assert_eq!(largest(FOOTER_BYTES_MAX + 1).unwrap_err().kind(), FormatErrorKind::Truncated);
    assert_eq!(kind(end - 8, 8), FormatErrorKind::Truncated);
    let mut wrong_magic = good.clone();
    *wrong_magic.last_mut().unwrap() = b'X';
    assert_eq!(open_sealed(&wrong_magic, &key, pack_id(1)).unwrap_err().kind(), FormatErrorKind::BadMagic);
    let smallest = [&6u64.to_le_bytes()[..], &0u64.to_le_bytes(), &good[good.len() - 4..]].concat();
    encrypted::Trailer::parse(&smallest, 26).unwrap();
    assert_eq!(encrypted::Trailer::parse(&smallest, 25).unwrap_err().kind(), FormatErrorKind::Truncated);
    let cut = encrypted::Trailer::parse(&good[..25], 25).unwrap_err();
    assert_eq!(cut.kind(), FormatErrorKind::Truncated);
}

/// Whoever has the key, or had it once, may list what lies there in plain text.
#[test]
fn a_sealed_footer_that_lists_a_frame_as_plain_is_refused() {
    let key = RepositoryKey::from_bytes([7; 32]);
    let (_, mut listed) = sealed_pack(&key);
    let frames_end = listed.last().map(|last| last.offset + last.stored_bytes).unwrap();
    listed[1].flags = BlobFlags::RAW;
    let binding = crate::format::sealed::Binding::PackFooter(pack_id(1));
    let region = crate::format::sealed::seal(&key, [9; 24], &binding, &footer::encode_region(&listed));
    let bytes = region.len() as u64;
    let last = [&frames_end.to_le_bytes()[..], &bytes.to_le_bytes(), TRAILER_MAGIC].concat();
    let trailer = encrypted::Trailer::parse(&last, frames_end + bytes + 20).unwrap();
    let error = encrypted::open_footer(&region, &trailer, &key, pack_id(1)).unwrap_err();
    assert_eq!(error.kind(), FormatErrorKind::Corrupt);
}

#[test]
fn a_frame_that_comes_in_pieces_is_checked_as_one_that_comes_whole() {
    let key = RepositoryKey::from_bytes([7; 32]);
    let (file, listed) = sealed_pack(&key);
    let entry = listed[0];
    let stored = &file[entry.offset as usize..][..entry.stored_bytes as usize];
    let check = |entry: Entry| {
        let mut check = encrypted::FrameCheck::new(&key, &entry)?;
        check.feed(stored)?;
        check.finish().map(drop)
    };
    check(entry).unwrap();
    let kind = |entry: Entry| check(entry).unwrap_err().kind();
    assert_eq!(kind(Entry { crc32c: entry.crc32c ^ 1, ..entry }), FormatErrorKind::Corrupt);
    assert_eq!(kind(Entry { id: listed[2].id, ..entry }), FormatErrorKind::Decrypt);
    assert_eq!(kind(Entry { flags: BlobFlags::RAW, ..entry }), FormatErrorKind::Corrupt);
    assert_eq!(kind(Entry { stored_bytes: 39, ..entry }), FormatErrorKind::Truncated);
}

#[test]
fn a_key_is_never_shown() {
    assert_eq!(format!("{:?}", RepositoryKey::from_bytes([7; 32])), "RepositoryKey(..)");
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), bits in 0u8..4) {
        let _ = open(&bytes);
        let _ = open(&append_footer(encode_header(false).to_vec(), &bytes));
        let count = (bytes.len() / ENTRY_BYTES) as u32;
        let mut region = [&count.to_le_bytes()[..], &bytes[..count as usize * ENTRY_BYTES]].concat();
        for entry in 0..count as usize {
            region[COUNT_BYTES + entry * ENTRY_BYTES + 56] = bits;
        }
        let _ = open(&append_footer(encode_header(false).to_vec(), &region));
        let _ = encrypted::Trailer::parse(&bytes, bytes.len() as u64);
    }

    #[test]
    fn every_footer_reads_back(frames in proptest::collection::btree_set(proptest::collection::vec(any::<u8>(), 0..50), 0..30)) {
        let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        let listed = entries(&frames);
        let file = [&encode_header(false)[..], &frames.concat(), &encode_footer(&listed)].concat();
        let footer = open(&file).unwrap();
        prop_assert_eq!(footer.entries(), &listed[..]);
    }
}
