//! Questions on the terminal: a passphrase, which is not shown while it is typed, and a choice, which is.
//!
//! Nobody is asked unless standard input is a terminal: a command that runs by itself fails instead of waiting.
//! The question goes to standard error. Ctrl-C is heard while it waits, and the terminal shows what is typed again
//! however the wait ends.

use std::io::{IsTerminal as _, stdin};
use std::os::fd::AsFd as _;

use packvault::repo::keys::Passphrase;
use packvault::{Cancel, Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::report;
use super::text::escape;

/// The longest line that is taken.
const LINE_BYTES_MAX: usize = 4096;
/// How often it is looked whether the user has stopped the command.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Tells whether there is somebody to ask.
pub fn is_there() -> bool {
    stdin().is_terminal()
}

/// Asks for a passphrase that exists.
pub fn passphrase(question: &str, cancel: &Cancel) -> Result<Passphrase> {
    let line = {
        let _hidden = Hidden::new()?;
        ask(question, cancel)
    };
    // The line end was not shown either.
    report::say("\n");
    let line = line?;
    match line.is_empty() || line.chars().any(char::is_control) {
        true => Err(Error::new(ErrorKind::Usage, "a passphrase is one line of text, and not empty")),
        false => Ok(Passphrase::new(line)),
    }
}

/// Asks for a passphrase that is to be, twice.
pub fn new_passphrase(question: &str, cancel: &Cancel) -> Result<Passphrase> {
    let first = passphrase(question, cancel)?;
    match passphrase("the same again: ", cancel)? == first {
        true => Ok(first),
        false => Err(Error::new(ErrorKind::Usage, "the two passphrases differ; nothing was changed")),
    }
}

/// Asks for a line that may be seen.
pub fn line(question: &str, cancel: &Cancel) -> Result<String> {
    Ok(ask(question, cancel)?.trim().to_owned())
}

fn ask(question: &str, cancel: &Cancel) -> Result<Zeroizing<String>> {
    report::say(&escape(question));
    let failed = |error: std::io::Error| {
        Error::caused(ErrorKind::Io, "cannot read the answer from the terminal", error)
    };
    let input = stdin();
    // Room for all of it: a buffer that grows leaves copies behind.
    let mut line = Zeroizing::new(Vec::with_capacity(LINE_BYTES_MAX));
    loop {
        let mut looked_at = [PollFd::new(&input, PollFlags::IN)];
        let ready = poll(&mut looked_at, Some(&LOOK_EVERY));
        cancel.check()?;
        if matches!(ready, Ok(0) | Err(rustix::io::Errno::INTR)) {
            continue;
        }
        let mut byte = Zeroizing::new([0]);
        // Past the buffer of the standard library, which is not wiped.
        match rustix::io::read(input.as_fd(), &mut byte[..]).map_err(|error| failed(error.into()))? {
            0 if line.is_empty() => {
                return Err(Error::new(
                    ErrorKind::Usage,
                    "the question was not answered; nothing was changed",
                ));
            }
            0 => break,
            _ if matches!(byte[0], b'\n' | b'\r') => break,
            _ if line.len() == LINE_BYTES_MAX => {
                return Err(Error::new(ErrorKind::Usage, "the answer is longer than any passphrase"));
            }
            _ => line.push(byte[0]),
        }
    }
    let text =
        std::str::from_utf8(&line).map_err(|_| Error::new(ErrorKind::Usage, "the answer is not UTF-8"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// As long as it lives, the terminal does not show what is typed.
struct Hidden(Termios);

impl Hidden {
    fn new() -> Result<Self> {
        let failed =
            |error| Error::caused(ErrorKind::Io, "cannot keep the terminal from showing a passphrase", error);
        let before = tcgetattr(stdin()).map_err(failed)?;
        let mut hidden = before.clone();
        hidden
            .local_modes
            .remove(LocalModes::ECHO | LocalModes::ECHOE | LocalModes::ECHOK | LocalModes::ECHONL);
        tcsetattr(stdin(), OptionalActions::Flush, &hidden).map_err(failed)?;
        Ok(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // Nothing more can be done for a terminal that is gone.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.0);
    }
}
