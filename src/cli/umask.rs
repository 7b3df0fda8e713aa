//! The mode of new files: a umask that takes rights from the owner himself is not followed so far.
//!
//! What is made under it - a repository, a lock, a restored folder - its own maker could not open a second time.

use rustix::fs::Mode;
use rustix::process::umask;

/// Leaves the owner his rights; what the umask says of everybody else stays. Called before any thread is started.
pub fn settle() {
    let of_others = Mode::RWXG | Mode::RWXO;
    let asked = umask(of_others);
    umask(asked & of_others);
}
