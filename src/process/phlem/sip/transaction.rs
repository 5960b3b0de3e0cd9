//! Transactions of a phone, RFC 3261 §17: what is sent again and when, when it is given up, what a repetition is.
//!
//! Sans-IO values. What a transaction is for is its owner's word `P`; bytes are kept only as long as they may be needed again.

use std::hash::Hasher;
use std::time::Duration;

use bytes::Bytes;
use siphasher::sip::SipHasher13;

use crate::base::time::Instant;
use crate::process::phlem::sip::message::Message;
use crate::process::phlem::sip::value::Via;

/// RFC 3261 §17.1.1.1: the estimate of the round trip.
const T1: Duration = Duration::from_millis(500);
const T2: Duration = Duration::from_secs(4);
/// Timers B, F, H, J, L over datagrams.
pub const GIVE_UP: Duration = Duration::from_secs(32);

/// What is to be done because time has passed.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    Nothing,
    Repeat,
    /// Nobody answered.
    GiveUp,
    /// Over, in good order.
    Over,
}

/// A request of ours.
#[derive(Clone, Debug)]
pub struct Client<P> {
    /// Part of its branch parameter.
    pub id: u32,
    pub purpose: P,
    pub is_invite: bool,
    pub begun: Instant,
    /// What is sent again: the request, and after a refusal of INVITE the ACK.
    pub bytes: Bytes,
    phase: Phase,
    reliable: bool,
    interval: Duration,
    repeat_at: Instant,
    end_at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Trying,
    Proceeding,
    Completed,
}

/// What a response is to its transaction.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    Provisional,
    Final,
    /// A final response came again: ACK again, if it was an INVITE's refusal.
    Again,
}

impl<P> Client<P> {
    pub fn new(id: u32, purpose: P, is_invite: bool, bytes: Bytes, reliable: bool, now: Instant) -> Self {
        let repeat_at = if reliable { Instant::NEVER } else { now + T1 };
        Self {
            id,
            purpose,
            is_invite,
            begun: now,
            bytes,
            phase: Phase::Trying,
            reliable,
            interval: T1,
            repeat_at,
            end_at: now + GIVE_UP,
        }
    }

    pub fn has_answer(&self) -> bool {
        self.phase != Phase::Trying
    }

    pub fn is_completed(&self) -> bool {
        self.phase == Phase::Completed
    }

    pub fn on_response(&mut self, code: u16, now: Instant) -> Heard {
        if self.phase == Phase::Completed {
            return Heard::Again;
        }
        if code < 200 {
            self.phase = Phase::Proceeding;
            if self.is_invite {
                // Timer B ends with the first provisional response; the phone has its own patience.
                (self.repeat_at, self.end_at) = (Instant::NEVER, Instant::NEVER);
            } else if !self.reliable {
                (self.interval, self.repeat_at) = (T2, now + T2);
            }
            return Heard::Provisional;
        }
        self.phase = Phase::Completed;
        self.repeat_at = Instant::NEVER;
        // Timer D, K: repetitions of the response are taken by us and not by the next in line.
        let linger = if self.reliable || !self.is_invite || code < 300 { Duration::ZERO } else { GIVE_UP };
        self.end_at = now + linger;
        Heard::Final
    }

    /// Ends without an answer, soon: its connection is gone.
    pub fn break_off(&mut self, now: Instant) {
        if self.phase != Phase::Completed {
            self.end_at = now;
        }
    }

    pub fn next_deadline(&self) -> Instant {
        self.repeat_at.min(self.end_at)
    }

    pub fn handle_timeout(&mut self, now: Instant) -> Due {
        if now >= self.end_at {
            return if self.phase == Phase::Completed { Due::Over } else { Due::GiveUp };
        }
        if now < self.repeat_at {
            return Due::Nothing;
        }
        // Timer A doubles without a bound, timer E up to T2.
        self.interval = if self.is_invite { self.interval * 2 } else { (self.interval * 2).min(T2) };
        self.repeat_at = now + self.interval;
        Due::Repeat
    }
}

/// A request that we answered, or are about to.
#[derive(Clone, Debug)]
pub struct Server<F> {
    key: u64,
    pub is_invite: bool,
    /// The call that an INVITE belongs to, and the number that its ACK has too.
    pub call: u64,
    pub cseq: u32,
    pub flow: F,
    /// The last response.
    pub bytes: Bytes,
    /// A final response of an INVITE is repeated until ACK comes.
    repeats: bool,
    pub is_success: bool,
    interval: Duration,
    repeat_at: Instant,
    end_at: Instant,
}

/// Branch, sent-by and method, RFC 3261 §17.2.3; ACK and CANCEL find the INVITE.
pub fn server_key(request: &Message<'_>, method: &str) -> Option<u64> {
    let via = Via::parse(request.value("Via")?)?;
    let mut hasher = SipHasher13::new();
    hasher.write(via.branch().unwrap_or_default().as_bytes());
    hasher.write_u8(0);
    hasher.write(via.sent_by.as_bytes());
    hasher.write_u8(0);
    hasher.write(method.as_bytes());
    // Elements of before RFC 3261 have no branch worth the name.
    if !via.branch().is_some_and(|branch| branch.starts_with("z9hG4bK")) {
        hasher.write(request.value("Call-ID").unwrap_or_default().as_bytes());
        hasher.write_u32(request.cseq().map_or(0, |(number, _)| number));
    }
    Some(hasher.finish())
}

impl<F> Server<F> {
    pub fn new(key: u64, is_invite: bool, call: u64, cseq: u32, flow: F) -> Self {
        Self {
            key,
            is_invite,
            call,
            cseq,
            flow,
            bytes: Bytes::new(),
            repeats: false,
            is_success: false,
            interval: T1,
            repeat_at: Instant::NEVER,
            end_at: Instant::NEVER,
        }
    }

    pub fn is(&self, key: u64) -> bool {
        self.key == key
    }

    pub fn is_final(&self) -> bool {
        self.end_at != Instant::NEVER
    }

    /// The owner sends `bytes`; here it is kept for repetitions.
    pub fn respond(&mut self, code: u16, bytes: Bytes, reliable: bool, now: Instant) {
        self.bytes = bytes;
        if code < 200 {
            return;
        }
        self.is_success = code < 300;
        let linger = if reliable && !self.is_invite { Duration::ZERO } else { GIVE_UP };
        self.end_at = now + linger;
        // RFC 3261 §13.3.1.4: a 2xx is repeated over any transport, because the hops behind may lose it.
        if self.is_invite && (!reliable || self.is_success) {
            (self.repeats, self.repeat_at) = (true, now + T1);
        }
    }

    /// ACK has come.
    pub fn on_ack(&mut self, now: Instant) {
        if self.repeats {
            // Timer I: ACKs that are repeated find somebody.
            (self.repeats, self.repeat_at, self.end_at) = (false, Instant::NEVER, now + T2);
        }
    }

    pub fn next_deadline(&self) -> Instant {
        self.repeat_at.min(self.end_at)
    }

    pub fn handle_timeout(&mut self, now: Instant) -> Due {
        if now >= self.end_at {
            return if self.repeats { Due::GiveUp } else { Due::Over };
        }
        if now < self.repeat_at {
            return Due::Nothing;
        }
        self.interval = (self.interval * 2).min(T2);
        self.repeat_at = now + self.interval;
        Due::Repeat
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::phlem::sip::message::Draft;
    use crate::process::phlem::sip::message::Style;

    fn ms(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    /// The times at which it acts, until it ends.
    fn times(mut next: impl FnMut() -> Instant, mut step: impl FnMut(Instant) -> Due) -> (Vec<u64>, Due) {
        let mut times = Vec::new();
        loop {
            let at = next();
            match step(at) {
                Due::Repeat => times.push(at.millis()),
                Due::Nothing => {}
                end => {
                    times.push(at.millis());
                    return (times, end);
                }
            }
        }
    }

    fn client(is_invite: bool, reliable: bool) -> std::cell::RefCell<Client<()>> {
        std::cell::RefCell::new(Client::new(1, (), is_invite, Bytes::new(), reliable, ms(0)))
    }

    #[test]
    fn unanswered_requests() {
        let check = |is_invite, reliable, wanted: &[u64]| {
            let client = client(is_invite, reliable);
            let (times, end) = times(|| client.borrow().next_deadline(), |now| client.borrow_mut().handle_timeout(now));
            assert_eq!((times.as_slice(), end), (wanted, Due::GiveUp));
        };
        check(true, false, &[500, 1_500, 3_500, 7_500, 15_500, 31_500, 32_000]);
        check(false, false, &[500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500, 32_000]);
        check(true, true, &[32_000]);
    }

    #[test]
    fn answered_requests() {
        let invite = client(true, false);
        assert_eq!(invite.borrow_mut().on_response(180, ms(100)), Heard::Provisional);
        assert_eq!(invite.borrow().next_deadline(), Instant::NEVER);
        assert_eq!(invite.borrow_mut().on_response(486, ms(200)), Heard::Final);
        assert_eq!(invite.borrow_mut().on_response(486, ms(300)), Heard::Again);
        assert_eq!(invite.borrow_mut().handle_timeout(ms(31_000)), Due::Nothing);
        assert_eq!(invite.borrow_mut().handle_timeout(ms(32_200)), Due::Over);
        let bye = client(false, false);
        assert_eq!(bye.borrow_mut().on_response(200, ms(10)), Heard::Final);
        assert_eq!(bye.borrow_mut().handle_timeout(ms(10)), Due::Over);
        let broken = client(true, true);
        broken.borrow_mut().break_off(ms(5));
        assert_eq!(broken.borrow_mut().handle_timeout(ms(5)), Due::GiveUp);
    }

    #[test]
    fn answers_are_repeated_until_ack() {
        let server = std::cell::RefCell::new(Server::new(7, true, 1, 1, ()));
        server.borrow_mut().respond(180, Bytes::from_static(b"180"), false, ms(0));
        assert_eq!(server.borrow().next_deadline(), Instant::NEVER);
        server.borrow_mut().respond(200, Bytes::from_static(b"200"), true, ms(0));
        let (times, end) = times(|| server.borrow().next_deadline(), |now| server.borrow_mut().handle_timeout(now));
        assert_eq!(times, [500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500, 32_000]);
        assert_eq!(end, Due::GiveUp);
        let mut server = Server::new(7, true, 1, 1, ());
        server.respond(486, Bytes::from_static(b"486"), false, ms(0));
        server.on_ack(ms(100));
        assert_eq!(server.handle_timeout(ms(600)), Due::Nothing);
        assert_eq!(server.handle_timeout(ms(4_100)), Due::Over);
        let mut bye = Server::new(7, false, 1, 1, ());
        bye.respond(200, Bytes::from_static(b"200"), true, ms(9));
        assert_eq!(bye.handle_timeout(ms(9)), Due::Over);
    }

    #[test]
    fn keys() {
        let request = |via: &str, cseq: &str| {
            let mut request = Draft::request(rsip::Method::Invite, "sip:x");
            request.push("Via", via);
            request.push("Call-ID", "c");
            request.push("CSeq", cseq);
            request.finish(Style::default())
        };
        let key = |via: &str, cseq: &str| server_key(&Message::parse(&request(via, cseq)).unwrap(), "INVITE");
        let new = "SIP/2.0/UDP a;branch=z9hG4bK1";
        assert_eq!(key(new, "1 INVITE"), key(new, "1 ACK"));
        assert_ne!(key(new, "1 INVITE"), key("SIP/2.0/UDP b;branch=z9hG4bK1", "1 INVITE"));
        assert_ne!(key("SIP/2.0/UDP a", "1 INVITE"), key("SIP/2.0/UDP a", "2 INVITE"));
        assert_eq!(key("nonsense", "1 INVITE"), None);
    }
}
