//! Page-hash chains, against a plain list of hashes.
//!
//! Input: pieces, each an object without its hash. The first that is a keyframe starts the chain.

use packvault::format::{PageHash, PageHashObject, PageHashes};

use super::input::Input;
use super::objects::sealed;

/// Reads the objects and adds them up.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut chain: Option<PageHashes> = None;
    while !input.is_empty() {
        let object = sealed(input.piece());
        match PageHashObject::decode(&object) {
            Ok(PageHashObject::Keyframe(keyframe)) => {
                assert!(keyframe.encode_keyframe() == object, "what was read is written the same");
                assert_eq!(PageHashes::decode(&object).as_ref(), Ok(&keyframe));
                chain = Some(keyframe);
            }
            Ok(PageHashObject::Delta(delta)) => {
                assert!(delta.encode() == object, "what was read is written the same");
                let Some(hashes) = &mut chain else { continue };
                let before = hashes.clone();
                let expected = applied(&before, &delta.changes, delta.page_count);
                let expected = expected.filter(|_| delta.page_size == before.page_size);
                match hashes.apply(&delta) {
                    Ok(()) => assert_eq!(Some(&hashes.hashes), expected.as_ref()),
                    Err(error) => {
                        assert_eq!(*hashes, before, "on failure nothing has changed");
                        assert!(expected.is_none(), "{error}");
                    }
                }
            }
            Err(_) => {}
        }
    }
}

/// Returns the hashes page by page; nothing if a page of the new database has none.
fn applied(before: &PageHashes, changes: &[(u64, PageHash)], page_count: u64) -> Option<Vec<PageHash>> {
    if page_count > before.page_count() + changes.len() as u64 {
        return None;
    }
    let kept = before.hashes.iter().map(|hash| Some(*hash));
    let mut pages: Vec<Option<PageHash>> =
        kept.chain(std::iter::repeat(None)).take(page_count as usize).collect();
    for (page, hash) in changes {
        *pages.get_mut(*page as usize)? = Some(*hash);
    }
    pages.into_iter().collect()
}
