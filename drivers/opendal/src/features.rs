//! What the probe found out about a server; remembered by whoever opens the storage again.

use serde::{Deserialize, Serialize};

/// What a server was seen to do. Without it the most careful way is taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpendalFeatures {
    /// A write in one request refuses a taken key in the step that writes. A server that does not is
    /// refused, so this is true of every one that was probed.
    pub create_only: bool,
    /// The same for an object that is sent in parts.
    pub create_only_streamed: bool,
    /// A write can be made to depend on what it overwrites.
    pub overwrite_if_unchanged: bool,
    /// How far the server's clock was ahead of ours, in seconds.
    pub clock_offset_seconds: i64,
}

/// What is relied on, given what is known.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ways {
    pub create_only: bool,
    pub create_only_streamed: bool,
    pub overwrite_if_unchanged: bool,
}

impl Ways {
    pub(crate) fn of(features: Option<&OpendalFeatures>) -> Self {
        features.map_or_else(Self::default, |features| Self {
            create_only: features.create_only,
            create_only_streamed: features.create_only_streamed,
            overwrite_if_unchanged: features.overwrite_if_unchanged,
        })
    }
}
