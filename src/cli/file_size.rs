//! A limit on the size of files ends a write, and not the program.
//!
//! The kernel tells a process that writes past the limit by SIGXFSZ, which kills whoever does not listen: locks and
//! staging would stay behind. Listened to, the write itself fails, and that is an error like any other. Programs that
//! we start get the signal as it was.

use packvault::{Error, ErrorKind, Result};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// Has writes past the limit fail from now on.
pub fn survive_the_limit(runtime: &Runtime) -> Result<()> {
    let _context = runtime.enter();
    // The handler stays when what would wait for the signal has gone.
    signal(SignalKind::from_raw(libc::SIGXFSZ))
        .map(drop)
        .map_err(|error| Error::caused(ErrorKind::Io, "cannot listen for SIGXFSZ", error))
}
