//! A phone whose connection ended while it talks, and that comes back over another one.
//!
//! What its dialog has to say waits for the phone: the call asks where the binding is now, soon and then ever more seldom,
//! and goes on there, or over the connection that the phone itself says something on. The transactions keep their deadlines
//! (timers B and F): a phone that does not come back in time is one that does not answer.

use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::time::Instant;
use crate::machine::call::Call;
use crate::machine::call::change::Change;
use crate::machine::call::input::Context;
use crate::machine::call::party::Acknowledgement;
use crate::machine::call::party::Party;
use crate::machine::call::trace::What;
use crate::machine::flow::Flow;
use crate::machine::outbox::Aor;
use crate::machine::outbox::Bound;
use crate::machine::outbox::Outbox;
use crate::machine::outbox::Output;
use crate::machine::outbox::Target;
use crate::machine::transaction::T1_64;
use crate::wire::event::Body;

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lost {
    flow: Flow,
    /// When the binding is asked for, if something waits for the phone.
    ask: Instant,
    pause: Duration,
    /// A 2xx came again, whose ACK waits for so long.
    ack_until: Option<Instant>,
}

impl Party {
    /// The phone cannot be reached over the connection that it was last heard over.
    fn is_away(&self) -> bool {
        self.lost.as_ref().is_some_and(|lost| lost.flow == self.dialog.flow())
    }

    /// What was said since `mark` would be lost; true if it is not said.
    pub(super) fn hold_back(&self, mark: usize, out: &mut Outbox) -> bool {
        let is_away = self.is_away();
        if is_away {
            out.truncate(mark);
        }
        is_away
    }

    pub(super) fn owe_ack(&mut self, now: Instant) {
        if let Some(lost) = &mut self.lost {
            lost.ack_until = Some(now + T1_64);
        }
    }

    /// Something is to be said to the phone, or may have been lost with its connection.
    fn has_news(&self) -> bool {
        let asks = self.client.as_ref().is_some_and(|client| client.transaction.is_open());
        let requests = self.requests.iter().any(|request| request.transaction.is_open());
        let owes = self.lost.as_ref().is_some_and(|lost| lost.ack_until.is_some());
        asks || requests || owes || self.unacked.is_some()
    }

    pub(super) fn next_search(&self) -> Instant {
        match &self.lost {
            Some(lost) if self.is_away() && self.has_news() => lost.ask,
            Some(_) | None => Instant::NEVER,
        }
    }

    /// True if the binding is to be asked for.
    fn searches(&mut self, now: Instant) -> bool {
        if let Some(lost) = &mut self.lost {
            lost.ack_until = lost.ack_until.filter(|until| now < *until);
        }
        let is_due = now >= self.next_search();
        if let Some(lost) = &mut self.lost
            && is_due
        {
            lost.ask = now + lost.pause;
            lost.pause = (lost.pause * 2).min(PAUSE_MAX);
        }
        is_due
    }

    /// The phone is reached over another flow: what waited for an answer is said again there, in its order (RFC 3261 §12.2.2:
    /// "If the remote sequence number is not empty, but the sequence number of the request is lower than the remote sequence
    /// number, the request is out of order and MUST be rejected with a 500").
    pub(super) fn resume(&mut self, flow: Flow, now: Instant, out: &mut Outbox) {
        let was_lost = self.lost.take();
        self.dialog.move_to(flow);
        let invited = self.client.as_ref().map_or(u32::MAX, |client| client.cseq);
        let (earlier, later): (Vec<_>, Vec<_>) = self.requests.iter_mut().partition(|request| request.cseq < invited);
        for request in earlier {
            request.transaction.resume(flow, now, out);
        }
        if let Some(client) = &mut self.client {
            client.transaction.resume(flow, now, out);
        }
        for request in later {
            request.transaction.resume(flow, now, out);
        }
        if let Acknowledgement::Sent { bytes, .. } = &self.ack
            && was_lost.and_then(|lost| lost.ack_until).is_some_and(|until| now < until)
        {
            out.send(flow, bytes.to_vec());
        }
    }
}

impl Call {
    fn parties_mut(&mut self) -> impl Iterator<Item = &mut Party> {
        self.bonds.iter_mut().flat_map(|bond| [&mut bond.caller, &mut bond.callee]).chain(&mut self.strays)
    }

    pub(super) fn on_connection_lost(&mut self, flow: Flow, cx: &Context<'_>, out: &mut Outbox) {
        let now = cx.now.instant;
        let mut legs = Vec::new();
        for party in self.parties_mut().filter(|party| party.dialog.flow() == flow && !party.is_away()) {
            party.lost = Some(Box::new(Lost { flow, ask: now, pause: FIRST_PAUSE, ack_until: None }));
            legs.push(party.leg);
        }
        for leg in legs {
            self.on_leg_lost(leg, flow, cx, out);
        }
    }

    pub(super) fn on_leg_lost(&mut self, leg: u8, flow: Flow, cx: &Context<'_>, out: &mut Outbox) {
        self.step(cx, leg, What::FlowGone);
        self.tell_change(leg, Change::FlowLost, Body::FlowLost { flow: flow.to_string() }, cx, out);
    }

    /// The phone is reached over this flow, whether it spoke first or was looked for.
    pub(super) fn on_leg_found(&mut self, leg: u8, flow: Flow, out: &mut Outbox) {
        self.tell_over(leg, Change::FlowLost, Body::FlowFound { flow: flow.to_string() }, out);
    }

    /// The connections that any part of the call is on, each once.
    pub fn connections(&self) -> Vec<Flow> {
        let parties = self.bonds.iter().flat_map(|bond| [&bond.caller, &bond.callee]).chain(&self.strays);
        let branches = self.branches.iter().map(|branch| branch.flow);
        let flows = parties.map(|party| party.dialog.flow()).chain(branches).chain([self.caller.transaction.flow()]);
        let mut connections: Vec<Flow> = flows.filter(Flow::is_reliable).collect();
        connections.sort_unstable();
        connections.dedup();
        connections
    }

    /// Asks for the bindings of phones that something waits for.
    pub(super) fn search(&mut self, cx: &Context<'_>, out: &mut Outbox) {
        let now = cx.now.instant;
        let legs: Vec<u8> = self.parties_mut().filter_map(|party| party.searches(now).then_some(party.leg)).collect();
        let aors: Vec<Aor> = legs.into_iter().filter_map(|leg| Some(self.bound(leg)?.aor)).collect();
        if !aors.is_empty() {
            out.push(Output::Locate { call: cx.handle, aors });
        }
    }

    pub(super) fn on_found(&mut self, targets: &[Target], cx: &Context<'_>, out: &mut Outbox) {
        let away: Vec<u8> = self.parties_mut().filter(|party| party.is_away()).map(|party| party.leg).collect();
        for leg in away {
            let Some(bound) = self.bound(leg) else { continue };
            let Some(target) = targets.iter().find(|target| bound.is(target)) else { continue };
            let lost = |party: &&mut Party| party.leg == leg && party.is_away() && party.dialog.flow() != target.flow;
            let Some(party) = self.parties_mut().find(lost) else { continue };
            party.resume(target.flow, cx.now.instant, out);
            self.step(cx, leg, What::FlowFound);
            self.on_leg_found(leg, target.flow, out);
        }
    }

    /// The binding that a leg belongs to.
    pub(super) fn bound(&self, leg: u8) -> Option<Bound> {
        if leg == 0 {
            return Some((*self.caller.bound).clone());
        }
        let branch = self.branches.iter().find(|branch| branch.leg == leg)?;
        let aor = Aor { tenant: self.facts.tenant.clone(), user: branch.phone.clone() };
        Some(Bound { aor, contact: branch.contact.clone(), instance: branch.instance.clone() })
    }
}
