//! Offers after the first: re-INVITE and UPDATE are carried to the other side, its answer comes back (RFC 3264, 3311, 6337).
//!
//! One exchange at a time: an offer that meets another gets 491, one that overtakes its own kind 500 (RFC 3261 §14.2,
//! RFC 3311 §5.2). Where the other side knows no UPDATE, a re-INVITE carries the offer.

use crate::machine::call::Call;
use crate::machine::call::answer::by;
use crate::machine::call::body::Content;
use crate::machine::call::body::description;
use crate::machine::call::bond::Agreement;
use crate::machine::call::bond::Bond;
use crate::machine::call::bond::Negotiation;
use crate::machine::call::caller::expiry_of;
use crate::machine::call::change::Change;
use crate::machine::call::head::Head;
use crate::machine::call::head::ServerRequest;
use crate::machine::call::head::Verdict;
use crate::machine::call::hints;
use crate::machine::call::input::Context;
use crate::machine::call::media;
use crate::machine::call::media::NoMedia;
use crate::machine::call::media::Ports;
use crate::machine::call::party::Acknowledgement;
use crate::machine::call::party::InvitePurpose;
use crate::machine::call::party::Party;
use crate::machine::call::party::Purpose;
use crate::machine::call::party::ServerInvite;
use crate::machine::call::party::Side;
use crate::machine::call::party::Withdrawal;
use crate::machine::call::party::end;
use crate::machine::call::party::target_refresh;
use crate::machine::call::respond::Outcome;
use crate::machine::call::respond::for_dialog;
use crate::machine::call::respond::status_of;
use crate::machine::call::session_timer::Wish;
use crate::machine::call::terms::MIN_SE;
use crate::machine::call::trace::What;
use crate::machine::dialog::MAX_FORWARDS;
use crate::machine::dialog::Text;
use crate::machine::dialog::hops_after;
use crate::machine::dialog::misses_target;
use crate::machine::flow::Flow;
use crate::machine::lingering::Key;
use crate::machine::outbox::Outbox;
use crate::machine::transaction::invite_client;
use crate::machine::transaction::invite_server::InviteServer;
use crate::machine::transaction::key::server_key;
use crate::wire::event::Body;
use crate::wire::event::By;
use crate::wire::link::CallState;
use crate::wire::sdp::facts::Described;
use crate::wire::sip::HeaderId;
use crate::wire::sip::Message;
use crate::wire::sip::Method;
use crate::wire::sip::Writer;
use crate::wire::sip::write;

impl Call {
    pub(super) fn on_reinvite(
        &mut self,
        index: usize,
        side: Side,
        message: &Message<'_>,
        flow: Flow,
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) {
        let bond = &mut self.bonds[index];
        let glare = glare(bond, side, message);
        let party = bond.party_mut(side);
        if party.server.as_ref().is_some_and(|server| server.transaction.is_proceeding()) {
            // RFC 3261 §14.2: "… MUST return a 500 (Server Internal Error) response to the second INVITE and MUST include a
            // Retry-After header field with a randomly chosen value of between 0 and 10 seconds."
            let key = Key::of(message, flow.peer.ip(), &cx.settings.secrets.hash);
            let request = ServerRequest::of(message, key, flow);
            return request.refuse(500, cx.random, out);
        }
        let mut transaction = InviteServer::new(flow);
        let head = Head::of(message, flow);
        transaction.respond(100, head.trying(message), cx.instant(), out);
        let key = server_key(&cx.settings.secrets.hash, message, flow.peer.ip(), Method::Invite);
        let cseq = message.cseq().map_or(0, |cseq| cseq.number);
        let expires_at = expiry_of(message, cx.instant());
        party.server = Some(ServerInvite { key, cseq, head, transaction, expires_at, is_acked: false });
        party.learn(message);
        let leg = party.leg;
        if let Some(status) = glare {
            self.step(cx, leg, What::Glare);
            if status == 491 {
                self.tell_glare(index, side, Method::Invite, cx, out);
            }
            return self.bonds[index].party_mut(side).answer_reinvite(Verdict::refused(status), cx, out);
        }
        if let Err(Rejection { status, said }) = self.carry_reinvite(index, side, message, cx, out) {
            self.step(cx, leg, What::RequestRefused(Method::Invite, status));
            let verdict = Verdict { said: &said, ..Verdict::refused(status) };
            self.bonds[index].party_mut(side).answer_reinvite(verdict, cx, out);
        }
    }

    /// An offer of `side` met another.
    fn tell_glare(&mut self, index: usize, side: Side, method: Method, cx: &Context<'_>, out: &mut Outbox) {
        let leg = self.bonds[index].party(side).leg;
        let body = Body::Glare { method: method.name().to_owned(), by: by(side) };
        self.tell_change(leg, Change::Glare, body, cx, out);
    }

    fn carry_reinvite(
        &mut self,
        index: usize,
        side: Side,
        message: &Message<'_>,
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) -> Result<(), Rejection> {
        if misses_target(message) {
            return Err(400.into());
        }
        if Wish::of(message).is_too_small() {
            return Err(422.into());
        }
        let leg = self.bonds[index].party(side).leg;
        let (offered, sdp) = match Content::of(message) {
            Content::Unsupported => return Err(415.into()),
            Content::Nothing => (None, None),
            Content::Sdp(sdp) => {
                let offered = self.take_in(index, side, sdp, cx)?;
                (Some(offered), Some(self.offer_to(index, side.other(), sdp, cx, out)?))
            }
        };
        let bond = &mut self.bonds[index];
        let now = cx.instant();
        let party = bond.party_mut(side);
        party.dialog.refresh_target(message);
        party.timer.accept(message, now);
        if let Some(offered) = &offered {
            self.permit(index, side.other(), offered, true, out);
        }
        let bond = &mut self.bonds[index];
        bond.negotiation = Negotiation::Invite { from: side, offered };
        bond.party_mut(side.other()).reinvite(InvitePurpose::Carry, hops_after(message), sdp.as_deref(), cx, out);
        self.step(cx, leg, What::OfferCarried(Method::Invite));
        Ok(())
    }

    /// An offer of `side`, which must be reached where it says.
    fn take_in(&mut self, index: usize, side: Side, sdp: &[u8], cx: &Context<'_>) -> Result<Described, NoMedia> {
        let offered = media::read_offer(sdp)?;
        let leg = self.bonds[index].party(side).leg;
        let reached = self.ports_mut(index, side).map(|ports| ports.may_reach(&offered, cx.settings));
        if reached == Some(Err(NoMedia::NoFamily)) {
            self.step(cx, leg, What::OtherFamily);
            return Err(NoMedia::NoFamily);
        }
        Ok(offered)
    }

    /// Our ports towards one side.
    fn ports_mut(&mut self, index: usize, side: Side) -> Option<&mut Ports> {
        let leg = self.bonds.get(index)?.branch;
        match side {
            Side::Caller => Some(&mut self.caller.ports),
            Side::Callee => self.branch_mut(leg).map(|branch| &mut branch.ports),
        }
    }

    /// One side's offer, written for the other with that side's ports.
    fn offer_to(
        &mut self,
        index: usize,
        to: Side,
        sdp: &[u8],
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) -> Result<Text, NoMedia> {
        let leg = self.bonds[index].branch;
        let narrow = self.branches.iter().any(|branch| branch.leg == leg && self.is_narrow(&branch.phone));
        let Self { bonds, branches, caller, .. } = self;
        let bond = &mut bonds[index];
        let ports = match to {
            Side::Caller => Some(&mut caller.ports),
            Side::Callee => {
                branches.iter_mut().find(|branch| branch.leg == bond.branch).map(|branch| &mut branch.ports)
            }
        };
        let ports = ports.ok_or(NoMedia::NoPorts)?;
        bond.party_mut(to).description.offer(sdp, narrow, ports, cx, out)
    }

    /// One side's answer, written for the other, whose offer was `offered`.
    fn answer_to(
        &mut self,
        index: usize,
        to: Side,
        offered: Option<Described>,
        sdp: &[u8],
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) -> Option<Text> {
        let bond = self.bonds.get(index)?;
        let offered = offered.or_else(|| bond.party(to).description.theirs().cloned())?;
        let answer = media::read_answer(sdp, &offered).ok()?;
        let leg = bond.party(to.other()).leg;
        if !self.ports_mut(index, to.other())?.reaches(&answer.described) {
            self.step(cx, leg, What::OtherFamily);
            return None;
        }
        let reports = self.ports_mut(index, to)?.turn_to(&offered, cx, out).ok()?;
        self.reports_awaited += reports;
        let Self { bonds, branches, caller, .. } = self;
        let bond = bonds.get_mut(index)?;
        let ports: &mut Ports = match to {
            Side::Caller => &mut caller.ports,
            Side::Callee => {
                branches.iter_mut().find(|branch| branch.leg == bond.branch).map(|branch| &mut branch.ports)?
            }
        };
        ports.fit(&offered, cx, out).ok()?;
        let held = holds(bond);
        bond.party_mut(to).description.hear(offered.clone());
        bond.party_mut(to.other()).description.hear(answer.described.clone());
        bond.party_mut(to.other()).description.agree();
        let text = bond.party_mut(to).description.answer(&answer, ports, cx);
        self.connect(index, cx, out);
        self.close_unused_ports(cx, out);
        self.watch_streams(out);
        self.tell_hold(index, held, out);
        Some(text)
    }

    /// Also those that came with the last offer.
    fn watch_streams(&self, out: &mut Outbox) {
        if self.facts.was_answered() {
            media::watch(&self.caller.ports, out);
            self.branches.iter().for_each(|branch| media::watch(&branch.ports, out));
        }
    }

    /// The ACK brought the answer to a re-INVITE without an offer.
    pub(super) fn take_reinvite_answer(
        &mut self,
        index: usize,
        side: Side,
        sdp: &[u8],
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) -> Option<Text> {
        let offered = self.bonds.get(index)?.party(side.other()).description.theirs().cloned();
        self.answer_to(index, side.other(), offered, sdp, cx, out)
    }

    pub(super) fn on_reinvite_response(
        &mut self,
        index: usize,
        side: Side,
        message: &Message<'_>,
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) {
        let status = status_of(message);
        let cseq = message.cseq().map_or(0, |cseq| cseq.number);
        let settings = cx.settings;
        let Some(bond) = self.bonds.get_mut(index) else { return };
        let party = bond.party_mut(side);
        let Some(client) = party.client.as_mut().filter(|client| client.cseq == cseq) else {
            return party.acknowledge_again(cseq, cx, out);
        };
        let dialog = &party.dialog;
        let branch = client.branch.clone();
        let is_late = !client.transaction.is_open();
        let ack = || {
            let mut bytes = Vec::with_capacity(512);
            dialog.ack(&mut bytes, cseq, &branch, settings).finish();
            bytes
        };
        match client.transaction.handle_response(status, ack, cx.now.instant, out) {
            invite_client::Response::Provisional => {
                let leg = party.leg;
                if party.withdraw_if_due(cx, out) {
                    self.step(cx, leg, What::Cancelled);
                }
                return;
            }
            invite_client::Response::Absorbed => return,
            invite_client::Response::Success if party.ack.is_for(cseq) => {
                return party.acknowledge_again(cseq, cx, out);
            }
            invite_client::Response::Success | invite_client::Response::Failure => {}
        }
        // A CANCEL has no more to reach.
        client.withdrawal = Withdrawal::No;
        let purpose = client.purpose;
        if party.is_leaving() {
            // The dialog ended meanwhile: there is nothing to agree on.
            if (200..300).contains(&status) {
                party.acknowledge(cseq, None, cx, out);
            }
            return;
        }
        let leg = party.leg;
        if is_late && (200..300).contains(&status) {
            party.restore(message, cx, out);
            return self.step(cx, leg, What::LateAnswer);
        }
        self.step(cx, leg, What::Response(Method::Invite, status));
        match purpose {
            InvitePurpose::Carry => self.on_carried(index, side, Outcome::Response(message), cx, out),
            InvitePurpose::Refresh => self.on_refreshed(index, side, Outcome::Response(message), cx, out),
        }
    }

    /// `side` answered what was carried to it.
    pub(super) fn on_carried(
        &mut self,
        index: usize,
        side: Side,
        outcome: Outcome<'_>,
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) {
        let status = outcome.status();
        let Some(bond) = self.bonds.get_mut(index) else { return };
        let leg = bond.party(side).leg;
        let negotiation = std::mem::replace(&mut bond.negotiation, Negotiation::Idle);
        self.step(cx, leg, What::OfferAnswered { status });
        if let (491, Some(method)) = (status, negotiation.method()) {
            self.tell_glare(index, side.other(), method, cx, out);
        }
        match outcome.message().filter(|_| (200..300).contains(&status)) {
            Some(message) => self.on_carried_success(index, side, negotiation, message, cx, out),
            None => {
                if let Some(offered) = negotiation.offered() {
                    self.permit(index, side, offered, false, out);
                }
                self.bonds[index].party_mut(side).description.withdraw();
                self.close_unused_ports(cx, out);
                let said = outcome.said();
                let verdict = Verdict { said: &said, ..Verdict::refused(for_dialog(status)) };
                self.answer_offerer(index, negotiation, verdict, cx, out);
                if matches!(status, 408 | 481) {
                    self.dialog_lost(side, status, cx, out);
                }
            }
        }
    }

    fn on_carried_success(
        &mut self,
        index: usize,
        side: Side,
        negotiation: Negotiation,
        message: &Message<'_>,
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) {
        let sdp = description(message);
        let invite = message.method() == Method::Invite;
        let cseq = message.cseq().map_or(0, |cseq| cseq.number);
        let now = cx.instant();
        let party = self.bonds[index].party_mut(side);
        party.dialog.refresh_target(message);
        party.learn(message);
        party.timer.refreshed(message, now);
        let offered = negotiation.offered().cloned();
        let late = offered.is_none() && invite && !matches!(negotiation, Negotiation::Idle);
        if invite {
            match late {
                true => party.ack = Acknowledgement::Due { cseq },
                false => party.acknowledge(cseq, None, cx, out),
            }
        }
        let text = match (sdp, late) {
            (Some(sdp), true) => self.take_reinvite_offer(index, side, sdp, cx, out),
            (Some(sdp), false) => self.answer_to(index, side.other(), offered, sdp, cx, out),
            (None, _) => None,
        };
        match (text, negotiation) {
            (_, Negotiation::Idle) => {}
            (Some(text), negotiation) => {
                let method = if invite { Method::Invite } else { Method::Update };
                let body = Body::Renegotiated { method: method.name().to_owned(), by: by(side.other()) };
                self.facts.event(Some(self.bonds[index].party(side.other()).leg), body, out);
                let asked = negotiation.method();
                self.answer_offerer(index, negotiation, Verdict::agreed(&text), cx, out);
                if let Some(method @ (Method::Invite | Method::Update)) = asked {
                    self.on_refreshed_by(index, side.other(), method, cx, out);
                }
            }
            // A 2xx without the description that was due: nobody knows what they agreed on.
            (None, negotiation) => {
                self.answer_offerer(index, negotiation, Verdict::refused(488), cx, out);
                self.end_with(488, by(side), cx, out);
            }
        }
    }

    /// The other side's offer to a re-INVITE that had none.
    fn take_reinvite_offer(
        &mut self,
        index: usize,
        side: Side,
        sdp: &[u8],
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) -> Option<Text> {
        let offered = self.take_in(index, side, sdp, cx).ok()?;
        let text = self.offer_to(index, side.other(), sdp, cx, out).ok()?;
        self.bonds.get_mut(index)?.party_mut(side).description.hear(offered);
        Some(text)
    }

    fn answer_offerer(
        &mut self,
        index: usize,
        negotiation: Negotiation,
        verdict: Verdict<'_>,
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) {
        let Some(bond) = self.bonds.get_mut(index) else { return };
        match negotiation {
            Negotiation::Idle => {}
            Negotiation::Invite { from, .. } => bond.party_mut(from).answer_reinvite(verdict, cx, out),
            Negotiation::Request { from, request, .. } => {
                let party = bond.party(from);
                let success = verdict.is_success() && request.method == Method::Update;
                let more = |writer: &mut Writer<'_>| {
                    if success {
                        target_refresh(writer, &party.dialog, cx);
                        party.timer.emit_response(writer);
                    }
                    if verdict.status == 415 {
                        hints::complete_415(verdict.said, writer);
                    }
                };
                request.conclude(verdict, more, out);
            }
        }
    }

    pub(super) fn on_update(
        &mut self,
        index: usize,
        side: Side,
        request: ServerRequest,
        message: &Message<'_>,
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) {
        let now = cx.instant();
        if misses_target(message) {
            return request.answer(400, |_| {}, out);
        }
        if Wish::of(message).is_too_small() {
            return request.answer_with(422, HeaderId::MinSe, &MIN_SE.to_string(), out);
        }
        let content = Content::of(message);
        if content == Content::Unsupported {
            return request.refuse_body(out);
        }
        if let (Content::Sdp(_), Some(status)) = (content, glare(&self.bonds[index], side, message)) {
            let leg = self.bonds[index].party(side).leg;
            self.step(cx, leg, What::Glare);
            return if status == 491 {
                self.tell_glare(index, side, Method::Update, cx, out);
                request.answer(491, |_| {}, out)
            } else {
                request.refuse(status, cx.random, out)
            };
        }
        let party = self.bonds[index].party_mut(side);
        party.dialog.refresh_target(message);
        party.timer.accept(message, now);
        party.learn(message);
        match content {
            Content::Sdp(sdp) => self.on_offer_request(index, side, request, sdp, cx, out),
            Content::Nothing | Content::Unsupported => {
                let more = |writer: &mut Writer<'_>| {
                    target_refresh(writer, &party.dialog, cx);
                    party.timer.emit_response(writer);
                };
                request.answer(200, more, out);
                self.on_refreshed_by(index, side, Method::Update, cx, out);
            }
        }
    }

    /// A phone refreshed its session, if it has a timer.
    fn on_refreshed_by(&mut self, index: usize, side: Side, method: Method, cx: &Context<'_>, out: &mut Outbox) {
        let Some(party) = self.bonds.get(index).map(|bond| bond.party(side)) else { return };
        let (leg, secs) = (party.leg, party.timer.secs());
        if secs > 0 {
            self.step(cx, leg, What::SessionRefreshedBy(method));
            let body = Body::SessionRefreshed { method: method.name().to_owned(), by: by(side), secs };
            self.tell_change(leg, Change::Refreshed, body, cx, out);
        }
    }

    /// UPDATE or PRACK with an offer.
    pub(super) fn on_offer_request(
        &mut self,
        index: usize,
        side: Side,
        request: ServerRequest,
        sdp: &[u8],
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) {
        let to = side.other();
        let bond = &self.bonds[index];
        let other = bond.party(to);
        let confirmed = bond.is_confirmed();
        let early = other.takes_update && bond.agreement == Agreement::Agreed;
        if bond.is_negotiating() || !(confirmed || early) {
            // RFC 3311 §5.2: 504 where the offer cannot be answered without waiting.
            return request.answer(504, |_| {}, out);
        }
        let offer = self.take_in(index, side, sdp, cx);
        let offer = offer.and_then(|offered| Ok((offered, self.offer_to(index, to, sdp, cx, out)?)));
        let (offered, text) = match offer {
            Ok(offer) => offer,
            Err(error) => {
                let verdict = Verdict { said: &error.said(), ..Verdict::refused(error.status()) };
                return request.conclude(verdict, |_| {}, out);
            }
        };
        self.permit(index, to, &offered, true, out);
        let bond = &mut self.bonds[index];
        let hops = request.hops;
        bond.negotiation = Negotiation::Request { from: side, request: request.postponed(), offered };
        let other = bond.party_mut(to);
        let method = if other.takes_update { Method::Update } else { Method::Invite };
        match method {
            Method::Update => other.update(Purpose::Carry, hops, Some(&text), cx, out),
            _ => other.reinvite(InvitePurpose::Carry, hops, Some(&text), cx, out),
        }
        let leg = bond.party(side).leg;
        self.step(cx, leg, What::OfferCarried(method));
    }

    fn tell_hold(&mut self, index: usize, before: [bool; 2], out: &mut Outbox) {
        let Some(bond) = self.bonds.get(index) else { return };
        let after = holds(bond);
        let sides = [(Side::Caller, bond.caller.leg), (Side::Callee, bond.callee.leg)];
        for ((side, leg), (before, after)) in sides.into_iter().zip(before.into_iter().zip(after)) {
            match (before, after) {
                (false, true) => self.facts.event(Some(leg), Body::Held { by: by(side) }, out),
                (true, false) => self.facts.event(Some(leg), Body::Resumed { by: by(side) }, out),
                _ => {}
            }
        }
        if self.facts.was_answered() {
            let held = after.contains(&true);
            self.facts.show(if held { CallState::Held } else { CallState::Up }, out);
        }
    }

    /// Refreshes the session of one side (RFC 4028 §10): UPDATE where the phone takes it, else the last description again.
    pub(super) fn refresh(&mut self, index: usize, side: Side, cx: &mut Context<'_>, out: &mut Outbox) {
        let Some(bond) = self.bonds.get_mut(index) else { return };
        let busy = bond.is_negotiating();
        let party = bond.party_mut(side);
        let leg = party.leg;
        let method = if party.takes_update { Method::Update } else { Method::Invite };
        match method {
            Method::Update => party.update(Purpose::Refresh, MAX_FORWARDS, None, cx, out),
            _ if busy => return party.timer.again(cx.random, cx.now.instant),
            _ => {
                let sdp = party.description.sent().map(Text::from);
                party.reinvite(InvitePurpose::Refresh, MAX_FORWARDS, sdp.as_deref(), cx, out);
            }
        }
        self.step(cx, leg, What::SessionRefresh(method));
    }

    pub(super) fn on_refreshed(
        &mut self,
        index: usize,
        side: Side,
        outcome: Outcome<'_>,
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) {
        let status = outcome.status();
        let now = cx.instant();
        let Some(bond) = self.bonds.get_mut(index) else { return };
        let party = bond.party_mut(side);
        let leg = party.leg;
        if let Some(message) = outcome.message().filter(|_| (200..300).contains(&status)) {
            party.dialog.refresh_target(message);
            party.timer.refreshed(message, now);
            let (method, secs) = (message.method(), party.timer.secs());
            if method == Method::Invite {
                let cseq = message.cseq().map_or(0, |cseq| cseq.number);
                party.acknowledge(cseq, None, cx, out);
            }
            let body = Body::SessionRefreshed { method: method.name().to_owned(), by: By::System, secs };
            return self.tell_change(leg, Change::Refreshed, body, cx, out);
        }
        party.timer.again(cx.random, now);
        self.step(cx, leg, What::SessionRefreshFailed { status });
        let body = Body::SessionRefreshFailed { status, by: By::System };
        self.tell_change(leg, Change::RefreshFailed, body, cx, out);
        // RFC 4028 §10: 408 and 481 end the session.
        if matches!(status, 408 | 481) {
            self.dialog_lost(side, status, cx, out);
        }
    }
}

/// Why a re-INVITE is not carried: status and further header lines.
struct Rejection {
    status: u16,
    said: Text,
}

impl From<u16> for Rejection {
    fn from(status: u16) -> Self {
        Self { status, said: Text::default() }
    }
}

impl From<NoMedia> for Rejection {
    fn from(error: NoMedia) -> Self {
        Self { status: error.status(), said: error.said() }
    }
}

impl Party {
    /// The final response to its re-INVITE.
    pub(super) fn answer_reinvite(&mut self, verdict: Verdict<'_>, cx: &mut Context<'_>, out: &mut Outbox) {
        let Some(server) = &mut self.server else { return };
        if !server.transaction.is_proceeding() {
            return;
        }
        let mut bytes = Vec::with_capacity(1_024);
        let mut writer = server.head.response(&mut bytes, verdict.status, b"");
        match verdict.status {
            200..300 => {
                target_refresh(&mut writer, &self.dialog, cx);
                self.timer.emit_response(&mut writer);
            }
            415 => hints::complete_415(verdict.said, &mut writer),
            422 => {
                writer.uint_header(HeaderId::MinSe, MIN_SE);
            }
            500 if !hints::says(verdict.said, HeaderId::RetryAfter) => {
                writer.uint_header(HeaderId::RetryAfter, cx.random.below(11));
            }
            _ => {}
        }
        verdict.end(writer);
        let cseq = server.cseq;
        server.transaction.respond(verdict.status, bytes.clone(), cx.now.instant, out);
        if verdict.is_success() {
            self.repeat_answer(cseq, bytes, cx.now.instant);
        }
    }

    /// It took up an offer that was taken back: the ACK, and what was agreed before is offered again.
    fn restore(&mut self, message: &Message<'_>, cx: &mut Context<'_>, out: &mut Outbox) {
        let cseq = message.cseq().map_or(0, |cseq| cseq.number);
        self.dialog.refresh_target(message);
        self.learn(message);
        self.timer.refreshed(message, cx.now.instant);
        // RFC 3261 §13.2.2.4: where the 2xx has an offer, "the UAC core MUST create an answer, and place it in the ACK".
        let offer = description(message).filter(|_| self.client.as_ref().is_some_and(|client| client.asks_offer));
        let answer = offer.and_then(|offer| self.description.answer_late(offer));
        self.acknowledge(cseq, answer.as_deref(), cx, out);
        let sdp = self.description.sent().map(Text::from);
        self.reinvite(InvitePurpose::Refresh, MAX_FORWARDS, sdp.as_deref(), cx, out);
    }

    fn update(&mut self, purpose: Purpose, hops: u8, sdp: Option<&[u8]>, cx: &mut Context<'_>, out: &mut Outbox) {
        let mut refresh = Vec::with_capacity(256);
        let mut lines = write::fragment(&mut refresh);
        target_refresh(&mut lines, &self.dialog, cx);
        self.timer.emit_request(&mut lines);
        let more = |mut writer: Writer<'_>| {
            writer.raw(&refresh);
            end(writer, sdp);
        };
        self.send(Method::Update, purpose, hops, more, cx, out);
    }
}

/// The status that refuses an offer of `side` because another is under way.
fn glare(bond: &Bond, side: Side, message: &Message<'_>) -> Option<u16> {
    if message.method() == Method::Invite && !bond.is_confirmed() {
        // RFC 3261 §14.2: the first INVITE has no final response, or no ACK, yet.
        return Some(if side == Side::Caller { 500 } else { 491 });
    }
    if !bond.is_negotiating() {
        return None;
    }
    let own = match &bond.negotiation {
        Negotiation::Idle => false,
        Negotiation::Invite { from, .. } | Negotiation::Request { from, .. } => *from == side,
    };
    // An UPDATE before the answer to one's own offer, or a re-INVITE before its final response.
    let own = own && message.method() != Method::Invite;
    Some(if own { 500 } else { 491 })
}

fn holds(bond: &Bond) -> [bool; 2] {
    let of = |party: &Party| party.description.theirs().is_some_and(Described::holds);
    [of(&bond.caller), of(&bond.callee)]
}
