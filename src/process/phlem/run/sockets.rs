//! The sockets of a run, opened before its threads start: how many files that takes, and what to do if they are not allowed.

use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::process::Resource;
use rustix::process::Rlimit;
use rustix::process::getrlimit;
use rustix::process::setrlimit;
use socket2::Domain;
use socket2::Protocol;
use socket2::Socket;
use socket2::Type;

use crate::process::phlem::run::PhlemError;
use crate::process::phlem::scenario::Calls;
use crate::process::phlem::scenario::Scenario;
use crate::process::phlem::scenario::Spread;
use crate::process::phlem::scenario::Transport;

/// Descriptors beside sockets: rings, eventfds, standard streams.
const OTHERS: u64 = 64;
/// What a storm of registrations may pile up before a thread reads it.
const SIGNALLING_BUFFER: usize = 8 << 20;
const PORTS_MAX: f64 = 30_000.0;
/// How often a free port is looked for.
const TRIES: usize = 50;

/// Files that a run needs on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Needs {
    /// Of each thread.
    pub(super) signalling: usize,
    pub(super) ports: usize,
    /// Of all threads.
    pub(super) connections: u64,
}

impl Needs {
    /// `phones`: those of this machine, of `all`, on so many threads.
    pub(super) fn of(scenario: &Scenario, share: f64, threads: usize) -> Self {
        let legs: f64 = scenario.calls.iter().map(legs_at_once).sum();
        let ports = (legs * share / threads as f64).ceil().min(PORTS_MAX) as usize;
        let over_tcp =
            |population: &&crate::process::phlem::scenario::Population| population.transport == Transport::Tcp;
        let tcp: u32 = scenario.populations.iter().filter(over_tcp).map(|population| population.users.count()).sum();
        let connections = (f64::from(tcp) * share).ceil() as u64;
        Self { signalling: usize::from(scenario.sockets), ports, connections }
    }

    fn files(&self, threads: usize) -> u64 {
        (self.signalling + self.ports) as u64 * threads as u64 + self.connections + OTHERS
    }

    /// Raises the limit of open files as far as is needed and allowed.
    pub(super) fn make_room(&self, threads: usize) -> Result<(), PhlemError> {
        let files = self.files(threads);
        let limit = getrlimit(Resource::Nofile);
        if limit.current.is_none_or(|current| current >= files) {
            return Ok(());
        }
        if limit.maximum.is_none_or(|maximum| maximum >= files) {
            let raised = Rlimit { current: Some(files), maximum: limit.maximum };
            return setrlimit(Resource::Nofile, raised).map_err(|error| PhlemError::Os("open files", error.into()));
        }
        let maximum = limit.maximum.unwrap_or(0);
        let Self { signalling, ports, connections } = self;
        Err(PhlemError::Forbidden(format!(
            "the scenario needs {files} open files ({threads} threads with {signalling} sockets for signalling and {ports} for \
             audio each, {connections} TCP connections), {maximum} are allowed; remedy: ulimit -n {files} as root, or fewer calls \
             at once (calls.concurrent_max), or phones over UDP, which share sockets"
        )))
    }
}

/// Legs with audio that a stream of calls has at once: its mean, and five times the deviation of a Poisson process above.
fn legs_at_once(calls: &Calls) -> f64 {
    if !calls.media {
        return 0.0;
    }
    let peak = calls.rate * calls.curve.iter().copied().fold(if calls.curve.is_empty() { 1.0 } else { 0.0 }, f64::max);
    let seconds = |spread: &Spread| match spread {
        Spread::Even(from, to) => (from.0 + to.0).as_secs_f64() / 2.0,
        Spread::Exponential(mean) => mean.0.as_secs_f64(),
    };
    // The time of ringing is on the callee's side; a quarter of a minute is more than people let wait.
    let up = peak * (seconds(&calls.talk) + 15.0);
    let up = up + 5.0 * up.sqrt() + 16.0;
    let most = if calls.concurrent_max > 0 { f64::from(calls.concurrent_max) * 1.2 + 16.0 } else { f64::INFINITY };
    let transfers = 1.0 + calls.blind_transfer + 2.0 * calls.attended_transfer;
    2.0 * up.min(most) * transfers
}

/// One bound socket.
pub(super) struct Bound {
    pub(super) socket: OwnedFd,
    pub(super) address: SocketAddr,
}

pub(super) fn signalling(local: IpAddr) -> Result<Bound, PhlemError> {
    let bound = bind(local).map_err(|error| PhlemError::Os("a socket for signalling", error))?;
    let socket = Socket::from(bound.socket);
    // As much as the system gives; the report says what was lost.
    let _ = socket.set_recv_buffer_size(SIGNALLING_BUFFER);
    let _ = socket.set_send_buffer_size(SIGNALLING_BUFFER);
    Ok(Bound { socket: socket.into(), address: bound.address })
}

pub(super) fn media(local: IpAddr) -> Result<Bound, PhlemError> {
    bind(local).map_err(|error| PhlemError::Os("a socket for audio", error))
}

/// At a port that the kernel names and we then ask for: one that was never asked for is lost when a peer is forgotten.
fn bind(local: IpAddr) -> io::Result<Bound> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..TRIES {
        let named = open(SocketAddr::new(local, 0))?;
        let Some(address) = named.local_addr()?.as_socket() else { break };
        drop(named);
        match open(address) {
            Ok(socket) => return Ok(Bound { socket: socket.into(), address }),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::phlem::scenario::ready;

    #[test]
    fn needs_grow_with_calls_and_are_refused_with_a_remedy() {
        let scenario = Scenario::parse("x", ready::text("busy-hour").unwrap()).unwrap();
        let one = Needs::of(&scenario, 1.0, 1);
        let two = Needs::of(&scenario, 1.0, 2);
        assert!((100..400).contains(&one.ports) && two.ports < one.ports, "{one:?}");
        let huge = Needs { signalling: 8, ports: 900_000_000, connections: 5 };
        let fault = huge.make_room(2).unwrap_err().to_string();
        for part in ["1800000085 open files", "ulimit -n", "concurrent_max", "5 TCP connections"] {
            assert!(fault.contains(part), "{part} is not in {fault}");
        }
    }
}
