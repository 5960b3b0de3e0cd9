//! `tipring phlem run --nats URL`: finds the agents, deals the scenario to them, merges what they report.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_nats::Client;
use futures_util::StreamExt;

use crate::base::time::Instant;
use crate::base::time::UnixTime;
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
use crate::process::phlem::media::Ledger;
use crate::process::phlem::run;
use crate::process::phlem::run::Elapsed;
use crate::process::phlem::run::Phase;
use crate::process::phlem::run::Summary;
use crate::process::phlem::run::Verdict;
use crate::process::phlem::scenario::Scenario;

/// Time for every agent to open its sockets before all begin.
const PREPARATION: Duration = Duration::from_secs(2);
/// For an agent to take its task.
const TASK_MAX: Duration = Duration::from_secs(5);
/// An agent that has not reported for so long is gone.
const AGENT_SILENCE_MAX: Duration = Duration::from_secs(4);
/// Beyond the scenario's own length.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct LeadOptions {
    pub nats: String,
    pub fleet: String,
    /// Fewer are an error; none: whoever answers in time.
    pub agents: Option<usize>,
    /// How long agents may take to answer.
    pub wait: Duration,
    pub server: Option<String>,
    pub seed: Option<u64>,
    pub stop: Arc<AtomicBool>,
}

/// Runs a scenario on a fleet; `on_figures` gets what all agents have so far.
pub fn lead(
    scenario: Scenario,
    options: LeadOptions,
    on_figures: impl FnMut(&Figures, Elapsed),
) -> Result<Summary, FleetError> {
    check_name(&options.fleet)?;
    scenario.check("scenario")?;
    runtime()?.block_on(lead_all(scenario, options, on_figures))
}

async fn lead_all(
    scenario: Scenario,
    options: LeadOptions,
    mut on_figures: impl FnMut(&Figures, Elapsed),
) -> Result<Summary, FleetError> {
    let client = connect(&options.nats, "phlem leader".to_owned()).await?;
    let found = find(&client, &options).await?;
    let run = format!("{:x}", clock::unix().micros());
    let subject = format!("{}.run.{run}", options.fleet);
    let subscribed = client.subscribe(format!("{subject}.report")).await;
    let mut reports = subscribed.map_err(|error| lost(&options.nats, error))?;
    let mut agents = deal(&found);
    let start_at = clock::unix() + PREPARATION;
    for agent in &agents {
        if let Err(error) = give(&client, &options, agent, &run, &scenario, start_at).await {
            // Those that took theirs are not left alone with it.
            let _ = client.publish(format!("{subject}.stop"), "".into()).await;
            let _ = client.flush().await;
            return Err(error);
        }
    }
    let began = clock::instant() + PREPARATION;
    let mut ticks = tokio::time::interval(TELL_EVERY);
    let mut watch = Watch {
        began,
        last: BTreeMap::new(),
        ledger: Ledger::default(),
        ends_by: began + scenario.length_max() + PATIENCE,
    };
    while agents.iter().any(|agent| agent.end.is_none()) {
        tokio::select! {
            Some(message) = reports.next() => {
                if let Some(report) = parse::<Report>(&message.payload) {
                    watch.on_report(report, &mut agents);
                }
            }
            _ = ticks.tick() => {
                let wish = if options.stop.load(Relaxed) { "stop" } else { "alive" };
                let _ = client.publish(format!("{subject}.{wish}"), "".into()).await;
                watch.look_for_dead(&mut agents);
                let (figures, elapsed) = watch.merged();
                on_figures(&figures, elapsed);
            }
        }
    }
    watch.ledger.close();
    let (figures, elapsed) = watch.merged();
    on_figures(&figures, elapsed);
    Ok(conclude(&scenario, &options, &agents, figures, watch.ledger.judged(), elapsed.since_start))
}

/// One machine, and its part of the phones.
struct Agent {
    hello: Hello,
    from: f64,
    to: f64,
    /// How much its clock is ahead, in microseconds.
    ahead: i64,
    heard: Instant,
    end: Option<End>,
    notes: Vec<String>,
}

enum End {
    Done,
    Failed(String),
    Silent(Duration),
}

/// The agents that answer, with how much their clocks are ahead.
async fn find(client: &Client, options: &LeadOptions) -> Result<BTreeMap<String, (Hello, i64)>, FleetError> {
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.map_err(|error| lost(&options.nats, error))?;
    let mut found: BTreeMap<String, (Hello, i64)> = BTreeMap::new();
    let until = tokio::time::Instant::now() + options.wait;
    let mut ticks = tokio::time::interval(TELL_EVERY);
    let mut asked_at = clock::unix();
    while options.agents.is_none_or(|wanted| found.len() < wanted) && !options.stop.load(Relaxed) {
        tokio::select! {
            () = tokio::time::sleep_until(until) => break,
            _ = ticks.tick() => {
                asked_at = clock::unix();
                let asked = client.publish_with_reply(format!("{}.call", options.fleet), inbox.clone(), "".into()).await;
                asked.map_err(|error| lost(&options.nats, error))?;
            }
            Some(answer) = answers.next() => {
                let Some(hello) = parse::<Hello>(&answer.payload) else { continue };
                if hello.version != VERSION {
                    return Err(FleetError::Refused(hello.id, format!("it is of version {}, this is {VERSION}", hello.version)));
                }
                if !hello.is_busy {
                    let ahead = ahead(asked_at, hello.now, clock::unix());
                    found.entry(hello.id.clone()).or_insert((hello, ahead));
                }
            }
        }
    }
    match options.agents {
        _ if found.is_empty() => Err(FleetError::NoAgents(options.wait)),
        Some(wanted) if found.len() < wanted => {
            Err(FleetError::FewAgents { found: found.len(), wanted, waited: options.wait })
        }
        _ => Ok(found),
    }
}

/// How much another clock is ahead: it was read about halfway between asking and hearing.
const fn ahead(asked: UnixTime, other: UnixTime, heard: UnixTime) -> i64 {
    let middle = asked.micros() / 2 + heard.micros() / 2;
    other.micros().cast_signed() - middle.cast_signed()
}

/// Neighbouring shares, as wide as the capacities.
fn deal(found: &BTreeMap<String, (Hello, i64)>) -> Vec<Agent> {
    let weight = |hello: &Hello| f64::from(hello.capacity.max(1));
    let all: f64 = found.values().map(|(hello, _)| weight(hello)).sum();
    let mut given = 0.0;
    let heard = clock::instant();
    let agent = |(hello, ahead): &(Hello, i64)| {
        let from = given / all;
        given += weight(hello);
        Agent { hello: hello.clone(), from, to: given / all, ahead: *ahead, heard, end: None, notes: Vec::new() }
    };
    found.values().map(agent).collect()
}

async fn give(
    client: &Client,
    options: &LeadOptions,
    agent: &Agent,
    run: &str,
    scenario: &Scenario,
    start_at: UnixTime,
) -> Result<(), FleetError> {
    let task = Task {
        run: run.to_owned(),
        scenario: scenario.clone(),
        server: options.server.clone(),
        seed: options.seed,
        from: agent.from,
        to: agent.to,
        start_at: UnixTime::from_micros(start_at.micros().saturating_add_signed(agent.ahead)),
    };
    let refused = |reason: String| FleetError::Refused(agent.hello.id.clone(), reason);
    let subject = format!("{}.agent.{}", options.fleet, agent.hello.id);
    let (task, most) = (emit(&task), client.server_info().max_payload);
    if task.len() > most {
        let bytes = task.len();
        return Err(refused(format!(
            "the scenario with its accounts has {bytes} bytes, the NATS server takes {most}: raise its max_payload"
        )));
    }
    let asked = tokio::time::timeout(TASK_MAX, client.request(subject, task)).await;
    let answer = asked.map_err(|_| refused("it does not answer".to_owned()))?;
    match answer.ok().and_then(|answer| parse::<Answer>(&answer.payload)) {
        Some(Answer::Accepted) => Ok(()),
        Some(Answer::Refused(reason)) => Err(refused(reason)),
        None => Err(refused("it does not answer".to_owned())),
    }
}

/// What the agents last said.
struct Watch {
    began: Instant,
    last: BTreeMap<String, (Figures, Phase)>,
    ledger: Ledger,
    /// Whoever has not ended by then is given up.
    ends_by: Instant,
}

impl Watch {
    fn on_report(&mut self, report: Report, agents: &mut [Agent]) {
        let Some(agent) = agents.iter_mut().find(|agent| agent.hello.id == report.agent) else { return };
        if agent.end.is_some() {
            return;
        }
        report.ends.into_iter().for_each(|leg| self.ledger.add(leg));
        agent.heard = clock::instant();
        agent.notes = report.notes;
        self.last.insert(report.agent, (report.figures, report.phase));
        match report.state {
            State::Running => {}
            State::Done => agent.end = Some(End::Done),
            State::Failed(reason) => agent.end = Some(End::Failed(reason)),
        }
        if matches!(agent.end, Some(End::Failed(_))) {
            self.forget_levels(&agent.hello.id.clone());
        }
    }

    fn look_for_dead(&mut self, agents: &mut [Agent]) {
        let now = clock::instant();
        for agent in agents.iter_mut().filter(|agent| agent.end.is_none()) {
            if now.since(agent.heard) > AGENT_SILENCE_MAX || now > self.ends_by {
                agent.end = Some(End::Silent(agent.heard.since(self.began)));
                self.forget_levels(&agent.hello.id);
            }
        }
    }

    /// What an agent that is gone has counted stays; what it held is gone with it.
    fn forget_levels(&mut self, id: &str) {
        if let Some((figures, phase)) = self.last.get_mut(id) {
            (figures.registered_now, figures.registrations_owed) = (0, 0);
            figures.calls_now = 0;
            figures.answered_now = 0;
            figures.media.streams_now = 0;
            *phase = Phase::WindDown;
        }
    }

    fn merged(&self) -> (Figures, Elapsed) {
        let mut merged = Figures::default();
        for (figures, _) in self.last.values() {
            merged.merge(figures);
        }
        merged.media.merge(self.ledger.media());
        // As far as the one that is least far.
        let phases: Vec<Phase> = self.last.values().map(|(_, phase)| *phase).collect();
        let phase = [Phase::Ramp, Phase::Calls].into_iter().find(|phase| phases.contains(phase));
        let phase = if phases.is_empty() { Phase::Ramp } else { phase.unwrap_or(Phase::WindDown) };
        (merged, Elapsed { since_start: clock::instant().since(self.began), phase })
    }
}

fn conclude(
    scenario: &Scenario,
    options: &LeadOptions,
    agents: &[Agent],
    figures: Figures,
    judged: u64,
    elapsed: Duration,
) -> Summary {
    let mut notes = Vec::new();
    if judged < figures.media.streams {
        let legs = figures.media.streams - judged;
        notes.push(format!("the ends of {legs} legs did not reach the leader: what those had to hear is not counted"));
    }
    let mut missing = Vec::new();
    for agent in agents {
        let Agent { hello: Hello { id, .. }, from, to, .. } = agent;
        let share = format!("{:.1} % to {:.1} % of the phones", from * 100.0, to * 100.0);
        let what = match &agent.end {
            Some(End::Done) => None,
            Some(End::Failed(reason)) => Some(format!("failed: {reason}")),
            Some(End::Silent(after)) => Some(format!("died {:.0} s into the run", after.as_secs_f64())),
            None => Some("did not end".to_owned()),
        };
        match what {
            None => notes.push(format!("agent {id}: {share}")),
            Some(what) => {
                notes.push(format!("agent {id} {what}; it had {share}: what it counted until then is in the figures"));
                missing.push(id.as_str());
            }
        }
        notes.extend(agent.notes.iter().map(|note| format!("agent {id}: {note}")));
    }
    let mut verdicts = run::verdicts(&scenario.expect, &figures);
    let found = if missing.is_empty() { "all".to_owned() } else { format!("without {}", missing.join(", ")) };
    verdicts.push(Verdict {
        key: "agents",
        wanted: format!("{} to the end", agents.len()),
        found,
        met: missing.is_empty(),
    });
    Summary {
        scenario: scenario.name.clone(),
        server: options.server.clone().unwrap_or_else(|| scenario.server.clone()),
        seed: options.seed.unwrap_or(scenario.seed),
        elapsed,
        figures,
        ceiling: None,
        verdicts,
        notes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::phlem::media::LegEnd;

    fn hello(id: &str, capacity: u32) -> (String, (Hello, i64)) {
        let hello = Hello {
            id: id.to_owned(),
            version: VERSION.to_owned(),
            capacity,
            is_busy: false,
            now: UnixTime::default(),
        };
        (id.to_owned(), (hello, 0))
    }

    #[test]
    fn shares_are_neighbours_as_wide_as_the_capacities() {
        let agents = deal(&[hello("a", 1), hello("b", 2), hello("c", 5), hello("d", 0)].into());
        let shares: Vec<_> =
            agents.iter().map(|agent| ((agent.from * 9.0).round(), (agent.to * 9.0).round())).collect();
        assert_eq!(shares, [(0.0, 1.0), (1.0, 3.0), (3.0, 8.0), (8.0, 9.0)]);
        assert!(agents.windows(2).all(|pair| pair[0].to == pair[1].from));
        assert_eq!((agents[0].from, agents[3].to), (0.0, 1.0));
    }

    #[test]
    fn clocks_that_differ_begin_together() {
        let at = UnixTime::from_secs;
        assert_eq!(ahead(at(100), at(161), at(102)), 60_000_000);
        assert_eq!(ahead(at(100), at(41), at(102)), -60_000_000);
    }

    #[test]
    fn an_agent_that_dies_is_named_with_its_share_and_its_levels_go() {
        let mut agents = deal(&[hello("a", 1), hello("b", 1)].into());
        let now = clock::instant();
        let mut watch = Watch {
            began: now,
            last: BTreeMap::new(),
            ledger: Ledger::default(),
            ends_by: now + Duration::from_secs(60),
        };
        for (id, state) in [("a", State::Done), ("b", State::Running)] {
            let figures = Figures { phones: 10, registered_now: 10, calls: 5, ..Figures::default() };
            let report = Report {
                agent: id.into(),
                state,
                phase: Phase::Calls,
                elapsed_ms: 1,
                figures,
                notes: vec!["n".into()],
                ends: vec![LegEnd {
                    call: 9,
                    is_caller: id == "a",
                    sent: 500,
                    was_to_hear: true,
                    unheard: 400,
                    ..LegEnd::default()
                }],
            };
            watch.on_report(report, &mut agents);
        }
        agents[1].heard = now - Duration::from_secs(9);
        watch.look_for_dead(&mut agents);
        let (figures, _) = watch.merged();
        assert_eq!((figures.phones, figures.registered_now, figures.calls), (20, 10, 10));
        assert_eq!((figures.media.silent, figures.media.unheard, watch.ledger.judged()), (2, 800, 2));
        let options = LeadOptions {
            nats: String::new(),
            fleet: "f".into(),
            agents: None,
            wait: Duration::ZERO,
            server: None,
            seed: None,
            stop: Arc::default(),
        };
        let summary = conclude(&Scenario::default(), &options, &agents, figures, watch.ledger.judged(), Duration::ZERO);
        assert!(!summary.is_met());
        assert!(summary.notes.iter().any(|note| note.contains("agent b died") && note.contains("50.0 % to 100.0 %")));
        assert!(summary.notes.contains(&"agent a: n".to_owned()), "{:?}", summary.notes);
    }
}
