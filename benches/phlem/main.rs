//! PHLEM by itself and beside SIPp, and tipring under PHLEM.
//!
//! `cargo bench --bench phlem -- sipp audio ceiling tipring recorded`; needs two CPUs and taskset (util-linux),
//! sipp for the first, root for the last. What generates is on CPU 1 alone, the server on CPU 0. On loopback each side's sends run
//! the other's receive softirq, and wake it. CPU is the exact time of the whole process's threads. SECONDS and ROUNDS change how
//! long and how often, CALLS how many are recorded.
#![allow(unreachable_pub, reason = "a binary of its own")]
#![allow(clippy::disallowed_methods, reason = "it measures time")]
#![allow(clippy::print_stdout, reason = "it prints its figures")]

#[path = "../sip/cpu.rs"]
#[allow(dead_code, reason = "shared with the bench of SIP, which needs more of it")]
mod cpu;
#[allow(dead_code, reason = "shared with the bench of floods, which needs more of it")]
mod process;
mod recorded;

use cpu::Reading;
use process::Run;
use process::Server;
use process::phlem;
use process::server;
use process::sipp;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let all: [(&str, fn()); 5] = [
        ("sipp", beside_sipp),
        ("audio", audio),
        ("ceiling", ceiling),
        ("tipring", tipring),
        ("recorded", recorded::recorded),
    ];
    for (name, run) in all {
        if wanted.iter().any(|word| word == name) {
            println!("== {name}");
            run();
        }
    }
    if wanted.is_empty() {
        println!("one or more of: sipp audio ceiling tipring recorded");
    }
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Phones that register, with a challenge the first time, and twice again.
fn registering(phones: usize, ramp: usize, seconds: usize) -> String {
    format!(
        "name = \"register\"\nduration = \"{seconds}s\"\nramp = \"{ramp}s\"\nwind_down = \"100ms\"\nunregister = false\n\
         [[population]]\nusers = \"u0-u{}\"\npassword = \"p\"\ndomain = \"bench.test\"\nexpires = \"10s\"\n",
        phones - 1
    )
}

/// Calls that the server answers: what one end costs, and nothing of the other.
fn calling_out(rate: usize, seconds: usize) -> String {
    format!(
        "name = \"calls\"\nduration = \"{seconds}s\"\nramp = \"100ms\"\nwind_down = \"3s\"\n\
         [[population]]\nusers = \"u0-u{}\"\nregister = false\ndomain = \"bench.test\"\n\
         [[calls]]\nto = \"sip:answer@{}\"\nrate = {rate}.0\ntalk = \"500ms\"\nmedia = false\ncallee_ends = 0.0\n",
        rate * 3,
        server()
    )
}

/// Calls between registered phones.
fn calling(phones: usize, rate: usize, concurrent: usize, talk: &str, seconds: usize, media: bool) -> String {
    format!(
        "name = \"calls\"\nduration = \"{seconds}s\"\nramp = \"4s\"\nwind_down = \"1s\"\n\
         [[population]]\nusers = \"u0-u{}\"\npassword = \"p\"\ndomain = \"bench.test\"\nexpires = \"10m\"\nanswer = \"0ms\"\n\
         [[calls]]\nrate = {rate}.0\nconcurrent_max = {concurrent}\ntalk = \"{talk}\"\nmedia = {media}\ncallee_ends = 0.0\n",
        phones - 1
    )
}

fn beside_sipp() {
    let _server = Server::null();
    let seconds = setting("SECONDS", 5);
    for round in 1..=setting("ROUNDS", 2) {
        for rate in [500, 1_000, 2_000, 4_000] {
            let theirs = sipp("sipp-call.xml", rate, rate * seconds) * 1e6 / (rate * seconds) as f64;
            let run = phlem(&calling_out(rate, seconds), &[]);
            let calls = run.count("calls_good");
            let ours = run.cpu * 1e6 / calls.max(1) as f64;
            println!(
                "round {round}: calls {rate}/s: PHLEM {ours:.1} µs each of {calls}, SIPp {theirs:.1} µs, ratio {:.2}; answer after p50 {:.2} \
                 ms p99 {:.2} ms at PHLEM",
                ours / theirs,
                run.millis("setup_delay_ms", "p50"),
                run.millis("setup_delay_ms", "p99")
            );
        }
        for rate in [1_250, 2_500] {
            let phones = rate * 8;
            let theirs = sipp("sipp-register.xml", rate, phones) * 1e6 / phones as f64;
            let run = phlem(&registering(phones, 8, 16), &[]);
            // Of three registrations, as SIPp's phones do.
            let each = run.count("registrations").max(1) as f64;
            let ours = run.cpu * 1e6 / each * 3.0;
            println!(
                "round {round}: phones that register {rate}/s, then twice again: PHLEM {ours:.1} µs each of {phones}, SIPp {theirs:.1} µs, \
                 ratio {:.2}",
                ours / theirs
            );
        }
    }
}

fn print_audio(calls: usize, run: &Run) {
    println!(
        "{calls} calls: {} answered, {} frames sent, {} lost, {} missed at the start, {} left out, {} of another call | sent late p50 {:.2} ms \
         p99 {:.2} ms | one way p50 {:.2} ms p99 {:.2} ms | busiest {:.0} % of a CPU",
        run.count("calls_answered"),
        run.media("sent"),
        run.media("lost"),
        run.media("missed_at_start"),
        run.media("skipped"),
        run.media("wrong_call"),
        run.millis("send_lateness_ms", "p50"),
        run.millis("send_lateness_ms", "p99"),
        run.millis("one_way_ms", "p50"),
        run.millis("one_way_ms", "p99"),
        run.busiest()
    );
}

/// Both ends of each call, on one core; audio goes from phone to phone.
fn audio() {
    let _server = Server::null();
    for calls in [250, 500, 1_000, 1_250, 1_500] {
        let run = phlem(&calling(calls * 4, calls / 4, calls, "60s", setting("SECONDS", 12), true), &[]);
        print_audio(calls, &run);
    }
}

/// What the report says, and whether nine tenths of it can be had.
fn ceiling() {
    let run = phlem(&calling(40, 2, 20, "1s", 1, false), &["--ceiling"]);
    let ceiling = &run.json["ceiling"];
    println!("as the report has it, one thread: {ceiling}");
    let _server = Server::null();
    let part = |name: &str| (ceiling[name].as_f64().unwrap_or(0.0) * 0.9) as usize;
    let rate = part("calls_per_s");
    let run = phlem(&calling(rate * 4, rate, 60_000, "500ms", 4, false), &[]);
    println!(
        "nine tenths of the calls, {rate}/s: {} begun in 4 s, {} good, {} messages sent again, busiest {:.0} %",
        run.count("calls"),
        run.count("calls_good"),
        run.count("repeats_sent"),
        run.busiest()
    );
    let rate = part("registrations_per_s");
    let run = phlem(&registering(rate * 4, 4, 1), &[]);
    println!(
        "nine tenths of the registrations, {rate}/s: {} of {} within 4 s, {} messages sent again, busiest {:.0} %",
        run.count("registered_at_start"),
        run.count("phones"),
        run.count("repeats_sent"),
        run.busiest()
    );
}

const USERS: usize = 40_000;

/// Rising until something gives way: then what it was. Each level on a fresh node, free of the bindings of the one before.
fn tipring() {
    rise("registrations a second", &[2_000, 4_000, 6_000, 8_000, 10_000, 12_000, 14_000, 16_000], |rate| {
        let phones = (rate * 4).min(USERS);
        let _server = Server::tipring(phones);
        phlem(&registering(phones, phones.div_ceil(rate), 1), &[])
    });
    rise("calls a second, no audio", &[250, 500, 750, 1_000, 1_250, 1_500], |rate| {
        let _server = Server::tipring(rate * 4);
        phlem(&calling(rate * 4, rate, 60_000, "500ms", 6, false), &[])
    });
    rise("calls at once with audio", &[200, 400, 600, 700, 800, 900, 1_000, 1_200], |calls| {
        let _server = Server::tipring(calls * 4);
        phlem(&calling(calls * 4, calls / 4, calls, "60s", 14, true), &[])
    });
}

fn rise(what: &str, levels: &[usize], mut run: impl FnMut(usize) -> Run) {
    let mut held = 0;
    for level in levels {
        let before = Reading::take(0, &[]);
        let run = run(*level);
        let spent = Reading::take(0, &[]).since(&before);
        let limit = limit(&run);
        println!(
            "{level} {what}: {} | {} registrations, register p99 {:.1} ms, {} calls, {} good, set-up p99 {:.1} ms, {} sent again, {} frames sent, \
             {} lost, sent late p99 {:.2} ms, one way p99 {:.2} ms | CPU 0 busy {:.0} % in the mean, PHLEM's thread {:.0} % at most",
            limit.as_deref().unwrap_or("held"),
            run.count("registrations"),
            run.millis("register_delay_ms", "p99"),
            run.count("calls"),
            run.count("calls_good"),
            run.millis("setup_delay_ms", "p99"),
            run.count("repeats_sent"),
            run.media("sent"),
            run.media("lost"),
            run.millis("send_lateness_ms", "p99"),
            run.millis("one_way_ms", "p99"),
            100.0 * spent.busy / spent.wall,
            run.busiest()
        );
        if let Some(limit) = limit {
            println!("{what}: {held} held, {level} not: {limit}");
            return;
        }
        held = *level;
    }
    println!("{what}: all of these held, up to {held}");
}

/// What gave way.
fn limit(run: &Run) -> Option<String> {
    let (phones, registered) = (run.count("phones"), run.count("registered_at_start"));
    let (calls, good) = (run.count("calls"), run.count("calls_good"));
    let (sent, again) = (run.count("messages_sent"), run.count("repeats_sent"));
    let faults = [
        (registered < phones, format!("{registered} of {phones} phones were registered")),
        (good < calls, format!("{good} of {calls} calls were good: {}", run.json["figures"]["errors"])),
        (again * 200 > sent, format!("{again} messages of {sent} had to be sent again")),
        (run.media("lost") > 0, format!("{} frames were lost", run.media("lost"))),
        (run.media("silent") > 0, format!("{} legs heard nothing", run.media("silent"))),
        (run.media("skipped") > 0, format!("PHLEM itself left {} frames out", run.media("skipped"))),
    ];
    let found: Vec<_> = faults.into_iter().filter(|(is, _)| *is).map(|(_, text)| text).collect();
    (!found.is_empty()).then(|| found.join("; "))
}
