//! How the program takes memory from the system and gives it back.
//!
//! The buffers through which an archive passes have megabytes and come and go on many threads. Left to
//! itself, glibc's allocator learns from the first that is freed to keep all later ones in its heaps, one
//! heap for a few threads, and there they stay: twice the memory that is in use, and more for a larger
//! archive. With a fixed threshold each large buffer is a mapping of its own and goes back when it is freed,
//! for the price of the page faults of the next.
//!
//! Under a limit on the size of a process (`ulimit -v`) memory that cannot be had ends the program wherever it is, its
//! lock left behind. So the limit is looked at before anything is begun. The allocator then keeps one heap for all
//! threads: each heap of its own sets a multiple of what it holds aside.

use packvault::{Error, ErrorKind, Result};
use rustix::process::{Resource, getrlimit};

/// What a command takes, whatever it works on: what is under way, tables, SQLite's cache.
const NEEDED_BYTES: usize = 128 * 1024 * 1024;
/// And for each piece of work done at once.
const NEEDED_BYTES_PER_JOB: usize = 6 * 1024 * 1024;
/// The stack of a thread, with what the system puts around it.
const THREAD_BYTES: usize = 2 * 1024 * 1024 + 128 * 1024;

/// Buffers of this size and more are mappings of their own.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_BYTES_MIN: libc::c_int = 1024 * 1024;

/// Settles how large buffers are kept; called before any thread is started.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "the allocator's settings have no safe interface")]
pub fn settle() {
    // SAFETY: `mallopt` takes two integers and keeps no reference; a setting it refuses it leaves as it was.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN);
        if is_limited() {
            libc::mallopt(libc::M_ARENA_MAX, 1);
        }
    }
}

/// Refuses to begin where a limit leaves too little memory for so many threads, which do so many pieces of work at
/// once.
pub fn check(jobs: usize, threads: usize) -> Result<()> {
    if !is_limited() {
        return Ok(());
    }
    let needed = NEEDED_BYTES + jobs * NEEDED_BYTES_PER_JOB + threads * THREAD_BYTES;
    let mut tried = Vec::<u8>::new();
    let had = tried.try_reserve_exact(needed);
    std::hint::black_box(&tried);
    had.map_err(|error| {
        let megabytes = needed / (1024 * 1024);
        let message = format!(
            "the limit on memory (`ulimit -v`) leaves less than {megabytes} MiB, which are needed: raise it, or \
             give fewer --jobs"
        );
        Error::caused(ErrorKind::Refused, message, error)
    })
}

fn is_limited() -> bool {
    [Resource::As, Resource::Data].iter().any(|resource| getrlimit(*resource).current.is_some())
}

/// Other allocators need no word.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn settle() {}
