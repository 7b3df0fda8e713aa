//! Runs this program as a user would: prints the command, runs it in the demo's folder, prints its output.
//!
//! A command that is running when the demo is stopped is told to stop too, and waited for, so that it can
//! clean up before its folder goes.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use packvault::{Error, ErrorKind, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::cli::session::Session;
use crate::cli::text::shell_word;

/// Between two looks at a running command.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How long a command may take to stop.
const STOP_WAIT_MAX: Duration = Duration::from_secs(10);

/// Variables of the user's that a command of the demo must not see.
const HIDDEN: [&str; 8] = [
    "PACKVAULT_REPO",
    "PACKVAULT_PASSPHRASE",
    "PACKVAULT_PASSPHRASE_FILE",
    "PACKVAULT_PASSPHRASE_COMMAND",
    "PACKVAULT_IDENTITY",
    "MSGVAULT_HOME",
    "XDG_CONFIG_HOME",
    "XDG_STATE_HOME",
];

/// Where the demo's commands run.
pub struct Shell<'a> {
    folder: PathBuf,
    program: PathBuf,
    session: &'a Session,
    commands: Vec<String>,
    /// What each command finds in its environment besides.
    variables: Vec<(&'static str, PathBuf)>,
}

impl<'a> Shell<'a> {
    /// Makes a shell in the folder.
    pub fn new(folder: &Path, session: &'a Session) -> Result<Self> {
        let failed = |error| Error::caused(ErrorKind::Io, "cannot find this program", error);
        let program = std::env::current_exe().map_err(failed)?;
        Ok(Self {
            folder: folder.to_path_buf(),
            program,
            session,
            commands: Vec::new(),
            variables: Vec::new(),
        })
    }

    /// Returns the path of something in the demo's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Has every later command find this in its environment.
    pub fn export(&mut self, name: &'static str, value: PathBuf) -> Result<()> {
        self.print(&format!("$ export {name}={}\n", shell_word(&value.display().to_string())))?;
        self.variables.push((name, value));
        Ok(())
    }

    /// Returns the commands that were shown.
    pub fn into_commands(self) -> Vec<String> {
        self.commands
    }

    /// Prints what the demo itself does, the way a shell user notes it.
    pub fn note(&self, text: &str) -> Result<()> {
        self.session.cancel().check()?;
        self.print(&format!("# {text}\n"))
    }

    /// Prints the command, runs it, and prints its output.
    pub fn run(&mut self, arguments: &[&str]) -> Result<()> {
        let words: Vec<String> = arguments.iter().map(|word| shell_word(word)).collect();
        let command = format!("packvault {}", words.join(" "));
        self.print(&format!("$ {command}\n"))?;
        let output = self.output(&command, arguments)?;
        self.commands.push(command);
        self.print(&(output + "\n"))
    }

    /// Runs a command unseen and returns its output.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        self.output(&format!("packvault {}", arguments.join(" ")), arguments)
    }

    fn print(&self, text: &str) -> Result<()> {
        if self.session.is_json() { Ok(()) } else { self.session.print(text) }
    }

    fn output(&self, name: &str, arguments: &[&str]) -> Result<String> {
        self.session.cancel().check()?;
        let failed = |error| Error::caused(ErrorKind::Io, format!("cannot run `{name}`"), error);
        let mut child = self.command(arguments).spawn().map_err(failed)?;
        let pipe = child.stdout.take();
        // The output is read beside the wait: a full pipe would stop the command for ever.
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            pipe.map_or(Ok(0), |mut pipe| pipe.read_to_string(&mut text)).map(|_| text)
        });
        let succeeded = self.wait(&mut child).map_err(failed)?;
        let text = reader.join().unwrap_or_else(|_| Ok(String::new())).map_err(failed)?;
        self.session.cancel().check()?;
        if !succeeded {
            // The command has said on standard error what is wrong; what it said on the other is kept.
            self.print(&text)?;
            return Err(Error::new(ErrorKind::Io, format!("`{name}` failed")));
        }
        Ok(text)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        HIDDEN.iter().for_each(|name| _ = command.env_remove(name));
        command.args(arguments).current_dir(&self.folder);
        command.env("HOME", &self.folder).env("PACKVAULT_CONFIG", "/dev/null");
        // Nothing is kept for the next command: which files are old enough to be remembered depends on how fast the
        // machine is, and what the demo prints must not.
        command.env("XDG_CACHE_HOME", "/dev/null");
        command.envs(self.variables.iter().map(|(name, value)| (*name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        // In a group of its own, so that a Ctrl-C on the terminal reaches it through the demo only.
        command.process_group(0);
        // Bars on a terminal are part of the show and leave no trace; anywhere else they would be noise.
        let shows_progress = std::io::IsTerminal::is_terminal(&std::io::stderr()) && !self.session.is_json();
        if !shows_progress {
            command.arg("--progress").arg("none");
        }
        command
    }

    /// Waits for the command and returns whether it succeeded.
    fn wait(&self, child: &mut Child) -> std::io::Result<bool> {
        let mut stop_begun: Option<Instant> = None;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status.success());
            }
            match stop_begun {
                None if self.session.cancel().is_cancelled() => {
                    stop(child);
                    stop_begun = Some(Instant::now());
                }
                Some(begun) if begun.elapsed() > STOP_WAIT_MAX => child.kill()?,
                _ => {}
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Asks the command to stop: once, because a second signal would keep it from cleaning up.
fn stop(child: &Child) {
    if let Some(pid) = Pid::from_raw(child.id().cast_signed()) {
        // It may end by itself at this very moment.
        let _ = kill_process(pid, Signal::TERM);
    }
}
