//! What work costs: the wall time of one CPU less its idle and iowait columns (an executor that sleeps in io_uring counts as
//! iowait), beside the exact time that the processes ran. Never user + system: ticks do not see a loop that timers pace.

use std::fs;
use std::time::Instant;

use rustix::process::Pid;
use rustix::thread::CpuSet;
use rustix::thread::sched_setaffinity;

/// A moment's readings of one CPU and some processes.
pub struct Reading {
    at: Instant,
    idle: f64,
    threads: f64,
}

impl Reading {
    pub fn take(cpu: usize, pids: &[i32]) -> Self {
        let threads = pids.iter().map(|pid| ran_seconds(*pid, cpu)).sum();
        Self { at: Instant::now(), idle: idle_seconds(cpu), threads }
    }

    pub fn since(&self, before: &Self) -> Spent {
        let wall = (self.at - before.at).as_secs_f64();
        Spent { wall, busy: wall - (self.idle - before.idle), threads: self.threads - before.threads }
    }
}

/// Seconds between two readings.
#[derive(Clone, Copy)]
pub struct Spent {
    pub wall: f64,
    /// The CPU was not idle.
    pub busy: f64,
    /// The processes' threads that are bound to that CPU ran.
    pub threads: f64,
}

impl Spent {
    /// Less what the CPU does when nothing is asked of it.
    pub fn above(&self, idle: &Self) -> f64 {
        self.busy - idle.busy * self.wall / idle.wall
    }
}

fn idle_seconds(cpu: usize) -> f64 {
    let text = fs::read_to_string("/proc/stat").expect("/proc/stat");
    let line = text.lines().find(|line| line.starts_with(&format!("cpu{cpu} "))).expect("that CPU");
    let columns: Vec<f64> = line.split_whitespace().skip(1).filter_map(|column| column.parse().ok()).collect();
    (columns[3] + columns[4]) / 100.0
}

/// Time on a CPU of all threads of a process that may run on no other, to the nanosecond.
pub fn ran_seconds(pid: i32, cpu: usize) -> f64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0.0 };
    let times = threads.filter_map(|thread| {
        let folder = thread.ok()?.path();
        let status = fs::read_to_string(folder.join("status")).ok()?;
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        if allowed.trim() != cpu.to_string() {
            return None;
        }
        let text = fs::read_to_string(folder.join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    times.sum::<f64>() / 1e9
}

/// Voluntary context switches of every thread whose name begins with `name`: (how many such threads, switches).
pub fn wake_ups(pid: i32, name: &str) -> (usize, u64) {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return (0, 0) };
    let counts = threads.filter_map(|thread| {
        let folder = thread.ok()?.path();
        let own = fs::read_to_string(folder.join("comm")).ok()?;
        let status = fs::read_to_string(folder.join("status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"))?;
        own.starts_with(name).then(|| line.split_whitespace().nth(1)?.parse::<u64>().ok())?
    });
    counts.fold((0, 0), |(threads, sum), count| (threads + 1, sum + count))
}

/// Resident bytes of our own: without shared file pages.
pub fn resident_bytes(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    field(&text, "RssAnon:") + field(&text, "RssShmem:")
}

/// Slab, page tables and socket buffers of the whole machine.
pub fn kernel_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    field(&text, "Slab:") + field(&text, "PageTables:") + socket_bytes()
}

fn socket_bytes() -> u64 {
    let text = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let pages = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word != "mem").skip(1);
        words.next()?.parse::<u64>().ok()
    });
    pages.sum::<u64>() * 4096
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Every thread of a process, or the calling thread (0), onto one CPU.
pub fn pin(pid: i32, cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    let ids = threads.filter_map(|thread| thread.ok()?.file_name().to_str()?.parse().ok());
    for id in if pid == 0 { vec![0] } else { ids.collect::<Vec<i32>>() } {
        let _ = sched_setaffinity(Pid::from_raw(id), &set);
    }
}
