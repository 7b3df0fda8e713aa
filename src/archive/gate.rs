//! Who holds an application's writers off while its database is brought to rest.
//!
//! How that is done is the application's: a running one is asked to, for one that is stopped its own lock
//! files are taken. The freeze knows only this: a gate is begun, the database is pinned, the gate is ended,
//! whatever came of the pin, and a gate that could not be ended in order has proved nothing.

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
