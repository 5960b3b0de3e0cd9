//! Responses: to the branches' INVITEs and CANCELs, and to what we asked within dialogs.

use crate::machine::call::Call;
use crate::machine::call::State;
use crate::machine::call::best_response::best;
use crate::machine::call::best_response::for_caller;
use crate::machine::call::best_response::q850;
use crate::machine::call::branch;
use crate::machine::call::branch::Branch;
use crate::machine::call::caller::Offer;
use crate::machine::call::caller::Refusal;
use crate::machine::call::head::Verdict;
use crate::machine::call::hints;
use crate::machine::call::input::Context;
use crate::machine::call::party::Purpose;
use crate::machine::call::party::Side;
use crate::machine::call::trace::What;
use crate::machine::dialog::Text;
use crate::machine::outbox::Outbox;
use crate::machine::transaction::invite_client;
use crate::machine::transaction::non_invite_client;
use crate::wire::event::Body;
use crate::wire::event::By;
use crate::wire::event::Cause;
use crate::wire::sip::HeaderId;
use crate::wire::sip::Message;
use crate::wire::sip::Method;
use crate::wire::sip::Status;

impl Call {
    pub(super) fn on_response(&mut self, leg: u8, message: &Message<'_>, cx: &mut Context<'_>, out: &mut Outbox) {
        let method = message.method();
        let first = self.branch_mut(leg).filter(|branch| branch.owns(message));
        match (method, first) {
            (Method::Invite, Some(_)) => self.on_invite_response(leg, message, cx, out),
            (Method::Cancel, Some(branch)) => branch.handle_cancel_response(message, cx.instant()),
            _ => self.on_dialog_response(message, cx, out),
        }
    }

    fn on_invite_response(&mut self, leg: u8, message: &Message<'_>, cx: &mut Context<'_>, out: &mut Outbox) {
        let status = status_of(message);
        let Some(branch) = self.branch_mut(leg) else { return };
        match branch.handle_response(message, cx, out) {
            invite_client::Response::Provisional if branch.cancel_if_due(cx, out) => {
                self.step(cx, leg, What::Cancelled);
            }
            invite_client::Response::Provisional if branch.is_ringing() && status > 100 => {
                self.step(cx, leg, What::Response(Method::Invite, status));
                self.on_provisional(leg, message, cx, out);
            }
            invite_client::Response::Success => self.on_success(leg, message, cx, out),
            invite_client::Response::Failure => {
                self.step(cx, leg, What::Response(Method::Invite, status));
                self.on_failure(leg, status, message, cx, out);
            }
            invite_client::Response::Provisional | invite_client::Response::Absorbed => {}
        }
    }

    fn on_failure(&mut self, leg: u8, status: u16, message: &Message<'_>, cx: &mut Context<'_>, out: &mut Outbox) {
        if status == 422 && self.invite_again(leg, message, cx, out) {
            return;
        }
        self.branch_failed(leg, status, By::Callee, &hints::of(message), cx, out);
    }

    /// RFC 4028 §7.4: "If the response … is a 422 …, the UAC MAY retry the request … with a higher Session-Expires".
    fn invite_again(&mut self, leg: u8, message: &Message<'_>, cx: &mut Context<'_>, out: &mut Outbox) -> bool {
        let Some(branch) = self.branch_mut(leg).filter(|branch| branch.is_ringing()) else { return false };
        let Some(secs) = branch.accept_interval(message) else { return false };
        self.drop_bonds(|bond| bond.branch == leg, out);
        let Self { branches, caller, .. } = self;
        let Some(branch) = branches.iter_mut().find(|branch| branch.leg == leg) else { return false };
        branch.invite(caller, caller.offer == Offer::Late, cx, out);
        self.step(cx, leg, What::InviteAgainForInterval { secs });
        true
    }

    /// A branch will not answer. When none is left, the caller hears the best of what they said.
    pub(super) fn branch_failed(
        &mut self,
        leg: u8,
        status: u16,
        by: By,
        said: &[u8],
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) {
        self.end_early_dialogs(leg, status, cx, out);
        self.drop_bonds(|bond| bond.branch == leg, out);
        let Some(branch) = self.branch_mut(leg) else { return };
        let was_ringing = matches!(branch.state, branch::State::Ringing);
        if was_ringing {
            branch.fail(for_caller(status), said);
        }
        let reports = branch.ports.close(cx, out);
        self.reports_awaited += reports;
        if !was_ringing {
            return;
        }
        if self.bridged == leg {
            self.bridged = 0;
            self.bridge_another(cx, out);
        }
        let cause = Cause { sip: status, q850: q850(status), text: phrase(status), by };
        self.facts.event(Some(leg), Body::LegEnded { cause }, out);
        if status >= 600 {
            // RFC 3261 §16.7 step 5: a 6xx cancels "all client transactions" of the others.
            self.cancel_branches(|branch| branch.is_ringing(), b"", cx, out);
        }
        if matches!(self.state, State::Ringing { .. }) && !self.branches.iter().any(Branch::is_ringing) {
            self.all_failed(by, cx, out);
        }
    }

    /// While others still ring, the caller hears which of its early dialogs are over.
    fn end_early_dialogs(&mut self, leg: u8, failure: u16, cx: &Context<'_>, out: &mut Outbox) {
        let others_ring = self.branches.iter().any(|branch| branch.leg != leg && branch.is_ringing());
        if failure >= 600 || !others_ring {
            return;
        }
        let told = self.bonds.iter().filter(|bond| bond.branch == leg && bond.told > 0);
        let ended =
            told.filter(|bond| self.caller.end_early_dialog(bond.caller.dialog.local_tag(), failure, out)).count();
        for _ in 0..ended {
            self.step(cx, leg, What::ProvisionalPassed { status: 199, reliable: false });
        }
    }

    fn all_failed(&mut self, by: By, cx: &mut Context<'_>, out: &mut Outbox) {
        let status = best(self.branches.iter().filter_map(Branch::failure)).unwrap_or(480);
        let of = u8::try_from(self.branches.len()).unwrap_or(u8::MAX);
        self.step(cx, 0, What::BestResponse { status, of });
        let said = self.branches.iter().find_map(|branch| branch.said_with(status)).unwrap_or_default();
        self.caller.refuse(Refusal::Status(status), said, cx.instant(), out);
        self.end_with(status, by, cx, out);
    }

    fn on_dialog_response(&mut self, message: &Message<'_>, cx: &mut Context<'_>, out: &mut Outbox) {
        if let Some((index, side)) = self.find_dialog(|party| party.dialog.owns_response(message)) {
            match message.method() {
                Method::Cancel => self.bonds[index].party_mut(side).on_cancel_response(message, cx.instant()),
                Method::Invite => self.on_reinvite_response(index, side, message, cx, out),
                _ => self.on_request_response(index, side, message, cx, out),
            }
            return;
        }
        let stray = self.strays.iter_mut().find(|stray| stray.dialog.owns_response(message));
        if let Some(stray) = stray {
            let cseq = message.cseq().map_or(0, |cseq| cseq.number);
            let status = status_of(message);
            for request in stray.requests.iter_mut().filter(|request| request.cseq == cseq) {
                request.transaction.handle_response(status, cx.instant());
            }
        }
    }

    /// A final response to a non-INVITE request of ours within a dialog.
    fn on_request_response(
        &mut self,
        index: usize,
        side: Side,
        message: &Message<'_>,
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) {
        let status = status_of(message);
        let Ok(cseq) = message.cseq() else { return };
        let Some(bond) = self.bonds.get_mut(index) else { return };
        let party = bond.party_mut(side);
        let found =
            party.requests.iter_mut().find(|request| request.cseq == cseq.number && request.method == cseq.method);
        let Some(request) = found else { return };
        if request.transaction.handle_response(status, cx.instant()) != non_invite_client::Response::Final {
            return;
        }
        let purpose = request.purpose.clone();
        let leg = party.leg;
        self.step(cx, leg, What::Response(cseq.method, status));
        self.on_outcome(index, side, purpose, Outcome::Response(message), cx, out);
    }

    /// What became of a request of ours within a dialog.
    pub(super) fn on_outcome(
        &mut self,
        index: usize,
        side: Side,
        purpose: Purpose,
        outcome: Outcome<'_>,
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) {
        let is_leaving = self.bonds.get(index).is_none_or(|bond| bond.party(side).is_leaving());
        match purpose {
            Purpose::Bye | Purpose::Prack => {}
            // The dialog ended meanwhile: there is nothing to agree on.
            Purpose::Carry | Purpose::Refresh if is_leaving => {}
            Purpose::Carry => self.on_carried(index, side, outcome, cx, out),
            Purpose::Refresh => self.on_refreshed(index, side, outcome, cx, out),
            Purpose::Relay(request) => {
                let (status, said) = (outcome.status(), outcome.said());
                let verdict = Verdict { status: for_dialog(status), body: outcome.body(), said: &said };
                request.conclude(verdict, |_| {}, out);
                if status == 481 {
                    self.dialog_lost(side, status, cx, out);
                }
            }
        }
    }
}

/// A final response, or none within 64*T1.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome<'a> {
    Response(&'a Message<'a>),
    Timeout,
    /// None came to what we cancelled.
    Cancelled,
}

impl<'a> Outcome<'a> {
    /// RFC 3261 §8.1.3.1: a timeout is treated "as if a 408 (Request Timeout) status code has been received".
    pub(super) fn status(self) -> u16 {
        match self {
            Self::Response(message) => status_of(message),
            Self::Timeout => 408,
            // RFC 3261 §9.1: "the client SHOULD then consider the original transaction cancelled".
            Self::Cancelled => 487,
        }
    }

    pub(super) fn message(self) -> Option<&'a Message<'a>> {
        match self {
            Self::Response(message) => Some(message),
            Self::Timeout | Self::Cancelled => None,
        }
    }

    /// What the other side's refusal says beside its status.
    pub(super) fn said(self) -> Text {
        self.message().filter(|message| status_of(message) >= 300).map(hints::of).unwrap_or_default()
    }

    fn body(self) -> Option<(&'a str, &'a [u8])> {
        let message = self.message().filter(|message| !message.body().is_empty())?;
        let content_type = std::str::from_utf8(message.header(HeaderId::ContentType)?).ok()?;
        Some((content_type, message.body()))
    }
}

/// A failure within a dialog as the other side hears it: challenges and redirections stay on their leg.
pub(super) fn for_dialog(status: u16) -> u16 {
    match status {
        300..=399 | 401 | 407 | 422 => 488,
        status => status,
    }
}

pub(super) fn status_of(message: &Message<'_>) -> u16 {
    message.response().map_or(0, |line| line.status.code())
}

pub(super) fn phrase(status: u16) -> String {
    Status::new(status).map_or("", Status::reason).to_owned()
}
