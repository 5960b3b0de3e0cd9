//! How bindings are found when it is not their phone that is asked for: by flow, by source, and by the time to look at them.
//!
//! A phone has one time at which it is looked at, never later than its first binding ends. A refresh leaves it alone: the
//! look comes too early then, and the next is set. So what a phone does most often touches no tree.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::Deserialize;
use serde::Serialize;

use crate::base::hash::HashKey;
use crate::base::time::Instant;
use crate::base::time::Now;
use crate::machine::flow::Flow;
use crate::machine::registrar::Registered;
use crate::machine::registrar::binding::Binding;
use crate::machine::registrar::binding::BindingId;
use crate::machine::registrar::keepalive::KeepAlive;
use crate::machine::source_limit::source_bits;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Indexes {
    pub(super) key: HashKey,
    /// By keyed hash of the flow.
    pub(super) flows: BTreeSet<(u64, u64, BindingId)>,
    /// Live bindings per source.
    pub(super) sources: BTreeMap<u64, u32>,
    /// When to look at which phone.
    pub(super) looks: BTreeSet<(Instant, u64)>,
    pub(super) keepalive: KeepAlive,
    next_id: BindingId,
    bindings: u32,
}

impl Indexes {
    pub(super) fn new(key: HashKey) -> Self {
        Self {
            key,
            flows: BTreeSet::new(),
            sources: BTreeMap::new(),
            looks: BTreeSet::new(),
            keepalive: KeepAlive::new(),
            next_id: 1,
            bindings: 0,
        }
    }

    /// Live bindings.
    pub(super) fn len(&self) -> usize {
        self.bindings as usize
    }

    pub(super) fn take_id(&mut self) -> BindingId {
        let id = self.next_id;
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        id
    }

    /// Adds a binding of the phone with this key.
    pub(super) fn add(&mut self, key: u64, binding: &Binding) {
        self.list(key, binding);
        if binding.behind_nat {
            self.keep_open(key, binding);
        }
    }

    pub(super) fn remove(&mut self, key: u64, binding: &Binding) {
        self.flows.remove(&(self.flow_key(&binding.flow), key, binding.id));
        self.bindings = self.bindings.saturating_sub(1);
        let source = source_bits(binding.flow.peer.ip());
        if let Some(count) = self.sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&source);
            }
        }
    }

    /// A binding takes the place of another of the same phone; over the same flow nothing moves.
    pub(super) fn replace(&mut self, key: u64, old: &Binding, new: &Binding) {
        if old.flow == new.flow && old.id == new.id {
            return;
        }
        self.remove(key, old);
        self.list(key, new);
        if new.behind_nat && !(old.behind_nat && old.id == new.id) {
            self.keep_open(key, new);
        }
    }

    /// Bindings that may have come over this flow: those whose flow has the same hash, each with its phone's key.
    pub(super) fn on_flow(&self, flow: &Flow) -> impl Iterator<Item = (u64, BindingId)> {
        let hash = self.flow_key(flow);
        self.flows.range((hash, 0, 0)..=(hash, u64::MAX, BindingId::MAX)).map(|(_, key, id)| (*key, *id))
    }

    /// Sets the time of the next look at a phone, unless it is looked at before that anyway.
    pub(super) fn look_later(&mut self, key: u64, phone: &mut Registered, now: Now) {
        let due = phone.due(now);
        match phone.look {
            Some(look) if look <= due => return,
            Some(look) => self.looks.remove(&(look, key)),
            None => false,
        };
        phone.look = Some(due);
        self.looks.insert((due, key));
    }

    /// Takes the key of a phone whose time has come; its `look` is over.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<u64> {
        let (_, key) = self.looks.first().copied().filter(|(due, _)| *due <= now)?;
        self.looks.pop_first();
        Some(key)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let look = self.looks.first().map(|(due, _)| *due);
        [look, self.keepalive.next_deadline()].into_iter().flatten().min()
    }

    fn list(&mut self, key: u64, binding: &Binding) {
        self.flows.insert((self.flow_key(&binding.flow), key, binding.id));
        *self.sources.entry(source_bits(binding.flow.peer.ip())).or_insert(0) += 1;
        self.bindings += 1;
    }

    fn keep_open(&mut self, key: u64, binding: &Binding) {
        self.keepalive.insert((key, binding.id), key.wrapping_add(u64::from(binding.id)));
    }

    fn flow_key(&self, flow: &Flow) -> u64 {
        let address = match flow.peer.ip() {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        };
        let connection = flow.connection.map_or([0; 9], |connection| {
            let mut bytes = [1; 9];
            let handle = u64::from(connection.handle.slot) << 32 | u64::from(connection.handle.generation);
            bytes[1..].copy_from_slice(&(handle ^ u64::from(connection.shard.0) << 56).to_be_bytes());
            bytes
        });
        self.key.hash(&[&[flow.listener], &address, &flow.peer.port().to_be_bytes(), &connection])
    }
}
