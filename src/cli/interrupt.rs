//! Ctrl-C and SIGTERM: the first stops the operation cleanly, the second ends the program at once.
//!
//! A thread of its own waits for them, so that a second Ctrl-C works even when every other thread hangs.

use std::sync::Arc;

use packvault::{Cancel, Error, ErrorKind, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::render::Renderer;
use super::report::Exit;

/// Cancels the token at the first signal and exits at the second; in force when this returns.
pub fn watch(cancel: Cancel, renderer: Arc<Renderer>) -> Result<()> {
    let failed = |error| Error::caused(ErrorKind::Io, "cannot listen for Ctrl-C", error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let context = runtime.enter();
    let interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let terminate = signal(SignalKind::terminate()).map_err(failed)?;
    drop(context);
    let thread = std::thread::Builder::new().name("interrupt".to_owned());
    thread.spawn(move || runtime.block_on(stop(interrupt, terminate, cancel, renderer))).map_err(failed)?;
    Ok(())
}

async fn stop(mut interrupt: Signal, mut terminate: Signal, cancel: Cancel, renderer: Arc<Renderer>) {
    next(&mut interrupt, &mut terminate).await;
    cancel.cancel();
    // Standard error may be a pipe that nobody reads: saying so must not delay the second signal.
    std::thread::spawn(move || renderer.notice("stopping (press Ctrl-C again to stop at once)"));
    next(&mut interrupt, &mut terminate).await;
    std::process::exit(i32::from(Exit::Interrupted.code()));
}

async fn next(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use rustix::process::{Signal, getpid, kill_process};

    use super::super::render::Style;
    use super::*;

    #[test]
    fn the_first_signal_cancels_and_lets_the_program_go_on() {
        let cancel = Cancel::new();
        watch(cancel.clone(), Renderer::start(Style::None)).unwrap();
        kill_process(getpid(), Signal::TERM).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !cancel.is_cancelled() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(cancel.is_cancelled());
    }
}
