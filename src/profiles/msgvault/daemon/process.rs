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
    if let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        return match parse_stat(&stat) {
            // A process whose exit status nobody has asked for holds neither files nor locks.
            Some(('Z' | 'X', _)) => Process::Gone,
            Some((_, start_ticks)) => Process::Lives { started_at: milliseconds(start_ticks) },
            None => Process::Lives { started_at: None },
        };
    }
    // Where /proc hides the processes of others, a signal that is not sent still finds them.
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    match pid.map(test_kill_process) {
        None | Some(Err(Errno::SRCH)) => Process::Gone,
        Some(_) => Process::Lives { started_at: None },
    }
}

/// Returns the state and the start, in ticks since the machine's. The name in parentheses may hold anything.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let state = fields.first()?.chars().next()?;
    Some((state, fields.get(19)?.parse().ok()?))
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

    #[test]
    fn a_name_with_parentheses_and_spaces_hides_nothing() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(parse_stat(&format!("12 (a) R (b) {rest}")), Some(('S', 4711)));
        assert_eq!(parse_stat("12 (a) S 1 2"), None);
    }
}
