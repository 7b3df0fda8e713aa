//! What is known of the objects of chains once they were read, so that one that is bad is read once however many
//! snapshots build on it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::ChainLink;
use crate::Error;
use crate::format::BlobId;
use crate::repo::blobs::BlobFailure;

/// Which of the two chains of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Half {
    /// Where pages lie.
    Map,
    /// What pages hash to.
    Hashes,
}

impl Half {
    /// Returns the word for an object of the chain.
    pub fn word(self) -> &'static str {
        match self {
            Self::Map => "page map",
            Self::Hashes => "page-hash map",
        }
    }

    /// Returns the object that the link has in this chain.
    pub fn object_of(self, link: &ChainLink) -> &BlobId {
        match self {
            Self::Map => &link.page_map,
            Self::Hashes => &link.page_hashes,
        }
    }
}

/// The memory of one reader.
#[derive(Debug, Default)]
pub struct KnownMaps(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Whether an object that was read is a keyframe, or why it cannot be read.
    objects: HashMap<(Half, BlobId), Result<bool, BlobFailure>>,
    /// Why an object does not fit what its snapshot builds on.
    misfits: HashMap<(Half, String), Error>,
}

impl KnownMaps {
    /// Remembers what came of reading an object. Where nothing is known of it, it may be read again.
    pub fn learn(&self, half: Half, id: &BlobId, is_keyframe: Result<bool, &BlobFailure>) {
        let outcome = match is_keyframe {
            Ok(is_keyframe) => Ok(is_keyframe),
            Err(failure) if failure.error.is_no_finding() => return,
            Err(failure) => Err(repeated(failure)),
        };
        self.known().objects.insert((half, *id), outcome);
    }

    /// Remembers that the object of a snapshot does not fit its chain.
    pub fn learn_misfit(&self, half: Half, link: &ChainLink, error: &Error) {
        self.known().misfits.insert((half, link.snapshot.clone()), error.repeated());
    }

    /// Returns why the object cannot be read, if that is known.
    pub fn failure(&self, half: Half, id: &BlobId) -> Option<BlobFailure> {
        self.known().objects.get(&(half, *id))?.as_ref().err().map(repeated)
    }

    /// Returns why the object does not fit its chain, if that is known.
    pub fn misfit(&self, half: Half, link: &ChainLink) -> Option<Error> {
        self.known().misfits.get(&(half, link.snapshot.clone())).map(Error::repeated)
    }

    /// Tells whether the object is a keyframe, if it was read.
    pub fn is_keyframe(&self, half: Half, id: &BlobId) -> Option<bool> {
        self.known().objects.get(&(half, *id))?.as_ref().ok().copied()
    }

    /// Tells whether the link is known to be of no use.
    pub fn is_bad(&self, half: Half, link: &ChainLink) -> bool {
        let known = self.known();
        known.objects.get(&(half, *half.object_of(link))).is_some_and(Result::is_err)
            || known.misfits.contains_key(&(half, link.snapshot.clone()))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn repeated(failure: &BlobFailure) -> BlobFailure {
    BlobFailure { blob: failure.blob, pack: failure.pack, error: failure.error.repeated() }
}
