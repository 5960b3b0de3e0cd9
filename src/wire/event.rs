//! What happened to calls and phones, as it leaves the engine: for records, reports, live screens and traces.
//!
//! (node, boot, shard, seq) is unique and without gaps. The engine says everything it decided, not only what a report
//! needs today; [`Body`] only grows at its end, so that an older reader can refuse what it does not know by its tag.

use arrayvec::ArrayVec;
use serde::Deserialize;
use serde::Serialize;

use crate::base::id::CallId;
use crate::base::id::ShardId;
use crate::base::limit::EVENT_TEXT_BYTES_MAX;
use crate::base::limit::SDP_FORMATS_MAX;
use crate::base::limit::SDP_NAME_BYTES_MAX;
use crate::base::time::UnixTime;
use crate::wire::tape::record::Format;
use crate::wire::tape::record::Frames;
use crate::wire::tape::record::RECORD_BYTES_MAX;

/// Ends a text that was cut.
const CUT: char = '…';
/// Texts of one event, at most.
const TEXTS_MAX: usize = 6;
/// Numbers and lengths of an event, the leg figures of a recording among them.
const REST_BYTES_MAX: usize = 4_096;

const _: () = assert!(TEXTS_MAX * (EVENT_TEXT_BYTES_MAX + 8) + REST_BYTES_MAX <= RECORD_BYTES_MAX);
const _: () = assert!(SDP_FORMATS_MAX * (SDP_NAME_BYTES_MAX + 16) + REST_BYTES_MAX <= RECORD_BYTES_MAX);

/// One event of one shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub shard: ShardId,
    /// From 1 in each boot, without gaps per shard.
    pub seq: u64,
    pub at: UnixTime,
    /// Name of the tenant; empty where none is known.
    pub tenant: String,
    pub call: Option<CallId>,
    /// 0 is the caller's leg, 1 and up the branches in the order they were made.
    pub leg: Option<u8>,
    pub body: Body,
}

/// Why something ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// SIP status that says it best; 200 for a call that was answered and hung up.
    pub sip: u16,
    /// Q.850 cause value, 0 where unknown.
    pub q850: u8,
    pub text: String,
    pub by: By,
}

/// Who ended it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    Caller,
    Callee,
    /// A rule, a limit or a fault of ours.
    #[default]
    System,
    /// The API or the command line.
    Operator,
    /// A timer: no answer, a phone that vanished.
    Timer,
}

/// One direction of one leg's media as received from its phone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MediaReport {
    pub stream: u8,
    pub packets: u64,
    pub bytes: u64,
    pub lost: u64,
    pub reordered: u64,
    pub duplicated: u64,
    /// RFC 3550 interarrival jitter, microseconds.
    pub jitter_us: u32,
    /// From RTCP; absent where the phone sent none.
    pub round_trip_us: Option<u32>,
    pub relatches: u32,
    /// Packets from addresses that were not the latched one.
    pub strangers: u64,
    /// Sent and promised, but never heard from: one-way audio.
    pub one_way: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Body {
    /// An authenticated call began. `from` and `to` are users or numbers, `dialled` what the request URI said.
    CallStarted {
        sip_call_id: String,
        from: String,
        from_name: String,
        to: String,
        dialled: String,
        direction: Direction,
        phone: String,
    },
    /// A branch was made towards a phone.
    LegInvited {
        phone: String,
        contact: String,
        flow: String,
    },
    LegRinging {
        status: u16,
    },
    /// Early media, or any provisional answer with a session description.
    LegProgress {
        status: u16,
    },
    LegAnswered {
        phone: String,
    },
    LegEnded {
        cause: Cause,
    },
    CallAnswered,
    Held {
        by: By,
    },
    Resumed {
        by: By,
    },
    /// A session was renegotiated by re-INVITE or UPDATE.
    Renegotiated {
        method: String,
        by: By,
    },
    /// That a digit was sent, never which.
    DigitSent {
        by: By,
    },
    MediaStarted {
        stream: u8,
    },
    MediaReported {
        report: MediaReport,
    },
    CallEnded {
        cause: Cause,
        legs: u8,
    },
    BindingAdded {
        phone: String,
        contact: String,
        flow: String,
        user_agent: String,
    },
    BindingRemoved {
        phone: String,
        contact: String,
        cause: String,
    },
    AuthenticationFailed {
        user: String,
        source: String,
        cause: String,
    },
    /// The handler of this call panicked; the call was ended by the minimal path.
    CallFault {
        place: String,
    },
    /// The call is on the tape from here on, as one recording however often it is renegotiated.
    RecordingStarted {
        by: By,
    },
    /// What payload types of this leg's stream mean from here on. `secure`: SRTP between the phones, of which nothing is recorded.
    RecordingFormats {
        stream: u8,
        secure: bool,
        formats: Vec<Format>,
    },
    /// Neither audio nor digits are kept until it is resumed.
    RecordingPaused {
        by: By,
    },
    RecordingResumed {
        by: By,
    },
    /// The recording's last event: how many frames were given to the tape since it was started.
    RecordingStopped {
        by: By,
        frames: Vec<Frames>,
    },
    /// A leg was told that it is recorded, or could not be.
    RecordingAnnounced {
        announce: String,
        played: bool,
    },
    /// The phone's media comes from another address: the latch was taken anew.
    MediaMoved {
        stream: u8,
        from: String,
        to: String,
    },
    /// This leg is not heard, the other is.
    MediaOneWay {
        stream: u8,
    },
    /// It is heard again, or has nothing to send.
    MediaOneWayOver {
        stream: u8,
    },
    /// An offer met another and got 491. `by`: whose it was.
    Glare {
        method: String,
        by: By,
    },
    /// The session timer of this leg begins anew. `by`: who refreshed it, `system` being us.
    SessionRefreshed {
        method: String,
        by: By,
        secs: u32,
    },
    /// The refresh was refused, or did not come: 408.
    SessionRefreshFailed {
        status: u16,
        by: By,
    },
    /// The connection that the leg's phone is reached over ended.
    FlowLost {
        flow: String,
    },
    /// The phone of the leg is reached again.
    FlowFound {
        flow: String,
    },
    /// A client that answered no challenge is offered MD5 alone.
    DigestFallback {
        user: String,
        source: String,
    },
    /// A phone begins calls faster than it or its tenant may: so many were refused since the last of these, without a record each.
    CallsRefused {
        phone: String,
        limit: String,
        count: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    Internal,
    Inbound,
    Outbound,
}

impl Body {
    /// Cuts what is longer than an event may be: none is too large for the tape. Messages are bounded before anything is made of them;
    /// this is for what nobody thought of.
    pub fn cut(&mut self) {
        if let Self::RecordingFormats { formats, .. } = self {
            formats.truncate(SDP_FORMATS_MAX);
            formats.iter_mut().for_each(|format| cut(&mut format.name, SDP_NAME_BYTES_MAX));
        }
        self.texts().into_iter().for_each(|text| cut(text, EVENT_TEXT_BYTES_MAX));
    }

    fn texts(&mut self) -> ArrayVec<&mut String, TEXTS_MAX> {
        let mut texts = ArrayVec::new();
        match self {
            Self::CallStarted { sip_call_id, from, from_name, to, dialled, phone, .. } => {
                texts.extend([sip_call_id, from, from_name, to, dialled, phone]);
            }
            Self::LegInvited { phone, contact, flow } => texts.extend([phone, contact, flow]),
            Self::LegAnswered { phone } => texts.push(phone),
            Self::LegEnded { cause } | Self::CallEnded { cause, .. } => texts.push(&mut cause.text),
            Self::Renegotiated { method, .. } | Self::Glare { method, .. } | Self::SessionRefreshed { method, .. } => {
                texts.push(method);
            }
            Self::BindingAdded { phone, contact, flow, user_agent } => {
                texts.extend([phone, contact, flow, user_agent]);
            }
            Self::BindingRemoved { phone, contact, cause } => texts.extend([phone, contact, cause]),
            Self::AuthenticationFailed { user, source, cause } => texts.extend([user, source, cause]),
            Self::CallFault { place } => texts.push(place),
            Self::RecordingAnnounced { announce, .. } => texts.push(announce),
            Self::MediaMoved { from, to, .. } => texts.extend([from, to]),
            Self::FlowLost { flow } | Self::FlowFound { flow } => texts.push(flow),
            Self::DigestFallback { user, source } => texts.extend([user, source]),
            Self::CallsRefused { phone, limit, .. } => texts.extend([phone, limit]),
            Self::LegRinging { .. }
            | Self::LegProgress { .. }
            | Self::CallAnswered
            | Self::Held { .. }
            | Self::Resumed { .. }
            | Self::DigitSent { .. }
            | Self::MediaStarted { .. }
            | Self::MediaReported { .. }
            | Self::RecordingStarted { .. }
            | Self::RecordingFormats { .. }
            | Self::RecordingPaused { .. }
            | Self::RecordingResumed { .. }
            | Self::RecordingStopped { .. }
            | Self::MediaOneWay { .. }
            | Self::MediaOneWayOver { .. }
            | Self::SessionRefreshFailed { .. } => {}
        }
        texts
    }

    /// The event's type as published.
    pub fn name(&self) -> &'static str {
        match self {
            Self::CallStarted { .. } => "call.started",
            Self::LegInvited { .. } => "leg.invited",
            Self::LegRinging { .. } => "leg.ringing",
            Self::LegProgress { .. } => "leg.progress",
            Self::LegAnswered { .. } => "leg.answered",
            Self::LegEnded { .. } => "leg.ended",
            Self::CallAnswered => "call.answered",
            Self::Held { .. } => "call.held",
            Self::Resumed { .. } => "call.resumed",
            Self::Renegotiated { .. } => "call.renegotiated",
            Self::DigitSent { .. } => "call.digit",
            Self::MediaStarted { .. } => "media.started",
            Self::MediaReported { .. } => "media.reported",
            Self::CallEnded { .. } => "call.ended",
            Self::BindingAdded { .. } => "binding.added",
            Self::BindingRemoved { .. } => "binding.removed",
            Self::AuthenticationFailed { .. } => "authentication.failed",
            Self::CallFault { .. } => "call.fault",
            Self::RecordingStarted { .. } => "recording.started",
            Self::RecordingFormats { .. } => "recording.formats",
            Self::RecordingPaused { .. } => "recording.paused",
            Self::RecordingResumed { .. } => "recording.resumed",
            Self::RecordingStopped { .. } => "recording.stopped",
            Self::RecordingAnnounced { .. } => "recording.announced",
            Self::MediaMoved { .. } => "media.moved",
            Self::MediaOneWay { .. } => "media.one_way",
            Self::MediaOneWayOver { .. } => "media.one_way_over",
            Self::Glare { .. } => "call.glare",
            Self::SessionRefreshed { .. } => "session.refreshed",
            Self::SessionRefreshFailed { .. } => "session.refresh_failed",
            Self::FlowLost { .. } => "leg.flow_lost",
            Self::FlowFound { .. } => "leg.flow_found",
            Self::DigestFallback { .. } => "authentication.md5_alone",
            Self::CallsRefused { .. } => "calls.refused",
        }
    }
}

fn cut(text: &mut String, bytes_max: usize) {
    if text.len() <= bytes_max {
        return;
    }
    let fits = |end: &usize| text.is_char_boundary(*end);
    let end = (0..=bytes_max - CUT.len_utf8()).rev().find(fits).unwrap_or(0);
    text.truncate(end);
    text.push(CUT);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Instant;
    use crate::wire::tape::record::emit_event;

    fn fits(body: Body) -> bool {
        let (shard, at, tenant) = (ShardId(0), UnixTime::from_secs(1), "t".repeat(32));
        let event = Event { shard, seq: u64::MAX, at, tenant, call: None, leg: Some(0), body };
        emit_event(Instant::NEVER, u64::MAX, &event).is_ok()
    }

    #[test]
    fn what_is_too_long_is_cut_and_marked() {
        let long = || "ä".repeat(20_000);
        let mut body = Body::CallStarted {
            sip_call_id: long(),
            from: "1001".to_owned(),
            from_name: long(),
            to: long(),
            dialled: long(),
            direction: Direction::Internal,
            phone: long(),
        };
        assert!(!fits(body.clone()));
        body.cut();
        assert!(fits(body.clone()));
        let Body::CallStarted { sip_call_id, from, .. } = &body else { unreachable!() };
        assert!(sip_call_id.len() <= EVENT_TEXT_BYTES_MAX && sip_call_id.ends_with("ä…"), "{sip_call_id}");
        assert_eq!(from, "1001");
        let once = body.clone();
        body.cut();
        assert_eq!(body, once);
    }

    #[test]
    fn formats_are_bounded_too() {
        let format = Format { payload_type: 96, name: "n".repeat(500), clock: 8_000, channels: 1 };
        let mut body = Body::RecordingFormats { stream: 0, secure: false, formats: vec![format; 300] };
        assert!(!fits(body.clone()));
        body.cut();
        assert!(fits(body));
    }
}
