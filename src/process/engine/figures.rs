//! The exchange's counts on their way to the shard's page of figures: differences, so that the page goes on over restarts.

use crate::machine::exchange::Exchange;
use crate::shard::memory::Counter;
use crate::shard::memory::Figures;
use crate::shard::memory::Histogram;
use crate::shard::tape::ring::RingCounts;

/// By [`Method`](crate::wire::sip::Method), in its order.
const REQUESTS: [Counter; 15] = [
    Counter::SipInvite,
    Counter::SipAck,
    Counter::SipBye,
    Counter::SipCancel,
    Counter::SipOptions,
    Counter::SipRegister,
    Counter::SipPrack,
    Counter::SipUpdate,
    Counter::SipInfo,
    Counter::SipMessage,
    Counter::SipSubscribe,
    Counter::SipNotify,
    Counter::SipPublish,
    Counter::SipRefer,
    Counter::SipOther,
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
const DROPS: [Counter; 7] = [
    Counter::RtpDroppedClosed,
    Counter::RtpDroppedMalformed,
    Counter::RtpDroppedStranger,
    Counter::RtpDroppedUnbridged,
    Counter::RtpDroppedDirection,
    Counter::RtpDroppedNoDestination,
    Counter::RtpDroppedAnnouncement,
];
const SENT: [Counter; 6] = [
    Counter::SipSent1xx,
    Counter::SipSent2xx,
    Counter::SipSent3xx,
    Counter::SipSent4xx,
    Counter::SipSent5xx,
    Counter::SipSent6xx,
];
const RECEIVED: [Counter; 6] = [
    Counter::SipReceived1xx,
    Counter::SipReceived2xx,
    Counter::SipReceived3xx,
    Counter::SipReceived4xx,
    Counter::SipReceived5xx,
    Counter::SipReceived6xx,
];

pub(super) fn delay_of(message: &[u8]) -> Histogram {
    let found = DELAYS.iter().find(|(start, _)| message.starts_with(start));
    found.map_or(Histogram::SipDelayOther, |(_, histogram)| *histogram)
}

/// What was published last, in the order of [`values`].
#[derive(Debug, Default)]
pub(super) struct Published(Vec<u64>);

/// Counts that the driver keeps itself.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Own {
    /// Responses sent, by hundreds of their status from 1xx on.
    pub(super) sent: [u64; 6],
    pub(super) lost: u64,
    pub(super) outbox_overflows: u64,
    pub(super) events_lost: u64,
    pub(super) events_waited: u64,
    pub(super) tape: RingCounts,
}

impl Own {
    /// Counts a message of ours if it is a response.
    pub(super) fn sent(&mut self, bytes: &[u8]) {
        let class = bytes.strip_prefix(b"SIP/2.0 ").and_then(|rest| rest.first());
        let index = class.map_or(usize::MAX, |digit| usize::from(digit.wrapping_sub(b'1')));
        if let Some(count) = self.sent.get_mut(index) {
            *count += 1;
        }
    }
}

impl Published {
    pub(super) fn publish(&mut self, exchange: &Exchange, own: &Own, figures: &Figures) {
        let values = values(exchange, own);
        self.0.resize(values.len(), 0);
        for ((counter, value), last) in values.into_iter().zip(&mut self.0) {
            if value != *last {
                figures.add(counter, value.saturating_sub(*last));
                *last = value;
            }
        }
    }
}

fn values(exchange: &Exchange, own: &Own) -> Vec<(Counter, u64)> {
    let counts = exchange.counts();
    let relay = exchange.relay_counts();
    let mut values: Vec<(Counter, u64)> = REQUESTS.into_iter().zip(counts.requests).collect();
    values.extend(DROPS.into_iter().zip(relay.dropped));
    values.extend(SENT.into_iter().zip(own.sent));
    values.extend(RECEIVED.into_iter().zip(counts.responses));
    values.extend([
        (Counter::SipRetransmissions, counts.retransmissions),
        (Counter::SipMerged, counts.merged),
        (Counter::SipUnchallenged, counts.unchallenged),
        (Counter::SipUnreadable, counts.unreadable),
        (Counter::SipStrays, counts.strays),
        (Counter::SipPassedOn, counts.passed_on),
        (Counter::SipChallenges, counts.challenges),
        (Counter::SipShutOut, counts.shut_out),
        (Counter::SipSlowed, exchange.slowed()),
        (Counter::CallsRefused, counts.refused_calls),
        (Counter::CallAttempts, counts.call_attempts),
        (Counter::CallFaults, exchange.faults()),
        (Counter::RtpForwarded, relay.rtp_forwarded),
        (Counter::RtcpForwarded, relay.rtcp_forwarded),
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
    ]);
    values
}
