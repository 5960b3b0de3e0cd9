//! What a phone asks, and what it makes of the answers (RFC 3261 §17.1, §8.1, §12, §13.2, §22).

use std::time::Duration;

use tipring::base::time::Instant;

use crate::phone::Call;
use crate::phone::Fact;
use crate::phone::Far;
use crate::phone::Pending;
use crate::phone::Phone;
use crate::phone::Sent;
use crate::phone::State;
use crate::phone::T1;
use crate::phone::T2;
use crate::phone::TIMEOUT;
use crate::phone::body;
use crate::text;
use crate::text::Text;

impl Phone {
    pub(super) fn register(&mut self, expires: u32, now: Instant, out: &mut Sent) {
        self.registration_cseq += 1;
        let (uri, branch) = (format!("sip:{}", self.domain), self.branch());
        let request = format!(
            "REGISTER {uri} SIP/2.0\r\nVia: {};branch={branch};rport\r\nMax-Forwards: 70\r\nFrom: <sip:{}@{}>;tag=r\r\n\
             To: <sip:{}@{}>\r\nCall-ID: reg-{}@sim\r\nCSeq: {} REGISTER\r\nContact: {}\r\nExpires: {expires}\r\nContent-Length: 0\r\n\r\n",
            self.via(),
            self.user,
            self.domain,
            self.user,
            self.domain,
            self.user,
            self.registration_cseq,
            self.contact(),
        );
        self.request("REGISTER", branch, uri, request, now, out);
    }

    pub(super) fn invite(&mut self, user: &str, now: Instant, out: &mut Sent) {
        let dialled = self.dialled(user);
        let (uri, branch, number) = (format!("sip:{dialled}@{}", self.domain), self.branch(), self.random.next_u32());
        let local = format!("{};tag=c{number}", self.shown_as());
        let remote = format!("<sip:{user}@{}>", self.domain);
        let call_id = format!("{number}-{}@sim", self.user);
        let token = self.new_token();
        self.facts.push((now, Fact::Called));
        self.ext.forget_call();
        let more = if self.extended { "Supported: 100rel\r\n" } else { "" };
        let request = format!(
            "INVITE {uri} SIP/2.0\r\nVia: {};branch={branch};rport\r\nMax-Forwards: 70\r\nFrom: {local}\r\nTo: {remote}\r\n\
             Call-ID: {call_id}\r\nCSeq: 1 INVITE\r\nContact: {}\r\nAllow: INVITE,ACK,BYE,CANCEL,UPDATE\r\n{more}{}",
            self.via(),
            self.contact(),
            body(&self.with_lines(self.sdp(&token, 1, "sendrecv"), None)),
        );
        self.call = Some(Call {
            caller: true,
            call_id,
            local,
            remote,
            target: uri.clone(),
            cseq: 1,
            ..Call::silent(token, now)
        });
        self.request("INVITE", branch, uri, request, now, out);
        self.mark_first();
    }

    fn mark_first(&mut self) {
        if let Some(last) = self.pending.last_mut() {
            last.is_first = true;
        }
    }

    pub(super) fn hang_up(&mut self, now: Instant, out: &mut Sent) {
        let Some(call) = &mut self.call else { return };
        match call.state {
            State::Up => {
                call.state = State::Ending;
                call.accepted = None;
                self.in_dialog("BYE", String::new(), now, out);
            }
            State::Calling => {
                call.hang_up_when_up = true;
                let Some(invite) = self.pending.iter().find(|pending| pending.method == "INVITE") else { return };
                let (branch, uri) = (invite.branch.clone(), invite.uri.clone());
                let cancel = invite.bytes.split("\r\n").filter(|line| {
                    ["Via:", "From:", "To:", "Call-ID:", "Max-Forwards:"].iter().any(|name| line.starts_with(name))
                });
                let lines: Vec<_> = cancel.collect();
                let cseq = Text::parse(invite.bytes.as_bytes()).map_or(1, |text| text.cseq().0);
                let request = format!(
                    "CANCEL {uri} SIP/2.0\r\n{}\r\nCSeq: {cseq} CANCEL\r\nContent-Length: 0\r\n\r\n",
                    lines.join("\r\n")
                );
                self.request("CANCEL", branch, uri, request, now, out);
            }
            State::Ringing { .. } => self.answer_invite(486, now, out),
            State::Ending => {}
        }
    }

    /// The call is up and no other offer is open.
    pub(super) fn may_offer(&self) -> bool {
        let asks = |pending: &Pending| matches!(pending.method.as_str(), "INVITE" | "UPDATE");
        let is_free = self.call.as_ref().is_some_and(|call| call.state == State::Up && call.accepted.is_none());
        is_free && !self.pending.iter().any(asks)
    }

    pub(super) fn renegotiate(&mut self, direction: &str, now: Instant, out: &mut Sent) {
        if self.may_offer() {
            self.offer_anew("INVITE", direction, now, out);
        }
    }

    pub(super) fn offer_anew(&mut self, method: &str, direction: &str, now: Instant, out: &mut Sent) {
        let Some(call) = &mut self.call else { return };
        call.sdp_version += 1;
        let version = call.sdp_version;
        let token = call.token.clone();
        let sdp = self.with_lines(self.sdp(&token, version, direction), None);
        self.in_dialog(method, sdp, now, out);
    }

    fn in_dialog(&mut self, method: &str, sdp: String, now: Instant, out: &mut Sent) {
        let Some(to) = self.call.as_ref().map(Far::of) else { return };
        self.in_dialog_with(&to, method, ("", &sdp), now, out);
    }

    /// With further header lines and a body; a description comes with its type.
    pub(super) fn in_dialog_with(
        &mut self,
        to: &Far,
        method: &str,
        (more, content): (&str, &str),
        now: Instant,
        out: &mut Sent,
    ) {
        let Far { remote, target } = to;
        let (branch, via, contact) = (self.branch(), self.via(), self.contact());
        let Some(call) = &mut self.call else { return };
        call.cseq += 1;
        let routes: String = call.routes.iter().map(|route| format!("Route: {route}\r\n")).collect();
        let request = format!(
            "{method} {target} SIP/2.0\r\nVia: {via};branch={branch};rport\r\nMax-Forwards: 70\r\n{routes}From: {}\r\n\
             To: {remote}\r\nCall-ID: {}\r\nCSeq: {} {method}\r\nContact: {contact}\r\n{more}{}",
            call.local,
            call.call_id,
            call.cseq,
            body(content),
        );
        self.request(method, branch, target.to_owned(), request, now, out);
    }

    fn request(&mut self, method: &str, branch: String, uri: String, bytes: String, now: Instant, out: &mut Sent) {
        out.push((self.sip, self.server, bytes.clone().into_bytes()));
        self.pending.push(Pending {
            method: method.to_owned(),
            branch,
            uri,
            bytes,
            next: now + T1,
            interval: T1,
            gives_up: now + TIMEOUT,
            proceeding: false,
            authorized: false,
            is_first: false,
        });
    }

    pub(super) fn retransmit(&mut self, now: Instant, out: &mut Sent) {
        let mut lost = Vec::new();
        for pending in &mut self.pending {
            let is_invite = pending.method == "INVITE";
            if now >= pending.gives_up {
                lost.push(pending.branch.clone());
            } else if now >= pending.next && !self.tcp && !(is_invite && pending.proceeding) {
                out.push((self.sip, self.server, pending.bytes.clone().into_bytes()));
                pending.interval = if is_invite { pending.interval * 2 } else { (pending.interval * 2).min(T2) };
                pending.next = now + pending.interval;
            }
        }
        for branch in lost {
            let Some(at) = self.pending.iter().position(|pending| pending.branch == branch) else { continue };
            let pending = self.pending.remove(at);
            self.on_final(&pending, 408, None, now, out);
        }
    }

    pub(super) fn on_response(&mut self, text: &Text, now: Instant, out: &mut Sent) {
        let (status, method, branch) = (text.status(), text.method().to_owned(), text.branch());
        let Some(at) = self.pending.iter().position(|pending| pending.branch == branch && pending.method == method)
        else {
            // A retransmitted final answer to INVITE wants its ACK again.
            if let Some(ack) =
                self.call.as_ref().and_then(|call| call.ack.clone()).filter(|_| method == "INVITE" && status < 300)
            {
                out.push((self.sip, self.server, ack));
            } else if method == "INVITE" && status >= 300 {
                self.ack_failure(text, out);
            }
            return;
        };
        if status < 200 {
            self.pending[at].proceeding = true;
            // The caller of an INVITE waits for people; any other request gives up as before.
            if method == "INVITE" {
                self.pending[at].gives_up = now + Duration::from_secs(200);
            }
            if method == "INVITE" && self.extended {
                self.on_provisional(text, now, out);
            }
            if status == 180 {
                self.facts.push((now, Fact::Ringing));
            }
            return;
        }
        let pending = self.pending.remove(at);
        if method == "INVITE" && status >= 300 {
            self.ack_failure(text, out);
        }
        if status == 401 && !pending.authorized && self.authorize(&pending, text, now, out) {
            return;
        }
        self.on_final(&pending, status, Some(text), now, out);
    }

    fn authorize(&mut self, pending: &Pending, response: &Text, now: Instant, out: &mut Sent) -> bool {
        self.nonce_count += 1;
        let Some(value) = text::authorization(response, &self.user, &self.password, &pending.method, &pending.uri, 1)
        else {
            return false;
        };
        let (cseq, branch) = (response.cseq().0, self.branch());
        let renewed = pending
            .bytes
            .replace(&pending.branch, &branch)
            .replace(&format!("CSeq: {cseq} "), &format!("CSeq: {} ", cseq + 1))
            .replacen("\r\nContact:", &format!("\r\nAuthorization: {value}\r\nContact:"), 1);
        if pending.method == "REGISTER" {
            self.registration_cseq = cseq + 1;
        } else if let Some(call) = &mut self.call {
            call.cseq = cseq + 1;
        }
        let hang_up = self.call.as_ref().is_some_and(|call| call.hang_up_when_up) && pending.method == "INVITE";
        self.request(&pending.method, branch, pending.uri.clone(), renewed, now, out);
        if let Some(last) = self.pending.last_mut() {
            last.authorized = true;
            last.is_first = pending.is_first;
        }
        if hang_up {
            self.hang_up(now, out);
        }
        true
    }

    /// RFC 3261 §17.1.1.3: the ACK for a failure is of the same transaction.
    fn ack_failure(&mut self, response: &Text, out: &mut Sent) {
        let call_uri = self.call.as_ref().map_or_else(|| format!("sip:{}", self.domain), |call| call.target.clone());
        let ack = format!(
            "ACK {call_uri} SIP/2.0\r\nVia: {};branch={};rport\r\nMax-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {} ACK\r\nContent-Length: 0\r\n\r\n",
            self.via(),
            response.branch(),
            response.get("from"),
            response.get("to"),
            response.get("call-id"),
            response.cseq().0,
        );
        out.push((self.sip, self.server, ack.into_bytes()));
    }

    pub(super) fn on_final(
        &mut self,
        pending: &Pending,
        status: u16,
        response: Option<&Text>,
        now: Instant,
        out: &mut Sent,
    ) {
        match pending.method.as_str() {
            "REGISTER" => {
                self.registered = status == 200;
                self.facts.push((now, if status == 200 { Fact::Registered } else { Fact::RegisterFailed(status) }));
            }
            "INVITE" => self.on_invite_final(status, response, now, out),
            "BYE" => {
                if response.is_none() {
                    self.cut_off.extend(self.call.iter().map(|call| call.token.clone()));
                }
                self.end(now);
            }
            _ => self.on_extended_final(pending, status, response, now, out),
        }
    }

    fn on_invite_final(&mut self, status: u16, response: Option<&Text>, now: Instant, out: &mut Sent) {
        self.on_move_final(status < 300, now);
        let Some(call) = &mut self.call else { return };
        let first = call.state == State::Calling;
        if status >= 300 {
            match (first, status) {
                (true, _) => {
                    self.facts.push((now, Fact::Failed(status)));
                    self.call = None;
                }
                // RFC 5057: the dialog is gone.
                (false, 481 | 408) => self.hang_up(now, out),
                (false, _) => {}
            }
            return;
        }
        let Some(response) = response else { return };
        call.remote = response.get("to").to_owned();
        call.target = response.contact();
        if first {
            call.routes = response.all("record-route").iter().rev().map(|route| (*route).to_owned()).collect();
            call.state = State::Up;
            self.facts.extend([(now, Fact::Answered), (now, Fact::Established)]);
        }
        let said = if first { self.description_of(response, now) } else { Some(response.clone()) };
        if let Some(said) = said {
            self.take_media(&said);
        }
        let cseq = response.cseq().0;
        let (branch, via) = (self.branch(), self.via());
        let Some(call) = &mut self.call else { return };
        let ack = format!(
            "ACK {} SIP/2.0\r\nVia: {};branch={branch};rport\r\nMax-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {cseq} ACK\r\nContent-Length: 0\r\n\r\n",
            call.target, via, call.local, call.remote, call.call_id,
        );
        call.ack = Some(ack.clone().into_bytes());
        out.push((self.sip, self.server, ack.into_bytes()));
        if call.hang_up_when_up && first {
            self.hang_up(now, out);
        }
    }
}
