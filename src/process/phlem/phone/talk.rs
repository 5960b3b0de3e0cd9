//! What happens in a call that is up: hold and resume, keys, transfers of both kinds (RFC 3515, RFC 3891, RFC 5589).

use std::time::Duration;

use crate::process::phlem::phone::Desk;
use crate::process::phlem::phone::Effect;
use crate::process::phlem::phone::Phone;
use crate::process::phlem::phone::Plan;
use crate::process::phlem::phone::Purpose;
use crate::process::phlem::phone::Transfer;
use crate::process::phlem::phone::call::Call;
use crate::process::phlem::phone::call::State;
use crate::process::phlem::phone::call::Step;
use crate::process::phlem::scenario::Quirk;
use crate::process::phlem::sip::message::Message;
use crate::process::phlem::sip::sdp::Described;
use crate::process::phlem::sip::sdp::Direction;
use crate::process::phlem::sip::value::Address;
use crate::process::phlem::sip::value::Uri;
use crate::shard::run::Flow;

const DIGITS: &str = "1590#";
/// How long the two talk that a transfer brought together.
const TALK_AFTER_TRANSFER: Duration = Duration::from_secs(5);
/// So close to the end of a call its end and a re-INVITE may cross.
const CROSSING: Duration = Duration::from_secs(2);
const CONSULTATION: Duration = Duration::from_secs(60);

impl Phone {
    pub(super) fn hold(&mut self, number: u64, on: bool, desk: &mut Desk<'_>) {
        let ready = self.with_call(number, |_, call| {
            let ready = call.state == State::Up && !call.renegotiates && call.slot.is_some();
            if ready {
                call.direction = if on { Direction::SendOnly } else { Direction::SendRecv };
                call.challenged = 0;
            }
            ready
        });
        if ready == Some(true) {
            desk.figures.holds += u64::from(on);
            self.send_reinvite(number, desk);
        }
    }

    pub(super) fn send_reinvite(&mut self, number: u64, desk: &mut Desk<'_>) {
        self.with_call(number, |phone, call| {
            call.renegotiates = true;
            let (mut message, id) = phone.in_call(rsip::Method::Invite, call, desk);
            call.invite_cseq = call.cseq;
            message.push("Allow", super::request::ALLOW);
            message.push("Content-Type", "application/sdp");
            message.body = phone.description(call, false, desk);
            phone.send_request(id, Purpose::Reinvite(number), message, desk);
        });
    }

    pub(super) fn on_reinvite_final(&mut self, number: u64, code: u16, message: &Message<'_>, desk: &mut Desk<'_>) {
        let now = desk.now.instant;
        let wait = Duration::from_millis(2_100 + self.random.below(1_900));
        self.with_call(number, |phone, call| {
            call.renegotiates = false;
            match code {
                200..300 => {
                    if let Some(heard) = Described::parse(&message.body) {
                        call.heard = Some(heard);
                    }
                    phone.speak(call, desk);
                }
                // RFC 3261 §14.1: both asked at once; the one who made the Call-ID waits 2.1 to 4 seconds.
                491 => {
                    let again = if call.direction == Direction::SendRecv { Step::Resume } else { Step::Hold };
                    call.at(now + wait, again);
                }
                // The other side's BYE is on its way.
                481 | 487 if now + CROSSING >= call.ends_at => {}
                _ => desk.figures.fail(&format!("re-INVITE {code}")),
            }
        });
        if (200..300).contains(&code) && !self.has(Quirk::NoAck) {
            self.send_ack(number, desk);
        } else if matches!(code, 408 | 481) {
            self.hang_up(number, desk);
        }
    }

    pub(super) fn press(&mut self, number: u64, desk: &mut Desk<'_>) {
        let found = self.with_call(number, |_, call| {
            let by_info = call.plan.as_ref().is_some_and(|plan| plan.dtmf_info);
            (call.state == State::Up, by_info, call.slot, call.heard.and_then(|heard| heard.events))
        });
        match found {
            Some((true, true, ..)) => self.send_info(number, desk),
            Some((true, false, Some(slot), Some(_))) => {
                desk.effects.push(Effect::Press { slot, digits: DIGITS.to_owned() });
            }
            _ => {}
        }
    }

    pub(super) fn send_info(&mut self, number: u64, desk: &mut Desk<'_>) {
        self.with_call(number, |phone, call| {
            let (mut info, id) = phone.in_call(rsip::Method::Info, call, desk);
            info.push("Content-Type", "application/dtmf-relay");
            info.body = b"Signal=5\r\nDuration=160\r\n".to_vec();
            desk.figures.digits_sent += 1;
            phone.send_request(id, Purpose::Info(number), info, desk);
        });
    }

    pub(super) fn transfer(&mut self, number: u64, desk: &mut Desk<'_>) {
        let found = self.with_call(number, |_, call| {
            let transfer = call.plan.as_mut().and_then(|plan| plan.transfer.take());
            (call.state == State::Up).then_some((transfer, call.plan.as_ref().map(|plan| (plan.stream, plan.media))))
        });
        let Some(Some((Some(transfer), Some((stream, media))))) = found else { return };
        match transfer {
            Transfer::Blind(to) => {
                let to = if to.contains(':') { to } else { format!("sip:{to}@{}", self.domain(desk)) };
                self.with_call(number, |_, call| call.refer_to = format!("<{to}>"));
                self.send_refer(number, desk);
            }
            Transfer::Attended(to) => {
                self.hold(number, true, desk);
                let plan = plan_of(stream, to, CONSULTATION, media);
                if let Some(consultation) = self.place_call_as(plan, Vec::new(), desk) {
                    self.with_call(consultation, |_, call| call.consults_for = Some(number));
                    // The first call lasts as long as the question to the third party needs.
                    self.with_call(number, |_, call| {
                        call.cancel_steps(|step| step == Step::HangUp);
                        call.ends_at = desk.now.instant + CONSULTATION;
                        call.at(desk.now.instant + CONSULTATION, Step::HangUp);
                    });
                }
            }
        }
    }

    /// The third party has answered: the other side is sent there in place of us.
    pub(super) fn on_consultation_answered(&mut self, number: u64, desk: &mut Desk<'_>) {
        let found = self.with_call(number, |_, call| {
            let first = call.consults_for?;
            let remote_tag = call.remote_tag()?;
            let replaces = format!("{};to-tag={remote_tag};from-tag={:x}", call.call_id, call.tag);
            Some((first, format!("<{}?Replaces={}>", call.target, escape(&replaces))))
        });
        let Some(Some((first, refer_to))) = found else { return };
        self.with_call(first, |_, call| call.refer_to = refer_to);
        self.send_refer(first, desk);
    }

    pub(super) fn send_refer(&mut self, number: u64, desk: &mut Desk<'_>) {
        let by = self.own_address(desk);
        self.with_call(number, |phone, call| {
            if call.state != State::Up {
                return;
            }
            let (mut refer, id) = phone.in_call(rsip::Method::Refer, call, desk);
            refer.push("Refer-To", &call.refer_to);
            refer.push("Referred-By", &by);
            phone.send_request(id, Purpose::Refer(number), refer, desk);
        });
    }

    pub(super) fn on_refer_final(&mut self, number: u64, code: u16, desk: &mut Desk<'_>) {
        if (200..300).contains(&code) {
            // Whoever accepted may end this call before it says how the other one went.
            self.mark_transferred(number, true, desk);
            return;
        }
        // The far side does not transfer: the call goes on, and so did not the transfer.
        *desk.figures.responses.entry(code).or_default() += 1;
        self.give_up_transfer(number, desk);
    }

    /// A call that is to be left to others, and the consultation for it.
    fn mark_transferred(&mut self, number: u64, is_transferred: bool, desk: &mut Desk<'_>) {
        for call in self.calls.iter_mut().filter(|call| call.number == number || call.consults_for == Some(number)) {
            call.is_transferred = is_transferred;
        }
        let marked = self.calls.iter().filter(|call| call.number == number || call.consults_for == Some(number));
        marked.for_each(|call| self.speak(call, desk));
    }

    /// Back to the first call, if it was held for a consultation, and soon its end.
    fn give_up_transfer(&mut self, number: u64, desk: &mut Desk<'_>) {
        let now = desk.now.instant;
        self.mark_transferred(number, false, desk);
        let consulted = self.end_consultation(number, desk);
        self.with_call(number, |_, call| {
            if consulted {
                call.cancel_steps(|step| step == Step::HangUp);
                call.ends_at = now + TALK_AFTER_TRANSFER;
                call.steps.extend([(now, Step::Resume), (call.ends_at, Step::HangUp)]);
            }
        });
    }

    /// False if there was none.
    fn end_consultation(&mut self, first: u64, desk: &mut Desk<'_>) -> bool {
        let found = self.calls.iter().find(|call| call.consults_for == Some(first)).map(|call| call.number);
        if let Some(consultation) = found {
            self.hang_up(consultation, desk);
        }
        found.is_some()
    }

    /// How the transfer went that we asked for (RFC 3515 §2.4.5: a sipfrag with a status line).
    pub(super) fn on_notify(&mut self, number: u64, message: &Message<'_>, desk: &mut Desk<'_>) {
        let line = std::str::from_utf8(&message.body).unwrap_or_default();
        let code = line.strip_prefix("SIP/2.0 ").and_then(|rest| rest.get(..3)?.parse::<u16>().ok());
        match code {
            Some(200..300) => {
                desk.figures.transfers += 1;
                self.mark_transferred(number, true, desk);
                self.end_consultation(number, desk);
                self.hang_up(number, desk);
            }
            Some(300..) => self.give_up_transfer(number, desk),
            _ => {}
        }
    }

    /// We are asked to call somebody else.
    pub(super) fn on_refer(&mut self, number: u64, message: &Message<'_>, key: u64, flow: Flow, desk: &mut Desk<'_>) {
        let target = message.value("Refer-To").and_then(Address::parse);
        let Some((uri, parts)) = target.and_then(|target| Some((target.uri, Uri::parse(target.uri)?))) else {
            return self.reply(message, key, flow, 400, "Bad Request", desk);
        };
        self.reply(message, key, flow, 202, "Accepted", desk);
        let mut extra = Vec::new();
        for header in parts.headers.split('&').filter_map(|header| header.split_once('=')) {
            if header.0.eq_ignore_ascii_case("Replaces") {
                extra.push(("Replaces", unescape(header.1)));
            }
        }
        if let Some(by) = message.value("Referred-By") {
            extra.push(("Referred-By", by.to_owned()));
        }
        let to = uri.split_once('?').map_or(uri, |(uri, _)| uri).to_owned();
        let plan = plan_of(u16::MAX, to, TALK_AFTER_TRANSFER, true);
        match self.place_call_as(plan, extra, desk) {
            Some(call) => {
                self.with_call(call, |_, call| call.asked_by = Some(number));
                self.notify(number, 100, desk);
            }
            None => self.notify(number, 503, desk),
        }
    }

    /// Tells the one who asked for `call` how it goes.
    pub(super) fn tell_asker(&mut self, call: &mut Call, code: u16, desk: &mut Desk<'_>) {
        if let Some(asker) = call.asked_by {
            self.notify(asker, code, desk);
            if code >= 200 {
                call.asked_by = None;
            }
        }
    }

    fn notify(&mut self, number: u64, code: u16, desk: &mut Desk<'_>) {
        self.with_call(number, |phone, call| {
            if call.state == State::Ending {
                return;
            }
            let (mut notify, id) = phone.in_call(rsip::Method::Notify, call, desk);
            notify.push("Event", "refer");
            let state = if code < 200 { "active;expires=60" } else { "terminated;reason=noresource" };
            notify.push("Subscription-State", state);
            notify.push("Content-Type", "message/sipfrag");
            let reason = match code {
                100 => "Trying",
                180 => "Ringing",
                200 => "OK",
                _ => "Failed",
            };
            notify.body = format!("SIP/2.0 {code} {reason}\r\n").into_bytes();
            phone.send_request(id, Purpose::Notify(number), notify, desk);
        });
    }
}

fn plan_of(stream: u16, to: String, talk: Duration, media: bool) -> Plan {
    Plan {
        stream,
        to,
        talk,
        callee_ends: false,
        media,
        hold: false,
        dtmf: false,
        dtmf_info: false,
        transfer: None,
        patience: None,
    }
}

/// RFC 3261 §25.1: what may not stand in a URI's headers.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        let escaped = more.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (first, escaped) {
            (b'%', Some(byte)) => {
                out.push(byte);
                rest = more.get(2..).unwrap_or_default();
            }
            _ => {
                out.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
