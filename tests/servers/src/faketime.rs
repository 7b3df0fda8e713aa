//! A clock that is wrong, for a program under test: faketime's library, which stands between it and the
//! system's clock.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Missing;

const INSTALL: &str = "apt-get install faketime";

/// Folders in which libraries lie; on Debian in one more, named after the machine.
const FOLDERS: [&str; 3] = ["/usr/lib", "/usr/lib64", "/usr/local/lib"];

/// The library for programs with threads.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// Lets the program believe that it is so many seconds later, or earlier. Its other clocks, and the times of
/// files, are the system's.
pub fn set_clock(command: &mut Command, seconds: i64) -> Result<(), Missing> {
    let library = library().ok_or_else(|| Missing {
        server: "faketime",
        what: format!("no {LIBRARY}"),
        install: INSTALL,
    })?;
    command.env("LD_PRELOAD", library).env("FAKETIME", format!("{seconds:+}"));
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("NO_FAKE_STAT", "1");
    Ok(())
}

fn library() -> Option<PathBuf> {
    let roots = FOLDERS.iter().map(PathBuf::from);
    let named = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    roots.chain(named).map(|folder| Path::new(&folder).join(LIBRARY)).find(|library| library.is_file())
}
