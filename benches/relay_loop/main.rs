//! CPU and delay of relaying RTP through real sockets: `cargo bench --bench relay_loop`, or `benches/relay_loop.sh`, which repeats it.
//!
//! The relay has CPU 0, the generator CPU 1; both must be otherwise idle. Contenders: the shard's loop with the media relay on the
//! ring, recording every packet if asked (`ring-tape`); the same on recvmmsg/sendmmsg/epoll; the floor, one socket with bare
//! recvmmsg and sendmmsg; rtpengine in user space, if installed, also writing pcap files. CPU per delivered packet is the wall time of CPU 0 minus its `idle` and `iowait`, less what it was before the load,
//! and beside it the exact time of the relay's threads. On loopback each side's sends run the other's receive softirq.
#![allow(unsafe_code, reason = "recvmmsg and sendmmsg")]
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a program that takes times and prints them")]

mod floor;
mod generator;
mod measure;
mod ours;
mod rtpengine;

use std::time::Duration;

use generator::Load;
use measure::Outcome;

/// Legs; each has a socket of the relay's.
const LEGS: usize = 4_000;
const RELAY_CPU: usize = 0;
const GENERATOR_CPU: usize = 1;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contender {
    Ring,
    RingUnconnected,
    Plain,
    /// Every packet of every leg goes to the tape, too.
    RingTape,
    Floor,
    Rtpengine,
    /// rtpengine with `--recording-method=pcap`, recording every call.
    RtpenginePcap,
}

struct Options {
    seconds: u64,
    rounds: usize,
    contenders: Vec<Contender>,
    rates: Vec<Option<u32>>,
    batch: u32,
    wait: Duration,
    hot: u16,
}

fn options() -> Options {
    let variable = |name: &str| std::env::var(format!("RELAY_{name}")).ok();
    let number = |name: &str, default: u64| variable(name).map_or(default, |text| text.parse().expect("a number"));
    let contenders = variable("CONTENDERS").unwrap_or_else(|| "ring,plain,floor,rtpengine".to_owned());
    let rates = variable("RATES").unwrap_or_else(|| "60000,100000,max".to_owned());
    Options {
        seconds: number("SECONDS", 4),
        rounds: number("ROUNDS", 1) as usize,
        contenders: contenders
            .split(',')
            .map(|name| match name {
                "ring" => Contender::Ring,
                "ring-unconnected" => Contender::RingUnconnected,
                "plain" => Contender::Plain,
                "floor" => Contender::Floor,
                "ring-tape" => Contender::RingTape,
                "rtpengine" => Contender::Rtpengine,
                "rtpengine-pcap" => Contender::RtpenginePcap,
                other => panic!("no contender is called {other}"),
            })
            .collect(),
        rates: rates
            .split(',')
            .map(|rate| if rate == "max" { None } else { Some(rate.parse().expect("a rate")) })
            .collect(),
        batch: number("BATCH", 64) as u32,
        wait: Duration::from_micros(number("WAIT_US", 400)),
        hot: number("HOT", 1_024) as u16,
    }
}

fn main() {
    let options = options();
    measure::raise_limits();
    println!("load average before: {}", std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
    println!(
        "{:<17} {:>7} {:>9} {:>8} {:>6} {:>10} {:>10} {:>9} {:>9} {:>9} {:>7}",
        "contender",
        "rate",
        "delivered",
        "share",
        "busy",
        "ns/packet",
        "ns thread",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "foreign"
    );
    let mut outcomes = Vec::new();
    for _ in 0..options.rounds {
        for contender in &options.contenders {
            match contender {
                Contender::Ring | Contender::RingUnconnected | Contender::Plain | Contender::RingTape => {
                    ours::run(*contender, &options, &mut outcomes)
                }
                Contender::Floor => floor::run(&options, &mut outcomes),
                Contender::Rtpengine | Contender::RtpenginePcap => rtpengine::run(*contender, &options, &mut outcomes),
            }
        }
    }
    ratios(&options, &outcomes);
    recording_ratios(&options, &outcomes);
}

impl Options {
    /// Runs all rates against a relay that stands; `threads` says the CPU time of its threads so far.
    fn load(&self, contender: Contender, load: &mut Load, threads: &dyn Fn() -> Duration, outcomes: &mut Vec<Outcome>) {
        for rate in &self.rates {
            if contender == Contender::Floor && rate.is_some() {
                continue;
            }
            let outcome = measure::measure(contender, *rate, Duration::from_secs(self.seconds), load, threads);
            println!("{outcome}");
            outcomes.push(outcome);
        }
    }
}

/// The least disturbed of the rounds counts: noise only adds.
fn best(outcomes: &[Outcome], contender: Contender, rate: Option<u32>) -> Option<&Outcome> {
    outcomes
        .iter()
        .filter(|o| o.contender == contender && o.rate == rate)
        // Saturated, some loss is part of the thing.
        .filter(|o| o.delivered_share() >= if rate.is_some() { 0.999 } else { 0.97 })
        .min_by(|a, b| a.thread_nanos().total_cmp(&b.thread_nanos()))
}

/// What recording costs: against relaying alone, and against rtpengine that records.
fn recording_ratios(options: &Options, outcomes: &[Outcome]) {
    for rate in &options.rates {
        let Some(tape) = best(outcomes, Contender::RingTape, *rate) else { continue };
        let name = rate.map_or_else(|| "saturated".to_owned(), |rate| format!("{rate}/s"));
        for other in [Contender::Ring, Contender::RtpenginePcap] {
            if let Some(other) = best(outcomes, other, *rate) {
                let by_threads = tape.thread_nanos() / other.thread_nanos();
                let by_cpu = tape.cpu_nanos() / other.cpu_nanos();
                println!("{name}: ring-tape / {:?} = {by_cpu:.2} by CPU, {by_threads:.2} by threads", other.contender);
            }
        }
        println!("{name}: ring-tape delay p50 {:.0} us, p99 {:.0} us", tape.delay(0.5), tape.delay(0.99));
    }
}

fn ratios(options: &Options, outcomes: &[Outcome]) {
    println!();
    for rate in &options.rates {
        let Some(ring) = best(outcomes, Contender::Ring, *rate) else { continue };
        let name = rate.map_or_else(|| "saturated".to_owned(), |rate| format!("{rate}/s"));
        for other in [Contender::Rtpengine, Contender::Floor, Contender::Plain] {
            if let Some(other) = best(outcomes, other, *rate) {
                let by_threads = ring.thread_nanos() / other.thread_nanos();
                let calm = ring.is_calm() && other.is_calm();
                let by_cpu = ring.cpu_nanos() / other.cpu_nanos();
                let by_cpu = if calm { format!("{by_cpu:.2}") } else { "(CPU was not free)".to_owned() };
                println!("{name}: ring / {:?} = {by_cpu} by CPU, {by_threads:.2} by threads", other.contender);
            }
        }
        if rate.is_some() {
            println!("{name}: ring delay p50 {:.0} us, p99 {:.0} us", ring.delay(0.5), ring.delay(0.99));
        }
    }
}
