//! What keeps secrets inside this process: no child finds the passphrase in its environment, no core dump and no
//! debugger of another process finds a key in its memory.

use std::sync::OnceLock;

use packvault::repo::keys::Passphrase;
use packvault::{Error, ErrorKind, Result};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use zeroize::Zeroizing;

/// The variable that holds a passphrase itself.
pub const VARIABLE: &str = "PACKVAULT_PASSPHRASE";

/// What the variable held; an error where that is no text.
static TAKEN: OnceLock<Option<Passphrase>> = OnceLock::new();
static IS_UNREADABLE: OnceLock<()> = OnceLock::new();

/// Takes the passphrase out of the environment, which hooks, `ssh` and every other child would inherit. Called before
/// any thread is started.
///
/// What the system keeps of the environment this process was started with stays in `/proc/PID/environ`, for the
/// same user and root; from here on for root alone.
#[allow(
    unsafe_code,
    reason = "the environment is changed while there is one thread, which the language cannot see"
)]
pub fn take_passphrase() {
    let Some(value) = std::env::var_os(VARIABLE) else { return };
    seal();
    // SAFETY: no other thread of this process exists yet, so none reads the environment meanwhile.
    unsafe { std::env::remove_var(VARIABLE) };
    match value.into_string() {
        Ok(text) => {
            let text = Zeroizing::new(text);
            let passphrase = (!text.is_empty()).then(|| Passphrase::new(text));
            let _ = TAKEN.set(passphrase);
        }
        Err(_) => _ = IS_UNREADABLE.set(()),
    }
}

/// Returns the passphrase that the environment held.
pub fn passphrase() -> Result<Option<Passphrase>> {
    if IS_UNREADABLE.get().is_some() {
        return Err(Error::new(ErrorKind::Usage, format!("{VARIABLE} is not valid UTF-8")));
    }
    Ok(TAKEN.get().cloned().flatten())
}

/// Tells whether the environment held one.
pub fn has_passphrase() -> bool {
    IS_UNREADABLE.get().is_some() || TAKEN.get().is_some_and(Option::is_some)
}

/// Keeps the memory of this process out of core dumps, and from other processes of the same user. Called before a key
/// or a passphrase is in it.
pub fn seal() {
    // Where the system has no such setting, nothing else can be done.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
