//! Which phones can be reached, and how: bindings per address of record, each with the flow that it came over (RFC 3261 §10).
//!
//! One per shard, for the phones that hash to it. A binding ends with its registration or with its flow; behind a NAT we
//! keep it open. Deadlines lie on a grid of 250 ms, so that many phones cause few wakes. Each change of a phone leaves as
//! an [`Output::Store`], from which [`Registrar::restore`] rebuilds after a restart. GRUU and RFC 5626 flows are not here.

mod binding;
mod compare;
mod date;
mod keepalive;
mod register;
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
use crate::machine::nonce::NonceUses;
use crate::machine::nonce::Replayed;
use crate::machine::nonce::Stamp;
use crate::machine::nonce::Validity;
use crate::machine::outbox::Aor;
use crate::machine::outbox::Bound;
use crate::machine::outbox::Live;
use crate::machine::outbox::Outbox;
use crate::machine::outbox::Output;
use crate::machine::outbox::Target;
use crate::machine::registrar::binding::Binding;
use crate::machine::registrar::binding::BindingId;
use crate::machine::registrar::keepalive::KeepAlive;
use crate::machine::source_limit::Standing;
use crate::machine::source_limit::source_bits;
use crate::wire::event::Body;
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
    key: HashKey,
    /// By keyed hash of tenant and user.
    phones: BTreeMap<u64, Box<Registered>>,
    /// By keyed hash of the flow.
    flows: BTreeSet<(u64, u64, BindingId)>,
    /// Live bindings per source.
    sources: BTreeMap<u64, u32>,
    /// Ends of bindings; with [`NO_BINDING`], of what is kept about a phone without one.
    ends: BTreeSet<(Instant, u64, BindingId)>,
    keepalive: KeepAlive,
    /// Flows that are gone, with bindings left to remove.
    closed: BTreeSet<Flow>,
    next_id: BindingId,
    bindings: u32,
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

/// What is known of one phone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Registered {
    tenant: Box<str>,
    user: Box<str>,
    bindings: Vec<Binding>,
    nonces: NonceUses,
    /// There is a record of it on disk.
    is_stored: bool,
    /// Keyed hash of what it proved to know; 0: not known.
    credential: u64,
}

impl Registered {
    fn take(&mut self, id: BindingId) -> Option<Binding> {
        let index = self.bindings.iter().position(|binding| binding.id == id)?;
        Some(self.bindings.remove(index))
    }
}

const NO_BINDING: BindingId = 0;

impl Registrar {
    pub fn new(key: HashKey) -> Self {
        Self {
            key,
            phones: BTreeMap::new(),
            flows: BTreeSet::new(),
            sources: BTreeMap::new(),
            ends: BTreeSet::new(),
            keepalive: KeepAlive::new(),
            closed: BTreeSet::new(),
            next_id: NO_BINDING + 1,
            bindings: 0,
            nonces_from: None,
            review: None,
            counters: Counters::default(),
        }
    }

    /// Live bindings.
    pub fn len(&self) -> usize {
        self.bindings as usize
    }

    pub fn is_empty(&self) -> bool {
        self.bindings == 0
    }

    /// Entries by which bindings are found: none where there are no bindings.
    pub fn indexes_len(&self) -> usize {
        self.flows.len() + self.sources.len() + self.closed.len()
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
        Some(Bound { aor: aor.clone(), contact: binding.contact().to_owned(), instance: binding.instance().to_owned() })
    }

    /// Records that a phone used a nonce with the right digest.
    pub fn use_nonce(&mut self, phone: &Phone, nonce: Validity, count: u32, now: Now) -> Result<(), Replayed> {
        let key = self.phone_key(&phone.tenant, &phone.user);
        let is_new = !self.phones.contains_key(&key);
        let credential = self.credential(phone);
        let registered = self.registered(key, phone);
        registered.credential = credential;
        let result = registered.nonces.use_once(nonce, count);
        if is_new {
            self.forget_later(key, now);
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

    /// Live bindings that came from this source (IPv6: from its network).
    pub fn bindings_of_source(&self, source: IpAddr) -> u32 {
        self.sources.get(&source_bits(source)).copied().unwrap_or(0)
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
        self.key.hash(&[b"credential", md5, sha256, sha512_256]).max(1)
    }

    pub fn handle_timeout(&mut self, now: Now, directory: &Directory, out: &mut Outbox) {
        self.remove_closed(now, out);
        self.review(now, directory, out);
        for _ in 0..ENDS_PER_STEP_MAX {
            let Some((end, key, id)) = self.ends.first().copied().filter(|(end, ..)| *end <= now.instant) else {
                break;
            };
            self.ends.remove(&(end, key, id));
            match id {
                NO_BINDING => self.forget_idle(key, now),
                id => self.end(key, id, "expired", now, out),
            }
        }
        self.keep_alive(now, out);
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        if !self.closed.is_empty() || self.review.is_some() {
            return Some(Instant::ZERO);
        }
        let end = self.ends.first().map(|(end, ..)| *end);
        [end, self.keepalive.next_deadline()].into_iter().flatten().min()
    }

    fn keep_alive(&mut self, now: Now, out: &mut Outbox) {
        let phones = &self.phones;
        let find = |(key, id): (u64, BindingId)| {
            phones.get(&key)?.bindings.iter().find(|binding| binding.id == id && binding.behind_nat)
        };
        let due = self.keepalive.due(now.instant, KEEPALIVES_PER_STEP_MAX, |key| find(key).is_some());
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
        let hash = self.flow_key(flow);
        let same_hash = self.flows.range((hash, 0, 0)..=(hash, u64::MAX, BindingId::MAX));
        let is_on = |key: u64, id: BindingId| {
            self.phones.get(&key).is_some_and(|phone| phone.bindings.iter().any(|b| b.id == id && b.flow == *flow))
        };
        same_hash.map(|(_, key, id)| (*key, *id)).find(|(key, id)| is_on(*key, *id))
    }

    /// One binding is over: everybody is told, the disk too.
    fn end(&mut self, key: u64, id: BindingId, cause: &str, now: Now, out: &mut Outbox) {
        if self.take(key, id, cause, out) {
            self.push_stored(key, out);
            self.forget_later(key, now);
        }
    }

    /// Takes a binding out of all tables, and tells those who show it.
    fn take(&mut self, key: u64, id: BindingId, cause: &str, out: &mut Outbox) -> bool {
        let Some(phone) = self.phones.get_mut(&key) else { return false };
        let Some(binding) = phone.take(id) else { return false };
        push_removed(phone, &binding, cause, out);
        self.unindex(key, &binding);
        true
    }

    fn index(&mut self, key: u64, binding: &Binding, is_new_in_ring: bool) {
        self.flows.insert((self.flow_key(&binding.flow), key, binding.id));
        *self.sources.entry(source_bits(binding.flow.peer.ip())).or_insert(0) += 1;
        self.ends.insert((binding.expires, key, binding.id));
        self.bindings += 1;
        if binding.behind_nat && is_new_in_ring {
            self.keepalive.insert((key, binding.id), key.wrapping_add(u64::from(binding.id)));
        }
    }

    /// A refresh over the same flow moves nothing but its end.
    fn reindex(&mut self, key: u64, old: &Binding, new: &Binding) {
        if old.flow != new.flow || old.id != new.id {
            self.unindex(key, old);
            self.index(key, new, !(old.behind_nat && new.behind_nat));
        } else if old.expires != new.expires {
            self.ends.remove(&(old.expires, key, old.id));
            self.ends.insert((new.expires, key, new.id));
        }
    }

    fn unindex(&mut self, key: u64, binding: &Binding) {
        self.flows.remove(&(self.flow_key(&binding.flow), key, binding.id));
        self.ends.remove(&(binding.expires, key, binding.id));
        self.bindings = self.bindings.saturating_sub(1);
        let source = source_bits(binding.flow.peer.ip());
        if let Some(count) = self.sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&source);
            }
        }
    }

    /// A phone without bindings is remembered while a nonce of its could be replayed.
    fn forget_later(&mut self, key: u64, now: Now) {
        let Some(phone) = self.phones.get(&key).filter(|phone| phone.bindings.is_empty()) else { return };
        let wait = phone.nonces.matter_until().since(now.unix);
        self.ends.insert((on_grid(now.instant + wait), key, NO_BINDING));
    }

    fn forget_idle(&mut self, key: u64, now: Now) {
        let Some(phone) = self.phones.get(&key).filter(|phone| phone.bindings.is_empty()) else { return };
        if phone.nonces.matter_until() > now.unix {
            self.forget_later(key, now);
        } else {
            self.phones.remove(&key);
        }
    }

    fn registered(&mut self, key: u64, phone: &Phone) -> &mut Registered {
        let nonces_from = self.nonces_from;
        self.phones.entry(key).or_insert_with(|| {
            Box::new(Registered {
                tenant: phone.tenant.as_str().into(),
                user: phone.user.as_str().into(),
                bindings: Vec::new(),
                nonces: NonceUses::from_stamp(nonces_from),
                is_stored: false,
                credential: 0,
            })
        })
    }

    fn take_id(&mut self) -> BindingId {
        let id = self.next_id;
        self.next_id = self.next_id.checked_add(1).unwrap_or(NO_BINDING + 1);
        id
    }

    fn phone_key(&self, tenant: &str, user: &str) -> u64 {
        self.key.hash(&[tenant.as_bytes(), user.as_bytes()])
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

fn push_removed(phone: &Registered, binding: &Binding, cause: &str, out: &mut Outbox) {
    let (tenant, user, contact) = (phone.tenant.to_string(), phone.user.to_string(), binding.contact().to_owned());
    let body = Body::BindingRemoved { phone: user.clone(), contact: contact.clone(), cause: cause.to_owned() };
    out.push(Output::Event { tenant: tenant.clone(), call: None, leg: None, body });
    out.push(Output::Live(Live::RegistrationGone { tenant, user, contact }));
}

fn push_added(phone: &Registered, binding: &Binding, out: &mut Outbox) {
    let body = Body::BindingAdded {
        phone: phone.user.to_string(),
        contact: binding.contact().to_owned(),
        flow: binding.flow.to_string(),
        user_agent: binding.user_agent().to_owned(),
    };
    out.push(Output::Event { tenant: phone.tenant.to_string(), call: None, leg: None, body });
}

fn on_grid(at: Instant) -> Instant {
    let grid = GRID.as_nanos() as u64;
    Instant::from_nanos(at.nanos().div_ceil(grid).saturating_mul(grid))
}
