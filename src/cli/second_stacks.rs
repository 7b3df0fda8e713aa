//! No second stacks for the message about a stack that overflows.
//!
//! Rust's library gives every thread a second stack, on which its handler of SIGSEGV runs that says so. Where no
//! memory is left for one, it panics while the thread begins, and that ends the program with a report of a defect
//! instead of a sentence about the limit. It makes none if the signals have a handler already when the program
//! begins. So they are ignored before it looks, which for a fault changes nothing, and set back right afterwards:
//! a stack that overflows still ends the program, without a message.

/// Run by the loader, before Rust's library begins.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "only the loader's list of functions comes before Rust's library")]
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_EVERYTHING: extern "C" fn() = {
    extern "C" fn ignore() {
        dispose(libc::SIG_IGN);
    }
    ignore
};

/// Sets the signals back; called first of all.
#[cfg(target_os = "linux")]
pub fn settle() {
    dispose(libc::SIG_DFL);
}

/// Elsewhere there is nothing to set back.
#[cfg(not(target_os = "linux"))]
pub fn settle() {}

#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "no safe interface sets what a signal does")]
fn dispose(action: libc::sighandler_t) {
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: both signals and both dispositions exist, and no code of ours is installed as a handler.
        unsafe {
            libc::signal(signal, action);
        }
    }
}
