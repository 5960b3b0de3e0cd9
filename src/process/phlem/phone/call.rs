//! One call as one phone knows it: the dialog, the description, what is to be done with it and when.

use std::time::Duration;

use bytes::Bytes;

use crate::base::time::Instant;
use crate::process::phlem::phone::Desk;
use crate::process::phlem::phone::Effect;
use crate::process::phlem::phone::Phone;
use crate::process::phlem::phone::Plan;
use crate::process::phlem::phone::Server;
use crate::process::phlem::phone::Speech;
use crate::process::phlem::scenario::Quirk;
use crate::process::phlem::sip::message::Message;
use crate::process::phlem::sip::sdp::Described;
use crate::process::phlem::sip::sdp::Description;
use crate::process::phlem::sip::sdp::Direction;
use crate::process::phlem::sip::sdp::EVENTS;
use crate::process::phlem::sip::sdp::PCMA;
use crate::process::phlem::sip::sdp::PCMU;
use crate::process::phlem::sip::value::Address;
use crate::shard::udp::Slot;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// INVITE is under way.
    Calling,
    /// Given up; CANCEL is sent, or will be when the server has answered at all.
    Cancelling,
    /// It rings here.
    Ringing,
    /// 200 is sent, ACK has not come.
    Accepted,
    Up,
    /// BYE is under way.
    Ending,
}

/// What a phone does in a call by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Answer,
    RingAgain,
    /// Nobody picks up here: 480.
    Unanswered,
    /// Nobody answered there.
    Cancel,
    Hold,
    Resume,
    Press,
    Transfer,
    Acknowledge,
    HangUp,
    /// Everything else failed.
    Forget,
}

pub(super) struct Call {
    pub(super) number: u64,
    pub(super) is_caller: bool,
    pub(super) state: State,
    pub(super) call_id: String,
    /// Values of From and To of our requests, tags included.
    pub(super) local: String,
    pub(super) remote: String,
    pub(super) target: String,
    pub(super) routes: Vec<String>,
    pub(super) tag: u64,
    pub(super) cseq: u32,
    /// That of the INVITE that is to be acknowledged.
    pub(super) invite_cseq: u32,
    pub(super) remote_cseq: Option<u32>,
    pub(super) slot: Option<Slot>,
    /// What audio is to say whose it is: the caller's number.
    pub(super) voice: u64,
    pub(super) heard: Option<Described>,
    /// What we last said of the stream.
    pub(super) direction: Direction,
    pub(super) version: u32,
    pub(super) plan: Option<Box<Plan>>,
    /// What an INVITE of ours carries beside the usual (Replaces, Referred-By).
    pub(super) extra: Vec<(&'static str, String)>,
    /// The INVITE that is being answered.
    pub(super) invite: Option<Box<Message<'static>>>,
    pub(super) has_provisional: bool,
    pub(super) cancel_sent: bool,
    pub(super) challenged: u8,
    pub(super) begun: Instant,
    pub(super) ringing_at: Option<Instant>,
    pub(super) answered_at: Option<Instant>,
    pub(super) ends_at: Instant,
    pub(super) steps: Vec<(Instant, Step)>,
    pub(super) ack: Bytes,
    /// A re-INVITE of ours is under way.
    pub(super) renegotiates: bool,
    /// A transfer was accepted by the other side.
    pub(super) is_transferred: bool,
    /// The call in whose dialog the one who asked for this call hears how it went.
    pub(super) asked_by: Option<u64>,
    /// The call that this one is a consultation for.
    pub(super) consults_for: Option<u64>,
    /// What the Refer-To of our REFER is.
    pub(super) refer_to: String,
}

impl Call {
    pub(super) fn new(number: u64, is_caller: bool, call_id: String, now: Instant) -> Self {
        Self {
            number,
            is_caller,
            state: if is_caller { State::Calling } else { State::Ringing },
            call_id,
            local: String::new(),
            remote: String::new(),
            target: String::new(),
            routes: Vec::new(),
            tag: 0,
            cseq: 0,
            invite_cseq: 0,
            remote_cseq: None,
            slot: None,
            voice: number,
            heard: None,
            direction: Direction::SendRecv,
            version: 1,
            plan: None,
            extra: Vec::new(),
            invite: None,
            has_provisional: false,
            cancel_sent: false,
            challenged: 0,
            begun: now,
            ringing_at: None,
            answered_at: None,
            ends_at: Instant::NEVER,
            steps: Vec::new(),
            ack: Bytes::new(),
            renegotiates: false,
            is_transferred: false,
            asked_by: None,
            consults_for: None,
            refer_to: String::new(),
        }
    }

    pub(super) fn at(&mut self, at: Instant, step: Step) {
        self.steps.push((at, step));
    }

    pub(super) fn cancel_steps(&mut self, gone: impl Fn(Step) -> bool) {
        self.steps.retain(|(_, step)| !gone(*step));
    }

    pub(super) fn next_deadline(&self) -> Instant {
        self.steps.iter().map(|(at, _)| *at).min().unwrap_or(Instant::NEVER)
    }

    fn take_due(&mut self, now: Instant) -> Option<Step> {
        let place = self.steps.iter().position(|(at, _)| *at <= now)?;
        Some(self.steps.swap_remove(place).1)
    }

    pub(super) fn remote_tag(&self) -> Option<&str> {
        Address::parse(&self.remote)?.tag()
    }

    /// Takes dialog state from the message that made the dialog (RFC 3261 §12.1).
    pub(super) fn take_dialog(&mut self, message: &Message<'_>, is_response: bool) {
        if let Some(contact) = message.value("Contact").and_then(Address::parse) {
            contact.uri.clone_into(&mut self.target);
        }
        let routes = message.values("Record-Route").map(str::to_owned);
        self.routes = routes.collect();
        if is_response {
            self.routes.reverse();
        }
    }
}

impl Phone {
    /// Runs `step` on a call, with the phone at hand; nothing happens if the call is gone.
    pub(super) fn with_call<R>(&mut self, number: u64, step: impl FnOnce(&mut Self, &mut Call) -> R) -> Option<R> {
        let place = self.calls.iter().position(|call| call.number == number)?;
        let mut call = self.calls.swap_remove(place);
        let result = step(self, &mut call);
        self.calls.push(call);
        Some(result)
    }

    /// 40 bits, which is what a frame of audio has room for; 0 is nobody's number.
    pub(super) fn draw_number(&mut self) -> u64 {
        (self.random.next_u64() >> 24).max(1)
    }

    pub(super) fn find_call(&self, message: &Message<'_>) -> Option<u64> {
        let call_id = message.value("Call-ID")?;
        // With a call to oneself through a proxy both dialogs have the same Call-ID: the tags tell them apart.
        let to = message.value("To").and_then(Address::parse).and_then(|to| to.tag());
        let is_ours = |call: &Call| to.is_some_and(|tag| u64::from_str_radix(tag, 16).is_ok_and(|tag| tag == call.tag));
        self.calls.iter().find(|call| call.call_id == call_id && is_ours(call)).map(|call| call.number)
    }

    /// The call is over: its port goes back, and whoever counts is told.
    pub(super) fn remove_call(&mut self, number: u64, desk: &mut Desk<'_>) {
        let Some(place) = self.calls.iter().position(|call| call.number == number) else { return };
        let call = self.calls.swap_remove(place);
        self.bury(&call, desk);
        super::shrink(&mut self.calls);
    }

    pub(super) fn bury(&mut self, call: &Call, desk: &mut Desk<'_>) {
        if let Some(slot) = call.slot {
            desk.effects.push(Effect::Hush(slot));
        }
        if !call.is_caller {
            return;
        }
        desk.figures.calls_now = desk.figures.calls_now.saturating_sub(1);
        if let Some(answered_at) = call.answered_at {
            desk.figures.answered_now = desk.figures.answered_now.saturating_sub(1);
            desk.figures.talk.record_duration(desk.now.instant.since(answered_at));
        }
        if let Some(plan) = &call.plan {
            desk.effects.push(Effect::Ended { stream: plan.stream });
        }
    }

    pub(super) fn hush(&self, call: &mut Call, desk: &mut Desk<'_>) {
        if let Some(slot) = call.slot.take() {
            desk.effects.push(Effect::Hush(slot));
        }
    }

    /// Begins to speak and listen as the descriptions of both sides say.
    pub(super) fn speak(&self, call: &Call, desk: &mut Desk<'_>) {
        let (Some(slot), Some(heard)) = (call.slot, call.heard) else { return };
        let Some(to) = heard.to else { return };
        // Somebody who is not one of ours has no number: what comes first decides.
        let is_known = call.is_caller || heard.call.is_some();
        // Before the ACK servers may pass audio or not; who leaves a call to others is not spoken to any more.
        let is_between_two = call.state == State::Up && !call.is_transferred;
        desk.effects.push(Effect::Speak(Speech {
            slot,
            to,
            call: if is_known { call.voice } else { 0 },
            is_caller: call.is_caller,
            codec: heard.codec.unwrap_or(PCMU),
            events: heard.events,
            sends: call.direction.sends() && heard.direction.answer().sends(),
            hears: heard.direction.sends() && call.direction.answer().sends() && is_between_two,
        }));
    }

    pub(super) fn description(&self, call: &mut Call, is_answer: bool, desk: &Desk<'_>) -> Vec<u8> {
        let at = call.slot.and_then(|slot| desk.ports.address(slot)).unwrap_or(desk.settings.silent);
        let offered = call.heard.and_then(|heard| heard.codec);
        let formats: &[u8] = match (is_answer, offered) {
            // RFC 3264 §6.1 lets an answer order as it likes; most keep the offer's order.
            (true, Some(_)) if self.has(Quirk::SdpOrder) => &[EVENTS, PCMA, PCMU],
            (true, Some(PCMA)) => &[PCMA, EVENTS],
            (true, _) => &[PCMU, EVENTS],
            (false, _) => &[PCMU, PCMA, EVENTS],
        };
        let waited = call.answered_at.filter(|_| !call.is_caller).map(|at| at.since(call.begun));
        let talk = call.plan.as_ref().filter(|plan| plan.callee_ends).map(|plan| plan.talk);
        let own = Description {
            at,
            session: call.number,
            version: call.version,
            formats,
            direction: call.direction,
            call: call.voice,
            waited,
            talk,
            sparse: self.has(Quirk::SdpSparse),
        };
        call.version += 1;
        own.emit()
    }

    pub(super) fn calls_timeout(&mut self, desk: &mut Desk<'_>) {
        let now = desk.now.instant;
        if self.calls.iter().all(|call| call.next_deadline() > now) {
            return;
        }
        let numbers: Vec<u64> = self.calls.iter().map(|call| call.number).collect();
        for number in numbers {
            while let Some(Some(step)) = self.with_call(number, |_, call| call.take_due(now)) {
                self.on_step(number, step, desk);
            }
        }
    }

    fn on_step(&mut self, number: u64, step: Step, desk: &mut Desk<'_>) {
        match step {
            Step::Answer => self.answer_call(number, desk),
            Step::RingAgain => self.ring_again(number, desk),
            Step::Unanswered => self.refuse(number, 480, "Temporarily Unavailable", desk),
            Step::Cancel => self.give_up(number, desk),
            Step::Hold => self.hold(number, true, desk),
            Step::Resume => self.hold(number, false, desk),
            Step::Press => self.press(number, desk),
            Step::Transfer => self.transfer(number, desk),
            Step::Acknowledge => self.send_ack(number, desk),
            Step::HangUp => self.hang_up(number, desk),
            Step::Forget => self.forget(number, desk),
        }
    }

    pub(super) fn server_of(&mut self, number: u64) -> Option<&mut Server> {
        self.servers.iter_mut().find(|server| server.is_invite && server.call == number)
    }
}

/// How long a call that is being ended may take to be forgotten.
pub(super) const ENDING_MAX: Duration = Duration::from_secs(40);
