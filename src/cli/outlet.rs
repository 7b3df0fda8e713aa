//! Standard output and standard error: whoever does not read them keeps nobody from stopping the program.
//!
//! A pager whose user reads on, a terminal that was stopped (Ctrl-S), a line that is stuck: whoever writes there waits
//! until somebody reads, for what is said must not be lost. So each of the two has a thread that does nothing but write,
//! and others wait for its word. Once the user has stopped the program, they wait for a moment and then go on without
//! it. What was handed in stays in its order, and is written if somebody reads in time.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::Builder;
use std::time::{Duration, Instant};

use packvault::{Cancel, Error, ErrorKind, Result};
use zeroize::Zeroizing;

use super::threads::cannot_start;

/// How often it is looked whether the user has stopped the program.
const GLANCE: Duration = Duration::from_millis(20);
/// How long is waited for a reader when the program is to end, before nobody waits any more.
const FAREWELL_MAX: Duration = Duration::from_millis(300);

/// Standard output.
pub static OUTPUT: Outlet = Outlet::new(|bytes| through(&mut io::stdout().lock(), bytes));
/// Standard error.
pub static ERRORS: Outlet = Outlet::new(|bytes| through(&mut io::stderr().lock(), bytes));

type WriteThrough = fn(&[u8]) -> io::Result<()>;

/// One of the two.
pub struct Outlet {
    write_through: WriteThrough,
    running: OnceLock<Running>,
    /// Whether it was waited for in vain.
    is_given_up: AtomicBool,
}

/// The thread that writes, and who says that it is not to be waited for.
struct Running {
    orders: Sender<Order>,
    cancel: Cancel,
}

/// What is to be written, and who is told how that went. It may be a secret.
struct Order {
    bytes: Zeroizing<Vec<u8>>,
    told: SyncSender<io::Result<()>>,
}

/// Has both written to by threads of their own from now on.
pub fn start(cancel: &Cancel) -> Result<()> {
    OUTPUT.start("output", cancel).and_then(|()| ERRORS.start("errors", cancel)).map_err(cannot_start)
}

fn through(stream: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).and_then(|()| stream.flush())
}

impl Outlet {
    const fn new(write_through: WriteThrough) -> Self {
        Self { write_through, running: OnceLock::new(), is_given_up: AtomicBool::new(false) }
    }

    fn start(&self, name: &str, cancel: &Cancel) -> io::Result<()> {
        let (orders, taken) = channel::<Order>();
        let write_through = self.write_through;
        let work = move || {
            for order in taken {
                // Whoever does not wait any more hears nothing.
                let _ = order.told.send(write_through(&order.bytes));
            }
        };
        Builder::new().name(name.to_owned()).spawn(work)?;
        // A program starts it once.
        let _ = self.running.set(Running { orders, cancel: cancel.clone() });
        Ok(())
    }

    /// Writes all of it; an error of kind [`io::ErrorKind::WouldBlock`] if the user has stopped the program and nobody
    /// reads.
    pub fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let Some(Running { orders, cancel }) = self.running.get() else { return (self.write_through)(bytes) };
        let (tell, told) = sync_channel(1);
        let order = Order { bytes: Zeroizing::new(bytes.to_vec()), told: tell };
        match orders.send(order) {
            Ok(()) => self.wait(&told, cancel),
            Err(_) => (self.write_through)(bytes),
        }
    }

    fn wait(&self, told: &Receiver<io::Result<()>>, cancel: &Cancel) -> io::Result<()> {
        let mut stopped = None;
        loop {
            match told.recv_timeout(GLANCE) {
                Ok(written) => return written,
                Err(RecvTimeoutError::Disconnected) => return Err(io::ErrorKind::BrokenPipe.into()),
                Err(RecvTimeoutError::Timeout) if !cancel.is_cancelled() => {}
                Err(RecvTimeoutError::Timeout) => {
                    let since = stopped.get_or_insert_with(Instant::now).elapsed();
                    if since >= FAREWELL_MAX || self.is_given_up.load(Ordering::Relaxed) {
                        self.is_given_up.store(true, Ordering::Relaxed);
                        return Err(io::ErrorKind::WouldBlock.into());
                    }
                }
            }
        }
    }

    /// Prints a result.
    pub fn print(&self, text: &str) -> Result<()> {
        match self.write(text.as_bytes()) {
            // The reader has seen enough; what the command did is done all the same.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(Error::new(ErrorKind::Interrupted, "interrupted while nobody read standard output"))
            }
            Err(error) => Err(Error::caused(ErrorKind::Io, "cannot write to standard output", error)),
            Ok(()) => Ok(()),
        }
    }
}

/// Standard error, as a stream.
#[derive(Debug, Clone, Copy)]
pub struct Errors;

impl Write for Errors {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        ERRORS.write(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    static WRITTEN: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    static GATE: Mutex<()> = Mutex::new(());

    fn gated(bytes: &[u8]) -> io::Result<()> {
        let _open = GATE.lock().unwrap();
        WRITTEN.lock().unwrap().write_all(bytes)
    }

    #[test]
    fn what_is_said_waits_for_a_reader_until_the_user_stops_the_program_and_keeps_its_order() {
        static OUTLET: Outlet = Outlet::new(gated);
        let cancel = Cancel::new();
        OUTLET.start("test", &cancel).unwrap();
        OUTLET.write(b"one ").unwrap();
        let shut = GATE.lock().unwrap();
        let writer = std::thread::spawn(|| OUTLET.write(b"two "));
        std::thread::sleep(2 * FAREWELL_MAX);
        assert!(!writer.is_finished(), "nothing is lost while the work goes on");
        cancel.cancel();
        assert_eq!(writer.join().unwrap().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let begun = Instant::now();
        assert!(OUTLET.write(b"three ").is_err() && begun.elapsed() < FAREWELL_MAX, "it is known by now");
        drop(shut);
        OUTLET.write(b"four").unwrap();
        assert_eq!(*WRITTEN.lock().unwrap(), b"one two three four");
    }
}
