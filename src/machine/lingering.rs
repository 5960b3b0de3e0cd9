//! Finished non-INVITE server transactions: a retransmission gets the very bytes of the final response (RFC 3261 §17.2.2, Timer J).
//!
//! One entry is a keyed hash and the response; all wait equally long, so a queue expires them. Over a reliable transport
//! Timer J is zero: nothing is kept. Answers go back the way the retransmission came. Bounded in bytes too, in fair shares: an answer
//! beyond its owner's is not kept, and the retransmission is judged like a new request. Lives once per shard.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::hash::HashKey;
use crate::base::keyed::Keyed;
use crate::base::limit::LINGERING_BYTES_PER_PHONE_MAX;
use crate::base::limit::LINGERING_BYTES_PER_SHARD_MAX;
use crate::base::limit::LINGERING_PER_SHARD_MAX;
use crate::base::time::Instant;
use crate::machine::admission::OfPhone;
use crate::machine::admission::Owner;
use crate::machine::admission::Shares;
use crate::machine::flow::Flow;
use crate::machine::transaction::key::host_bytes;
use crate::machine::transaction::key::source_bytes;
use crate::wire::sip::HeaderId;
use crate::wire::sip::Message;

/// RFC 3261 §17.2.2: "set Timer J to fire in 64*T1 seconds for unreliable transports".
const TIMER_J: Duration = Duration::from_secs(32);
/// Expiry looks at the clock no finer than this.
const GRID_NANOS: u64 = 250_000_000;
/// Bytes of the answers within a phone's calls.
const OF_PHONE: OfPhone = OfPhone { least: 64 << 10, most: LINGERING_BYTES_PER_PHONE_MAX };

/// What makes two requests the same transaction; see [`Key::of`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key(u64);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lingering {
    responses: Keyed<Kept>,
    /// In the order of their end.
    ends: VecDeque<(Instant, Key)>,
    /// Responses not kept, or forgotten early, because the table was full.
    pub overflows: u64,
    /// Responses not kept because their owner has its share.
    pub unfair: u64,
    shares: Shares,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    bytes: Box<[u8]>,
    owner: Owner,
}

impl Default for Lingering {
    fn default() -> Self {
        let shares = Shares::new(LINGERING_BYTES_PER_SHARD_MAX, OF_PHONE);
        Self { responses: Keyed::default(), ends: VecDeque::new(), overflows: 0, unfair: 0, shares }
    }
}

impl Key {
    /// RFC 3261 §17.2.3: branch, sent-by and method; for a branch without the magic cookie the parts of RFC 2543.
    /// The source address is part of it: nobody else is told what was answered.
    pub fn of(request: &Message<'_>, source: IpAddr, secret: &HashKey) -> Self {
        let source = source_bytes(source);
        let method = request.request().map(|line| line.name).unwrap_or_default();
        let Ok(via) = request.top_via() else { return Self(secret.hash(&[&source, request.bytes()])) };
        if let (Some(branch), true) = (via.branch(), via.has_magic_cookie()) {
            let port = via.port.unwrap_or(5060).to_be_bytes();
            return Self(secret.hash(&[&source, branch, &host_bytes(via.host), &port, method]));
        }
        // "The request matches a transaction if the Request-URI, To tag, From tag, Call-ID, CSeq, and top Via header match".
        let uri = request.request().map(|line| line.uri).unwrap_or_default();
        let to_tag = request.to().ok().and_then(|to| to.tag()).unwrap_or_default();
        let from_tag = request.from().ok().and_then(|from| from.tag()).unwrap_or_default();
        let cseq = request.header(HeaderId::CSeq).unwrap_or_default();
        let via = request.values(HeaderId::Via).next().unwrap_or_default();
        Self(secret.hash(&[&source, uri, to_tag, from_tag, request.call_id(), cseq, via]))
    }
}

impl Lingering {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn len(&self) -> usize {
        self.responses.len()
    }

    pub fn is_empty(&self) -> bool {
        self.responses.is_empty()
    }

    /// The response that the request, if it is a retransmission, had before.
    pub fn find(&self, key: Key) -> Option<&[u8]> {
        self.responses.get(key.0).map(|kept| kept.bytes.as_ref())
    }

    pub fn bytes(&self) -> u64 {
        self.shares.used()
    }

    /// Keeps the final response of a transaction that ended at `now`, for the phone that asked or whose call it is.
    pub fn insert(&mut self, key: Key, flow: &Flow, response: &[u8], owner: Owner, now: Instant) {
        if flow.is_reliable() {
            return;
        }
        if self.responses.len() >= LINGERING_PER_SHARD_MAX as usize {
            self.overflows += 1;
            if let Some((_, oldest)) = self.ends.pop_front() {
                self.remove(oldest);
            }
        }
        if !self.shares.fits(&owner, response.len() as u64) {
            self.unfair += 1;
            return;
        }
        self.shares.take(&owner, response.len() as u64);
        match self.responses.insert(key.0, Kept { bytes: response.into(), owner }) {
            None => self.ends.push_back((on_grid(now + TIMER_J), key)),
            Some(before) => self.shares.give_back(&before.owner, before.bytes.len() as u64),
        }
    }

    fn remove(&mut self, key: Key) {
        if let Some(kept) = self.responses.remove(key.0) {
            self.shares.give_back(&kept.owner, kept.bytes.len() as u64);
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((end, key)) = self.ends.front().copied()
            && end <= now
        {
            self.ends.pop_front();
            self.remove(key);
        }
        if self.ends.capacity() > 1024 && self.ends.len() < self.ends.capacity() / 4 {
            self.ends.shrink_to(self.ends.len() * 2);
        }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.ends.front().map(|(end, _)| *end)
    }
}

fn on_grid(at: Instant) -> Instant {
    Instant::from_nanos(at.nanos().div_ceil(GRID_NANOS) * GRID_NANOS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::sip::Scan;
    use crate::wire::sip::Transport;
    use crate::wire::sip::scan;

    const SECRET: HashKey = HashKey([5; 16]);

    fn request(method: &str, via: &str, cseq: u32) -> String {
        format!(
            "{method} sip:acme.test SIP/2.0\r\nVia: SIP/2.0/UDP {via}\r\nMax-Forwards: 70\r\nFrom: <sip:1@acme.test>;tag=f\r\n\
             To: <sip:1@acme.test>\r\nCall-ID: c\r\nCSeq: {cseq} {method}\r\nContent-Length: 0\r\n\r\n"
        )
    }

    fn key_from(text: &str, source: &str) -> Key {
        match scan(text.as_bytes(), Transport::Udp) {
            Scan::Ok(message) => Key::of(&message, source.parse().unwrap(), &SECRET),
            other => panic!("{other:?}"),
        }
    }

    fn key(text: &str) -> Key {
        key_from(text, "192.0.2.1")
    }

    fn flow() -> Flow {
        Flow::udp(0, "192.0.2.1:5060".parse().unwrap())
    }

    #[test]
    fn transactions_are_told_apart() {
        let first = request("OPTIONS", "192.0.2.1:5060;branch=z9hG4bKa", 1);
        for (other, same) in [
            (first.clone(), true),
            (request("OPTIONS", "192.0.2.1;branch=z9hG4bKa;rport", 1), true),
            (request("OPTIONS", "192.0.2.1:5060;branch=z9hG4bKa", 2), true),
            (request("OPTIONS", "192.0.2.1:5060;branch=z9hG4bKb", 1), false),
            (request("OPTIONS", "192.0.2.1:5061;branch=z9hG4bKa", 1), false),
            (request("OPTIONS", "192.0.2.2:5060;branch=z9hG4bKa", 1), false),
            (request("MESSAGE", "192.0.2.1:5060;branch=z9hG4bKa", 1), false),
        ] {
            assert_eq!(key(&first) == key(&other), same, "{other}");
        }
        assert_ne!(key(&first), key_from(&first, "192.0.2.9"));
        let old = request("OPTIONS", "192.0.2.1:5060;branch=1", 1);
        for (other, same) in [
            (old.clone(), true),
            (request("OPTIONS", "192.0.2.1:5060;branch=1", 2), false),
            (request("OPTIONS", "192.0.2.1:5060", 1), false),
            (old.replace("tag=f", "tag=g"), false),
            (old.replace("Call-ID: c", "Call-ID: d"), false),
            (old.replace("OPTIONS sip:acme.test", "OPTIONS sip:globex.test"), false),
            (old.replace("To: <sip:1@acme.test>", "To: <sip:1@acme.test>;tag=t"), false),
        ] {
            assert_eq!(key(&old) == key(&other), same, "{other}");
        }
    }

    #[test]
    fn a_retransmission_gets_the_same_bytes_until_timer_j() {
        let mut lingering = Lingering::new();
        let start = Instant::from_millis(1_000_100);
        let first = key(&request("OPTIONS", "a.test;branch=z9hG4bKa", 1));
        lingering.insert(first, &flow(), b"SIP/2.0 200 OK\r\n\r\n", Owner::default(), start);
        assert_eq!(lingering.find(first), Some(&b"SIP/2.0 200 OK\r\n\r\n"[..]));
        let bytes = postcard::to_allocvec(&lingering).unwrap();
        let mut lingering: Lingering = postcard::from_bytes(&bytes).unwrap();
        lingering.handle_timeout(start + TIMER_J);
        assert!(lingering.find(first).is_some());
        let end = lingering.next_deadline().unwrap();
        assert!(end >= start + TIMER_J && end < start + TIMER_J + Duration::from_millis(250));
        lingering.handle_timeout(end);
        assert_eq!(lingering.find(first), None);
        assert_eq!(lingering.next_deadline(), None);
    }

    #[test]
    fn one_phone_keeps_what_it_may_and_changes_nothing_for_another() {
        use crate::machine::admission::Standing;
        let mut lingering = Lingering::new();
        let owner = |phone| Owner { tenant: 1, phone, standing: Standing::OneOfMany };
        let answer = vec![b'a'; 10_000];
        for key in 0..1_000 {
            lingering.insert(Key(key), &flow(), &answer, owner(7), Instant::ZERO);
        }
        assert_eq!(lingering.len() as u64, LINGERING_BYTES_PER_PHONE_MAX / 10_000);
        assert_eq!(lingering.unfair, 1_000 - lingering.len() as u64);
        assert!(lingering.find(Key(0)).is_some(), "what is kept stays");
        lingering.insert(Key(5_000), &flow(), &answer, owner(8), Instant::ZERO);
        assert!(lingering.find(Key(5_000)).is_some());
        // The same transaction again: one answer.
        lingering.insert(Key(5_000), &flow(), b"short", owner(8), Instant::ZERO);
        lingering.handle_timeout(Instant::ZERO + TIMER_J * 2);
        assert!(lingering.is_empty() && lingering.shares.is_whole());
    }

    #[test]
    fn nothing_lingers_on_a_connection() {
        use crate::base::id::Handle;
        use crate::base::id::ShardId;
        use crate::machine::flow::Connection;
        let mut lingering = Lingering::new();
        let connection = Connection { shard: ShardId(0), handle: Handle { slot: 0, generation: 0 } };
        let flow = Flow { connection: Some(connection), ..flow() };
        lingering.insert(Key(1), &flow, b"x", Owner::default(), Instant::ZERO);
        assert!(lingering.is_empty());
    }
}
