//! The real program under `strace`, which lets calls of one kind fail; and what is to be seen of a run that does
//! not end.
//!
//! Ending `strace` lets the traced program go on, and one that hangs would hang for ever, beside every later run. So
//! both are ended, each by its number. Before that each thread is asked what it waits for, while it still waits; and
//! `gdb`, where it is there, for the functions it is in.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How often a run is looked at.
const GLANCE: Duration = Duration::from_millis(5);
/// How long the functions of a program are looked for.
const BACKTRACE_SECONDS_MAX: &str = "60";
/// What is asked of each thread, from its folder in `/proc`.
const OF_THREAD: [&str; 4] = ["comm", "wchan", "syscall", "stack"];

/// Which calls fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failing {
    pub call: &'static str,
    pub error: &'static str,
    /// The first call of each thread that fails, counted from 1.
    pub place: usize,
    /// Whether all later ones fail too.
    pub from_then_on: bool,
}

impl std::fmt::Display for Failing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { call, error, place, from_then_on } = self;
        write!(f, "{call} {error} at {place}{}", if *from_then_on { " and from then on" } else { "" })
    }
}

/// How a run ended.
pub enum Outcome {
    Ended(ExitStatus),
    /// It did not in time; what its threads were at.
    Hung(String),
}

/// Returns `strace`, which is to write what it sees of the calls into the file, and has yet to be told the program.
pub fn strace(calls: &str, trace: &Path, failing: Option<Failing>) -> Command {
    let mut command = Command::new("strace");
    command
        .args(["-f", "-qq", "-y", "--seccomp-bpf", "-o"])
        .arg(trace)
        .arg("-e")
        .arg(format!("trace={calls}"));
    if let Some(Failing { call, error, place, from_then_on }) = failing {
        let more = if from_then_on { "+" } else { "" };
        command.arg("-e").arg(format!("inject={call}:error={error}:when={place}{more}"));
    }
    command
}

/// Builds what stands before the C library's `write`, or says why that cannot be.
pub fn build_failing_writes(to: &Path) -> Result<(), String> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/failing_writes.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(to).arg(source).output();
    match built {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Err(format!("cc cannot be run: {error}")),
    }
}

/// Returns the variables under which one write of a program to a file fails, or all of them are only told.
pub fn failing_writes(built: &Path, trace: &Path, failing: Option<Failing>) -> Vec<(&'static str, String)> {
    let mut variables = vec![
        ("LD_PRELOAD", built.display().to_string()),
        ("PACKVAULT_WRITES_FILE", trace.display().to_string()),
        ("PACKVAULT_WRITES_PLACE", failing.map_or(0, |failing| failing.place).to_string()),
    ];
    if let Some(failing) = failing {
        variables.push(("PACKVAULT_WRITES_ERROR", number_of(failing.error).to_string()));
        variables.extend(failing.from_then_on.then(|| ("PACKVAULT_WRITES_ON", "1".to_owned())));
    }
    variables
}

/// The name of what is no error: half of the bytes are written.
pub const SHORT: &str = "SHORT";

fn number_of(error: &str) -> i32 {
    use rustix::io::Errno;
    let known = [
        (SHORT, 0),
        ("ENOSPC", Errno::NOSPC.raw_os_error()),
        ("EIO", Errno::IO.raw_os_error()),
        ("EDQUOT", Errno::DQUOT.raw_os_error()),
        ("EINTR", Errno::INTR.raw_os_error()),
    ];
    known.into_iter().find(|(name, _)| *name == error).map(|(_, number)| number).unwrap()
}

/// Returns the lines of a trace that tell of calls that were made to fail.
pub fn injected(trace: &Path) -> Vec<String> {
    let trace = fs::read(trace).unwrap_or_default();
    let trace = String::from_utf8_lossy(&trace);
    trace.lines().filter(|line| line.contains("(INJECTED)")).map(str::to_owned).collect()
}

/// Waits for a program, or for one that is traced; one that takes too long is looked at and ended.
pub fn wait(mut child: Child, time_max: Duration) -> Outcome {
    let deadline = Instant::now() + time_max;
    loop {
        match child.try_wait().unwrap() {
            Some(status) => return Outcome::Ended(status),
            None if Instant::now() > deadline => return Outcome::Hung(end(child)),
            None => std::thread::sleep(GLANCE),
        }
    }
}

/// Ends the program and what traces it; returns what was to be seen.
fn end(mut child: Child) -> String {
    let traced = children(child.id());
    let mut seen = String::new();
    for pid in &traced {
        describe(*pid, &mut seen);
    }
    // Whoever is traced can be traced by nobody else.
    child.kill().unwrap();
    child.wait().unwrap();
    for pid in &traced {
        seen.push_str(&backtrace(*pid));
        if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    seen
}

/// Returns the processes that one has started.
fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
}

/// Adds what each thread of a process is at.
fn describe(pid: u32, seen: &mut String) {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return };
    for thread in threads.flatten() {
        let _ = write!(seen, "\nthread {}:", thread.file_name().display());
        for what in OF_THREAD {
            let said = fs::read_to_string(thread.path().join(what)).unwrap_or_else(|error| error.to_string());
            let _ = write!(seen, " {what} {}", said.trim().replace('\n', " < "));
        }
    }
}

fn backtrace(pid: u32) -> String {
    let mut gdb = Command::new("timeout");
    gdb.args([BACKTRACE_SECONDS_MAX, "gdb", "-batch", "-ex", "thread apply all bt 40", "-p"]);
    match gdb.arg(pid.to_string()).stdin(Stdio::null()).output() {
        Ok(output) => format!("\n{}", String::from_utf8_lossy(&output.stdout)),
        Err(error) => format!("\nno backtraces: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traced_program_that_hangs_is_looked_at_and_ended_with_its_tracer() {
        if Command::new("strace").arg("-V").output().is_err() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut command = strace("openat", &folder.path().join("trace"), None);
        let child = command.args(["sleep", "600"]).spawn().unwrap();
        let tracer = child.id();
        // Until the program is there to be traced.
        while children(tracer).is_empty() {
            std::thread::sleep(GLANCE);
        }
        let program = children(tracer)[0];
        let Outcome::Hung(seen) = wait(child, Duration::from_millis(300)) else { panic!("it ended") };
        assert!(seen.contains("comm sleep"), "{seen}");
        let deadline = Instant::now() + Duration::from_secs(60);
        let lives =
            || fs::read_to_string(format!("/proc/{program}/stat")).is_ok_and(|stat| !stat.contains(") Z"));
        while lives() {
            assert!(Instant::now() < deadline, "it lives on");
            std::thread::sleep(GLANCE);
        }
    }
}
