//! CPU time of a core and of threads, and the outcome of one run.

use std::fmt;
use std::fs;
use std::time::Duration;
use std::time::Instant;

use crate::Contender;
use crate::RELAY_CPU;
use crate::generator::Load;
use crate::generator::Seen;

pub(crate) struct Outcome {
    pub(crate) contender: Contender,
    pub(crate) rate: Option<u32>,
    seen: Seen,
    wall: Duration,
    busy: Duration,
    threads: Duration,
    /// Part of the core that was busy before the load: what disturbed.
    foreign: f64,
}

pub(crate) fn measure(
    contender: Contender,
    rate: Option<u32>,
    time: Duration,
    load: &mut Load,
    threads: &dyn Fn() -> Duration,
) -> Outcome {
    std::thread::sleep(Duration::from_millis(300));
    let (idle_from, idle_begin) = (busy(RELAY_CPU), Instant::now());
    std::thread::sleep(Duration::from_millis(700));
    let foreign = (busy(RELAY_CPU) - idle_from).as_secs_f64() / idle_begin.elapsed().as_secs_f64();
    // Latching, connecting, warm caches.
    load.run(rate, Duration::from_millis(700));
    let (busy_from, threads_from, begin) = (busy(RELAY_CPU), threads(), Instant::now());
    let seen = load.run(rate, time);
    let wall = begin.elapsed();
    Outcome {
        contender,
        rate,
        seen,
        wall,
        busy: busy(RELAY_CPU) - busy_from,
        threads: threads() - threads_from,
        foreign,
    }
}

impl Outcome {
    pub(crate) fn delivered_share(&self) -> f64 {
        self.seen.received as f64 / self.seen.sent as f64
    }

    /// Others had so little of the core that its idle time says something.
    pub(crate) fn is_calm(&self) -> bool {
        self.foreign < 0.05
    }

    pub(crate) fn cpu_nanos(&self) -> f64 {
        let own = self.busy.as_secs_f64() - self.foreign * self.wall.as_secs_f64();
        own * 1e9 / self.seen.received as f64
    }

    pub(crate) fn thread_nanos(&self) -> f64 {
        self.threads.as_secs_f64() * 1e9 / self.seen.received as f64
    }

    /// Microseconds.
    pub(crate) fn delay(&self, share: f64) -> f64 {
        self.seen.delay(share)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.rate.map_or_else(|| "max".to_owned(), |rate| rate.to_string());
        write!(
            f,
            "{:<17} {:>7} {:>7.0}/s {:>7.2}% {:>5.1}% {:>10.0} {:>10.0} {:>9.0} {:>9.0} {:>9.0} {:>6.1}%",
            format!("{:?}", self.contender),
            rate,
            self.seen.received as f64 / self.wall.as_secs_f64(),
            100.0 * self.delivered_share(),
            100.0 * self.busy.as_secs_f64() / self.wall.as_secs_f64(),
            self.cpu_nanos(),
            self.thread_nanos(),
            self.delay(0.5),
            self.delay(0.99),
            self.delay(0.999),
            100.0 * self.foreign,
        )
    }
}

/// Time that a CPU was neither idle nor waiting: the sampled columns of the kernel are of no use for a paced loop.
fn busy(cpu: usize) -> Duration {
    let stat = fs::read_to_string("/proc/stat").expect("/proc/stat");
    let name = format!("cpu{cpu} ");
    let line = stat.lines().find(|line| line.starts_with(&name)).expect("the CPU");
    let columns: Vec<u64> = line.split_whitespace().skip(1).map(|column| column.parse().expect("a number")).collect();
    let unused = Duration::from_millis(10 * (columns[3] + columns[4]));
    tipring::shard::clock::boottime().since(tipring::base::time::Instant::ZERO).saturating_sub(unused)
}

/// Exact CPU time of a process' threads whose names begin with `name`.
pub(crate) fn thread_time(process: &str, name: &str) -> Duration {
    let mut nanos = 0;
    for task in fs::read_dir(format!("/proc/{process}/task")).expect("tasks").flatten() {
        let comm = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if comm.starts_with(name) {
            let schedstat = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            nanos += schedstat.split_whitespace().next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Duration::from_nanos(nanos)
}

pub(crate) fn pin(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).expect("affinity");
}

/// Thousands of sockets are needed.
pub(crate) fn raise_limits() {
    use rustix::process::Resource;
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(Resource::Nofile, raised).expect("limit of open files");
}
