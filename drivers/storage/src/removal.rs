//! Removals in batches: what is not gone afterwards, and the plain way for stores that have no better one.

use crate::{Error, ErrorKind, Key, Storage};

/// An object that is not known to be gone after it was to be removed.
#[derive(Debug)]
pub struct NotRemoved {
    /// The object.
    pub key: Key,
    /// Why.
    pub error: Error,
}

impl NotRemoved {
    /// Says of every key that the step they shared has failed; the first carries the error and its cause.
    pub fn all<'a>(keys: impl IntoIterator<Item = &'a Key>, error: Error) -> Vec<Self> {
        let mut keys = keys.into_iter();
        let Some(first) = keys.next() else { return Vec::new() };
        let (kind, operation) = (error.kind(), error.operation());
        let mut all = vec![Self { key: first.clone(), error }];
        let detail = "the step that it shared with others has failed";
        all.extend(
            keys.map(|key| Self { key: key.clone(), error: Error::new(kind, operation, key, detail) }),
        );
        all
    }
}

/// Removes one after the other; what is not there is gone.
pub(crate) async fn remove_each<S: Storage + ?Sized>(storage: &S, keys: &[Key]) -> Vec<NotRemoved> {
    let mut left = Vec::new();
    for key in keys {
        match storage.remove(key).await {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                left.push(NotRemoved { key: key.clone(), error });
            }
            Ok(()) | Err(_) => {}
        }
    }
    left
}
