//! Calls that the phone places: INVITE, what comes back, ACK, CANCEL, BYE.

use std::time::Duration;

use bytes::Bytes;

use crate::base::time::Instant;
use crate::process::phlem::figures::Outcome;
use crate::process::phlem::phone::Desk;
use crate::process::phlem::phone::Effect;
use crate::process::phlem::phone::Phone;
use crate::process::phlem::phone::Plan;
use crate::process::phlem::phone::Purpose;
use crate::process::phlem::phone::To;
use crate::process::phlem::phone::call::Call;
use crate::process::phlem::phone::call::ENDING_MAX;
use crate::process::phlem::phone::call::State;
use crate::process::phlem::phone::call::Step;
use crate::process::phlem::phone::request::ALLOW;
use crate::process::phlem::scenario::Quirk;
use crate::process::phlem::sip::message::Draft;
use crate::process::phlem::sip::message::Message;
use crate::process::phlem::sip::sdp::Described;
use crate::process::phlem::sip::sdp::Direction;
use crate::process::phlem::sip::value::Address;

/// A callee that was asked to hang up gets so much more time.
const CALLEE_GRACE: Duration = Duration::from_secs(10);
/// Nobody lets it ring longer.
const RING_MAX: Duration = Duration::from_secs(120);

impl Phone {
    /// False if no port is free.
    pub fn place_call(&mut self, plan: Plan, desk: &mut Desk<'_>) -> bool {
        self.place_call_as(plan, Vec::new(), desk).is_some()
    }

    /// Returns the call's number. `extra` are further headers of its INVITE.
    pub(super) fn place_call_as(
        &mut self,
        mut plan: Plan,
        extra: Vec<(&'static str, String)>,
        desk: &mut Desk<'_>,
    ) -> Option<u64> {
        let slot = if plan.media { Some(desk.ports.take()?) } else { None };
        let now = desk.now.instant;
        let number = self.draw_number();
        let call_id = format!("{:x}-{:x}@phlem", self.random.next_u64(), desk.settings.boot);
        let mut call = Call::new(number, true, call_id, now);
        call.tag = self.random.next_u64();
        let to = std::mem::take(&mut plan.to);
        let (user, domain) = (self.user(desk), self.domain(desk));
        call.target = if to.contains(':') { to } else { format!("sip:{to}@{domain}") };
        call.local = format!("<sip:{user}@{domain}>;tag={:x}", call.tag);
        call.remote = format!("<{}>", call.target);
        call.slot = slot;
        // Signalling alone says so: neither side keeps a port for it.
        call.direction = if slot.is_some() { Direction::SendRecv } else { Direction::Inactive };
        call.at(now + plan.patience.unwrap_or(RING_MAX), Step::Cancel);
        call.plan = Some(Box::new(plan));
        call.extra = extra;
        self.calls.push(Box::new(call));
        desk.figures.calls += 1;
        desk.figures.calls_now += 1;
        self.send_invite(number, desk);
        Some(number)
    }

    pub(super) fn send_invite(&mut self, number: u64, desk: &mut Desk<'_>) {
        self.with_call(number, |phone, call| {
            let (mut message, id) = phone.in_call(rsip::Method::Invite, call, desk);
            call.invite_cseq = call.cseq;
            call.has_provisional = false;
            message.push("Allow", ALLOW);
            message.push("Supported", "replaces");
            for (name, value) in &call.extra {
                message.push(name, value);
            }
            message.push("Content-Type", "application/sdp");
            message.body = phone.description(call, false, desk);
            phone.send_request(id, Purpose::Invite(number), message, desk);
        });
    }

    pub(super) fn on_provisional(&mut self, number: u64, code: u16, message: &Message<'_>, desk: &mut Desk<'_>) {
        let now = desk.now.instant;
        self.with_call(number, |phone, call| {
            call.has_provisional = true;
            if call.state == State::Cancelling {
                phone.send_cancel(call, desk);
                return;
            }
            if (180..=183).contains(&code) && call.ringing_at.is_none() {
                call.ringing_at = Some(now);
                desk.figures.post_dial_delay.record_duration(now.since(call.begun));
            }
            if let Some(heard) = Described::parse(&message.body)
                && call.heard.is_none()
            {
                call.heard = Some(heard);
                phone.speak(call, desk);
            }
            phone.tell_asker(call, code, desk);
        });
    }

    pub(super) fn on_invite_final(
        &mut self,
        number: u64,
        begun: Instant,
        code: u16,
        message: &Message<'_>,
        desk: &mut Desk<'_>,
    ) {
        *desk.figures.responses.entry(code).or_default() += 1;
        if (200..300).contains(&code) {
            self.on_answered(number, begun, message, desk);
            return;
        }
        let Some(state) = self.with_call(number, |phone, call| {
            phone.tell_asker(call, code, desk);
            call.state
        }) else {
            return;
        };
        let outcome = match code {
            401 | 407 | 487 if state == State::Cancelling => Outcome::Cancelled,
            486 | 600 => Outcome::Busy,
            603 => Outcome::Rejected,
            408 | 480 | 487 => Outcome::NoAnswer,
            _ => Outcome::Failed,
        };
        self.finish(number, outcome, &format!("INVITE {code}"), desk);
    }

    /// Removes a call of ours and counts how it ended.
    fn finish(&mut self, number: u64, outcome: Outcome, cause: &str, desk: &mut Desk<'_>) {
        desk.figures.end(outcome);
        if outcome == Outcome::Failed {
            desk.figures.fail(cause);
        } else {
            desk.figures.calls_good += 1;
        }
        self.remove_call(number, desk);
    }

    /// The server ended neither the call nor the attempt to end it.
    pub(super) fn forget(&mut self, number: u64, desk: &mut Desk<'_>) {
        if self.with_call(number, |_, call| call.is_caller) == Some(true) {
            self.finish(number, Outcome::Failed, "call that does not end", desk);
        } else {
            self.remove_call(number, desk);
        }
    }

    /// The run is over: what is left of calls is counted.
    pub fn abandon(&mut self, desk: &mut Desk<'_>) {
        while let Some(number) = self.calls.first().map(|call| call.number) {
            self.forget(number, desk);
        }
    }

    pub(super) fn on_invite_silence(&mut self, number: u64, desk: &mut Desk<'_>) {
        self.finish(number, Outcome::Failed, "INVITE not answered", desk);
    }

    fn on_answered(&mut self, number: u64, begun: Instant, message: &Message<'_>, desk: &mut Desk<'_>) {
        let now = desk.now.instant;
        let gave_up = self.with_call(number, |phone, call| {
            call.take_dialog(message, true);
            if let Some(to) = message.value("To") {
                to.clone_into(&mut call.remote);
            }
            if let Some(heard) = Described::parse(&message.body) {
                call.heard = Some(heard);
            }
            call.cancel_steps(|step| step == Step::Cancel);
            if call.state == State::Cancelling {
                return true;
            }
            call.state = State::Up;
            call.answered_at = Some(now);
            desk.figures.calls_answered += 1;
            desk.figures.answered_now += 1;
            let waited = call.heard.and_then(|heard| heard.waited).unwrap_or_default();
            desk.figures.setup_delay.record_duration(now.since(begun).saturating_sub(waited));
            phone.speak(call, desk);
            phone.plan_talk(call, now);
            phone.tell_asker(call, 200, desk);
            false
        });
        match gave_up {
            None => {}
            Some(true) => {
                self.send_ack(number, desk);
                self.send_bye(number, desk);
            }
            Some(false) => {
                if self.has(Quirk::SlowAck) {
                    self.with_call(number, |_, call| call.at(now + Duration::from_millis(1_200), Step::Acknowledge));
                } else if !self.has(Quirk::NoAck) {
                    self.send_ack(number, desk);
                }
                self.on_consultation_answered(number, desk);
            }
        }
    }

    /// What the caller does in the call, and when.
    fn plan_talk(&mut self, call: &mut Call, now: Instant) {
        let Some(plan) = &call.plan else { return };
        let part = |share: f64| now + plan.talk.mul_f64(share);
        let steps = &mut call.steps;
        if plan.hold {
            steps.extend([(part(0.3), Step::Hold), (part(0.5), Step::Resume)]);
        }
        if plan.dtmf {
            steps.push((part(0.2), Step::Press));
        }
        if plan.transfer.is_some() {
            steps.push((part(0.6), Step::Transfer));
        }
        call.ends_at = now + plan.talk;
        let grace = if plan.callee_ends { CALLEE_GRACE } else { Duration::ZERO };
        steps.push((call.ends_at + grace, Step::HangUp));
    }

    pub(super) fn send_ack(&mut self, number: u64, desk: &mut Desk<'_>) {
        self.with_call(number, |phone, call| {
            let (ack, _) = phone.in_call(rsip::Method::Ack, call, desk);
            let ack = ack.finish(phone.style());
            call.ack = ack.clone();
            desk.send(To::Server, ack);
        });
    }

    /// The answer came again: so does ACK. False if it is not to a call of ours.
    pub(super) fn acknowledge_again(&mut self, message: &Message<'_>, desk: &mut Desk<'_>) -> bool {
        let is_answer = message.code().is_some_and(|code| (200..300).contains(&code));
        if !is_answer || message.cseq().is_none_or(|(_, method)| method != "INVITE") {
            return false;
        }
        let own = |address: &str| Address::parse(address).and_then(|from| u64::from_str_radix(from.tag()?, 16).ok());
        let (Some(tag), Some(to)) = (message.value("From").and_then(own), message.value("To").and_then(Address::parse))
        else {
            return false;
        };
        let Some(call) = self.calls.iter().find(|call| call.tag == tag && call.remote_tag() == to.tag()) else {
            return false;
        };
        desk.figures.repeats_received += 1;
        if !call.ack.is_empty() {
            desk.send(To::Server, call.ack.clone());
        } else if self.has(Quirk::SlowAck) {
            let number = call.number;
            self.send_ack(number, desk);
        }
        true
    }

    /// RFC 3261 §17.1.1.3: the ACK of a refusal has the INVITE's branch, and the To of the response.
    pub(super) fn ack_of_refusal(&mut self, place: usize, response: &Message<'_>) -> Bytes {
        let Ok(invite) = Message::parse(&self.clients[place].bytes) else { return Bytes::new() };
        let mut ack = Draft::request(rsip::Method::Ack, invite.uri());
        copy(&invite, &["Via", "Max-Forwards", "Route", "From"], &mut ack);
        ack.push("To", response.value("To").or_else(|| invite.value("To")).unwrap_or_default());
        ack.push("Call-ID", invite.value("Call-ID").unwrap_or_default());
        ack.push("CSeq", &format!("{} ACK", invite.cseq().map_or(0, |(number, _)| number)));
        ack.finish(self.style())
    }

    /// The caller's patience has ended.
    pub(super) fn give_up(&mut self, number: u64, desk: &mut Desk<'_>) {
        let now = desk.now.instant;
        self.with_call(number, |phone, call| {
            if call.state != State::Calling {
                return;
            }
            call.state = State::Cancelling;
            call.at(now + ENDING_MAX, Step::Forget);
            // RFC 3261 §9.1: "If no provisional response has been received, the CANCEL request MUST NOT be sent".
            if call.has_provisional {
                phone.send_cancel(call, desk);
            }
        });
    }

    fn send_cancel(&mut self, call: &mut Call, desk: &mut Desk<'_>) {
        if std::mem::replace(&mut call.cancel_sent, true) {
            return;
        }
        let purpose = Purpose::Invite(call.number);
        let own = self.clients.iter().find(|client| client.purpose == purpose && !client.is_completed());
        let Some(client) = own else { return };
        let Ok(invite) = Message::parse(&client.bytes) else { return };
        let mut cancel = Draft::request(rsip::Method::Cancel, invite.uri());
        copy(&invite, &["Via", "Max-Forwards", "Route", "From", "To", "Call-ID"], &mut cancel);
        cancel.push("CSeq", &format!("{} CANCEL", call.invite_cseq));
        // The branch is the INVITE's; the method of CSeq tells the answers apart.
        let id = client.id;
        self.send_request(id, Purpose::Cancel(call.number), cancel, desk);
    }

    /// Ends a call in whatever state it is.
    pub(super) fn hang_up(&mut self, number: u64, desk: &mut Desk<'_>) {
        let Some(state) = self.with_call(number, |_, call| call.state) else { return };
        match state {
            State::Calling => self.give_up(number, desk),
            State::Cancelling | State::Ending => {}
            State::Ringing => self.refuse(number, 480, "Temporarily Unavailable", desk),
            State::Accepted | State::Up => {
                if self.has(Quirk::NoBye) {
                    // The handset is down, and nobody is told.
                    self.on_bye_final(number, desk);
                    return;
                }
                self.send_bye(number, desk);
                if self.has(Quirk::DoubleBye) {
                    self.send_bye(number, desk);
                }
            }
        }
    }

    pub(super) fn send_bye(&mut self, number: u64, desk: &mut Desk<'_>) {
        let now = desk.now.instant;
        self.with_call(number, |phone, call| {
            if call.state != State::Cancelling {
                call.state = State::Ending;
            }
            phone.hush(call, desk);
            call.steps.clear();
            call.at(now + ENDING_MAX, Step::Forget);
            let (bye, id) = phone.in_call(rsip::Method::Bye, call, desk);
            phone.send_request(id, Purpose::Bye(number), bye, desk);
        });
    }

    /// BYE was answered, somehow: the call is over.
    pub(super) fn on_bye_final(&mut self, number: u64, desk: &mut Desk<'_>) {
        let found = self.with_call(number, |_, call| (call.is_caller, call.state, call.is_transferred));
        match found {
            Some((true, State::Cancelling, _)) => self.finish(number, Outcome::Cancelled, "", desk),
            Some((true, _, true)) => self.finish(number, Outcome::Transferred, "", desk),
            Some((true, ..)) => self.finish(number, Outcome::Completed, "", desk),
            Some((false, ..)) => self.remove_call(number, desk),
            None => {}
        }
    }

    /// The other side hung up.
    pub(super) fn on_bye(&mut self, number: u64, desk: &mut Desk<'_>) {
        let now = desk.now.instant;
        let Some((is_caller, is_early, is_transferred, slot)) = self.with_call(number, |_, call| {
            let callee_ends = call.plan.as_ref().is_some_and(|plan| plan.callee_ends);
            let is_early = !callee_ends && call.state == State::Up && now + Duration::from_millis(500) < call.ends_at;
            (call.is_caller, is_early, call.is_transferred, call.slot.take())
        }) else {
            return;
        };
        if let Some(slot) = slot {
            desk.effects.push(Effect::Hush(slot));
        }
        match (is_caller, is_transferred, is_early) {
            (false, ..) => self.remove_call(number, desk),
            (true, true, _) => self.finish(number, Outcome::Transferred, "", desk),
            (true, false, true) => self.finish(number, Outcome::Failed, "call ended by the other side too early", desk),
            (true, false, false) => self.finish(number, Outcome::Completed, "", desk),
        }
    }
}

fn copy(from: &Message<'_>, names: &[&str], to: &mut Draft) {
    for name in names {
        for value in from.values(name) {
            to.push(name, value);
        }
    }
}
