//! The keeper, `tipring serve`: owns every listening socket, every RTP port and the state memory; starts engine and side
//! and starts them again when they die.
//!
//! It is the one process that must never die, so it is small and dull: one thread, one `poll`, nothing that waits, no
//! text from outside. The configuration is read by `tipring plan`, commands have a fixed size, answers are passed on
//! unread. If it dies all the same, its children die with it and the next start finds every port free.

mod command;
mod control;
mod groups;
mod heartbeat;
mod log;
mod notify;
mod planning;
mod privileges;
mod process;
mod reload;
mod run;
mod sockets;
mod textfile;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::FlockOperation;
use rustix::fs::Mode;
use signal_hook::consts::SIGHUP;
use signal_hook::consts::SIGINT;
use signal_hook::consts::SIGTERM;
use signal_hook::consts::SIGUSR2;
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

use crate::process::clock;
use crate::process::exit;
use crate::process::exit::Failure;
use crate::process::keeper::control::Control;
use crate::process::keeper::heartbeat::Heartbeats;
use crate::process::keeper::log::Log;
use crate::process::keeper::log::complain;
use crate::process::keeper::notify::Manager;
use crate::process::keeper::planning::Planning;
use crate::process::keeper::process::Process;
use crate::process::keeper::run::Keeper;
use crate::process::keeper::run::Stop;
use crate::process::keeper::sockets::Sockets;
use crate::process::keeper::textfile::Textfile;
use crate::wire::control::Role;

type Signals = SignalDelivery<UnixStream, SignalOnly>;

/// Serves until it is told to stop. Returns the exit code.
pub fn serve(config: Option<&Path>) -> u8 {
    match prepare(config) {
        Ok(keeper) => keeper.run(),
        Err(failure) => {
            Manager::of_environment().send(&format!("STATUS={}", failure.line.lines().next().unwrap_or_default()));
            // Faults of a file begin with its name.
            let name = if failure.code == exit::CONFIG { "" } else { "tipring: " };
            complain(&format!("{name}{failure}\n"));
            failure.code
        }
    }
}

fn prepare(config: Option<&Path>) -> Result<Keeper, Failure> {
    let started = clock::instant();
    let signals = signals().map_err(|error| Failure::from_io("cannot watch for signals", &error))?;
    // What we and our children create is for our user alone.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let plan = Planning::start(config)?.finish()?;
    if let Some(lacks) = plan.hardware.as_ref().and_then(|hardware| hardware.faults(true).next()) {
        return Err(Failure::new(
            exit::FORBIDDEN,
            format!("the machine is not what its hardware profile demands: {lacks}"),
        ));
    }
    let note = privileges::settle(&plan)?;
    let locks = [lock(&plan.data)?, lock(&plan.run)?];
    let sockets = Sockets::open(&plan)?;
    let control = Control::open(&plan.run)?;
    let now = clock::instant();
    let textfile = Textfile::new(plan.textfile.clone(), now);
    let mut keeper = Keeper {
        config: config.map(PathBuf::from),
        log: Log::new(plan.log.clone(), plan.node.clone()),
        heartbeats: Heartbeats::new(usize::from(plan.shards), now),
        latest: None,
        plan,
        _locks: locks,
        sockets,
        control,
        engine: Process::new(Role::Engine, now),
        side: Process::new(Role::Side, now),
        signals,
        manager: Manager::of_environment(),
        groups: None,
        boot: clock::unix().micros(),
        started,
        ready: false,
        draining: false,
        calls_up: None,
        stop: Stop::No,
        planning: None,
        reload_success: true,
        told: None,
        textfile,
        run_delays: BTreeMap::new(),
    };
    if let Some(note) = note {
        keeper.log.warn("user", &note);
    }
    keeper.make_groups();
    let hardware = keeper.plan.hardware.clone();
    keeper.report_hardware(hardware.as_ref());
    Ok(keeper)
}

fn signals() -> std::io::Result<Signals> {
    let (read, write) = UnixStream::pair()?;
    read.set_nonblocking(true)?;
    SignalDelivery::with_pipe(read, write, SignalOnly, [SIGTERM, SIGINT, SIGHUP, SIGUSR2])
}

/// Two nodes in one folder would take each other's sockets and files away.
fn lock(folder: &Path) -> Result<File, Failure> {
    std::fs::create_dir_all(folder).map_err(|error| Failure::from_io(folder.display(), &error))?;
    let path = folder.join("lock");
    let file = File::create(&path).map_err(|error| Failure::from_io(path.display(), &error))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| Failure::new(exit::BUSY, format!("{} is in use by another tipring", folder.display())))?;
    Ok(file)
}
