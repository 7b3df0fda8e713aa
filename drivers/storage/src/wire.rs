//! The line to a server: how much has passed over it, and how fast it may.
//!
//! A driver tells its [`Wire`] of every piece it hands to the network and takes from it, and waits when it
//! is told to. This is the one limit that is no wrapper: a wrapper sees whole objects, and an object sent
//! at once and followed by a pause is no even load on a line that others use.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How much may pass at once after the line was idle, in seconds of its rate.
const BURST_SECONDS: f64 = 0.25;

/// Bytes that have passed, payload only, repeated ones included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Passed {
    /// Bytes handed to the network.
    pub sent: u64,
    /// Bytes taken from it.
    pub received: u64,
}

/// Counts what passes in both directions and holds it to a rate. Shared by every connection of a storage.
#[derive(Debug, Default)]
pub struct Wire {
    sent: AtomicU64,
    received: AtomicU64,
    upload: Option<Pace>,
    download: Option<Pace>,
}

impl Wire {
    /// Makes a wire with rates in bytes per second; `None` is without a limit, zero counts as one.
    pub fn new(upload: Option<u64>, download: Option<u64>) -> Self {
        Self { upload: upload.map(Pace::new), download: download.map(Pace::new), ..Self::default() }
    }

    /// Counts bytes that are about to be sent, and waits until they may be.
    ///
    /// Pieces should be small beside the rate; 64 KiB pass evenly at any usual one.
    pub async fn send(&self, bytes: u64) {
        pass(self.upload.as_ref(), bytes).await;
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that have come in, and waits before more are asked for.
    pub async fn receive(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
        pass(self.download.as_ref(), bytes).await;
    }

    /// Returns what has passed so far.
    pub fn passed(&self) -> Passed {
        Passed { sent: self.sent.load(Ordering::Relaxed), received: self.received.load(Ordering::Relaxed) }
    }
}

async fn pass(pace: Option<&Pace>, bytes: u64) {
    if let Some(pause) = pace.and_then(|pace| pace.book(bytes)) {
        tokio::time::sleep(pause).await;
    }
}

/// A rate, kept by booking each piece into the time after the last.
#[derive(Debug)]
struct Pace {
    bytes_per_second: f64,
    free_from: Mutex<Option<Instant>>,
}

impl Pace {
    fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1) as f64, free_from: Mutex::new(None) }
    }

    /// Books the bytes and returns how long to wait before they may pass.
    fn book(&self, bytes: u64) -> Option<Duration> {
        let now = Instant::now();
        let mut free_from = self.free_from.lock().expect("no holder of the booking panics");
        let earliest = now.checked_sub(Duration::from_secs_f64(BURST_SECONDS)).unwrap_or(now);
        let begin = free_from.map_or(earliest, |free| free.max(earliest));
        // A rate of a byte a second and a huge piece must not leave the clock's range.
        let seconds = (bytes as f64 / self.bytes_per_second).min(1e9);
        let end = begin + Duration::from_secs_f64(seconds);
        *free_from = Some(end);
        end.checked_duration_since(now).filter(|pause| !pause.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_over_many_pieces_and_each_direction_has_its_own() {
        let wire = Wire::new(Some(100_000), None);
        let begun = Instant::now();
        for _ in 0..100 {
            wire.send(10_000).await;
            wire.receive(1_000_000).await;
        }
        let seconds = begun.elapsed().as_secs_f64();
        assert!((9.7..=10.0).contains(&seconds), "a megabyte at 100 kB/s took {seconds} s");
        assert_eq!(wire.passed(), Passed { sent: 1_000_000, received: 100_000_000 });
    }

    #[tokio::test(start_paused = true)]
    async fn several_senders_share_one_rate() {
        let wire = std::sync::Arc::new(Wire::new(Some(1_000), Some(1)));
        let begun = Instant::now();
        let senders = (0..4).map(|_| {
            let wire = wire.clone();
            tokio::spawn(async move { wire.send(1_000).await })
        });
        for sender in senders.collect::<Vec<_>>() {
            sender.await.unwrap();
        }
        let seconds = begun.elapsed().as_secs_f64();
        assert!((3.7..=4.0).contains(&seconds), "{seconds}");
    }
}
