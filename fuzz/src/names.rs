//! Ids, times and keys of the storage. Input: the text.

use packvault::format::{BlobId, IndexId, PackId, RepoId, SnapshotId, timestamp};
use packvault_storage::{Key, Prefix};

use super::input::valid_text;

/// Parses a text as each kind of name there is.
pub fn run(data: &[u8]) {
    let text = valid_text(data);
    if let Ok(id) = BlobId::parse(text) {
        assert_eq!(id.to_string(), text.to_ascii_lowercase());
    }
    if let Ok(id) = PackId::parse(text) {
        assert_eq!((id.to_string().as_str(), id.shard().as_str()), (text, &text[..2]));
        assert_eq!(PackId::from_bytes(id.to_bytes()), id);
    }
    assert_eq!(IndexId::parse(text).is_ok(), PackId::parse(text).is_ok());
    if let Ok(id) = SnapshotId::parse(text) {
        assert_eq!(id.as_str(), text);
    }
    if let Ok(id) = RepoId::parse(text) {
        assert_eq!(id.as_str(), text);
    }
    if let Ok(time) = timestamp::parse(text) {
        let written = timestamp::format(time);
        // An offset may lead out of the years that four digits hold; no id is made of those.
        let has_four_digits = written.len() == 20;
        let again = timestamp::parse(&written).map(timestamp::format);
        assert!(!has_four_digits || again.as_ref() == Ok(&written), "{text}");
        assert_eq!(timestamp::format_compact(time), written.replace(['-', ':'], ""));
    }
    if let Ok(key) = Key::parse(text) {
        assert!(!text.starts_with('/') && text.split('/').all(|part| !matches!(part, "" | "." | "..")));
        assert!(!text.contains(['\\', '\0', '\n']) && text.len() <= 512);
        assert_eq!(key.parts().collect::<Vec<_>>().join("/"), text);
        let parent = text.rsplit_once('/').map(|(parent, _)| parent);
        assert!(parent.is_none_or(|parent| Prefix::folder(parent).is_ok_and(|folder| folder.contains(&key))));
    }
}
