//! Programs of the user's that run around a backup: `before` it, and `after` it whatever happened.
//!
//! They run without a shell, each in a process group of its own, so that a Ctrl-C meant for packvault does
//! not end the one that lets the application go on. What they print goes to standard error. A second Ctrl-C
//! ends packvault at once, without `after`.

use std::future::Future;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use packvault::{Cancel, Error, ErrorKind, Result};
use rustix::process::{Pid, Signal, kill_process_group};

/// How long one program may take.
const TIME_MAX: Duration = Duration::from_secs(600);
/// How often it is looked at.
const POLL: Duration = Duration::from_millis(20);

/// The programs of one archive; an empty list is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hooks {
    /// Program and arguments.
    pub before: Vec<String>,
    /// Program and arguments.
    pub after: Vec<String>,
}

impl Hooks {
    /// Runs `before`, then the work unless that failed, then `after` in any case. Returns how the work ended,
    /// and how `after` did.
    pub async fn around<T>(
        &self,
        cancel: &Cancel,
        work: impl Future<Output = Result<T>>,
    ) -> (Result<T>, Result<()>) {
        let worked = match run("before", &self.before, Some(cancel)).await {
            Ok(()) => work.await,
            Err(error) => Err(error),
        };
        // Not to be stopped: it may be what lets the application go on.
        (worked, run("after", &self.after, None).await)
    }
}

async fn run(name: &'static str, hook: &[String], cancel: Option<&Cancel>) -> Result<()> {
    let Some((program, arguments)) = hook.split_first() else { return Ok(()) };
    let failed = |why: String| Error::new(ErrorKind::Refused, format!("the hook `{name}` ({program}) {why}"));
    let mut child = start(program, arguments).map_err(|error| {
        Error::caused(ErrorKind::Refused, format!("cannot run the hook `{name}` ({program})"), error)
    })?;
    let deadline = Instant::now() + TIME_MAX;
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
            return Err(failed(format!("was still running after {} minutes", TIME_MAX.as_secs() / 60)));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn start(program: &str, arguments: &[String]) -> std::io::Result<Child> {
    // Standard output is for results.
    let output = std::io::stderr().as_fd().try_clone_to_owned()?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::from(output)).process_group(0);
    command.spawn()
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

    fn hook(program: &[&str]) -> Vec<String> {
        program.iter().map(|word| (*word).to_owned()).collect()
    }

    fn hooks(folder: &std::path::Path, before: &[&str]) -> Hooks {
        let after = folder.join("after");
        Hooks { before: hook(before), after: hook(&["touch", after.to_str().unwrap()]) }
    }

    #[tokio::test]
    async fn after_runs_when_before_or_the_work_fails() {
        for (before, work) in [("false", Ok(())), ("true", Err(Error::new(ErrorKind::Io, "x")))] {
            let folder = tempfile::tempdir().unwrap();
            let hooks = hooks(folder.path(), &[before]);
            let (worked, resumed) = hooks.around(&Cancel::new(), async { work }).await;
            assert!(worked.is_err() && resumed.is_ok());
            assert!(folder.path().join("after").exists(), "{before}");
        }
    }

    #[tokio::test]
    async fn an_interruption_ends_before_and_still_runs_after() {
        let folder = tempfile::tempdir().unwrap();
        let cancel = Cancel::new();
        cancel.cancel();
        let hooks = hooks(folder.path(), &["sleep", "600"]);
        let (worked, resumed) = hooks.around(&cancel, async { Ok(()) }).await;
        assert_eq!(worked.unwrap_err().kind(), ErrorKind::Interrupted);
        assert!(resumed.is_ok() && folder.path().join("after").exists());
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let error = run("before", &hook(&["/no/such/program"]), None).await.unwrap_err();
        assert!(error.to_string().contains("`before` (/no/such/program)"), "{error}");
    }
}
