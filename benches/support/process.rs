//! The costs of a piece of work: CPU seconds (user and system), wall seconds, peak memory.
//!
//! Asks the system through `libc`, because nothing safe offers both the CPU time of one thread and the
//! resources of one child. The two calls here are the only unsafe code.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// Last bytes of a failed command's output that are shown.
const SHOWN_OUTPUT_BYTES: usize = 2000;

/// What some work cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// User and system CPU time.
    pub cpu_seconds: f64,
    /// Time passed.
    pub wall_seconds: f64,
}

impl std::ops::Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds + other.cpu_seconds,
            wall_seconds: self.wall_seconds + other.wall_seconds,
        }
    }
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// What a finished command cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// All its threads together.
    pub cost: Cost,
    /// Largest resident memory.
    pub peak_bytes: u64,
}

/// Adds the cost of the work to `cost` and returns its result.
pub fn timed<T>(cost: &mut Cost, work: impl FnOnce() -> T) -> T {
    let (start, cpu_start) = (Instant::now(), thread_cpu_seconds());
    let result = work();
    *cost +=
        Cost { cpu_seconds: thread_cpu_seconds() - cpu_start, wall_seconds: start.elapsed().as_secs_f64() };
    result
}

/// Runs the command to its end. Its output goes to `output`, and into the error if it fails.
pub fn run(command: &mut Command, output: &Path) -> Result<Usage> {
    run_together(std::slice::from_mut(command), output)
}

/// Runs the commands side by side until the last has ended. The peak memory is that of the largest.
pub fn run_together(commands: &mut [Command], output: &Path) -> Result<Usage> {
    let file = File::create(output).with_context(|| format!("cannot create {}", output.display()))?;
    forget_own_peak();
    let begun: Vec<_> = commands.iter_mut().map(|command| begin(command, &file)).collect();
    // Every one that runs is waited for, also beside one that does not.
    let ended: Vec<_> = begun.into_iter().map(|child| end(child?, output)).collect();
    let mut usage = Usage::default();
    for ended in ended {
        let ended = ended?;
        usage.cost.cpu_seconds += ended.cost.cpu_seconds;
        usage.peak_bytes = usage.peak_bytes.max(ended.peak_bytes);
        usage.cost.wall_seconds = usage.cost.wall_seconds.max(ended.cost.wall_seconds);
    }
    Ok(usage)
}

/// A command that runs.
struct Begun {
    shown: String,
    child: Child,
    start: Instant,
}

fn begin(command: &mut Command, output: &File) -> Result<Begun> {
    let shown = format!("{:?} {:?}", command.get_program(), command.get_args().collect::<Vec<_>>());
    let share = || output.try_clone().context("cannot share the output file");
    let start = Instant::now();
    let child = command
        .stdin(Stdio::null())
        .stdout(share()?)
        .stderr(share()?)
        .spawn()
        .with_context(|| format!("cannot start {shown}"))?;
    Ok(Begun { shown, child, start })
}

fn end(begun: Begun, output: &Path) -> Result<Usage> {
    let Begun { shown, child, start } = begun;
    let (status, resources) = wait(&child).with_context(|| format!("cannot wait for {shown}"))?;
    let wall_seconds = start.elapsed().as_secs_f64();
    if !(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0) {
        bail!("{shown} failed ({}): {}", describe(status), last_output(output));
    }
    let cpu_seconds = seconds(resources.ru_utime) + seconds(resources.ru_stime);
    // Linux counts in kilobytes.
    let peak_bytes = resources.ru_maxrss as u64 * 1024;
    Ok(Usage { cost: Cost { cpu_seconds, wall_seconds }, peak_bytes })
}

/// Sets this process's peak memory back to what it holds now: a process counts the peak of the one that
/// started it as its own. Where the system refuses, small peaks are reported too high.
fn forget_own_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

fn thread_cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a value that lives through the call, which writes it and nothing else.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(failed, 0, "every Linux has a CPU clock per thread");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Waits for a child and returns its raw status and what it used. The child must not be waited for again.
fn wait(child: &Child) -> io::Result<(libc::c_int, libc::rusage)> {
    let mut status = 0;
    // SAFETY: `rusage` is plain numbers, for which all zeros is a valid value.
    let mut resources: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to values that live through the call, which writes them and nothing else.
    let waited = unsafe { libc::wait4(child.id() as libc::pid_t, &mut status, 0, &mut resources) };
    if waited < 0 { Err(io::Error::last_os_error()) } else { Ok((status, resources)) }
}

fn seconds(time: libc::timeval) -> f64 {
    time.tv_sec as f64 + time.tv_usec as f64 / 1e6
}

fn describe(status: libc::c_int) -> String {
    if libc::WIFSIGNALED(status) {
        format!("killed by signal {}", libc::WTERMSIG(status))
    } else {
        format!("exit code {}", libc::WEXITSTATUS(status))
    }
}

fn last_output(output: &Path) -> String {
    let bytes = fs::read(output).unwrap_or_default();
    let shown = &bytes[bytes.len().saturating_sub(SHOWN_OUTPUT_BYTES)..];
    match String::from_utf8_lossy(shown).trim() {
        "" => "it said nothing".to_owned(),
        text => text.to_owned(),
    }
}
