//! Whether a shard takes something on: the one place that says no because of how much there is already.
//!
//! By class, the last first: registrations, then calls, then what belongs to a call, then emergencies. Bounds are per phone, per tenant
//! and per shard; what is taken is given back when the call that took it ends. Lives once per shard; a phone's calls are all here,
//! those of a tenant are on all shards, and each has its part of the tenant's bound.

mod pace;
mod registrations;
mod share;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

pub use crate::machine::admission::pace::Pace;
pub use crate::machine::admission::pace::Rate;
pub use crate::machine::admission::share::OfPhone;
pub use crate::machine::admission::share::Owner;
pub use crate::machine::admission::share::Shares;
pub use crate::machine::admission::share::Standing;

use crate::base::limit::ACCOUNTS_PER_SHARD_MAX;
use crate::base::limit::CALL_BYTES_PER_PHONE_MAX;
use crate::base::limit::CALL_BYTES_PER_SHARD_MAX;
use crate::base::limit::CALL_BYTES_TYPICAL;
use crate::base::limit::CALLS_PER_SHARD_MAX;
use crate::base::time::Instant;
use crate::machine::Shared;
use crate::machine::admission::registrations::Registrations;
use crate::machine::outbox::Outbox;
use crate::machine::outbox::Output;
use crate::machine::settings::Limits;
use crate::wire::event::Body;
use crate::wire::link::Phone;
use crate::wire::sip::Status;

/// REGISTER, OPTIONS with credentials and the like of one phone: ten contacts on a bad line, and a restart.
pub const REGISTRATIONS: Rate = Rate { per_second: 2, burst: 60 };
/// Requests of one call that ask for something: keys come ten a second where somebody holds one down.
pub const IN_DIALOG: Rate = Rate { per_second: 10, burst: 60 };
/// What may come at once after a pause, in seconds of the rate.
const BURST_SECONDS: u32 = 5;
/// Places for calls that only emergencies get.
const RESERVED_PART: usize = 50;
/// How often a phone's refused calls are told, as one event, and how often an account is looked at.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Places and bytes of a phone's calls.
const PLACES: OfPhone = OfPhone { least: 16, most: u64::MAX };
const BYTES: OfPhone = OfPhone { least: 1 << 20, most: CALL_BYTES_PER_PHONE_MAX };

/// What is asked for; the first are served last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// REGISTER, SUBSCRIBE, and OPTIONS that need a look at the directory.
    Register,
    Invite,
    /// What belongs to a call that was taken on.
    InDialog,
    /// No request is of it yet: there is no route for emergency numbers, and a call that goes nowhere must not pass every bound.
    Emergency,
}

/// Why something was not taken on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The phone has as many calls as it may have at once.
    PhoneCalls,
    /// It begins them too fast.
    PhoneRate,
    TenantCalls,
    TenantRate,
    /// Its share of places or memory is used up; there is some left for others.
    Share,
    /// Nothing is left.
    Full,
}

impl Refusal {
    pub const ALL: [Self; 6] =
        [Self::PhoneCalls, Self::PhoneRate, Self::TenantCalls, Self::TenantRate, Self::Share, Self::Full];

    /// What the caller hears. A phone that is at its own bound hears that the line is busy (486): that is what people know from a line
    /// that is taken, and no phone tries another server for it. After a 503 it does (RFC 3261 §21.5.4), which helps where we or all lines
    /// of its tenant are the reason.
    pub fn status(self) -> Status {
        match self {
            Self::PhoneCalls | Self::PhoneRate => Status::BUSY_HERE,
            Self::TenantCalls | Self::TenantRate | Self::Share | Self::Full => Status::SERVICE_UNAVAILABLE,
        }
    }

    /// One that comes faster than it may leaves no record of its own: they are counted in one event.
    pub fn is_counted(self) -> bool {
        matches!(self, Self::PhoneRate | Self::TenantRate)
    }

    fn name(self) -> &'static str {
        match self {
            Self::PhoneCalls => "calls of the phone",
            Self::PhoneRate => "calls of the phone in a second",
            Self::TenantCalls => "calls of the tenant",
            Self::TenantRate => "calls of the tenant in a second",
            Self::Share => "its share of the node",
            Self::Full => "the node",
        }
    }
}

/// Who asks for a call.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    pub owner: Owner,
    pub tenant: &'a str,
    pub phone: &'a str,
    pub class: Class,
    /// Places that the table of calls has, and those that are taken.
    pub places: usize,
    pub taken: usize,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Admission {
    phones: BTreeMap<u64, Account>,
    tenants: BTreeMap<u64, Account>,
    registrations: Registrations,
    /// When accounts are looked at, in order: is anything to be told, is it needed any more?
    looks: VecDeque<(Instant, Place)>,
    /// Places in the table of calls, until the last repeat of an ended one is over.
    places: Shares,
    /// What calls keep of the messages that they are made of.
    bytes: Shares,
    /// By [`Refusal`], in the order of [`Refusal::ALL`].
    pub refused: [u64; Refusal::ALL.len()],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Place {
    Phone(u64),
    Tenant(u64),
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Account {
    calls: u32,
    pace: Pace,
    untold: Option<Box<Untold>>,
}

/// Refused calls that no event has told of yet.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Untold {
    tenant: String,
    phone: String,
    limit: Refusal,
    count: u64,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            phones: BTreeMap::new(),
            tenants: BTreeMap::new(),
            registrations: Registrations::default(),
            looks: VecDeque::new(),
            places: Shares::new(u64::from(CALLS_PER_SHARD_MAX), PLACES),
            bytes: Shares::new(CALL_BYTES_PER_SHARD_MAX, BYTES),
            refused: [0; Refusal::ALL.len()],
        }
    }
}

impl Admission {
    /// Asks for a new call, and takes a token for it; [`Admission::enter`] takes the rest when there is a call.
    pub fn call(
        &mut self,
        asking: &Asking<'_>,
        now: Instant,
        shared: Shared<'_>,
        out: &mut Outbox,
    ) -> Result<(), Refusal> {
        let verdict = self.judge(asking, now, shared);
        if let Err(refusal) = verdict {
            let place = Refusal::ALL.iter().position(|other| *other == refusal).unwrap_or_default();
            self.refused[place] += 1;
            if refusal.is_counted() {
                self.note(asking, refusal, now, out);
            }
        }
        verdict
    }

    fn judge(&mut self, asking: &Asking<'_>, now: Instant, shared: Shared<'_>) -> Result<(), Refusal> {
        let Asking { owner, class, places, taken, .. } = asking;
        if *class < Class::Emergency && owner.standing != Standing::Trusted {
            self.judge_limits(owner, now, shared)?;
            if !self.places.fits(owner, 1) || !self.bytes.fits(owner, CALL_BYTES_TYPICAL) {
                return Err(Refusal::Share);
            }
        }
        if has_room(*class, *places, *taken) { Ok(()) } else { Err(Refusal::Full) }
    }

    /// Tokens are taken only if all bounds hold.
    fn judge_limits(&mut self, owner: &Owner, now: Instant, shared: Shared<'_>) -> Result<(), Refusal> {
        let limits = &shared.settings.limits;
        let (of_phone, of_tenant) = (phone_rate(limits), tenant_rate(limits, shared.settings.shards));
        let phone = account(&mut self.phones, &mut self.looks, Place::Phone(owner.phone), now);
        if !phone.pace.fits(of_phone, now) {
            return Err(Refusal::PhoneRate);
        }
        let tenant = account(&mut self.tenants, &mut self.looks, Place::Tenant(owner.tenant), now);
        if !tenant.pace.take(of_tenant, now) {
            return Err(Refusal::TenantRate);
        }
        // One that is refused for how many there are takes its token: it has a record.
        phone.pace.take(of_phone, now);
        if limits.phone_calls > 0 && phone.calls >= limits.phone_calls {
            return Err(Refusal::PhoneCalls);
        }
        let most = part(limits.tenant_calls, shared.settings.shards).max(limits.phone_calls.min(limits.tenant_calls));
        if limits.tenant_calls > 0 && tenant.calls >= most {
            return Err(Refusal::TenantCalls);
        }
        Ok(())
    }

    /// The first is told at once, those that follow in one event every while.
    fn note(&mut self, asking: &Asking<'_>, limit: Refusal, now: Instant, out: &mut Outbox) {
        let account = account(&mut self.phones, &mut self.looks, Place::Phone(asking.owner.phone), now);
        match &mut account.untold {
            Some(untold) => untold.count += 1,
            None => {
                let (tenant, phone) = (asking.tenant.to_owned(), asking.phone.to_owned());
                let mut untold = Untold { tenant, phone, limit, count: 1 };
                untold.tell(out);
                account.untold = Some(Box::new(untold));
            }
        }
    }

    /// A phone that has authenticated may register, or ask for something outside of any call.
    pub fn registration(&mut self, owner: &Owner, now: Instant) -> bool {
        owner.standing == Standing::Trusted || self.registrations.take(owner.phone, now)
    }

    /// A call has begun.
    pub fn enter(&mut self, owner: &Owner, now: Instant) {
        account(&mut self.phones, &mut self.looks, Place::Phone(owner.phone), now).calls += 1;
        account(&mut self.tenants, &mut self.looks, Place::Tenant(owner.tenant), now).calls += 1;
        self.places.take(owner, 1);
        self.bytes.take(owner, CALL_BYTES_TYPICAL);
    }

    /// A call that was entered has ended for those who talked, once.
    pub fn hang_up(&mut self, owner: &Owner) {
        for account in [self.phones.get_mut(&owner.phone), self.tenants.get_mut(&owner.tenant)].into_iter().flatten() {
            account.calls = account.calls.saturating_sub(1);
        }
    }

    /// What a call keeps has become more or less.
    pub fn weigh(&mut self, owner: &Owner, before: u64, after: u64) {
        if before != after {
            self.bytes.give_back(owner, before);
            self.bytes.take(owner, after);
        }
    }

    /// The place of a call is free again, once; `bytes` are what it was last weighed at.
    pub fn leave(&mut self, owner: &Owner, bytes: u64) {
        self.places.give_back(owner, 1);
        self.bytes.give_back(owner, bytes);
    }

    pub fn call_bytes(&self) -> u64 {
        self.bytes.used()
    }

    /// Calls of a phone that are up.
    pub fn calls_of(&self, owner: &Owner) -> u32 {
        self.phones.get(&owner.phone).map_or(0, |account| account.calls)
    }

    /// Nobody has a call, a place or bytes.
    pub fn is_idle(&self) -> bool {
        let mut accounts = self.phones.values().chain(self.tenants.values());
        accounts.all(|account| account.calls == 0) && self.places.is_whole() && self.bytes.is_whole()
    }

    pub fn accounts(&self) -> usize {
        self.phones.len() + self.tenants.len()
    }

    pub fn handle_timeout(&mut self, now: Instant, out: &mut Outbox) {
        while let Some((at, place)) = self.looks.front().copied()
            && at <= now
        {
            self.looks.pop_front();
            let (accounts, key) = match place {
                Place::Phone(key) => (&mut self.phones, key),
                Place::Tenant(key) => (&mut self.tenants, key),
            };
            let Some(account) = accounts.get_mut(&key) else { continue };
            match &mut account.untold {
                Some(untold) if untold.count > 0 => untold.tell(out),
                _ => account.untold = None,
            }
            if account.is_idle(now) {
                accounts.remove(&key);
            } else {
                self.looks.push_back((now + TELL_EVERY, place));
            }
        }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.looks.front().map(|(at, _)| *at)
    }
}

impl Account {
    fn is_idle(&self, now: Instant) -> bool {
        self.calls == 0 && self.untold.is_none() && self.pace.is_idle(now)
    }
}

impl Untold {
    fn tell(&mut self, out: &mut Outbox) {
        let count = std::mem::take(&mut self.count);
        let body = Body::CallsRefused { phone: self.phone.clone(), limit: self.limit.name().to_owned(), count };
        out.push(Output::Event { tenant: self.tenant.clone(), call: None, leg: None, body });
    }
}

/// The table of calls has a place for one of this class.
pub fn has_room(class: Class, places: usize, taken: usize) -> bool {
    let reserved = if class < Class::Emergency { places / RESERVED_PART } else { 0 };
    taken + reserved < places
}

/// The phone as one that takes something.
pub fn owner(phone: &Phone, is_trusted: bool, shared: Shared<'_>) -> Owner {
    let secret = &shared.settings.secrets.hash;
    let standing = match shared.directory.tenants_len() {
        _ if is_trusted => Standing::Trusted,
        0 | 1 => Standing::OnlyTenant,
        _ => Standing::OneOfMany,
    };
    let tenant = secret.hash(&[b"tenant", phone.tenant.as_bytes()]);
    Owner { tenant, phone: secret.hash(&[b"phone", phone.tenant.as_bytes(), phone.user.as_bytes()]), standing }
}

/// An account, made where there is none. One that nobody needs makes room: a phone without a call has no more than a used up pace.
fn account<'a>(
    accounts: &'a mut BTreeMap<u64, Account>,
    looks: &mut VecDeque<(Instant, Place)>,
    place: Place,
    now: Instant,
) -> &'a mut Account {
    let (Place::Phone(key) | Place::Tenant(key)) = place;
    if !accounts.contains_key(&key) {
        if accounts.len() >= ACCOUNTS_PER_SHARD_MAX
            && let Some(other) = accounts.iter().find(|(_, account)| account.calls == 0).map(|(key, _)| *key)
        {
            accounts.remove(&other);
        }
        looks.push_back((now + TELL_EVERY, place));
    }
    accounts.entry(key).or_default()
}

fn phone_rate(limits: &Limits) -> Rate {
    let per_second = limits.phone_calls_per_second;
    Rate { per_second, burst: per_second.saturating_mul(BURST_SECONDS) }
}

/// The shard's part of what the tenant may do on all, and at least what one phone of it may.
fn tenant_rate(limits: &Limits, shards: u8) -> Rate {
    let all = limits.tenant_calls_per_second;
    let per_second = part(all, shards).max(limits.phone_calls_per_second.min(all));
    Rate { per_second, burst: per_second.saturating_mul(BURST_SECONDS) }
}

fn part(all: u32, shards: u8) -> u32 {
    all.div_ceil(u32::from(shards.max(1)))
}
