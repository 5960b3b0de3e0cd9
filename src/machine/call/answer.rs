//! A 2xx of a branch: the first wins and goes to the caller, later ones are acknowledged and hung up (RFC 3261 §13.2.2.4).
//!
//! The callee's 2xx is acknowledged at once, so that its phone has media without a round trip to the caller; only if it
//! brought an offer does the ACK wait for the caller's answer.

use crate::machine::call::Call;
use crate::machine::call::State;
use crate::machine::call::body::description;
use crate::machine::call::bond::Agreement;
use crate::machine::call::bond::Answer;
use crate::machine::call::bond::Heard;
use crate::machine::call::branch;
use crate::machine::call::caller::Offer;
use crate::machine::call::head::Verdict;
use crate::machine::call::input::Context;
use crate::machine::call::media;
use crate::machine::call::media::Description;
use crate::machine::call::party::Acknowledgement;
use crate::machine::call::party::Party;
use crate::machine::call::party::Presence;
use crate::machine::call::party::Side;
use crate::machine::call::party::Unacked;
use crate::machine::call::party::end;
use crate::machine::call::party::target_refresh;
use crate::machine::call::session_timer::SessionTimer;
use crate::machine::call::terms::BONDS_MAX;
use crate::machine::call::trace::What;
use crate::machine::dialog::Dialog;
use crate::machine::dialog::MAX_FORWARDS;
use crate::machine::dialog::Text;
use crate::machine::outbox::Outbox;
use crate::machine::transaction::repeat::Pace;
use crate::machine::transaction::repeat::Repeat;
use crate::wire::event::Body;
use crate::wire::event::By;
use crate::wire::link::CallState;
use crate::wire::link::Record;
use crate::wire::sip::Message;

/// RFC 3326 §3.1 and its example: a phone does not list a call as missed that another one answered.
const ELSEWHERE: &[u8] = b"SIP ;cause=200 ;text=\"Call completed elsewhere\"";

impl Call {
    pub(super) fn on_success(&mut self, leg: u8, message: &Message<'_>, cx: &mut Context<'_>, out: &mut Outbox) {
        let cseq = message.cseq().map_or(0, |cseq| cseq.number);
        let owns = |party: &Party| party.ack != Acknowledgement::Nothing && party.dialog.owns_response(message);
        let callees = self.bonds.iter_mut().map(|bond| &mut bond.callee);
        if let Some(party) = callees.chain(&mut self.strays).find(|party| owns(party)) {
            party.acknowledge_again(cseq, cx, out);
            return;
        }
        let rings = self.branches.iter().any(|branch| branch.leg == leg && branch.is_ringing());
        if matches!(self.state, State::Ringing { .. }) && rings {
            self.on_answer(leg, message, cx, out);
        } else {
            self.on_second_answer(leg, message, cx, out);
        }
    }

    fn on_second_answer(&mut self, leg: u8, message: &Message<'_>, cx: &mut Context<'_>, out: &mut Outbox) {
        if self.strays.len() >= BONDS_MAX {
            return;
        }
        let is_answered = self.branches.iter().any(|branch| branch.state == branch::State::Answered);
        let early = self.bonds.iter().filter(|bond| bond.branch == leg).map(|bond| bond.callee.dialog.local_cseq());
        let last_cseq = early.max().unwrap_or(0);
        let Some(branch) = self.branch_mut(leg) else { return };
        let cseq = branch.cseq();
        let mut dialog = Dialog::of_client(message, cseq, branch.contact.as_bytes(), branch.flow);
        dialog.count_from(branch.last_cseq.max(last_cseq));
        let mut stray = Party::new(leg, dialog, Description::new(0));
        stray.presence = Presence::Confirmed;
        stray.acknowledge(cseq, None, cx, out);
        stray.hang_up(if is_answered { ELSEWHERE } else { b"" }, cx, out);
        self.strays.push(stray);
        self.step(cx, leg, What::SecondAnswer);
    }

    fn on_answer(&mut self, leg: u8, message: &Message<'_>, cx: &mut Context<'_>, out: &mut Outbox) {
        let Some(index) = self.bond_for(leg, message, cx) else {
            return self.on_second_answer(leg, message, cx, out);
        };
        let Some(bond) = self.bonds.get_mut(index) else { return };
        let cseq = message.cseq().map_or(0, |cseq| cseq.number);
        bond.callee.dialog.confirm(message);
        bond.callee.presence = Presence::Confirmed;
        bond.callee.learn(message);
        bond.callee.timer = SessionTimer::of_response(message, cx.instant());
        let timer = bond.callee.timer;
        let Some(sdp) = self.describe_answer(index, message, cx, out) else {
            return self.on_bad_answer(index, leg, message, cx, out);
        };
        self.step(cx, leg, What::Won);
        self.tell_timer(leg, timer, cx);
        if self.bonds[index].agreement == Agreement::LateOffered {
            self.bonds[index].callee.ack = Acknowledgement::Due { cseq };
        } else {
            self.bonds[index].callee.acknowledge(cseq, None, cx, out);
        }
        self.win(leg, index, cx, out);
        self.answer_caller(sdp, cx, out);
    }

    /// The description for the caller's 200; `Some(None)` if it has it already, `None` if there is none and must be.
    #[expect(clippy::option_option, reason = "no description needed, and none where one must be, are two things")]
    fn describe_answer(
        &mut self,
        index: usize,
        message: &Message<'_>,
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) -> Option<Option<Text>> {
        let sdp = description(message);
        let bond = self.bonds.get(index)?;
        match (bond.agreement, sdp) {
            (Agreement::Offered | Agreement::Previewed, Some(sdp)) => self.take_answer(index, sdp, cx, out).map(Some),
            (Agreement::Previewed, None) => bond.caller.description.sent().map(|sent| Some(sent.into())),
            (Agreement::Late, Some(sdp)) => self.take_offer(index, sdp, cx, out).map(Some),
            (Agreement::Agreed, Some(sdp)) => {
                self.hear_elsewhere(index, sdp);
                Some(None)
            }
            (Agreement::Agreed, None) => Some(None),
            // The phone answered before our PRACK, which waits for the caller's answer: that goes there all the same.
            (Agreement::LateOffered, _) if matches!(bond.heard, Heard::PrackDue { .. }) => Some(None),
            (Agreement::Offered | Agreement::Late, None) | (Agreement::LateOffered, _) => None,
        }
    }

    /// RFC 6337 §3.1.1: what a 2xx says after the answer of a reliable response is no answer. A phone that is at another place than
    /// it said there is to be heard all the same.
    fn hear_elsewhere(&mut self, index: usize, sdp: &[u8]) {
        let Some(bond) = self.bonds.get_mut(index) else { return };
        let answer = bond.caller.description.theirs().and_then(|offer| media::read_answer(sdp, offer).ok());
        let leg = bond.branch;
        let ports = self.branches.iter().find(|branch| branch.leg == leg).map(|branch| &branch.ports);
        let reached = |answer: &media::Answer<'_>| ports.is_some_and(|ports| ports.reaches(&answer.described));
        if let Some(answer) = answer.filter(|answer| !answer.fits_nowhere && reached(answer)) {
            bond.callee.description.hear(answer.described);
        }
    }

    fn tell_timer(&mut self, leg: u8, timer: SessionTimer, cx: &Context<'_>) {
        if timer != SessionTimer::Off {
            self.step(cx, leg, What::SessionTimer { secs: timer.secs(), ours: timer.is_ours() });
        }
    }

    /// A 2xx that leads to no session: the phone is let go, and the branch failed.
    fn on_bad_answer(&mut self, index: usize, leg: u8, message: &Message<'_>, cx: &mut Context<'_>, out: &mut Outbox) {
        let cseq = message.cseq().map_or(0, |cseq| cseq.number);
        let described = description(message).and_then(media::described);
        let ports = self.branch_mut(leg).map(|branch| &branch.ports);
        let is_far = described.zip(ports).is_some_and(|(described, ports)| !ports.reaches(&described));
        let said: &[u8] = if is_far { media::FAMILY_WARNING } else { b"" };
        let mut bond = self.bonds.remove(index);
        bond.callee.acknowledge(cseq, None, cx, out);
        bond.callee.answer_reinvite(Verdict::refused(487), cx, out);
        bond.callee.hang_up(b"SIP ;cause=488 ;text=\"Not Acceptable Here\"", cx, out);
        self.strays.push(bond.callee);
        self.branch_failed(leg, 488, By::Callee, said, cx, out);
    }

    /// The others stop ringing; their ports are freed.
    fn win(&mut self, leg: u8, index: usize, cx: &mut Context<'_>, out: &mut Outbox) {
        let winner = self.bonds.swap_remove(index);
        self.drop_bonds(|_| true, out);
        let phone = match self.branch_mut(leg) {
            Some(branch) => {
                branch.state = branch::State::Answered;
                branch.phone.clone()
            }
            None => String::new(),
        };
        self.bonds.push(winner);
        self.state = State::Answered;
        self.facts.event(Some(leg), Body::LegAnswered { phone }, out);
        self.cancel_branches(|branch| branch.leg != leg, ELSEWHERE, cx, out);
        self.bridged = leg;
        self.connect(0, cx, out);
        self.close_unused_ports(cx, out);
        if self.wants_recording(leg) == Record::Always {
            self.begin_recording(By::System, out);
        }
        self.announce_recording(cx, out);
    }

    /// The caller's 200, as soon as RFC 3262 allows it.
    pub(super) fn answer_caller(&mut self, sdp: Option<Text>, cx: &mut Context<'_>, out: &mut Outbox) {
        let Self { caller, bonds, .. } = self;
        let Some(bond) = bonds.first_mut() else { return };
        if bond.reliable.holds_answer() {
            bond.answer = Answer::WaitsForPrack { sdp };
            return;
        }
        bond.answer = Answer::Sent;
        // RFC 3261 §13.3.1.4: the 2xx has the description that no reliable provisional response has brought.
        let sdp = sdp.or_else(|| bond.reliable.unsent_description().cloned());
        bond.reliable.stop();
        let party = &mut bond.caller;
        party.presence = Presence::Confirmed;
        party.timer = caller.wish.accept(cx.now.instant);
        let mut bytes = Vec::with_capacity(1_024);
        let mut writer = caller.response(&mut bytes, 200, party.dialog.local_tag());
        target_refresh(&mut writer, &party.dialog, cx);
        party.timer.emit_response(&mut writer);
        end(writer, sdp.as_deref());
        caller.transaction.respond(200, bytes.clone(), cx.now.instant, out);
        // RFC 3261 §13.3.1.4: the 2xx is passed to the transport "with an interval that starts at T1 seconds and doubles for
        // each retransmission until it reaches T2 seconds …, independent of whatever transport protocols are used".
        let repeat = Repeat::waiting(bytes, Pace::UpToT2, cx.now.instant);
        party.unacked = Some(Unacked { cseq: caller.cseq, repeat });
        caller.offer = Offer::Late;
        caller.passing = Text::default();
        let timer = party.timer;
        self.step(cx, 0, What::AnsweredCaller);
        self.tell_timer(0, timer, cx);
        self.facts.answered(cx.now.unix);
        self.facts.event(None, Body::CallAnswered, out);
        self.facts.show(CallState::Up, out);
        media::watch(&self.caller.ports, out);
        self.branches.iter().for_each(|branch| media::watch(&branch.ports, out));
    }

    /// An ACK within a dialog: of our 2xx to the first INVITE or to a later one.
    pub(super) fn on_ack(
        &mut self,
        index: usize,
        side: Side,
        message: &Message<'_>,
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) {
        let cseq = message.cseq().map_or(0, |cseq| cseq.number);
        let Some(bond) = self.bonds.get_mut(index) else { return };
        let party = bond.party_mut(side);
        if let Some(server) = party.server.as_mut().filter(|server| server.cseq == cseq) {
            server.is_acked = true;
        }
        if party.unacked.as_ref().is_none_or(|unacked| unacked.cseq != cseq) {
            return;
        }
        party.unacked = None;
        let leg = party.leg;
        party.leave_if_due(cx, out);
        self.step(cx, leg, What::Acknowledged);
        if let Acknowledgement::Due { cseq } = self.bonds[index].party(side.other()).ack {
            self.on_late_answer(index, side, cseq, message, cx, out);
        }
    }

    /// The ACK brings the answer to the other side's offer.
    fn on_late_answer(
        &mut self,
        index: usize,
        side: Side,
        cseq: u32,
        message: &Message<'_>,
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) {
        let sdp = description(message);
        let text = match (sdp, side, self.bonds[index].agreement) {
            (Some(sdp), Side::Caller, Agreement::LateOffered) => self.take_late_answer(index, sdp, cx, out),
            (Some(sdp), ..) => self.take_reinvite_answer(index, side, sdp, cx, out),
            (None, ..) => None,
        };
        let Some(text) = text else {
            // RFC 3261 §13.2.1: the answer was due in this ACK; there is no session.
            return self.end_with(488, by(side), cx, out);
        };
        self.close_unused_ports(cx, out);
        let in_prack = side == Side::Caller && self.send_prack_due(index, MAX_FORWARDS, &text, cx, out);
        if !in_prack {
            self.bonds[index].party_mut(side.other()).acknowledge(cseq, Some(&text), cx, out);
        }
    }
}

pub(super) fn by(side: Side) -> By {
    match side {
        Side::Caller => By::Caller,
        Side::Callee => By::Callee,
    }
}
