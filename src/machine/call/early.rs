//! Provisional responses of a branch, and the early dialogs towards the caller that they make.

use crate::machine::call::Call;
use crate::machine::call::State;
use crate::machine::call::body::description;
use crate::machine::call::bond::Agreement;
use crate::machine::call::bond::Answer;
use crate::machine::call::bond::Bond;
use crate::machine::call::bond::Heard;
use crate::machine::call::bond::Negotiation;
use crate::machine::call::branch::Branch;
use crate::machine::call::caller::Offer;
use crate::machine::call::input::Context;
use crate::machine::call::media;
use crate::machine::call::media::Description;
use crate::machine::call::media::End;
use crate::machine::call::party::Party;
use crate::machine::call::party::Presence;
use crate::machine::call::party::Purpose;
use crate::machine::call::party::Side;
use crate::machine::call::party::end;
use crate::machine::call::reliable::Admission;
use crate::machine::call::reliable::Provisional;
use crate::machine::call::reliable::Rel100;
use crate::machine::call::reliable::Reliable;
use crate::machine::call::respond::status_of;
use crate::machine::call::terms::ALLOW;
use crate::machine::call::terms::BONDS_MAX;
use crate::machine::call::terms::PROGRESS_PAUSE;
use crate::machine::call::trace::What;
use crate::machine::dialog;
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
use crate::wire::link::Symmetric;
use crate::wire::sdp::facts::Described;
use crate::wire::sip::HeaderId;
use crate::wire::sip::Message;
use crate::wire::sip::Method;
use crate::wire::sip::Writer;

impl Call {
    pub(super) fn on_provisional(&mut self, leg: u8, message: &Message<'_>, cx: &mut Context<'_>, out: &mut Outbox) {
        let status = status_of(message);
        let rseq = message.uint(HeaderId::RSeq).filter(|_| message.has_tag(HeaderId::Require, "100rel"));
        let Some(index) = self.bond_for(leg, message, cx) else { return };
        let Some(bond) = self.bonds.get_mut(index) else { return };
        if rseq.is_some_and(|rseq| !bond.heard.is_next(rseq)) {
            return;
        }
        bond.callee.learn(message);
        let sdp = self.describe_early(index, message, rseq.is_some(), cx, out);
        if let Some(rseq) = rseq {
            self.heard_reliably(index, rseq, cx, out);
        }
        // RFC 6228: a 199 ends an early dialog of a fork; ours towards the caller ends with the final response.
        if status == 199 {
            return;
        }
        self.tell_progress(leg, status, sdp.is_some(), out);
        let status = if (180..=183).contains(&status) { status } else { 183 };
        self.send_provisional(index, &Provisional { status, sdp }, cx, out);
    }

    /// The bond of the callee's dialog that a response to the INVITE belongs to; a new one for a new tag.
    pub(super) fn bond_for(&mut self, leg: u8, message: &Message<'_>, cx: &mut Context<'_>) -> Option<usize> {
        let tag = message.to().ok().and_then(|to| to.tag()).unwrap_or_default();
        let known = self.bonds.iter().position(|bond| bond.branch == leg && bond.callee.dialog.remote_tag() == tag);
        if known.is_some() {
            return known;
        }
        if self.bonds.len() >= BONDS_MAX {
            return None;
        }
        let own_tag: Text = match self.bonds.is_empty() && !self.caller.tag_used {
            true => self.caller.tag.clone(),
            false => cx.identifier(0).as_bytes().into(),
        };
        self.caller.tag_used = true;
        let branch = self.branches.iter().find(|branch| branch.leg == leg)?;
        let bond = self.make_bond(branch, message, &own_tag, cx);
        self.bonds.push(bond);
        Some(self.bonds.len() - 1)
    }

    fn make_bond(&self, branch: &Branch, message: &Message<'_>, own_tag: &[u8], cx: &mut Context<'_>) -> Bond {
        let mut description = Description::new(cx.random.next_u64());
        let agreement = match &self.caller.offer {
            Offer::Late => Agreement::Late,
            Offer::Made { described, .. } => {
                description.hear(described.clone());
                Agreement::Offered
            }
        };
        let mut caller = Party::new(0, self.caller.dialog.with_local_tag(own_tag), description);
        caller.takes_update = self.caller.takes_update;
        let dialog = Dialog::of_client(message, branch.cseq(), branch.contact.as_bytes(), branch.flow);
        Bond {
            branch: branch.leg,
            caller,
            callee: Party::new(branch.leg, dialog, branch.description.clone()),
            agreement,
            negotiation: Negotiation::Idle,
            answer: Answer::NotYet,
            reliable: Reliable::new(cx.random.next_u32() >> 8),
            heard: Heard::Nothing,
            told: 0,
            is_joined: false,
        }
    }

    /// Takes in a description of a provisional response; what the caller is to see of it.
    fn describe_early(
        &mut self,
        index: usize,
        message: &Message<'_>,
        reliable: bool,
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) -> Option<Text> {
        let sdp = description(message)?;
        let passes_reliably = self.caller.rel100.is_known();
        match self.bonds.get(index)?.agreement {
            Agreement::Offered | Agreement::Previewed => {
                let text = self.take_answer(index, sdp, cx, out)?;
                if reliable && passes_reliably {
                    self.bonds.get_mut(index)?.agreement = Agreement::Agreed;
                }
                Some(text)
            }
            // RFC 3262 §5: an offer in a provisional response counts only if the response is reliable.
            Agreement::Late if reliable && passes_reliably => self.take_offer(index, sdp, cx, out),
            Agreement::Late | Agreement::LateOffered | Agreement::Agreed => None,
        }
    }

    /// The callee's answer to the first offer, written for the caller.
    pub(super) fn take_answer(
        &mut self,
        index: usize,
        sdp: &[u8],
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) -> Option<Text> {
        let bond = self.bonds.get_mut(index)?;
        let offer = bond.caller.description.theirs().cloned()?;
        let answer = media::read_answer(sdp, &offer).ok().filter(|answer| !answer.fits_nowhere)?;
        let leg = bond.branch;
        let ports = self.branches.iter().find(|branch| branch.leg == leg).map(|branch| &branch.ports)?;
        if !ports.reaches(&answer.described) {
            self.step(cx, leg, What::OtherFamily);
            return None;
        }
        bond.callee.description.hear(answer.described.clone());
        bond.agreement = Agreement::Previewed;
        let text = bond.caller.description.answer(&answer, &self.caller.ports, cx);
        self.connect(index, cx, out);
        Some(text)
    }

    /// The callee's offer to a caller whose INVITE had none, written for the caller.
    pub(super) fn take_offer(
        &mut self,
        index: usize,
        sdp: &[u8],
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) -> Option<Text> {
        let described = media::read_offer(sdp).ok()?;
        let leg = self.bonds.get(index)?.branch;
        let narrow = self.branches.iter().any(|branch| branch.leg == leg && self.is_narrow(&branch.phone));
        let Ok(reports) = self.branch_mut(leg)?.ports.turn_to(&described, cx, out) else {
            self.step(cx, leg, What::OtherFamily);
            return None;
        };
        self.reports_awaited += reports;
        let bond = self.bonds.get_mut(index)?;
        let text = bond.caller.description.offer(sdp, narrow, &mut self.caller.ports, cx, out).ok()?;
        bond.callee.description.hear(described);
        bond.agreement = Agreement::LateOffered;
        Some(text)
    }

    /// The caller's answer to the callee's offer, written for the callee.
    pub(super) fn take_late_answer(
        &mut self,
        index: usize,
        sdp: &[u8],
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) -> Option<Text> {
        let leg = self.bonds.get(index)?.branch;
        let branch = self.branches.iter_mut().find(|branch| branch.leg == leg)?;
        let bond = self.bonds.get_mut(index)?;
        let offered = bond.callee.description.theirs().cloned()?;
        let answer = media::read_answer(sdp, &offered).ok().filter(|answer| !answer.fits_nowhere)?;
        if !self.caller.ports.reaches(&answer.described) {
            self.step(cx, 0, What::OtherFamily);
            return None;
        }
        branch.ports.fit(&offered, cx, out).ok()?;
        bond.caller.description.hear(answer.described.clone());
        let text = bond.callee.description.answer(&answer, &branch.ports, cx);
        bond.agreement = Agreement::Agreed;
        self.connect(index, cx, out);
        Some(text)
    }

    /// Tells the relay what the two of a bond have agreed on. Before the answer the caller hears the first branch that brought
    /// media, and of a branch that was forked further on the first of its phones.
    pub(super) fn connect(&mut self, index: usize, cx: &Context<'_>, out: &mut Outbox) {
        let is_answered = self.state == State::Answered;
        let Some(leg) = self.bonds.get(index).map(|bond| bond.branch) else { return };
        let mut others = self.bonds.iter().enumerate().filter(|(other, bond)| *other != index && bond.branch == leg);
        if !is_answered && others.any(|(_, other)| other.is_joined) {
            return;
        }
        if self.bridged == 0 {
            self.bridged = leg;
            self.step(cx, leg, What::EarlyMedia);
        }
        let bridge = is_answered || self.bridged == leg;
        if let Some(bond) = self.bonds.get_mut(index) {
            bond.is_joined = true;
        }
        self.join(index, bridge, cx, out);
        if bridge {
            if cx.settings.recording.early && self.wants_recording(leg) == Record::Always {
                self.begin_recording(By::System, out);
            }
            self.tape_streams(index, out);
        }
    }

    /// The branch that the caller heard is gone: the next one that brought media is heard.
    pub(super) fn bridge_another(&mut self, cx: &Context<'_>, out: &mut Outbox) {
        if let Some(index) = self.bonds.iter().position(|bond| bond.is_joined)
            && matches!(self.state, State::Ringing { .. })
        {
            self.connect(index, cx, out);
        }
    }

    fn join(&self, index: usize, bridge: bool, cx: &Context<'_>, out: &mut Outbox) {
        let Some(bond) = self.bonds.get(index) else { return };
        let Some(branch) = self.branches.iter().find(|branch| branch.leg == bond.branch) else { return };
        let end = |party: &Party| (party.description.theirs().cloned(), party.dialog.flow());
        let (caller, callee) = (end(&bond.caller), end(&bond.callee));
        let said = self.symmetric.as_deref();
        let symmetric = said.map_or(Symmetric::Auto, |said| said.caller);
        let caller = End { ports: &self.caller.ports, theirs: caller.0.as_ref(), flow: caller.1, symmetric };
        let symmetric = said.map_or(Symmetric::Auto, |said| said.of_callee(&branch.phone));
        let callee = End { ports: &branch.ports, theirs: callee.0.as_ref(), flow: callee.1, symmetric };
        media::connect(&caller, &callee, bridge, cx.settings, out);
    }

    /// `side` may send what an offer to it wants to receive, or may no longer.
    pub(super) fn permit(&self, index: usize, side: Side, offered: &Described, on: bool, out: &mut Outbox) {
        let Some(bond) = self.bonds.get(index) else { return };
        let Some(branch) = self.branches.iter().find(|branch| branch.leg == bond.branch) else { return };
        let ports = match side {
            Side::Caller => &self.caller.ports,
            Side::Callee => &branch.ports,
        };
        let party = bond.party(side);
        let (own, other) = (party.description.theirs(), bond.party(side.other()).description.theirs());
        media::permit(ports, own, other, offered, on, out);
    }

    /// Gives back the ports of streams that the two who talk do not use.
    pub(super) fn close_unused_ports(&mut self, cx: &mut Context<'_>, out: &mut Outbox) {
        let Self { bonds, branches, caller, state, .. } = self;
        let ([bond], State::Answered) = (bonds.as_slice(), state) else { return };
        let Some(branch) = branches.iter_mut().find(|branch| branch.leg == bond.branch) else { return };
        let caller = (&mut caller.ports, bond.caller.description.theirs());
        let callee = (&mut branch.ports, bond.callee.description.theirs());
        let reports = media::close_unused([caller, callee], cx, out);
        self.reports_awaited += reports;
    }

    fn heard_reliably(&mut self, index: usize, rseq: u32, cx: &mut Context<'_>, out: &mut Outbox) {
        let Some(bond) = self.bonds.get_mut(index) else { return };
        if bond.agreement == Agreement::LateOffered {
            bond.heard = Heard::PrackDue { rseq };
            return;
        }
        bond.heard = Heard::UpTo { rseq };
        self.send_prack(index, rseq, MAX_FORWARDS, None, cx, out);
    }

    pub(super) fn send_prack(
        &mut self,
        index: usize,
        rseq: u32,
        hops: u8,
        sdp: Option<&[u8]>,
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) {
        let Some(bond) = self.bonds.get_mut(index) else { return };
        let invite = self.branches.iter().find(|branch| branch.leg == bond.branch).map_or(0, Branch::cseq);
        let rack = format!("{rseq} {invite} INVITE");
        let finish = |mut writer: Writer<'_>| {
            writer.header(HeaderId::RAck, &rack);
            end(writer, sdp);
        };
        bond.callee.send(Method::Prack, Purpose::Prack, hops, finish, cx, out);
    }

    fn tell_progress(&mut self, leg: u8, status: u16, has_sdp: bool, out: &mut Outbox) {
        let Some(branch) = self.branch_mut(leg) else { return };
        if status == 180 && !branch.ringing {
            branch.ringing = true;
            self.facts.event(Some(leg), Body::LegRinging { status }, out);
        } else if has_sdp || status == 183 {
            self.facts.event(Some(leg), Body::LegProgress { status }, out);
        }
        self.facts.show(CallState::Ringing, out);
    }

    /// While it rings the caller hears so each minute, in the way that it knows: reliably as a response of its own, else as the last
    /// one again.
    pub(super) fn keep_ringing(&mut self, cx: &mut Context<'_>, out: &mut Outbox) {
        self.caller.progress_due = cx.instant() + PROGRESS_PAUSE;
        let told = self.bonds.iter().rposition(|bond| bond.told > 0);
        match (told, self.caller.rel100) {
            (Some(index), Rel100::Supported | Rel100::Required) => {
                let status = self.bonds[index].told;
                self.send_provisional(index, &Provisional { status, sdp: None }, cx, out);
            }
            (Some(_), Rel100::Unknown) => {
                let flow = self.caller.transaction.flow();
                self.caller.transaction.handle_retransmission(flow, out);
            }
            // Not reliably: there is no dialog with a phone to acknowledge it in.
            (None, Rel100::Unknown | Rel100::Supported) => self.caller.progress(cx, out),
            (None, Rel100::Required) => {}
        }
    }

    /// Sends a provisional response in the early dialog of a bond, now or when the one before is acknowledged.
    pub(super) fn send_provisional(
        &mut self,
        index: usize,
        provisional: &Provisional,
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) {
        let Self { caller, bonds, .. } = self;
        let Some(bond) = bonds.get_mut(index) else { return };
        if bond.caller.presence != Presence::Early || !caller.transaction.is_proceeding() {
            return;
        }
        let rseq = match caller.rel100.is_known().then(|| bond.reliable.admit(provisional)) {
            None => None,
            Some(Admission::Now(rseq)) => Some(rseq),
            Some(Admission::Waits) => return,
            Some(Admission::Joined) => {
                let leg = bond.branch;
                self.provisionals_joined = self.provisionals_joined.saturating_add(1);
                return self.step(cx, leg, What::ProvisionalJoined { status: provisional.status });
            }
        };
        let Provisional { status, sdp } = provisional;
        let mut bytes = Vec::with_capacity(1_024);
        let dialog = &bond.caller.dialog;
        let mut writer = caller.response(&mut bytes, *status, dialog.local_tag());
        dialog::contact(&mut writer, dialog.local_tag(), caller.transaction.flow(), cx.settings);
        writer.header(HeaderId::Allow, ALLOW);
        if let Some(rseq) = rseq {
            writer.header(HeaderId::Require, "100rel").uint_header(HeaderId::RSeq, rseq);
        }
        end(writer, sdp.as_deref());
        caller.transaction.respond(*status, bytes.clone(), cx.now.instant, out);
        if let Some(rseq) = rseq {
            let repeat = Repeat::waiting(bytes, Pace::Doubling, cx.now.instant);
            bond.reliable.sent(rseq, sdp.is_some(), repeat);
        }
        bond.told = *status;
        caller.progress_due = cx.now.instant + PROGRESS_PAUSE;
        let reliable = rseq.is_some();
        let leg = bond.branch;
        self.step(cx, leg, What::ProvisionalPassed { status: *status, reliable });
    }
}
