//! How much a source may fail before we answer it nothing.
//!
//! What comes over UDP may have a forged source until it shows a nonce that we gave to that source. So it costs nobody anything
//! but answers over UDP to sources that prove nothing: a budget of [`answers`], of which phones that come back to where they were
//! ([`known`]) have their own.
//!
//! What cannot be forged is counted as failure, each with a budget that refills with time: over connections, challenges that no
//! valid nonce followed, and garbage (counted where a message is read); wrong credentials (counted where the phone lives, per
//! source and user, per source, and per user for sources that are unknown to it). A source that succeeds earns room: valid nonces
//! for challenges, live bindings for wrong credentials. Where a source is over its limit, a known phone behind it still passes;
//! only strangers wait. Lives once per shard.

mod answers;
mod known;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::hash::HashKey;
use crate::base::limit::SOURCES_PER_SHARD_MAX;
use crate::base::time::Instant;
use crate::machine::Shared;
use crate::machine::directory::address;
use crate::machine::flow::Flow;
use crate::machine::settings::Settings;
use crate::machine::source_limit::answers::Answers;
use crate::machine::source_limit::answers::Asker;
use crate::machine::source_limit::known::Familiar;
use crate::machine::source_limit::known::Known;
pub use crate::machine::source_limit::known::Sighting;
use crate::machine::source_limit::known::of_phone;
use crate::machine::source_limit::known::of_source;
use crate::wire::sip::Message;

/// A budget: what may be spent at once, and how fast it comes back.
struct Budget {
    /// Failures that may stand at once.
    burst: i64,
    /// One failure is forgotten in so long.
    forget: Duration,
}

/// Challenges over connections of one address that nobody answered.
const CHALLENGES: Budget = Budget { burst: 1_000, forget: Duration::from_millis(50) };
/// The same to one port, which counts once the address is over its limit.
const CHALLENGES_OF_PORT: Budget = Budget { burst: 8, forget: Duration::from_secs(5) };
/// Answered challenges an address may have saved up.
const CHALLENGES_EARNED_MAX: i64 = 4_000;
/// Messages over connections that were none.
const GARBAGE: Budget = Budget { burst: 50, forget: Duration::from_secs(1) };
/// Wrong credentials for one user from one address.
const USER: Budget = Budget { burst: 5, forget: Duration::from_secs(30) };
/// Wrong credentials from one address.
const SOURCE: Budget = Budget { burst: 20, forget: Duration::from_secs(5) };
/// Live bindings that earn one more failure for their address.
const BINDINGS_PER_FAILURE: i64 = 10;
/// What strangers behind an address over its limit may still try.
const STRANGERS: Budget = Budget { burst: 4, forget: Duration::from_secs(1) };

/// What a port may try for a user whom others behind its address guess at: the phone itself, started anew.
const NEWCOMER: Budget = Budget { burst: 1, forget: Duration::from_secs(600) };
/// All such ports of one address and user together.
const NEWCOMERS: Budget = Budget { burst: 2, forget: Duration::from_secs(60) };
/// The same where the phone is known at that address.
const NEWCOMERS_AT_HOME: Budget = Budget { burst: 16, forget: Duration::from_secs(30) };

/// Wrong credentials for one user from all addresses that are unknown to it.
const GUESSED: Budget = Budget { burst: 10, forget: Duration::from_secs(30) };
/// No shard's part of it is less: who hides who he is may be dealt to any.
const GUESSED_OF_SHARD_MIN: i64 = 3;
/// What an unknown address may try for a user whom others guess at: the phone itself, somewhere else.
const ARRIVAL: Budget = Budget { burst: 1, forget: Duration::from_secs(600) };
/// All such addresses of one user together.
const ARRIVALS: Budget = Budget { burst: 2, forget: Duration::from_secs(30) };

const BAN_MIN: Duration = Duration::from_secs(2);
const BAN_MAX: Duration = Duration::from_secs(300);
/// A source without failures for so long begins anew.
const STRIKES_FORGOTTEN: Duration = Duration::from_secs(900);
/// Entries looked at when one has to go.
const EVICTION_SAMPLE: usize = 8;
/// Parts of one failure.
const UNIT: i64 = 1_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    /// Over the limit: drop, answer nothing.
    Slow,
}

/// What would be answered to somebody who has proved nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A message that cannot be read.
    Garbage,
    /// A request without a valid nonce.
    Challenge,
    Other,
}

/// Credentials that are to be verified.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    pub source: SocketAddr,
    /// The name in the credentials.
    pub user: &'a [u8],
    /// The phone of that name, whether there is one or not: [`SourceLimit::phone`].
    pub phone: u64,
    pub standing: Standing,
}

/// What is known of a user at the place its request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No live binding from this address.
    Stranger,
    /// A binding of this user came from the same address, now or in the last week.
    SameAddress,
    /// It came over this very flow.
    SameFlow,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SourceLimit {
    accounts: BTreeMap<u64, Account>,
    answers: Answers,
    known: Known,
    pub counters: Counters,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Messages answered with silence because of what their source had done.
    pub slowed: u64,
    /// The same over UDP because there were no answers left for those who prove nothing.
    pub unanswered: u64,
    /// Times that a budget ran out.
    pub bans: u64,
    /// Accounts thrown out of a full table.
    pub evicted: u64,
}

/// Failures of one source, one source and user, or one flow.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Account {
    /// Failures standing at `at`, in parts; below zero is earned room.
    level: i64,
    at: Instant,
    banned_until: Instant,
    strikes: u8,
}

#[derive(Clone, Copy)]
enum Kind {
    Challenges = 1,
    ChallengesOfPort = 2,
    Garbage = 3,
    User = 4,
    UserOfPort = 5,
    Source = 6,
    Strangers = 7,
    Newcomer = 8,
    Newcomers = 9,
    Guessed = 10,
    Arrival = 11,
    Arrivals = 12,
    Port = 13,
    Phone = 14,
}

impl SourceLimit {
    pub fn new() -> Self {
        Self::default()
    }

    /// Accounts of failures.
    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty() && self.answers.is_empty()
    }

    /// Sources whose answers are counted.
    pub fn answered_len(&self) -> usize {
        self.answers.len()
    }

    /// Phones whose addresses are known.
    pub fn known_len(&self) -> usize {
        self.known.len()
    }

    /// Sources and phones forgotten because a table was full.
    pub fn evicted(&self) -> u64 {
        self.counters.evicted + self.answers.evicted + self.known.evicted
    }

    /// A phone has registered from here.
    pub fn registered(&mut self, flow: &Flow, tenant: &str, user: &str, now: Instant, settings: &Settings) {
        if settings.is_trusted(flow.peer.ip()) {
            return;
        }
        let secret = &settings.secrets.hash;
        let sighting = Sighting::new(secret, flow.peer, flow.is_reliable(), of_phone(secret, tenant, user));
        self.known.learn(sighting, settings.shards > 1, now);
    }

    /// Another shard tells of its phones.
    pub fn hear(&mut self, sightings: Vec<Sighting>, now: Instant) {
        for sighting in sightings {
            self.known.hear(sighting, now);
        }
    }

    /// What every other shard is to [`SourceLimit::hear`].
    pub fn tell(&mut self, now: Instant) -> Vec<Vec<Sighting>> {
        self.known.tell(now)
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.known.next_deadline()
    }

    /// Asks to answer a message that shows no nonce which we gave to its source.
    pub fn answer(
        &mut self,
        request: &Message<'_>,
        flow: &Flow,
        ask: Ask,
        now: Instant,
        shared: Shared<'_>,
    ) -> Verdict {
        if shared.settings.is_trusted(flow.peer.ip()) {
            return Verdict::Pass;
        }
        if flow.is_reliable() {
            return match ask {
                Ask::Garbage => self.garbage(flow, now, shared),
                Ask::Challenge => self.challenge(flow.peer, now, shared),
                Ask::Other => Verdict::Pass,
            };
        }
        let secret = &shared.settings.secrets.hash;
        let phone = if self.known.is_empty() { None } else { says_it_is(request, shared) };
        let familiar = phone.map_or(Familiar::No, |phone| self.known.look(secret, flow.peer, phone, now));
        if familiar == Familiar::Flow {
            return Verdict::Pass;
        }
        let phone = phone.filter(|_| familiar == Familiar::Address).map(u64::to_be_bytes);
        let of_source = of_source(secret, flow.peer);
        let asker = Asker {
            address: of_source,
            port: port_key(secret, flow.peer),
            phone: phone.map(|phone| key(shared, Kind::Phone, flow.peer, &phone)),
            phones: self.known.phones_at(of_source),
            is_readable: ask != Ask::Garbage,
        };
        if self.answers.take(asker, shared.settings.shards, now) {
            return Verdict::Pass;
        }
        self.counters.unanswered += 1;
        Verdict::Slow
    }

    /// A message could not be read. `Slow`: not even the answer that it could have is sent.
    pub fn garbage(&mut self, flow: &Flow, now: Instant, shared: Shared<'_>) -> Verdict {
        if !flow.is_reliable() || shared.settings.is_trusted(flow.peer.ip()) {
            return Verdict::Pass;
        }
        let key = key(shared, Kind::Garbage, flow.peer, &[]);
        let verdict = self.spend(key, &GARBAGE, 0, now);
        self.count(verdict)
    }

    /// Asks to challenge a request over a connection that came without a valid nonce.
    fn challenge(&mut self, source: SocketAddr, now: Instant, shared: Shared<'_>) -> Verdict {
        let of_port = key(shared, Kind::ChallengesOfPort, source, &source.port().to_be_bytes());
        let of_port = self.spend(of_port, &CHALLENGES_OF_PORT, 0, now);
        let of_source = self.spend(key(shared, Kind::Challenges, source, &[]), &CHALLENGES, 0, now);
        // An address over its limit may be a whole office with one flooder in it: ports that behave are served.
        let verdict = if of_source == Verdict::Pass { of_source } else { of_port };
        self.count(verdict)
    }

    /// A valid nonce came back: its challenge was no failure, and earns room for one more.
    pub fn answered(&mut self, flow: &Flow, now: Instant, shared: Shared<'_>) {
        let source = flow.peer;
        if self.is_empty() || shared.settings.is_trusted(source.ip()) {
            return;
        }
        if !flow.is_reliable() {
            let of_source = of_source(&shared.settings.secrets.hash, source);
            let phones = self.known.phones_at(of_source);
            return self.answers.give_back(of_source, phones, shared.settings.shards, now);
        }
        let of_port = key(shared, Kind::ChallengesOfPort, source, &source.port().to_be_bytes());
        self.earn(of_port, &CHALLENGES_OF_PORT, now);
        self.earn(key(shared, Kind::Challenges, source, &[]), &CHALLENGES, now);
    }

    /// The phone that credentials name, or the name and realm that nobody has.
    pub fn phone(realm: &str, user: &str, shared: Shared<'_>) -> u64 {
        of_phone(&shared.settings.secrets.hash, realm, user)
    }

    /// How the sender stands to this phone: what its bindings say, or where it was in the last week.
    pub fn standing(
        &self,
        bound: Standing,
        source: SocketAddr,
        phone: u64,
        now: Instant,
        shared: Shared<'_>,
    ) -> Standing {
        let is_known = || self.known.look(&shared.settings.secrets.hash, source, phone, now) != Familiar::No;
        if bound == Standing::Stranger && is_known() { Standing::SameAddress } else { bound }
    }

    /// Asks to verify the credentials of a user; nothing is computed for `Slow`.
    pub fn attempt(&mut self, attempt: Attempt<'_>, now: Instant, shared: Shared<'_>) -> Verdict {
        let Attempt { source, user, standing, .. } = attempt;
        if self.accounts.is_empty() || shared.settings.is_trusted(source.ip()) {
            return Verdict::Pass;
        }
        let mut verdict = if self.is_banned(user_key(shared, source, user, standing), now) {
            self.newcomer(source, user, standing, now, shared)
        } else if standing != Standing::Stranger || !self.is_banned(key(shared, Kind::Source, source, &[]), now) {
            Verdict::Pass
        } else {
            self.spend(key(shared, Kind::Strangers, source, &[]), &STRANGERS, 0, now)
        };
        let is_guessed =
            || standing == Standing::Stranger && self.is_banned(whose_key(shared, Kind::Guessed, attempt.phone), now);
        if verdict == Verdict::Pass && is_guessed() {
            verdict = self.arrival(source, attempt.phone, now, shared);
        }
        self.count(verdict)
    }

    /// A user is being guessed at from many addresses: one that has not tried yet may.
    fn arrival(&mut self, source: SocketAddr, phone: u64, now: Instant, shared: Shared<'_>) -> Verdict {
        if self.spend(key(shared, Kind::Arrival, source, &phone.to_be_bytes()), &ARRIVAL, 0, now) == Verdict::Slow {
            return Verdict::Slow;
        }
        self.spend(whose_key(shared, Kind::Arrivals, phone), &ARRIVALS, 0, now)
    }

    /// A user is being guessed at from this address: a port that has not tried yet may.
    fn newcomer(
        &mut self,
        source: SocketAddr,
        user: &[u8],
        standing: Standing,
        now: Instant,
        shared: Shared<'_>,
    ) -> Verdict {
        if standing == Standing::SameFlow {
            return Verdict::Slow;
        }
        let secret = &shared.settings.secrets.hash;
        let port = key_of(secret, Kind::Newcomer, source, &[&source.port().to_be_bytes(), user]);
        if self.spend(port, &NEWCOMER, 0, now) == Verdict::Slow {
            return Verdict::Slow;
        }
        let is_at_home = standing == Standing::SameAddress;
        let budget = if is_at_home { &NEWCOMERS_AT_HOME } else { &NEWCOMERS };
        self.spend(key_of(secret, Kind::Newcomers, source, &[user, &[u8::from(is_at_home)]]), budget, 0, now)
    }

    /// The credentials were wrong. `bindings`: live ones from this address.
    pub fn failed(&mut self, attempt: Attempt<'_>, bindings: u32, now: Instant, shared: Shared<'_>) {
        let Attempt { source, user, standing, .. } = attempt;
        if shared.settings.is_trusted(source.ip()) {
            return;
        }
        self.spend(user_key(shared, source, user, standing), &USER, 0, now);
        let earned = i64::from(bindings) / BINDINGS_PER_FAILURE;
        self.spend(key(shared, Kind::Source, source, &[]), &SOURCE, earned, now);
        if standing == Standing::Stranger {
            let share = (GUESSED.burst / i64::from(shared.settings.shards.max(1))).max(GUESSED_OF_SHARD_MIN);
            self.spend(whose_key(shared, Kind::Guessed, attempt.phone), &GUESSED, share - GUESSED.burst, now);
        }
    }

    /// The credentials were right. What others behind the address guessed for this user stays counted.
    pub fn succeeded(&mut self, source: SocketAddr, user: &[u8], standing: Standing, shared: Shared<'_>) {
        if standing == Standing::SameFlow && !self.accounts.is_empty() {
            self.accounts.remove(&user_key(shared, source, user, standing));
        }
    }

    fn count(&mut self, verdict: Verdict) -> Verdict {
        self.counters.slowed += u64::from(verdict == Verdict::Slow);
        verdict
    }

    fn is_banned(&self, key: u64, now: Instant) -> bool {
        self.accounts.get(&key).is_some_and(|account| account.banned_until > now)
    }

    /// Takes one failure out of a budget; `Slow` while and as soon as it is overdrawn.
    fn spend(&mut self, key: u64, budget: &Budget, earned: i64, now: Instant) -> Verdict {
        let account = self.account(key, now);
        if account.banned_until > now {
            return Verdict::Slow;
        }
        account.refill(budget, now);
        account.level += UNIT;
        if account.level <= (budget.burst + earned) * UNIT {
            return Verdict::Pass;
        }
        account.ban(now);
        self.counters.bans += 1;
        Verdict::Slow
    }

    /// Only who was challenged has an account: phones that go on with their nonce leave no trace here.
    fn earn(&mut self, key: u64, budget: &Budget, now: Instant) {
        let Some(account) = self.accounts.get_mut(&key) else { return };
        account.refill(budget, now);
        account.level = (account.level - 2 * UNIT).max(-CHALLENGES_EARNED_MAX * UNIT);
        if account.level < budget.burst * UNIT / 2 {
            account.banned_until = Instant::ZERO;
            account.strikes = 0;
        }
    }

    fn account(&mut self, key: u64, now: Instant) -> &mut Account {
        if self.accounts.len() >= SOURCES_PER_SHARD_MAX && !self.accounts.contains_key(&key) {
            self.evict(key);
        }
        self.accounts.entry(key).or_insert(Account { level: 0, at: now, banned_until: Instant::ZERO, strikes: 0 })
    }

    /// Keys are keyed hashes: the neighbours of a new one are a fair sample that nobody can choose.
    fn evict(&mut self, near: u64) {
        let neighbours = self.accounts.range(near..).chain(self.accounts.range(..near)).take(EVICTION_SAMPLE);
        let least = neighbours.min_by_key(|(_, account)| (account.banned_until, account.at)).map(|(key, _)| *key);
        if let Some(key) = least {
            self.accounts.remove(&key);
            self.counters.evicted += 1;
        }
    }
}

impl Account {
    fn refill(&mut self, budget: &Budget, now: Instant) {
        let idle = now.since(self.at);
        self.at = self.at.max(now);
        if idle > STRIKES_FORGOTTEN {
            self.strikes = 0;
        }
        // Earned room stays; only what was failed is forgotten.
        if self.level > 0 {
            let forgotten = idle.as_nanos().saturating_mul(UNIT as u128) / budget.forget.as_nanos().max(1);
            self.level = self.level.saturating_sub(i64::try_from(forgotten).unwrap_or(i64::MAX)).max(0);
        }
    }

    fn ban(&mut self, now: Instant) {
        let ban = BAN_MIN.saturating_mul(1 << self.strikes.min(16)).min(BAN_MAX);
        self.strikes = self.strikes.saturating_add(1);
        self.banned_until = now + ban;
        // The next failure after the ban bans again, and longer; nothing is forgotten while it lasts.
        self.at = self.banned_until;
        self.level -= UNIT;
    }
}

fn user_key(shared: Shared<'_>, source: SocketAddr, user: &[u8], standing: Standing) -> u64 {
    match standing {
        // A guesser on another port of the same address cannot lock out the phone on its own flow.
        Standing::SameFlow => {
            key_of(&shared.settings.secrets.hash, Kind::UserOfPort, source, &[&source.port().to_be_bytes(), user])
        }
        Standing::Stranger | Standing::SameAddress => {
            key_of(&shared.settings.secrets.hash, Kind::User, source, &[user])
        }
    }
}

/// The phone that a request says it is from, whether there is one of that name or not.
fn says_it_is(request: &Message<'_>, shared: Shared<'_>) -> Option<u64> {
    let uri = request.sender_uri().ok()?.sip()?;
    let tenant = address::tenant_of_host(shared, uri.host)?;
    let user = address::user_of(shared, tenant, uri)?;
    Some(of_phone(&shared.settings.secrets.hash, &tenant.name, &user))
}

/// A port is that of one address, of IPv6 too.
fn port_key(secret: &HashKey, source: SocketAddr) -> u64 {
    let address = match source.ip() {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    key_of(secret, Kind::Port, source, &[&address, &source.port().to_be_bytes()])
}

/// Of a phone, wherever its requests come from.
fn whose_key(shared: Shared<'_>, kind: Kind, phone: u64) -> u64 {
    shared.settings.secrets.hash.hash(&[&[kind as u8], &phone.to_be_bytes()])
}

fn key(shared: Shared<'_>, kind: Kind, source: SocketAddr, more: &[u8]) -> u64 {
    key_of(&shared.settings.secrets.hash, kind, source, &[more])
}

fn key_of(secret: &HashKey, kind: Kind, source: SocketAddr, more: &[&[u8]]) -> u64 {
    let address = source_bits(source.ip()).to_be_bytes();
    let kind = [kind as u8];
    match more {
        [one] => secret.hash(&[&kind, &address, one]),
        [one, two, ..] => secret.hash(&[&kind, &address, one, two]),
        [] => secret.hash(&[&kind, &address]),
    }
}

/// What counts as one source: an IPv4 address, or an IPv6 network of 64 bits.
pub fn source_bits(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
    }
}
