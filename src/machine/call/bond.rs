//! A bond: the caller's dialog and one callee's, which carry one session.
//!
//! Every early dialog of a branch has a bond of its own. After the answer one bond is left: that is the call.

use serde::Deserialize;
use serde::Serialize;

use crate::base::time::Instant;
use crate::machine::call::head::ServerRequest;
use crate::machine::call::party::Party;
use crate::machine::call::party::Presence;
use crate::machine::call::party::Side;
use crate::machine::call::reliable::Reliable;
use crate::machine::dialog::Text;
use crate::wire::sdp::facts::Described;
use crate::wire::sip::Method;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bond {
    /// Leg number of the branch.
    pub branch: u8,
    pub caller: Party,
    pub callee: Party,
    pub agreement: Agreement,
    pub negotiation: Negotiation,
    pub answer: Answer,
    /// Our provisional responses to the caller.
    pub reliable: Reliable,
    /// The callee's.
    pub heard: Heard,
    /// The provisional response of it that the caller has heard last; 0: none.
    pub told: u16,
    /// The relay goes by what these two said.
    pub is_joined: bool,
}

/// How far the first offer and answer are (RFC 3264, RFC 6337 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Agreement {
    /// The caller's offer went out in the INVITE.
    Offered,
    /// An answer was seen in a provisional response that may get lost; a later one may say it again or otherwise.
    Previewed,
    /// The INVITE had no offer: the callee's is awaited.
    Late,
    /// The callee's offer went to the caller, who answers in PRACK or ACK.
    LateOffered,
    Agreed,
}

/// A later offer that is carried across.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Negotiation {
    Idle,
    /// `offered` is what the offerer described, if it did.
    Invite {
        from: Side,
        offered: Option<Described>,
    },
    /// UPDATE, or PRACK with an offer.
    Request {
        from: Side,
        request: ServerRequest,
        offered: Described,
    },
}

impl Negotiation {
    pub(super) fn offered(&self) -> Option<&Described> {
        match self {
            Self::Idle => None,
            Self::Invite { offered, .. } => offered.as_ref(),
            Self::Request { offered, .. } => Some(offered),
        }
    }

    /// Of the request that brought the offer, or asks for one.
    pub(super) fn method(&self) -> Option<Method> {
        match self {
            Self::Idle => None,
            Self::Invite { .. } => Some(Method::Invite),
            Self::Request { request, .. } => Some(request.method),
        }
    }
}

/// Our 2xx to the caller's first INVITE.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    NotYet,
    /// The caller has yet to acknowledge a provisional response with a description.
    WaitsForPrack {
        sdp: Option<Text>,
    },
    Sent,
}

/// Reliable provisional responses of the callee (RFC 3262 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Heard {
    Nothing,
    UpTo {
        rseq: u32,
    },
    /// It brought an offer: the PRACK waits for the caller's answer.
    PrackDue {
        rseq: u32,
    },
}

impl Heard {
    /// RFC 3262 §4: "If the UAC receives another reliable provisional response … and its RSeq value is not one higher than
    /// the value of the sequence number, that response MUST NOT be acknowledged with a PRACK, and MUST NOT be processed
    /// further".
    pub(super) fn is_next(self, rseq: u32) -> bool {
        match self {
            Self::Nothing => true,
            Self::UpTo { rseq: last } | Self::PrackDue { rseq: last } => rseq == last.wrapping_add(1),
        }
    }
}

impl Bond {
    pub(super) fn party(&self, side: Side) -> &Party {
        match side {
            Side::Caller => &self.caller,
            Side::Callee => &self.callee,
        }
    }

    pub(super) fn party_mut(&mut self, side: Side) -> &mut Party {
        match side {
            Side::Caller => &mut self.caller,
            Side::Callee => &mut self.callee,
        }
    }

    /// The first INVITE was answered on both sides.
    pub(super) fn is_confirmed(&self) -> bool {
        self.caller.presence == Presence::Confirmed && self.callee.presence == Presence::Confirmed
    }

    /// No other offer may begin (RFC 3261 §14.2, RFC 3311 §5.2).
    pub(super) fn is_negotiating(&self) -> bool {
        !matches!(self.negotiation, Negotiation::Idle) || self.caller.is_negotiating() || self.callee.is_negotiating()
    }

    pub(super) fn next_deadline(&self) -> Instant {
        self.caller.next_deadline().min(self.callee.next_deadline()).min(self.reliable.next_deadline())
    }

    pub(super) fn is_settled(&self) -> bool {
        self.caller.is_settled() && self.callee.is_settled()
    }
}
