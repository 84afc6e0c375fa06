//! What a process has used.

use std::fs;

/// `USER_HZ` of Linux on every architecture this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process' CPU time so far, in seconds.
pub fn seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // After the name, which may hold anything: utime and stime are fields 14 and 15 of proc(5).
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11..13].iter().map(|n| n.parse::<f64>().unwrap()).sum::<f64>() / TICKS_PER_SECOND
}

/// A process and those it has started, in their own processes.
pub fn family(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    std::iter::once(pid).chain(children.split_whitespace().map(|pid| pid.parse().unwrap())).collect()
}

/// Its memory, in KiB.
pub fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
