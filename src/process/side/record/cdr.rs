//! A call record as the API shows it and the database keeps it.

use serde::Deserialize;
use serde::Serialize;
use utoipa::ToSchema;

use crate::wire::event::By;
use crate::wire::event::Cause;
use crate::wire::event::Direction;
use crate::wire::event::MediaReport;

/// One call, from its first message to its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Cdr {
    /// Our id of the call, the same in records, events, logs and traces.
    pub(crate) call: String,
    /// The Call-ID of the caller.
    pub(crate) sip_call_id: String,
    pub(crate) node: String,
    pub(crate) tenant: String,
    /// internal, inbound or outbound
    pub(crate) direction: String,
    pub(crate) from: String,
    pub(crate) from_name: String,
    pub(crate) to: String,
    /// What the request URI said.
    pub(crate) dialled: String,
    pub(crate) started_at: String,
    pub(crate) ringing_at: Option<String>,
    pub(crate) answered_at: Option<String>,
    pub(crate) ended_at: String,
    /// From answer to end; 0 if it was never answered.
    pub(crate) talk_ms: u64,
    pub(crate) cause: CdrCause,
    pub(crate) legs: Vec<CdrLeg>,
}

/// Why it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct CdrCause {
    pub(crate) sip: Option<u16>,
    pub(crate) q850: Option<u8>,
    pub(crate) text: String,
    /// caller, callee, system, operator or timer
    pub(crate) by: String,
}

/// Leg 0 is the caller's, the others are the phones that were rung.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct CdrLeg {
    pub(crate) leg: u8,
    pub(crate) phone: Option<String>,
    pub(crate) contact: Option<String>,
    pub(crate) invited_at: Option<String>,
    pub(crate) ringing_at: Option<String>,
    pub(crate) answered_at: Option<String>,
    pub(crate) ended_at: Option<String>,
    pub(crate) cause: Option<CdrCause>,
    pub(crate) media: Vec<CdrMedia>,
}

/// One stream as received from the phone of this leg.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct CdrMedia {
    pub(crate) stream: u8,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) lost: u64,
    pub(crate) reordered: u64,
    pub(crate) duplicated: u64,
    pub(crate) jitter_ms: f64,
    pub(crate) round_trip_ms: Option<f64>,
    pub(crate) relatches: u32,
    pub(crate) strangers: u64,
    pub(crate) one_way: bool,
}

impl From<&Cause> for CdrCause {
    fn from(cause: &Cause) -> Self {
        Self {
            sip: Some(cause.sip).filter(|sip| *sip != 0),
            q850: Some(cause.q850).filter(|q850| *q850 != 0),
            text: cause.text.clone(),
            by: by_text(cause.by).to_owned(),
        }
    }
}

impl From<&MediaReport> for CdrMedia {
    fn from(report: &MediaReport) -> Self {
        Self {
            stream: report.stream,
            packets: report.packets,
            bytes: report.bytes,
            lost: report.lost,
            reordered: report.reordered,
            duplicated: report.duplicated,
            jitter_ms: millis(report.jitter_us),
            round_trip_ms: report.round_trip_us.map(millis),
            relatches: report.relatches,
            strangers: report.strangers,
            one_way: report.one_way,
        }
    }
}

fn millis(micros: u32) -> f64 {
    f64::from(micros) / 1_000.0
}

fn by_text(by: By) -> &'static str {
    match by {
        By::Caller => "caller",
        By::Callee => "callee",
        By::System => "system",
        By::Operator => "operator",
        By::Timer => "timer",
    }
}

pub(crate) fn direction_text(direction: Direction) -> &'static str {
    match direction {
        Direction::Internal => "internal",
        Direction::Inbound => "inbound",
        Direction::Outbound => "outbound",
    }
}
