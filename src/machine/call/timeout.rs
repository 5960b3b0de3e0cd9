//! All deadlines of a call.

use crate::base::time::Instant;
use crate::machine::call::Call;
use crate::machine::call::State;
use crate::machine::call::answer::by;
use crate::machine::call::best_response::q850;
use crate::machine::call::branch::Branch;
use crate::machine::call::caller::Caller;
use crate::machine::call::caller::Refusal;
use crate::machine::call::change::Change;
use crate::machine::call::hints;
use crate::machine::call::input::Context;
use crate::machine::call::party::InvitePurpose;
use crate::machine::call::party::Party;
use crate::machine::call::party::Presence;
use crate::machine::call::party::Side;
use crate::machine::call::party::Withdrawal;
use crate::machine::call::respond::Outcome;
use crate::machine::call::session_timer::Due;
use crate::machine::call::trace::What;
use crate::machine::outbox::Outbox;
use crate::machine::transaction::repeat::Patience;
use crate::wire::event::Body;
use crate::wire::event::By;
use crate::wire::event::Cause;
use crate::wire::sip::Method;

/// RFC 3398 §8.2.6.1 and Q.850: no answer from user.
const NO_ANSWER: &[u8] = b"Q.850 ;cause=19 ;text=\"no answer\"";

impl Call {
    pub fn next_deadline(&self) -> Option<Instant> {
        let state = match &self.state {
            State::Locating { until } | State::Ringing { until } => {
                let Caller { expires_at, progress_due, .. } = self.caller;
                expires_at.min(progress_due).min(*until)
            }
            State::Ending { until, .. } => *until,
            State::Answered | State::Ended => Instant::NEVER,
        };
        let branches = self.branches.iter().map(Branch::next_deadline);
        let bonds = self.bonds.iter().map(|bond| bond.next_deadline());
        let strays = self.strays.iter().map(Party::next_deadline);
        let own = [state, self.caller.transaction.next_deadline()];
        let first = own.into_iter().chain(branches).chain(bonds).chain(strays).min();
        first.filter(|deadline| *deadline != Instant::NEVER)
    }

    pub fn handle_timeout(&mut self, cx: &mut Context<'_>, out: &mut Outbox) {
        let now = cx.instant();
        self.on_state_timeout(now, cx, out);
        self.caller.transaction.handle_timeout(now, out);
        let legs: Vec<u8> = self.branches.iter().map(|branch| branch.leg).collect();
        for leg in legs {
            let silent = self.branch_mut(leg).is_some_and(|branch| branch.handle_timeout(now, out));
            if silent {
                self.step(cx, leg, What::TransactionTimeout(Method::Invite));
                self.branch_failed(leg, 408, By::Timer, b"", cx, out);
            }
        }
        self.on_provisional_timeout(now, cx, out);
        for index in 0..self.bonds.len() {
            for side in [Side::Caller, Side::Callee] {
                self.on_party_timeout(index, side, now, cx, out);
            }
        }
        for stray in &mut self.strays {
            if let Some(server) = &mut stray.server {
                server.transaction.handle_timeout(now, out);
            }
            for request in &mut stray.requests {
                request.transaction.handle_timeout(now, out);
            }
        }
        self.search(cx, out);
        self.check_invariants();
    }

    fn on_state_timeout(&mut self, now: Instant, cx: &mut Context<'_>, out: &mut Outbox) {
        match self.state {
            State::Locating { .. } | State::Ringing { .. } if now >= self.caller.expires_at => self.on_expired(cx, out),
            State::Locating { until } if now >= until => {
                self.step(cx, 0, What::LocateTimeout);
                self.caller.refuse(Refusal::Status(500), b"", now, out);
                self.end_with(500, By::System, cx, out);
            }
            State::Ringing { until } if now >= until => {
                self.step(cx, 0, What::RingTimeout);
                self.caller.refuse(Refusal::Status(480), &hints::reason(NO_ANSWER), now, out);
                let cause = Cause { sip: 480, q850: 19, text: "no answer".to_owned(), by: By::Timer };
                self.end(cause, NO_ANSWER, cx, out);
            }
            State::Ending { until, .. } if now >= until => self.finish(out),
            State::Locating { .. } | State::Ringing { .. } if now >= self.caller.progress_due => {
                self.keep_ringing(cx, out)
            }
            _ => {}
        }
    }

    /// RFC 3261 §13.3.1: "If the invitation expires before the UAS has generated a final response, a 487 (Request Terminated)
    /// response SHOULD be generated."
    fn on_expired(&mut self, cx: &mut Context<'_>, out: &mut Outbox) {
        self.step(cx, 0, What::Expired);
        self.caller.refuse(Refusal::Status(487), &hints::reason(NO_ANSWER), cx.instant(), out);
        let cause = Cause { sip: 487, q850: 19, text: "the invitation expired".to_owned(), by: By::Timer };
        self.end(cause, NO_ANSWER, cx, out);
    }

    /// A re-INVITE that expires ends like one that is cancelled.
    fn on_reinvite_expired(&mut self, index: usize, side: Side, now: Instant, cx: &mut Context<'_>, out: &mut Outbox) {
        let Some(server) = self.bonds.get_mut(index).and_then(|bond| bond.party_mut(side).server.as_mut()) else {
            return;
        };
        if !server.transaction.is_proceeding() || now < server.expires_at {
            return;
        }
        server.expires_at = Instant::NEVER;
        let leg = self.bonds[index].party(side).leg;
        self.step(cx, leg, What::Expired);
        self.withdraw_carried(index, side, b"", cx, out);
    }

    /// RFC 3262 §3: "If a reliable provisional response is retransmitted for 64*T1 seconds without reception of a corresponding
    /// PRACK, the UAS SHOULD reject the original request with a 5xx response."
    fn on_provisional_timeout(&mut self, now: Instant, cx: &mut Context<'_>, out: &mut Outbox) {
        let flow = self.caller.transaction.flow();
        let mut given_up = false;
        for bond in &mut self.bonds {
            if let Some(repeat) = bond.reliable.outstanding_mut() {
                given_up |= repeat.handle_timeout(now, flow, out) == Patience::Over;
            }
        }
        if given_up {
            self.step(cx, 0, What::ProvisionalUnpracked);
            self.caller.refuse(Refusal::Status(504), b"", now, out);
            let cause = Cause { sip: 504, q850: q850(504), text: "no PRACK".to_owned(), by: By::Timer };
            self.end(cause, b"", cx, out);
        }
    }

    fn on_party_timeout(&mut self, index: usize, side: Side, now: Instant, cx: &mut Context<'_>, out: &mut Outbox) {
        let Some(bond) = self.bonds.get_mut(index) else { return };
        let party = bond.party_mut(side);
        if let Some(server) = &mut party.server {
            server.transaction.handle_timeout(now, out);
        }
        self.on_unacked_timeout(index, side, now, cx, out);
        self.on_reinvite_expired(index, side, now, cx, out);
        self.on_reinvite_timeout(index, side, now, cx, out);
        self.on_request_timeouts(index, side, now, cx, out);
        self.on_session_timeout(index, side, now, cx, out);
    }

    /// RFC 3261 §13.3.1.4: "If the server retransmits the 2xx response for 64*T1 seconds without receiving an ACK, the dialog is
    /// confirmed, but the session SHOULD be terminated. This is accomplished with a BYE".
    fn on_unacked_timeout(&mut self, index: usize, side: Side, now: Instant, cx: &mut Context<'_>, out: &mut Outbox) {
        let Some(bond) = self.bonds.get_mut(index) else { return };
        let party = bond.party_mut(side);
        let flow = party.dialog.flow();
        let Some(unacked) = &mut party.unacked else { return };
        if unacked.repeat.handle_timeout(now, flow, out) == Patience::Lasts {
            return;
        }
        party.unacked = None;
        let leg = party.leg;
        party.leave_if_due(cx, out);
        self.step(cx, leg, What::AckLate);
        let cause = Cause { sip: 408, q850: 102, text: "the answer was not acknowledged".to_owned(), by: By::Timer };
        self.end(cause, b"SIP ;cause=408 ;text=\"ACK missing\"", cx, out);
    }

    fn on_reinvite_timeout(&mut self, index: usize, side: Side, now: Instant, cx: &mut Context<'_>, out: &mut Outbox) {
        let Some(bond) = self.bonds.get_mut(index) else { return };
        let party = bond.party_mut(side);
        let Some(client) = &mut party.client else { return };
        if let Withdrawal::Sent { cancel } = &mut client.withdrawal {
            cancel.handle_timeout(now, out);
        }
        let silent = client.transaction.handle_timeout(now, out) == Patience::Over;
        let slow = client.transaction.is_open() && now >= client.until;
        if !silent && !slow {
            return;
        }
        let outcome = match client.withdrawal {
            Withdrawal::Sent { .. } => Outcome::Cancelled,
            Withdrawal::No | Withdrawal::Due { .. } => Outcome::Timeout,
        };
        client.abandon(now);
        let purpose = client.purpose;
        let (leg, is_leaving) = (party.leg, party.is_leaving());
        self.step(cx, leg, What::TransactionTimeout(Method::Invite));
        match purpose {
            _ if is_leaving => {}
            InvitePurpose::Carry => self.on_carried(index, side, outcome, cx, out),
            InvitePurpose::Refresh => self.on_refreshed(index, side, outcome, cx, out),
        }
    }

    fn on_request_timeouts(&mut self, index: usize, side: Side, now: Instant, cx: &mut Context<'_>, out: &mut Outbox) {
        let Some(bond) = self.bonds.get_mut(index) else { return };
        let party = bond.party_mut(side);
        let leg = party.leg;
        let mut expired = Vec::new();
        for request in &mut party.requests {
            if request.transaction.handle_timeout(now, out) == Patience::Over {
                expired.push((request.method, request.purpose.clone()));
            }
        }
        party.requests.retain(|request| !request.transaction.is_terminated());
        for (method, purpose) in expired {
            self.step(cx, leg, What::TransactionTimeout(method));
            self.on_outcome(index, side, purpose, Outcome::Timeout, cx, out);
        }
    }

    fn on_session_timeout(&mut self, index: usize, side: Side, now: Instant, cx: &mut Context<'_>, out: &mut Outbox) {
        let Some(bond) = self.bonds.get_mut(index) else { return };
        let party = bond.party_mut(side);
        if party.presence != Presence::Confirmed {
            return;
        }
        let leg = party.leg;
        let ours = party.timer.is_ours();
        match party.timer.handle_timeout(now) {
            Due::Nothing => {}
            Due::Refresh => self.refresh(index, side, cx, out),
            Due::Expired => {
                self.step(cx, leg, What::SessionExpired);
                let body = Body::SessionRefreshFailed { status: 408, by: if ours { By::System } else { by(side) } };
                self.tell_change(leg, Change::RefreshFailed, body, cx, out);
                let cause = Cause { sip: 408, q850: 102, text: "session timer".to_owned(), by: By::Timer };
                self.end(cause, b"SIP ;cause=408 ;text=\"session expired\"", cx, out);
            }
        }
    }
}
