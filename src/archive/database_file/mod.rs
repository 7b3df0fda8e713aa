//! The facts of a database file: what can be known of it without asking SQLite.
//!
//! Which files SQLite keeps beside it, who holds SQLite's locks, who has it open, under which names and
//! mounts it lies, and whether it is what it was. Freezing, pinning and restoring all rest on these; none of
//! them writes anything.
//!
//! **Closing any descriptor of a file drops every POSIX lock that this process holds on it**, SQLite's
//! included (T2). So a look at a database that this process may have open goes through a handle that is held
//! until SQLite has closed it, and never through a path.
//!
//! To ask whether an application has a database open, which this process has not: open it, ask
//! [`lock_shown`], and for what holds no lock just now [`openers()`]; then close it.

mod facts;
mod log_place;
mod openers;
mod record_locks;
mod sidecars;
mod stillness;
mod watch;

pub use self::facts::Facts;
pub use self::log_place::LogPlace;
pub use self::openers::{Opener, openers};
pub use self::record_locks::{ExclusiveLock, SharedLock, ShownLock, lock_shown, log_lock_shown};
pub use self::sidecars::{Sidecar, sidecar, sidecar_bytes};
pub use self::stillness::{Stillness, write_back};
pub use self::watch::{Before, Moved, Rests, Watch};
