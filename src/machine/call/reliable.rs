//! Our provisional responses of one early dialog towards the caller, reliable or not (RFC 3262 §3).

use std::collections::VecDeque;

use serde::Deserialize;
use serde::Serialize;

use crate::base::time::Instant;
use crate::machine::call::terms::PROVISIONALS_MAX;
use crate::machine::dialog::Text;
use crate::machine::transaction::repeat::Repeat;
use crate::wire::sip::HeaderId;
use crate::wire::sip::Message;

/// What the caller's INVITE says about 100rel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Rel100 {
    Unknown,
    Supported,
    Required,
}

impl Rel100 {
    pub(super) fn of(invite: &Message<'_>) -> Self {
        if invite.has_tag(HeaderId::Require, "100rel") {
            Self::Required
        } else if invite.has_tag(HeaderId::Supported, "100rel") {
            Self::Supported
        } else {
            Self::Unknown
        }
    }

    pub(super) fn is_known(self) -> bool {
        self != Self::Unknown
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reliable {
    /// Of the next one.
    rseq: u32,
    outstanding: Option<Outstanding>,
    waiting: VecDeque<Provisional>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Outstanding {
    rseq: u32,
    has_sdp: bool,
    repeat: Repeat,
}

/// A provisional response to be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Provisional {
    pub status: u16,
    pub sdp: Option<Text>,
}

impl Reliable {
    /// RFC 3262 §3: "The initial value MUST be … chosen uniformly between 1 and 2**31 - 1"; a small one is as good and easier to read.
    pub(super) fn new(first: u32) -> Self {
        Self { rseq: first.clamp(1, 1 << 30), outstanding: None, waiting: VecDeque::new() }
    }

    /// The RSeq to send with, or `None`: it waits.
    ///
    /// RFC 3262 §3: "the UAS core MUST NOT send any other provisional responses reliably, until the first is acknowledged."
    pub(super) fn admit(&mut self, provisional: &Provisional) -> Option<u32> {
        if self.outstanding.is_none() {
            let rseq = self.rseq;
            self.rseq += 1;
            return Some(rseq);
        }
        if self.waiting.len() < PROVISIONALS_MAX {
            self.waiting.push_back(provisional.clone());
        }
        None
    }

    pub(super) fn sent(&mut self, rseq: u32, has_sdp: bool, repeat: Repeat) {
        self.outstanding = Some(Outstanding { rseq, has_sdp, repeat });
    }

    /// RFC 3262 §3: a 2xx waits while "any of the unacknowledged reliable provisional responses contained a session description".
    pub(super) fn holds_answer(&self) -> bool {
        self.outstanding.as_ref().is_some_and(|outstanding| outstanding.has_sdp)
    }

    /// True if this is what was waited for.
    pub(super) fn acknowledge(&mut self, rseq: u32) -> bool {
        let matches = self.outstanding.as_ref().is_some_and(|outstanding| outstanding.rseq == rseq);
        if matches {
            self.outstanding = None;
        }
        matches
    }

    pub(super) fn next_waiting(&mut self) -> Option<Provisional> {
        self.waiting.pop_front()
    }

    /// A final response was sent: no more repeats.
    pub(super) fn stop(&mut self) {
        self.outstanding = None;
        self.waiting.clear();
    }

    pub(super) fn outstanding_mut(&mut self) -> Option<&mut Repeat> {
        self.outstanding.as_mut().map(|outstanding| &mut outstanding.repeat)
    }

    pub(super) fn next_deadline(&self) -> Instant {
        self.outstanding.as_ref().map_or(Instant::NEVER, |outstanding| outstanding.repeat.next_deadline())
    }
}
