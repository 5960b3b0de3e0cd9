//! What is asked of the admission, and what becomes of a call that is not taken on.

#[cfg(test)]
mod tests;

use crate::base::id::Handle;
use crate::base::time::Now;
use crate::machine::Shared;
use crate::machine::admission;
use crate::machine::admission::Asking;
use crate::machine::admission::Class;
use crate::machine::admission::Owner;
use crate::machine::admission::Refusal;
use crate::machine::call::input::Invite;
use crate::machine::exchange::Exchange;
use crate::machine::exchange::answer;
use crate::machine::exchange::calls::Surroundings;
use crate::machine::flow::Flow;
use crate::machine::lingering;
use crate::machine::outbox::Outbox;
use crate::machine::outbox::Output;
use crate::wire::link::Phone;
use crate::wire::sip::Message;
use crate::wire::sip::Method;
use crate::wire::sip::Status;

impl Exchange {
    /// A new call would find a place, and ports for its two parties.
    pub fn takes_calls(&self) -> bool {
        let has_room = admission::has_room(Class::Invite, self.calls.places(), self.calls.len());
        !self.is_draining && has_room && !self.ports.is_used_up()
    }

    pub(super) fn admits_call(
        &mut self,
        phone: &Phone,
        owner: Owner,
        now: Now,
        shared: Shared<'_>,
        out: &mut Outbox,
    ) -> Result<(), Refusal> {
        let (places, taken) = (self.calls.places(), self.calls.len());
        let asking = Asking { owner, tenant: &phone.tenant, phone: &phone.user, class: Class::Invite, places, taken };
        self.admission.call(&asking, now.instant, shared, out)
    }

    /// A call that is not taken on. It has its record, unless calls come too fast for that; the refusal is kept for repeats of the INVITE,
    /// which make no second one.
    #[expect(clippy::too_many_arguments, reason = "a call, why it is refused, and what every machine is given")]
    pub(super) fn turn_away(
        &mut self,
        invite: &Invite<'_>,
        owner: Owner,
        refusal: Refusal,
        repeat: lingering::Key,
        now: Now,
        shared: Shared<'_>,
        out: &mut Outbox,
    ) {
        self.counts.refused_calls += 1;
        self.counts.call_attempts += 1;
        let mark = out.len();
        if refusal.is_counted() {
            let bytes = answer::stateless(invite.message, invite.flow, refusal.status(), shared);
            self.send(invite.message, invite.flow, bytes, out);
        } else {
            let around = Surroundings {
                shard: self.shard,
                random: &mut self.random,
                ports: &mut self.ports,
                admission: &mut self.admission,
                now,
                shared,
            };
            self.calls.turn_away(invite, refusal.status().code(), around, out);
        }
        for output in out.after(mark) {
            if let Output::Send { flow, bytes } = output {
                self.lingering.insert(repeat, flow, bytes, owner, now.instant);
            }
        }
    }

    /// A phone that registers or asks faster than any does is refused. For one that may go on: whose its answer is, the tenant's alone.
    pub(super) fn admits_registration(
        &mut self,
        phone: &Phone,
        flow: Flow,
        message: &Message<'_>,
        now: Now,
        shared: Shared<'_>,
        out: &mut Outbox,
    ) -> Option<Owner> {
        let is_trusted = shared.settings.is_trusted(flow.peer.ip().to_canonical());
        let owner = admission::owner(phone, is_trusted, shared);
        if !self.admission.registration(&owner, now.instant) {
            self.counts.hurried += 1;
            self.answer(message, flow, Status::SERVICE_UNAVAILABLE, shared, out);
            return None;
        }
        Some(Owner { phone: 0, ..owner })
    }

    /// The same of a request within a call. What ends something, or answers something of ours, always passes.
    pub(super) fn admits_in_dialog(
        &mut self,
        call: Handle,
        flow: Flow,
        message: &Message<'_>,
        now: Now,
        shared: Shared<'_>,
    ) -> bool {
        let asks = !matches!(message.method(), Method::Ack | Method::Bye | Method::Cancel | Method::Prack);
        let is_trusted = || shared.settings.is_trusted(flow.peer.ip().to_canonical());
        let admits = !asks || is_trusted() || self.calls.paces(call, now.instant);
        self.counts.hurried += u64::from(!admits);
        admits
    }
}
