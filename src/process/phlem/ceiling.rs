//! What the emulator can do by itself: its work against a server that does nothing, on the CPUs that a run is to have.
//!
//! Each kind of work runs for some seconds at a rate that keeps the threads about half busy; the exact CPU time of the threads
//! then says where they would be full. Beyond that point what is measured is the emulator, not a server.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::process::phlem::figures::Figures;
use crate::process::phlem::null::NullServer;
use crate::process::phlem::run::Elapsed;
use crate::process::phlem::run::Phase;
use crate::process::phlem::run::PhlemError;
use crate::process::phlem::run::RunOptions;
use crate::process::phlem::run::Share;
use crate::process::phlem::run::cpus;
use crate::process::phlem::run::run;
use crate::process::phlem::scenario::Scenario;

/// Of all threads together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceiling {
    pub threads: usize,
    /// A second: REGISTER, its challenge, REGISTER with credentials, its answer.
    pub registrations: f64,
    /// A second: INVITE to BYE from both ends, without audio.
    pub calls: f64,
    /// At once, both ends of both ways.
    pub audio_calls: f64,
    /// Of the frames that were sent in the measurement of the last.
    pub lateness_p99: Option<Duration>,
}

/// The share of the threads that a measurement keeps busy.
const HALF: f64 = 0.5;
/// What is tried first: of one thread.
const FIRST: [f64; 3] = [1_000.0, 200.0, 100.0];
const SECONDS: Duration = Duration::from_secs(4);
const SETTLING: Duration = Duration::from_secs(1);
/// A scenario has no greater rate, and no more phones than four times this.
const LEVEL_MAX: f64 = 50_000.0;
/// Ports are finite.
const AUDIO_CALLS_MAX: f64 = 4_000.0;

#[derive(Clone, Copy)]
enum Work {
    Registrations,
    Calls,
    Audio,
}

/// What one measurement found.
#[derive(Default)]
struct Found {
    /// How many a second, or at once.
    level: f64,
    /// CPU seconds a second, of all threads.
    busy: f64,
    lateness_p99: Option<Duration>,
}

pub fn measure(scenario: &Scenario, options: &RunOptions) -> Result<Ceiling, PhlemError> {
    let cpus = cpus(scenario, options);
    let own = RunOptions {
        cpus: cpus.iter().flatten().copied().collect(),
        stop: Arc::clone(&options.stop),
        ..RunOptions::default()
    };
    let threads = cpus.len() as f64;
    let mut found = [0.0; 3];
    let mut lateness_p99 = None;
    for (place, work) in [Work::Registrations, Work::Calls, Work::Audio].into_iter().enumerate() {
        let first = trial(work, FIRST[place] * threads, &own)?;
        let second = trial(work, (full(&first, threads) * HALF).max(1.0), &own)?;
        found[place] = full(&second, threads);
        lateness_p99 = second.lateness_p99;
    }
    let [registrations, calls, audio_calls] = found;
    Ok(Ceiling { threads: cpus.len(), registrations, calls, audio_calls, lateness_p99 })
}

/// Where all threads would be busy all the time.
fn full(found: &Found, threads: f64) -> f64 {
    if found.busy > 0.0 { found.level * threads / found.busy } else { 0.0 }
}

fn trial(work: Work, level: f64, options: &RunOptions) -> Result<Found, PhlemError> {
    let server =
        NullServer::start(SocketAddr::new(own_ip(), 0)).map_err(|error| PhlemError::Os("a null server", error))?;
    let scenario = Scenario::parse("ceiling", &text(work, level))?;
    let options = RunOptions { server: Some(server.address().to_string()), share: Share::ALL, ..options.clone() };
    // From a second after the work began, when all calls are up, to its end.
    let phase = if matches!(work, Work::Registrations) { Phase::Ramp } else { Phase::Calls };
    let mut calls_from = None;
    let (mut first, mut last): (Option<(Duration, Figures)>, _) = (None, None);
    run(scenario, options, |figures, elapsed: Elapsed| {
        let at = elapsed.since_start;
        if elapsed.phase != phase || at < *calls_from.get_or_insert(at) + SETTLING {
            return;
        }
        let now = (at, figures.clone());
        if first.is_none() { first = Some(now) } else { last = Some(now) }
    })?;
    let (Some((from, before)), Some((to, after))) = (first, last) else { return Ok(Found::default()) };
    let seconds = to.saturating_sub(from).as_secs_f64().max(1e-3);
    let rate = |after: u64, before: u64| after.saturating_sub(before) as f64 / seconds;
    let level = match work {
        Work::Registrations => rate(after.registrations, before.registrations),
        Work::Calls => rate(after.calls, before.calls),
        // Fifty frames a second each way.
        Work::Audio => rate(after.media.received, before.media.received) / 100.0,
    };
    let lateness = after.media.send_lateness.since(&before.media.send_lateness);
    let lateness_p99 = lateness.percentile_duration(0.99);
    Ok(Found { level, busy: rate(after.cpu_nanos, before.cpu_nanos) / 1e9, lateness_p99 })
}

/// A loopback address.
fn own_ip() -> IpAddr {
    if std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).is_ok() {
        Ipv4Addr::LOCALHOST.into()
    } else {
        Ipv6Addr::LOCALHOST.into()
    }
}

fn text(work: Work, level: f64) -> String {
    let (seconds, level) = (SECONDS.as_secs() as f64, level.min(LEVEL_MAX));
    let (phones, ramp, duration, calls) = match work {
        // All register once, evenly.
        Work::Registrations => (level * seconds, seconds, 1.0, String::new()),
        Work::Calls => (level * 4.0, 2.0, seconds, format!("rate = {level:.1}\ntalk = \"500ms\"\nmedia = false\n")),
        Work::Audio => {
            // As many as there are to be, within the first second.
            let (calls, rate) = (level.min(AUDIO_CALLS_MAX).round(), level * 2.0);
            let calls = format!("rate = {rate:.1}\ntalk = \"30s\"\nconcurrent_max = {calls}\n");
            (level.min(AUDIO_CALLS_MAX) * 4.0, 2.0, seconds, calls)
        }
    };
    let last = phones.max(40.0) as u64;
    let calls = if calls.is_empty() { calls } else { format!("[[calls]]\n{calls}callee_ends = 0.0\n") };
    format!(
        "name = \"ceiling\"\nduration = \"{duration}s\"\nramp = \"{ramp}s\"\nwind_down = \"100ms\"\nunregister = false\n\
         [[population]]\nusers = \"u0-u{last}\"\npassword = \"p\"\nexpires = \"10m\"\nanswer = \"0ms\"\n{calls}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_trial_is_a_scenario() {
        for work in [Work::Registrations, Work::Calls, Work::Audio] {
            for level in [1.0, 999.5, 1e6] {
                Scenario::parse("ceiling", &text(work, level)).unwrap();
            }
        }
    }

    #[test]
    fn a_ceiling_is_where_the_threads_are_full() {
        let found = Found { level: 500.0, busy: 0.5, lateness_p99: None };
        assert_eq!((full(&found, 2.0), full(&Found::default(), 2.0)), (2_000.0, 0.0));
    }

    #[test]
    fn a_trial_counts_what_was_done() {
        let options = RunOptions::default();
        let found = trial(Work::Calls, 20.0, &options).unwrap();
        assert!((10.0..30.0).contains(&found.level) && found.busy > 0.0, "{} {}", found.level, found.busy);
        let found = trial(Work::Audio, 5.0, &options).unwrap();
        assert!((3.0..6.0).contains(&found.level) && found.lateness_p99.is_some(), "{}", found.level);
    }
}
