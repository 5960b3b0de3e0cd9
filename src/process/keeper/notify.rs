//! What the service manager is told (sd_notify): one datagram to the socket that `$NOTIFY_SOCKET` names.
//!
//! The watchdog is fed by the keeper's own loop. Shards are the keeper's to judge, so that it goes hungry in one case only: no engine
//! has beaten for a minute, whatever the keeper started. The units of a later service manager read the same words.

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::base::time::Instant;

/// No engine has beaten for so long: the keeper may be the one at fault.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Asked for again long before it is over.
const EXTENSION: Duration = Duration::from_secs(30);
const EXTEND_EVERY: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Starting,
    Serving,
    /// Waits for the last call, for as long as the configuration says.
    Draining,
    Stopping,
}

pub(super) struct Manager {
    socket: Option<OsString>,
    words: Words,
}

/// What is to be said and when, without the socket.
struct Words {
    watchdog: Option<Duration>,
    fed: Instant,
    extended: Instant,
    status: String,
}

impl Manager {
    pub(super) fn of_environment() -> Self {
        let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|_| is_ours).map(Duration::from_micros);
        Self { socket: std::env::var_os("NOTIFY_SOCKET"), words: Words::new(watchdog) }
    }

    /// A name that begins with `@` is abstract.
    pub(super) fn send(&self, state: &str) {
        let Some(name) = &self.socket else { return };
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(name),
        };
        let (Ok(address), Ok(datagram)) = (address, UnixDatagram::unbound()) else { return };
        let _ = datagram.set_nonblocking(true);
        let _ = datagram.send_to_addr(state.as_bytes(), &address);
    }

    /// Tells what is due. `beaten` is when an engine last beat.
    pub(super) fn tell(&mut self, phase: Phase, beaten: Instant, status: String, now: Instant) {
        if self.socket.is_none() {
            return;
        }
        for state in self.words.due(phase, beaten, status, now) {
            self.send(&state);
        }
    }

    pub(super) fn reloading(&self, now: Instant) {
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.nanos() / 1_000));
    }

    pub(super) fn next_deadline(&self, phase: Phase) -> Instant {
        if self.socket.is_some() { self.words.next_deadline(phase) } else { Instant::NEVER }
    }
}

impl Words {
    fn new(watchdog: Option<Duration>) -> Self {
        Self { watchdog, fed: Instant::from_nanos(0), extended: Instant::from_nanos(0), status: String::new() }
    }

    fn due(&mut self, phase: Phase, beaten: Instant, status: String, now: Instant) -> Vec<String> {
        let mut states = Vec::new();
        if let Some(at) = self.feed_at(phase)
            && at <= now
        {
            self.fed = now;
            // A keeper that stops has no engine that beats, and the service manager has its limits for that.
            if phase != Phase::Serving || now.since(beaten) < SILENCE_MAX {
                states.push("WATCHDOG=1".to_owned());
            }
        }
        if let Some(at) = self.extend_at(phase)
            && at <= now
        {
            self.extended = now;
            states.push(format!("EXTEND_TIMEOUT_USEC={}", EXTENSION.as_micros()));
        }
        if status != self.status {
            states.push(format!("STATUS={status}"));
            self.status = status;
        }
        states
    }

    fn next_deadline(&self, phase: Phase) -> Instant {
        let due = [self.feed_at(phase), self.extend_at(phase)];
        due.into_iter().flatten().min().unwrap_or(Instant::NEVER)
    }

    fn feed_at(&self, phase: Phase) -> Option<Instant> {
        self.watchdog.filter(|_| phase != Phase::Starting).map(|limit| self.fed + limit / 4)
    }

    /// A start is bounded by the keeper, a drain by the configuration; what comes after it is short.
    fn extend_at(&self, phase: Phase) -> Option<Instant> {
        matches!(phase, Phase::Starting | Phase::Draining).then_some(self.extended + EXTEND_EVERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said in these seconds, by a keeper whose engine last beat at `beaten`.
    fn said(words: &mut Words, phase: Phase, seconds: std::ops::Range<u64>, beaten: u64) -> Vec<(u64, String)> {
        let at = |second: u64| Instant::from_millis(1_000 * (second + 1_000));
        let mut said = Vec::new();
        for second in seconds {
            let states = words.due(phase, at(beaten), "up".to_owned(), at(second));
            said.extend(states.into_iter().map(|state| (second, state)));
            assert!(words.next_deadline(phase) > at(second), "the loop must not spin");
        }
        said.retain(|(_, state)| state != "STATUS=up");
        said
    }

    #[test]
    fn the_watchdog_is_fed_in_time_while_an_engine_beats() {
        let mut words = Words::new(Some(Duration::from_secs(90)));
        let mut last = 0;
        for second in 0..600 {
            for (at, state) in said(&mut words, Phase::Serving, second..second + 1, second) {
                assert_eq!(state, "WATCHDOG=1");
                assert!(at - last < 45, "half of the limit is what the service manager asks for");
                last = at;
            }
        }
        assert!(600 - last < 45);
    }

    #[test]
    fn the_watchdog_goes_hungry_when_no_engine_has_beaten_for_a_minute() {
        let mut words = Words::new(Some(Duration::from_secs(90)));
        let fed = said(&mut words, Phase::Serving, 0..600, 0);
        assert!(fed.iter().all(|(at, _)| *at < 60) && fed.iter().any(|(at, _)| *at > 30), "{fed:?}");
        let again = said(&mut words, Phase::Serving, 600..700, 600);
        assert!(!again.is_empty(), "an engine beats again");
        assert!(!said(&mut words, Phase::Stopping, 700..800, 0).is_empty(), "a stop has no engine");
    }

    #[test]
    fn without_a_watchdog_nothing_is_fed() {
        let mut words = Words::new(None);
        assert_eq!(said(&mut words, Phase::Serving, 0..600, 0), []);
        assert_eq!(words.next_deadline(Phase::Serving), Instant::NEVER);
    }

    #[test]
    fn a_drain_has_the_time_it_needs_and_a_stop_does_not() {
        let mut words = Words::new(None);
        let asked = said(&mut words, Phase::Draining, 0..900, 0);
        let gaps = asked.windows(2).map(|pair| pair[1].0 - pair[0].0);
        assert!(asked.iter().all(|(_, state)| state == "EXTEND_TIMEOUT_USEC=30000000"));
        assert!(asked[0].0 == 0 && gaps.max() <= Some(10) && asked.last().is_some_and(|last| last.0 > 890));
        assert_eq!(said(&mut words, Phase::Stopping, 900..1_000, 0), []);
    }

    #[test]
    fn a_status_is_said_once() {
        let (mut words, now) = (Words::new(None), Instant::from_millis(1));
        let mut due = |status: &str| words.due(Phase::Serving, now, status.to_owned(), now);
        assert_eq!(due("up"), ["STATUS=up"]);
        assert_eq!(due("up"), Vec::<String>::new());
        assert_eq!(due("side is down"), ["STATUS=side is down"]);
    }
}
