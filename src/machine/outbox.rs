//! Everything a machine may cause. The caller owns the outbox, empties it after each step, and applies it in order.

use std::net::SocketAddr;

use serde::Deserialize;
use serde::Serialize;

use crate::base::id::CallId;
use crate::base::id::Handle;
use crate::base::id::ShardId;
use crate::base::limit::OUTBOX_MAX;
use crate::machine::flow::Flow;
use crate::machine::lingering::Key;
use crate::machine::media::command::MediaCommand;
use crate::machine::media::command::SocketCommand;
use crate::machine::source_limit::Sighting;
use crate::wire::event::Body;
use crate::wire::link::LiveCall;
use crate::wire::link::Registration;
use crate::wire::link::TraceStep;
use crate::wire::tape::Mark;

#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// One SIP message the way of a flow.
    Send {
        flow: Flow,
        bytes: Vec<u8>,
    },
    /// The same over a connection of this shard for another one, which has decided it.
    Write {
        flow: Flow,
        bytes: Vec<u8>,
    },
    /// Whoever holds this connection may stop to treat it as a stranger's.
    Keep {
        flow: Flow,
    },
    /// A message to another shard, or to this one through the same door.
    Mesh {
        to: ShardId,
        message: Mesh,
    },
    Event {
        tenant: String,
        call: Option<CallId>,
        leg: Option<u8>,
        body: Body,
    },
    /// What changed in a recording, at this place among its frames.
    Mark {
        call: CallId,
        mark: Mark,
    },
    /// Changes of what the API shows as up.
    Live(Live),
    /// The final response to a non-INVITE request of a call; kept for retransmissions, then sent.
    Answer {
        key: Key,
        flow: Flow,
        bytes: Vec<u8>,
    },
    /// The decisions of a call that is over.
    Traced {
        call: CallId,
        tenant: String,
        steps: Vec<TraceStep>,
    },
    /// A call asks for the bindings of these addresses of record; the exchange answers with targets.
    Locate {
        call: Handle,
        aors: Vec<Aor>,
    },
    /// A call to the relay of its shard; the exchange passes it on.
    Media(MediaCommand),
    /// The relay to its sockets.
    Socket(SocketCommand),
    /// A packet of our own from a media slot.
    Rtp {
        slot: u32,
        to: SocketAddr,
        bytes: Vec<u8>,
    },
    /// What must outlive the engine.
    Store(Stored),
}

/// A change of the bindings on disk; the last word on a key counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    Put { key: Vec<u8>, value: Vec<u8> },
    Remove { key: Vec<u8> },
}

impl Output {
    fn is_internal(&self) -> bool {
        matches!(self, Self::Locate { .. } | Self::Media(_))
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Live {
    Registered(Registration),
    RegistrationGone { tenant: String, user: String, contact: String },
    Call(LiveCall),
    CallGone(CallId),
}

/// Between shards; safe to repeat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Mesh {
    /// A SIP message that is the receiver's, as it came.
    Sip {
        flow: Flow,
        bytes: Vec<u8>,
    },
    /// Bytes for a connection that the receiver holds.
    Write {
        flow: Flow,
        bytes: Vec<u8>,
    },
    /// Which bindings do these addresses of record have?
    Locate {
        request: u64,
        aors: Vec<Aor>,
    },
    Located {
        request: u64,
        targets: Vec<Target>,
    },
    /// Where phones of the sender were registered from.
    Known {
        phones: Vec<Sighting>,
    },
    /// A connection that the receiver holds is a phone's.
    Keep {
        flow: Flow,
    },
    /// A connection ended: bindings and calls on it are without a flow.
    FlowClosed {
        flow: Flow,
    },
    /// Is this phone of yours registered over the flow that this request came over, which is in a dialog of mine?
    Vouch {
        aor: Aor,
        flow: Flow,
        bytes: Vec<u8>,
    },
    /// The answer, with the request.
    Vouched {
        flow: Flow,
        bytes: Vec<u8>,
        is_bound: bool,
    },
}

/// An address of record: a phone of the directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Aor {
    pub tenant: String,
    pub user: String,
}

/// A binding that a call can ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    pub aor: Aor,
    /// The request URI: the Contact as registered, without what a request may not have of it.
    pub contact: String,
    /// Where the request really goes.
    pub flow: Flow,
    /// Route header values of the request (RFC 3327 Path), first to last.
    pub path: Vec<String>,
    /// Thousandths of q, 1000 is first choice.
    pub q: u16,
    /// `+sip.instance` as registered; empty: none.
    pub instance: String,
}

/// Which binding something belongs to, over whatever flow it is reached at the moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    pub aor: Aor,
    pub contact: String,
    /// Empty: none.
    pub instance: String,
}

impl Bound {
    /// The same phone: its instance is the same (RFC 5626 §4.1), or its contact if it has none.
    pub fn is(&self, target: &Target) -> bool {
        let same_device = match self.instance.as_str() {
            "" => self.contact == target.contact,
            instance => instance == target.instance,
        };
        self.aor == target.aor && same_device
    }
}

#[derive(Clone, Debug, Default)]
pub struct Outbox {
    outputs: Vec<Output>,
    /// Outputs refused because a step made too many: a fault of ours, counted.
    pub overflows: u64,
}

impl Outbox {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn push(&mut self, output: Output) {
        if self.outputs.len() >= OUTBOX_MAX {
            self.overflows += 1;
            return;
        }
        self.outputs.push(output);
    }

    pub fn send(&mut self, flow: Flow, bytes: Vec<u8>) {
        self.push(Output::Send { flow, bytes });
    }

    pub fn len(&self) -> usize {
        self.outputs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.outputs.is_empty()
    }

    /// Forgets what was pushed after `len`: a step that failed leaves no effect.
    pub fn truncate(&mut self, len: usize) {
        self.outputs.truncate(len);
    }

    /// Every answer from `mark` on is shown to `keep` and becomes something to send, in its place: the 200 of a CANCEL goes
    /// out before the 487 that it causes.
    pub fn send_answers(&mut self, mark: usize, mut keep: impl FnMut(Key, &Flow, &[u8])) {
        for output in self.outputs.iter_mut().skip(mark) {
            if let Output::Answer { key, flow, bytes } = output {
                keep(*key, flow, bytes);
                *output = Output::Send { flow: *flow, bytes: std::mem::take(bytes) };
            }
        }
    }

    /// What was pushed after `mark` and is still there.
    pub fn after(&self, mark: usize) -> impl Iterator<Item = &Output> {
        self.outputs.iter().skip(mark)
    }

    /// The first line of the last message sent after `mark`.
    pub fn status_line_after(&self, mark: usize) -> Option<&str> {
        let bytes = self.after(mark).filter_map(|output| match output {
            Output::Send { bytes, .. } => Some(bytes),
            _ => None,
        });
        let line = bytes.last()?.split(|byte| *byte == b'\r').next()?;
        std::str::from_utf8(line).ok()
    }

    /// Takes out what was pushed after `mark` for the shard's own exchange, in order; the rest stays.
    pub fn take_internal(&mut self, mark: usize) -> Vec<Output> {
        if !self.outputs.iter().skip(mark).any(Output::is_internal) {
            return Vec::new();
        }
        self.outputs.extract_if(mark.., |output| output.is_internal()).collect()
    }

    pub fn drain(&mut self) -> impl Iterator<Item = Output> + '_ {
        self.outputs.drain(..)
    }
}
