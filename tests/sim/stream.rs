//! A TCP connection of the simulator: bytes in order, cut anywhere and run together, until it breaks and all under way is lost.

use std::time::Duration;

use tipring::base::random::Random;
use tipring::base::time::Instant;
use tipring::machine::flow::Flow;
use tipring::wire::sip::Frame;
use tipring::wire::sip::Framer;

use crate::text;

/// All shards know of a break: one way over the mesh, and the message that was on its way there.
pub const KNOWN_AFTER: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub struct Stream {
    pub phone: usize,
    /// As the shard that accepted it knows it.
    pub flow: Flow,
    /// Each end's view: they learn of a break at different times.
    pub node_is_open: bool,
    pub phone_is_open: bool,
    /// When the node learned of the break.
    pub gone_at: Option<Instant>,
    /// A message came: what ends is somebody's flow.
    pub was_heard: bool,
    framer: Framer,
    node: End,
    phone_end: End,
}

/// What is on its way to one end, and what has arrived there and is no whole message yet.
#[derive(Debug, Default)]
struct End {
    under_way: Vec<u8>,
    arrived: Vec<u8>,
    is_scheduled: bool,
}

/// What the node reads off the front.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    Message(Vec<u8>),
    Ping,
    Nothing,
}

impl Stream {
    pub fn new(phone: usize, flow: Flow) -> Self {
        Self {
            phone,
            flow,
            node_is_open: true,
            phone_is_open: true,
            gone_at: None,
            was_heard: false,
            framer: Framer::default(),
            node: End::default(),
            phone_end: End::default(),
        }
    }

    /// The node knows that nothing can be reached over it.
    pub fn is_known_gone(&self, now: Instant) -> bool {
        self.gone_at.is_some_and(|gone_at| now > gone_at + KNOWN_AFTER)
    }

    /// Reliability: "Flow gone: binding gone", and nobody's phone rings over it.
    pub fn written_when_gone(&self, bytes: &[u8], now: Instant, may_be_missed: bool) {
        let is_invite = bytes.starts_with(b"INVITE ");
        assert!(
            !is_invite || may_be_missed || !self.is_known_gone(now),
            "an INVITE to {}, gone at {:?}",
            self.flow,
            self.gone_at
        );
    }

    fn end(&mut self, to_node: bool) -> &mut End {
        if to_node { &mut self.node } else { &mut self.phone_end }
    }

    /// Appends; true if an arrival is to be scheduled.
    pub fn write(&mut self, to_node: bool, bytes: &[u8]) -> bool {
        let end = self.end(to_node);
        end.under_way.extend_from_slice(bytes);
        !std::mem::replace(&mut end.is_scheduled, true)
    }

    /// Some of what is under way arrives; true if there is more.
    pub fn arrive(&mut self, to_node: bool, random: &mut Random) -> bool {
        let is_open = self.node_is_open && self.phone_is_open;
        let end = self.end(to_node);
        if !is_open {
            *end = End::default();
            return false;
        }
        let all = end.under_way.len() as u64;
        let cut = match random.below(4) {
            0 => 1 + random.below(all.min(5)),
            1 => 1 + random.below(all),
            _ => all,
        };
        end.arrived.extend(end.under_way.drain(..cut as usize));
        end.is_scheduled = !end.under_way.is_empty();
        end.is_scheduled
    }

    /// As the engine reads its connections.
    pub fn read_at_node(&mut self) -> Read {
        match self.framer.next(&self.node.arrived) {
            Frame::Message { len } => {
                self.was_heard = true;
                Read::Message(self.node.arrived.drain(..len).collect())
            }
            Frame::Ping { len } => {
                self.node.arrived.drain(..len);
                Read::Ping
            }
            Frame::KeepAlive { len } => {
                self.node.arrived.drain(..len);
                self.read_at_node()
            }
            Frame::Partial => Read::Nothing,
            Frame::Broken { .. } => {
                panic!("a stream of phones that write well breaks: {}", self.node.arrived.escape_ascii())
            }
        }
    }

    pub fn read_at_phone(&mut self) -> Option<Vec<u8>> {
        let arrived = &mut self.phone_end.arrived;
        while arrived.starts_with(b"\r\n") {
            arrived.drain(..2);
        }
        let len = text::whole(arrived)?;
        Some(arrived.drain(..len).collect())
    }
}
