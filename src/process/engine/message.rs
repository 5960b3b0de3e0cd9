//! What the threads of an engine say to each other over the mesh: shard to shard, shard to clerk and back.

use std::sync::Arc;

use crate::base::id::CallId;
use crate::base::time::Instant;
use crate::machine::directory::Directory;
use crate::machine::outbox::Live;
use crate::machine::outbox::Mesh;
use crate::machine::outbox::Stored;
use crate::machine::settings::Settings;
use crate::shard::memory::Histogram;
use crate::wire::event::By;
use crate::wire::event::Event;
use crate::wire::hep::Content;
use crate::wire::link::RecordWish;
use crate::wire::link::TraceStep;

#[derive(Debug)]
pub enum Message {
    /// Between shards; with the arrival of the SIP message that caused it, if one did.
    Mesh(Mesh, Option<Cause>),
    ToClerk(ToClerk),
    ToShard(ToShard),
}

#[derive(Debug)]
pub enum ToClerk {
    Event(Box<Event>),
    Live(Box<Live>),
    Store(Box<Stored>),
    /// The decisions of a call that is over.
    CallTrace {
        call: CallId,
        tenant: String,
        steps: Vec<TraceStep>,
    },
    /// Answer to [`ToShard::Hangup`] and [`ToShard::Record`].
    Found {
        request: u64,
        found: bool,
    },
    /// Answer to [`ToShard::Settled`].
    Settled {
        request: u64,
    },
    /// Answer to [`ToShard::Trace`].
    Traced {
        request: u64,
        steps: Option<Vec<TraceStep>>,
    },
    /// A copy for the HEP mirror.
    Capture(Box<Capture>),
}

/// The SIP message behind what a shard does: how long we took is counted under its method.
#[derive(Clone, Copy, Debug)]
pub struct Cause {
    pub method: Histogram,
    pub arrived: Instant,
}

/// A SIP message or an RTCP packet as it passed, for a capture server.
#[derive(Debug)]
pub struct Capture {
    pub content: Content,
    pub at: crate::base::time::UnixTime,
    pub source: std::net::SocketAddr,
    pub destination: std::net::SocketAddr,
    pub is_reliable: bool,
    pub call: Option<CallId>,
    pub bytes: Vec<u8>,
}

impl ToShard {
    /// Somebody waits for the answer, for a while.
    pub fn is_question(&self) -> bool {
        matches!(self, Self::Hangup { .. } | Self::Record { .. } | Self::Trace { .. } | Self::Settled { .. })
    }
}

#[derive(Clone, Debug)]
pub enum ToShard {
    Directory(Arc<Directory>),
    Settings(Arc<Settings>),
    /// Whether a capture server wants copies from now on.
    Captured(bool),
    Drain(bool),
    Hangup {
        request: u64,
        call: CallId,
        by: By,
    },
    /// Answered like [`ToShard::Hangup`].
    Record {
        request: u64,
        call: CallId,
        wish: RecordWish,
        by: By,
    },
    HangupAll,
    /// Answered when whatever was said before is done.
    Settled {
        request: u64,
    },
    Trace {
        request: u64,
        subject: String,
    },
}
