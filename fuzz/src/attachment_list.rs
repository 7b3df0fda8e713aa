//! Attachment lists. Input: the object without its hash.

use packvault::format::attachment_list;

use super::objects::sealed;

/// Reads a list.
pub fn run(data: &[u8]) {
    let object = sealed(data);
    let Ok(list) = attachment_list::decode(&object) else { return };
    assert!(attachment_list::encode(&list) == object, "what was read is written the same");
}
