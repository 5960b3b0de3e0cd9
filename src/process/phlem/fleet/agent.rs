//! `tipring phlem agent`: waits for tasks, runs its share of each, and reports until the run is over.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::time::Duration;

use async_nats::Client;
use async_nats::Message;
use futures_util::StreamExt;

use crate::base::time::Instant;
use crate::process::clock;
use crate::process::phlem::figures::Figures;
use crate::process::phlem::fleet::FleetError;
use crate::process::phlem::fleet::TELL_EVERY;
use crate::process::phlem::fleet::check_name;
use crate::process::phlem::fleet::connect;
use crate::process::phlem::fleet::lost;
use crate::process::phlem::fleet::message::Answer;
use crate::process::phlem::fleet::message::Hello;
use crate::process::phlem::fleet::message::Report;
use crate::process::phlem::fleet::message::State;
use crate::process::phlem::fleet::message::Task;
use crate::process::phlem::fleet::message::VERSION;
use crate::process::phlem::fleet::message::emit;
use crate::process::phlem::fleet::message::parse;
use crate::process::phlem::fleet::runtime;
use crate::process::phlem::media::LegEnd;
use crate::process::phlem::run;
use crate::process::phlem::run::Phase;
use crate::process::phlem::run::RunOptions;
use crate::process::phlem::run::Share;

/// A leader that has not been heard for so long is gone: its run ends.
const LEADER_SILENCE_MAX: Duration = Duration::from_secs(10);
/// The last report is repeated for so long: NATS may have been away.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Ends of legs in one report: NATS takes a megabyte.
const ENDS_MAX: usize = 2_000;
/// Further ones are not reported, and the leader says so.
const ENDS_WAITING_MAX: usize = 65_536;

#[derive(Clone, Debug)]
pub struct AgentOptions {
    pub nats: String,
    pub fleet: String,
    /// Unique in the fleet.
    pub id: String,
    /// Against those of the other agents.
    pub capacity: u32,
    pub cpus: Vec<usize>,
    pub local: Option<IpAddr>,
    /// Set by whoever wants the agent to end.
    pub stop: Arc<AtomicBool>,
}

/// Serves until `stop`; `say` gets a line for people now and then.
pub fn agent(options: AgentOptions, say: impl FnMut(String)) -> Result<(), FleetError> {
    check_name(&options.fleet)?;
    check_name(&options.id)?;
    runtime()?.block_on(serve(options, say))
}

async fn serve(options: AgentOptions, mut say: impl FnMut(String)) -> Result<(), FleetError> {
    let url = options.nats.clone();
    let client = connect(&url, format!("phlem agent {}", options.id)).await?;
    let fleet = &options.fleet;
    let subscribe = async |subject: String| client.subscribe(subject).await.map_err(|error| lost(&url, error));
    let mut calls = subscribe(format!("{fleet}.call")).await?;
    let mut tasks = subscribe(format!("{fleet}.agent.{}", options.id)).await?;
    let mut wishes = subscribe(format!("{fleet}.run.*.*")).await?;
    client.flush().await.map_err(|error| lost(&url, error))?;
    say(format!("agent {} of fleet {fleet} waits for runs, capacity {}", options.id, options.capacity));
    let mut work: Option<Work> = None;
    let mut ticks = tokio::time::interval(TELL_EVERY);
    loop {
        tokio::select! {
            Some(call) = calls.next() => answer_call(&client, &options, &call, work.as_ref().is_some_and(|work| !work.is_over())).await,
            Some(message) = tasks.next() => on_task(&client, &options, &message, &mut work, &mut say).await,
            Some(wish) = wishes.next() => on_wish(fleet, &wish, &mut work),
            _ = ticks.tick() => {
                if tell(&client, &options, &mut work).await {
                    say("the run is over".to_owned());
                    work = None;
                }
                if options.stop.load(Relaxed) && end(&client, &options, &mut work).await {
                    return Ok(());
                }
            }
        }
    }
}

async fn answer_call(client: &Client, options: &AgentOptions, call: &Message, is_busy: bool) {
    let Some(reply) = call.reply.clone() else { return };
    let hello = Hello {
        id: options.id.clone(),
        version: VERSION.to_owned(),
        capacity: options.capacity,
        is_busy,
        now: clock::unix(),
    };
    // A leader that is not told asks again.
    let _ = client.publish(reply, emit(&hello)).await;
}

async fn on_task(
    client: &Client,
    options: &AgentOptions,
    message: &Message,
    work: &mut Option<Work>,
    say: &mut impl FnMut(String),
) {
    let answer = match parse::<Task>(&message.payload) {
        None => Answer::Refused("the task cannot be read: is the leader of another version?".to_owned()),
        Some(_) if work.as_ref().is_some_and(|work| !work.is_over()) => {
            Answer::Refused("it is busy with another run".to_owned())
        }
        Some(task) => {
            say(format!(
                "run {} ({}): phones {:.1} % to {:.1} %",
                task.run,
                task.scenario.name,
                task.from * 100.0,
                task.to * 100.0
            ));
            match Work::start(task, options) {
                Ok(started) => {
                    *work = Some(started);
                    Answer::Accepted
                }
                Err(error) => Answer::Refused(format!("no thread: {error}")),
            }
        }
    };
    if let Some(reply) = message.reply.clone() {
        let _ = client.publish(reply, emit(&answer)).await;
    }
}

/// The leader is alive, or wants the run to stop.
fn on_wish(fleet: &str, wish: &Message, work: &mut Option<Work>) {
    let Some(work) = work else { return };
    let prefix = format!("{fleet}.run.{}.", work.run);
    match wish.subject.as_str().strip_prefix(&prefix) {
        Some("alive") => work.leader_heard = clock::instant(),
        Some("stop") => work.stop.store(true, Relaxed),
        _ => {}
    }
}

/// Reports; true when everything has been said.
async fn tell(client: &Client, options: &AgentOptions, work: &mut Option<Work>) -> bool {
    let Some(work) = work else { return false };
    let now = clock::instant();
    if now.since(work.leader_heard) > LEADER_SILENCE_MAX {
        work.stop.store(true, Relaxed);
    }
    let report = work.report(&options.id);
    let is_over = report.state != State::Running;
    let subject = format!("{}.run.{}.report", options.fleet, work.run);
    // One that is lost is followed by the next.
    let _ = client.publish(subject, emit(&report)).await;
    let over_since = *work.over_since.get_or_insert(if is_over { now } else { Instant::NEVER });
    if over_since == Instant::NEVER {
        work.over_since = None;
    }
    is_over && now.since(over_since) > LAST_WORDS
}

/// The agent is to end: its run first. True when it may.
async fn end(client: &Client, options: &AgentOptions, work: &mut Option<Work>) -> bool {
    if let Some(work) = work {
        work.stop.store(true, Relaxed);
        if !work.is_over() {
            return false;
        }
        let mut report = work.report(&options.id);
        report.state = State::Failed("it was stopped where it runs".to_owned());
        let _ = client.publish(format!("{}.run.{}.report", options.fleet, work.run), emit(&report)).await;
    }
    let _ = client.flush().await;
    true
}

/// A run on a thread of its own.
struct Work {
    run: String,
    stop: Arc<AtomicBool>,
    latest: Arc<Mutex<Latest>>,
    ends: mpsc::Receiver<LegEnd>,
    leader_heard: Instant,
    over_since: Option<Instant>,
}

/// What the run last said.
struct Latest {
    state: State,
    phase: Phase,
    elapsed: Duration,
    figures: Figures,
    notes: Vec<String>,
}

impl Work {
    fn start(task: Task, options: &AgentOptions) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let latest = Arc::new(Mutex::new(Latest {
            state: State::Running,
            phase: Phase::Ramp,
            elapsed: Duration::ZERO,
            figures: Figures::default(),
            notes: Vec::new(),
        }));
        let (tell_end, ends) = mpsc::sync_channel(ENDS_WAITING_MAX);
        let run_options = RunOptions {
            server: task.server,
            seed: task.seed,
            local: options.local,
            cpus: options.cpus.clone(),
            share: Share { from: task.from, to: task.to },
            start_at: Some(task.start_at),
            stop: Arc::clone(&stop),
            ends: Some(tell_end),
            ..RunOptions::default()
        };
        let (shared, scenario) = (Arc::clone(&latest), task.scenario);
        std::thread::Builder::new().name("phlem-run".to_owned()).spawn(move || {
            let ended = run::run(scenario, run_options, |figures, elapsed| {
                update(&shared, |latest| {
                    latest.figures.clone_from(figures);
                    latest.elapsed = elapsed.since_start;
                    latest.phase = elapsed.phase;
                });
            });
            update(&shared, |latest| match ended {
                Ok(summary) => {
                    latest.figures = summary.figures;
                    latest.elapsed = summary.elapsed;
                    latest.notes = summary.notes;
                    latest.state = State::Done;
                }
                Err(error) => latest.state = State::Failed(error.to_string()),
            });
        })?;
        Ok(Self { run: task.run, stop, latest, ends, leader_heard: clock::instant(), over_since: None })
    }

    fn is_over(&self) -> bool {
        self.latest.lock().is_ok_and(|latest| latest.state != State::Running)
    }

    fn report(&self, agent: &str) -> Report {
        let failed = |reason: &str| Report {
            agent: agent.to_owned(),
            state: State::Failed(reason.to_owned()),
            phase: Phase::WindDown,
            elapsed_ms: 0,
            figures: Figures::default(),
            notes: Vec::new(),
            ends: Vec::new(),
        };
        let Ok(latest) = self.latest.lock() else { return failed("the run's thread died") };
        let ends: Vec<LegEnd> = self.ends.try_iter().take(ENDS_MAX).collect();
        // The leader listens no longer than to the last report.
        let has_more = ends.len() == ENDS_MAX;
        Report {
            agent: agent.to_owned(),
            state: if has_more { State::Running } else { latest.state.clone() },
            phase: latest.phase,
            elapsed_ms: latest.elapsed.as_millis() as u64,
            figures: latest.figures.clone(),
            notes: latest.notes.clone(),
            ends,
        }
    }
}

fn update(latest: &Mutex<Latest>, change: impl FnOnce(&mut Latest)) {
    if let Ok(mut latest) = latest.lock() {
        change(&mut latest);
    }
}
