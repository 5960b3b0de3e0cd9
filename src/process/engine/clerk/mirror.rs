//! What is up at present, as the API shows it: kept from the shards' changes, for snapshots and questions.

use std::collections::BTreeMap;

use crate::base::id::CallId;
use crate::base::time::UnixTime;
use crate::machine::outbox::Live;
use crate::wire::link::FromEngine;
use crate::wire::link::LiveCall;
use crate::wire::link::Registration;

#[derive(Debug, Default)]
pub struct Mirror {
    calls: BTreeMap<CallId, LiveCall>,
    /// By tenant, user and contact.
    registrations: BTreeMap<(String, String, String), Registration>,
}

impl Mirror {
    /// Takes a change in, and says it the way side wants it.
    pub fn take(&mut self, live: Live) -> FromEngine {
        match live {
            Live::Registered(registration) => {
                let key = (registration.tenant.clone(), registration.user.clone(), registration.contact.clone());
                self.registrations.insert(key, registration.clone());
                FromEngine::Registration(registration)
            }
            Live::RegistrationGone { tenant, user, contact } => {
                let key = (tenant, user, contact);
                self.registrations.remove(&key);
                FromEngine::RegistrationGone { tenant: key.0, user: key.1, contact: key.2 }
            }
            Live::Call(call) => {
                self.calls.insert(call.call, call.clone());
                FromEngine::Call(call)
            }
            Live::CallGone(call) => {
                self.calls.remove(&call);
                FromEngine::CallGone { call }
            }
        }
    }

    pub fn call(&self, call: CallId) -> Option<&LiveCall> {
        self.calls.get(&call)
    }

    pub fn calls(&self) -> impl Iterator<Item = &LiveCall> {
        self.calls.values()
    }

    pub fn calls_len(&self) -> usize {
        self.calls.len()
    }

    /// Contacts that are registered now.
    pub fn registrations(&self, now: UnixTime) -> usize {
        self.registrations.values().filter(|registration| registration.expires_at > now).count()
    }

    /// All of it, for a side that has just connected.
    pub fn snapshot(&self) -> impl Iterator<Item = FromEngine> + '_ {
        let registrations = self.registrations.values().cloned().map(FromEngine::Registration);
        registrations.chain(self.calls.values().cloned().map(FromEngine::Call))
    }
}
