//! Which phones can be reached, and how: bindings per address of record, each with the flow that it came over (RFC 3261 §10).
//!
//! One per shard, for the phones that hash to it. A binding ends with its registration or with its flow; behind a NAT we
//! keep it open. Deadlines lie on a grid of 250 ms, so that many phones cause few wakes. Each change of a phone leaves as
//! an [`Output::Store`], from which [`Registrar::restore`] rebuilds after a restart. GRUU and RFC 5626 flows are not here.

mod binding;
mod compare;
mod date;
mod index;
mod keepalive;
mod register;
mod registered;
mod stored;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::hash::HashKey;
use crate::base::time::Instant;
use crate::base::time::Now;
use crate::machine::directory::Directory;
use crate::machine::flow::Flow;
use crate::machine::nonce::Replayed;
use crate::machine::nonce::Stamp;
use crate::machine::nonce::Validity;
use crate::machine::outbox::Aor;
use crate::machine::outbox::Bound;
use crate::machine::outbox::Outbox;
use crate::machine::outbox::Target;
use crate::machine::registrar::binding::Binding;
use crate::machine::registrar::binding::BindingId;
use crate::machine::registrar::index::Indexes;
use crate::machine::registrar::registered::Registered;
use crate::machine::source_limit::Standing;
use crate::machine::source_limit::source_bits;
use crate::wire::link::Ha1;
use crate::wire::link::Phone;
use crate::wire::link::Registration;

pub use stored::aor_of_key;

/// Deadlines are rounded up to this.
const GRID: Duration = Duration::from_millis(250);
/// Bindings that end in one step; the rest follow in the next.
const ENDS_PER_STEP_MAX: usize = 128;
const KEEPALIVES_PER_STEP_MAX: usize = 256;
/// Phones compared with a new directory in one step.
const REVIEWED_PER_STEP_MAX: usize = 256;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Registrar {
    /// By keyed hash of tenant and user.
    phones: BTreeMap<u64, Box<Registered>>,
    indexes: Indexes,
    /// Flows that are gone, with bindings left to remove.
    closed: BTreeSet<Flow>,
    /// Uses of older nonces are not known.
    nonces_from: Option<Stamp>,
    review: Option<Review>,
    pub counters: Counters,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    pub registers: u64,
    pub refused: u64,
    pub keepalives: u64,
    /// Oldest bindings of phones that had too many.
    pub evicted: u64,
    /// Registrations refused because the shard had too many.
    pub full: u64,
}

/// Phones are being compared with a directory that changed, in the order of their keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Review {
    next: u64,
    /// The directory changed on the way: once more from the begin.
    again: bool,
}

impl Registrar {
    pub fn new(key: HashKey) -> Self {
        Self {
            phones: BTreeMap::new(),
            indexes: Indexes::new(key),
            closed: BTreeSet::new(),
            nonces_from: None,
            review: None,
            counters: Counters::default(),
        }
    }

    /// Live bindings.
    pub fn len(&self) -> usize {
        self.indexes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.indexes.len() == 0
    }

    /// Entries by which bindings are found: none where there are no bindings.
    pub fn indexes_len(&self) -> usize {
        self.indexes.flows.len() + self.indexes.sources.len() + self.closed.len()
    }

    /// Where these addresses of record can be reached, the preferred first.
    pub fn locate(&self, aors: &[Aor]) -> Vec<Target> {
        let mut targets = Vec::new();
        for aor in aors {
            let Some(phone) = self.phones.get(&self.phone_key(&aor.tenant, &aor.user)) else { continue };
            let reachable = phone.bindings.iter().filter(|binding| !self.closed.contains(&binding.flow));
            targets.extend(reachable.map(|binding| binding.target(aor.clone())));
        }
        targets.sort_by_key(|target| std::cmp::Reverse(target.q));
        targets
    }

    /// The binding that a phone's request belongs to: the one that registered over the same flow.
    pub fn bound(&self, aor: &Aor, flow: &Flow) -> Option<Bound> {
        let phone = self.phones.get(&self.phone_key(&aor.tenant, &aor.user))?;
        let binding = phone.bindings.iter().find(|binding| binding.flow == *flow)?;
        Some(Bound { aor: aor.clone(), contact: binding.request_uri(), instance: binding.instance().to_owned() })
    }

    /// Records that a phone used a nonce with the right digest.
    pub fn use_nonce(&mut self, phone: &Phone, nonce: Validity, count: u32, now: Now) -> Result<(), Replayed> {
        let key = self.phone_key(&phone.tenant, &phone.user);
        let credential = self.credential(phone);
        let (registered, indexes) = self.registered(key, phone);
        registered.credential = credential;
        let result = registered.nonces.use_once(nonce, count);
        if registered.look.is_none() {
            indexes.look_later(key, registered, now);
        }
        result
    }

    /// How well the sender is known: a live binding of this user from its address, or over its flow.
    pub fn standing(&self, tenant: &str, user: &str, flow: &Flow) -> Standing {
        let bindings = self.phones.get(&self.phone_key(tenant, user)).map_or(&[][..], |phone| &phone.bindings);
        let address = flow.peer.ip().to_canonical();
        if bindings.iter().any(|binding| binding.flow == *flow) {
            Standing::SameFlow
        } else if bindings.iter().any(|binding| binding.flow.peer.ip().to_canonical() == address) {
            Standing::SameAddress
        } else {
            Standing::Stranger
        }
    }

    /// All live bindings: tenant, user and the flow that requests take.
    pub fn flows(&self) -> impl Iterator<Item = (&str, &str, &Flow)> {
        let phones = self.phones.values();
        phones.flat_map(|phone| phone.bindings.iter().map(|binding| (&*phone.tenant, &*phone.user, &binding.flow)))
    }

    /// Live bindings that came from this source (IPv6: from its network).
    pub fn bindings_of_source(&self, source: IpAddr) -> u32 {
        self.indexes.sources.get(&source_bits(source)).copied().unwrap_or(0)
    }

    /// A page of all registrations, for whoever connects anew; `after` is what the last page returned.
    pub fn registrations(&self, after: Option<u64>, phones_max: usize) -> (Vec<Registration>, Option<u64>) {
        let start = after.map_or(0, |key| key.saturating_add(1));
        let mut page = Vec::new();
        let mut last = None;
        for (count, (key, phone)) in self.phones.range(start..).enumerate() {
            if count == phones_max {
                return (page, last);
            }
            page.extend(phone.bindings.iter().map(|binding| binding.registration(&phone.tenant, &phone.user)));
            last = Some(*key);
        }
        (page, None)
    }

    /// A connection ended, or a UDP flow is known to be dead: nothing on it can be reached.
    pub fn flow_closed(&mut self, flow: &Flow, now: Now, out: &mut Outbox) {
        if self.binding_on(flow).is_some() {
            self.closed.insert(*flow);
            self.remove_closed(now, out);
        }
    }

    /// All connections ended: another process has taken over, which has the state and the UDP sockets but not them.
    pub fn connections_lost(&mut self, now: Now, out: &mut Outbox) {
        let flows = self.phones.values().flat_map(|phone| &phone.bindings).map(|binding| binding.flow);
        self.closed.extend(flows.filter(Flow::is_reliable));
        self.remove_closed(now, out);
    }

    /// Phones may be gone, or have other passwords: the next steps look, some phones each.
    pub fn directory_changed(&mut self) {
        self.review = match self.review {
            Some(review) if review.next > 0 => Some(Review { again: true, ..review }),
            _ => Some(Review { next: 0, again: false }),
        };
    }

    /// Bindings of phones that the directory no longer has, or that registered with a password that holds no more, end.
    fn review(&mut self, now: Now, directory: &Directory, out: &mut Outbox) {
        // Without any directory nothing is known against anybody.
        if directory.version() == 0 {
            self.review = None;
        }
        let mut ended = 0;
        for _ in 0..REVIEWED_PER_STEP_MAX {
            let Some(review) = self.review.filter(|_| ended < ENDS_PER_STEP_MAX) else { return };
            let Some((key, phone)) = self.phones.range(review.next..).next() else {
                self.review = review.again.then_some(Review { next: 0, again: false });
                continue;
            };
            let key = *key;
            self.review = key.checked_add(1).map(|next| Review { next, ..review });
            let known = directory.phone(&phone.tenant, &phone.user);
            let cause = match known.map(|known| self.credential(known)) {
                None => "phone removed",
                Some(credential) if phone.credential != 0 && phone.credential != credential => "password changed",
                Some(_) => continue,
            };
            let ids: Vec<BindingId> = phone.bindings.iter().map(|binding| binding.id).collect();
            ended += ids.len();
            for id in ids {
                self.end(key, id, cause, now, out);
            }
        }
    }

    fn credential(&self, phone: &Phone) -> u64 {
        let Ha1 { md5, sha256, sha512_256 } = &phone.ha1;
        let md5 = md5.as_ref().map_or(&[][..], |ha1| ha1);
        let sha256 = sha256.as_ref().map_or(&[][..], |ha1| ha1);
        let sha512_256 = sha512_256.as_ref().map_or(&[][..], |ha1| ha1);
        self.indexes.key.hash(&[b"credential", md5, sha256, sha512_256]).max(1)
    }

    pub fn handle_timeout(&mut self, now: Now, directory: &Directory, out: &mut Outbox) {
        self.remove_closed(now, out);
        self.review(now, directory, out);
        for _ in 0..ENDS_PER_STEP_MAX {
            let Some(key) = self.indexes.take_due(now.instant) else { break };
            self.look_at(key, now, out);
        }
        self.keep_alive(now, out);
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        if !self.closed.is_empty() || self.review.is_some() {
            return Some(Instant::ZERO);
        }
        self.indexes.next_deadline()
    }

    fn keep_alive(&mut self, now: Now, out: &mut Outbox) {
        let phones = &self.phones;
        let find = |(key, id): (u64, BindingId)| {
            phones.get(&key)?.bindings.iter().find(|binding| binding.id == id && binding.behind_nat)
        };
        let due = self.indexes.keepalive.due(now.instant, KEEPALIVES_PER_STEP_MAX, |key| find(key).is_some());
        for binding in due.into_iter().filter_map(find) {
            out.send(binding.flow, keepalive::DATAGRAM.to_vec());
            self.counters.keepalives += 1;
        }
    }

    fn remove_closed(&mut self, now: Now, out: &mut Outbox) {
        for _ in 0..ENDS_PER_STEP_MAX {
            let Some(flow) = self.closed.last().copied() else { return };
            match self.binding_on(&flow) {
                Some((key, id)) => self.end(key, id, "flow closed", now, out),
                None => {
                    self.closed.remove(&flow);
                }
            }
        }
    }

    fn binding_on(&self, flow: &Flow) -> Option<(u64, BindingId)> {
        let is_on = |key: u64, id: BindingId| {
            self.phones.get(&key).is_some_and(|phone| phone.bindings.iter().any(|b| b.id == id && b.flow == *flow))
        };
        self.indexes.on_flow(flow).find(|(key, id)| is_on(*key, *id))
    }

    /// Its time has come: what ended ends, and a phone of which nothing matters any more is forgotten.
    fn look_at(&mut self, key: u64, now: Now, out: &mut Outbox) {
        let Self { phones, indexes, .. } = self;
        let Some(phone) = phones.get_mut(&key) else { return };
        phone.look = None;
        if phone.is_idle(now) {
            phones.remove(&key);
            return;
        }
        let is_over = |binding: &Binding| binding.expires <= now.instant;
        if phone.end_if(key, is_over, "expired", indexes, out) {
            phone.push_stored(out);
        }
        indexes.look_later(key, phone, now);
    }

    /// One binding is over: everybody is told, the disk too.
    fn end(&mut self, key: u64, id: BindingId, cause: &str, now: Now, out: &mut Outbox) {
        let Self { phones, indexes, .. } = self;
        let Some(phone) = phones.get_mut(&key) else { return };
        if phone.end_if(key, |binding| binding.id == id, cause, indexes, out) {
            phone.push_stored(out);
            indexes.look_later(key, phone, now);
        }
    }

    /// What is known of a phone, and the tables that its bindings are in.
    fn registered(&mut self, key: u64, phone: &Phone) -> (&mut Registered, &mut Indexes) {
        let Self { phones, indexes, nonces_from, .. } = self;
        let registered = phones.entry(key).or_insert_with(|| Box::new(Registered::new(phone, *nonces_from)));
        (registered, indexes)
    }

    fn phone_key(&self, tenant: &str, user: &str) -> u64 {
        self.indexes.key.hash(&[tenant.as_bytes(), user.as_bytes()])
    }
}

fn on_grid(at: Instant) -> Instant {
    let grid = GRID.as_nanos() as u64;
    Instant::from_nanos(at.nanos().div_ceil(grid).saturating_mul(grid))
}
