//! What somebody can do with a registered phone, or with what he has read of another's: nothing beyond that phone.

use super::*;
use crate::base::id::Handle;
use crate::machine::flow::Connection;
use crate::wire::sip::HeaderId;

const SDP: &str =
    "v=0\r\no=- 1 1 IN IP4 198.51.100.1\r\ns=-\r\nc=IN IP4 198.51.100.1\r\nt=0 0\r\nm=audio 7000 RTP/AVP 0\r\n";

fn header(text: &str, id: HeaderId) -> String {
    String::from_utf8(fixture::message(text).header(id).unwrap().to_vec()).unwrap()
}

/// A message with a description, or another one than it has.
fn with_sdp(text: &str) -> String {
    let (head, _) = text.split_once("Content-Length:").unwrap();
    format!("{head}Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{SDP}", SDP.len())
}

fn tcp(peer: &str, slot: u32) -> Flow {
    let connection = Connection { shard: ShardId(0), handle: Handle { slot, generation: 1 } };
    Flow { connection: Some(connection), ..Flow::udp(0, peer.parse().unwrap()) }
}

/// Alice talks with Bob.
struct Talk {
    world: World,
    alice: Caller,
    bob: Caller,
    /// The 200 that Alice has got, and the INVITE that Bob has.
    answer: String,
    offer: String,
    cseq: u32,
}

impl Talk {
    fn new() -> Self {
        let mut world = world();
        let mut bob = Caller::new("1001", "198.51.100.2:5060");
        assert_eq!(world.register(&mut bob), 200);
        let mut alice = Caller::new("1000", "198.51.100.1:5060");
        assert_eq!(world.register(&mut alice), 200);
        let invite = with_sdp(&alice.invite("1001", ""));
        let sent = world.receive(alice.flow, &invite);
        let offer = sent.into_iter().find(|(flow, _)| *flow == bob.flow).unwrap().1;
        let contact = format!("Contact: <sip:1001@{}>\r\nContent-Length:", bob.local);
        let accepted = fixture::response(&offer, 200, "b").replace("Content-Length:", &contact);
        let sent = world.receive(bob.flow, &with_sdp(&accepted));
        let answer = sent.into_iter().find(|(flow, _)| *flow == alice.flow).unwrap().1;
        Self { world, alice, bob, answer, offer, cseq: 100 }
    }

    /// A request in the dialog of one of the two; `more` are header lines.
    fn request(&mut self, of_alice: bool, method: &str, more: &str) -> String {
        self.cseq += 1;
        let source = if of_alice { &self.answer } else { &self.offer };
        let (from, to) = (header(source, HeaderId::From), header(source, HeaderId::To));
        let (from, to) = if of_alice { (from, to) } else { (format!("{to};tag=b"), from) };
        let contact = header(source, HeaderId::Contact);
        let target = contact.trim_matches(['<', '>']);
        let cseq =
            if method == "ACK" { header(source, HeaderId::CSeq).replace("INVITE", "") } else { self.cseq.to_string() };
        format!(
            "{method} {target} SIP/2.0\r\nVia: SIP/2.0/UDP 203.0.113.9:5060;branch=z9hG4bKd{cseq};rport\r\nMax-Forwards: 70\r\n\
             From: {from}\r\nTo: {to}\r\nCall-ID: {}\r\nCSeq: {} {method}\r\n{more}Content-Length: 0\r\n\r\n",
            header(source, HeaderId::CallId),
            cseq.trim(),
        )
    }

    /// The request with the credential of `phone`, whose nonce `challenge` brings.
    fn authorized(&mut self, of_alice: bool, method: &str, mut phone: Caller, challenge: &Option<String>) -> String {
        assert!(phone.learn(challenge), "{challenge:?}");
        let source = if of_alice { &self.answer } else { &self.offer };
        let contact = header(source, HeaderId::Contact);
        let credential = phone.authorization(method, contact.trim_matches(['<', '>']));
        self.request(of_alice, method, &credential)
    }

    fn is_up(&self) -> bool {
        self.world.exchange.calls.iter().any(|(_, call)| call.is_up())
    }
}

fn at(address: &str) -> Flow {
    Flow::udp(0, address.parse().unwrap())
}

#[test]
fn who_knows_the_tags_does_not_take_a_call_over() {
    // From anywhere, from another port behind the phone's address, and over another connection from there.
    for source in ["203.0.113.9:5060", "198.51.100.1:6666", "198.51.100.2:6666"] {
        for flow in [at(source), tcp(source, 9)] {
            for of_alice in [true, false] {
                let mut talk = Talk::new();
                for method in ["BYE", "INFO", "UPDATE", "INVITE", "PRACK", "OPTIONS", "REFER"] {
                    let request = talk.request(of_alice, method, "");
                    let request = if ["UPDATE", "INVITE"].contains(&method) { with_sdp(&request) } else { request };
                    let sent = talk.world.receive(flow, &request);
                    let texts: Vec<_> = sent.iter().map(|(to, text)| (*to, &text[..11])).collect();
                    assert_eq!(texts, [(flow, "SIP/2.0 401")], "{method} from {source}");
                    // A stranger's answers are few.
                    talk.world.advance(Duration::from_secs(1));
                }
                assert!(talk.is_up());
                assert_eq!(talk.world.exchange.counts().elsewhere, 7);
            }
        }
    }
}

#[test]
fn an_ack_from_elsewhere_is_none() {
    let mut talk = Talk::new();
    let ack = talk.request(true, "ACK", "");
    assert_eq!(talk.world.receive(at("203.0.113.9:5060"), &ack), []);
    let sent = talk.world.advance(Duration::from_millis(600));
    assert!(sent.iter().any(|(_, text)| text.starts_with("SIP/2.0 200")), "the 200 still waits for its ACK: {sent:?}");
    assert_eq!(talk.world.receive(at("198.51.100.1:40001"), &ack), []);
    assert_eq!(talk.world.advance(Duration::from_secs(8)), [], "its ACK came from the phone's address");
}

#[test]
fn a_phone_that_moved_goes_on_with_its_credential() {
    for of_alice in [true, false] {
        for flow in [at("203.0.113.9:5060"), tcp("203.0.113.9:40000", 9), tcp("198.51.100.1:40000", 9)] {
            let mut talk = Talk::new();
            let request = talk.request(of_alice, "INFO", "");
            let challenge = talk.world.answer(flow, &request);
            let user = if of_alice { "1000" } else { "1001" };
            // Another phone of the same tenant has a credential too, but not for this dialog.
            let other = Caller::new("1002", "203.0.113.9:5060");
            let foreign = talk.authorized(of_alice, "BYE", other, &challenge);
            assert_eq!(status(&talk.world.answer(flow, &foreign)), 403);
            let own = Caller::new(user, "203.0.113.9:5060");
            let again = talk.authorized(of_alice, "BYE", own, &challenge);
            let sent = talk.world.receive(flow, &again);
            assert!(sent.iter().any(|(to, text)| *to == flow && text.starts_with("SIP/2.0 200")), "{sent:?}");
            assert!(!talk.is_up());
        }
    }
}

#[test]
fn a_phone_that_registered_anew_goes_on_without_being_asked() {
    for of_alice in [true, false] {
        for (address, is_tcp) in
            [("203.0.113.9:5060", false), ("203.0.113.9:40000", true), ("198.51.100.1:40000", true)]
        {
            let mut talk = Talk::new();
            let phone = if of_alice { &mut talk.alice } else { &mut talk.bob };
            phone.flow = if is_tcp { tcp(address, 9) } else { at(address) };
            phone.nonce = None;
            assert_eq!(talk.world.register(phone), 200);
            let flow = phone.flow;
            let bye = talk.request(of_alice, "BYE", "");
            let sent = talk.world.receive(flow, &bye);
            assert!(sent.iter().any(|(to, text)| *to == flow && text.starts_with("SIP/2.0 200")), "{sent:?}");
        }
    }
}

#[test]
fn a_registered_phone_is_no_other_phone() {
    let mut talk = Talk::new();
    let mut mallory = Caller::new("1002", "203.0.113.9:5060");
    assert_eq!(talk.world.register(&mut mallory), 200);
    let bye = talk.request(true, "BYE", "");
    assert_eq!(status(&talk.world.answer(mallory.flow, &bye)), 401);
    assert!(talk.is_up());
}

#[test]
fn a_credential_opens_no_other_call() {
    let mut world = world();
    let mut alice = Caller::new("1000", "198.51.100.1:5060");
    for (asked, expected) in [
        ("sip:1002@acme.test", 400),
        ("sip:+4930@acme.test", 400),
        ("sip:1001@192.0.2.250:5060", 480),
        ("sip:1001@acme.test;user=phone", 480),
    ] {
        let invite = invite(&mut world, &mut alice, "1001", "");
        let redirected = invite.replacen("INVITE sip:1001@acme.test ", &format!("INVITE {asked} "), 1);
        let sent = world.receive(alice.flow, &redirected);
        let last = sent.into_iter().last().map(|(_, text)| text);
        assert_eq!(status(&last), expected, "{asked}");
    }
    assert_eq!(world.exchange.counts().misdirected, 2);
}

#[test]
fn another_tenants_numbers_look_like_nobodys() {
    let mut world = world();
    let stranger = crate::wire::link::Phone { numbers: vec!["+49302000".into()], ..fixture::phone("globex", "2000") };
    let (tenants, phones) = (vec![fixture::tenant("globex")], vec![stranger]);
    world.directory.apply(2, DirectoryPart { tenants, phones, ..DirectoryPart::default() });
    let mut alice = Caller::new("1000", "198.51.100.1:5060");
    assert_eq!(world.register(&mut alice), 200);
    let mut answers = Vec::new();
    for uri in [
        "sip:2000@globex.test",
        "sip:2001@globex.test",
        "sip:2000@nobody.test",
        "sip:2000@acme.test",
        "sip:+49302000@acme.test",
        "sip:+49302001@acme.test",
        "tel:+49302000",
        "tel:+49302001",
        "tel:2000;phone-context=globex.test",
        "tel:2000;phone-context=nobody.test",
    ] {
        for method in ["INVITE", "OPTIONS"] {
            let contact = format!("Contact: <sip:1000@{}>\r\n", alice.local);
            let request = alice.request_to(method, uri, &contact);
            let (_, text) = world.receive(alice.flow, &request).into_iter().last().unwrap();
            // What differs is what the request said.
            let kept = text
                .lines()
                .filter(|line| !["Via", "From", "To", "Call-ID", "CSeq"].iter().any(|id| line.starts_with(id)));
            answers.push((method, uri, kept.collect::<Vec<_>>().join("\n")));
            let ack = request.replace("INVITE", "ACK");
            world.receive(alice.flow, &ack);
        }
    }
    for (method, uri, answer) in &answers {
        let first = &answers.iter().find(|(other, ..)| other == method).unwrap().2;
        assert!(answer.starts_with("SIP/2.0 404"), "{method} {uri}: {answer}");
        assert_eq!(answer, first, "{method} {uri}");
    }
}

#[test]
fn the_shard_of_the_phone_is_asked_where_it_is_registered() {
    let mut node = Node::new();
    let shared = Shared { settings: &node.settings, directory: &node.directory };
    let home = |user: &str| {
        let aor = crate::machine::outbox::Aor { tenant: "acme".into(), user: user.into() };
        crate::machine::exchange::owner::shard_of(&aor, shared).0
    };
    let shards = ["1000", "1001", "1002"].map(|user| (user, home(user)));
    let (caller, of_caller) = shards[0];
    let (callee, of_callee) = *shards.iter().find(|(_, shard)| *shard != of_caller).expect("phones of both shards");
    let register = |node: &mut Node, phone: &mut Caller| {
        phone.nonce = None;
        for expected in [401, 200] {
            let request = phone.request(&phone.contact());
            let answer = node.read(0, phone.flow, &request);
            assert_eq!(status(&answer), expected);
            phone.learn(&answer);
        }
    };
    let mut alice = Caller::new(caller, "198.51.100.1:5060");
    let mut bob = Caller::new(callee, "198.51.100.2:5060");
    register(&mut node, &mut alice);
    register(&mut node, &mut bob);
    let invite = with_sdp(&alice.invite(callee, ""));
    let offer = node.read_all(1, alice.flow, &invite).into_iter().find(|(flow, _)| *flow == bob.flow).unwrap().1;
    let contact = format!("Contact: <sip:{callee}@{}>\r\nContent-Length:", bob.local);
    let accepted = with_sdp(&fixture::response(&offer, 200, "b").replace("Content-Length:", &contact));
    let answer =
        node.read_all(of_caller, bob.flow, &accepted).into_iter().find(|(flow, _)| *flow == alice.flow).unwrap().1;
    let world = world();
    let mut talk = Talk { world, alice, bob, answer, offer, cseq: 100 };
    let bye = talk.request(false, "BYE", "");
    let stranger = at("203.0.113.9:5060");
    for reader in [of_caller, of_callee] {
        assert_eq!(status(&node.read(reader, stranger, &bye)), 401);
    }
    talk.bob.flow = tcp("203.0.113.9:40000", 9);
    register(&mut node, &mut talk.bob);
    let sent = node.read_all(of_callee, talk.bob.flow, &bye);
    assert!(sent.iter().any(|(to, text)| *to == talk.bob.flow && text.starts_with("SIP/2.0 200")), "{sent:?}");
}
