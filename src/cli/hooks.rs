//! Programs of the user's: started without a shell, waited for with a limit of time, ended with all they started.
//!
//! Each runs in a process group of its own, so that a Ctrl-C meant for packvault does not end the one that lets
//! the application go on. What they print goes to standard error, or nowhere if that is gone: with the terminal
//! closed, a script that stops at the first failed `echo` would else leave the application paused.
//! When they run is `application`'s.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use packvault::{Cancel, Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, Signal, kill_process_group};

/// How long a program around a backup may take.
pub const TIME_MAX: Duration = Duration::from_secs(600);
/// How often it is looked at.
const POLL: Duration = Duration::from_millis(20);
/// How long is tried to start a program for which the system has no process or memory at the moment.
const START_MAX: Duration = Duration::from_secs(30);

/// One program of the user's.
#[derive(Debug, Clone, Copy)]
pub struct Hook<'a> {
    /// Its key in the configuration.
    pub name: &'static str,
    /// Program and arguments; without any there is nothing to run.
    pub words: &'a [String],
    /// What it finds in its environment besides packvault's own.
    pub variables: &'a [(&'static str, String)],
    /// What it reads on standard input, if anything.
    pub input: Option<&'a [u8]>,
    /// How long it may take.
    pub time_max: Duration,
}

impl Hook<'_> {
    /// Runs the program to its end. With a token it is ended when the user stops the operation; without one
    /// it is not to be stopped, and its start is tried for a while.
    pub fn run(&self, cancel: Option<&Cancel>) -> Result<()> {
        let Some((program, arguments)) = self.words.split_first() else { return Ok(()) };
        // Its words and its environment may hold secrets, and are not logged.
        let (hook, begun) = (self.name, Instant::now());
        tracing::info!(target: "packvault::hook", hook, "begins");
        let result = self.run_program(program, arguments, cancel);
        let (milliseconds, is_done) = (begun.elapsed().as_millis() as u64, result.is_ok());
        tracing::info!(target: "packvault::hook", hook, milliseconds, is_done, "has ended");
        result
    }

    fn run_program(&self, program: &str, arguments: &[String], cancel: Option<&Cancel>) -> Result<()> {
        let name = self.name;
        let failed =
            |why: String| Error::new(ErrorKind::Refused, format!("the hook `{name}` ({program}) {why}"));
        let started = match cancel {
            Some(_) => self.start(program, arguments),
            None => self.start_surely(program, arguments),
        };
        let mut child = started.map_err(|error| {
            Error::caused(ErrorKind::Refused, format!("cannot run the hook `{name}` ({program})"), error)
        })?;
        let deadline = Instant::now() + self.time_max;
        loop {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(failed(ended(status))),
                Ok(None) => {}
                Err(error) => {
                    let message = format!("cannot wait for the hook `{name}` ({program})");
                    return Err(Error::caused(ErrorKind::Io, message, error));
                }
            }
            if let Some(Err(interrupted)) = cancel.map(Cancel::check) {
                end(&mut child);
                return Err(interrupted);
            }
            if Instant::now() >= deadline {
                end(&mut child);
                let minutes = self.time_max.as_secs() / 60;
                return Err(failed(format!("was still running after {minutes} minutes, and was ended")));
            }
            std::thread::sleep(POLL);
        }
    }

    fn start(&self, program: &str, arguments: &[String]) -> std::io::Result<Child> {
        let mut command = Command::new(program);
        command.args(arguments).envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(self.input.map_or_else(|| Ok(Stdio::null()), readable)?).process_group(0);
        let stderr = std::io::stderr();
        match is_gone(stderr.as_fd()) {
            true => command.stdout(Stdio::null()).stderr(Stdio::null()),
            // Standard output is for results.
            false => command.stdout(Stdio::from(stderr.as_fd().try_clone_to_owned()?)),
        };
        command.spawn()
    }

    fn start_surely(&self, program: &str, arguments: &[String]) -> std::io::Result<Child> {
        use std::io::ErrorKind::{OutOfMemory, WouldBlock};
        let deadline = Instant::now() + START_MAX;
        loop {
            match self.start(program, arguments) {
                Err(error)
                    if matches!(error.kind(), OutOfMemory | WouldBlock) && Instant::now() < deadline =>
                {
                    std::thread::sleep(POLL);
                }
                started => return started,
            }
        }
    }
}

/// Returns a file without a name that holds the bytes: a program that never reads them keeps nobody waiting.
fn readable(bytes: &[u8]) -> std::io::Result<Stdio> {
    let mut file = File::from(memfd_create("packvault-message", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(Stdio::from(file))
}

/// Tells whether nobody can read what is written there: a closed terminal, a pipe without a reader.
fn is_gone(output: impl AsFd) -> bool {
    let mut looked_at = [PollFd::new(&output, PollFlags::OUT)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let gone = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
    poll(&mut looked_at, Some(&at_once)).is_ok() && looked_at[0].revents().intersects(gone)
}

fn ended(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("failed with exit code {code}"),
        None => "was ended by a signal".to_owned(),
    }
}

/// Ends the program with what it has started, and does not leave it behind as a zombie.
fn end(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It may have ended by itself just now.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str], cancel: Option<&Cancel>) -> Result<()> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let variables = [("PACKVAULT_ARCHIVE", "mail".to_owned())];
        let hook =
            Hook { name: "before", words: &words, variables: &variables, input: None, time_max: TIME_MAX };
        hook.run(cancel)
    }

    #[test]
    fn a_program_that_fails_is_named_with_its_exit_code() {
        let error = run(&["sh", "-c", "exit 7"], None).unwrap_err();
        assert!(error.to_string().contains("`before` (sh) failed with exit code 7"), "{error}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = run(&["/no/such/program"], None).unwrap_err();
        assert!(error.to_string().contains("`before` (/no/such/program)"), "{error}");
    }

    #[test]
    fn a_program_finds_the_variables() {
        run(&["sh", "-c", "test \"$PACKVAULT_ARCHIVE\" = mail"], None).unwrap();
    }

    #[test]
    fn a_program_finds_its_message_and_need_not_read_it() {
        let message = vec![b'x'; 1 << 20];
        for script in ["test $(wc -c) = 1048576", "true"] {
            let words = ["sh", "-c", script].map(str::to_owned);
            let hook = Hook {
                name: "after",
                words: &words,
                variables: &[],
                input: Some(&message),
                time_max: TIME_MAX,
            };
            hook.run(None).unwrap();
        }
    }

    #[test]
    fn a_program_that_takes_too_long_is_ended() {
        let words = ["sleep", "600"].map(str::to_owned);
        let time_max = Duration::from_millis(30);
        let hook = Hook { name: "after", words: &words, variables: &[], input: None, time_max };
        assert!(hook.run(None).unwrap_err().to_string().contains("was ended"));
    }

    #[test]
    fn a_cancellation_ends_a_program_that_hangs() {
        let cancel = Cancel::new();
        cancel.cancel();
        let error = run(&["sleep", "600"], Some(&cancel)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted);
    }

    #[test]
    fn a_pipe_without_a_reader_is_seen_to_be_gone() {
        let (reader, writer) = std::io::pipe().unwrap();
        assert!(!is_gone(&writer));
        drop(reader);
        assert!(is_gone(&writer));
    }
}
