//! What the good ones notice while strangers flood the node: 200 calls with audio, 20 calls a second and 2,000 phones that refresh,
//! beside RATE datagrams a second (60,000) for SECONDS (60) from 1, 1,000 and 100,000 forged sources; beside strangers who hoard
//! connections or guess; and beside one stolen account that takes memory, ports or disk.
//!
//! `cargo bench --bench flood [-- options invite register garbage mixed connections api guesses headers ringing numbers]`,
//! SOURCES=1,1000,100000; needs two CPUs and taskset. The
//! engine is on CPU 0, PHLEM and the flood on CPU 1, side and keeper on both. No prefix is trusted. All sources are in 127.0.0.0/8, and each
//! datagram names its own (IP_PKTINFO), so that one socket hears whatever goes back to any of them. The phones register over TCP first: a
//! place where phones are is not a stranger's.
#![allow(unreachable_pub, reason = "a binary of its own")]
#![allow(clippy::disallowed_methods, reason = "it measures time")]
#![allow(clippy::print_stdout, reason = "it prints its figures")]

mod account;
mod connections;
#[path = "../sip/cpu.rs"]
#[allow(dead_code, reason = "shared with the bench of SIP, which needs more of it")]
mod cpu;
mod flood;
#[path = "../phlem/process.rs"]
#[allow(dead_code, reason = "shared with the bench of PHLEM, which needs more of it")]
mod process;
#[path = "../phlem/recorded.rs"]
#[allow(dead_code, reason = "shared with the bench of PHLEM, which needs more of it")]
mod recorded;

use std::time::Duration;

use account::Account;
use account::Greed;
use cpu::Reading;
use cpu::resident_bytes;
use flood::Flood;
use flood::Kind;
use flood::Sent;
use process::Run;
use process::Server;
use process::phlem;
use rustix::process::Resource;
use rustix::process::Rlimit;

const PHONES: usize = 2_800;

/// What goes on beside the good ones.
#[derive(Clone, Copy)]
enum Attack {
    Flood(Kind, usize),
    /// Connections that were held at the end count as answers.
    Connections(fn(Duration) -> Sent),
    Account(Greed),
}

impl Attack {
    const OTHERS: [(&str, Self); 6] = [
        ("connections", Self::Connections(connections::hoard_sip)),
        ("api", Self::Connections(connections::hoard_api)),
        ("guesses", Self::Connections(connections::guess)),
        ("headers", Self::Account(Greed::Headers)),
        ("ringing", Self::Account(Greed::Ringing)),
        ("numbers", Self::Account(Greed::Numbers)),
    ];

    fn run(self, time: Duration) -> Sent {
        match self {
            Self::Flood(kind, sources) => Flood::new(kind, sources).run(setting("RATE", 60_000), time),
            Self::Connections(run) => run(time),
            Self::Account(greed) => Account::open().run(greed, time),
        }
    }
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|word| word == name);
    let kinds = Kind::ALL.into_iter().filter(|kind| is_wanted(kind.name()));
    let sources = std::env::var("SOURCES").unwrap_or_else(|_| "1,1000,100000".to_owned());
    let sources: Vec<usize> = sources.split(',').filter_map(|text| text.trim().parse().ok()).collect();
    cpu::pin(0, process::GENERATOR_CPU);
    print("nothing", 0, &run(None));
    for kind in kinds {
        for &sources in &sources {
            print(kind.name(), sources, &run(Some(Attack::Flood(kind, sources))));
        }
    }
    for (name, attack) in Attack::OTHERS {
        if is_wanted(name) {
            print(name, 1, &run(Some(attack)));
        }
    }
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Named for the benches that share the scenarios' files.
fn calling(phones: usize, rate: usize, concurrent: usize, talk: &str, seconds: usize, media: bool) -> String {
    format!(
        "name = \"calls\"\nduration = \"{seconds}s\"\nramp = \"4s\"\nwind_down = \"1s\"\n\
         [[population]]\nusers = \"u0-u{}\"\npassword = \"p\"\ndomain = \"bench.test\"\nexpires = \"10m\"\nanswer = \"0ms\"\n\
         [[calls]]\nrate = {rate}.0\nconcurrent_max = {concurrent}\ntalk = \"{talk}\"\nmedia = {media}\ncallee_ends = 0.0\n",
        phones - 1
    )
}

/// All phones over TCP, to be known.
fn introduction() -> String {
    format!(
        "name = \"introduction\"\nduration = \"1s\"\nramp = \"5s\"\nwind_down = \"100ms\"\nunregister = false\n[[population]]\n\
         users = \"u0-u{}\"\npassword = \"p\"\ndomain = \"bench.test\"\ntransport = \"tcp\"\nexpires = \"10m\"\n",
        PHONES - 1
    )
}

fn good(seconds: usize) -> String {
    let population = |name: &str, from: usize, to: usize, expires: &str| {
        format!(
            "[[population]]\nname = \"{name}\"\nusers = \"u{from}-u{to}\"\npassword = \"p\"\ndomain = \"bench.test\"\nexpires = \"{expires}\"\n\
             answer = \"0ms\"\n"
        )
    };
    format!(
        "name = \"good\"\nduration = \"{seconds}s\"\nramp = \"10s\"\nwind_down = \"3s\"\n{}{}{}\
         [[calls]]\nfrom = \"talkers\"\nto = \"talkers\"\nrate = 50.0\nconcurrent_max = 200\ntalk = \"10m\"\ncallee_ends = 0.0\n\
         [[calls]]\nfrom = \"callers\"\nto = \"callers\"\nrate = 20.0\ntalk = \"1s\"\nmedia = false\ncallee_ends = 0.0\n",
        population("talkers", 0, 599, "10m"),
        population("callers", 600, 799, "10m"),
        population("refreshers", 800, PHONES - 1, "60s"),
    )
}

struct Outcome {
    run: Run,
    sent: Sent,
    resident: [u64; 3],
    busy: f64,
}

fn run(attack: Option<Attack>) -> Outcome {
    raise_open_files();
    let server = Server::exposed(PHONES + 1);
    let seconds = setting("SECONDS", 60);
    phlem(&introduction(), &[]);
    let engine = server.engine();
    let before = resident_bytes(engine);
    let reading = Reading::take(0, &[]);
    let (run, sent, during) = std::thread::scope(|scope| {
        let flooding = scope.spawn(move || {
            // The phones have registered and the 200 calls are up by then.
            std::thread::sleep(Duration::from_secs(18));
            let sent = attack.map(|attack| attack.run(Duration::from_secs(seconds as u64)));
            (sent.unwrap_or_default(), resident_bytes(engine))
        });
        let run = phlem(&good(seconds + 12), &[]);
        let (sent, during) = flooding.join().expect("the flood ends");
        (run, sent, during)
    });
    let spent = Reading::take(0, &[]).since(&reading);
    let after = resident_bytes(engine);
    Outcome { run, sent, resident: [before, during, after], busy: spent.busy / spent.wall }
}

/// The attacker runs in this process.
fn raise_open_files() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let _ = rustix::process::setrlimit(Resource::Nofile, raised);
}

fn print(kind: &str, sources: usize, outcome: &Outcome) {
    let Outcome { run, sent, resident, busy } = outcome;
    let (calls, good) = (run.count("calls"), run.count("calls_good"));
    println!(
        "{kind} from {sources}: {} datagrams, {} bytes in, {} answers, {} bytes out, ratio {:.3} | {} of {} RTP frames lost, {} left out by PHLEM | \
         {good} of {calls} calls good, set-up p50 {:.1} ms, p99 {:.1} ms, register p99 {:.1} ms, {} of {} phones at the start | RSS {} / {} / {} MB | CPU 0 busy {:.0} %",
        sent.datagrams,
        sent.bytes,
        sent.answers,
        sent.answer_bytes,
        sent.answer_bytes as f64 / sent.bytes.max(1) as f64,
        run.media("lost"),
        run.media("sent"),
        run.media("skipped"),
        run.millis("setup_delay_ms", "p50"),
        run.millis("setup_delay_ms", "p99"),
        run.millis("register_delay_ms", "p99"),
        run.count("registered_at_start"),
        run.count("phones"),
        resident[0] >> 20,
        resident[1] >> 20,
        resident[2] >> 20,
        100.0 * busy,
    );
    if good < calls {
        println!("  errors: {}", run.json["figures"]["errors"]);
    }
}
