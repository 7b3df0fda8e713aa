//! Whether a process lives, and when it started, by `/proc`.

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

/// A process by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// There is none, or only its exit status is left.
    Gone,
    /// It lives.
    Lives {
        /// Its start in milliseconds since 1970, if this user may see it.
        started_at: Option<i64>,
    },
}

/// Looks at a process.
pub fn look(pid: u32) -> Process {
    if let Some(stat) = crate::process::stat(pid) {
        return match stat.state {
            // A process whose exit status nobody has asked for holds neither files nor locks.
            'Z' | 'X' => Process::Gone,
            _ => Process::Lives { started_at: milliseconds(stat.started) },
        };
    }
    // Where /proc hides the processes of others, a signal that is not sent still finds them.
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    match pid.map(test_kill_process) {
        None | Some(Err(Errno::SRCH)) => Process::Gone,
        Some(_) => Process::Lives { started_at: None },
    }
}

fn milliseconds(start_ticks: u64) -> Option<i64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: u64 = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    let ticks_per_second = rustix::param::clock_ticks_per_second().max(1);
    let since_boot = start_ticks.checked_mul(1000)? / ticks_per_second;
    i64::try_from(boot.checked_mul(1000)?.checked_add(since_boot)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_has_started_lately() {
        let Process::Lives { started_at: Some(started_at) } = look(std::process::id()) else {
            panic!("this process must live");
        };
        let now = jiff::Timestamp::now().as_millisecond();
        assert!((now - 24 * 3600 * 1000..now + 5000).contains(&started_at), "{started_at} {now}");
    }

    #[test]
    fn a_process_that_has_ended_is_gone_even_before_it_is_waited_for() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        while look(child.id()) != Process::Gone {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert_eq!(look(child.id()), Process::Gone);
        assert_eq!(look(u32::MAX), Process::Gone);
    }
}
