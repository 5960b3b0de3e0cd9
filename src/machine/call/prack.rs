//! PRACK of the caller: our provisional responses are acknowledged, and what waited for that goes on (RFC 3262).

use crate::machine::call::Call;
use crate::machine::call::body::Content;
use crate::machine::call::bond::Agreement;
use crate::machine::call::bond::Answer;
use crate::machine::call::bond::Heard;
use crate::machine::call::head::ServerRequest;
use crate::machine::call::input::Context;
use crate::machine::call::party::Acknowledgement;
use crate::machine::call::party::Side;
use crate::machine::outbox::Outbox;
use crate::wire::sip::HeaderId;
use crate::wire::sip::Message;
use crate::wire::sip::Method;
use crate::wire::sip::RAck;

impl Call {
    /// PRACK of one of our reliable provisional responses (RFC 3262 §3).
    pub(super) fn on_prack(
        &mut self,
        index: usize,
        side: Side,
        request: ServerRequest,
        message: &Message<'_>,
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) {
        let rseq = self.acknowledged(message).filter(|_| side == Side::Caller);
        let Some(bond) = self.bonds.get(index) else { return };
        if rseq.is_none_or(|rseq| !bond.reliable.is_outstanding(rseq)) {
            // RFC 3262 §3: "If a PRACK request is received by the UA core that does not match any unacknowledged reliable
            // provisional response, the UAS MUST respond to the PRACK with a 481 response."
            return request.answer(481, |_| {}, out);
        }
        let answers = bond.reliable.holds_answer() && bond.agreement == Agreement::LateOffered;
        match Content::of(message) {
            // RFC 3261 §8.2: "If it is rejected, all state changes MUST NOT be performed." The response stays unacknowledged, and
            // is repeated until a PRACK that can be read acknowledges it.
            Content::Unsupported => return request.refuse_body(out),
            Content::Nothing => {
                self.take_acknowledgement(index);
                request.answer(200, |_| {}, out);
            }
            Content::Sdp(sdp) if answers => match self.take_late_answer(index, sdp, cx, out) {
                Some(text) => {
                    self.take_acknowledgement(index);
                    request.answer(200, |_| {}, out);
                    self.send_prack_due(index, request.hops, &text, cx, out);
                }
                None => return request.answer(488, |_| {}, out),
            },
            // RFC 3262 §3: from a PRACK that matches "the UAS can be certain … that the provisional response has been received",
            // whatever the other phone will say to the offer.
            Content::Sdp(sdp) => {
                self.take_acknowledgement(index);
                self.on_offer_request(index, Side::Caller, request, sdp, cx, out);
            }
        }
        self.go_on_after_prack(index, cx, out);
    }

    /// PRACK in a dialog that is over: the response that it acknowledges was sent before the one that ended it.
    pub(super) fn on_late_prack(&mut self, request: &ServerRequest, message: &Message<'_>, out: &mut Outbox) {
        let rseq = self.acknowledged(message);
        let tag = message.to().ok().and_then(|to| to.tag()).unwrap_or_default();
        let Some(rseq) = rseq.filter(|rseq| self.is_outstanding(tag, *rseq)) else {
            return request.answer(481, |_| {}, out);
        };
        match Content::of(message) {
            Content::Unsupported => request.refuse_body(out),
            // The session that it would change is no more.
            Content::Sdp(_) if self.caller.has_offered => request.answer(488, |_| {}, out),
            Content::Nothing | Content::Sdp(_) => {
                self.take_outstanding(tag, rseq);
                request.answer(200, |_| {}, out);
            }
        }
    }

    fn take_acknowledgement(&mut self, index: usize) {
        if let Some(bond) = self.bonds.get_mut(index) {
            bond.reliable.acknowledge();
        }
    }

    fn is_outstanding(&self, tag: &[u8], rseq: u32) -> bool {
        let mut bonds = self.bonds.iter().filter(|bond| bond.caller.dialog.local_tag() == tag);
        bonds.any(|bond| bond.reliable.is_outstanding(rseq)) || self.caller.is_unacknowledged(tag, rseq)
    }

    fn take_outstanding(&mut self, tag: &[u8], rseq: u32) {
        let mut bonds = self.bonds.iter_mut().filter(|bond| bond.caller.dialog.local_tag() == tag);
        if let Some(bond) = bonds.find(|bond| bond.reliable.is_outstanding(rseq)) {
            bond.reliable.acknowledge();
            return;
        }
        self.caller.take_unacknowledged(tag, rseq);
    }

    /// The RSeq of the response to the caller's INVITE that this PRACK acknowledges.
    fn acknowledged(&self, message: &Message<'_>) -> Option<u32> {
        let rack = message.header(HeaderId::RAck).and_then(|value| RAck::parse(value).ok())?;
        let ours = rack.cseq.method == Method::Invite && rack.cseq.number == self.caller.cseq;
        ours.then_some(rack.rseq)
    }

    /// The caller's answer goes on in the PRACK that waits for it; false if none does.
    pub(super) fn send_prack_due(
        &mut self,
        index: usize,
        hops: u8,
        answer: &[u8],
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) -> bool {
        let Some(bond) = self.bonds.get_mut(index) else { return false };
        let Heard::PrackDue { rseq } = bond.heard else { return false };
        bond.heard = Heard::UpTo { rseq };
        self.send_prack(index, rseq, hops, Some(answer), cx, out);
        // The callee may have answered before.
        if let Some(bond) = self.bonds.get_mut(index)
            && let Acknowledgement::Due { cseq } = bond.callee.ack
        {
            bond.callee.acknowledge(cseq, None, cx, out);
        }
        true
    }

    fn go_on_after_prack(&mut self, index: usize, cx: &mut Context<'_>, out: &mut Outbox) {
        let Some(bond) = self.bonds.get_mut(index) else { return };
        if let Answer::WaitsForPrack { sdp } = &bond.answer {
            let sdp = sdp.clone();
            return self.answer_caller(sdp, cx, out);
        }
        if let Some(provisional) = bond.reliable.next_waiting() {
            self.send_provisional(index, &provisional, cx, out);
        }
    }
}
