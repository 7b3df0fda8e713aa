//! Sealed items: what they are bound to, in one shot and in pieces, forged and whole.
//!
//! Input: what the item is, how pieces are cut, what is altered, a name, then the content or the forged item.

use packvault::format::sealed::{
    Authenticator, Binding, NONCE_BYTES, OVERHEAD_BYTES, StreamSealer, open, open_into, seal,
};
use packvault::format::{BlobId, PackId, RepoId, RepositoryKey, SnapshotId};

use super::input::{Input, valid_text};

const NONCE: [u8; NONCE_BYTES] = [9; NONCE_BYTES];

/// Seals, opens and alters an item.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (what, piece_bytes) = (input.below(6), 1 + usize::from(input.u16()) % 600);
    let (at, bits) = (usize::from(input.u16()), input.byte());
    let name = valid_text(input.piece()).to_owned();
    let content = input.rest();
    let (id, pack) = (BlobId::of(content), PackId::from_bytes([1; 16]));
    let snapshot = SnapshotId::parse("20261123T204532Z-8f613acd15f1792d0349061a52bee9d7").expect("it is one");
    let repository = RepoId::parse("5d61e8af-fa85-4c85-a408-d2e53ac0ed20").expect("it is one");
    let bindings = [
        Binding::Frame(&id),
        Binding::PackFooter(pack),
        Binding::Index(&name),
        Binding::Manifest(&snapshot),
        Binding::Note(&name),
        Binding::Config(&repository),
    ];
    let binding = &bindings[what];
    refuse_forged(binding, content, piece_bytes);
    let sealed = seal_both(binding, content, piece_bytes);
    assert!(open(&key(), binding, &sealed).expect("it was just sealed") == content);
    assert!(open_in_pieces(binding, &sealed, piece_bytes).expect("it was just sealed") == content);
    for (number, other) in bindings.iter().enumerate() {
        assert!(number == what || open(&key(), other, &sealed).is_err(), "{binding:?} opens as {other:?}");
    }
    let mut altered = sealed;
    let at = at % altered.len();
    altered[at] ^= bits;
    let mut plain = b"before".to_vec();
    let opened = open_into(&key(), binding, &altered, &mut plain);
    assert_eq!(opened.is_ok(), bits == 0, "byte {at} was altered");
    assert!(bits == 0 || plain.is_empty(), "nothing is shown of what was not sealed");
    assert_eq!(open_in_pieces(binding, &altered, piece_bytes).is_some(), bits == 0, "byte {at} was altered");
}

fn key() -> RepositoryKey {
    RepositoryKey::from_bytes([7; RepositoryKey::BYTES])
}

/// Whatever is not sealed does not open.
fn refuse_forged(binding: &Binding<'_>, forged: &[u8], piece_bytes: usize) {
    assert!(open(&key(), binding, forged).is_err() && open_in_pieces(binding, forged, piece_bytes).is_none());
}

/// Seals in one shot and in pieces, which must be the same.
fn seal_both(binding: &Binding<'_>, content: &[u8], piece_bytes: usize) -> Vec<u8> {
    let mut sealer = StreamSealer::new(&key(), &NONCE, binding);
    let mut in_pieces = NONCE.to_vec();
    for piece in content.chunks(piece_bytes) {
        let start = in_pieces.len();
        in_pieces.extend_from_slice(piece);
        sealer.seal(&mut in_pieces[start..]);
    }
    in_pieces.extend_from_slice(&sealer.finish());
    assert_eq!(in_pieces.len(), content.len() + OVERHEAD_BYTES);
    assert!(seal(&key(), NONCE, binding, content) == in_pieces, "pieces are what one shot is");
    in_pieces
}

fn open_in_pieces(binding: &Binding<'_>, sealed: &[u8], piece_bytes: usize) -> Option<Vec<u8>> {
    let mut first = Authenticator::new(&key(), binding, sealed.len() as u64).ok()?;
    sealed.chunks(piece_bytes).try_for_each(|piece| first.feed(piece)).expect("it is as long as was said");
    let mut second = first.finish().ok()?;
    let mut plain = Vec::new();
    for piece in sealed.chunks(piece_bytes.div_ceil(2)) {
        plain.extend_from_slice(second.open(&mut piece.to_vec()));
    }
    Some(plain)
}
