//! Requests that reach the phone: ringing, answering, refusing; what comes within a call.

use std::time::Duration;

use crate::process::phlem::phone::Desk;
use crate::process::phlem::phone::Phone;
use crate::process::phlem::phone::Server;
use crate::process::phlem::phone::TRANSACTIONS_MAX;
use crate::process::phlem::phone::To;
use crate::process::phlem::phone::call::Call;
use crate::process::phlem::phone::call::State;
use crate::process::phlem::phone::call::Step;
use crate::process::phlem::phone::request::ALLOW;
use crate::process::phlem::phone::request::response_to;
use crate::process::phlem::scenario::Quirk;
use crate::process::phlem::sip::message::Message;
use crate::process::phlem::sip::message::Method;
use crate::process::phlem::sip::sdp::Described;
use crate::process::phlem::sip::sdp::Direction;
use crate::process::phlem::sip::transaction::server_key;
use crate::process::phlem::sip::value::Address;
use crate::process::phlem::sip::value::param;
use crate::shard::run::Flow;

/// Nobody picks up, and the caller does not give up either.
const RINGS_MAX: Duration = Duration::from_secs(90);

impl Phone {
    pub(super) fn on_request(&mut self, message: Message<'_>, flow: Flow, desk: &mut Desk<'_>) {
        let name = message.method().map(ToString::to_string).unwrap_or_default();
        let Some(key) = server_key(&message, &name) else {
            desk.figures.strays += 1;
            return;
        };
        if let Some(server) = self.servers.iter().find(|server| server.is(key)) {
            desk.figures.repeats_received += 1;
            if !server.bytes.is_empty() {
                desk.send(To::Flow(server.flow), server.bytes.clone());
            }
            return;
        }
        if self.servers.len() >= TRANSACTIONS_MAX {
            desk.figures.fail("more requests than a phone takes");
            return;
        }
        let Some(Method::Known(method)) = message.method().cloned() else {
            return self.reply(&message, key, flow, 405, "Method Not Allowed", desk);
        };
        let call = self.find_call(&message);
        match (method, call) {
            (rsip::Method::Invite, None) => self.on_invite(message, key, flow, desk),
            (rsip::Method::Invite | rsip::Method::Update, Some(call)) => self.on_offer(call, message, key, flow, desk),
            (rsip::Method::Cancel, _) => self.on_cancel(&message, key, flow, desk),
            (rsip::Method::Bye, Some(call)) => {
                self.reply(&message, key, flow, 200, "OK", desk);
                self.on_bye(call, desk);
            }
            (rsip::Method::Refer, Some(call)) => self.on_refer(call, &message, key, flow, desk),
            (rsip::Method::Notify, Some(call)) => {
                self.reply(&message, key, flow, 200, "OK", desk);
                self.on_notify(call, &message, desk);
            }
            (rsip::Method::Info, Some(_)) => {
                desk.figures.digits_heard += u64::from(message.body.starts_with(b"Signal="));
                self.reply(&message, key, flow, 200, "OK", desk);
            }
            (rsip::Method::Options | rsip::Method::Message | rsip::Method::Notify, _) => {
                self.reply(&message, key, flow, 200, "OK", desk);
            }
            (rsip::Method::Bye | rsip::Method::Info | rsip::Method::Refer | rsip::Method::Update, None) => {
                self.reply(&message, key, flow, 481, "Call/Transaction Does Not Exist", desk);
            }
            _ => self.reply(&message, key, flow, 405, "Method Not Allowed", desk),
        }
    }

    /// Answers a request that is no INVITE, or refuses one, and remembers the answer.
    pub(super) fn reply(
        &mut self,
        request: &Message<'_>,
        key: u64,
        flow: Flow,
        code: u16,
        reason: &str,
        desk: &mut Desk<'_>,
    ) {
        let mut response = response_to(request, code, reason, Some(self.random.next_u64()));
        if matches!(code, 200 | 405) {
            response.push("Allow", ALLOW);
        }
        let is_invite = request.method() == Some(&Method::Known(rsip::Method::Invite));
        let mut server = Server::new(key, is_invite, 0, cseq_of(request), flow);
        let bytes = response.finish(self.style());
        server.respond(code, bytes.clone(), matches!(flow, Flow::Tcp { .. }), desk.now.instant);
        self.servers.push(server);
        desk.send(To::Flow(flow), bytes);
    }

    fn on_invite(&mut self, message: Message<'_>, key: u64, flow: Flow, desk: &mut Desk<'_>) {
        if message.value("To").and_then(Address::parse).is_some_and(|to| to.tag().is_some()) {
            return self.reply(&message, key, flow, 481, "Call/Transaction Does Not Exist", desk);
        }
        let replaced = match message.value("Replaces") {
            None => None,
            Some(replaces) => match self.find_replaced(replaces) {
                Some(call) => Some(call),
                None => return self.reply(&message, key, flow, 481, "Call/Transaction Does Not Exist", desk),
            },
        };
        let population = desk.settings.population(self.population);
        if replaced.is_none() && self.calls.len() >= usize::from(population.lines) {
            return self.reply(&message, key, flow, 486, "Busy Here", desk);
        }
        let now = desk.now.instant;
        let drawn = self.random.below(1_000_000) as f64 / 1_000_000.0;
        let (busy, reject) = (population.busy, population.busy + population.reject);
        if replaced.is_none() && drawn < busy {
            return self.reply(&message, key, flow, 486, "Busy Here", desk);
        }
        let Some(number) = self.take_invite(message, key, flow, desk) else { return };
        if replaced.is_none() && drawn < reject {
            // A person looks at the display first.
            let after = Duration::from_millis(300 + self.random.below(1_200));
            self.ring(number, desk);
            self.with_call(number, |_, call| call.at(now + after, Step::Forget));
            return self.refuse(number, 603, "Decline", desk);
        }
        if let Some(replaced) = replaced {
            self.answer_call(number, desk);
            return self.hang_up(replaced, desk);
        }
        self.ring(number, desk);
        let is_answered = drawn >= reject + population.no_answer;
        let wait = if is_answered { population.answer.draw(&mut self.random) } else { RINGS_MAX };
        let step = if is_answered { Step::Answer } else { Step::Unanswered };
        self.with_call(number, |_, call| call.at(now + wait, step));
    }

    /// Makes a call of an INVITE; None if no port is free, and then it is refused.
    fn take_invite(&mut self, message: Message<'_>, key: u64, flow: Flow, desk: &mut Desk<'_>) -> Option<u64> {
        let heard = Described::parse(&message.body);
        if heard.is_some_and(|heard| heard.codec.is_none()) {
            self.reply(&message, key, flow, 488, "Not Acceptable Here", desk);
            return None;
        }
        let is_silent = heard.is_some_and(|heard| heard.direction == Direction::Inactive);
        let slot = if is_silent { None } else { desk.ports.take() };
        if slot.is_none() && !is_silent {
            desk.figures.fail("no RTP port is free");
            self.reply(&message, key, flow, 503, "Service Unavailable", desk);
            return None;
        }
        let number = self.draw_number();
        let call_id = message.value("Call-ID").unwrap_or_default().to_owned();
        let mut call = Call::new(number, false, call_id, desk.now.instant);
        call.tag = self.random.next_u64();
        call.slot = slot;
        call.direction = if is_silent { Direction::Inactive } else { Direction::SendRecv };
        call.heard = heard;
        call.voice = heard.and_then(|heard| heard.call).unwrap_or(number);
        call.local = format!("{};tag={:x}", message.value("To").unwrap_or_default(), call.tag);
        message.value("From").unwrap_or_default().clone_into(&mut call.remote);
        let cseq = cseq_of(&message);
        call.remote_cseq = Some(cseq);
        call.take_dialog(&message, false);
        call.invite = Some(Box::new(message.into_owned()));
        self.servers.push(Server::new(key, true, number, cseq, flow));
        self.calls.push(Box::new(call));
        Some(number)
    }

    fn ring(&mut self, number: u64, desk: &mut Desk<'_>) {
        let early = desk.settings.population(self.population).early_media;
        let is_early = (self.random.below(1_000_000) as f64) < early * 1_000_000.0;
        self.answer_invite(number, if is_early { 183 } else { 180 }, desk);
        if self.has(Quirk::RingsALot) {
            let now = desk.now.instant;
            self.with_call(number, |_, call| {
                for time in 1..10 {
                    call.at(now + Duration::from_millis(100 * time), Step::RingAgain);
                }
            });
        }
    }

    pub(super) fn ring_again(&mut self, number: u64, desk: &mut Desk<'_>) {
        if self.with_call(number, |_, call| call.state) == Some(State::Ringing) {
            self.answer_invite(number, 180, desk);
        }
    }

    pub(super) fn answer_call(&mut self, number: u64, desk: &mut Desk<'_>) {
        if self.with_call(number, |_, call| call.state) != Some(State::Ringing) {
            return;
        }
        let now = desk.now.instant;
        self.with_call(number, |_, call| {
            call.state = State::Accepted;
            call.answered_at = Some(now);
            call.cancel_steps(|step| matches!(step, Step::RingAgain | Step::Unanswered));
            if let Some(talk) = call.heard.and_then(|heard| heard.talk) {
                call.ends_at = now + talk;
                call.at(now + talk, Step::HangUp);
            }
        });
        self.answer_invite(number, 200, desk);
    }

    pub(super) fn refuse(&mut self, number: u64, code: u16, reason: &str, desk: &mut Desk<'_>) {
        if self.with_call(number, |_, call| call.state) != Some(State::Ringing) {
            return;
        }
        self.respond(number, code, reason, desk);
        self.remove_call(number, desk);
    }

    fn answer_invite(&mut self, number: u64, code: u16, desk: &mut Desk<'_>) {
        let reason = match code {
            180 => "Ringing",
            183 => "Session Progress",
            _ => "OK",
        };
        self.respond(number, code, reason, desk);
        if code != 180 {
            self.with_call(number, |phone, call| phone.speak(call, desk));
        }
    }

    /// Answers the INVITE of a call, with a description where one belongs.
    fn respond(&mut self, number: u64, code: u16, reason: &str, desk: &mut Desk<'_>) {
        let bytes = self.with_call(number, |phone, call| {
            let invite = call.invite.take()?;
            let mut response = response_to(&invite, code, reason, Some(call.tag));
            if code < 300 {
                response.push_with("Contact", |text| phone.write_contact(text, desk));
                response.push("Allow", ALLOW);
            }
            if matches!(code, 183 | 200) {
                response.push("Content-Type", "application/sdp");
                response.body = phone.description(call, call.heard.is_some(), desk);
            }
            if code < 200 {
                call.invite = Some(invite);
            }
            Some(response.finish(phone.style()))
        });
        let Some(Some(bytes)) = bytes else { return };
        let now = desk.now.instant;
        let Some(server) = self.server_of(number) else { return };
        server.respond(code, bytes.clone(), matches!(server.flow, Flow::Tcp { .. }), now);
        let to = To::Flow(server.flow);
        desk.send(to, bytes);
    }

    /// Re-INVITE or UPDATE: hold, resume, a session refreshed, media that goes elsewhere.
    fn on_offer(&mut self, number: u64, message: Message<'_>, key: u64, flow: Flow, desk: &mut Desk<'_>) {
        let (cseq, is_invite) =
            (message.cseq().map(|(cseq, _)| cseq), message.cseq().is_some_and(|(_, m)| m == "INVITE"));
        let Some(renegotiates) = self.with_call(number, |_, call| {
            let is_old = call.remote_cseq.is_some_and(|last| cseq.is_none_or(|cseq| cseq <= last));
            (call.renegotiates || call.state == State::Calling, is_old)
        }) else {
            return;
        };
        match renegotiates {
            (_, true) => return self.reply(&message, key, flow, 500, "Server Internal Error", desk),
            (true, _) => return self.reply(&message, key, flow, 491, "Request Pending", desk),
            _ => {}
        }
        let tag = self.with_call(number, |phone, call| {
            call.remote_cseq = cseq;
            if let Some(contact) = message.value("Contact").and_then(Address::parse) {
                contact.uri.clone_into(&mut call.target);
            }
            let mut response = response_to(&message, 200, "OK", Some(call.tag));
            response.push_with("Contact", |text| phone.write_contact(text, desk));
            response.push("Allow", ALLOW);
            let offer = Described::parse(&message.body);
            if let Some(heard) = offer {
                call.heard = Some(heard);
                call.direction = if heard.to.is_none() { Direction::Inactive } else { heard.direction.answer() };
            }
            if offer.is_some() || is_invite {
                response.push("Content-Type", "application/sdp");
                response.body = phone.description(call, offer.is_some(), desk);
            }
            phone.speak(call, desk);
            response.finish(phone.style())
        });
        let Some(bytes) = tag else { return };
        let mut server = Server::new(key, is_invite, number, cseq.unwrap_or(0), flow);
        server.respond(200, bytes.clone(), matches!(flow, Flow::Tcp { .. }), desk.now.instant);
        self.servers.push(server);
        desk.send(To::Flow(flow), bytes);
    }

    fn on_cancel(&mut self, message: &Message<'_>, key: u64, flow: Flow, desk: &mut Desk<'_>) {
        let invite = server_key(message, "INVITE");
        let found = self.servers.iter().find(|server| Some(true) == invite.map(|invite| server.is(invite)));
        let Some(number) = found.map(|server| server.call) else {
            return self.reply(message, key, flow, 481, "Call/Transaction Does Not Exist", desk);
        };
        self.reply(message, key, flow, 200, "OK", desk);
        self.refuse(number, 487, "Request Terminated", desk);
    }

    pub(super) fn on_ack(&mut self, message: &Message<'_>, desk: &mut Desk<'_>) {
        let now = desk.now.instant;
        let key = server_key(message, "INVITE");
        if let Some(server) = self.servers.iter_mut().find(|server| key.is_some_and(|key| server.is(key))) {
            server.on_ack(now);
            return;
        }
        let Some(number) = self.find_call(message) else { return };
        let cseq = cseq_of(message);
        let acknowledged = |server: &&mut Server| server.is_invite && server.call == number && server.cseq == cseq;
        for server in self.servers.iter_mut().filter(acknowledged) {
            server.on_ack(now);
        }
        self.with_call(number, |phone, call| {
            if call.state == State::Accepted {
                call.state = State::Up;
                phone.speak(call, desk);
            }
            if let Some(heard) = Described::parse(&message.body) {
                // The answer to an offer that we made in 200.
                call.heard = Some(heard);
                call.voice = heard.call.unwrap_or(call.voice);
                phone.speak(call, desk);
            }
        });
    }

    /// RFC 3891 §3: the dialog whose identifiers a Replaces names.
    fn find_replaced(&self, replaces: &str) -> Option<u64> {
        let (call_id, params) = replaces.split_at(replaces.find(';')?);
        let (to, from) = (param(params, "to-tag")?, param(params, "from-tag")?);
        let own = u64::from_str_radix(to, 16).ok()?;
        let found = self
            .calls
            .iter()
            .find(|call| call.call_id == call_id.trim() && call.tag == own && call.remote_tag() == Some(from));
        found.map(|call| call.number)
    }
}

fn cseq_of(message: &Message<'_>) -> u32 {
    message.cseq().map_or(0, |(number, _)| number)
}
