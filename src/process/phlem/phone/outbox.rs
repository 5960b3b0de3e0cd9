//! What a phone wants done, and what it is given to decide with.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::base::time::Now;
use crate::process::phlem::figures::Figures;
use crate::process::phlem::scenario::Population;
use crate::process::phlem::scenario::Scenario;
use crate::shard::run::Flow;
use crate::shard::udp::Slot;

/// What all phones of a thread share and none changes.
#[derive(Debug)]
pub struct Settings {
    pub scenario: Scenario,
    pub server: SocketAddr,
    /// The host that the server was named with.
    pub server_host: String,
    /// Differs between runs: branches, tags and Call-IDs of the last one find nobody.
    pub boot: u64,
    /// Local addresses of the thread's signalling sockets, as messages show them.
    pub signalling: Vec<String>,
    /// The first of their slots.
    pub signalling_from: Slot,
    /// Where descriptions point to when a call has no media of its own.
    pub silent: SocketAddr,
}

impl Settings {
    pub fn population(&self, index: u16) -> &Population {
        &self.scenario.populations[usize::from(index)]
    }
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// Over the phone's socket or connection, which is opened if need be.
    Server,
    /// Back where a request came from.
    Flow(Flow),
}

/// Who hears and speaks on an RTP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speech {
    pub slot: Slot,
    pub to: SocketAddr,
    pub call: u64,
    pub is_caller: bool,
    pub codec: u8,
    pub events: Option<u8>,
    /// False: on hold, or the other side does not listen.
    pub sends: bool,
    /// The other side speaks, and has to be heard.
    pub hears: bool,
}

#[derive(Debug)]
pub enum Effect {
    Send {
        to: To,
        bytes: Bytes,
    },
    /// Closes the phone's connection.
    Disconnect,
    /// Begins to speak and listen, or goes on elsewhere or otherwise.
    Speak(Speech),
    /// Ends it, and gives the port back.
    Hush(Slot),
    /// Presses keys (RFC 4733).
    Press {
        slot: Slot,
        digits: String,
    },
    /// A stream of calls has one less.
    Ended {
        stream: u16,
    },
}

/// RTP ports that no call uses.
#[derive(Debug, Default)]
pub struct Ports {
    free: VecDeque<Slot>,
    addresses: Vec<SocketAddr>,
}

impl Ports {
    /// Slots are those of the addresses' places.
    pub fn new(addresses: Vec<SocketAddr>) -> Self {
        let free = (0..addresses.len() as Slot).collect();
        Self { free, addresses }
    }

    pub fn take(&mut self) -> Option<Slot> {
        self.free.pop_front()
    }

    pub fn give_back(&mut self, slot: Slot) {
        // The one that was free longest is used next: what is still on its way to this one dies meanwhile.
        self.free.push_back(slot);
    }

    pub fn address(&self, slot: Slot) -> Option<SocketAddr> {
        self.addresses.get(slot as usize).copied()
    }
}

/// What a step of a phone works with.
pub struct Desk<'a> {
    pub settings: &'a Settings,
    pub now: Now,
    pub ports: &'a mut Ports,
    pub figures: &'a mut Figures,
    pub effects: &'a mut Vec<Effect>,
}

impl Desk<'_> {
    pub fn send(&mut self, to: To, bytes: Bytes) {
        self.figures.messages_sent += 1;
        self.effects.push(Effect::Send { to, bytes });
    }
}

/// What a call is to be, decided when it is placed.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The stream of calls it belongs to.
    pub stream: u16,
    /// A user of the phone's domain, or a URI.
    pub to: String,
    pub talk: Duration,
    pub callee_ends: bool,
    pub media: bool,
    pub hold: bool,
    pub dtmf: bool,
    pub dtmf_info: bool,
    pub transfer: Option<Transfer>,
    /// Gives up if nobody has answered by then.
    pub patience: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transfer {
    Blind(String),
    Attended(String),
}
