//! `tipring tune`: the machine against its hardware profile.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::Subcommand;
use tipring::process::config;
use tipring::process::config::Config;
use tipring::process::exit;
use tipring::process::plan;
use tipring::process::tune::apply;
use tipring::process::tune::apply::Outcome;
use tipring::process::tune::apply::RealHands;
use tipring::process::tune::check;
use tipring::process::tune::checker::Context;
use tipring::process::tune::checker::Needs;
use tipring::process::tune::detect;
use tipring::process::tune::engine::matched;
use tipring::process::tune::machine::Machine;
use tipring::process::tune::profile::Profile;
use tipring::process::tune::profile::ProfileError;
use tipring::process::tune::record;
use tipring::process::tune::script;
use tipring::process::tune::sets::Sets;
use tipring::process::tune::shipped;
use tipring::process::tune::topology::Topology;
use tipring::process::tune::trial;
use tipring::process::tune::trial::Bounds;
use tipring::process::tune::trial::Need;

/// Wrong usage; 2 says that a check is fatal.
pub(crate) const USAGE: u8 = 64;
/// The profile is another machine's.
const MISMATCH: u8 = 3;

/// Exit codes: 0 right, 1 a warning, 2 fatal, 3 the profile is another machine's, 64 wrong usage
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct TuneCli {
    #[command(subcommand)]
    trial: Option<TrialCli>,
    #[command(flatten)]
    what: What,
    /// A shipped profile by name, "auto", or a file; default: that of the configuration, else "auto"
    #[arg(long)]
    profile: Option<String>,
    /// The node's configuration file: its RTP ports and its data folder
    #[arg(long)]
    config: Option<PathBuf>,
    /// JSON for programs (with --check and --apply)
    #[arg(long)]
    json: bool,
    /// With --detect: write into this file, unless it is there
    #[arg(long, requires = "detect", value_name = "FILE")]
    output: Option<PathBuf>,
    /// A tree that --record wrote stands for the machine.
    #[arg(long, hide = true)]
    root: Option<PathBuf>,
}

#[derive(Args)]
#[group(multiple = false)]
struct What {
    /// Say what is right and what is not (the default)
    #[arg(long)]
    check: bool,
    /// Say what --apply would do
    #[arg(long)]
    dry_run: bool,
    /// Print a shell script that does the same, to be read before it is run
    #[arg(long)]
    render_script: bool,
    /// Set what is not right and look again; needs root
    #[arg(long)]
    apply: bool,
    /// Print a profile of this machine
    #[arg(long)]
    detect: bool,
    /// Copy what the checks read of this machine into a new folder
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
}

#[derive(Subcommand)]
enum TrialCli {
    /// Try a folder's disk the way the tape writes; exit 1 if it is too slow
    Disk {
        folder: PathBuf,
        /// How long, at most; half of it beside another writer
        #[arg(long = "for", value_parser = config::parse_duration, default_value = "10s")]
        time: Duration,
        /// MiB of each of the two files that it writes over and over
        #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=65_536))]
        mib: u64,
        /// The node's configuration file: its RTP ports and `tape.stall`
        #[arg(long)]
        config: Option<PathBuf>,
        #[arg(long)]
        json: bool,
    },
}

/// What ends a command: its exit code and a line.
type Failed = (u8, String);

pub(crate) fn run(cli: TuneCli) -> u8 {
    let done = match &cli.trial {
        Some(TrialCli::Disk { folder, time, mib, config, json }) => {
            let bounds = Bounds { time: *time / 2, file_bytes: mib << 20 };
            disk(folder, bounds, config.as_deref(), *json)
        }
        None => tune(&cli),
    };
    done.unwrap_or_else(|(code, line)| {
        crate::complain(&format!("tipring: {line}\n"));
        code
    })
}

fn load(config: Option<&Path>) -> Result<Config, Failed> {
    Config::load(config).map_err(|faults| {
        let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
        (exit::CONFIG, lines.join("\n"))
    })
}

fn tune(cli: &TuneCli) -> Result<u8, Failed> {
    let needs = plan::needs(&load(cli.config.as_deref())?);
    if let Some(root) = cli.root.as_deref().filter(|root| !root.is_dir()) {
        return Err((USAGE, format!("{} is no folder", root.display())));
    }
    let machine = cli.root.as_deref().map_or_else(Machine::here, Machine::recorded);
    let topology = Topology::of(&machine);
    if cli.what.detect {
        return write_profile(&topology, cli.output.as_deref());
    }
    if let Some(folder) = &cli.what.record {
        return write_record(cli, &machine, &topology, folder, &needs);
    }
    let (profile, sets) = profile(cli, &topology)?;
    let context = Context { machine: &machine, topology: &topology, profile: &profile, sets: &sets, needs: &needs };
    match &cli.what {
        What { dry_run: true, .. } => {
            let results = check::check(&context);
            crate::say(&script::plan(&results));
            Ok(check::exit_code(&results))
        }
        What { render_script: true, .. } => {
            crate::say(&script::script(&profile.name, &check::check(&context)));
            Ok(0)
        }
        What { apply: true, .. } => apply(&context, cli.json),
        _ => {
            let results = check::check(&context);
            crate::say(&if cli.json { check::json(&results) } else { check::table(&results) });
            Ok(check::exit_code(&results))
        }
    }
}

fn profile(cli: &TuneCli, topology: &Topology) -> Result<(Profile, Sets), Failed> {
    let (name, folder) = match (&cli.profile, &cli.config) {
        (Some(name), _) => (name.clone(), PathBuf::from(".")),
        (None, Some(_)) => {
            let config = load(cli.config.as_deref())?;
            (config.engine.profile, config.folder)
        }
        (None, None) => (String::new(), PathBuf::from(".")),
    };
    let name = if name.is_empty() { shipped::AUTO } else { &name };
    matched(name, &folder, topology).map_err(|error| match error {
        ProfileError::Mismatch(line) => (MISMATCH, line),
        error => (USAGE, error.to_string()),
    })
}

fn write_profile(topology: &Topology, output: Option<&Path>) -> Result<u8, Failed> {
    let text = detect::profile(topology).map_err(|line| (exit::OTHER, line))?;
    let Some(file) = output else {
        crate::say(&text);
        return Ok(0);
    };
    let written = OpenOptions::new().write(true).create_new(true).open(file);
    match written.and_then(|mut file| file.write_all(text.as_bytes())) {
        Ok(()) => crate::say(&format!("{}: written\n", file.display())),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            crate::say(&format!("{}: is there and stays as it is\n", file.display()));
        }
        Err(error) => return Err((exit::OTHER, format!("{}: {error}", file.display()))),
    }
    Ok(0)
}

fn write_record(
    cli: &TuneCli,
    machine: &Machine,
    topology: &Topology,
    folder: &Path,
    needs: &Needs,
) -> Result<u8, Failed> {
    // Without a profile of its own, what the shipped ones look at is all there is.
    let own = match cli.profile {
        Some(_) => Some(profile(cli, topology)?.0),
        None => None,
    };
    record::look(machine, own.as_ref(), needs);
    let files =
        record::write(machine, folder).map_err(|error| (exit::OTHER, format!("{}: {error}", folder.display())))?;
    crate::say(&format!("{}: {files} files\n", folder.display()));
    Ok(0)
}

fn apply(context: &Context<'_>, json: bool) -> Result<u8, Failed> {
    let is_here = context.machine.is_here();
    if is_here && !rustix::process::geteuid().is_root() {
        return Err((
            exit::FORBIDDEN,
            "tune --apply needs root; --render-script writes what root would run".to_owned(),
        ));
    }
    let checkers = check::checkers(context.profile);
    let outcomes = apply::apply(&checkers, context, &mut RealHands { is_here });
    let results: Vec<check::Checked> = outcomes.iter().map(|(result, _)| result.clone()).collect();
    if json {
        crate::say(&check::json(&results));
        return Ok(check::exit_code(&results));
    }
    for (result, outcome) in &outcomes {
        let text = match outcome {
            Outcome::Right => continue,
            Outcome::Done => format!("done     {}", result.line()),
            Outcome::Failed(why) => format!("failed   {}: {why}", result.line()),
            Outcome::ByHand(advice) => format!("by hand  {}: {advice}", result.line()),
            Outcome::Unknown(_) => format!("unknown  {}", result.line()),
        };
        crate::say(&format!("{text}\n"));
    }
    let count = |of: fn(&Outcome) -> bool| outcomes.iter().filter(|(_, outcome)| of(outcome)).count();
    crate::say(&format!(
        "{} were right, {} done, {} failed, {} left to you\n",
        count(|outcome| *outcome == Outcome::Right),
        count(|outcome| *outcome == Outcome::Done),
        count(|outcome| matches!(outcome, Outcome::Failed(_))),
        count(|outcome| matches!(outcome, Outcome::ByHand(_) | Outcome::Unknown(_))),
    ));
    Ok(check::exit_code(&results))
}

fn disk(folder: &Path, bounds: Bounds, config: Option<&Path>, json: bool) -> Result<u8, Failed> {
    let config = load(config)?;
    let ports = plan::needs(&config).ports.iter().map(|(first, last)| u64::from(last - first) + 1).sum::<u64>();
    let need = Need {
        mib_per_second: (ports / 2 * plan::TAPE_BYTES_PER_SECOND) as f64 / f64::from(1 << 20),
        stall_ms: config.tape.stall.as_secs_f64() * 1e3,
    };
    let trial = trial::run(folder, bounds).map_err(|error| (exit::OTHER, format!("{}: {error}", folder.display())))?;
    let lacks = trial.lacks(need);
    if json {
        let all = serde_json::json!({ "need": need, "trial": trial, "lacks": lacks });
        crate::say(&format!("{all:#}\n"));
    } else {
        let way = if trial.direct { "O_DIRECT" } else { "through the page cache: the file system refuses O_DIRECT" };
        crate::say(&format!("blocks of 64 KiB with fdatasync, {way}\n"));
        for (name, run) in [("alone", &trial.alone), ("beside load", &trial.beside_load)] {
            crate::say(&format!(
                "{name:<12} {:>8.1} MiB/s   p50 {:.2} ms   p99 {:.2} ms   longest {:.2} ms\n",
                run.mib_per_second, run.p50_ms, run.p99_ms, run.max_ms
            ));
        }
        crate::say(&format!(
            "needed       {:>8.1} MiB/s, stalls up to {:.0} ms (every RTP port recorded)\n",
            need.mib_per_second, need.stall_ms
        ));
        for line in &lacks {
            crate::say(&format!("too slow: {line}\n"));
        }
    }
    Ok(u8::from(!lacks.is_empty()))
}
