//! What readers must accept and refuse, whole and as a stream, and what writers promise.

use std::io::Write;

use proptest::prelude::*;

use super::zstd_header::{self, FrameHead};
use super::*;
use crate::format::error::{FormatErrorKind, Result};
use crate::format::hash::crc32c;
use crate::format::pack::BlobFlags;

/// Bytes that compress well but not to nothing.
fn text(bytes: usize) -> Vec<u8> {
    (0u64..).flat_map(|number| (number * number % 977).to_string().into_bytes()).take(bytes).collect()
}

/// Bytes that do not compress.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(bytes)
    .collect()
}

fn entry(raw: &[u8], stored: &[u8], flags: BlobFlags) -> Entry {
    Entry {
        id: BlobId::of(raw),
        offset: 6,
        stored_bytes: stored.len() as u64,
        raw_bytes: raw.len() as u64,
        flags,
        crc32c: crc32c(stored),
    }
}

/// Compresses as a foreign writer may: with checksum, window and content size as asked for.
fn foreign_frame(raw: &[u8], checksum: bool, content_size: bool, window_log: Option<u32>) -> Vec<u8> {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(checksum).unwrap();
    if let Some(window_log) = window_log {
        encoder.window_log(window_log).unwrap();
    }
    encoder.include_contentsize(content_size).unwrap();
    encoder.set_pledged_src_size(content_size.then_some(raw.len() as u64)).unwrap();
    encoder.write_all(raw).unwrap();
    encoder.finish().unwrap()
}

fn skippable(bytes: usize) -> Vec<u8> {
    [&[0x5a, 0x2a, 0x4d, 0x18][..], &(bytes as u32).to_le_bytes(), &vec![7; bytes]].concat()
}

fn decode_whole(entry: &Entry, stored: &[u8]) -> Result<Vec<u8>> {
    let mut decompressor = Decompressor::new();
    let mut out = vec![1; 3];
    let into = decompressor.decode_into(entry, stored, &mut out).map(|()| out);
    let borrowed = decompressor.decode(entry, stored).map(<[u8]>::to_vec);
    assert_eq!(into, borrowed);
    borrowed
}

fn decode_stream(entry: &Entry, stored: &[u8], piece_bytes: usize) -> Result<Vec<u8>> {
    let mut raw = Vec::new();
    let mut decoder = StreamDecoder::new(entry)?;
    for piece in stored.chunks(piece_bytes) {
        decoder.feed(piece, &mut |bytes| {
            raw.extend_from_slice(bytes);
            Ok(())
        })?;
        assert!(raw.len() as u64 <= entry.raw_bytes, "never hands out more than announced");
    }
    decoder.finish().map(|()| raw)
}

/// Decodes both ways, whole and in pieces of several sizes, and returns what each says.
fn decode_both(entry: &Entry, stored: &[u8]) -> (Result<Vec<u8>>, Result<Vec<u8>>) {
    let pieces = decode_stream(entry, stored, 1 << 20);
    for piece_bytes in [1, 7, 100] {
        let finer = decode_stream(entry, stored, piece_bytes);
        assert_eq!(
            finer.as_ref().map_err(|error| error.kind()),
            pieces.as_ref().map_err(|error| error.kind())
        );
    }
    (decode_whole(entry, stored), pieces)
}

fn assert_both_decode(raw: &[u8], stored: &[u8]) {
    let (whole, streamed) = decode_both(&entry(raw, stored, BlobFlags::COMPRESSED), stored);
    assert!(whole.unwrap() == raw);
    assert!(streamed.unwrap() == raw);
}

fn assert_both_refuse(entry: &Entry, stored: &[u8], kind: FormatErrorKind) {
    let (whole, streamed) = decode_both(entry, stored);
    assert_eq!(whole.unwrap_err().kind(), kind);
    assert_eq!(streamed.unwrap_err().kind(), kind);
}

#[test]
fn a_frame_is_kept_if_it_saves_three_percent_of_enough() {
    for (raw, compressed, kept) in [
        (1023, 1, false),
        (1024, 1024 - 31, true),
        (1024, 1024 - 30, false),
        (1100, 1100 - 33, true),
        (1100, 1100 - 32, false),
        (1101, 1101 - 34, true),
        (1101, 1101 - 33, false),
        (1 << 32, (1 << 32) - 128_849_019, true),
        (1 << 32, (1 << 32) - 128_849_018, false),
        (2000, 2001, false),
        (u64::MAX, u64::MAX, false),
    ] {
        assert_eq!(saves_enough(raw, compressed), kept, "{raw} {compressed}");
    }
}

#[test]
fn levels_are_those_every_reader_accepts() {
    assert_eq!(effective_level(0).unwrap(), 3);
    assert!((1..=19).all(|level| effective_level(level).unwrap() == level));
    for level in [-1, 20, 22, i32::MAX] {
        assert_eq!(Compressor::new(level).unwrap_err().kind(), FormatErrorKind::Invalid);
        assert!(StreamCompressor::new(level, 1).is_err());
    }
}

#[test]
fn a_blob_is_stored_raw_if_it_is_short_or_does_not_compress() {
    let mut compressor = Compressor::new(3).unwrap();
    let mut out = Vec::new();
    assert!(!compressor.encode(&[b'a'; 1023], &mut out).unwrap());
    assert!(compressor.encode(&[b'a'; 1024], &mut out).unwrap());
    assert!(!compressor.encode(&noise(100_000), &mut out).unwrap());
    assert!(!compressor.encode(&[], &mut out).unwrap());
}

/// Returns descriptor and window of the single frame that a writer made.
fn written_head(frame: &[u8]) -> (u8, u64) {
    assert_eq!(zstd_safe::find_frame_compressed_size(frame), Ok(frame.len()));
    let FrameHead::Data { window_bytes } = zstd_header::read(frame) else { panic!("a data frame") };
    (frame[4], window_bytes)
}

#[test]
fn a_written_frame_has_its_size_no_checksum_no_dictionary_and_a_small_window() {
    for level in [1, 3, 9, 19] {
        let mut compressor = Compressor::new(level).unwrap();
        for bytes in [1024, 1025, 70_000, 3 << 20, 9 << 20] {
            if level == 19 && bytes > 3 << 20 {
                continue;
            }
            let raw = text(bytes);
            let mut frame = Vec::new();
            assert!(compressor.encode(&raw, &mut frame).unwrap());
            let mut streamed = Vec::new();
            let mut sink = |piece: &[u8]| {
                streamed.extend_from_slice(piece);
                Ok(())
            };
            let mut stream = StreamCompressor::new(level, bytes as u64).unwrap();
            for piece in raw.chunks(100_000) {
                stream.feed(piece, &mut sink).unwrap();
            }
            stream.finish(&mut sink).unwrap();
            for frame in [frame, streamed] {
                let (descriptor, window_bytes) = written_head(&frame);
                assert_eq!(descriptor & 0b0000_0111, 0, "no checksum, no dictionary");
                assert_eq!(zstd_safe::get_frame_content_size(&frame).unwrap(), Some(bytes as u64));
                assert!(window_bytes <= (bytes as u64).min(8 << 20), "{level} {bytes} {window_bytes}");
                let entry = entry(&raw, &frame, BlobFlags::COMPRESSED);
                assert!(decode_whole(&entry, &frame).unwrap() == raw);
                assert!(decode_stream(&entry, &frame, 65_536).unwrap() == raw);
            }
        }
    }
}

#[test]
fn a_stream_of_another_length_than_announced_is_no_frame() {
    for (announced, fed) in [(10, 9), (10, 11), (0, 1)] {
        let mut stream = StreamCompressor::new(3, announced).unwrap();
        let mut sink = |_: &[u8]| Ok(());
        let fed = stream.feed(&text(fed), &mut sink);
        assert!(fed.and_then(|()| stream.finish(&mut sink)).is_err());
    }
    let mut empty = Vec::new();
    let sink = &mut |piece: &[u8]| {
        empty.extend_from_slice(piece);
        Ok(())
    };
    StreamCompressor::new(3, 0).unwrap().finish(sink).unwrap();
    assert_both_decode(b"", &empty);
}

#[test]
fn a_stream_refuses_the_first_stored_byte_too_many() {
    let raw = text(1000);
    let mut decoder = StreamDecoder::new(&entry(&raw, &raw, BlobFlags::RAW)).unwrap();
    for piece in [&raw[..600], &raw[600..]] {
        decoder.feed(piece, &mut |_| Ok(())).unwrap();
    }
    let error = decoder.feed(b"x", &mut |_| Ok(())).unwrap_err();
    assert!(error.to_string().contains("more stored bytes"), "{error}");
}

#[test]
fn an_error_of_the_sink_stops_the_stream() {
    let raw = text(5000);
    let entry = entry(&raw, &raw, BlobFlags::RAW);
    let error = FormatError::invalid("disk full");
    let fed = StreamDecoder::new(&entry).unwrap().feed(&raw, &mut |_| Err(error.clone()));
    assert_eq!(fed.unwrap_err(), error);
}

#[test]
fn raw_blobs_are_proven_where_they_lie() {
    for raw in [&b""[..], b"x", &text(100_000)] {
        let entry = entry(raw, raw, BlobFlags::RAW);
        let (whole, streamed) = decode_both(&entry, raw);
        assert!(whole.unwrap() == raw && streamed.unwrap() == raw);
        let mut decompressor = Decompressor::new();
        assert_eq!(decompressor.decode(&entry, raw).unwrap().as_ptr(), raw.as_ptr());
    }
}

#[test]
fn foreign_frames_are_read_with_or_without_size_and_checksum_and_with_large_windows() {
    let raw = text(50_000);
    for checksum in [false, true] {
        for content_size in [false, true] {
            for window_log in [None, Some(10), Some(27)] {
                assert_both_decode(&raw, &foreign_frame(&raw, checksum, content_size, window_log));
            }
        }
    }
    // 512 MiB is declared, not used: only the descriptor of a frame without size is changed.
    let mut large = foreign_frame(&raw, false, false, Some(20));
    large[5] = (29 - 10) << 3;
    assert_both_decode(&raw, &large);
}

#[test]
fn windows_over_512_mib_are_refused_before_they_are_allocated() {
    let raw = text(50_000);
    for descriptor in [(29 - 10) << 3 | 1, (30 - 10) << 3, 0xff] {
        let mut frame = foreign_frame(&raw, false, false, Some(20));
        frame[5] = descriptor;
        assert_both_refuse(&entry(&raw, &frame, BlobFlags::COMPRESSED), &frame, FormatErrorKind::Corrupt);
    }
    let endless = [&[0x28, 0xb5, 0x2f, 0xfd, 0xe0][..], &[0xff; 8], &[1, 0, 0]].concat();
    assert_both_refuse(&entry(b"", &endless, BlobFlags::COMPRESSED), &endless, FormatErrorKind::Corrupt);
}

#[test]
fn skippable_frames_are_skipped_before_and_after() {
    let raw = text(5_000);
    let frame = foreign_frame(&raw, false, true, None);
    assert_both_decode(
        &raw,
        &[skippable(0), skippable(300), frame.clone(), skippable(9), skippable(0)].concat(),
    );
    let cut = [frame.clone(), skippable(9)].concat();
    let cut = &cut[..cut.len() - 1];
    assert_both_refuse(&entry(&raw, cut, BlobFlags::COMPRESSED), cut, FormatErrorKind::Corrupt);
}

#[test]
fn several_data_frames_are_read_in_one_shot_but_not_as_a_stream() {
    let raw = text(50_000);
    let (left, right) = raw.split_at(20_000);
    let stored = [foreign_frame(left, true, true, None), foreign_frame(right, false, false, None)].concat();
    let entry = entry(&raw, &stored, BlobFlags::COMPRESSED);
    let (whole, streamed) = decode_both(&entry, &stored);
    assert!(whole.unwrap() == raw);
    assert_eq!(streamed.unwrap_err().kind(), FormatErrorKind::Corrupt);
}

#[test]
fn a_block_that_repeats_a_byte_no_times_is_read_in_one_shot_but_not_as_a_stream() {
    // One segment of no bytes, and a last block of that kind.
    let stored = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x00, 0x03, 0x00, 0x00, 0xd0];
    let (whole, streamed) = decode_both(&entry(b"", &stored, BlobFlags::COMPRESSED), &stored);
    assert!(whole.unwrap().is_empty());
    assert_eq!(streamed.unwrap_err().kind(), FormatErrorKind::Corrupt);
}

#[test]
fn trailing_garbage_truncation_and_foreign_bytes_are_refused() {
    let raw = text(5_000);
    let frame = foreign_frame(&raw, true, true, None);
    let (last, head) = (&frame[..frame.len() - 1], &frame[..5]);
    let mut checksum = frame.clone();
    *checksum.last_mut().unwrap() ^= 1;
    for stored in [
        &[&frame[..], b"x"].concat()[..],
        &[&frame[..], &[0; 40]].concat(),
        &[&frame[..], &frame[..4]].concat(),
        last,
        head,
        &checksum,
        &[],
        b"garbage that is no frame",
        // The magic of the oldest frames, which this reader does not know.
        &[0x22, 0xb5, 0x2f, 0xfd, 0, 0, 0, 0, 0, 0],
    ] {
        assert_both_refuse(&entry(&raw, stored, BlobFlags::COMPRESSED), stored, FormatErrorKind::Corrupt);
    }
}

#[test]
fn stored_bytes_that_are_not_the_entrys_are_refused() {
    let raw = text(5_000);
    let frame = foreign_frame(&raw, false, true, None);
    for (stored, flags) in [(&raw, BlobFlags::RAW), (&frame, BlobFlags::COMPRESSED)] {
        let good = entry(&raw, stored, flags);
        for bad in [
            Entry { crc32c: good.crc32c ^ 1, ..good },
            Entry { stored_bytes: good.stored_bytes + 1, ..good },
            Entry { stored_bytes: good.stored_bytes - 1, ..good },
            Entry { raw_bytes: good.raw_bytes + 1, ..good },
            Entry { raw_bytes: good.raw_bytes - 1, ..good },
            Entry { flags: flags.with(BlobFlags::ENCRYPTED), ..good },
        ] {
            assert_both_refuse(&bad, stored, FormatErrorKind::Corrupt);
        }
        let other = Entry { id: BlobId::of(b"other"), ..good };
        assert_both_refuse(&other, stored, FormatErrorKind::Mismatch);
    }
}

#[test]
fn a_bomb_is_stopped_at_the_length_its_entry_announces() {
    let zeros = vec![0; 64 << 20];
    for content_size in [false, true] {
        let bomb = foreign_frame(&zeros, false, content_size, None);
        for raw_bytes in [0, 1000, 5 << 20] {
            let bad = Entry { raw_bytes, ..entry(&zeros, &bomb, BlobFlags::COMPRESSED) };
            assert_eq!(decode_whole(&bad, &bomb).unwrap_err().kind(), FormatErrorKind::Corrupt);
            assert_eq!(decode_stream(&bad, &bomb, 4096).unwrap_err().kind(), FormatErrorKind::Corrupt);
        }
    }
}

#[test]
fn an_announced_length_reserves_only_a_few_mebibytes() {
    let raw = text(5_000);
    let frame = foreign_frame(&raw, false, false, None);
    let bad = Entry { raw_bytes: 1 << 32, ..entry(&raw, &frame, BlobFlags::COMPRESSED) };
    let mut out = Vec::new();
    assert!(Decompressor::new().decode_into(&bad, &frame, &mut out).is_err());
    assert!(out.capacity() <= PREALLOCATED_BYTES_MAX);
}

#[test]
fn a_blob_larger_than_what_is_reserved_grows_as_it_arrives_and_the_buffer_is_reused() {
    let raw = text(13 << 20);
    let frames = [
        foreign_frame(&raw, true, true, None),
        foreign_frame(&raw, false, false, None),
        [foreign_frame(&raw[..7 << 20], false, true, None), foreign_frame(&raw[7 << 20..], true, true, None)]
            .concat(),
    ];
    for frame in frames {
        let entry = entry(&raw, &frame, BlobFlags::COMPRESSED);
        let (mut decompressor, mut out) = (Decompressor::new(), Vec::new());
        for _ in 0..2 {
            decompressor.decode_into(&entry, &frame, &mut out).unwrap();
            assert!(out == raw);
            assert!(out.capacity() <= raw.len() + 1);
        }
        let short = &frame[..frame.len() / 2];
        let cut = Entry { stored_bytes: short.len() as u64, crc32c: crc32c(short), ..entry };
        for out in [&mut out, &mut Vec::new()] {
            assert!(decompressor.decode_into(&cut, short, out).is_err());
        }
        decompressor.decode_into(&entry, &frame, &mut out).unwrap();
        assert!(out == raw);
    }
}

#[test]
fn empty_pieces_do_no_harm() {
    let raw = text(5_000);
    let frame = foreign_frame(&raw, false, true, None);
    let mut decoder = StreamDecoder::new(&entry(&raw, &frame, BlobFlags::COMPRESSED)).unwrap();
    let (mut decoded, mut sink_calls) = (Vec::new(), 0);
    for piece in frame.chunks(1).flat_map(|piece| std::iter::repeat_n(&[][..], 40).chain([piece])) {
        let sink = &mut |bytes: &[u8]| {
            sink_calls += 1;
            decoded.extend_from_slice(bytes);
            Ok(())
        };
        decoder.feed(piece, sink).unwrap();
    }
    decoder.finish().unwrap();
    assert!(decoded == raw && sink_calls > 0);
}

#[test]
fn the_head_of_a_frame_tells_its_window() {
    let head = |bytes: &[u8]| zstd_header::read(&[&[0x28, 0xb5, 0x2f, 0xfd][..], bytes].concat());
    assert_eq!(head(&[0x00, 0x00]), FrameHead::Data { window_bytes: 1024 });
    assert_eq!(head(&[0x00, 0x09]), FrameHead::Data { window_bytes: 2048 + 256 });
    assert_eq!(head(&[0x20, 0x05]), FrameHead::Data { window_bytes: 5 });
    assert_eq!(head(&[0x60, 0x05, 0x01]), FrameHead::Data { window_bytes: 256 + 261 });
    assert_eq!(head(&[0xa0, 1, 0, 0, 1]), FrameHead::Data { window_bytes: (1 << 24) + 1 });
    assert_eq!(head(&[0x23, 9, 9, 9, 9, 0x05]), FrameHead::Data { window_bytes: 5 });
    assert_eq!(head(&[0xe0, 0, 0, 0, 0, 0, 0, 0]), FrameHead::Incomplete);
    assert_eq!(zstd_header::read(&skippable(3)), FrameHead::Skippable { frame_bytes: 11 });
    assert_eq!(zstd_header::read(b"\x28\xb5\x2f"), FrameHead::Incomplete);
    assert_eq!(zstd_header::read(b"MVPK"), FrameHead::Foreign);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_blob_comes_back(raw in proptest::collection::vec(0u8..4, 0..20_000), piece_bytes in 1usize..5_000) {
        let (mut compressor, mut out) = (Compressor::new(1).unwrap(), Vec::new());
        let kept = compressor.encode(&raw, &mut out).unwrap();
        let (stored, flags) = if kept { (&out, BlobFlags::COMPRESSED) } else { (&raw, BlobFlags::RAW) };
        let entry = entry(&raw, stored, flags);
        prop_assert!(decode_whole(&entry, stored).unwrap() == raw);
        prop_assert!(decode_stream(&entry, stored, piece_bytes).unwrap() == raw);
    }

    #[test]
    fn a_flipped_bit_is_noticed_even_when_the_crc_agrees(position in any::<prop::sample::Index>(), bit in 0u8..8) {
        let raw = text(3_000);
        let mut stored = foreign_frame(&raw, false, true, None);
        let position = position.index(stored.len());
        stored[position] ^= 1 << bit;
        let entry = entry(&raw, &stored, BlobFlags::COMPRESSED);
        // A few bits of a frame carry no meaning; then the blob is still right.
        let (whole, streamed) = decode_both(&entry, &stored);
        prop_assert!(whole.is_err() || whole.unwrap() == raw);
        prop_assert!(streamed.is_err() || streamed.unwrap() == raw);
    }

    #[test]
    fn no_bytes_make_the_decoders_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100), raw_bytes in 0u64..10 << 20) {
        let stored = [&[0x28, 0xb5, 0x2f, 0xfd][..], &bytes].concat();
        let entry = Entry { raw_bytes, ..entry(b"", &stored, BlobFlags::COMPRESSED) };
        prop_assert!(decode_whole(&entry, &stored).is_err() || raw_bytes == 0);
        prop_assert!(decode_stream(&entry, &stored, 3).is_err() || raw_bytes == 0);
    }
}
