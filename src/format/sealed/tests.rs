//! Sealing and opening: in one shot, in pieces, and what must not open.

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use proptest::prelude::*;

use super::*;

/// Lengths around what the hash, the cipher and its wide implementations take at a time, and a piece.
const EDGES: [usize; 8] = [0, 16, 64, 256, 512, 1024, PIECE_BYTES, 4 * PIECE_BYTES];
const PIECE_BYTES: usize = 4096;

fn key() -> RepositoryKey {
    RepositoryKey::from_bytes([7; RepositoryKey::BYTES])
}

fn text(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 31 % 251) as u8).collect()
}

/// Seals with a whole implementation of the cipher that is used nowhere else here.
fn reference(nonce: Nonce, binding: &[u8], plain: &[u8]) -> Vec<u8> {
    let payload = Payload { msg: plain, aad: binding };
    let sealed = XChaCha20Poly1305::new(key().expose().into()).encrypt(&nonce.into(), payload).unwrap();
    [&nonce[..], &sealed].concat()
}

fn seal_in_pieces(nonce: Nonce, binding: &Binding<'_>, plain: &[u8], piece_bytes: usize) -> Vec<u8> {
    let mut sealer = StreamSealer::new(&key(), &nonce, binding);
    let mut sealed = nonce.to_vec();
    for piece in plain.chunks(piece_bytes) {
        let mut piece = piece.to_vec();
        sealer.seal(&mut piece);
        sealed.extend_from_slice(&piece);
    }
    sealed.extend_from_slice(&sealer.finish());
    sealed
}

fn open_in_pieces(binding: &Binding<'_>, sealed: &[u8], piece_bytes: usize) -> Result<Vec<u8>> {
    let mut first = Authenticator::new(&key(), binding, sealed.len() as u64)?;
    sealed.chunks(piece_bytes).try_for_each(|piece| first.feed(piece))?;
    let mut second = first.finish()?;
    let mut plain = Vec::new();
    // Cut in another way than before.
    for piece in sealed.chunks(piece_bytes + 1) {
        plain.extend_from_slice(second.open(&mut piece.to_vec()));
    }
    Ok(plain)
}

#[test]
fn every_length_around_an_edge_is_what_the_one_shot_cipher_gives() {
    let id = BlobId::of(b"blob");
    let binding = Binding::Frame(&id);
    for bytes in EDGES.iter().flat_map(|edge| edge.saturating_sub(2)..=edge + 2) {
        let plain = text(bytes);
        let nonce = [bytes as u8; NONCE_BYTES];
        let expected = reference(nonce, id.as_bytes(), &plain);
        assert_eq!(seal(&key(), nonce, &binding, &plain), expected, "{bytes}");
        assert_eq!(open(&key(), &binding, &expected).unwrap(), plain, "{bytes}");
        for piece_bytes in [1, 15, 64, PIECE_BYTES, bytes + OVERHEAD_BYTES] {
            if bytes > 2 * PIECE_BYTES && piece_bytes == 1 {
                continue;
            }
            assert_eq!(
                seal_in_pieces(nonce, &binding, &plain, piece_bytes),
                expected,
                "{bytes} {piece_bytes}"
            );
            assert_eq!(
                open_in_pieces(&binding, &expected, piece_bytes).unwrap(),
                plain,
                "{bytes} {piece_bytes}"
            );
        }
    }
}

#[test]
fn every_flipped_and_missing_byte_is_found_in_both_ways_of_opening() {
    let binding = Binding::Note("20260101T000000Z-x.packvault.json");
    let sealed = seal(&key(), [3; NONCE_BYTES], &binding, &text(50));
    for at in 0..sealed.len() {
        for bit in 0..8 {
            let mut flipped = sealed.clone();
            flipped[at] ^= 1 << bit;
            assert_eq!(open(&key(), &binding, &flipped).unwrap_err().kind(), FormatErrorKind::Decrypt);
            let error = open_in_pieces(&binding, &flipped, 7).unwrap_err();
            assert_eq!(error.kind(), FormatErrorKind::Decrypt);
        }
        let cut = &sealed[..at];
        let kind = if at < OVERHEAD_BYTES { FormatErrorKind::Truncated } else { FormatErrorKind::Decrypt };
        assert_eq!(open(&key(), &binding, cut).unwrap_err().kind(), kind, "{at}");
        assert_eq!(open_in_pieces(&binding, cut, 7).unwrap_err().kind(), kind, "{at}");
    }
    let longer = [&sealed[..], &[0]].concat();
    assert!(open(&key(), &binding, &longer).is_err() && open_in_pieces(&binding, &longer, 7).is_err());
}

#[test]
fn what_failed_to_open_leaves_nothing_behind() {
    let binding = Binding::Index("01kwvve8k3wz72j3vhy0dphk55");
    let mut sealed = seal(&key(), [3; NONCE_BYTES], &binding, &text(50));
    sealed[30] ^= 1;
    let mut plain = b"before".to_vec();
    assert!(open_into(&key(), &binding, &sealed, &mut plain).is_err());
    assert_eq!(plain, b"");
}

#[test]
fn an_item_that_does_not_come_whole_is_never_opened() {
    let binding = Binding::Note("n");
    let sealed = seal(&key(), [3; NONCE_BYTES], &binding, &text(500));
    let bytes = sealed.len() as u64;
    for taken in [0, NONCE_BYTES, NONCE_BYTES + 1, sealed.len() - TAG_BYTES, sealed.len() - 1] {
        let mut first = Authenticator::new(&key(), &binding, bytes).unwrap();
        first.feed(&sealed[..taken]).unwrap();
        assert_eq!(first.finish().unwrap_err().kind(), FormatErrorKind::Truncated, "{taken}");
    }
    let mut first = Authenticator::new(&key(), &binding, bytes).unwrap();
    assert_eq!(first.feed(&[&sealed[..], &[0]].concat()).unwrap_err().kind(), FormatErrorKind::Corrupt);
    let short = Authenticator::new(&key(), &binding, OVERHEAD_BYTES as u64 - 1).unwrap_err();
    assert_eq!(short.kind(), FormatErrorKind::Truncated);
}

/// One of each kind, with the bytes by which another program binds it.
fn bindings() -> Vec<(Binding<'static>, Vec<u8>)> {
    let leak = |text: &str| -> &'static str { String::leak(text.to_owned()) };
    let id: &'static BlobId = Box::leak(Box::new(BlobId::of(b"blob")));
    let name = "20260101T000000Z-00000000000000000000000000000000";
    let snapshot: &'static SnapshotId = Box::leak(Box::new(SnapshotId::parse(name).unwrap()));
    let repo: &'static RepoId =
        Box::leak(Box::new(RepoId::parse("5d61e8af-fa85-4c85-a408-d2e53ac0ed20").unwrap()));
    let bytes = |text: &str| text.as_bytes().to_vec();
    vec![
        (Binding::Frame(id), id.as_bytes().to_vec()),
        (
            Binding::PackFooter(PackId::from_bytes([0; 16])),
            bytes("pack-footer\x0000000000000000000000000000"),
        ),
        (Binding::Index(leak("01kw")), bytes("index\x0001kw")),
        (Binding::Index(leak(name)), bytes(&format!("index\0{name}"))),
        (Binding::Manifest(snapshot), bytes(&format!("manifest\0{name}"))),
        (Binding::Note(leak(name)), bytes(&format!("note\0{name}"))),
        (Binding::Config(repo), bytes("config\x005d61e8af-fa85-4c85-a408-d2e53ac0ed20")),
    ]
}

#[test]
fn an_item_opens_as_what_it_was_sealed_as_and_as_nothing_else() {
    let bindings = bindings();
    for (binding, bytes) in &bindings {
        assert_eq!(binding.bytes(), *bytes);
        let sealed = reference([3; NONCE_BYTES], bytes, b"content");
        for (other, _) in &bindings {
            let is_same = other == binding;
            assert_eq!(open(&key(), other, &sealed).is_ok(), is_same, "{binding:?} as {other:?}");
            assert_eq!(open_in_pieces(other, &sealed, 9).is_ok(), is_same, "{binding:?} as {other:?}");
        }
        let foreign = RepositoryKey::from_bytes([8; RepositoryKey::BYTES]);
        assert_eq!(open(&foreign, binding, &sealed).unwrap_err().kind(), FormatErrorKind::Decrypt);
    }
}

proptest! {
    #[test]
    fn pieces_give_what_the_one_shot_cipher_gives_however_they_are_cut(
        (plain, nonce) in (proptest::collection::vec(any::<u8>(), 0..3000), any::<Nonce>()),
        (name, piece_bytes) in ("[ -~]{0,40}", 1usize..700),
    ) {
        let binding = Binding::Note(&name);
        let expected = reference(nonce, &binding.bytes(), &plain);
        prop_assert_eq!(&seal(&key(), nonce, &binding, &plain), &expected);
        prop_assert_eq!(&seal_in_pieces(nonce, &binding, &plain, piece_bytes), &expected);
        prop_assert_eq!(&open_in_pieces(&binding, &expected, piece_bytes).unwrap(), &plain);
        prop_assert_eq!(&open(&key(), &binding, &expected).unwrap(), &plain);
    }

    #[test]
    fn no_bytes_make_opening_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), piece_bytes in 1usize..50) {
        let binding = Binding::Note("n");
        prop_assert!(open(&key(), &binding, &bytes).is_err());
        prop_assert!(open_in_pieces(&binding, &bytes, piece_bytes).is_err());
    }
}
