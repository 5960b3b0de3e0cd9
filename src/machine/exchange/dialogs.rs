//! Requests within dialogs of ours: whether they come from the phone whose dialog it is.
//!
//! Tags are no secret: every proxy and whoever listens on the way reads them. A request that comes another way than the
//! dialog's has to come over a flow that its phone is registered over, or carry its credential.

use crate::base::id::ShardId;
use crate::base::time::Now;
use crate::machine::Shared;
use crate::machine::call::Sender;
use crate::machine::call::input::CallInput;
use crate::machine::exchange::Exchange;
use crate::machine::exchange::owner;
use crate::machine::exchange::repeat_key;
use crate::machine::exchange::screen;
use crate::machine::exchange::way_to_sender;
use crate::machine::flow::Flow;
use crate::machine::locator::Locator;
use crate::machine::outbox::Aor;
use crate::machine::outbox::Mesh;
use crate::machine::outbox::Outbox;
use crate::machine::outbox::Output;
use crate::machine::source_limit::Ask;
use crate::machine::source_limit::Standing;
use crate::wire::sip::HeaderId;
use crate::wire::sip::Message;
use crate::wire::sip::Method;
use crate::wire::sip::Scan;
use crate::wire::sip::Status;
use crate::wire::sip::scan;

/// The shard of the phone, where its bindings are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Nobody,
    /// It has a binding on the flow, or has not.
    Home {
        is_bound: bool,
    },
}

impl Exchange {
    #[expect(
        clippy::too_many_arguments,
        reason = "a request, what is known of its way, and what every machine is given"
    )]
    pub(super) fn on_dialog_request(
        &mut self,
        place: Locator,
        flow: Flow,
        message: &Message<'_>,
        asked: Asked,
        now: Now,
        shared: Shared<'_>,
        out: &mut Outbox,
    ) {
        if place.shard != self.shard {
            self.pass_on(place.shard, flow, message, out);
            return;
        }
        if self.repeat_answer(message, repeat_key(flow, message, shared), flow, out) {
            return;
        }
        let Some(call) = self.calls.get(place.call) else {
            return self.answer_stranger(message, flow, Status::CALL_DOES_NOT_EXIST, now, shared, out);
        };
        let has_dialog = message.method() == Method::Ack || call.has_dialog(message);
        let sender = call.sender(message, flow);
        if let Some(sender) = sender.filter(|sender| !sender.is_there)
            && !self.is_from_phone(&sender, flow, message, asked, now, shared, out)
        {
            return;
        }
        if let Err(refusal) = screen::check_in_dialog(message) {
            return self.refuse_stranger(message, flow, &refusal, now, shared, out);
        }
        // Whoever guesses a place has none of its dialogs: the call says so, to as many as any stranger gets.
        if !has_dialog && !self.may_answer(message, flow, Ask::Other, now, shared) {
            return;
        }
        if !self.admits_in_dialog(place.call, flow, message, now, shared) {
            return self.answer(message, flow, Status::SERVICE_UNAVAILABLE, shared, out);
        }
        self.on_call(place.call, CallInput::Request { message, flow: flow.answer(message) }, now, shared, out);
    }

    /// A request that came another way than the dialog's: true if its phone sent it. If not, it has been dealt with.
    #[expect(
        clippy::too_many_arguments,
        reason = "a request, what is known of its way, and what every machine is given"
    )]
    fn is_from_phone(
        &mut self,
        sender: &Sender,
        flow: Flow,
        message: &Message<'_>,
        asked: Asked,
        now: Now,
        shared: Shared<'_>,
        out: &mut Outbox,
    ) -> bool {
        let Sender { phone: aor, is_near, .. } = sender;
        let (is_ack, is_cancel) = (message.method() == Method::Ack, message.method() == Method::Cancel);
        // RFC 3261 §22.1: an ACK "MUST NOT" be challenged; the one of a 401 comes here too.
        if is_ack && *is_near || self.is_bound(aor, flow, message) || asked == (Asked::Home { is_bound: true }) {
            return true;
        }
        let home = owner::shard_of(aor, shared);
        let has_credential = message.has(HeaderId::Authorization);
        if !has_credential && asked == Asked::Nobody && home != self.shard {
            let (aor, bytes) = (aor.clone(), message.bytes().to_vec());
            out.push(Output::Mesh { to: home, message: Mesh::Vouch { aor, flow, bytes } });
            return false;
        }
        self.counts.elsewhere += 1;
        match shared.directory.phone(&aor.tenant, &aor.user) {
            // A CANCEL finds its INVITE by the source of both.
            _ if is_ack || is_cancel => is_cancel,
            Some(phone) => self.gate(now, shared).admit_in_dialog(message, phone, flow, out),
            // The phone has been taken out of the directory, and talks to the end of its call from where it is.
            None => {
                self.answer(message, flow, Status::FORBIDDEN, shared, out);
                false
            }
        }
    }

    /// The phone is registered over the flow.
    fn is_bound(&self, aor: &Aor, flow: Flow, message: &Message<'_>) -> bool {
        let ways = [flow, flow.answer(message), way_to_sender(message, flow)];
        ways.iter().any(|way| self.registrar.standing(&aor.tenant, &aor.user, way) == Standing::SameFlow)
    }

    pub(super) fn on_vouch(&mut self, from: ShardId, aor: &Aor, flow: Flow, bytes: Vec<u8>, out: &mut Outbox) {
        let Scan::Ok(message) = scan(&bytes, flow.transport()) else { return };
        let is_bound = self.is_bound(aor, flow, &message);
        out.push(Output::Mesh { to: from, message: Mesh::Vouched { flow, bytes, is_bound } });
    }

    pub(super) fn on_vouched(
        &mut self,
        flow: Flow,
        bytes: &[u8],
        is_bound: bool,
        now: Now,
        shared: Shared<'_>,
        out: &mut Outbox,
    ) {
        let Scan::Ok(message) = scan(bytes, flow.transport()) else { return };
        if let Some(place) = owner::of_dialog(&message) {
            self.on_dialog_request(place, flow, &message, Asked::Home { is_bound }, now, shared, out);
        }
    }
}
