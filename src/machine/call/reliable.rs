//! Our provisional responses of one early dialog towards the caller, reliable or not (RFC 3262 §3).

use std::collections::VecDeque;

use serde::Deserialize;
use serde::Serialize;

use crate::base::time::Instant;
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
    /// At most one of each status: see [`Reliable::admit`].
    waiting: VecDeque<Provisional>,
}

/// Sent, and not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Outstanding {
    rseq: u32,
    has_sdp: bool,
    /// None once a final response was sent.
    repeat: Option<Repeat>,
}

/// A provisional response to be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Provisional {
    pub status: u16,
    pub sdp: Option<Text>,
}

/// What is to be done with a provisional response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// To be sent with this RSeq.
    Now(u32),
    Waits,
    /// It waits together with an earlier one of its status.
    Joined,
}

impl Reliable {
    /// RFC 3262 §3: "The initial value MUST be … chosen uniformly between 1 and 2**31 - 1"; a small one is as good and easier to read.
    pub(super) fn new(first: u32) -> Self {
        Self { rseq: first.clamp(1, 1 << 30), outstanding: None, waiting: VecDeque::new() }
    }

    /// RFC 3262 §3: "the UAS core MUST NOT send any other provisional responses reliably, until the first is acknowledged."
    ///
    /// Of each status one waits, the last, with the last description of those that it stands for: no description is lost.
    pub(super) fn admit(&mut self, provisional: &Provisional) -> Admission {
        if self.outstanding.is_none() {
            let rseq = self.rseq;
            self.rseq += 1;
            return Admission::Now(rseq);
        }
        let mut newest = provisional.clone();
        let known = self.waiting.iter().position(|waiting| waiting.status == newest.status);
        let earlier = known.and_then(|at| self.waiting.remove(at));
        let admission = if earlier.is_some() { Admission::Joined } else { Admission::Waits };
        newest.sdp = newest.sdp.or_else(|| earlier.and_then(|earlier| earlier.sdp));
        self.waiting.push_back(newest);
        admission
    }

    pub(super) fn sent(&mut self, rseq: u32, has_sdp: bool, repeat: Repeat) {
        self.outstanding = Some(Outstanding { rseq, has_sdp, repeat: Some(repeat) });
    }

    /// RFC 3262 §3: a 2xx waits while "any of the unacknowledged reliable provisional responses contained a session description".
    pub(super) fn holds_answer(&self) -> bool {
        self.outstanding.as_ref().is_some_and(|outstanding| outstanding.has_sdp)
    }

    /// The last description that waits and was never sent.
    pub(super) fn unsent_description(&self) -> Option<&Text> {
        self.waiting.iter().rev().find_map(|waiting| waiting.sdp.as_ref())
    }

    pub(super) fn is_outstanding(&self, rseq: u32) -> bool {
        self.outstanding_rseq() == Some(rseq)
    }

    pub(super) fn outstanding_rseq(&self) -> Option<u32> {
        self.outstanding.as_ref().map(|outstanding| outstanding.rseq)
    }

    /// The PRACK came.
    pub(super) fn acknowledge(&mut self) {
        self.outstanding = None;
    }

    pub(super) fn next_waiting(&mut self) -> Option<Provisional> {
        self.waiting.pop_front()
    }

    /// A final response was sent. RFC 3262 §3: "it SHOULD NOT continue to retransmit the unacknowledged reliable provisional
    /// responses, but it MUST be prepared to process PRACK requests for those outstanding responses."
    pub(super) fn stop(&mut self) {
        self.waiting.clear();
        if let Some(outstanding) = &mut self.outstanding {
            outstanding.repeat = None;
        }
    }

    pub(super) fn outstanding_mut(&mut self) -> Option<&mut Repeat> {
        self.outstanding.as_mut().and_then(|outstanding| outstanding.repeat.as_mut())
    }

    pub(super) fn next_deadline(&self) -> Instant {
        let repeat = self.outstanding.as_ref().and_then(|outstanding| outstanding.repeat.as_ref());
        repeat.map_or(Instant::NEVER, Repeat::next_deadline)
    }
}
