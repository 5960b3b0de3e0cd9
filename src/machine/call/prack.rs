//! PRACK of the caller: our provisional responses are acknowledged, and what waited for that goes on (RFC 3262).

use crate::machine::call::Call;
use crate::machine::call::body::Content;
use crate::machine::call::bond::Agreement;
use crate::machine::call::bond::Answer;
use crate::machine::call::bond::Heard;
use crate::machine::call::head::ServerRequest;
use crate::machine::call::input::Context;
use crate::machine::call::party::Side;
use crate::machine::call::terms::SDP;
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
        if side == Side::Callee || !self.is_awaited(index, message) {
            // RFC 3262 §3: "If a PRACK request is received by the UA core that does not match any unacknowledged reliable
            // provisional response, the UAS MUST respond to the PRACK with a 481 response."
            return request.answer(481, |_| {}, out);
        }
        self.on_awaited_prack(index, request, message, cx, out);
        self.go_on_after_prack(index, cx, out);
    }

    fn on_awaited_prack(
        &mut self,
        index: usize,
        request: ServerRequest,
        message: &Message<'_>,
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) {
        match Content::of(message) {
            Content::Nothing => request.answer(200, |_| {}, out),
            Content::Unsupported => request.answer_with(415, HeaderId::Accept, SDP, out),
            Content::Sdp(sdp) if self.answers_late_offer(index) => {
                self.on_prack_answer(index, &request, sdp, cx, out);
            }
            Content::Sdp(sdp) => self.on_offer_request(index, Side::Caller, request, sdp, cx, out),
        }
    }

    fn is_awaited(&mut self, index: usize, message: &Message<'_>) -> bool {
        let rack = message.header(HeaderId::RAck).and_then(|value| RAck::parse(value).ok());
        let Some(rack) = rack else { return false };
        let ours = rack.cseq.method == Method::Invite && rack.cseq.number == self.caller.cseq;
        let Some(bond) = self.bonds.get_mut(index) else { return false };
        ours && bond.reliable.acknowledge(rack.rseq)
    }

    fn answers_late_offer(&self, index: usize) -> bool {
        self.bonds.get(index).is_some_and(|bond| bond.agreement == Agreement::LateOffered)
    }

    /// The caller's answer to the callee's offer goes on in our PRACK to the callee.
    fn on_prack_answer(
        &mut self,
        index: usize,
        request: &ServerRequest,
        sdp: &[u8],
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) {
        let Some(text) = self.take_late_answer(index, sdp, cx, out) else {
            return request.answer(488, |_| {}, out);
        };
        request.answer(200, |_| {}, out);
        let Some(bond) = self.bonds.get_mut(index) else { return };
        if let Heard::PrackDue { rseq } = bond.heard {
            bond.heard = Heard::UpTo { rseq };
            self.send_prack(index, rseq, request.hops, Some(&text), cx, out);
        }
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
