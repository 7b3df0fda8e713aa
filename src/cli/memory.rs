//! How the program takes memory from the system and gives it back.
//!
//! The buffers through which an archive passes have megabytes and come and go on many threads. Left to
//! itself, glibc's allocator learns from the first that is freed to keep all later ones in its heaps, one
//! heap for a few threads, and there they stay: twice the memory that is in use, and more for a larger
//! archive. With a fixed threshold each large buffer is a mapping of its own and goes back when it is freed,
//! for the price of the page faults of the next.

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
    }
}

/// Other allocators need no word.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn settle() {}
