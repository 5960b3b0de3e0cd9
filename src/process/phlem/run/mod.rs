//! A run: a scenario on this machine, one thread a core, from the first registration to the last hang-up.

mod expect;
mod floor;
mod happening;
mod legs;
mod pace;
mod sockets;
mod start;
mod traffic;

use std::net::IpAddr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::id::ShardId;
use crate::base::time::UnixTime;
use crate::process::clock;
use crate::process::phlem::ceiling;
use crate::process::phlem::ceiling::Ceiling;
use crate::process::phlem::figures::Figures;
use crate::process::phlem::media::Ledger;
use crate::process::phlem::media::LegEnd;
pub(in crate::process::phlem) use crate::process::phlem::run::expect::verdicts;
use crate::process::phlem::run::floor::Note;
use crate::process::phlem::run::start::Started;
pub(in crate::process::phlem) use crate::process::phlem::run::start::cpus;
use crate::process::phlem::scenario::Scenario;
use crate::shard::mesh::Member;

/// How a run differs from what its scenario says, and where it runs.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Host and port instead of the scenario's.
    pub server: Option<String>,
    pub seed: Option<u64>,
    /// The address that phones bind to; default: the one from which the server is reached.
    pub local: Option<IpAddr>,
    /// The CPUs to run on, a thread each; empty: one thread wherever the kernel likes for few phones, else all CPUs.
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
    pub record: Option<PathBuf>,
    /// Measure first what the emulator can do by itself on these CPUs.
    pub ceiling: bool,
    /// Legs that ended go here, to be held against those of other machines; none: their other ends are of this run.
    pub ends: Option<SyncSender<LegEnd>>,
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
            ceiling: false,
            ends: None,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// What the emulator can do by itself, if it was measured.
    pub ceiling: Option<Ceiling>,
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
    /// A file that a population speaks from.
    #[error("speech file {0}: {1}")]
    Speech(String, String),
    #[error("{0}: {1}")]
    Os(&'static str, std::io::Error),
    #[error("a thread of the emulator died")]
    Died,
}

/// How often the caller hears of the figures.
const TELL_EVERY: Duration = Duration::from_millis(250);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A thread that has not ended so long after it should have is not waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a scenario to its end; `on_figures` gets the merged figures a few times a second.
pub fn run(
    scenario: Scenario,
    options: RunOptions,
    mut on_figures: impl FnMut(&Figures, Elapsed),
) -> Result<Summary, PhlemError> {
    scenario.check("scenario")?;
    let expect = scenario.expect.clone();
    let (name, seed) = (scenario.name.clone(), options.seed.unwrap_or(scenario.seed));
    let length_max = if options.endless { Duration::MAX } else { scenario.length_max() + floor::SETTLE_MAX + PATIENCE };
    if let Some(folder) = &options.record {
        std::fs::create_dir_all(folder).map_err(|error| PhlemError::Os("the folder for recordings", error))?;
    }
    let ceiling = if options.ceiling { Some(ceiling::measure(&scenario, &options)?) } else { None };
    let mut started = start::start(scenario, &options)?;
    let mut watch = Watch::new(started.threads.len(), options.ends.clone());
    let mut stopped_at = None;
    while !watch.is_done() {
        std::thread::sleep(LOOK_EVERY);
        watch.receive(&started, options.record.as_deref())?;
        let elapsed = started.elapsed();
        if watch.is_due(elapsed) {
            on_figures(&watch.merged(), Elapsed { since_start: elapsed, phase: watch.phase });
        }
        if options.stop.load(Relaxed) && stopped_at.is_none() {
            stopped_at = Some(elapsed);
            started.stop();
        }
        let late = stopped_at.is_some_and(|at| elapsed > at + PATIENCE);
        if late || elapsed > length_max {
            return Err(PhlemError::Died);
        }
    }
    let elapsed = started.elapsed();
    watch.ledger.close();
    let figures = watch.merged();
    on_figures(&figures, Elapsed { since_start: elapsed, phase: Phase::WindDown });
    let server = started.server.clone();
    let mut notes = std::mem::take(&mut started.notes);
    notes.extend(started.end()?);
    let verdicts = verdicts(&expect, &figures);
    Ok(Summary { scenario: name, server, seed, elapsed, figures, ceiling, verdicts, notes })
}

/// What the threads last said.
struct Watch {
    figures: Vec<Figures>,
    done: Vec<bool>,
    phase: Phase,
    told: Option<Duration>,
    ledger: Ledger,
    ends: Option<SyncSender<LegEnd>>,
}

impl Watch {
    fn new(threads: usize, ends: Option<SyncSender<LegEnd>>) -> Self {
        let figures = vec![Figures::default(); threads];
        let ledger = Ledger::default();
        Self { figures, done: vec![false; threads], phase: Phase::Ramp, told: None, ledger, ends }
    }

    fn take_ends(&mut self, ends: Vec<LegEnd>) {
        for leg in ends {
            match &self.ends {
                // Who leads a fleet says how many did not reach it.
                Some(elsewhere) => drop(elsewhere.try_send(leg)),
                None => self.ledger.add(leg),
            }
        }
    }

    fn receive(&mut self, started: &Started, record: Option<&Path>) -> Result<(), PhlemError> {
        while let Some((from, note)) = started.post.try_receive() {
            let Member::Shard(ShardId(shard)) = from else { continue };
            let thread = usize::from(shard);
            match note {
                Note::Figures { figures, ends, phase } => {
                    self.figures[thread] = *figures;
                    self.phase = phase;
                    self.take_ends(ends);
                }
                Note::Done(figures, ends) => {
                    self.figures[thread] = *figures;
                    self.done[thread] = true;
                    self.take_ends(ends);
                }
                Note::Recording { name, wav } => {
                    if let Some(folder) = record {
                        let file = folder.join(format!("{name}.wav"));
                        std::fs::write(file, wav).map_err(|error| PhlemError::Os("a recording", error))?;
                    }
                }
                Note::Stop => {}
            }
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.done.iter().all(|done| *done)
    }

    fn is_due(&mut self, elapsed: Duration) -> bool {
        let is_due = self.told.is_none_or(|told| elapsed >= told + TELL_EVERY);
        if is_due {
            self.told = Some(elapsed);
        }
        is_due
    }

    fn merged(&self) -> Figures {
        let mut merged = Figures::default();
        for figures in &self.figures {
            merged.merge(figures);
        }
        merged.media.merge(self.ledger.media());
        merged
    }
}

/// Sleeps until the time that all machines of a fleet begin at.
fn wait_until(at: UnixTime, stop: &AtomicBool) {
    while clock::unix() < at && !stop.load(Relaxed) {
        std::thread::sleep(at.since(clock::unix()).min(LOOK_EVERY));
    }
}
