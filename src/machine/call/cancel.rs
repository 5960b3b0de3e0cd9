//! CANCEL: of the caller, and ours to branches that need not ring any more (RFC 3261 §9).

use crate::machine::call::Call;
use crate::machine::call::best_response::q850;
use crate::machine::call::bond::Bond;
use crate::machine::call::bond::Negotiation;
use crate::machine::call::branch::Branch;
use crate::machine::call::caller::Refusal;
use crate::machine::call::ending::reason_of;
use crate::machine::call::head::ServerRequest;
use crate::machine::call::input::Context;
use crate::machine::call::party::Purpose;
use crate::machine::call::party::Side;
use crate::machine::call::party::Withdrawal;
use crate::machine::call::trace::What;
use crate::machine::flow::Flow;
use crate::machine::lingering::Key;
use crate::machine::outbox::Outbox;
use crate::machine::transaction::key::server_key;
use crate::wire::event::Body;
use crate::wire::event::By;
use crate::wire::event::Cause;
use crate::wire::sip::Message;
use crate::wire::sip::Method;

impl Call {
    pub(super) fn on_cancel(&mut self, message: &Message<'_>, flow: Flow, cx: &mut Context<'_>, out: &mut Outbox) {
        let key = Key::of(message, flow.peer.ip(), &cx.settings.secrets.hash);
        let invite = server_key(&cx.settings.secrets.hash, message, flow.peer.ip(), Method::Invite);
        let request = ServerRequest::tagged(message, key, flow, &self.caller.tag);
        if invite != self.caller.key {
            return self.on_reinvite_cancelled(invite, &request, message, cx, out);
        }
        self.step(cx, 0, What::Request(Method::Cancel));
        request.answer(200, |_| {}, out);
        if !self.caller.transaction.is_proceeding() || self.is_ending() {
            return;
        }
        let reason = reason_of(message);
        self.caller.refuse(Refusal::Status(487), b"", cx.instant(), out);
        let cause = Cause { sip: 487, q850: q850(487), text: "cancelled by the caller".to_owned(), by: By::Caller };
        self.end(cause, &reason, cx, out);
    }

    /// The CANCEL of a re-INVITE goes on to the phone that was offered it, and that phone's answer decides: a session that
    /// it took up meanwhile is nobody's to take back (RFC 3261 §9.2, §14.1).
    fn on_reinvite_cancelled(
        &mut self,
        invite: u64,
        request: &ServerRequest,
        message: &Message<'_>,
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) {
        let served = self.bonds.iter().enumerate().find_map(|(index, bond)| Some((index, serves(bond, invite)?)));
        let Some((index, side)) = served else { return request.answer(481, |_| {}, out) };
        request.answer(200, |_| {}, out);
        let leg = self.bonds[index].party(side).leg;
        self.step(cx, leg, What::Request(Method::Cancel));
        self.withdraw_carried(index, side, &reason_of(message), cx, out);
    }

    /// Cancels on the other side what carries the re-INVITE of `side` there.
    pub(super) fn withdraw_carried(
        &mut self,
        index: usize,
        side: Side,
        reason: &[u8],
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) {
        let bond = &mut self.bonds[index];
        let asked = matches!(bond.negotiation, Negotiation::Invite { from, .. } if from == side);
        let other = bond.party_mut(side.other());
        let to = other.leg;
        if asked {
            other.withdraw(reason, cx, out);
            let sent = matches!(self.withdrawal(index, side.other()), Some(Withdrawal::Sent { .. }));
            self.step(cx, to, if sent { What::Cancelled } else { What::CancelWaits });
        }
    }

    fn withdrawal(&self, index: usize, side: Side) -> Option<&Withdrawal> {
        Some(&self.bonds.get(index)?.party(side).client.as_ref()?.withdrawal)
    }

    /// Ends branches that still ring, with the values of Reason, and frees what they hold.
    pub(super) fn cancel_branches(
        &mut self,
        which: impl Fn(&Branch) -> bool,
        reason: &[u8],
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) {
        let legs: Vec<u8> = self.branches.iter().filter(|branch| which(branch)).map(|branch| branch.leg).collect();
        for leg in legs {
            let Some(branch) = self.branch_mut(leg) else { continue };
            let rang = branch.is_ringing();
            let sent = branch.cancel(reason, cx, out);
            let reports = branch.ports.close(cx, out);
            self.reports_awaited += reports;
            if rang {
                self.step(cx, leg, if sent { What::Cancelled } else { What::CancelWaits });
                let cause = Cause { sip: 487, q850: q850(487), text: "cancelled".to_owned(), by: By::System };
                self.facts.event(Some(leg), Body::LegEnded { cause }, out);
            }
        }
    }

    fn forget_dialog(&mut self, bond: &Bond) {
        if let Some(branch) = self.branch_mut(bond.branch) {
            branch.last_cseq = branch.last_cseq.max(bond.callee.dialog.local_cseq());
        }
    }

    /// Early dialogs end without a word of their own; what waits for an answer in them gets one.
    pub(super) fn drop_bonds(&mut self, which: impl Fn(&Bond) -> bool, out: &mut Outbox) {
        let (gone, kept): (Vec<Bond>, Vec<Bond>) = std::mem::take(&mut self.bonds).into_iter().partition(which);
        self.bonds = kept;
        for mut bond in gone {
            self.forget_dialog(&bond);
            if let Some(rseq) = bond.reliable.outstanding_rseq() {
                self.caller.leave_unacknowledged(bond.caller.dialog.local_tag(), rseq);
            }
            refuse_waiting(&mut bond, 481, out);
        }
    }
}

/// Answers every request of either side that waits for the other.
pub(super) fn refuse_waiting(bond: &mut Bond, status: u16, out: &mut Outbox) {
    if let Negotiation::Request { request, .. } = std::mem::replace(&mut bond.negotiation, Negotiation::Idle) {
        request.answer(status, |_| {}, out);
    }
    for side in [Side::Caller, Side::Callee] {
        for request in &mut bond.party_mut(side).requests {
            if let Purpose::Relay(waiting) = &request.purpose
                && request.transaction.is_open()
            {
                waiting.answer(status, |_| {}, out);
                request.transaction.give_up();
            }
        }
    }
}

/// The side whose re-INVITE this is.
fn serves(bond: &Bond, key: u64) -> Option<Side> {
    let is_served = |side| bond.party(side).server.as_ref().is_some_and(|server| server.key == key);
    [Side::Caller, Side::Callee].into_iter().find(|side| is_served(*side))
}
