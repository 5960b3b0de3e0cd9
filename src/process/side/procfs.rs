//! What the kernel counts for one process, from /proc (proc(5)): for `process_*` of the metrics, of every process of the node.

use std::fs;
use std::time::Duration;

/// The kernel tells times in hundredths of a second, whatever its own tick is.
const TICKS_PER_SECOND: u64 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) cpu: Duration,
    pub(super) virtual_bytes: u64,
    pub(super) resident_bytes: u64,
    pub(super) threads: u64,
    pub(super) open_fds: u64,
    /// Zero where the limit is none.
    pub(super) max_fds: u64,
    pub(super) started_at_secs: u64,
}

/// `None` if the process is gone or not ours to look at.
pub(super) fn usage(pid: u32) -> Option<Usage> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
    let stat = read("stat")?;
    // The name of the process, in brackets, may hold anything; fields are counted from the state, which is the third.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let kilobytes = |name: &str| {
        let status = read("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    let boot: u64 =
        fs::read_to_string("/proc/stat").ok()?.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()?;
    let limits = read("limits")?;
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    Some(Usage {
        cpu: Duration::from_millis((field(14)? + field(15)?) * 1_000 / TICKS_PER_SECOND),
        virtual_bytes: field(23)?,
        resident_bytes: kilobytes("VmRSS:")? * 1_024,
        threads: field(20)?,
        // Since Linux 6.2 the size of the folder is the number of its entries: nothing is listed.
        open_fds: fs::metadata(format!("/proc/{pid}/fd")).ok()?.len(),
        max_fds: files.split_ascii_whitespace().next().and_then(|soft| soft.parse().ok()).unwrap_or(0),
        started_at_secs: boot + field(22)? / TICKS_PER_SECOND,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen_as_it_is() {
        let files: Vec<_> = (0..20).map(|_| fs::File::open("/proc/self/stat").unwrap()).collect();
        let seen = usage(std::process::id()).unwrap();
        assert!(seen.open_fds > files.len() as u64 && seen.open_fds <= seen.max_fds, "{seen:?}");
        assert!(seen.resident_bytes > 100_000 && seen.virtual_bytes > seen.resident_bytes, "{seen:?}");
        assert!(seen.threads >= 1, "{seen:?}");
        let now = crate::process::side::clock::now().secs();
        assert!((now - 24 * 3_600..=now + 2).contains(&seen.started_at_secs), "{seen:?} at {now}");
        assert_eq!(usage(u32::MAX), None);
    }
}
