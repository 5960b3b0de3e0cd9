//! The exchange's counts on their way to the shard's page of figures: differences, so that the page goes on over restarts.

use memchr::memmem::Finder;

use crate::base::time::Instant;
use crate::base::time::Now;
use crate::machine::admission::Refusal;
use crate::machine::exchange::Exchange;
use crate::machine::exchange::Unreadable;
use crate::machine::exchange::messages::Kind;
use crate::machine::exchange::messages::Messages;
use crate::machine::exchange::messages::Way;
use crate::process::engine::message::Cause;
use crate::shard::memory::Counter;
use crate::shard::memory::Figures;
use crate::shard::memory::Gauge;
use crate::shard::memory::Histogram;
use crate::shard::tape::ring::RingCounts;
use crate::wire::sip::Method;
use crate::wire::sip::Transport;

/// By [`Unreadable`], in its order.
const UNREADABLE: [Counter; Unreadable::COUNT] = [
    Counter::SipUnreadableTooLong,
    Counter::SipUnreadableStartLine,
    Counter::SipUnreadableVersion,
    Counter::SipUnreadableRequestUri,
    Counter::SipUnreadableLine,
    Counter::SipUnreadableTooManyHeaders,
    Counter::SipUnreadableMissingHeader,
    Counter::SipUnreadableRepeatedHeader,
    Counter::SipUnreadableMalformedHeader,
    Counter::SipUnreadableMethod,
    Counter::SipUnreadableBody,
    Counter::SipUnreadableExcess,
];
/// The start of a message to the histogram of how long we take with it.
const DELAYS: [(&[u8], Histogram); 10] = [
    (b"SIP/2.0 ", Histogram::SipDelayResponse),
    (b"INVITE ", Histogram::SipDelayInvite),
    (b"ACK ", Histogram::SipDelayAck),
    (b"BYE ", Histogram::SipDelayBye),
    (b"CANCEL ", Histogram::SipDelayCancel),
    (b"REGISTER ", Histogram::SipDelayRegister),
    (b"OPTIONS ", Histogram::SipDelayOptions),
    (b"PRACK ", Histogram::SipDelayPrack),
    (b"UPDATE ", Histogram::SipDelayUpdate),
    (b"INFO ", Histogram::SipDelayInfo),
];
/// By [`DropReason`](crate::machine::media::relay::DropReason), in its order.
const DROPS: [Counter; 8] = [
    Counter::RtpDroppedClosed,
    Counter::RtpDroppedMalformed,
    Counter::RtpDroppedStranger,
    Counter::RtpDroppedUnbridged,
    Counter::RtpDroppedDirection,
    Counter::RtpDroppedNoDestination,
    Counter::RtpDroppedAnnouncement,
    Counter::RtpDroppedUnheard,
];

/// By [`Refusal`], in its order.
const REFUSALS: [Counter; Refusal::ALL.len()] = [
    Counter::AdmissionPhoneCalls,
    Counter::AdmissionPhoneRate,
    Counter::AdmissionTenantCalls,
    Counter::AdmissionTenantRate,
    Counter::AdmissionShare,
    Counter::AdmissionFull,
];

pub(super) fn delay_of(message: &[u8]) -> Histogram {
    let found = DELAYS.iter().find(|(start, _)| message.starts_with(start));
    found.map_or(Histogram::SipDelayOther, |(_, histogram)| *histogram)
}

/// Enters how long we took until this message, the first of what `cause` led to.
pub(super) fn observe(cause: Cause, message: &[u8], now: Instant, figures: &Figures) {
    let took = now.since(cause.arrived);
    figures.observe(cause.method, took, 1);
    if cause.method == Histogram::SipDelayRegister && is_decision(message) {
        figures.observe(Histogram::RegisterDuration, took, 1);
    }
}

/// A final response other than a challenge.
fn is_decision(message: &[u8]) -> bool {
    let status = message.strip_prefix(b"SIP/2.0 ").and_then(|rest| rest.get(..3));
    status.is_some_and(|status| status.first() != Some(&b'1') && !matches!(status, b"401" | b"407"))
}

/// What was published last.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// In the order of [`values`].
    counters: Vec<u64>,
    read: Messages,
    sent: Messages,
}

/// Counts that the driver keeps itself.
#[derive(Clone, Debug)]
pub(super) struct Own {
    pub(super) sent: Messages,
    cseq: Finder<'static>,
    pub(super) lost: u64,
    pub(super) outbox_overflows: u64,
    pub(super) events_lost: u64,
    pub(super) events_waited: u64,
    pub(super) tape: RingCounts,
}

impl Own {
    pub(super) fn new() -> Self {
        Self {
            sent: Messages::default(),
            cseq: Finder::new(b"\r\nCSeq: "),
            lost: 0,
            outbox_overflows: 0,
            events_lost: 0,
            events_waited: 0,
            tape: RingCounts::default(),
        }
    }

    /// Counts a message of ours.
    pub(super) fn sent(&mut self, bytes: &[u8], transport: Transport) {
        if let Some(kind) = self.kind(bytes, transport) {
            self.sent.count(kind);
        }
    }

    fn kind(&self, bytes: &[u8], transport: Transport) -> Option<Kind> {
        let Some(rest) = bytes.strip_prefix(b"SIP/2.0 ") else {
            // A keep-alive has no word at all.
            let method = Method::parse(bytes.get(..memchr::memchr(b' ', bytes)?)?);
            return Some(Kind::Request { method, transport });
        };
        let digits = rest.first_chunk::<3>()?;
        let status = digits.iter().fold(0, |status, digit| 10 * status + u16::from(digit.wrapping_sub(b'0')));
        let cseq = bytes.get(self.cseq.find(bytes)? + self.cseq.needle().len()..)?;
        let line = cseq.get(..memchr::memchr(b'\r', cseq)?)?;
        let method = Method::parse(line.rsplit(|byte| matches!(byte, b' ' | b'\t')).next()?);
        Some(Kind::Response { method, status })
    }
}

impl Published {
    pub(super) fn publish(&mut self, exchange: &Exchange, own: &Own, now: Now, figures: &Figures) {
        let values = values(exchange, own);
        self.counters.resize(values.len(), 0);
        for ((counter, value), last) in values.into_iter().zip(&mut self.counters) {
            if value != *last {
                figures.add(counter, value.saturating_sub(*last));
                *last = value;
            }
        }
        publish_kinds(&exchange.counts().read, &mut self.read, Way::In, figures);
        publish_kinds(&own.sent, &mut self.sent, Way::Out, figures);
        gauges(exchange, now).into_iter().for_each(|(gauge, value)| figures.set(gauge, value.into()));
    }
}

fn gauges(exchange: &Exchange, now: Now) -> [(Gauge, u32); 16] {
    let census = exchange.census();
    let sessions = exchange.media_sessions();
    let ports = exchange.ports(now);
    [
        (Gauge::TransactionsCalling, census.calling),
        (Gauge::TransactionsTrying, census.trying),
        (Gauge::TransactionsProceeding, census.proceeding),
        (Gauge::TransactionsAccepted, census.accepted),
        (Gauge::TransactionsCompleted, census.completed),
        (Gauge::TransactionsConfirmed, census.confirmed),
        (Gauge::Dialogs, census.dialogs),
        (Gauge::MediaRelayed, sessions.relayed),
        (Gauge::MediaRecorded, sessions.recorded),
        (Gauge::MediaAnnounced, sessions.announced),
        (Gauge::PortsInUse, ports.in_use),
        (Gauge::PortsResting, ports.resting),
        (Gauge::PortsFree, ports.free),
        (Gauge::CallsBarred, u32::from(!exchange.takes_calls())),
        (Gauge::CallBytes, bytes(exchange.admission().call_bytes())),
        (Gauge::AnswerBytes, bytes(exchange.answers().bytes())),
    ]
}

fn bytes(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn publish_kinds(messages: &Messages, last: &mut Messages, way: Way, figures: &Figures) {
    if messages == last {
        return;
    }
    for (kind, count) in messages.iter() {
        let by = count.saturating_sub(last.of(kind));
        if by > 0 && !figures.add_kind(kind.key(way), kind.rest().key(way), by) {
            figures.add(Counter::SipLumped, by);
        }
    }
    last.clone_from(messages);
}

fn values(exchange: &Exchange, own: &Own) -> Vec<(Counter, u64)> {
    let counts = exchange.counts();
    let relay = exchange.relay_counts();
    let mut values: Vec<(Counter, u64)> = UNREADABLE.into_iter().zip(counts.unreadable).collect();
    values.extend(DROPS.into_iter().zip(relay.dropped));
    values.extend(REFUSALS.into_iter().zip(exchange.admission().refused));
    values.extend([
        (Counter::SipRetransmissions, counts.retransmissions),
        (Counter::SipMerged, counts.merged),
        (Counter::SipUnchallenged, counts.unchallenged),
        (Counter::SipElsewhere, counts.elsewhere),
        (Counter::SipMisdirected, counts.misdirected),
        (Counter::SipLumped, counts.read.lumped + own.sent.lumped),
        (Counter::SipStrays, counts.strays),
        (Counter::SipPassedOn, counts.passed_on),
        (Counter::SipChallenges, counts.challenges),
        (Counter::SipUnanswered, exchange.unanswered()),
        (Counter::SourcesEvicted, exchange.sources().evicted()),
        (Counter::SipSlowed, exchange.slowed()),
        (Counter::CallsRefused, counts.refused_calls),
        (Counter::CallAttempts, counts.call_attempts),
        (Counter::CallFaults, exchange.faults()),
        (Counter::RtpReceived, relay.rtp_received()),
        (Counter::RtcpReceived, relay.rtcp_received),
        (Counter::RtpSent, relay.rtp_forwarded + relay.announced),
        (Counter::RtcpSent, relay.rtcp_forwarded),
        (Counter::RtpAnnounced, relay.announced),
        (Counter::RtpBytes, relay.bytes_forwarded),
        (Counter::MediaLatched, relay.latched),
        (Counter::MediaRelatched, relay.relatched),
        (Counter::MediaTimeouts, relay.silent),
        (Counter::MediaOneWay, relay.one_way),
        (Counter::RtpPortsExhausted, exchange.ports_exhausted()),
        (Counter::ClerkLost, own.lost),
        (Counter::EventsLost, own.events_lost),
        (Counter::OutboxOverflows, own.outbox_overflows),
        (Counter::TapeFrames, own.tape.frames),
        (Counter::TapeShed, own.tape.shed),
        (Counter::TapeGaps, own.tape.gaps),
        (Counter::TapeEventsWaiting, own.events_waited),
        (Counter::ContactsNotRung, counts.contacts_not_rung),
        (Counter::SipHurried, counts.hurried),
        (Counter::RtpPortsUnfair, exchange.ports_unfair()),
        (Counter::AnswersUnkept, exchange.answers().unfair + exchange.answers().overflows),
        (Counter::ProvisionalsJoined, exchange.provisionals_joined()),
    ]);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESPONSE: &[u8] =
        b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nCall-ID: CSeq: 1 ACK\r\nCSeq: 7  BYE\r\n\r\n";

    #[test]
    fn what_we_send_is_counted_by_its_kind() {
        let mut own = Own::new();
        for bytes in [
            RESPONSE,
            b"SIP/2.0 401 Unauthorized\r\nCSeq: 1 REGISTER\r\n\r\n",
            b"NOTIFY sip:a SIP/2.0\r\nCSeq: 1 NOTIFY\r\n\r\n",
            b"SIP/2.0 2",
            b"\r\n\r\n",
            b"SIP/2.0 200 OK\r\n\r\n",
        ] {
            own.sent(bytes, Transport::Tcp);
        }
        let counts: Vec<_> = own.sent.iter().collect();
        let response = |method, status| (Kind::Response { method, status }, 1);
        let request = (Kind::Request { method: Method::Notify, transport: Transport::Tcp }, 1);
        assert_eq!(counts, [request, response(Method::Bye, 200), response(Method::Register, 401)]);
    }

    #[test]
    fn a_challenge_decides_nothing() {
        for (message, expected) in [
            (RESPONSE, true),
            (b"SIP/2.0 403 Forbidden\r\n", true),
            (b"SIP/2.0 100 Trying\r\n", false),
            (b"SIP/2.0 401 Unauthorized\r\n", false),
            (b"SIP/2.0 407 Proxy Authentication Required\r\n", false),
            (b"REGISTER sip:a SIP/2.0\r\n", false),
        ] {
            assert_eq!(is_decision(message), expected, "{}", message.escape_ascii());
        }
    }

    #[test]
    fn differences_go_to_the_page() {
        let figures = Figures::private().unwrap();
        let (mut messages, mut last) = (Messages::default(), Messages::default());
        let kind = Kind::Response { method: Method::Bye, status: 200 };
        for expected in [1, 2, 2] {
            if messages.of(kind) < expected {
                messages.count(kind);
            }
            publish_kinds(&messages, &mut last, Way::Out, &figures);
            assert_eq!(figures.kinds().collect::<Vec<_>>(), [(kind.key(Way::Out), expected)]);
        }
        assert_eq!(figures.count(Counter::SipLumped), 0);
    }
}
