//! The gate: what keeps an application from writing while its database is brought to rest.
//!
//! How that is done depends on the application: a running one is asked to stop writing; for one that does not run, its
//! own lock files are taken. The freeze knows only this: it begins a gate, pins the database, and ends the gate, even if
//! the pin failed. If a gate did not end in order, the database may have been written to.

use std::fmt::Debug;
use std::time::Instant;

use crate::Result;
use crate::cancel::Cancel;
use crate::progress::Progress;

/// Begins the gate of one archive.
pub trait Gatekeeper: Debug + Send {
    /// Holds the writers off. Waits for other work of the application until `cancel` says otherwise, and
    /// tells `progress` what it waits for.
    ///
    /// On failure no writer is held off for longer than the application's own watchdog allows.
    fn begin(&self, cancel: &Cancel, progress: &dyn Progress) -> Result<Box<dyn Gate>>;
}

/// Writers held off. One that is dropped lets them go on as far as it can.
pub trait Gate: Debug + Send {
    /// Returns the earliest moment at which the writers can have been held off.
    fn since(&self) -> Instant;

    /// Lets the writers go on, also when the operation is cancelled. An error means that they may have
    /// gone on before, so that nothing read meanwhile can be trusted.
    fn end(self: Box<Self>) -> Result<()>;
}
