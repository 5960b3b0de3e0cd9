//! Clients that give up where a challenge names an algorithm that they do not know: who comes back without credentials after
//! several challenges is offered MD5 alone for a while (RFC 7616 §3.7 has them take one that they know, and some do not).
//!
//! Counted per user and source address, known or not, so that nobody learns who is there. Whoever has answered with
//! another algorithm is never offered less. One bounded table per shard, which is no promise: who is forgotten begins anew.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use arrayvec::ArrayVec;
use serde::Deserialize;
use serde::Serialize;

use crate::base::hash::HashKey;
use crate::base::limit::CLIENTS_CHALLENGED_MAX;
use crate::base::time::Instant;
use crate::machine::settings::Algorithm;
use crate::machine::transaction::key::host_bytes;
use crate::machine::transaction::key::source_bytes;
use crate::wire::sip::HeaderId;
use crate::wire::sip::Message;
use crate::wire::sip::Uri;
use crate::wire::sip::uri::unescaped;

/// Challenges of as many requests that were not answered, before MD5 is offered alone.
const UNANSWERED_MAX: u8 = 2;
/// Longer than a client waits before it tries again; then its challenges are forgotten.
const PATIENCE: Duration = Duration::from_secs(3_600);
/// MD5 is offered alone for so long after it was last used.
const WHILE: Duration = Duration::from_secs(24 * 3_600);
/// Of a user; no phone has a longer one.
const USER_BYTES_MAX: usize = 128;
/// Entries looked at when one has to go.
const EVICTION_SAMPLE: usize = 8;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Fallback {
    clients: BTreeMap<u64, Client>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Client {
    at: Instant,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    /// So many requests were challenged; `last` is the last one, which may be repeated.
    Challenged { requests: u8, last: u64 },
    /// It is offered nothing but MD5, and has answered that or not.
    Md5Alone { has_answered: bool },
    /// It knows better ones.
    Able,
}

/// What a challenge offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    All,
    Md5Alone,
}

impl Fallback {
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// A request without credentials, or with old ones, is to be challenged.
    pub fn challenge(&mut self, request: &Message<'_>, source: IpAddr, now: Instant, secret: &HashKey) -> Offer {
        let (key, transaction) = (key(request, source, secret), transaction(request, secret));
        let fresh = Client { at: now, state: State::Challenged { requests: 1, last: transaction } };
        let Some(client) = self.clients.get_mut(&key) else {
            self.insert(key, fresh);
            return Offer::All;
        };
        let age = now.since(client.at);
        match client.state {
            State::Challenged { .. } if age > PATIENCE => *client = fresh,
            State::Md5Alone { .. } if age > WHILE => *client = fresh,
            State::Challenged { last, .. } if last == transaction => {}
            State::Challenged { requests, .. } if requests < UNANSWERED_MAX => {
                client.at = now;
                client.state = State::Challenged { requests: requests + 1, last: transaction };
            }
            State::Challenged { .. } => {
                *client = Client { at: now, state: State::Md5Alone { has_answered: false } };
                return Offer::Md5Alone;
            }
            State::Md5Alone { .. } => return Offer::Md5Alone,
            State::Able => {}
        }
        Offer::All
    }

    /// A request answers a challenge. True if it is the first that answers MD5 alone: not before is it worth a word.
    pub fn answered(
        &mut self,
        request: &Message<'_>,
        source: IpAddr,
        algorithm: Algorithm,
        now: Instant,
        secret: &HashKey,
    ) -> bool {
        // Only who was challenged has an entry: phones that go on with their nonce leave no trace.
        let Some(client) = self.clients.get_mut(&key(request, source, secret)) else { return false };
        let is_first = client.state == (State::Md5Alone { has_answered: false }) && algorithm == Algorithm::Md5;
        client.at = now;
        client.state = match (client.state, algorithm) {
            (State::Able, _) | (_, Algorithm::Sha256 | Algorithm::Sha512_256) => State::Able,
            (State::Md5Alone { .. }, Algorithm::Md5) => State::Md5Alone { has_answered: true },
            (State::Challenged { .. }, Algorithm::Md5) => State::Challenged { requests: 0, last: 0 },
        };
        is_first
    }

    /// Keys are keyed hashes: the neighbours of a new one are a fair sample that nobody can choose.
    fn insert(&mut self, key: u64, client: Client) {
        if self.clients.len() >= CLIENTS_CHALLENGED_MAX {
            let neighbours = self.clients.range(key..).chain(self.clients.range(..key)).take(EVICTION_SAMPLE);
            let least = neighbours.min_by_key(|(_, client)| (client.weight(), client.at)).map(|(key, _)| *key);
            least.and_then(|least| self.clients.remove(&least));
        }
        self.clients.insert(key, client);
    }
}

impl Client {
    /// What strangers can make in any number goes first.
    fn weight(self) -> u8 {
        match self.state {
            State::Challenged { .. } => 0,
            State::Md5Alone { has_answered } => 1 + u8::from(has_answered),
            State::Able => 3,
        }
    }
}

/// The user as it is written, and where it is.
fn key(request: &Message<'_>, source: IpAddr, secret: &HashKey) -> u64 {
    let uri = request.sender_uri().ok();
    let user: ArrayVec<u8, USER_BYTES_MAX> =
        uri.and_then(Uri::user).map(unescaped).into_iter().flatten().take(USER_BYTES_MAX).collect();
    let host = uri.and_then(|uri| uri.host()).map(host_bytes).unwrap_or_default();
    secret.hash(&[b"fallback", &source_bytes(source), &user, &host])
}

/// The same for the copies of a request (RFC 3261 §17.1.2: it is sent again until it is answered).
fn transaction(request: &Message<'_>, secret: &HashKey) -> u64 {
    let branch = request.top_via().ok().and_then(|via| via.branch()).unwrap_or_default();
    secret.hash(&[branch, request.call_id(), request.header(HeaderId::CSeq).unwrap_or_default()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::fixture::Caller;
    use crate::machine::fixture::SECRET;
    use crate::machine::fixture::message;

    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7));

    fn challenge(fallback: &mut Fallback, text: &str, now: Instant) -> Offer {
        fallback.challenge(&message(text), SOURCE, now, &SECRET)
    }

    fn answered(fallback: &mut Fallback, text: &str, algorithm: Algorithm, now: Instant) -> bool {
        fallback.answered(&message(text), SOURCE, algorithm, now, &SECRET)
    }

    #[test]
    fn who_answers_nothing_is_offered_md5_alone_for_a_while() {
        let (mut fallback, mut now) = (Fallback::default(), Instant::from_millis(1_000_000));
        let mut phone = Caller::new("1001", "198.51.100.7:5060");
        let mut other = Caller::new("1002", "198.51.100.7:5060");
        for _ in 0..UNANSWERED_MAX {
            let request = phone.request("");
            for _ in 0..10 {
                assert_eq!(challenge(&mut fallback, &request, now), Offer::All, "retransmissions do not count");
            }
            now = now + Duration::from_secs(100);
        }
        let request = phone.request("");
        assert_eq!(challenge(&mut fallback, &request, now), Offer::Md5Alone);
        assert_eq!(challenge(&mut fallback, &request, now), Offer::Md5Alone);
        assert_eq!(challenge(&mut fallback, &other.request(""), now), Offer::All);
        let elsewhere = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 8));
        assert_eq!(fallback.challenge(&message(&request), elsewhere, now, &SECRET), Offer::All);
        // As long as it goes on with MD5.
        for n in 0..30 {
            now = now + Duration::from_secs(3_600);
            assert_eq!(answered(&mut fallback, &request, Algorithm::Md5, now), n == 0, "said once");
        }
        assert_eq!(challenge(&mut fallback, &phone.request(""), now), Offer::Md5Alone);
        now = now + WHILE + Duration::from_secs(1);
        assert_eq!(challenge(&mut fallback, &phone.request(""), now), Offer::All);
    }

    #[test]
    fn who_answers_is_offered_everything() {
        for algorithm in [Algorithm::Md5, Algorithm::Sha256, Algorithm::Sha512_256] {
            let (mut fallback, mut now) = (Fallback::default(), Instant::from_millis(1_000_000));
            let mut phone = Caller::new("1001", "198.51.100.7:5060");
            for _ in 0..50 {
                let request = phone.request("");
                assert_eq!(challenge(&mut fallback, &request, now), Offer::All);
                assert!(!answered(&mut fallback, &request, algorithm, now));
                now = now + Duration::from_secs(10);
            }
            // Who was able once stays so; who knows MD5 may have a new client.
            let offers: Vec<_> = (0..4).map(|_| challenge(&mut fallback, &phone.request(""), now)).collect();
            assert_eq!(offers.iter().all(|offer| *offer == Offer::All), algorithm != Algorithm::Md5, "{offers:?}");
        }
    }

    #[test]
    fn slow_strangers_are_forgotten_and_the_table_is_bounded() {
        let (mut fallback, mut now) = (Fallback::default(), Instant::from_millis(1_000_000));
        let mut phone = Caller::new("1001", "198.51.100.7:5060");
        for _ in 0..10 {
            assert_eq!(challenge(&mut fallback, &phone.request(""), now), Offer::All);
            now = now + PATIENCE + Duration::from_secs(1);
        }
        for _ in 0..=UNANSWERED_MAX {
            challenge(&mut fallback, &phone.request(""), now);
        }
        for n in 0..2 * CLIENTS_CHALLENGED_MAX {
            let mut stranger = Caller::new(&format!("s{n}"), "198.51.100.7:5060");
            assert_eq!(challenge(&mut fallback, &stranger.request(""), now), Offer::All);
        }
        assert_eq!(fallback.len(), CLIENTS_CHALLENGED_MAX);
        assert_eq!(challenge(&mut fallback, &phone.request(""), now), Offer::Md5Alone);
    }
}
