//! A process and all that it has started, as long as they are below it.
//!
//! A program that is to end may have started others, which would go on without it. They are known by their numbers and
//! their starts, so that a number which is used again is nobody of the family. What has made itself nobody's child, as
//! a service does, is none either.

use std::collections::BTreeMap;
use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use super::{Stat, stat};

/// Generations that are looked for.
const GENERATIONS_MAX: usize = 100;

/// A process and those that it has started.
#[derive(Debug, Clone)]
pub struct Family(Vec<(u32, Stat)>);

impl Family {
    /// Returns the process of that number, which is a child of ours, and all below it; nobody where the system does not
    /// tell.
    pub fn of(pid: u32) -> Self {
        let everybody = everybody();
        let mut family: Vec<(u32, Stat)> = everybody.get(&pid).map(|stat| (pid, *stat)).into_iter().collect();
        let mut parents = vec![pid];
        for _ in 0..GENERATIONS_MAX {
            let children = everybody.iter().filter(|(_, stat)| parents.contains(&stat.parent));
            let children: Vec<(u32, Stat)> = children.map(|(pid, stat)| (*pid, *stat)).collect();
            if children.is_empty() {
                break;
            }
            parents = children.iter().map(|(pid, _)| *pid).collect();
            family.extend(children);
        }
        Self(family)
    }

    /// Returns how many they are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells whether it is nobody.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sends a signal to those that still live.
    pub fn send(&self, signal: Signal) {
        for pid in self.living() {
            // It may have ended just now.
            let _ = kill_process(pid, signal);
        }
    }

    /// Tells whether any of them still lives.
    pub fn lives(&self) -> bool {
        self.living().next().is_some()
    }

    fn living(&self) -> impl Iterator<Item = Pid> {
        let is_same = |pid: u32, before: &Stat| {
            stat(pid).is_some_and(|now| now.started == before.started && !now.has_ended())
        };
        let living = self.0.iter().filter(move |(pid, before)| is_same(*pid, before));
        living.filter_map(|(pid, _)| i32::try_from(*pid).ok().and_then(Pid::from_raw))
    }
}

fn everybody() -> BTreeMap<u32, Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, stat(pid)?))).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn whoever_is_below_is_of_the_family_and_a_number_that_is_used_again_is_not() {
        let mut child = Command::new("sh").args(["-c", "sh -c 'sleep 600; :' & wait"]).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        while Family::of(child.id()).len() < 3 && Instant::now() < deadline {
            std::thread::yield_now();
        }
        let family = Family::of(child.id());
        assert_eq!(family.len(), 3);
        let others = family.0.iter().map(|(pid, stat)| (*pid, Stat { started: stat.started + 1, ..*stat }));
        assert!(family.lives() && !Family(others.collect()).lives());
        family.send(Signal::KILL);
        child.wait().unwrap();
        while family.lives() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(!family.lives());
    }
}
