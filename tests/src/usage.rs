//! What a process needs of the machine, as the kernel counts it.

use std::fs;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a process has in RAM.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Memory {
    /// Now, in KiB (VmRSS).
    pub now_kib: u64,
    /// At its highest, in KiB (VmHWM).
    pub peak_kib: u64,
}

/// The memory of a process, by its id or `self`; nothing once it has ended.
pub fn memory(process: &str) -> Option<Memory> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    Some(Memory {
        now_kib: field(&status, "VmRSS")?,
        peak_kib: field(&status, "VmHWM")?,
    })
}

/// CPU time that all threads of a process have had, the kernel's work for them
/// included; nothing once it has ended. It is counted in hundredths of a second.
pub fn cpu(process: &str) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let ticks = ticks(&stat)?;
    Some(Duration::from_secs(ticks).div_f64(rustix::param::clock_ticks_per_second() as f64))
}

/// The processes of a process group, by the group's id: what [`Process`] starts is one.
///
/// [`Process`]: crate::process::Process
pub fn group(id: u32) -> Vec<String> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|process| process.file_name().into_string().ok())
        .filter(|process| {
            let stat = fs::read_to_string(format!("/proc/{process}/stat"));
            stat.ok().and_then(|stat| group_of(&stat)) == Some(id)
        })
        .collect()
}

/// The process group in the kernel's `stat` of a process.
fn group_of(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(2)?.parse().ok()
}

/// User and system time of a process in the kernel's `stat`, in clock ticks.
fn ticks(stat: &str) -> Option<u64> {
    // The name before may hold spaces and parentheses.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// The number of a field in the kernel's `status` of a process.
pub fn field(status: &str, name: &str) -> Option<u64> {
    status
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(found, _)| *found == name)?
        .1
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Program;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let status =
            "nonvoluntary_ctxt_switches:\t7\nvoluntary_ctxt_switches:\t5\nVmRSS:\t  12 kB\n";
        assert_eq!(field(status, "voluntary_ctxt_switches"), Some(5));
        assert_eq!(field(status, "VmRSS"), Some(12));
        assert_eq!(field(status, "VmHWM"), None);
    }

    #[test]
    fn both_times_are_counted_whatever_the_process_is_called() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 0 0 0 120 30 0 0 20 0 4 0 1 2 3";
        assert_eq!(ticks(stat), Some(150));
        assert_eq!(ticks("7 (a) S 1"), None);
    }

    #[test]
    fn the_processes_of_a_group_are_found() {
        let script = "sleep 60 & echo started; wait";
        let process = Program::new("sh").args(["-c", script]).start().unwrap();
        let members = || group(process.id());
        while members().len() < 2 {
            assert_eq!(process.status(), None);
        }
        assert!(members().contains(&process.id().to_string()));
        let own = std::process::id().to_string();
        assert!(!members().contains(&own));
    }

    #[test]
    fn a_process_that_works_uses_more_and_more() {
        let before = cpu("self").unwrap();
        let mut sum = 0_u64;
        while cpu("self").unwrap() == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(memory("self").unwrap().peak_kib > 0);
    }
}
