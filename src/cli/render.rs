//! How progress looks: bars, plain lines, JSON lines, or nothing.
//!
//! A [`Renderer`] keeps one counter per stage, which workers add to without any lock, and a [`Painter`],
//! which turns a stage's present numbers into output. A ticker thread shows the numbers ten times a second,
//! so a stage that is silent keeps counting its time, and a number that was held back is shown at the next
//! tick. The end of a stage is painted from the counter itself: the last number shown is the true one.

mod bars;
mod json;
mod lines;
mod plain;
mod screen;

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use packvault::location::Wire;
use packvault::progress::{Progress, Stage, Unit};

use super::outlet::Errors;
use super::report;
use super::text::{self, count};

/// More than there are stages.
const COUNTERS: usize = 32;

/// Between two looks of the ticker at the running stages.
const TICK: Duration = Duration::from_millis(100);

/// Before this, elapsed time is not worth showing.
const ELAPSED_SHOWN_MIN: Duration = Duration::from_secs(1);

/// Over how long a rate is taken.
const RATE_OVER: Duration = Duration::from_secs(2);

/// How progress is to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Style {
    /// Bars on a terminal, plain lines otherwise
    Auto,
    /// Bars that are redrawn in place
    #[value(alias = "bar")]
    Bars,
    /// One line at the end of each stage, and one now and then in between
    Plain,
    /// One JSON object per line, for programs
    Json,
    /// Nothing
    None,
}

/// A running stage, as it is to be shown now.
pub(super) struct View<'a> {
    stage: Stage,
    unit: Unit,
    total: Option<u64>,
    done: u64,
    step: Option<&'a str>,
    elapsed: Duration,
    /// Of late, in bytes per second; for what passes to and from a server.
    rate: Option<u64>,
}

/// Turns the numbers of the stages into output. Calls come one at a time.
pub(super) trait Painter: Send {
    /// The stage begins.
    fn begin(&mut self, view: &View<'_>);
    /// The stage has a new step.
    fn step(&mut self, view: &View<'_>);
    /// The stage is running; called ten times a second.
    fn tick(&mut self, view: &View<'_>);
    /// The stage is over; these are its last numbers.
    fn end(&mut self, view: &View<'_>);
    /// There is something to say now.
    fn remark(&mut self, text: &str);
    /// All is over: nothing must be left on the screen that is not meant to stay.
    fn close(&mut self);
}

/// Shows the progress of one operation.
pub struct Renderer {
    counters: [AtomicU64; COUNTERS],
    state: Mutex<State>,
    clock: Clock,
}

/// Returns the time since the operation began.
type Clock = Box<dyn Fn() -> Duration + Send + Sync>;

struct State {
    running: Vec<Running>,
    /// The line to a server, if there is one, and when it was first watched.
    wire: Option<(Arc<Wire>, Duration)>,
    /// `None` when nothing is to be shown, or nothing any more.
    painter: Option<Box<dyn Painter>>,
}

struct Running {
    stage: Stage,
    unit: Unit,
    total: Option<u64>,
    step: Option<String>,
    begun: Duration,
    rate: Rate,
}

/// How fast a counter has moved of late.
#[derive(Default)]
struct Rate {
    since: Duration,
    done: u64,
    per_second: Option<u64>,
}

impl Rate {
    fn update(&mut self, now: Duration, done: u64) {
        let seconds = now.saturating_sub(self.since);
        if seconds >= RATE_OVER {
            let moved = done.saturating_sub(self.done) as f64;
            *self = Self { since: now, done, per_second: Some((moved / seconds.as_secs_f64()) as u64) };
        }
    }
}

impl Renderer {
    /// Makes a renderer on standard error and starts its ticker.
    pub fn start(style: Style) -> Arc<Self> {
        let painter: Option<Box<dyn Painter>> = match style.resolve() {
            Style::Bars => Some(Box::new(bars::Bars::new(bars::target()))),
            Style::Json => Some(Box::new(json::Json::new(Errors))),
            Style::None => None,
            Style::Plain | Style::Auto => Some(Box::new(plain::Plain::new(Errors))),
        };
        let shows_something = painter.is_some();
        let start = Instant::now();
        let renderer = Arc::new(Self::new(painter, Box::new(move || start.elapsed())));
        if shows_something {
            renderer.start_ticker();
        }
        renderer
    }

    fn new(painter: Option<Box<dyn Painter>>, clock: Clock) -> Self {
        let state = State { running: Vec::new(), wire: None, painter };
        Self { counters: [const { AtomicU64::new(0) }; COUNTERS], state: Mutex::new(state), clock }
    }

    /// Ends all output: what is on the screen is cleared, and nothing comes after it.
    pub fn close(&self) {
        let mut state = self.state();
        state.running.clear();
        if let Some(mut painter) = state.painter.take() {
            painter.close();
        }
    }

    /// Shows what passes over the line, once an operation takes long enough to be watched.
    pub fn watch_transfers(&self, wire: Arc<Wire>) {
        let now = (self.clock)();
        self.state().wire = Some((wire, now));
    }

    /// Moves the counters of both directions to what has passed.
    fn follow_transfers(&self, now: Duration) {
        let Some((wire, since)) = self.state().wire.clone() else { return };
        let passed = wire.passed();
        if now.saturating_sub(since) < ELAPSED_SHOWN_MIN {
            return;
        }
        for (stage, bytes) in [(Stage::Sent, passed.sent), (Stage::Received, passed.received)] {
            let is_running = self.state().running.iter().any(|running| running.stage == stage);
            if bytes > 0 && !is_running {
                self.begin(stage, Unit::Bytes, None);
            }
            if let Some(counter) = self.counter(stage) {
                counter.store(bytes, Ordering::Relaxed);
            }
            if let Some(running) = self.state().running.iter_mut().find(|running| running.stage == stage) {
                running.rate.update(now, bytes);
            }
        }
    }

    /// Says something that must not be held back by any style.
    pub fn notice(&self, text: &str) {
        match &mut self.state().painter {
            Some(painter) => painter.remark(text),
            None => report::say(&format!("{}\n", text::escape(text))),
        }
    }

    /// The thread ends by itself once the renderer is closed or gone.
    fn start_ticker(self: &Arc<Self>) {
        let renderer = Arc::downgrade(self);
        let tick = move || {
            while renderer.upgrade().is_some_and(|renderer| renderer.tick()) {
                std::thread::sleep(TICK);
            }
        };
        // Without the thread, progress is shown at the ends of stages only: no reason to fail.
        let _ = std::thread::Builder::new().name("progress".to_owned()).spawn(tick);
    }

    /// Shows every running stage; returns whether there is still something to show to.
    fn tick(&self) -> bool {
        let now = (self.clock)();
        self.follow_transfers(now);
        let State { running, painter, .. } = &mut *self.state();
        let Some(painter) = painter else { return false };
        for stage in running {
            painter.tick(&self.view(stage, now));
        }
        true
    }

    fn view<'a>(&self, running: &'a Running, now: Duration) -> View<'a> {
        View {
            stage: running.stage,
            unit: running.unit,
            total: running.total,
            done: self.counter(running.stage).map_or(0, |counter| counter.load(Ordering::Relaxed)),
            step: running.step.as_deref(),
            elapsed: now.saturating_sub(running.begun),
            rate: running.rate.per_second,
        }
    }

    fn counter(&self, stage: Stage) -> Option<&AtomicU64> {
        self.counters.get(stage as usize)
    }

    /// A panic elsewhere must not take the progress of the rest with it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Renderer {
    fn begin(&self, stage: Stage, unit: Unit, total: Option<u64>) {
        let now = (self.clock)();
        let State { running, painter, .. } = &mut *self.state();
        let Some(painter) = painter else { return };
        running.retain(|running| running.stage != stage);
        if let Some(counter) = self.counter(stage) {
            counter.store(0, Ordering::Relaxed);
        }
        let begun = Running {
            stage,
            unit,
            total,
            step: None,
            begun: now,
            rate: Rate { since: now, ..Rate::default() },
        };
        painter.begin(&self.view(&begun, now));
        running.push(begun);
    }

    fn advance(&self, stage: Stage, amount: u64) {
        if let Some(counter) = self.counter(stage) {
            counter.fetch_add(amount, Ordering::Relaxed);
        }
    }

    fn step(&self, stage: Stage, name: &str) {
        let now = (self.clock)();
        let State { running, painter, .. } = &mut *self.state();
        let running = running.iter_mut().find(|running| running.stage == stage);
        if let (Some(running), Some(painter)) = (running, painter) {
            running.step = Some(text::escape(name));
            painter.step(&self.view(running, now));
        }
    }

    fn end(&self, stage: Stage) {
        let now = (self.clock)();
        let State { running, painter, .. } = &mut *self.state();
        let index = running.iter().position(|running| running.stage == stage);
        if let (Some(index), Some(painter)) = (index, painter) {
            let ended = running.remove(index);
            painter.end(&self.view(&ended, now));
        }
    }

    fn remark(&self, text: &str) {
        if let Some(painter) = &mut self.state().painter {
            painter.remark(text);
        }
    }
}

impl Style {
    /// Decides what `Auto` means here: bars need a terminal that can move its cursor.
    fn resolve(self) -> Self {
        if self != Self::Auto {
            return self;
        }
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if std::io::stderr().is_terminal() && !is_dumb { Self::Bars } else { Self::Plain }
    }
}

impl View<'_> {
    /// Returns what the stage has done so far, and of how much: `120 MiB of 600 MiB`.
    fn amount(&self) -> String {
        match (self.unit, self.total) {
            (Unit::Bytes, None) => match self.rate {
                None => text::size(self.done),
                Some(rate) => format!("{} at {}/s", text::size(self.done), text::size(rate)),
            },
            (Unit::Bytes, Some(total)) if total == self.done => text::size(total),
            (Unit::Bytes, Some(total)) => format!("{} of {}", text::size(self.done), text::size(total)),
            (_, None) => format!("{}{}", count(self.done), self.noun()),
            (_, Some(total)) if total == self.done => format!("{}{}", count(total), self.noun()),
            (_, Some(total)) => format!("{} of {}{}", count(self.done), count(total), self.noun()),
        }
    }

    fn noun(&self) -> &'static str {
        match self.unit {
            Unit::Pages => " pages",
            Unit::Steps => " steps",
            Unit::Bytes | Unit::Items => "",
        }
    }

    /// Returns whether the amount says anything: most stages without a total never count.
    fn has_amount(&self) -> bool {
        self.done > 0 || self.total.is_some()
    }

    /// Returns `, 12 s`, or nothing in the first second.
    fn elapsed_suffix(&self) -> String {
        if self.elapsed < ELAPSED_SHOWN_MIN {
            return String::new();
        }
        format!(", {}", text::duration(self.elapsed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a painter wrote, and the clock it ran by.
    #[derive(Clone, Default)]
    pub(super) struct Stand {
        written: Arc<Mutex<Vec<u8>>>,
        milliseconds: Arc<AtomicU64>,
    }

    impl std::io::Write for Stand {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.written.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Stand {
        pub(super) fn renderer(&self, painter: impl Painter + 'static) -> Renderer {
            let clock = Arc::clone(&self.milliseconds);
            let clock = move || Duration::from_millis(clock.load(Ordering::SeqCst));
            Renderer::new(Some(Box::new(painter)), Box::new(clock))
        }

        /// Lets time pass with the ticker at work.
        pub(super) fn pass(&self, renderer: &Renderer, time: Duration) {
            for _ in 0..time.as_millis() / TICK.as_millis() {
                self.milliseconds.fetch_add(TICK.as_millis() as u64, Ordering::SeqCst);
                renderer.tick();
            }
        }

        pub(super) fn written(&self) -> String {
            String::from_utf8(self.written.lock().unwrap().clone()).unwrap()
        }
    }

    #[test]
    fn every_stage_has_a_counter() {
        assert!((Stage::Received as usize) < COUNTERS);
    }

    #[test]
    fn workers_may_count_at_once_and_no_number_is_lost() {
        let stand = Stand::default();
        let renderer = stand.renderer(plain::Plain::new(stand.clone()));
        renderer.begin(Stage::Blobs, Unit::Items, Some(8000));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..1000).for_each(|_| renderer.advance(Stage::Blobs, 1)));
            }
        });
        renderer.end(Stage::Blobs);
        assert_eq!(stand.written(), "blobs: 8,000\n");
    }

    #[test]
    fn a_stage_that_begins_again_counts_from_zero() {
        let stand = Stand::default();
        let renderer = stand.renderer(plain::Plain::new(stand.clone()));
        for _ in 0..2 {
            renderer.begin(Stage::Extras, Unit::Items, None);
            renderer.advance(Stage::Extras, 2);
            renderer.end(Stage::Extras);
        }
        assert_eq!(stand.written(), "extras: 2\nextras: 2\n");
    }

    #[test]
    fn calls_for_a_stage_that_does_not_run_do_nothing() {
        let stand = Stand::default();
        let renderer = stand.renderer(plain::Plain::new(stand.clone()));
        renderer.advance(Stage::Scan, 1);
        renderer.step(Stage::Scan, "x");
        renderer.end(Stage::Scan);
        assert_eq!(stand.written(), "");
    }

    #[test]
    fn nothing_is_shown_after_the_close() {
        let stand = Stand::default();
        let renderer = stand.renderer(plain::Plain::new(stand.clone()));
        renderer.begin(Stage::Scan, Unit::Pages, None);
        renderer.close();
        renderer.close();
        renderer.end(Stage::Scan);
        renderer.begin(Stage::Pack, Unit::Bytes, None);
        renderer.remark("too late");
        assert!(!renderer.tick());
        assert_eq!(stand.written(), "");
    }

    #[test]
    fn the_ticker_ends_with_its_renderer() {
        let renderer = Renderer::start(Style::Json);
        renderer.close();
        let weak = Arc::downgrade(&renderer);
        drop(renderer);
        let deadline = Instant::now() + Duration::from_secs(10);
        while weak.upgrade().is_some() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(weak.upgrade().is_none());
    }
}
