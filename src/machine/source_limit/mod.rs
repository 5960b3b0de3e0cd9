//! How much a source may fail before we answer it nothing: failures are counted, not traffic.
//!
//! Three ways to fail, each with a budget that refills with time: challenges that no valid nonce followed and garbage
//! (counted where a message is read), wrong credentials (counted where the phone lives, per source and user and per source).
//! A source that succeeds earns room: valid nonces for challenges, live bindings for wrong credentials. Where a source
//! is over its limit, a known phone behind it still passes; only strangers wait. Lives once per shard.

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

/// A budget: what may be spent at once, and how fast it comes back.
struct Budget {
    /// Failures that may stand at once.
    burst: i64,
    /// One failure is forgotten in so long.
    forget: Duration,
}

/// Challenges to one address that nobody answered.
const CHALLENGES: Budget = Budget { burst: 1_000, forget: Duration::from_millis(50) };
/// The same to one port, which counts once the address is over its limit.
const CHALLENGES_OF_PORT: Budget = Budget { burst: 8, forget: Duration::from_secs(5) };
/// Answered challenges an address may have saved up.
const CHALLENGES_EARNED_MAX: i64 = 4_000;
/// Messages that were none.
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

/// What is known of a user at the place its request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No live binding from this address.
    Stranger,
    /// A live binding of this user came from the same address.
    SameAddress,
    /// It came over this very flow.
    SameFlow,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SourceLimit {
    accounts: BTreeMap<u64, Account>,
    pub counters: Counters,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Messages answered with silence.
    pub slowed: u64,
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
}

impl SourceLimit {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    /// A message could not be read. `Slow`: not even the answer that it could have is sent.
    pub fn garbage(&mut self, source: SocketAddr, now: Instant, shared: Shared<'_>) -> Verdict {
        if shared.settings.is_trusted(source.ip()) {
            return Verdict::Pass;
        }
        let key = key(shared, Kind::Garbage, source, &[]);
        let verdict = self.spend(key, &GARBAGE, 0, now);
        self.count(verdict)
    }

    /// A source of garbage that never answered a challenge: its messages need not even be read.
    pub fn is_shut(&self, source: SocketAddr, now: Instant, shared: Shared<'_>) -> bool {
        if self.accounts.is_empty() || !self.is_banned(key(shared, Kind::Garbage, source, &[]), now) {
            return false;
        }
        let challenges = self.accounts.get(&key(shared, Kind::Challenges, source, &[]));
        challenges.is_none_or(|account| account.level >= 0)
    }

    /// Asks to challenge a request that came without a valid nonce.
    pub fn challenge(&mut self, source: SocketAddr, now: Instant, shared: Shared<'_>) -> Verdict {
        if shared.settings.is_trusted(source.ip()) {
            return Verdict::Pass;
        }
        let of_port = key(shared, Kind::ChallengesOfPort, source, &source.port().to_be_bytes());
        let of_port = self.spend(of_port, &CHALLENGES_OF_PORT, 0, now);
        let of_source = self.spend(key(shared, Kind::Challenges, source, &[]), &CHALLENGES, 0, now);
        // An address over its limit may be a whole office with one flooder in it: ports that behave are served.
        let verdict = if of_source == Verdict::Pass { of_source } else { of_port };
        self.count(verdict)
    }

    /// A valid nonce came back: its challenge was no failure, and earns room for one more.
    pub fn answered(&mut self, source: SocketAddr, now: Instant, shared: Shared<'_>) {
        if shared.settings.is_trusted(source.ip()) {
            return;
        }
        let of_port = key(shared, Kind::ChallengesOfPort, source, &source.port().to_be_bytes());
        self.earn(of_port, &CHALLENGES_OF_PORT, now);
        self.earn(key(shared, Kind::Challenges, source, &[]), &CHALLENGES, now);
    }

    /// Asks to verify the credentials of a user; nothing is computed for `Slow`.
    pub fn attempt(
        &mut self,
        source: SocketAddr,
        user: &[u8],
        standing: Standing,
        now: Instant,
        shared: Shared<'_>,
    ) -> Verdict {
        if shared.settings.is_trusted(source.ip()) {
            return Verdict::Pass;
        }
        let verdict = if self.is_banned(user_key(shared, source, user, standing), now) {
            self.newcomer(source, user, standing, now, shared)
        } else if standing != Standing::Stranger || !self.is_banned(key(shared, Kind::Source, source, &[]), now) {
            Verdict::Pass
        } else {
            self.spend(key(shared, Kind::Strangers, source, &[]), &STRANGERS, 0, now)
        };
        self.count(verdict)
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
        self.spend(key_of(secret, Kind::Newcomers, source, &[user]), &NEWCOMERS, 0, now)
    }

    /// The credentials were wrong. `bindings`: live ones from this address.
    pub fn failed(
        &mut self,
        source: SocketAddr,
        user: &[u8],
        standing: Standing,
        bindings: u32,
        now: Instant,
        shared: Shared<'_>,
    ) {
        if shared.settings.is_trusted(source.ip()) {
            return;
        }
        self.spend(user_key(shared, source, user, standing), &USER, 0, now);
        let earned = i64::from(bindings) / BINDINGS_PER_FAILURE;
        self.spend(key(shared, Kind::Source, source, &[]), &SOURCE, earned, now);
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
