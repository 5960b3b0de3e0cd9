//! Answers to those who have proved nothing: whether there is one, and how long it may be. Their budgets are `machine::source_limit`'s.

use crate::base::id::ShardId;
use crate::base::time::Now;
use crate::machine::Shared;
use crate::machine::digest;
use crate::machine::digest::Reading;
use crate::machine::exchange::Exchange;
use crate::machine::exchange::answer;
use crate::machine::exchange::screen::Refusal;
use crate::machine::flow::Flow;
use crate::machine::outbox::Mesh;
use crate::machine::outbox::Outbox;
use crate::machine::outbox::Output;
use crate::machine::source_limit::Ask;
use crate::machine::source_limit::Verdict;
use crate::wire::sip::Message;
use crate::wire::sip::Method;
use crate::wire::sip::Status;

impl Exchange {
    /// Answers a message that has shown no nonce yet.
    pub(super) fn answer_stranger(
        &mut self,
        message: &Message<'_>,
        flow: Flow,
        status: Status,
        now: Now,
        shared: Shared<'_>,
        out: &mut Outbox,
    ) {
        self.refuse_stranger(message, flow, &Refusal::status(status), now, shared, out);
    }

    pub(super) fn refuse_stranger(
        &mut self,
        message: &Message<'_>,
        flow: Flow,
        refusal: &Refusal,
        now: Now,
        shared: Shared<'_>,
        out: &mut Outbox,
    ) {
        if message.method() != Method::Ack && self.may_answer(message, flow, Ask::Other, now, shared) {
            let bytes = answer::refusal(message, flow, refusal, "", shared);
            self.send_bounded(message, flow, bytes, shared, out);
        }
    }

    /// Somebody who is no forger asks, or one to whom there is an answer left.
    pub(super) fn may_answer(
        &mut self,
        message: &Message<'_>,
        flow: Flow,
        ask: Ask,
        now: Now,
        shared: Shared<'_>,
    ) -> bool {
        matches!(digest::read(message, flow.peer.ip(), now.unix, shared), Reading::Claim(_))
            || self.sources.answer(message, &flow, ask, now.instant, shared) == Verdict::Pass
    }

    /// Not where it would be more than a forger may make of his bytes.
    pub(super) fn send_bounded(
        &mut self,
        request: &Message<'_>,
        flow: Flow,
        bytes: Option<Vec<u8>>,
        shared: Shared<'_>,
        out: &mut Outbox,
    ) {
        let is_proven = flow.is_reliable() || shared.settings.is_trusted(flow.peer.ip());
        let fits = |bytes: &Vec<u8>| is_proven || bytes.len() <= request.bytes().len() * digest::AMPLIFICATION_MAX;
        if bytes.as_ref().is_none_or(fits) {
            self.send(request, flow, bytes, out);
        } else {
            self.counts.unchallenged += 1;
        }
    }

    /// Whoever reads the next request of a phone has to know it.
    pub(super) fn tell_where_phones_are(&mut self, now: Now, shared: Shared<'_>, out: &mut Outbox) {
        for phones in self.sources.tell(now.instant) {
            for to in (0..shared.settings.shards).map(ShardId).filter(|shard| *shard != self.shard) {
                out.push(Output::Mesh { to, message: Mesh::Known { phones: phones.clone() } });
            }
        }
    }
}
