//! What happens to a command while it runs: nothing, or one of the faults, at a random instant.
//!
//! A fault says how the command may end under it. Damage to what is stored is none of them: it is what `verify`
//! is for, and nothing that a command could get over.

use std::process::Child;
use std::time::Duration;

use anyhow::Result;
use fastrand::Rng;
use packvault_test_servers::{Direction, Proxy};
use rustix::process::{Pid, Signal, kill_process};

use crate::place::Place;
use crate::program::Ending;

/// So many refusals of a busy server are got over by any command.
const REFUSALS_HARMLESS: u64 = 5;

/// Refusals of a server at its busiest.
const REFUSALS_MAX: u64 = 24;

/// Milliseconds for which nothing passes: shorter than anything that packvault waits for.
const STALL_MILLIS: std::ops::Range<u64> = 300..8_000;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultKind {
    /// SIGKILL.
    Kill,
    /// Ctrl-C.
    Interrupt,
    /// All connections are cut.
    Cut,
    /// Nothing passes for a while.
    Stall,
    /// The server answers 503.
    Busy,
}

impl FaultKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Kill, Self::Interrupt, Self::Cut, Self::Stall, Self::Busy];

    /// Returns the name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Interrupt => "ctrl-c",
            Self::Cut => "cut",
            Self::Stall => "stall",
            Self::Busy => "503",
        }
    }
}

/// What is done, exactly.
#[derive(Debug, Clone, Copy)]
enum Blow {
    Signal(Signal),
    CutAfter(Direction, u64),
    CutNow,
    Stall(Duration),
    Refusals(u64),
}

/// A fault that waits for its instant.
#[derive(Debug, Clone)]
pub struct Fault {
    /// What it is.
    pub kind: FaultKind,
    at: Duration,
    blow: Blow,
    /// When it was begun, counted from the beginning of the command.
    struck: Option<Duration>,
    is_over: bool,
    cuts_before: u64,
}

impl Fault {
    /// Draws a fault that is possible at the place, for a command that takes so long as a rule.
    pub fn draw(random: &mut Rng, place: &Place, usual: Duration) -> Self {
        let kinds = match (&place.line, place.is_s3()) {
            (None, _) => &FaultKind::ALL[..2],
            (Some(_), false) => &FaultKind::ALL[..4],
            (Some(_), true) => &FaultKind::ALL[..],
        };
        let kind = kinds[random.usize(..kinds.len())];
        let at = usual.mul_f64(random.f64());
        let (at, blow) = match kind {
            FaultKind::Kill => (at, Blow::Signal(Signal::KILL)),
            FaultKind::Interrupt => (at, Blow::Signal(Signal::INT)),
            FaultKind::Cut if random.bool() => (at, Blow::CutNow),
            FaultKind::Cut => {
                let direction = if random.bool() { Direction::Up } else { Direction::Down };
                // From the first words of a connection to the middle of a pack.
                (Duration::ZERO, Blow::CutAfter(direction, 1 << random.u32(7..20)))
            }
            FaultKind::Stall => (at, Blow::Stall(Duration::from_millis(random.u64(STALL_MILLIS)))),
            FaultKind::Busy => (at, Blow::Refusals(random.u64(1..=REFUSALS_MAX))),
        };
        Self { kind, at, blow, struck: None, is_over: false, cuts_before: 0 }
    }

    /// Does what is due so long after the command has begun.
    pub fn tick(&mut self, passed: Duration, child: &Child, line: Option<&Proxy>) -> Result<()> {
        if passed < self.at || self.is_over {
            return Ok(());
        }
        if self.struck.is_none() {
            self.struck = Some(passed);
            self.strike(child, line)?;
        }
        match (self.blow, self.struck, line) {
            (Blow::Stall(pause), Some(since), Some(line)) if passed >= since + pause => {
                line.stall(false);
                self.is_over = true;
            }
            (Blow::Stall(_), ..) => {}
            _ => self.is_over = true,
        }
        Ok(())
    }

    fn strike(&mut self, child: &Child, line: Option<&Proxy>) -> Result<()> {
        match (self.blow, line) {
            // A process that has just ended is still there to be waited for.
            (Blow::Signal(signal), _) => kill_process(Pid::from_child(child), signal)?,
            (Blow::CutAfter(direction, bytes), Some(line)) => {
                self.cuts_before = line.cuts();
                line.cut_after(direction, bytes);
            }
            (Blow::CutNow, Some(line)) => line.cut_now(),
            (Blow::Stall(_), Some(line)) => line.stall(true),
            (Blow::Refusals(count), Some(line)) => line.be_busy(count),
            (_, None) => {}
        }
        Ok(())
    }

    /// Tells whether it came in time to do anything, once the command has ended.
    pub fn has_struck(&self, ending: Ending, line: Option<&Proxy>) -> bool {
        match (self.blow, line) {
            (Blow::Signal(_), _) => ending != Ending::Code(0),
            (Blow::CutAfter(..), Some(line)) => line.cuts() > self.cuts_before,
            _ => self.struck.is_some(),
        }
    }

    /// Tells whether a command may end so under it.
    pub fn allows(&self, ending: Ending) -> bool {
        let alternative = match self.blow {
            Blow::Signal(Signal::KILL) => ending == Ending::Signal(Signal::KILL.as_raw()),
            // The first moment of a process is before it listens for Ctrl-C.
            Blow::Signal(signal) => ending == Ending::Code(130) || ending == Ending::Signal(signal.as_raw()),
            Blow::CutAfter(..) | Blow::CutNow => ending == Ending::Code(1),
            Blow::Refusals(count) => count > REFUSALS_HARMLESS && ending == Ending::Code(1),
            Blow::Stall(_) => false,
        };
        ending == Ending::Code(0) || alternative
    }

    /// Tells whether it may leave a lock behind that nobody holds any longer.
    pub fn may_leave_a_lock(&self) -> bool {
        !matches!(self.blow, Blow::Signal(Signal::INT) | Blow::Stall(_))
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} after {:?}", self.blow, self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(kind: FaultKind, blow: Blow) -> Fault {
        Fault { kind, at: Duration::ZERO, blow, struck: None, is_over: false, cuts_before: 0 }
    }

    #[test]
    fn a_fault_excuses_its_own_endings_and_no_others() {
        let (done, failed, locked) = (Ending::Code(0), Ending::Code(1), Ending::Code(11));
        let kill = fault(FaultKind::Kill, Blow::Signal(Signal::KILL));
        assert!(kill.allows(done) && kill.allows(Ending::Signal(9)) && !kill.allows(failed));
        let interrupt = fault(FaultKind::Interrupt, Blow::Signal(Signal::INT));
        assert!(interrupt.allows(Ending::Code(130)) && interrupt.allows(Ending::Signal(2)));
        assert!(!interrupt.allows(failed) && !interrupt.may_leave_a_lock());
        let stall = fault(FaultKind::Stall, Blow::Stall(Duration::from_secs(1)));
        assert!(stall.allows(done) && !stall.allows(failed));
        let cut = fault(FaultKind::Cut, Blow::CutNow);
        assert!(cut.allows(failed) && !cut.allows(locked) && cut.may_leave_a_lock());
        assert!(!fault(FaultKind::Busy, Blow::Refusals(2)).allows(failed));
        assert!(fault(FaultKind::Busy, Blow::Refusals(20)).allows(failed));
    }
}
