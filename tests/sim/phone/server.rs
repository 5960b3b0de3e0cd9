//! What a phone is asked, and what it answers (RFC 3261 §17.2, §8.2, §12.2.2, §13.3).

use tipring::base::time::Instant;

use crate::habits::Habit;
use crate::phone::Call;
use crate::phone::Fact;
use crate::phone::Manner;
use crate::phone::Phone;
use crate::phone::Sent;
use crate::phone::State;
use crate::phone::T1;
use crate::phone::TIMEOUT;
use crate::phone::body;
use crate::text::Text;

impl Phone {
    pub(super) fn on_request(&mut self, text: &Text, now: Instant, out: &mut Sent) {
        let method = text.method().to_owned();
        if method == "ACK" {
            if let Some(call) = &mut self.call
                && call.call_id == text.get("call-id")
            {
                call.accepted = None;
            }
            return;
        }
        let key = format!("{}{method}", text.branch());
        if let Some((_, answer)) = self.answered.iter().find(|(own, _)| *own == key) {
            out.push((self.sip, self.server, answer.clone()));
            return;
        }
        if method == "INVITE" && text.to_tag().is_empty() {
            self.on_new_invite(text, now, out);
            return;
        }
        let known = self.call.as_ref().is_some_and(|call| call.call_id == text.get("call-id"));
        if method == "OPTIONS" {
            self.answer(text, 200, "", "", out);
        } else if !known {
            self.answer(text, 481, "", "", out);
        } else {
            self.on_call_request(&method, text, now, out);
        }
    }

    fn on_new_invite(&mut self, text: &Text, now: Instant, out: &mut Sent) {
        if let Some(call) = &self.call {
            // A retransmission while it rings gets the ringing again.
            let same = call.call_id == text.get("call-id") && call.invite.is_some();
            let status = if same { 180 } else { 486 };
            let tag = if same { call.local_tag() } else { "busy".to_owned() };
            if !(same && call.state == State::Up) {
                self.answer(text, status, &tag, "", out);
            }
            return;
        }
        let number = self.random.next_u32();
        let tag = format!("d{number}");
        let state = match self.manner {
            Manner::Answers { after } | Manner::EarlyMedia { after } => {
                State::Ringing { answers: Some(now + after), rejects: None }
            }
            Manner::Rejects(status) => State::Ringing { answers: None, rejects: Some(status) },
            Manner::Ignores => State::Ringing { answers: None, rejects: None },
        };
        let token = self.new_token();
        let call = Call {
            caller: false,
            call_id: text.get("call-id").to_owned(),
            local: format!("{};tag={tag}", text.get("to")),
            remote: text.get("from").to_owned(),
            target: text.contact(),
            routes: text.all("record-route").iter().map(|route| (*route).to_owned()).collect(),
            cseq: 0,
            remote_cseq: text.cseq().0,
            invite: Some(text.clone()),
            state,
            ..Call::silent(token, now)
        };
        self.call = Some(call);
        self.take_media(text);
        self.answer(text, 100, "", "", out);
        self.ext.forget_call();
        if self.extended && text.all("supported").iter().any(|value| value.contains("100rel")) {
            self.ring_reliably(text, &tag, now, out);
        } else if matches!(self.manner, Manner::EarlyMedia { .. }) {
            let own = self.call.as_ref().map(|call| call.token.clone()).unwrap_or_default();
            let sdp = self.with_lines(self.sdp(&own, 1, "sendrecv"), Some(text.media_lines()));
            self.answer(text, 183, &tag, &sdp, out);
        } else {
            self.answer(text, 180, &tag, "", out);
        }
    }

    fn on_call_request(&mut self, method: &str, text: &Text, now: Instant, out: &mut Sent) {
        let Some(call) = &mut self.call else { return };
        call.remote_cseq = text.cseq().0.max(call.remote_cseq);
        match method {
            "BYE" => {
                self.answer(text, 200, "", "", out);
                self.end(now);
            }
            "CANCEL" => {
                self.answer(text, 200, "", "", out);
                if matches!(self.call.as_ref().map(|call| call.state), Some(State::Ringing { .. })) {
                    self.answer_invite(487, now, out);
                }
            }
            "INVITE" => {
                if self.pending.iter().any(|pending| matches!(pending.method.as_str(), "INVITE" | "UPDATE")) {
                    self.answer(text, 491, "", "", out);
                    return;
                }
                let direction = if text.media().is_some_and(|(_, direction)| direction == "sendonly") {
                    "recvonly"
                } else {
                    "sendrecv"
                };
                call.sdp_version += 1;
                let (version, token) = (call.sdp_version, call.token.clone());
                self.take_media(text);
                self.move_at_once(Habit::AnswererMoves, now);
                let sdp = self.with_lines(self.sdp(&token, version, direction), Some(text.media_lines()));
                let bytes = self.answer(text, 200, "", &sdp, out);
                if let Some(call) = &mut self.call {
                    call.accepted = Some((bytes, now + T1, T1, now + TIMEOUT));
                }
            }
            "PRACK" => self.on_prack(text, now, out),
            "UPDATE" => self.on_update(text, now, out),
            "INFO" => self.on_info(text, now, out),
            _ => {
                self.answer(text, 200, "", "", out);
            }
        }
    }

    pub(super) fn answer_invite(&mut self, status: u16, now: Instant, out: &mut Sent) {
        let Some(call) = &mut self.call else { return };
        let Some(invite) = call.invite.take() else { return };
        let tag = call.local_tag();
        self.ext.stop();
        if status >= 300 {
            self.answer(&invite, status, &tag, "", out);
            self.end(now);
            return;
        }
        call.state = State::Up;
        let token = call.token.clone();
        let was_said = self.ext.has_agreed() && matches!(self.manner, Manner::EarlyMedia { .. });
        if !was_said && matches!(self.manner, Manner::EarlyMedia { .. }) {
            self.move_at_once(Habit::OtherPort, now);
        }
        let sdp = if was_said { String::new() } else { self.sdp(&token, 2, "sendrecv") };
        let sdp = if was_said { sdp } else { self.with_lines(sdp, Some(invite.media_lines())) };
        let more = if self.extended { "Allow: INVITE, ACK, BYE, CANCEL, PRACK, UPDATE, INFO\r\n" } else { "" };
        let bytes = self.answer_with(&invite, 200, &tag, more, &sdp, out);
        if let Some(call) = &mut self.call {
            call.accepted = Some((bytes, now + T1, T1, now + TIMEOUT));
        }
        self.facts.push((now, Fact::Answered));
    }

    /// Sends an answer and keeps a final one for retransmissions.
    pub(super) fn answer(&mut self, request: &Text, status: u16, tag: &str, sdp: &str, out: &mut Sent) -> Vec<u8> {
        self.answer_with(request, status, tag, "", sdp, out)
    }

    /// `more` are further header lines.
    pub(super) fn answer_with(
        &mut self,
        request: &Text,
        status: u16,
        tag: &str,
        more: &str,
        sdp: &str,
        out: &mut Sent,
    ) -> Vec<u8> {
        let to = if tag.is_empty() || request.get("to").contains(";tag=") {
            request.get("to").to_owned()
        } else {
            format!("{};tag={tag}", request.get("to"))
        };
        let vias: String = request.all("via").iter().map(|via| format!("Via: {via}\r\n")).collect();
        let routes: String =
            request.all("record-route").iter().map(|route| format!("Record-Route: {route}\r\n")).collect();
        let bytes = format!(
            "SIP/2.0 {status} X\r\n{vias}{routes}From: {}\r\nTo: {to}\r\nCall-ID: {}\r\nCSeq: {}\r\nContact: {}\r\n{more}{}",
            request.get("from"),
            request.get("call-id"),
            request.get("cseq"),
            self.contact(),
            body(sdp),
        )
        .into_bytes();
        out.push((self.sip, self.server, bytes.clone()));
        if status >= 200 {
            if self.answered.len() >= 20 {
                self.answered.remove(0);
            }
            self.answered.push((format!("{}{}", request.branch(), request.method()), bytes.clone()));
        }
        bytes
    }
}
