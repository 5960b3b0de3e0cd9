//! `tipring phlem`: the phone emulator's command line.

use std::io::IsTerminal;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use clap::Subcommand;
use tipring::process::exit;
use tipring::process::phlem::live::Live;
use tipring::process::phlem::report;
use tipring::process::phlem::report::History;
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
    /// Name the scenarios that come with the program, or print one to start a file of your own from
    Scenarios {
        /// Print this one
        name: Option<String>,
    },
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
    #[command(flatten)]
    reports: Reports,
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
    let scenario = match load(&args.scenario) {
        Ok(scenario) => scenario,
        Err((code, line)) => {
            complain(&format!("tipring: {line}\n"));
            return code;
        }
    };
    let options = RunOptions {
        server: args.server,
        seed: args.seed,
        local: args.local,
        cpus: args.cpus.map(|cpus| cpus.0).unwrap_or_default(),
        record: args.record,
        ..RunOptions::default()
    };
    stop_on_signal(&options.stop);
    let description = scenario.description.clone();
    let mut history = History::default();
    let mut live = Live::new(std::io::stdout(), std::io::stdout().is_terminal(), &scenario.name);
    let outcome = run(scenario, options, |figures, elapsed| {
        live.show(figures, elapsed);
        history.add(figures, elapsed);
    });
    match outcome {
        Ok(summary) => conclude(&summary, &history, &description, &args.reports),
        Err(error) => {
            complain(&format!("tipring: {error}\n"));
            code_of(&error)
        }
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
