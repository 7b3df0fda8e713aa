//! Packs kept open between ranged reads.
//!
//! A pack never changes, so its handle may serve many reads and its size need be asked for once. Nothing
//! else is kept: a lock or a configuration is looked at anew each time. What this storage removes or
//! renames is let go of first.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use packvault_storage::Key;

use crate::answers::OpenHandle;
use crate::channel::Channel;

/// How many handles are kept open, on all channels together.
const HANDLES_MAX: usize = 32;

/// An object open for reading.
#[derive(Debug)]
pub(crate) struct Opened {
    pub handle: OpenHandle,
    pub size_bytes: u64,
}

/// The packs that were read lately.
#[derive(Debug, Default)]
pub(crate) struct Handles(Mutex<VecDeque<(Key, Arc<Opened>)>>);

impl Handles {
    /// Returns the object if it is open on the channel.
    pub(crate) fn find(&self, channel: &Channel, key: &Key) -> Option<Arc<Opened>> {
        let mut kept = self.kept();
        let at = kept.iter().position(|(of, opened)| of == key && channel.owns(&opened.handle))?;
        // Moved to the end: the one that was used the longest ago goes first.
        let entry = kept.remove(at)?;
        let opened = Arc::clone(&entry.1);
        kept.push_back(entry);
        Some(opened)
    }

    /// Keeps the object open if it is a pack.
    pub(crate) fn keep(&self, key: &Key, opened: &Arc<Opened>) {
        if key.parts().next() != Some("packs") {
            return;
        }
        let mut kept = self.kept();
        kept.retain(|(_, opened)| opened.handle.is_usable());
        while kept.len() >= HANDLES_MAX {
            kept.pop_front();
        }
        kept.push_back((key.clone(), Arc::clone(opened)));
    }

    /// Lets go of an object that is about to change.
    pub(crate) fn forget(&self, key: &Key) {
        self.kept().retain(|(of, _)| of != key);
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<(Key, Arc<Opened>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
