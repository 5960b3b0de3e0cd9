//! What newer phones do besides: reliable provisional responses (RFC 3262), UPDATE (RFC 3311) and INFO (RFC 6086).
//!
//! A phone that is not `extended` offers none of it, but answers an UPDATE and an INFO as any phone would.

use std::time::Duration;

use tipring::base::time::Instant;

use crate::habits::Habit;
use crate::phone::Fact;
use crate::phone::Far;
use crate::phone::Manner;
use crate::phone::Pending;
use crate::phone::Phone;
use crate::phone::Sent;
use crate::phone::State;
use crate::phone::T1;
use crate::phone::TIMEOUT;
use crate::text;
use crate::text::Text;

#[derive(Debug, Default)]
pub struct Extensions {
    /// As a caller: what reliable responses said, a dialog each.
    early: Vec<Early>,
    /// As a callee: the numbers of its reliable responses in this call, and whether their PRACK came.
    reliable: Vec<(u32, bool)>,
    repeat: Option<Repeat>,
    /// Digits sent.
    digits: u32,
    /// Digits that were taken at the other end, as far as this phone was told, and those that reached this phone.
    pub taken: Vec<String>,
    pub heard: Vec<String>,
}

/// The caller's view of one callee before it answers.
#[derive(Debug)]
struct Early {
    tag: String,
    rseq: u32,
    far: Far,
    /// The last description of the callee.
    said: Option<Text>,
    /// The PRACK of that description was answered: another offer may be made.
    is_agreed: bool,
    /// A PRACK was answered with a failure: this dialog has ended.
    is_refused: bool,
}

/// A reliable response that waits for its PRACK.
#[derive(Debug)]
struct Repeat {
    rseq: u32,
    bytes: Vec<u8>,
    has_description: bool,
    next: Instant,
    interval: Duration,
    until: Instant,
}

impl Extensions {
    pub fn forget_call(&mut self) {
        (self.early, self.reliable, self.repeat) = (Vec::new(), Vec::new(), None);
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.repeat.as_ref().map(|repeat| repeat.next.min(repeat.until))
    }

    /// RFC 3262 §3: a 2xx waits for the PRACK of a response with a description.
    pub fn holds_answer(&self) -> bool {
        self.repeat.as_ref().is_some_and(|repeat| repeat.has_description)
    }

    /// The callee's description was said in a reliable response.
    pub fn has_agreed(&self) -> bool {
        self.reliable.iter().any(|(_, pracked)| *pracked)
    }

    pub fn stop(&mut self) {
        self.repeat = None;
    }
}

impl Phone {
    /// A provisional response to this phone's INVITE.
    pub(super) fn on_provisional(&mut self, response: &Text, now: Instant, out: &mut Sent) {
        let (Some(call), Ok(rseq)) = (&self.call, response.get("rseq").parse::<u32>()) else { return };
        if !response.get("require").contains("100rel") || call.state != State::Calling {
            return;
        }
        let tag = response.to_tag();
        let at = match self.ext.early.iter().position(|early| early.tag == tag) {
            Some(at) => at,
            None => {
                let far = Far { remote: response.get("to").to_owned(), target: response.contact() };
                let rseq = rseq.wrapping_sub(1);
                self.ext.early.push(Early { tag, rseq, far, said: None, is_agreed: false, is_refused: false });
                self.ext.early.len() - 1
            }
        };
        let early = &mut self.ext.early[at];
        // RFC 3262 §4: only the next in order is acknowledged; a repeat has its PRACK.
        if rseq != early.rseq.wrapping_add(1) {
            return;
        }
        early.rseq = rseq;
        if response.media().is_some() {
            early.said = Some(response.clone());
        }
        let far = early.far.clone();
        let (number, _) = response.cseq();
        let late = if self.has(Habit::LatePrack) { self.random.below(700) } else { 0 };
        self.habits.pracks.push((now + Duration::from_millis(late), far, format!("RAck: {rseq} {number} INVITE\r\n")));
        self.send_pracks(now, out);
    }

    pub(super) fn send_pracks(&mut self, now: Instant, out: &mut Sent) {
        while let Some(at) = self.habits.pracks.iter().position(|(at, ..)| *at <= now) {
            let (_, far, rack) = self.habits.pracks.remove(at);
            self.in_dialog_with(&far, "PRACK", (&rack, ""), now, out);
        }
    }

    /// The 2xx to this phone's INVITE: the description that it or a response before it brought.
    pub(super) fn description_of(&mut self, response: &Text, now: Instant) -> Option<Text> {
        let tag = response.to_tag();
        let early = self.ext.early.iter().find(|early| early.tag == tag);
        if early.is_some_and(|early| early.is_refused) {
            self.facts.push((now, Fact::Wrong(format!("{tag} answers, whose PRACK was refused"))));
        }
        let said = early.and_then(|early| early.said.clone());
        let text = if response.media().is_some() { Some(response.clone()) } else { said };
        if text.is_none() {
            self.facts.push((now, Fact::Wrong(format!("{tag} answers without a description"))));
        }
        text
    }

    pub(super) fn ring_reliably(&mut self, invite: &Text, tag: &str, now: Instant, out: &mut Sent) {
        let early = matches!(self.manner, Manner::EarlyMedia { .. });
        let own = self.call.as_ref().map(|call| call.token.clone()).unwrap_or_default();
        let sdp = if early { self.sdp(&own, 1, "sendrecv") } else { String::new() };
        let rseq = 1 + self.random.next_u32() % 1_000;
        if self.has(Habit::ProvisionalBurst) {
            return self.ring_in_a_burst(invite, tag, rseq, now, out);
        }
        let sdp = if sdp.is_empty() { sdp } else { self.with_lines(sdp, Some(invite.media_lines())) };
        let more =
            format!("Require: 100rel\r\nRSeq: {rseq}\r\nAllow: INVITE, ACK, BYE, CANCEL, PRACK, UPDATE, INFO\r\n");
        let bytes = self.answer_with(invite, if early { 183 } else { 180 }, tag, &more, &sdp, out);
        self.ext.reliable.push((rseq, false));
        let (next, until) = (now + T1, now + TIMEOUT);
        self.ext.repeat = Some(Repeat { rseq, bytes, has_description: early, next, interval: T1, until });
    }

    /// Everything that can be said before the first PRACK.
    fn ring_in_a_burst(&mut self, invite: &Text, tag: &str, rseq: u32, now: Instant, out: &mut Sent) {
        let own = self.call.as_ref().map(|call| call.token.clone()).unwrap_or_default();
        let sdp = self.sdp(&own, 1, "sendrecv");
        for (number, status, sdp) in [(rseq, 180, ""), (rseq + 1, 183, sdp.as_str())] {
            let more = format!(
                "Require: 100rel\r\nRSeq: {number}\r\nAllow: INVITE, ACK, BYE, CANCEL, PRACK, UPDATE, INFO\r\n"
            );
            self.answer_with(invite, status, tag, &more, sdp, out);
            self.ext.reliable.push((number, false));
        }
        self.answer_invite(200, now, out);
    }

    /// Sends again what has no PRACK; false if the call has to be refused.
    pub(super) fn repeat_reliable(&mut self, now: Instant, out: &mut Sent) -> bool {
        let Some(repeat) = &mut self.ext.repeat else { return true };
        if now >= repeat.until {
            self.ext.repeat = None;
            self.facts.push((now, Fact::Unpracked));
            return false;
        }
        if now >= repeat.next {
            repeat.interval *= 2;
            repeat.next = now + repeat.interval;
            out.push((self.sip, self.server, repeat.bytes.clone()));
        }
        true
    }

    pub(super) fn on_prack(&mut self, request: &Text, now: Instant, out: &mut Sent) {
        let rseq = request.get("rack").split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
        let status = match self.ext.reliable.iter_mut().find(|(own, _)| *own == rseq) {
            Some((_, pracked)) if !*pracked => {
                *pracked = true;
                200
            }
            other => {
                let again = if other.is_some() { "once more" } else { "that nobody sent" };
                self.facts.push((now, Fact::Wrong(format!("a PRACK of {rseq} {again}"))));
                481
            }
        };
        if self.ext.repeat.as_ref().is_some_and(|repeat| repeat.rseq == rseq) {
            self.ext.repeat = None;
        }
        self.answer(request, status, "", "", out);
    }

    /// Offers anew, before or after the answer.
    pub(super) fn update(&mut self, now: Instant, out: &mut Sent) {
        let Some(call) = &mut self.call else { return };
        let ours = |pending: &Pending| matches!(pending.method.as_str(), "UPDATE" | "PRACK");
        let asks = self.pending.iter().any(|pending| ours(pending) || pending.method == "INVITE" && !pending.is_first);
        if asks || call.accepted.is_some() || !self.extended {
            return;
        }
        let far = match call.state {
            State::Up => Far::of(call),
            State::Calling => match &self.ext.early[..] {
                [early] if early.is_agreed && !call.hang_up_when_up => early.far.clone(),
                _ => return,
            },
            State::Ringing { .. } if matches!(self.manner, Manner::EarlyMedia { .. }) && self.ext.has_agreed() => {
                Far::of(call)
            }
            State::Ringing { .. } | State::Ending => return,
        };
        call.sdp_version += 1;
        let holds = call.state == State::Up && self.random.chance(1, 2);
        let (version, token) = (call.sdp_version, call.token.clone());
        let sdp = self.sdp(&token, version, if holds { "sendonly" } else { "sendrecv" });
        let sdp = self.with_lines(sdp, None);
        self.in_dialog_with(&far, "UPDATE", ("", &sdp), now, out);
    }

    pub(super) fn on_update(&mut self, request: &Text, now: Instant, out: &mut Sent) {
        let Some((_, direction)) = request.media() else {
            self.answer(request, 200, "", "", out);
            return;
        };
        let Some(call) = &mut self.call else { return };
        let asks = |pending: &Pending| {
            pending.method == "UPDATE" || pending.method == "INVITE" && !pending.is_first && call.state == State::Up
        };
        if self.pending.iter().any(asks) {
            self.answer(request, 491, "", "", out);
            return;
        }
        let direction = if direction == "sendonly" { "recvonly" } else { "sendrecv" };
        call.sdp_version += 1;
        let is_up = call.state == State::Up;
        let (version, token) = (call.sdp_version, call.token.clone());
        self.hear_later(request);
        if is_up {
            self.move_at_once(Habit::AnswererMoves, now);
        }
        let sdp = self.with_lines(self.sdp(&token, version, direction), Some(request.media_lines()));
        self.answer(request, 200, "", &sdp, out);
    }

    /// A later description of the other side, in whichever dialog it came.
    fn hear_later(&mut self, text: &Text) {
        let tag =
            if text.status() == 0 { text::param(text.get("from"), "tag").unwrap_or_default() } else { text.to_tag() };
        if let Some(early) = self.ext.early.iter_mut().find(|early| early.tag == tag) {
            early.said = Some(text.clone());
        }
        if self.call.as_ref().is_some_and(|call| call.state != State::Calling) {
            self.take_media(text);
        }
    }

    /// DTMF as INFO.
    pub(super) fn press(&mut self, now: Instant, out: &mut Sent) {
        let Some(call) = self.call.as_ref().filter(|call| call.state == State::Up && self.extended) else { return };
        let far = Far::of(call);
        self.ext.digits += 1;
        let digit = format!("Signal=5\r\nDuration=160\r\nX-Key={}-{}\r\n", self.user, self.ext.digits);
        let more = "Content-Type: application/dtmf-relay\r\n";
        self.in_dialog_with(&far, "INFO", (more, &digit), now, out);
    }

    pub(super) fn on_info(&mut self, request: &Text, now: Instant, out: &mut Sent) {
        let key = key_of(&request.body);
        if self.ext.heard.contains(&key) {
            self.facts.push((now, Fact::Wrong(format!("the digit {key} comes again"))));
        }
        self.ext.heard.push(key);
        self.answer(request, 200, "", "", out);
    }

    /// The end of a request that only an extended phone makes.
    pub(super) fn on_extended_final(
        &mut self,
        pending: &Pending,
        status: u16,
        response: Option<&Text>,
        now: Instant,
        out: &mut Sent,
    ) {
        let Some(sent) = Text::parse(pending.bytes.as_bytes()) else { return };
        let state = self.call.as_ref().filter(|call| call.call_id == sent.get("call-id")).map(|call| call.state);
        let is_up = state == Some(State::Up);
        if pending.method == "UPDATE" {
            self.on_move_final(status < 300, now);
        }
        match (pending.method.as_str(), response) {
            ("PRACK", Some(response)) => {
                let tag = response.to_tag();
                if let Some(early) = self.ext.early.iter_mut().find(|early| early.tag == tag) {
                    early.is_refused |= status >= 300 && state.is_some();
                    // RFC 3262 §3: a PRACK that matches an unacknowledged response "MUST be" answered with a 2xx.
                    if is_up && status == 481 {
                        self.facts
                            .push((now, Fact::Wrong("a PRACK of an outstanding response is answered 481".to_owned())));
                    }
                    early.is_agreed |= status < 300 && early.said.is_some();
                }
            }
            ("INFO", Some(_)) if status == 200 => {
                self.ext.taken.push(key_of(&sent.body));
            }
            ("UPDATE", Some(response)) if status == 200 => {
                let holds = sent.media().is_some_and(|(_, direction)| direction == "sendonly");
                let fits = match response.media() {
                    Some((_, "recvonly" | "inactive")) => true,
                    Some(_) => !holds,
                    None => false,
                };
                if !fits {
                    self.facts.push((now, Fact::Wrong(format!("an UPDATE is answered with {:?}", response.body))));
                }
                if state.is_some() {
                    self.hear_later(response);
                }
                self.facts.push((now, Fact::Updated));
            }
            ("UPDATE", _) if status == 491 => self.facts.push((now, Fact::Glare)),
            ("UPDATE" | "INFO", _) if is_up && matches!(status, 408 | 481) => self.hang_up(now, out),
            _ => {}
        }
    }
}

/// What tells one pressing of a key from all others.
fn key_of(body: &str) -> String {
    body.lines().find_map(|line| line.strip_prefix("X-Key=")).unwrap_or_default().to_owned()
}
