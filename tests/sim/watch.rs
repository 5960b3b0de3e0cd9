//! Between the network and the node: every SIP message in and out is looked at, and what RFC 3261 wants of a node holds for each.
//!
//! It panics at the message that breaks a rule, so that the story ends there.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;

use tipring::base::time::Instant;

use crate::offers::Offers;
use crate::patience::RING_MAX;
use crate::text;
use crate::text::Text;

/// Timers B, F, G, H, J and L, and the grid of the longest-lived answers.
const T1_64: Duration = Duration::from_millis(32_000 + 250);
/// What is due at once: two ways over the mesh.
const AT_ONCE: Duration = Duration::from_millis(10);

#[derive(Debug, Default)]
pub struct Watch {
    /// Requests that reached the node: by who sent it, branch and method.
    asked: BTreeMap<(IpAddr, String, String), Asked>,
    /// Requests of the node, by Call-ID, branch and method.
    sent: BTreeMap<(String, String, String), Vec<u8>>,
    /// The number of the node's last request in a dialog, and where it went: by Call-ID and its own tag.
    numbers: BTreeMap<(String, String), (u32, SocketAddr)>,
    /// Numbers of the INVITEs that the node sent, by the same.
    invites: BTreeMap<(String, String, u32), ()>,
    /// Requests of the node that have no final response, by Call-ID, branch and method.
    open: BTreeMap<(String, String, String), Open>,
    /// Requests that have none of the node.
    unanswered: BTreeMap<(IpAddr, String, String), Instant>,
    /// Failures of the node's INVITEs that reached it and have no ACK yet: by Call-ID and branch.
    acks_due: BTreeMap<(String, String), Instant>,
    offers: Offers,
    /// More time for what a lost message of the mesh delays until it is repeated; and what is not repeated over a connection has
    /// no answer.
    pub slack: Duration,
    /// By stranger: (packets, bytes) in and out.
    strangers: BTreeMap<IpAddr, [(u64, u64); 2]>,
}

#[derive(Debug)]
struct Open {
    to: SocketAddr,
    since: Instant,
    /// The first INVITE of a branch, which said that it rings.
    rings: bool,
    is_first: bool,
}

#[derive(Debug)]
struct Asked {
    answer_to: SocketAddr,
    call_id: String,
    is_reliable: bool,
    /// The final response, without what may differ in a repeated challenge.
    finally: Option<Vec<u8>>,
    answered_at: Instant,
    /// Repeated before the final response: the last response is due again.
    repeated: Option<Instant>,
}

impl Watch {
    /// A message reached the node.
    pub fn received(&mut self, from: SocketAddr, is_reliable: bool, bytes: &[u8], now: Instant) {
        let Some(text) = Text::parse(bytes) else { return };
        self.offers.received(&text);
        if text.status() > 0 {
            let key = (text.get("call-id").to_owned(), text.branch(), text.method().to_owned());
            let mut is_given_up = false;
            if text.status() >= 200 {
                // RFC 3261 §17.1.1.2: Timer B fired before anything came, and there is no transaction left that could acknowledge.
                let open = self.open.remove(&key);
                is_given_up = open.is_some_and(|open| !open.rings && now.since(open.since) > T1_64);
            } else if let Some(open) = self.open.get_mut(&key) {
                open.rings = true;
            }
            let key = (key.0, key.1);
            if text.status() >= 300 && text.method() == "INVITE" && !is_given_up {
                self.acks_due.entry(key).or_insert(now);
            }
            return;
        }
        let key = (from.ip(), text.branch(), text.method().to_owned());
        match self.asked.get_mut(&key) {
            Some(asked) if asked.finally.is_none() && text.method() == "INVITE" => {
                asked.repeated.get_or_insert(now);
            }
            Some(_) => {}
            None => {
                let call_id = text.get("call-id").to_owned();
                if text.method() != "ACK" && !(is_reliable && self.slack > Duration::ZERO) {
                    // These two ask the other phone.
                    let is_carried = matches!(text.method(), "UPDATE" | "INFO");
                    let patience = if text.method() != "INVITE" && !is_carried {
                        AT_ONCE
                    } else if is_carried {
                        T1_64 + AT_ONCE
                    } else if text.to_tag().is_empty() {
                        RING_MAX + AT_ONCE
                    } else {
                        T1_64 + AT_ONCE
                    };
                    self.unanswered.insert(key.clone(), now + patience + self.slack);
                }
                let asked = Asked {
                    answer_to: answer_to(from, &text),
                    call_id,
                    is_reliable,
                    finally: None,
                    answered_at: now,
                    repeated: None,
                };
                self.asked.insert(key, asked);
            }
        }
    }

    /// The node sends a message.
    pub fn sent(&mut self, to: SocketAddr, is_reliable: bool, bytes: &[u8], now: Instant) {
        let text = Text::parse(bytes).unwrap_or_else(|| panic!("not a message: {}", bytes.escape_ascii()));
        hides_the_others(to, bytes);
        self.offers.sent(&text);
        if text.status() == 0 {
            self.on_request(to, &text, bytes, now);
        } else {
            self.on_response(to, is_reliable, &text, bytes, now);
        }
    }

    /// Nothing can be said over this connection any more.
    pub fn connection_gone(&mut self, peer: SocketAddr) {
        self.open.retain(|_, open| open.to != peer);
    }

    pub fn stranger_sent(&mut self, from: IpAddr, bytes: &[u8]) {
        count(&mut self.strangers.entry(from).or_default()[0], bytes);
    }

    /// Reliability: an unauthenticated source gets at most one packet for each of its own, and three times the bytes.
    pub fn stranger_got(&mut self, to: IpAddr, bytes: &[u8]) {
        let both = self.strangers.entry(to).or_default();
        count(&mut both[1], bytes);
        let [sent, got] = both;
        assert!(got.0 <= sent.0, "{to} sent {} packets and got {}", sent.0, got.0);
        assert!(got.1 <= 3 * sent.1, "{to} sent {} bytes and got {}", sent.1, got.1);
    }

    fn on_request(&mut self, to: SocketAddr, text: &Text, bytes: &[u8], now: Instant) {
        let call_id = text.get("call-id").to_owned();
        let (method, (number, named)) = (text.method().to_owned(), text.cseq());
        assert_eq!(method, named, "the method of CSeq");
        let key = (call_id.clone(), text.branch(), method.clone());
        if let Some(first) = self.sent.get(&key) {
            // RFC 3261 §17.1.1.2: "The client transaction MUST ... retransmit the request": the same one.
            if method == "ACK" {
                self.acks_due.remove(&(text.get("call-id").to_owned(), text.branch()));
            }
            assert!(first == bytes, "a retransmission differs:\n{}\n{}", first.escape_ascii(), bytes.escape_ascii());
            // RFC 3261 §17.1: timers B and F end the repeats of what nobody answers.
            let since = self.open.get(&key).map_or(now, |open| open.since);
            assert!(now.since(since) <= T1_64, "{} is repeated after {:?}", text.start, now.since(since));
            return;
        }
        self.sent.insert(key.clone(), bytes.to_vec());
        // RFC 3261 §19.1.5: headers of a URI, and its method, are no part of a Request-URI.
        assert!(
            !text.start.contains(['?']) && !text.start.contains(";method="),
            "a Request-URI with headers: {}",
            text.start
        );
        if method == "CANCEL" {
            self.open.remove(&(key.0.clone(), key.1.clone(), "INVITE".to_owned()));
        }
        if method != "ACK" {
            let is_first = method == "INVITE" && text.to_tag().is_empty();
            self.open.insert(key, Open { to, since: now, rings: false, is_first });
        }
        let dialog = (call_id, text::param(text.get("from"), "tag").unwrap_or_default());
        if method == "ACK" {
            self.acks_due.remove(&(dialog.0.clone(), text.branch()));
        }
        if matches!(method.as_str(), "ACK" | "CANCEL") {
            let invite = (dialog.0, dialog.1, number);
            assert!(self.invites.contains_key(&invite), "{method} {number} without its INVITE");
            return;
        }
        if method == "INVITE" {
            self.invites.insert((dialog.0.clone(), dialog.1.clone(), number), ());
        }
        // RFC 3261 §12.2.1.1: "Requests within a dialog MUST contain strictly monotonically increasing and contiguous CSeq".
        // What waited for a phone's next connection may have been given up: it is missing as if it had been lost with the last.
        if let Some((last, at)) = self.numbers.insert(dialog, (number, to)) {
            assert!(
                number == last + 1 || number > last && at != to,
                "CSeq {number} of {} to {to}, in {} after {last} to {at}",
                text.start,
                text.get("call-id")
            );
        }
    }

    fn on_response(&mut self, to: SocketAddr, is_reliable: bool, text: &Text, bytes: &[u8], now: Instant) {
        let key = (to.ip(), text.branch(), text.method().to_owned());
        let Some(asked) = self.asked.get_mut(&key) else {
            panic!("{to} never sent the request of {} {}", text.start, text.get("cseq"))
        };
        assert_eq!(asked.call_id, text.get("call-id"));
        if !is_reliable && !asked.is_reliable {
            assert_eq!(asked.answer_to, to, "RFC 3581 §4, RFC 3261 §18.2.2: where the answer goes");
        }
        // RFC 3261 §17.2.1: a repeated INVITE gets the most recent provisional response.
        if let Some(repeated) = asked.repeated.take() {
            let late = now.since(repeated);
            assert!(
                late <= AT_ONCE + self.slack,
                "a repeated INVITE of {to} is answered after {late:?}, {}",
                asked.call_id
            );
        }
        if text.status() < 200 {
            assert!(asked.finally.is_none() || text.status() == 100, "{} after the final response", text.start);
            return;
        }
        let lines = bytes.split_inclusive(|byte| *byte == b'\n');
        let kept: Vec<u8> = lines.filter(|line| !line.starts_with(b"WWW-Authenticate:")).flatten().copied().collect();
        // A CANCEL that overtook its INVITE names nothing yet: RFC 3261 §9.1 wants phones to wait for a provisional response.
        // And who never heard the end of its call, because it was lost between shards, cancels it again minutes later.
        let slack = self.slack;
        let overtook =
            |first: &[u8]| text.method() == "CANCEL" && (first.starts_with(b"SIP/2.0 481") || slack > Duration::ZERO);
        match asked.finally.as_ref().filter(|first| !overtook(first)) {
            // RFC 3261 §17.2: a transaction has one final response, and a retransmission gets the same.
            Some(first) => {
                assert!(*first == kept, "another final response:\n{}\n{}", first.escape_ascii(), kept.escape_ascii());
                let after = now.since(asked.answered_at);
                assert!(after <= T1_64, "{} is repeated to {to} after {after:?}", text.start);
            }
            None => {
                (asked.finally, asked.answered_at) = (Some(kept), now);
                self.unanswered.remove(&key);
            }
        }
    }

    /// Nobody waits for the node longer than a timer of RFC 3261 lasts, or a phone may ring.
    pub fn check_patience(&self, now: Instant) {
        for ((from, branch, method), until) in &self.unanswered {
            assert!(now <= *until, "the {method} of {from}, {branch}, has no final response");
        }
        for ((call_id, branch, _), open) in &self.open {
            let is_late = open.is_first && open.rings && now.since(open.since) > RING_MAX + AT_ONCE;
            assert!(!is_late, "the INVITE of {call_id}, {branch}, rings since {:?}", open.since);
        }
    }

    /// RFC 3261 §17.1.1.3: each final response but a 2xx is acknowledged, also one that is repeated.
    pub fn unacknowledged(&self, now: Instant) -> Vec<String> {
        let is_late = |since: Instant| now.since(since) > AT_ONCE && self.slack == Duration::ZERO;
        let late = self.acks_due.iter().filter(|(_, since)| is_late(**since));
        late.map(|((call_id, branch), since)| format!("{call_id}, {branch}, at {since:?}")).collect()
    }

    /// Requests over UDP that never got a final response.
    pub fn unanswered(&self) -> Vec<String> {
        let open = self
            .asked
            .iter()
            .filter(|((_, _, method), asked)| asked.finally.is_none() && !asked.is_reliable && method != "ACK");
        open.map(|((from, branch, method), asked)| format!("{method} of {from}, {branch}, {}", asked.call_id)).collect()
    }
}

/// RFC 3581 §4 where the Via has an rport; else RFC 3261 §18.2.2 where nothing stands between, which its host shows.
fn answer_to(from: SocketAddr, text: &Text) -> SocketAddr {
    let (via, parameters) = text.get("via").split_once(';').unwrap_or_default();
    let named = via.rsplit(' ').next().and_then(|host| host.parse::<SocketAddr>().ok());
    let is_old = !parameters.split(';').any(|parameter| parameter.starts_with("rport"));
    named.filter(|named| is_old && named.ip() == from.ip()).unwrap_or(from)
}

fn count(sum: &mut (u64, u64), bytes: &[u8]) {
    sum.0 += 1;
    sum.1 += bytes.len() as u64;
}

/// No party sees an address of another: they are all in 203.0.113.0/24.
fn hides_the_others(to: SocketAddr, bytes: &[u8]) {
    let (own, text) = (to.ip().to_string(), String::from_utf8_lossy(bytes));
    for (at, _) in text.match_indices("203.0.113.") {
        let rest = &text[at..];
        let end = rest.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(rest.len());
        assert_eq!(rest[..end].trim_end_matches('.'), own, "an address of somebody else goes to {to}:\n{text}");
    }
}
