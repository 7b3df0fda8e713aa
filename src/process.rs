//! This process, and whether another one of this machine still lives, by `/proc`.
//!
//! A number alone says little: another container counts its processes anew, another start of the machine too,
//! and numbers are used again. So a process is known by the name and the start of the machine, the namespace its
//! number counts in, and its own start. Where any of these cannot be had, nothing is said about anybody.

mod family;

use std::fs;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

pub use family::Family;

/// What tells a process from every other one that had or has its number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// The machine's name.
    pub hostname: String,
    /// The start of the machine, as the kernel names it.
    pub boot: String,
    /// The namespace in which its number counts.
    pub pid_namespace: String,
    /// The namespace by whose clock its start is told; empty on systems without any.
    pub time_namespace: String,
    /// Its start, in ticks since the machine's.
    pub started: u64,
}

/// What became of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It lives.
    Lives,
    /// It has ended.
    Gone,
    /// It ran elsewhere, or cannot be seen.
    Unknown,
}

/// What `/proc` says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Its state, as one letter.
    pub state: char,
    /// The number of the process that started it, or that took it over.
    pub parent: u32,
    /// How many threads of it are left.
    pub threads: u64,
    /// Its start, in ticks since the machine's.
    pub started: u64,
}

/// Returns the start of the machine, as the kernel names it, where the system tells.
pub fn boot() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
    (!boot.is_empty()).then_some(boot)
}

impl Identity {
    /// Returns that of this process, where the system tells.
    pub fn of_this_process() -> Option<Self> {
        let pid = std::process::id();
        // Somebody else's /proc may be mounted here, in which our number is another's.
        if fs::read_link("/proc/self").ok()?.to_str()? != pid.to_string() {
            return None;
        }
        let boot = boot()?;
        let namespace = |name: &str| {
            let link = fs::read_link(format!("/proc/self/ns/{name}")).ok()?;
            link.to_str().map(str::to_owned)
        };
        let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let started = stat(pid)?.started;
        let time_namespace = namespace("time").unwrap_or_default();
        Some(Self { hostname, boot, pid_namespace: namespace("pid")?, time_namespace, started })
    }

    /// Tells, from where this process is, what became of another.
    pub fn fate_of(&self, pid: i64, other: &Self) -> Fate {
        let is_here = self.hostname == other.hostname
            && self.boot == other.boot
            && self.pid_namespace == other.pid_namespace
            && self.time_namespace == other.time_namespace;
        let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0).and_then(Pid::from_raw);
        let (true, Some(pid)) = (is_here, pid) else { return Fate::Unknown };
        // A signal that is not sent finds those too that /proc hides.
        if test_kill_process(pid) == Err(Errno::SRCH) {
            return Fate::Gone;
        }
        match stat(pid.as_raw_nonzero().get().unsigned_abs()) {
            None => Fate::Unknown,
            Some(found) if found.started != other.started || found.has_ended() => Fate::Gone,
            Some(_) => Fate::Lives,
        }
    }
}

impl Stat {
    /// Tells whether nothing is left of it but its exit status, which nobody has asked for. Its first thread
    /// may have ended before the others.
    fn has_ended(self) -> bool {
        matches!(self.state, 'Z' | 'X') && self.threads <= 1
    }

    /// The name in parentheses may hold anything.
    fn parse(stat: &str) -> Option<Self> {
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        Some(Self {
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            threads: fields.get(17)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }
}

/// Returns what `/proc` says of a process; `None` where it says nothing.
pub(crate) fn stat(pid: u32) -> Option<Stat> {
    Stat::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Identity {
        Identity::of_this_process().expect("this system tells")
    }

    fn own_pid() -> i64 {
        i64::from(std::process::id())
    }

    #[test]
    fn this_process_lives_and_one_that_had_its_number_before_is_gone() {
        assert_eq!(here().fate_of(own_pid(), &here()), Fate::Lives);
        let before = Identity { started: here().started - 1, ..here() };
        assert_eq!(here().fate_of(own_pid(), &before), Fate::Gone);
    }

    #[test]
    fn of_another_boot_or_container_or_clock_nothing_is_said() {
        let gone = i64::from(i32::MAX);
        assert_eq!(here().fate_of(gone, &here()), Fate::Gone);
        for elsewhere in [
            Identity { hostname: "another".to_owned(), ..here() },
            Identity { boot: "another".to_owned(), ..here() },
            Identity { pid_namespace: "pid:[1]".to_owned(), ..here() },
            Identity { time_namespace: "time:[1]".to_owned(), ..here() },
            Identity::default(),
        ] {
            assert_eq!(here().fate_of(gone, &elsewhere), Fate::Unknown, "{elsewhere:?}");
        }
        for no_number in [0, -1, i64::MIN, i64::MAX] {
            assert_eq!(here().fate_of(no_number, &here()), Fate::Unknown);
        }
    }

    #[test]
    fn a_process_that_has_ended_is_gone_even_before_it_is_waited_for() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let identity = Identity { started: stat(child.id()).unwrap().started, ..here() };
        let pid = i64::from(child.id());
        let fate = || here().fate_of(pid, &identity);
        assert_eq!(fate(), Fate::Lives);
        child.kill().unwrap();
        while fate() != Fate::Gone {
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }

    #[test]
    fn a_name_with_parentheses_and_spaces_hides_nothing() {
        let rest = "S 77 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        let stat = Stat { state: 'S', parent: 77, threads: 17, started: 4711 };
        assert_eq!(Stat::parse(&format!("12 (a) R (b) {rest}")), Some(stat));
        assert_eq!(Stat::parse("12 (a) S 1 2"), None);
        assert!(Stat { state: 'Z', threads: 1, ..stat }.has_ended());
        assert!(!Stat { state: 'Z', threads: 3, ..stat }.has_ended(), "its other threads go on");
    }
}
