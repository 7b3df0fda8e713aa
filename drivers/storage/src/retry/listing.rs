//! Listings under retries: begun anew after a break, each object shown once.
//!
//! The keys shown so far are kept to tell them apart, which is what a caller that collects the list keeps
//! anyway. A listing that goes on after a break has its attempts back: the objects bound it.

use std::collections::HashSet;

use futures::stream::{self, BoxStream, StreamExt};

use super::RetryStorage;
use super::attempts::Attempts;
use super::watch::Effect;
use crate::{Key, ListedObject, Operation, Prefix, Result};

struct Listing<'a> {
    storage: &'a RetryStorage,
    prefix: Prefix,
    inner: BoxStream<'a, Result<ListedObject>>,
    shown: HashSet<Key>,
    attempts: Option<Attempts<'a>>,
}

pub(super) fn list<'a>(storage: &'a RetryStorage, prefix: &Prefix) -> BoxStream<'a, Result<ListedObject>> {
    let inner = storage.inner.list(prefix);
    let listing = Listing { storage, prefix: prefix.clone(), inner, shown: HashSet::new(), attempts: None };
    stream::unfold(Some(listing), |listing| async move {
        let mut listing = listing?;
        match listing.next().await? {
            Ok(object) => Some((Ok(object), Some(listing))),
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

impl Listing<'_> {
    async fn next(&mut self) -> Option<Result<ListedObject>> {
        let folder = self.prefix.to_string();
        let what = (Operation::List, folder.as_str());
        loop {
            let next = async { Ok(self.inner.next().await) };
            let next = match self.storage.once(Effect::Reads, what, next).await {
                Ok(next) => next?,
                Err(stopped) => return Some(Err(stopped)),
            };
            match next {
                Ok(object) if self.shown.contains(&object.key) => {}
                Ok(object) => {
                    self.shown.insert(object.key.clone());
                    self.attempts = None;
                    return Some(Ok(object));
                }
                Err(error) => {
                    let attempts = self.attempts.get_or_insert_with(|| self.storage.attempts());
                    if let Err(error) = attempts.pause(error, what).await {
                        return Some(Err(error));
                    }
                    self.inner = self.storage.inner.list(&self.prefix);
                }
            }
        }
    }
}
