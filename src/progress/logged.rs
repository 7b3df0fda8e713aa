//! The progress of an operation as spans and events of a log, beside what a watcher is told.
//!
//! A stage is a span from its beginning to its end. Its work runs on many tasks, so events of other kinds do not
//! lie within the span; the stage's own do. Amounts are counted and told once, at the end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tracing::Span;

use super::{Progress, Stage, Unit};

/// As many as there are stages.
const STAGES: usize = Stage::Received as usize + 1;

/// Passes everything on to the watcher, and tells stages, steps and remarks to the log.
pub struct Logged {
    inner: Arc<dyn Progress>,
    running: Mutex<Vec<Running>>,
    done: [AtomicU64; STAGES],
}

struct Running {
    stage: Stage,
    span: Span,
    begun: Instant,
}

impl Logged {
    /// Tells the log what the watcher is told, if somebody reads one; returns the watcher as it is if not.
    pub fn if_heard(inner: Arc<dyn Progress>) -> Arc<dyn Progress> {
        let is_heard = tracing::enabled!(target: "packvault::stage", tracing::Level::INFO)
            || tracing::enabled!(target: "packvault::remark", tracing::Level::INFO);
        match is_heard {
            true => {
                let done = [const { AtomicU64::new(0) }; STAGES];
                Arc::new(Self { inner, running: Mutex::default(), done })
            }
            false => inner,
        }
    }

    fn running(&self) -> MutexGuard<'_, Vec<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Logged {
    fn begin(&self, stage: Stage, unit: Unit, total: Option<u64>) {
        let name = stage.name();
        self.done[stage as usize].store(0, Ordering::Relaxed);
        let span = tracing::info_span!(target: "packvault::stage", "stage", stage = name);
        span.in_scope(|| tracing::info!(target: "packvault::stage", total, "begins"));
        let mut running = self.running();
        running.retain(|running| running.stage != stage);
        running.push(Running { stage, span, begun: Instant::now() });
        drop(running);
        self.inner.begin(stage, unit, total);
    }

    fn advance(&self, stage: Stage, amount: u64) {
        self.done[stage as usize].fetch_add(amount, Ordering::Relaxed);
        self.inner.advance(stage, amount);
    }

    fn step(&self, stage: Stage, name: &str) {
        if let Some(running) = self.running().iter().find(|running| running.stage == stage) {
            running.span.in_scope(|| tracing::info!(target: "packvault::stage", step = name, "is at"));
        }
        self.inner.step(stage, name);
    }

    fn end(&self, stage: Stage) {
        let mut running = self.running();
        let ended = running.iter().position(|running| running.stage == stage);
        let ended = ended.map(|position| running.swap_remove(position));
        drop(running);
        if let Some(Running { span, begun, .. }) = ended {
            let (milliseconds, done) =
                (begun.elapsed().as_millis() as u64, self.done[stage as usize].load(Ordering::Relaxed));
            span.in_scope(|| tracing::info!(target: "packvault::stage", done, milliseconds, "ends"));
        }
        self.inner.end(stage);
    }

    fn remark(&self, text: &str) {
        tracing::info!(target: "packvault::remark", "{text}");
        self.inner.remark(text);
    }
}
