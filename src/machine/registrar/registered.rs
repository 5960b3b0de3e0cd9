//! What is known of one phone: its bindings, and which nonces it used.

use serde::Deserialize;
use serde::Serialize;

use crate::base::time::Instant;
use crate::base::time::Now;
use crate::machine::nonce::NonceUses;
use crate::machine::nonce::Stamp;
use crate::machine::outbox::Live;
use crate::machine::outbox::Outbox;
use crate::machine::outbox::Output;
use crate::machine::registrar::binding::Binding;
use crate::machine::registrar::index::Indexes;
use crate::machine::registrar::on_grid;
use crate::wire::event::Body;
use crate::wire::link::Phone;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Registered {
    pub(super) tenant: Box<str>,
    pub(super) user: Box<str>,
    pub(super) bindings: Vec<Binding>,
    pub(super) nonces: NonceUses,
    /// There is a record of it on disk.
    pub(super) is_stored: bool,
    /// Keyed hash of what it proved to know; 0: not known.
    pub(super) credential: u64,
    /// When it is looked at next; there is an entry of [`Indexes`] for it.
    pub(super) look: Option<Instant>,
}

impl Registered {
    pub(super) fn new(phone: &Phone, nonces_from: Option<Stamp>) -> Self {
        Self {
            tenant: phone.tenant.as_str().into(),
            user: phone.user.as_str().into(),
            bindings: Vec::new(),
            nonces: NonceUses::from_stamp(nonces_from),
            is_stored: false,
            credential: 0,
            look: None,
        }
    }

    /// When it has to be looked at: its first binding ends, or, without one, its nonces can be replayed no more.
    pub(super) fn due(&self, now: Now) -> Instant {
        let first_end = self.bindings.iter().map(|binding| binding.expires).min();
        first_end.unwrap_or_else(|| on_grid(now.instant + self.nonces.matter_until().since(now.unix)))
    }

    /// Nothing of it matters any more.
    pub(super) fn is_idle(&self, now: Now) -> bool {
        self.bindings.is_empty() && self.nonces.matter_until() <= now.unix
    }

    /// Ends the bindings that `is_over` names, and tells those who show them; true if there was one.
    pub(super) fn end_if(
        &mut self,
        key: u64,
        is_over: impl Fn(&Binding) -> bool,
        cause: &str,
        indexes: &mut Indexes,
        out: &mut Outbox,
    ) -> bool {
        let before = self.bindings.len();
        while let Some(at) = self.bindings.iter().position(&is_over) {
            let binding = self.bindings.remove(at);
            indexes.remove(key, &binding);
            self.push_removed(&binding, cause, out);
        }
        self.bindings.len() < before
    }

    pub(super) fn push_removed(&self, binding: &Binding, cause: &str, out: &mut Outbox) {
        let (tenant, user, contact) = (self.tenant.to_string(), self.user.to_string(), binding.contact().to_owned());
        let body = Body::BindingRemoved { phone: user.clone(), contact: contact.clone(), cause: cause.to_owned() };
        out.push(Output::Event { tenant: tenant.clone(), call: None, leg: None, body });
        out.push(Output::Live(Live::RegistrationGone { tenant, user, contact }));
    }

    pub(super) fn push_added(&self, binding: &Binding, out: &mut Outbox) {
        let body = Body::BindingAdded {
            phone: self.user.to_string(),
            contact: binding.contact().to_owned(),
            flow: binding.flow.to_string(),
            user_agent: binding.user_agent().to_owned(),
        };
        out.push(Output::Event { tenant: self.tenant.to_string(), call: None, leg: None, body });
    }
}
