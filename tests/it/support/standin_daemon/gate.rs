//! The gate: the writer enters it for every transaction, a freeze closes it, the watchdog opens it again.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long a freeze waits for the writer, as msgvault does.
const BEGIN_WAIT: Duration = Duration::from_secs(10);

#[derive(Default)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
    watchdog: Duration,
}

#[derive(Default)]
struct State {
    is_writing: bool,
    freeze: Option<(String, Instant)>,
    begun: u64,
    ended: u64,
    watchdog_fired: u64,
    transfers: u64,
    /// Requests that were given the key although nothing there needs it.
    keys_astray: u64,
    begin_requests: u64,
    longest_wait: Duration,
}

impl Gate {
    pub fn new(watchdog: Duration) -> Self {
        Self { watchdog, ..Self::default() }
    }

    /// Runs one transaction of the writer; waits while a freeze is open.
    pub fn write(&self, transaction: impl FnOnce()) {
        let asked = Instant::now();
        let mut state = self.lock();
        while state.freeze.is_some() {
            state = self.changed.wait(state).unwrap();
        }
        state.longest_wait = state.longest_wait.max(asked.elapsed());
        state.is_writing = true;
        drop(state);
        transaction();
        let mut state = self.lock();
        state.is_writing = false;
        state.transfers += 1;
        self.changed.notify_all();
    }

    /// Opens a freeze; the error is the code of the answer.
    pub fn begin(&self) -> Result<String, &'static str> {
        let mut state = self.lock();
        if state.freeze.is_some() {
            return Err("backup_freeze_active");
        }
        let token = ulid::Ulid::generate().to_string();
        state.freeze = Some((token.clone(), Instant::now() + BEGIN_WAIT + self.watchdog));
        let (mut state, waited) =
            self.changed.wait_timeout_while(state, BEGIN_WAIT, |state| state.is_writing).unwrap();
        if waited.timed_out() {
            state.freeze = None;
            self.changed.notify_all();
            return Err("operation_in_progress");
        }
        state.freeze = Some((token.clone(), Instant::now() + self.watchdog));
        state.begun += 1;
        Ok(token)
    }

    /// Ends the freeze of this token; tells whether it was open.
    pub fn end(&self, token: &str) -> bool {
        let mut state = self.lock();
        let is_open = state.freeze.as_ref().is_some_and(|(open, _)| open == token);
        if is_open {
            state.freeze = None;
            state.ended += 1;
            self.changed.notify_all();
        }
        is_open
    }

    /// Ends freezes that nobody has ended in time, for ever.
    pub fn watch(&self) {
        loop {
            std::thread::sleep(Duration::from_millis(1));
            let mut state = self.lock();
            if state.freeze.as_ref().is_some_and(|(_, until)| Instant::now() >= *until) {
                state.freeze = None;
                state.watchdog_fired += 1;
                self.changed.notify_all();
            }
        }
    }

    pub fn note_key_astray(&self) {
        self.lock().keys_astray += 1;
    }

    /// Counts a request to begin, and returns how many came before.
    pub fn note_begin_request(&self) -> u64 {
        let mut state = self.lock();
        state.begin_requests += 1;
        state.begin_requests - 1
    }

    pub fn state(&self) -> Value {
        let state = self.lock();
        json!({
            "frozen": state.freeze.is_some(), "begun": state.begun, "ended": state.ended,
            "watchdog_fired": state.watchdog_fired, "transfers": state.transfers,
            "keys_astray": state.keys_astray, "begin_requests": state.begin_requests,
            "longest_wait_milliseconds": state.longest_wait.as_millis() as u64,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}
