//! What a store decides by itself, where stores differ.
//!
//! Every other promise of the contract every driver keeps. These four a server may be unable to keep, and
//! a driver says so before anybody relies on them: the callers above then rest on something else, such as
//! names that nobody else can choose.

/// Which of the promises that depend on the server are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guarantees {
    /// `create`, and `seal` of a small object, refuse a taken key in the very step that writes.
    ///
    /// Where this is false they look first and write then: of several that meet, all may be told that they
    /// won, and the last one's bytes stay.
    pub create_only: bool,
    /// The same for `seal` of an object that is too large to be sent in one step.
    pub create_only_streamed: bool,
    /// `rename` exists.
    pub rename: bool,
    /// The store confirms that bytes and names are durable. Where this is false, a step that returned is
    /// as durable as the server chooses to make it.
    pub sync: bool,
}

impl Guarantees {
    /// Returns what a store gives that keeps every promise.
    pub const fn all() -> Self {
        Self { create_only: true, create_only_streamed: true, rename: true, sync: true }
    }
}
