//! SIP by the operation: CPU against Kamailio in the same run, memory per phone and call, TCP phones, an idle night.
//!
//! `cargo bench --bench sip -- register call memory tcp idle`, or `builds` (see there); needs two CPUs, taskset (util-linux), and for the
//! comparisons kamailio and kamailio-extra-modules. The server is on CPU 0, the generator and everything else on CPU 1. On
//! loopback each side's sends run the other's receive softirq.
#![allow(unreachable_pub, reason = "a binary of its own")]
#![allow(clippy::disallowed_methods, reason = "it measures time")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it prints its figures")]

mod builds;
mod cpu;
mod load;
mod relay;
mod target;
mod tcp;

use std::time::Duration;

use cpu::Reading;
use cpu::Spent;
use load::Generator;
use load::Kind;
use load::Load;
use load::first_registration;
use target::Target;

const USERS: usize = 10_000;
/// Where the phones of one server are.
const PHONES_NETWORK: u8 = 41;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let all: [(&str, fn()); 6] = [
        ("register", registers),
        ("call", calls),
        ("memory", memory),
        ("tcp", tcp_phones),
        ("idle", idle),
        ("builds", builds::compare),
    ];
    for (name, run) in all {
        if wanted.iter().any(|word| word == name) {
            println!("== {name}");
            run();
        }
    }
    if wanted.is_empty() {
        println!("one or more of: register call memory tcp idle builds");
    }
}

/// A number of the environment, to try other sizes.
fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// `RATES=1000,6000` measures at these instead.
fn rates(default: &[usize]) -> Vec<usize> {
    let wanted = std::env::var("RATES").unwrap_or_default();
    let wanted: Vec<usize> = wanted.split(',').filter_map(|rate| rate.parse().ok()).collect();
    if wanted.is_empty() { default.to_vec() } else { wanted }
}

fn idle_cost(target: &Target) -> Spent {
    let before = Reading::take(0, &target.processes);
    std::thread::sleep(Duration::from_secs(3));
    Reading::take(0, &target.processes).since(&before)
}

/// Runs the load and prints its line; µs per operation: of CPU 0 above idle, and of the server's threads there.
fn measure(target: &Target, generator: &mut Generator, load: &Load) -> (f64, f64) {
    let idle = idle_cost(target);
    let (before, others) = (Reading::take(0, &target.processes), Reading::take(1, &target.processes));
    let mut outcome = generator.run(load);
    let spent = Reading::take(0, &target.processes).since(&before);
    let others = Reading::take(1, &target.processes).since(&others);
    let per = |seconds: f64| seconds * 1e6 / outcome.done.max(1) as f64;
    let (cost, exact, beside) = (per(spent.above(&idle)), per(spent.threads), per(others.threads));
    let (p50, p99) = (outcome.percentile(50), outcome.percentile(99));
    println!(
        "{:9} {:6}/s asked: {} done, {} lost, {} refused | CPU {cost:.1} µs each, its threads {exact:.1}, on CPU 1 beside it {beside:.1} | \
         p50 {p50:.2} ms p99 {p99:.2} ms | CPU 0 busy {:.0} %, idle cost {:.1} % | generator's ceiling {:.0}/s",
        target.name,
        load.per_second,
        outcome.done,
        outcome.lost,
        outcome.refused,
        100.0 * spent.busy / spent.wall,
        100.0 * idle.busy / idle.wall,
        outcome.generator_ceiling(),
    );
    (cost, exact)
}

/// The same load at rising rates against both, in turn; the ratio of each pair.
fn compare(kind: Kind, config: &str, rates: &[usize], seconds: usize) {
    let mut costs = Vec::new();
    let names = std::env::var("ONLY").unwrap_or_else(|_| "kamailio tipring".to_owned());
    for name in names.split(' ') {
        let target = if name == "kamailio" { Target::kamailio(config, USERS) } else { Target::tipring(USERS, 1, "") };
        let mut generator = Generator::open(USERS, &target, PHONES_NETWORK);
        let registered = generator.run(&first_registration(USERS));
        println!("{name:9} {} of {USERS} phones registered, {} lost", registered.done, registered.lost);
        // Answers are kept for 32 s: until then a server's memory grows, which one that runs for days no longer does.
        let per_second = rates.iter().copied().max().unwrap_or(0);
        generator.run(&Load { kind, users: USERS, operations: per_second * setting("WARM_UP", 35), per_second });
        let own = rates.iter().map(|rate| {
            let load = Load { kind, users: USERS, operations: rate * seconds, per_second: *rate };
            measure(&target, &mut generator, &load)
        });
        costs.push(own.collect::<Vec<(f64, f64)>>());
    }
    if let [kamailio, tipring] = costs.as_slice() {
        for (rate, (ours, theirs)) in rates.iter().zip(tipring.iter().zip(kamailio)) {
            println!(
                "at {rate}/s: ratio of CPU 0 {:.2}, of the threads on it {:.2}",
                ours.0 / theirs.0,
                ours.1 / theirs.1
            );
        }
    }
}

fn registers() {
    compare(Kind::Register, "kamailio-register.cfg", &rates(&[1000, 3000, 6000, 9000]), setting("SECONDS", 10));
}

fn calls() {
    compare(Kind::Call, "kamailio-call.cfg", &rates(&[250, 500, 1000]), setting("SECONDS", 10));
}

struct Memory {
    resident: u64,
    kernel: u64,
}

impl Memory {
    fn of(target: &Target) -> Self {
        std::thread::sleep(Duration::from_secs(1));
        let resident = cpu::resident_bytes(target.processes[0]);
        Self { resident, kernel: cpu::kernel_bytes() }
    }

    fn print(&self, before: &Self, what: &str, count: usize) -> f64 {
        let per = |now: u64, then: u64| (now as f64 - then as f64) / count.max(1) as f64;
        let own = per(self.resident, before.resident);
        println!("{what}: {own:.0} bytes each of {count}, kernel beside it {:.0}", per(self.kernel, before.kernel));
        own
    }
}

fn memory() {
    let phones = setting("PHONES", 100_000);
    {
        let target = Target::tipring(phones, 1, "");
        let mut generator = Generator::open(phones, &target, PHONES_NETWORK);
        let before = Memory::of(&target);
        let outcome = generator.run(&first_registration(phones));
        std::thread::sleep(Duration::from_secs(40));
        Memory::of(&target).print(
            &before,
            "registered phone (binding and what is left of its registering)",
            outcome.done,
        );
        println!("engine in all: {} bytes for {phones} phones", Memory::of(&target).resident);
    }
    {
        const FEW: usize = 1_000;
        let target = Target::tipring(FEW, 1, "");
        let mut generator = Generator::open(FEW, &target, PHONES_NETWORK);
        generator.run(&first_registration(FEW));
        let before = Memory::of(&target);
        let load = Load { kind: Kind::Register, users: FEW, operations: 100_000, per_second: 4000 };
        let outcome = generator.run(&load);
        println!(
            "{} requests answered in {:.1} s, a response has {} bytes",
            outcome.done, outcome.seconds, outcome.response_bytes
        );
        let each = Memory::of(&target).print(&before, "lingering transaction with its response", outcome.done);
        println!("beside the bytes of its response: {:.0}", each - outcome.response_bytes as f64);
    }
    // Four ports a call: what a limit of 20,000 open files leaves.
    let calls = setting("CALLS", 4_500);
    let ports = format!("[media]\naddress = \"127.40.0.1\"\nports = \"20000-{}\"\n", 20_000 + 4 * calls + 999);
    let users = 2_000;
    let target = Target::tipring(users, 1, &ports);
    let mut generator = Generator::open(users, &target, PHONES_NETWORK);
    generator.run(&first_registration(users));
    std::thread::sleep(Duration::from_secs(40));
    let before = Memory::of(&target);
    let load = Load { kind: Kind::CallAndStay, users, operations: calls, per_second: 200 };
    let outcome = generator.run(&load);
    println!("{} calls up, {} refused, {} lost", outcome.done, outcome.refused, outcome.lost);
    std::thread::sleep(Duration::from_secs(40));
    Memory::of(&target).print(&before, "call", outcome.done);
}

fn idle() {
    for shards in [1, 2] {
        let target = Target::tipring(USERS, shards, "");
        let mut generator = Generator::open(USERS, &target, PHONES_NETWORK);
        let outcome = generator.run(&first_registration(USERS));
        std::thread::sleep(Duration::from_secs(45));
        let seconds = setting("SECONDS", 30);
        let engine = target.processes[0];
        let before = (Reading::take(0, &target.processes), cpu::wake_ups(engine, ""));
        std::thread::sleep(Duration::from_secs(seconds as u64));
        let spent = Reading::take(0, &target.processes).since(&before.0);
        let (threads, after) = cpu::wake_ups(engine, "");
        println!(
            "{} phones, {shards} shards: CPU 0 busy {:.2} %, its shards {:.2} % of a core, {:.1} wake-ups a second in all of its {threads} threads",
            outcome.done,
            100.0 * spent.busy / spent.wall,
            100.0 * spent.threads / spent.wall,
            (after - before.1.1) as f64 / spent.wall
        );
    }
}

/// Every phone a connection of its own; one call's packets meanwhile, to see whether they come later.
fn tcp_phones() {
    let phones = setting("PHONES", 15_000);
    let target = Target::tipring(phones + 2, 1, "[media]\naddress = \"127.40.0.1\"\nports = \"20000-20099\"\n");
    let mut call = relay::Call::set_up(phones);
    println!("one call, no connections: {}", call.lateness(20));
    let before = Memory::of(&target);
    let connections = tcp::connect(phones);
    let (own, alive) = (Memory::of(&target), connections.len());
    own.print(&before, "phone on TCP", alive);
    println!("one call, {alive} connections: {}", call.lateness(20));
    let idle = idle_cost(&target);
    println!("CPU 0 busy {:.1} % with them", 100.0 * idle.busy / idle.wall);
    let again = tcp::refresh(connections);
    println!("{again} of {alive} still answer");
}
