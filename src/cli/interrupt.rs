//! Ctrl-C, SIGTERM, SIGHUP and SIGQUIT: the first stops the operation cleanly, the second ends the program at
//! once, except that an application which is paused is let go on.
//!
//! SIGHUP is left alone where it was ignored from the start: that is how `nohup` asks a program to outlive its
//! terminal. The others are heard in any case, for shells ignore them in jobs they put into the background, and
//! who then sends one by name means it.
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
    let mut kinds = vec![SignalKind::interrupt(), SignalKind::terminate(), SignalKind::quit()];
    if !is_hangup_ignored() {
        kinds.push(SignalKind::hangup());
    }
    let signals: Vec<Signal> =
        kinds.into_iter().map(signal).collect::<std::io::Result<_>>().map_err(failed)?;
    drop(context);
    let (tell, told) = channel::<()>();
    // Standard error may be a pipe that nobody reads: saying so must not delay the second signal.
    let say = move || {
        if told.recv().is_ok() {
            renderer.notice("stopping (press Ctrl-C again to stop at once)");
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
    let stop = stop(signals, cancel, tell, leave);
    thread("interrupt").spawn(move || runtime.block_on(stop)).map_err(cannot_start)?;
    Ok(())
}

async fn stop(mut signals: Vec<Signal>, cancel: Cancel, tell: Sender<()>, leave: Sender<()>) {
    next(&mut signals).await;
    cancel.cancel();
    let _ = tell.send(());
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

/// Tells whether whoever started us has SIGHUP ignored.
#[allow(unsafe_code, reason = "no safe interface asks for a signal's disposition without setting it")]
fn is_hangup_ignored() -> bool {
    let mut found = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: with a null pointer for the new action nothing is changed, and the old one is written to `found`
    // whenever the call returns 0.
    unsafe {
        libc::sigaction(libc::SIGHUP, std::ptr::null(), found.as_mut_ptr()) == 0
            && found.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use rustix::process::{Signal, getpid, kill_process};

    use super::super::render::Style;
    use super::*;

    /// One signal only: a second one, whichever, would end the test.
    #[test]
    fn the_first_signal_cancels_and_lets_the_program_go_on() {
        let cancel = Cancel::new();
        watch(cancel.clone(), Renderer::start(Style::None), Paused::default()).unwrap();
        kill_process(getpid(), Signal::QUIT).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !cancel.is_cancelled() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(cancel.is_cancelled());
    }
}
