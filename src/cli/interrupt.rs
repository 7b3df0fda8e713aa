//! Ctrl-C, SIGTERM, SIGHUP and SIGQUIT: the first stops the operation cleanly, the second ends the program at
//! once, except that an application which is paused is let go on.
//!
//! Every other signal that would end us on the spot stops the operation cleanly, too, and never counts as the second.
//! Timers that we were started with send SIGALRM, SIGVTALRM and SIGPROF again and again; SIGXCPU, for the limit on CPU
//! time, comes every second until the kernel ends the program; the rest is sent by somebody who takes us for another
//! program. What says that the program itself is broken (SIGSEGV, SIGABRT and their kin) is left alone.
//!
//! What was ignored from the start is left alone: that is how `nohup` asks a program to outlive its terminal. Ctrl-C,
//! SIGTERM and SIGQUIT are heard in any case, for shells ignore them in jobs they put into the background, and who then
//! sends one by name means it.
//!
//! A thread of its own waits for them, so that a second Ctrl-C works even when every other thread hangs. All
//! threads are started beforehand.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::select_all;
use packvault::{Cancel, Error, ErrorKind, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::application::PausableApplication;
use super::render::Renderer;
use super::report::Exit;
use super::threads::cannot_start;

/// How long the second signal waits for `after`, which then goes on without us. A third does not wait.
const FAREWELL_MAX: Duration = Duration::from_secs(10);

/// Whom to let go on before the program ends at once.
pub type Paused = Arc<Mutex<Option<Arc<PausableApplication>>>>;

/// Cancels the token at the first signal and exits at the second; in force when this returns.
pub fn watch(cancel: Cancel, renderer: Arc<Renderer>, paused: Paused) -> Result<()> {
    let failed = |error| Error::caused(ErrorKind::Io, "cannot listen for Ctrl-C", error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let context = runtime.enter();
    let mut urgent = vec![SignalKind::interrupt(), SignalKind::terminate(), SignalKind::quit()];
    if !is_ignored(SignalKind::hangup()) {
        urgent.push(SignalKind::hangup());
    }
    let heard = |kinds: Vec<SignalKind>| kinds.into_iter().map(signal).collect::<std::io::Result<Vec<_>>>();
    let (urgent, others) = (heard(urgent).map_err(failed)?, heard(others()).map_err(failed)?);
    let limit = signal(SignalKind::from_raw(libc::SIGXCPU)).map_err(failed)?;
    drop(context);
    let (tell, told) = channel::<&str>();
    // Standard error may be a pipe that nobody reads: saying so must not delay the second signal.
    let say = move || {
        if let Ok(why) = told.recv() {
            renderer.notice(why);
        }
    };
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    thread("notice").spawn(say).map_err(cannot_start)?;
    let (leave, left) = channel::<()>();
    let farewell = move || {
        if left.recv().is_ok() {
            if let Some(application) = paused.lock().unwrap_or_else(PoisonError::into_inner).take() {
                application.let_go_within(FAREWELL_MAX);
            }
            exit();
        }
    };
    thread("farewell").spawn(farewell).map_err(cannot_start)?;
    let stop = stop(urgent, (others, limit), cancel, (tell, leave));
    thread("interrupt").spawn(move || runtime.block_on(stop)).map_err(cannot_start)?;
    Ok(())
}

/// Returns the signals that nobody sends to have us end, and that would end us.
fn others() -> Vec<SignalKind> {
    let common = [libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM, libc::SIGVTALRM, libc::SIGPROF, libc::SIGIO];
    let kinds = common.into_iter().chain(of_the_system()).map(SignalKind::from_raw);
    kinds.filter(|kind| !is_ignored(*kind)).collect()
}

#[cfg(target_os = "linux")]
fn of_the_system() -> impl Iterator<Item = i32> {
    [libc::SIGPWR, libc::SIGSTKFLT].into_iter().chain(libc::SIGRTMIN()..=libc::SIGRTMAX())
}

/// Elsewhere these do not exist, or end nobody.
#[cfg(not(target_os = "linux"))]
fn of_the_system() -> impl Iterator<Item = i32> {
    std::iter::empty()
}

async fn stop(
    mut signals: Vec<Signal>,
    (mut others, mut limit): (Vec<Signal>, Signal),
    cancel: Cancel,
    (tell, leave): (Sender<&'static str>, Sender<()>),
) {
    let why = tokio::select! {
        () = next(&mut signals) => "stopping (press Ctrl-C again to stop at once)",
        () = next(&mut others) => "stopping: a signal came that ends programs (Ctrl-C stops at once)",
        _ = limit.recv() => "stopping: the limit on CPU time (`ulimit -t`) is reached",
    };
    cancel.cancel();
    let _ = tell.send(why);
    next(&mut signals).await;
    let _ = leave.send(());
    next(&mut signals).await;
    exit();
}

fn exit() {
    std::process::exit(i32::from(Exit::Interrupted.code()));
}

async fn next(signals: &mut [Signal]) {
    select_all(signals.iter_mut().map(|signal| Box::pin(signal.recv()))).await;
}

/// Tells whether whoever started us has the signal ignored.
#[allow(unsafe_code, reason = "no safe interface asks for a signal's disposition without setting it")]
fn is_ignored(kind: SignalKind) -> bool {
    let mut found = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: with a null pointer for the new action nothing is changed, and the old one is written to `found`
    // whenever the call returns 0.
    unsafe {
        libc::sigaction(kind.as_raw_value(), std::ptr::null(), found.as_mut_ptr()) == 0
            && found.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use rustix::process::{Signal, getpid, kill_process};

    use super::super::render::Style;
    use super::*;

    /// One of the urgent signals only: a second one would end the test.
    #[test]
    fn the_first_signal_and_any_number_of_the_others_cancel_and_let_the_program_go_on() {
        let cancelled = |cancel: &Cancel| {
            let deadline = Instant::now() + Duration::from_secs(10);
            while !cancel.is_cancelled() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            cancel.is_cancelled()
        };
        let cancel = Cancel::new();
        watch(cancel.clone(), Renderer::start(Style::None), Paused::default()).unwrap();
        kill_process(getpid(), Signal::QUIT).unwrap();
        assert!(cancelled(&cancel));
        let limited = Cancel::new();
        watch(limited.clone(), Renderer::start(Style::None), Paused::default()).unwrap();
        let others = [Signal::XCPU, Signal::ALARM, Signal::VTALARM, Signal::PROF, Signal::USR1, Signal::XCPU];
        for other in others {
            kill_process(getpid(), other).unwrap();
            assert!(cancelled(&limited));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
