//! The command line.

mod ask;
mod demo;
#[cfg(test)]
mod pages;
mod phlem;
mod tape;
mod token;
mod tune;

use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use clap::Parser;
use clap::Subcommand;
use tipring::base::id::CallId;
use tipring::process::config;
use tipring::process::engine;
use tipring::process::exit;
use tipring::process::keeper;
use tipring::process::plan;
use tipring::process::side;
use tipring::wire::control::Command as ControlCommand;
use tipring::wire::control::Query;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The server of a telephone line: SIP, RTP relay and call records.
#[derive(Parser)]
#[command(name = "tipring", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve in the foreground until TERM (after the last call) or INT (at once)
    Serve {
        /// Without it no file is read and every key has its default
        #[arg(long)]
        config: Option<PathBuf>,
        /// Die with the process that started it.
        #[arg(long, hide = true)]
        with_parent: bool,
    },
    /// Name every fault of a configuration file
    Check {
        #[arg(long)]
        config: PathBuf,
        /// Print each value that holds and where it comes from: the file, the hardware profile, or the default
        #[arg(long)]
        effective: bool,
    },
    /// Serve on embedded defaults in a new folder, with fifty emulated phones that call each other and an account for yours
    Demo {
        /// End after this time, such as "30s"
        #[arg(long = "for", value_parser = config::parse_duration)]
        duration: Option<Duration>,
        /// The address that SIP, media and the API listen on
        #[arg(long, default_value = "127.0.0.1")]
        listen: std::net::IpAddr,
        /// Keep the folder with configuration, log and recordings; else it is removed at the end, unless something failed
        #[arg(long)]
        keep: bool,
    },
    /// What runs, in which state
    Status(Node),
    /// Answer new calls 503, keep those that are up
    Drain(Node),
    /// Take new calls again
    Undrain(Node),
    /// Read the configuration again, open log files anew
    Reload(Node),
    /// The calls that are up
    Calls(Node),
    /// End a call
    Hangup {
        call: CallId,
        #[command(flatten)]
        node: Node,
    },
    /// Why this call or phone did what it did
    Trace {
        /// A call's id or a phone's user
        subject: String,
        #[command(flatten)]
        node: Node,
    },
    /// The phone emulator: from one phone to thousands, against any SIP server
    #[command(subcommand)]
    Phlem(phlem::PhlemCli),
    /// What the engine wrote down of calls, read without the side process
    #[command(subcommand)]
    Tape(tape::TapeCli),
    /// API tokens
    #[command(subcommand)]
    Token(token::TokenCli),
    /// The machine against its hardware profile, and what would make it right
    Tune(Box<tune::TuneCli>),
    /// What `serve` starts by itself.
    #[command(hide = true)]
    Plan {
        #[arg(long)]
        config: Option<PathBuf>,
    },
    #[command(hide = true)]
    Engine,
    #[command(hide = true)]
    Side,
}

/// Which node is asked, and how the answer is printed.
#[derive(Args)]
struct Node {
    /// The configuration file that it serves; default: the folder tipring-data here
    #[arg(long)]
    config: Option<PathBuf>,
    /// The folder of its control socket ([node] run)
    #[arg(long, conflicts_with = "config")]
    run: Option<PathBuf>,
    /// JSON for programs
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Of `tune`, 2 says that a check is fatal.
        Err(error) if error.exit_code() != 0 && std::env::args_os().nth(1).is_some_and(|word| word == "tune") => {
            let _ = error.print();
            return ExitCode::from(tune::USAGE);
        }
        Err(error) => error.exit(),
    };
    ExitCode::from(match cli.command {
        Command::Serve { config, with_parent } => {
            if with_parent {
                let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
            }
            keeper::serve(config.as_deref())
        }
        Command::Check { config, effective } => check(&config, effective),
        Command::Tune(cli) => tune::run(*cli),
        Command::Demo { duration, listen, keep } => demo::run(duration, listen, keep),
        Command::Status(node) => ask::run(&node, &ControlCommand::Status),
        Command::Drain(node) => ask::run(&node, &ControlCommand::Drain),
        Command::Undrain(node) => ask::run(&node, &ControlCommand::Undrain),
        Command::Reload(node) => ask::run(&node, &ControlCommand::Reload),
        Command::Calls(node) => ask::run(&node, &ControlCommand::Query(Query::Calls)),
        Command::Hangup { call, node } => ask::run(&node, &ControlCommand::Query(Query::Hangup(call))),
        Command::Trace { subject, node } => ask::run(&node, &ControlCommand::Query(Query::Trace(subject))),
        Command::Phlem(cli) => phlem::main(cli),
        Command::Tape(cli) => tape::run(cli),
        Command::Token(cli) => token::run(cli),
        Command::Plan { config } => plan::run(config.as_deref()),
        Command::Engine => engine::run(),
        Command::Side => side::run(),
    })
}

fn check(config: &Path, effective: bool) -> u8 {
    let faults = plan::check(config);
    if faults.is_empty() {
        if effective {
            say(&plan::effective(config));
            return 0;
        }
        say(&format!("{}: no faults\n", config.display()));
        return 0;
    }
    complain(&format!("{}\n", faults.join("\n")));
    exit::CONFIG
}

/// To standard output; a reader that is gone is no reason to fail.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn complain(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
