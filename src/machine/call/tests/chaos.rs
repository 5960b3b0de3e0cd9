//! Whatever the order, loss and doubling of messages: the call ends once, soon, and holds nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use super::ladder::*;
use crate::base::random::Random;
use crate::machine::call::input::CallInput;
use crate::wire::event::By;
use crate::wire::sip::HeaderId;
use crate::wire::sip::Method;

/// Two callees and a caller who answer everything in a random way, over a network that loses and doubles.
struct Chaos {
    ladder: Ladder,
    random: Random,
    alice: Option<Phone>,
    callees: Vec<Phone>,
    /// On their way to the call.
    pending: Vec<(u8, String)>,
    /// What each phone answered before, so that a repeat gets the same.
    answered: BTreeSet<String>,
}

const CALLER: [&str; 4] = [
    "",
    "Supported: 100rel\r\n",
    "Require: 100rel\r\nSupported: timer\r\nSession-Expires: 90\r\n",
    "Supported: timer\r\nSession-Expires: 300;refresher=uac\r\n",
];

impl Chaos {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let body = if random.chance(1, 4) { String::new() } else { sdp(10, "") };
        let text = invite(CALLER[random.below(4) as usize], &body);
        let ladder = Ladder::new(&text, &[20, 21]);
        let pending = vec![(10, text)];
        Self { ladder, random, alice: None, callees: Vec::new(), pending, answered: BTreeSet::new() }
    }

    fn send(&mut self, host: u8, text: String) {
        if self.random.chance(1, 8) {
            return;
        }
        if self.random.chance(1, 8) {
            self.pending.push((host, text.clone()));
        }
        self.pending.push((host, text));
    }

    fn deliver(&mut self) {
        for sent in self.ladder.take_sent() {
            let host = sent.flow.peer.ip().to_string().rsplit('.').next().unwrap().parse().unwrap();
            if sent.text.starts_with("SIP/2.0") {
                self.on_response(host, &sent);
            } else {
                self.on_request(host, &sent);
            }
        }
    }

    fn on_response(&mut self, host: u8, sent: &Sent) {
        let message = parse(&sent.text);
        let status = message.response().unwrap().status.code();
        let method = message.method();
        if host != 10 || method != Method::Invite || status == 100 {
            return;
        }
        if status >= 300 {
            let ack = Phone::ack_failure(&invite("", ""), sent);
            return self.send(10, ack);
        }
        if self.alice.is_none() {
            self.alice = Some(Phone::alice(sent));
        }
        let mut alice = Phone::alice(sent);
        alice.cseq = self.alice.as_ref().unwrap().cseq;
        if status >= 200 {
            let body = if self.random.chance(3, 4) { sdp(10, "") } else { String::new() };
            let ack = alice.ack(sent.cseq(), &body);
            self.send(10, ack);
        } else if sent.has(HeaderId::RSeq) {
            let rack = format!("RAck: {} 10 INVITE\r\n", sent.header(HeaderId::RSeq));
            let prack = alice.request("PRACK", &rack, "");
            self.send(10, prack);
        }
        self.alice = Some(alice);
    }

    fn on_request(&mut self, host: u8, sent: &Sent) {
        let method = parse(&sent.text).method();
        if method == Method::Ack || !self.answered.insert(sent.text.clone()) && self.random.chance(1, 2) {
            return;
        }
        let tag = if self.random.chance(1, 10) { "other" } else { "t" };
        let statuses: &[u16] = match method {
            Method::Invite => &[100, 180, 183, 200, 200, 200, 486, 491, 481, 422, 603, 302],
            _ => &[200, 200, 200, 481, 500],
        };
        for _ in 0..=self.random.below(3) {
            let status = statuses[self.random.below(statuses.len() as u64) as usize];
            let reliable = (101..200).contains(&status) && self.random.chance(1, 3);
            let more = if reliable {
                format!("Require: 100rel\r\nRSeq: {}\r\n", 1 + self.random.below(2))
            } else {
                String::new()
            };
            let body = if self.random.chance(2, 3) && method == Method::Invite && (101..300).contains(&status) {
                sdp(host, "")
            } else {
                String::new()
            };
            let text = sent.response(status, if status == 100 { "" } else { tag }, &more, &body);
            self.send(host, text);
        }
        if method == Method::Invite && host != 10 && sent.tag().is_empty() {
            self.callees.push(Phone::callee(host, sent, tag));
        }
    }

    /// Something that a person or a phone does by itself.
    fn act(&mut self) {
        let methods = ["BYE", "INVITE", "INVITE", "UPDATE", "INFO", "OPTIONS"];
        let method = methods[self.random.below(6) as usize];
        let body = if self.random.chance(2, 3) && method != "BYE" { sdp(30, "a=sendonly\r\n") } else { String::new() };
        if self.random.chance(1, 40) {
            return self.send(10, cancel(""));
        }
        if self.random.chance(1, 100) {
            return self.ladder.step(CallInput::FlowClosed(flow(20)));
        }
        let count = self.callees.len() as u64;
        let phone = match self.random.below(2) {
            0 => self.alice.as_mut(),
            _ => self.callees.get_mut(self.random.below(count) as usize),
        };
        if let Some(phone) = phone {
            let (host, text) = (phone.host, phone.request(method, "", &body));
            self.send(host, text);
        }
    }

    fn run(&mut self) {
        for _ in 0..60 {
            self.deliver();
            if self.random.chance(1, 6) {
                self.act();
            }
            let count = self.pending.len() as u64;
            if count > 0 && self.random.chance(3, 4) {
                let (host, text) = self.pending.swap_remove(self.random.below(count) as usize);
                self.ladder.receive(host, &text);
            }
            let pause = self.random.below(1_500);
            self.ladder.advance(Duration::from_millis(pause));
        }
    }
}

#[test]
fn every_call_ends_once_and_leaves_nothing() {
    for seed in 0..200 {
        let mut chaos = Chaos::new(seed);
        chaos.ladder.name = format!("seed {seed}");
        chaos.run();
        chaos.ladder.step(CallInput::Hangup { by: By::Operator, text: String::new() });
        chaos.ladder.finish();
    }
}

/// RFC 3261: without anybody's help, a call nobody answers for is over.
#[test]
fn silence_settles_every_call() {
    for seed in 0..200 {
        let mut chaos = Chaos::new(seed);
        chaos.run();
        chaos.ladder.advance(Duration::from_secs(400));
        chaos.ladder.step(CallInput::Hangup { by: By::Operator, text: String::new() });
        chaos.ladder.finish();
    }
}
