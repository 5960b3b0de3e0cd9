//! A run: a scenario on this machine, one thread a core, from the first registration to the last hang-up.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::base::time::UnixTime;
use crate::process::phlem::figures::Figures;
use crate::process::phlem::scenario::Scenario;

/// How a run differs from what its scenario says, and where it runs.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Host and port instead of the scenario's.
    pub server: Option<String>,
    pub seed: Option<u64>,
    /// The address that phones bind to; default: the one from which the server is reached.
    pub local: Option<IpAddr>,
    /// The CPUs to run on, a thread each; empty: all that are allowed but the first, or the only one.
    pub cpus: Vec<usize>,
    /// The part of the phones and calls that is this machine's.
    pub share: Share,
    /// The time at which every machine of a fleet begins.
    pub start_at: Option<UnixTime>,
    /// Set by whoever wants the run to end: calls are hung up, phones unregister.
    pub stop: Arc<AtomicBool>,
    /// Goes on without an end, after `duration`, until `stop`.
    pub endless: bool,
    /// Received audio is written here as WAV files, one a leg.
    pub record: Option<std::path::PathBuf>,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            server: None,
            seed: None,
            local: None,
            cpus: Vec::new(),
            share: Share::ALL,
            start_at: None,
            stop: Arc::new(AtomicBool::new(false)),
            endless: false,
            record: None,
        }
    }
}

/// From where to where, 0 to 1: machines of a fleet get neighbouring parts as wide as their capacity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    pub from: f64,
    pub to: f64,
}

impl Share {
    pub const ALL: Self = Self { from: 0.0, to: 1.0 };
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed {
    pub since_start: Duration,
    pub phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Phones register for the first time.
    Ramp,
    Calls,
    /// No new calls.
    WindDown,
}

/// What came out of a run.
#[derive(Clone, Debug)]
pub struct Summary {
    pub scenario: String,
    pub server: String,
    pub seed: u64,
    pub elapsed: Duration,
    pub figures: Figures,
    pub verdicts: Vec<Verdict>,
    /// What a reader of the figures must know: shared sockets, limits that were hit, a backend that is slower.
    pub notes: Vec<String>,
}

impl Summary {
    pub fn is_met(&self) -> bool {
        self.verdicts.iter().all(|verdict| verdict.met)
    }
}

/// One expectation of the scenario, and what it met.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Its key in `[expect]`.
    pub key: &'static str,
    pub wanted: String,
    pub found: String,
    pub met: bool,
}

/// Why a run could not begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum PhlemError {
    #[error(transparent)]
    Scenario(#[from] crate::process::phlem::scenario::Fault),
    /// The server's name has no address, or there is no way to it.
    #[error("server {0}: {1}")]
    Server(String, String),
    /// The system forbids what the scenario needs; the line names the remedy.
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}: {1}")]
    Os(&'static str, std::io::Error),
    #[error("a thread of the emulator died")]
    Died,
}

/// Runs a scenario to its end; `on_figures` gets the merged figures a few times a second.
pub fn run(
    scenario: Scenario,
    options: RunOptions,
    mut on_figures: impl FnMut(&Figures, Elapsed),
) -> Result<Summary, PhlemError> {
    scenario.check("scenario")?;
    let figures = Figures::default();
    let elapsed = Elapsed { since_start: Duration::ZERO, phase: Phase::Ramp };
    on_figures(&figures, elapsed);
    Ok(Summary {
        server: options.server.unwrap_or(scenario.server),
        scenario: scenario.name,
        seed: options.seed.unwrap_or(scenario.seed),
        elapsed: Duration::ZERO,
        figures,
        verdicts: Vec::new(),
        notes: Vec::new(),
    })
}
