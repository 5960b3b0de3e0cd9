//! The end of a call, whoever brings it about: BYE, an operator, a timer, a flow that is gone. It happens once.

use crate::machine::call::Call;
use crate::machine::call::State;
use crate::machine::call::answer::by;
use crate::machine::call::best_response::q850;
use crate::machine::call::caller::Offer;
use crate::machine::call::caller::Refusal;
use crate::machine::call::cancel::refuse_waiting;
use crate::machine::call::head::ServerRequest;
use crate::machine::call::head::Verdict;
use crate::machine::call::input::Context;
use crate::machine::call::party::Presence;
use crate::machine::call::party::Side;
use crate::machine::call::respond::phrase;
use crate::machine::call::terms::REPORTS_MAX;
use crate::machine::call::trace::What;
use crate::machine::dialog::Text;
use crate::machine::flow::Flow;
use crate::machine::outbox::Live;
use crate::machine::outbox::Outbox;
use crate::machine::outbox::Output;
use crate::wire::event::Body;
use crate::wire::event::By;
use crate::wire::event::Cause;
use crate::wire::link::CallState;
use crate::wire::sip::HeaderId;
use crate::wire::sip::Message;
use crate::wire::sip::ReasonValue;

impl Call {
    pub(super) fn on_bye(
        &mut self,
        index: usize,
        side: Side,
        request: &ServerRequest,
        message: &Message<'_>,
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) {
        request.answer(200, |_| {}, out);
        let Some(bond) = self.bonds.get_mut(index) else { return };
        let party = bond.party_mut(side);
        let early = party.presence == Presence::Early;
        party.presence = Presence::Gone;
        party.unacked = None;
        let leg = bond.branch;
        let reason = reason_of(message);
        match (early, side) {
            // A phone must not end an early dialog so (RFC 3261 §15), but it clearly will not answer.
            (true, Side::Callee) => {
                self.cancel_branches(|branch| branch.leg == leg, b"", cx, out);
                self.branch_failed(leg, 480, By::Callee, b"", cx, out);
                self.fail_if_silent(cx, out);
            }
            // A caller that ends one of its early dialogs hangs up.
            (true, Side::Caller) => {
                let cause = Cause { sip: 487, q850: 16, text: "hung up while ringing".to_owned(), by: By::Caller };
                self.end(cause, &reason, cx, out);
            }
            (false, _) => self.end(hangup_cause(message, by(side)), &reason, cx, out),
        }
    }

    /// Nobody rings any more: the caller hears it.
    fn fail_if_silent(&mut self, cx: &mut Context<'_>, out: &mut Outbox) {
        let rings = self.branches.iter().any(|branch| branch.is_ringing());
        if matches!(self.state, State::Ringing { .. }) && !rings {
            self.caller.refuse(Refusal::Status(480), b"", cx.instant(), out);
            self.end_with(480, By::Callee, cx, out);
        }
    }

    pub(super) fn on_hangup(&mut self, by: By, text: String, cx: &mut Context<'_>, out: &mut Outbox) {
        if self.is_ending() {
            return;
        }
        self.step(cx, 0, What::Hangup);
        let (sip, reason) = match self.state {
            State::Answered => (200, &b"Q.850 ;cause=16"[..]),
            _ => (480, &b""[..]),
        };
        self.end(Cause { sip, q850: q850(sip), text, by }, reason, cx, out);
    }

    /// A dialog of an answered call is gone (RFC 5057 §5): the other party is let go.
    pub(super) fn dialog_lost(&mut self, side: Side, status: u16, cx: &mut Context<'_>, out: &mut Outbox) {
        if self.state != State::Answered {
            return;
        }
        if let Some(bond) = self.bonds.first_mut()
            && status == 481
        {
            bond.party_mut(side).presence = Presence::Gone;
        }
        let by = if status == 408 { By::Timer } else { by(side) };
        self.end_with(status, by, cx, out);
    }

    pub(super) fn on_flow_gone(&mut self, flow: Flow, cx: &mut Context<'_>, out: &mut Outbox) {
        self.on_connection_lost(flow, cx, out);
        // An answered call outlives a connection: its phone makes a new one, or the media timeout ends it.
        if !matches!(self.state, State::Locating { .. } | State::Ringing { .. }) {
            return;
        }
        if self.caller.transaction.flow() == flow {
            self.on_leg_lost(0, flow, cx, out);
            let cause = Cause { sip: 487, q850: 27, text: "the caller's connection ended".to_owned(), by: By::System };
            self.end(cause, b"", cx, out);
            return;
        }
        let legs: Vec<u8> =
            self.branches.iter().filter(|branch| branch.flow == flow).map(|branch| branch.leg).collect();
        for leg in legs {
            self.on_leg_lost(leg, flow, cx, out);
            if let Some(branch) = self.branch_mut(leg) {
                branch.give_up();
            }
            self.branch_failed(leg, 480, By::System, b"", cx, out);
        }
    }

    pub(super) fn end_with(&mut self, status: u16, by: By, cx: &mut Context<'_>, out: &mut Outbox) {
        let cause = Cause { sip: status, q850: q850(status), text: phrase(status), by };
        let reason = format!("SIP ;cause={status} ;text=\"{}\"", cause.text);
        self.end(cause, reason.as_bytes(), cx, out);
    }

    /// Lets go of everybody and everything; `reason` are the values of Reason that they see.
    pub(super) fn end(&mut self, cause: Cause, reason: &[u8], cx: &mut Context<'_>, out: &mut Outbox) {
        if self.is_ending() {
            return;
        }
        self.step(cx, 0, What::Ended { status: cause.sip });
        if self.caller.transaction.is_proceeding() {
            let status = if cause.sip >= 300 { cause.sip } else { 480 };
            self.caller.refuse(Refusal::Status(status), b"", cx.instant(), out);
        }
        let until = cx.instant() + REPORTS_MAX;
        self.state = State::Ending { cause: cause.clone(), until };
        self.cancel_branches(|_| true, reason, cx, out);
        self.let_go(&cause, reason, cx, out);
        self.reports_awaited += self.caller.ports.close(cx, out);
        self.caller.offer = Offer::Late;
        self.facts.show(CallState::Ending, out);
        if self.reports_awaited == 0 {
            self.finish(out);
        }
    }

    /// BYE to whoever is still there, answers to whoever waits.
    fn let_go(&mut self, cause: &Cause, reason: &[u8], cx: &mut Context<'_>, out: &mut Outbox) {
        for bond in &mut self.bonds {
            // RFC 3261 §15.1.2: "The UAS MUST still respond to any pending requests received for that dialog. It is
            // RECOMMENDED that a 487 (Request Terminated) response be generated to those pending requests."
            bond.caller.answer_reinvite(Verdict::refused(487), cx, out);
            bond.callee.answer_reinvite(Verdict::refused(487), cx, out);
            refuse_waiting(bond, 487, out);
            bond.reliable.stop();
            bond.caller.hang_up(reason, cx, out);
            bond.callee.hang_up(reason, cx, out);
        }
        if self.facts.was_answered() {
            for leg in [0, self.bridged] {
                self.facts.event(Some(leg), Body::LegEnded { cause: cause.clone() }, out);
            }
        } else {
            self.facts.event(Some(0), Body::LegEnded { cause: cause.clone() }, out);
        }
    }

    /// The last word about a call, once.
    pub(super) fn finish(&mut self, out: &mut Outbox) {
        let State::Ending { cause, .. } = &self.state else { return };
        let (cause, by) = (cause.clone(), cause.by);
        self.state = State::Ended;
        self.finish_recording(by, out);
        let legs = u8::try_from(self.branches.len() + 1).unwrap_or(u8::MAX);
        self.facts.event(None, Body::CallEnded { cause, legs }, out);
        out.push(Output::Live(Live::CallGone(self.facts.id)));
    }
}

/// RFC 3326: why the party hung up, if it says so.
fn hangup_cause(message: &Message<'_>, by: By) -> Cause {
    let mut values = message.values(HeaderId::Reason).filter_map(|value| ReasonValue::parse(value).ok());
    let value = values.find(|value| value.protocol.eq_ignore_ascii_case(b"Q.850"));
    let q850 = value.and_then(|value| value.cause).and_then(|cause| u8::try_from(cause).ok()).unwrap_or(16);
    Cause { sip: 200, q850, text: "hung up".to_owned(), by }
}

/// RFC 3326 §2: a message may have several values, of one protocol each, on one line or on several.
pub(super) fn reason_of(message: &Message<'_>) -> Text {
    let values: Vec<&[u8]> = message.values(HeaderId::Reason).collect();
    values.join(&b", "[..]).into()
}
