//! The decision trace: the last steps of a call, always on, a few bytes each.

use std::collections::VecDeque;

use serde::Deserialize;
use serde::Serialize;

use crate::base::limit::BRANCHES_MAX;
use crate::base::limit::TRACE_STEPS_MAX;
use crate::base::time::UnixTime;
use crate::wire::link::TraceStep;
use crate::wire::sip::Method;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    steps: VecDeque<Step>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Step {
    at: UnixTime,
    leg: u8,
    what: What,
}

/// One decision or one thing that led to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    Began { phones: u8 },
    Refused { status: u16 },
    LocateTimeout,
    Located { contacts: u8 },
    Invited,
    InviteAgainForInterval { secs: u32 },
    NoPorts,
    Request(Method),
    RequestRefused(Method, u16),
    Response(Method, u16),
    ProvisionalPassed { status: u16, reliable: bool },
    ProvisionalUnpracked,
    EarlyMedia,
    Won,
    Lost,
    BestResponse { status: u16, of: u8 },
    Cancelled,
    CancelWaits,
    RingTimeout,
    AnsweredCaller,
    AckLate,
    Acknowledged,
    SecondAnswer,
    OfferCarried(Method),
    OfferAnswered { status: u16 },
    LateAnswer,
    Glare,
    SessionRefresh(Method),
    SessionExpired,
    SessionTimer { secs: u32, ours: bool },
    FlowMoved,
    FlowGone,
    FlowFound,
    MediaHeard { stream: u8 },
    MediaMoved { stream: u8 },
    MediaSilent { stream: u8 },
    MediaOneWay { stream: u8 },
    Bye,
    Hangup,
    TransactionTimeout(Method),
    Ended { status: u16 },
    FeatureCode,
    Announced { played: bool },
    NotRung { contacts: u8 },
    MediaOneWayOver { stream: u8 },
    SessionRefreshedBy(Method),
    SessionRefreshFailed { status: u16 },
    ProvisionalJoined { status: u16 },
    Expired,
    OtherFamily,
}

impl Trace {
    pub fn step(&mut self, at: UnixTime, leg: u8, what: What) {
        if self.steps.len() >= TRACE_STEPS_MAX {
            self.steps.pop_front();
        }
        self.steps.push_back(Step { at, leg, what });
    }

    pub fn steps(&self) -> Vec<TraceStep> {
        self.steps.iter().map(Step::text).collect()
    }
}

impl Step {
    fn text(&self) -> TraceStep {
        let (rule, reason) = self.what.text();
        TraceStep { at: self.at, leg: Some(self.leg), rule: rule.to_owned(), reason }
    }
}

impl What {
    fn text(self) -> (&'static str, String) {
        match self {
            Self::Began { phones } => ("route", format!("the number dialled belongs to {phones} phones")),
            Self::Refused { status } => ("route", format!("refused with {status}")),
            Self::LocateTimeout => ("timer", "no answer about bindings".to_owned()),
            Self::Located { contacts } => ("route", format!("{contacts} contacts to ring")),
            Self::NotRung { contacts } => {
                ("route", format!("{contacts} contacts do not ring: a call rings {BRANCHES_MAX} at most"))
            }
            Self::Invited => ("sip", "INVITE sent".to_owned()),
            Self::InviteAgainForInterval { secs } => {
                ("sip", format!("INVITE again: the phone wants a session of {secs} s"))
            }
            Self::NoPorts => ("media", "no RTP ports left".to_owned()),
            Self::OtherFamily => ("media", "media of an address family that we cannot send to".to_owned()),
            Self::Request(method) => ("sip", format!("{} received", method.name())),
            Self::RequestRefused(method, status) => ("sip", format!("{} refused with {status}", method.name())),
            Self::Response(method, status) => ("sip", format!("{status} to {} received", method.name())),
            Self::ProvisionalPassed { status, reliable: true } => {
                ("sip", format!("{status} sent to the caller, reliably"))
            }
            Self::ProvisionalPassed { status, reliable: false } => ("sip", format!("{status} sent to the caller")),
            Self::ProvisionalJoined { status } => ("sip", format!("{status} joined with one that waits for a PRACK")),
            Self::ProvisionalUnpracked => ("timer", "no PRACK from the caller".to_owned()),
            Self::EarlyMedia => ("media", "early media of this branch goes to the caller".to_owned()),
            Self::Won => ("route", "first 2xx: this branch wins".to_owned()),
            Self::Lost => ("route", "another branch won".to_owned()),
            Self::BestResponse { status, of } => ("route", format!("{status} is the best of {of} failures")),
            Self::Cancelled => ("sip", "CANCEL sent".to_owned()),
            Self::CancelWaits => ("sip", "CANCEL waits for a provisional response".to_owned()),
            Self::RingTimeout => ("timer", "nobody answered in time".to_owned()),
            Self::Expired => ("timer", "the INVITE expired, as its Expires said".to_owned()),
            Self::AnsweredCaller => ("sip", "200 sent to the caller".to_owned()),
            Self::AckLate => ("timer", "the 200 was never acknowledged".to_owned()),
            Self::Acknowledged => ("sip", "ACK received".to_owned()),
            Self::SecondAnswer => ("sip", "a further 2xx: ACK and BYE".to_owned()),
            Self::OfferCarried(method) => ("media", format!("offer carried across in {}", method.name())),
            Self::OfferAnswered { status } => ("media", format!("offer answered with {status}")),
            Self::LateAnswer => ("sip", "a 2xx to what was cancelled: ACK, and the old description again".to_owned()),
            Self::Glare => ("sip", "both sides offer at once".to_owned()),
            Self::SessionRefresh(method) => ("timer", format!("session refreshed with {}", method.name())),
            Self::SessionRefreshedBy(method) => ("sip", format!("session refreshed by the phone's {}", method.name())),
            Self::SessionRefreshFailed { status } => ("timer", format!("session not refreshed: {status}")),
            Self::SessionExpired => ("timer", "the session was not refreshed".to_owned()),
            Self::SessionTimer { secs, ours: true } => ("timer", format!("session of {secs} s, refreshed by us")),
            Self::SessionTimer { secs, ours: false } => {
                ("timer", format!("session of {secs} s, refreshed by the phone"))
            }
            Self::FlowMoved => ("sip", "the phone sends from another address".to_owned()),
            Self::FlowFound => ("sip", "the phone is reached over its new connection".to_owned()),
            Self::FlowGone => ("sip", "the connection of the phone ended".to_owned()),
            Self::MediaHeard { stream } => ("media", format!("stream {stream} is heard")),
            Self::MediaMoved { stream } => ("media", format!("stream {stream} comes from another address")),
            Self::MediaSilent { stream } => ("media", format!("stream {stream} fell silent")),
            Self::MediaOneWay { stream } => ("media", format!("stream {stream} is not heard, the other side is")),
            Self::MediaOneWayOver { stream } => ("media", format!("stream {stream} is heard again, or sends nothing")),
            Self::Bye => ("sip", "BYE sent".to_owned()),
            Self::Hangup => ("operator", "hung up on request".to_owned()),
            Self::TransactionTimeout(method) => ("timer", format!("no answer to {}", method.name())),
            Self::FeatureCode => ("record", "the keys for recording were pressed".to_owned()),
            Self::Announced { played: true } => ("record", "was told that the call is recorded".to_owned()),
            Self::Announced { played: false } => ("record", "was not told that the call is recorded".to_owned()),
            Self::Ended { status } => ("end", format!("ended with {status}")),
        }
    }
}
