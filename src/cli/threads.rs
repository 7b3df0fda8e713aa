//! The threads of the program: all that it will ever need are started before it takes a lock or stops an
//! application.
//!
//! A limit on processes (`ulimit -u`, a container's `pids.max`) or on memory would else be met in the middle of the
//! work, where a thread that cannot be started is a panic of the runtime. How many can be had is tried out
//! first, with threads that do nothing; the runtime then gets as many, and fewer than it would like where the
//! limit is near. With its pool full from the beginning, and never given up, it asks for none later.

use std::sync::mpsc::channel;
use std::sync::{Arc, RwLock};
use std::thread::Builder;
use std::time::Duration;

use packvault::{Error, ErrorKind, Result};
use rustix::process::{Resource, getrlimit};
use tokio::runtime::Runtime;

use super::memory;

/// Threads for storage calls, beside those for the work on pieces.
const STORAGE_THREADS: usize = 16;
/// Threads of the program's own: three for signals, two that write to standard output and standard error, one for the
/// progress, and room for those that ask a database aside or run `after`.
const OWN_THREADS: usize = 9;
/// The fewest that storage calls and the work on pieces need together, for each may wait for the other's locks, and one
/// that waits for a database that is proved meanwhile.
const BLOCKING_THREADS_MIN: usize = 4;
/// How long a thread may take from being made to running, on a machine that is busy with other things.
const BEGIN_MAX: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 5 });
/// What the first thread has on most systems: without optimization the commands need more than the 2 MiB of the others.
const STACK_BYTES: usize = 8 * 1024 * 1024;
/// How often the runtime is tried to be made: the system may count threads that have just ended.
const ATTEMPTS: u32 = 5;
/// The pause between two attempts.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(100);
/// As many pipes, of two files each, as the runtime opens files for itself, and more: where one is refused, it panics.
const RUNTIME_PIPES: usize = 4;
/// The runtime gives up a thread that was idle for this long; longer than any command.
const KEEP_ALIVE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How many threads of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Threads {
    /// Drive async code.
    workers: usize,
    /// May block.
    blocking: usize,
}

/// Does the work of the whole program; on a thread of its own where the first one has a smaller stack than every other
/// (`ulimit -s`), for a stack that overflows ends the program without a word.
pub fn with_room_on_the_stack<T: Send + 'static>(work: fn() -> T) -> Result<T> {
    let limit = getrlimit(Resource::Stack).current;
    if limit.is_none_or(|bytes| bytes >= STACK_BYTES as u64) {
        return Ok(work());
    }
    let thread = Builder::new().name("main".to_owned()).stack_size(STACK_BYTES).spawn(work);
    let ended = thread.map_err(cannot_start)?.join();
    Ok(ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

/// Makes the runtime of the program, all its threads running; `jobs` pieces of work are done at once.
pub fn start(jobs: usize) -> Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let wanted = Threads { workers: cores, blocking: jobs + STORAGE_THREADS };
    // First of all: a thread that finds no memory when it begins ends the program, or hangs over saying so.
    memory::check(jobs, wanted.workers + wanted.blocking + OWN_THREADS)?;
    try_out_files().map_err(cannot_start)?;
    let mut failure = None;
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            std::thread::sleep(ATTEMPT_PAUSE);
        }
        let (can_start, refused) = try_out(wanted.workers + wanted.blocking + OWN_THREADS);
        let Some(threads) = wanted.within(can_start) else {
            failure = refused;
            continue;
        };
        match runtime(threads) {
            Ok(runtime) => return Ok(runtime),
            Err(error) => failure = Some(error),
        }
    }
    Err(cannot_start(failure.unwrap_or_else(|| std::io::ErrorKind::WouldBlock.into())))
}

/// Returns the error of a thread, or of what it waits on, that the system refuses.
pub fn cannot_start(error: std::io::Error) -> Error {
    // A runtime has files of its own. What to do about them is said of every error of that kind.
    let is_of_files = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
    let message = match is_of_files {
        true => "cannot start enough threads",
        false => {
            "cannot start enough threads: raise the limit on processes (`ulimit -u`, or a container's \
                   `pids.max`) or on memory (`ulimit -v`)"
        }
    };
    Error::caused(ErrorKind::Io, message, error)
}

impl Threads {
    /// Returns as many threads of each kind as there may be, or nothing if that is too few.
    fn within(self, max: usize) -> Option<Self> {
        let max = max.checked_sub(OWN_THREADS + BLOCKING_THREADS_MIN + 1)?;
        let blocking = self.blocking.min(BLOCKING_THREADS_MIN + max);
        let workers = self.workers.min(1 + max + BLOCKING_THREADS_MIN - blocking);
        Some(Self { workers, blocking })
    }
}

/// Starts so many threads at once, which do nothing and end; returns how many there were, and why not more.
fn try_out(count: usize) -> (usize, Option<std::io::Error>) {
    let mut waiting = Vec::with_capacity(count);
    let mut refused = None;
    for _ in 0..count {
        let (release, released) = channel::<()>();
        match Builder::new().spawn(move || released.recv()) {
            Ok(thread) => waiting.push((release, thread)),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    let started = waiting.len();
    for (release, thread) in waiting {
        drop(release);
        let _ = thread.join();
    }
    (started, refused)
}

/// Opens as many files as the runtime will, and closes them again.
fn try_out_files() -> std::io::Result<()> {
    (0..RUNTIME_PIPES).map(|_| std::io::pipe()).collect::<std::io::Result<Vec<_>>>().map(drop)
}

/// Makes a runtime and fills its pool, or says why not.
///
/// The runtime panics where the system refuses it a thread, and then waits for ever for those it has. So it is
/// made on a thread that can be left behind, and the panic is heard of before it unwinds.
fn runtime(threads: Threads) -> std::io::Result<Runtime> {
    let (tell, told) = channel();
    let tell_of_panic = tell.clone();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let _ = tell_of_panic
            .send(Err(std::io::Error::other(panic.payload_as_str().unwrap_or("panicked").to_owned())));
    }));
    let made = Builder::new().name("start".to_owned()).spawn(move || tell.send(filled(threads)));
    let made = made.and_then(|_| told.recv().unwrap_or_else(|gone| Err(std::io::Error::other(gone))));
    std::panic::set_hook(hook);
    made
}

fn filled(threads: Threads) -> std::io::Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(threads.workers)
        .max_blocking_threads(threads.blocking)
        .thread_keep_alive(KEEP_ALIVE)
        .build()?;
    match fill(&runtime, threads.blocking) {
        Ok(()) => Ok(runtime),
        Err(error) => {
            runtime.shutdown_background();
            Err(error)
        }
    }
}

/// Has the runtime start all threads that may block, each by work that waits until all are there.
fn fill(runtime: &Runtime, count: usize) -> std::io::Result<()> {
    let gate = Arc::new(RwLock::new(()));
    let closed = gate.write();
    let (begin, begun) = channel();
    let before = running();
    for _ in 0..count {
        let (begin, gate) = (begin.clone(), Arc::clone(&gate));
        runtime.spawn_blocking(move || {
            let _ = begin.send(());
            drop(gate.read());
        });
    }
    // The runtime says nothing where it has some threads and could not start another.
    if before.zip(running()).is_some_and(|(before, now)| now < before + count) {
        return Err(std::io::ErrorKind::WouldBlock.into());
    }
    for _ in 0..count {
        begun.recv_timeout(BEGIN_MAX).map_err(|_| std::io::ErrorKind::WouldBlock)?;
    }
    drop(closed);
    Ok(())
}

/// Returns how many threads this process has, where the system says so.
fn running() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/task").ok()?.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_limit_gets_fewer_threads_and_never_too_few() {
        let wanted = Threads { workers: 8, blocking: 24 };
        let of = |workers, blocking| Some(Threads { workers, blocking });
        assert_eq!(wanted.within(100), of(8, 24));
        assert_eq!(wanted.within(8 + 24 + OWN_THREADS), of(8, 24));
        assert_eq!(wanted.within(4 + 24 + OWN_THREADS), of(4, 24));
        assert_eq!(wanted.within(1 + 10 + OWN_THREADS), of(1, 10));
        assert_eq!(wanted.within(1 + BLOCKING_THREADS_MIN + OWN_THREADS), of(1, BLOCKING_THREADS_MIN));
        assert_eq!(wanted.within(BLOCKING_THREADS_MIN + OWN_THREADS), None);
        assert_eq!(wanted.within(0), None);
    }

    #[test]
    fn a_runtime_has_its_threads_from_the_beginning() {
        let runtime = start(2).unwrap();
        assert_eq!(runtime.metrics().num_workers(), std::thread::available_parallelism().unwrap().get());
        assert!(runtime.metrics().num_alive_tasks() == 0);
    }

    #[test]
    fn a_pool_that_is_not_full_is_an_error_and_no_hang() {
        let few = tokio::runtime::Builder::new_multi_thread().max_blocking_threads(1).build().unwrap();
        assert!(fill(&few, 2).is_err());
    }
}
