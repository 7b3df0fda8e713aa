//! Manifests. Input: the file, with the placeholder below where its id belongs.
//!
//! The fuzzer cannot compute ids, so the target asks the reader for the right one and puts it in.

use packvault::format::{FormatErrorKind, Manifest, SUPPORTED_READER_LEVEL, SnapshotId};

/// Stands for the id of the manifest.
pub const PLACEHOLDER: &str = "20000101T000000Z-00000000000000000000000000000000";

/// What is nested deeper is not written again: each level indents every line below it.
const DEPTH_MAX: usize = 64;

/// Reads a manifest.
pub fn run(data: &[u8]) {
    let placeholder = SnapshotId::parse(PLACEHOLDER).expect("the placeholder is an id");
    let error = match Manifest::load(&placeholder, data, SUPPORTED_READER_LEVEL) {
        Ok(_) => panic!("nothing hashes to zeros"),
        Err(error) => error,
    };
    if error.kind() != FormatErrorKind::Mismatch {
        return;
    }
    let Some(id) = computed_id(&error.to_string()) else { panic!("no id in {error}") };
    let Ok(text) = std::str::from_utf8(data) else { panic!("what is no text has no id") };
    let file = text.replace(PLACEHOLDER, id.as_str());
    let Ok(manifest) = Manifest::load(&id, file.as_bytes(), SUPPORTED_READER_LEVEL) else { return };
    check_fields(&manifest, &id);
    if depth(&manifest.stats) <= DEPTH_MAX {
        check_written(manifest, &id);
    }
}

/// Takes the id out of the message of a mismatch.
fn computed_id(message: &str) -> Option<SnapshotId> {
    let (_, rest) = message.rsplit_once("hashes to ")?;
    SnapshotId::parse(rest.split_once(':')?.0).ok()
}

fn check_fields(manifest: &Manifest, id: &SnapshotId) {
    assert_eq!(manifest.compute_id().as_ref(), Ok(id));
    assert!(manifest.created_at().is_ok(), "an id begins with the time");
    let _ = (manifest.parent(), manifest.page_map(), manifest.page_hash_map(), manifest.lists());
    let _ = (manifest.extras_tree(), manifest.new_packs(), manifest.new_index());
}

fn check_written(manifest: Manifest, id: &SnapshotId) {
    let written = manifest.encode();
    let again = Manifest::load(id, &written, SUPPORTED_READER_LEVEL).expect("it was just written");
    assert!(again.encode() == written, "what was read is written the same");
    // Only the whitespace of the statistics differs.
    assert_eq!(again.compact_for_id(), manifest.compact_for_id());
    assert_eq!(Manifest { stats: manifest.stats.clone(), ..again }, manifest);
}

/// Returns a bound on how deep the text is nested.
fn depth(json: &str) -> usize {
    json.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count()
}

/// Returns the input that stands for a manifest file.
pub fn seed(file: &str, id: &str) -> Vec<u8> {
    file.replace(id, PLACEHOLDER).into_bytes()
}
