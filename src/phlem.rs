//! `tipring phlem`: the phone emulator's command line.

use std::io::IsTerminal;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use clap::Subcommand;
use tipring::process::config;
use tipring::process::exit;
use tipring::process::phlem::figures::Figures;
use tipring::process::phlem::fleet;
use tipring::process::phlem::fleet::AgentOptions;
use tipring::process::phlem::fleet::FleetError;
use tipring::process::phlem::fleet::LeadOptions;
use tipring::process::phlem::live::Live;
use tipring::process::phlem::media::Expected;
use tipring::process::phlem::media::FrameReport;
use tipring::process::phlem::media::check_recording;
use tipring::process::phlem::null::Deaf;
use tipring::process::phlem::null::NullServer;
use tipring::process::phlem::report;
use tipring::process::phlem::report::History;
use tipring::process::phlem::run::Elapsed;
use tipring::process::phlem::run::PhlemError;
use tipring::process::phlem::run::RunOptions;
use tipring::process::phlem::run::Summary;
use tipring::process::phlem::run::run;
use tipring::process::phlem::scenario::Scenario;
use tipring::process::phlem::scenario::ready;

use crate::complain;
use crate::say;

#[derive(Subcommand)]
pub(crate) enum PhlemCli {
    /// Run a scenario: phones register, call, talk and are counted; exit 1 if an expectation is not met
    Run(Box<RunArgs>),
    /// Take part in runs of a fleet: runs its share of whatever `phlem run --nats` deals out
    Agent(AgentArgs),
    /// Serve SIP as little as can be, so that an emulator alone can be measured: takes any credentials, keeps no promises
    Null {
        /// The UDP address to serve
        #[arg(long, default_value = "127.0.0.1:5060")]
        listen: SocketAddr,
        /// This party's audio goes nowhere: shows what a scenario makes of one-way audio
        #[arg(long, value_enum)]
        deaf: Option<Party>,
    },
    /// Name the scenarios that come with the program, or print one to start a file of your own from
    Scenarios {
        /// Print this one
        name: Option<String>,
    },
    /// Read stereo recordings of emulated calls, WAV of 8000 samples a second: names every frame that is missing, double, misplaced or
    /// another's; exit 1 if one is
    Check {
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Party {
    Caller,
    Callee,
}

#[derive(Args)]
pub(crate) struct RunArgs {
    /// A scenario by name (see `tipring phlem scenarios`), or a TOML file
    scenario: String,
    /// The SIP server to test, host:port, instead of the scenario's
    #[arg(long)]
    server: Option<String>,
    /// The same seed gives the same phones, delays and calls
    #[arg(long)]
    seed: Option<u64>,
    /// The address that phones bind to; default: the one from which the server is reached
    #[arg(long)]
    local: Option<IpAddr>,
    /// CPUs to run on, a thread each, such as "0,2-5"; default: one thread for few phones, else all
    #[arg(long, value_parser = parse_cpus)]
    cpus: Option<Cpus>,
    /// Write what every leg heard as WAV files into this folder
    #[arg(long)]
    record: Option<PathBuf>,
    /// Calls begin for so long instead of the scenario's duration; what happens to phones moves with it
    #[arg(long, value_name = "TIME", value_parser = config::parse_duration)]
    duration: Option<Duration>,
    /// Measure first, in half a minute, what the emulator can do by itself on these CPUs
    #[arg(long)]
    ceiling: bool,
    #[command(flatten)]
    reports: Reports,
    #[command(flatten)]
    fleet: FleetArgs,
}

/// A run on many machines; without --nats this one is all there is.
#[derive(Args)]
struct FleetArgs {
    /// Run on the agents that this NATS server knows, such as nats://10.0.0.1:4222
    #[arg(long, conflicts_with_all = ["local", "cpus", "record", "ceiling"])]
    nats: Option<String>,
    /// Which fleet, where several share a NATS server
    #[arg(long, default_value = fleet::FLEET)]
    fleet: String,
    /// How many agents have to take part; default: all that answer in time
    #[arg(long, requires = "nats")]
    agents: Option<usize>,
    /// How long agents may take to answer
    #[arg(long, default_value = "3s", value_parser = config::parse_duration)]
    wait: Duration,
}

#[derive(Args)]
pub(crate) struct AgentArgs {
    /// The NATS server of the fleet
    #[arg(long)]
    nats: String,
    /// Which fleet, where several share a NATS server
    #[arg(long, default_value = fleet::FLEET)]
    fleet: String,
    /// Unique in the fleet; default: the host's name
    #[arg(long)]
    id: Option<String>,
    /// Its part of a run against the other agents'; default: its CPUs
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    capacity: Option<u32>,
    /// The address that phones bind to; default: the one from which the server is reached
    #[arg(long)]
    local: Option<IpAddr>,
    /// CPUs to run on, a thread each, such as "0,2-5"
    #[arg(long, value_parser = parse_cpus)]
    cpus: Option<Cpus>,
}

#[derive(Args)]
struct Reports {
    /// Write figures and course of the run as JSON into this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write a report with plots into this file: HTML that needs nothing else
    #[arg(long)]
    report: Option<PathBuf>,
}

/// CPUs of a list; a type of its own so that the option is one value.
#[derive(Clone)]
struct Cpus(Vec<usize>);

fn parse_cpus(text: &str) -> Result<Cpus, String> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| format!("\"{part}\" is no CPU or range"));
        cpus.extend(number(from)?..=number(to)?);
    }
    if cpus.is_empty() || cpus.len() > 64 { Err(format!("\"{text}\" is not 1 to 64 CPUs")) } else { Ok(Cpus(cpus)) }
}

/// Returns the exit code.
pub(crate) fn main(cli: PhlemCli) -> u8 {
    match cli {
        PhlemCli::Run(args) => run_scenario(*args),
        PhlemCli::Agent(args) => serve_fleet(args),
        PhlemCli::Null { listen, deaf } => serve_null(listen, deaf),
        PhlemCli::Check { files } => files.iter().map(|file| check(file)).max().unwrap_or(0),
        PhlemCli::Scenarios { name: None } => {
            for (name, text) in ready::READY {
                let description = Scenario::parse(name, text).map(|scenario| scenario.description).unwrap_or_default();
                say(&format!("{name:20} {description}\n"));
            }
            0
        }
        PhlemCli::Scenarios { name: Some(name) } => match ready::text(&name) {
            Some(text) => {
                say(text);
                0
            }
            None => {
                complain(&format!("tipring: there is no scenario \"{name}\"; tipring phlem scenarios names them\n"));
                exit::USAGE
            }
        },
    }
}

fn check(file: &Path) -> u8 {
    let read = std::fs::read(file).map_err(|error| error.to_string());
    let report = match read.and_then(|wav| check_recording(&wav, Expected::default()).map_err(|bad| bad.to_string())) {
        Ok(report) => report,
        Err(error) => {
            complain(&format!("tipring: {}: {error}\n", file.display()));
            return exit::USAGE;
        }
    };
    let mut text = format!("{}: call {}\n", file.display(), report.call.unwrap_or_default());
    for (name, party) in [("caller", &report.caller), ("callee", &report.callee)] {
        let FrameReport { frames, missing, doubled, misplaced, wrong_call, damaged, corrections, .. } = party;
        text += &format!(
            "  {name}: {frames} frames, {missing} missing, {doubled} double, {misplaced} misplaced, {wrong_call} of others, \
             {damaged} damaged, {corrections} samples corrected\n"
        );
        party.faults.iter().for_each(|(sample, fault)| text += &format!("    at {} ms: {fault}\n", sample / 8));
    }
    text += &format!("  what was said at one time lies at most {:.1} ms apart\n", report.apart() as f64 / 1e6);
    say(&text);
    u8::from(!report.is_whole())
}

fn load(name: &str) -> Result<Scenario, (u8, String)> {
    let text = match ready::text(name) {
        Some(text) => text.to_owned(),
        None => std::fs::read_to_string(name).map_err(|error| {
            (exit::USAGE, format!("{name}: {error}; it is no file and no scenario that comes with the program"))
        })?,
    };
    Scenario::parse(name, &text).map_err(|fault| (exit::CONFIG, fault.to_string()))
}

fn run_scenario(args: RunArgs) -> u8 {
    let mut scenario = match load(&args.scenario) {
        Ok(scenario) => scenario,
        Err((code, line)) => {
            complain(&format!("tipring: {line}\n"));
            return code;
        }
    };
    if let Some(duration) = args.duration {
        scenario.last(duration);
    }
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signal(&stop);
    let description = scenario.description.clone();
    let mut history = History::default();
    let mut live = Live::new(std::io::stdout(), std::io::stdout().is_terminal(), &scenario.name);
    let on_figures = |figures: &Figures, elapsed: Elapsed| {
        live.show(figures, elapsed);
        history.add(figures, elapsed);
    };
    let outcome = match args.fleet.nats {
        Some(nats) => {
            let FleetArgs { fleet, agents, wait, .. } = args.fleet;
            let options = LeadOptions { nats, fleet, agents, wait, server: args.server, seed: args.seed, stop };
            fleet::lead(scenario, options, on_figures).map_err(|error| (code_of_fleet(&error), error.to_string()))
        }
        None => {
            let options = RunOptions {
                server: args.server,
                seed: args.seed,
                local: args.local,
                cpus: args.cpus.map(|cpus| cpus.0).unwrap_or_default(),
                record: args.record,
                ceiling: args.ceiling,
                stop,
                ..RunOptions::default()
            };
            run(scenario, options, on_figures).map_err(|error| (code_of(&error), error.to_string()))
        }
    };
    match outcome {
        Ok(summary) => conclude(&summary, &history, &description, &args.reports),
        Err((code, line)) => {
            complain(&format!("tipring: {line}\n"));
            code
        }
    }
}

fn serve_null(listen: SocketAddr, deaf: Option<Party>) -> u8 {
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signal(&stop);
    let deaf = deaf.map(|party| match party {
        Party::Caller => Deaf::Caller,
        Party::Callee => Deaf::Callee,
    });
    match NullServer::start_deaf(listen, deaf) {
        Ok(server) => {
            say(&format!("phlem: the null server is at {}\n", server.address()));
            server.wait(&stop);
            0
        }
        Err(error) => {
            complain(&format!("tipring: {listen}: {error}\n"));
            exit::OTHER
        }
    }
}

fn serve_fleet(args: AgentArgs) -> u8 {
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signal(&stop);
    let host = rustix::system::uname().nodename().to_string_lossy().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32);
    let options = AgentOptions {
        nats: args.nats,
        fleet: args.fleet,
        id: args.id.unwrap_or(host),
        capacity: args.capacity.unwrap_or(cpus),
        cpus: args.cpus.map(|cpus| cpus.0).unwrap_or_default(),
        local: args.local,
        stop,
    };
    match fleet::agent(options, |line| say(&format!("phlem: {line}\n"))) {
        Ok(()) => 0,
        Err(error) => {
            complain(&format!("tipring: {error}\n"));
            code_of_fleet(&error)
        }
    }
}

fn code_of_fleet(error: &FleetError) -> u8 {
    match error {
        FleetError::Scenario(_) => exit::CONFIG,
        FleetError::Name(_) => exit::USAGE,
        _ => exit::OTHER,
    }
}

fn code_of(error: &PhlemError) -> u8 {
    match error {
        PhlemError::Scenario(_) | PhlemError::Speech(..) => exit::CONFIG,
        PhlemError::Forbidden(_) => exit::FORBIDDEN,
        PhlemError::Server(..) | PhlemError::Os(..) | PhlemError::Died => exit::OTHER,
    }
}

/// INT and TERM end the run in good order; a second one at once.
pub(crate) fn stop_on_signal(stop: &Arc<AtomicBool>) {
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // Fails only for signals that may not be caught.
        let _ = signal_hook::flag::register_conditional_shutdown(signal, i32::from(exit::OTHER), Arc::clone(stop));
        let _ = signal_hook::flag::register(signal, Arc::clone(stop));
    }
}

/// Prints the summary, writes the reports that were asked for; 1 if an expectation is not met.
fn conclude(summary: &Summary, history: &History, description: &str, reports: &Reports) -> u8 {
    say(&report::summary(summary));
    let json = || serde_json::to_string_pretty(&report::json(summary, history)).unwrap_or_default();
    let html = || report::html(summary, history, description);
    for (file, text) in [(&reports.json, &json as &dyn Fn() -> String), (&reports.report, &html)] {
        let Some(file) = file else { continue };
        if let Err(error) = std::fs::write(file, text()) {
            complain(&format!("tipring: {}: {error}\n", file.display()));
            return exit::OTHER;
        }
        say(&format!("  written            {}\n", file.display()));
    }
    if summary.is_met() { 0 } else { exit::OTHER }
}
