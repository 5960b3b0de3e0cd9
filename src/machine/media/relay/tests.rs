//! Two phones, a stranger and a virtual clock: latching, bleed, hold, RTCP, silence, and restoring at any step.

use proptest::prelude::*;

use super::*;
use crate::base::id::CallId;
use crate::base::id::Handle;
use crate::base::time::UnixTime;
use crate::machine::media::announcement::Player;
use crate::machine::media::announcement::Sound;
use crate::machine::media::announcement::Voice;
use crate::machine::media::command::Clocks;
use crate::machine::media::command::Ssrcs;
use crate::machine::media::latch::Rank;
use crate::wire::link::Symmetric;
use crate::wire::tape::record::Untaped;

const A: PairId = PairId(0);
const B: PairId = PairId(1);
const C: PairId = PairId(2);
/// Two phones with public addresses, and somebody else.
const ALICE: &str = "192.0.2.10:4000";
const BOB: &str = "192.0.2.20:5000";
const MALLORY: &str = "203.0.113.66:6666";

struct World {
    relay: Relay,
    now: Now,
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn settings() -> RelaySettings {
    RelaySettings {
        own: vec!["198.51.100.1".parse().unwrap(), "2001:db8:1::1".parse().unwrap()],
        own_ports: (16_384, 32_767),
        bounds: MediaBounds::default(),
        media_timeout: Duration::from_secs(60),
    }
}

fn expectation(rtp: &str) -> Expectation {
    let rtp = address(rtp);
    Expectation {
        rtp: Some(rtp),
        rtcp: Some(SocketAddr::new(rtp.ip(), rtp.port() + 1)),
        signalling: rtp.ip(),
        mux: false,
        secure: false,
        sends: true,
        receives: true,
        clocks: Clocks::default(),
        payload_types: [0, 101].into_iter().collect(),
        ssrcs: Ssrcs::default(),
        symmetric: Symmetric::Auto,
        anybody: false,
    }
}

fn nat(rtp: &str, signalling: &str) -> Expectation {
    Expectation { signalling: signalling.parse().unwrap(), ..expectation(rtp) }
}

fn rtp(ssrc: u32, sequence: u16) -> Vec<u8> {
    let mut packet = vec![0x80, 0];
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.extend_from_slice(&(u32::from(sequence) * 160).to_be_bytes());
    packet.extend_from_slice(&ssrc.to_be_bytes());
    packet.extend_from_slice(&[0xD5; 160]);
    packet
}

fn sender_report(ssrc: u32, ntp_middle: u32) -> Vec<u8> {
    let mut packet = vec![0x80, 200, 0, 6];
    for word in [ssrc, ntp_middle >> 16, ntp_middle << 16, 0, 0, 0] {
        packet.extend_from_slice(&word.to_be_bytes());
    }
    packet
}

fn receiver_report(ssrc: u32, about: u32, last_sender_report: u32, delay: u32) -> Vec<u8> {
    let mut packet = vec![0x81, 201, 0, 7];
    for word in [ssrc, about, 0x1000_0003, 0, 0, last_sender_report, delay] {
        packet.extend_from_slice(&word.to_be_bytes());
    }
    packet
}

fn forward(slot: u32, peer: &str) -> Verdict {
    Verdict::Forward { slot, peer: address(peer) }
}

impl World {
    fn new() -> Self {
        Self::with_pairs(200)
    }

    fn with_pairs(pairs: usize) -> Self {
        let now = Now { instant: Instant::from_millis(1_000_000), unix: UnixTime::from_secs(1_700_000_000) };
        Self { relay: Relay::new(settings(), pairs), now }
    }

    /// Alice on A and Bob on B, bridged, nothing latched.
    fn call() -> Self {
        let mut world = Self::new();
        world.open(A, expectation(ALICE));
        world.open(B, expectation(BOB));
        world.handle(MediaCommand::Bridge { a: A, b: B });
        world
    }

    /// The same, both latched.
    fn talking() -> Self {
        let mut world = Self::call();
        assert_eq!(world.rtp(A, ALICE, 1, 1), forward(2, BOB));
        assert_eq!(world.rtp(B, BOB, 2, 1), forward(0, ALICE));
        world.outputs();
        world
    }

    fn open(&mut self, pair: PairId, expectation: Expectation) {
        let local = if expectation.rtp.is_some_and(|rtp| rtp.is_ipv6()) {
            "[2001:db8:1::1]:16384"
        } else {
            "198.51.100.1:16384"
        };
        let call = Handle { slot: 7, generation: 1 };
        let owner = Owner { call, leg: pair.0 as u8, media: 0 };
        self.handle(MediaCommand::Open { pair, owner, local: address(local) });
        self.handle(MediaCommand::Expect { pair, expectation });
    }

    fn expect(&mut self, pair: PairId, expectation: Expectation) {
        self.handle(MediaCommand::Expect { pair, expectation });
    }

    fn watch(&mut self) {
        self.handle(MediaCommand::Watch { pair: A, on: true });
        self.handle(MediaCommand::Watch { pair: B, on: true });
    }

    fn handle(&mut self, command: MediaCommand) {
        self.relay.handle(command, self.now);
    }

    fn rtp(&mut self, pair: PairId, source: &str, ssrc: u32, sequence: u16) -> Verdict {
        self.relay.packet(pair.rtp_slot(), address(source), &rtp(ssrc, sequence), self.now)
    }

    fn rtcp(&mut self, pair: PairId, source: &str, packet: &[u8]) -> Verdict {
        self.relay.packet(pair.rtcp_slot(), address(source), packet, self.now)
    }

    fn pass(&mut self, time: Duration) {
        self.now.instant = self.now.instant + time;
    }

    /// Lets time pass with the deadlines met.
    fn wait(&mut self, time: Duration) {
        let end = self.now.instant + time;
        while let Some(deadline) = self.relay.next_deadline().filter(|deadline| *deadline <= end) {
            self.now.instant = deadline;
            self.relay.handle_timeout(self.now);
            self.relay.play(self.now, |_| FILE);
        }
        self.now.instant = end;
    }

    /// Both talk for so many packets of 20 ms.
    fn talk(&mut self, from: u16, packets: u16) {
        for sequence in from..from + packets {
            self.rtp(A, ALICE, 1, sequence);
            self.rtp(B, BOB, 2, sequence);
            self.wait(Duration::from_millis(20));
        }
    }

    fn outputs(&mut self) -> Vec<MediaOutput> {
        std::iter::from_fn(|| self.relay.next_output()).collect()
    }

    fn notices(&mut self) -> Vec<(PairId, Notice)> {
        let notices = self.outputs().into_iter().filter_map(|output| match output {
            MediaOutput::Notice(notice) => Some((notice.pair, notice.notice)),
            MediaOutput::Socket(_) | MediaOutput::Packet { .. } => None,
        });
        notices.collect()
    }

    fn sockets(&mut self) -> Vec<SocketCommand> {
        let commands = self.outputs().into_iter().filter_map(|output| match output {
            MediaOutput::Socket(command) => Some(command),
            MediaOutput::Notice(_) | MediaOutput::Packet { .. } => None,
        });
        commands.collect()
    }
}

/// A tenant's announcement: three packets.
const FILE: &[u8] = &[0x55; 480];

const STRANGER: Verdict = Verdict::Drop(DropReason::Stranger);

#[test]
fn packets_go_across_before_and_after_the_latch() {
    let mut world = World::call();
    // Bob was not heard yet: his described address gets it.
    assert_eq!(world.rtp(A, ALICE, 1, 1), forward(B.rtp_slot(), BOB));
    assert_eq!(world.rtp(B, "192.0.2.20:5555", 2, 1), forward(A.rtp_slot(), ALICE));
    assert_eq!(world.rtp(A, ALICE, 1, 2), forward(B.rtp_slot(), BOB));
    assert_eq!(world.relay.copy_to(), Some(address("192.0.2.20:5555")));
    let latched = |source, rank| Notice::Latched { source: address(source), rank };
    assert_eq!(world.notices(), [(A, latched(ALICE, Rank::Exact)), (B, latched("192.0.2.20:5555", Rank::SameAddress))]);
}

#[test]
fn strangers_are_neither_heard_nor_served() {
    let mut world = World::call();
    for sequence in 0..50 {
        assert_eq!(world.rtp(A, MALLORY, 9, sequence), STRANGER);
        assert_eq!(world.rtcp(A, MALLORY, &sender_report(9, 1)), STRANGER);
    }
    assert_eq!(world.rtp(B, BOB, 2, 1), forward(0, ALICE));
    world.rtp(A, ALICE, 1, 1);
    for sequence in 2..50 {
        // Not even with the right SSRC and the next sequence number, nor from the same host while the phone speaks.
        assert_eq!(world.rtp(A, MALLORY, 1, sequence), STRANGER);
        assert_eq!(world.rtp(A, "192.0.2.10:4002", 1, sequence), STRANGER);
        assert_eq!(world.rtp(B, BOB, 2, sequence), forward(0, ALICE));
    }
    world.pass(Duration::from_secs(10));
    assert_eq!(world.rtp(A, MALLORY, 1, 50), STRANGER);
    assert_eq!(world.relay.report(A).unwrap().strangers, 50 + 50 + 2 * 48 + 1);
}

#[test]
fn without_a_description_nobody_is_believed() {
    let mut world = World::new();
    world.open(A, expectation(ALICE));
    let owner = Owner { call: Handle { slot: 1, generation: 0 }, leg: 1, media: 0 };
    world.handle(MediaCommand::Open { pair: B, owner, local: address("198.51.100.1:16386") });
    world.handle(MediaCommand::Bridge { a: A, b: B });
    assert_eq!(world.rtp(B, BOB, 2, 1), STRANGER);
    assert_eq!(world.rtp(A, ALICE, 1, 1), Verdict::Drop(DropReason::Direction));
    let mut held = expectation(BOB);
    (held.rtp, held.rtcp) = (None, None);
    world.expect(B, held);
    assert_eq!(world.rtp(A, ALICE, 1, 2), Verdict::Drop(DropReason::NoDestination));
    // The address its signalling comes from vouches for it.
    assert_eq!(world.rtp(B, BOB, 2, 1), forward(0, ALICE));
}

#[test]
fn behind_a_nat_the_signalling_vouches() {
    let mut world = World::call();
    world.expect(B, nat("10.0.0.5:5000", "203.0.113.9"));
    // An inside address is of no use; the outside one with the described port may be.
    assert_eq!(world.rtp(A, ALICE, 1, 1), forward(2, "203.0.113.9:5000"));
    assert_eq!(world.rtp(B, MALLORY, 9, 1), STRANGER);
    assert_eq!(world.rtp(B, "203.0.113.9:61000", 2, 1), forward(0, ALICE));
    assert_eq!(world.rtp(A, ALICE, 1, 2), forward(2, "203.0.113.9:61000"));
    // Without a NAT the signalling's address does not count: the described host is the only one.
    let mut world = World::call();
    world.expect(B, nat("192.0.2.20:5000", "192.0.2.20"));
    assert_eq!(world.rtp(B, "203.0.113.9:5000", 2, 1), STRANGER);
}

#[test]
fn inside_one_network_the_described_address_is_used() {
    let mut world = World::call();
    world.expect(B, nat("10.0.0.5:5000", "10.0.0.1"));
    assert_eq!(world.rtp(A, ALICE, 1, 1), forward(2, "10.0.0.5:5000"));
}

#[test]
fn our_own_ports_are_never_believed() {
    let mut world = World::call();
    world.expect(B, nat("10.0.0.5:5000", "198.51.100.1"));
    assert_eq!(world.rtp(B, "198.51.100.1:16390", 2, 1), STRANGER);
    assert_eq!(world.rtcp(B, "198.51.100.1:16391", &sender_report(2, 1)), STRANGER);
}

#[test]
fn media_is_never_sent_to_ourselves_or_to_nobody() {
    let check = |rtp: &str, loopback: bool, verdict: Verdict| {
        let mut world = World::new();
        world.relay =
            Relay::new(RelaySettings { bounds: MediaBounds { loopback, ..MediaBounds::default() }, ..settings() }, 4);
        world.open(A, expectation(ALICE));
        world.open(B, expectation(rtp));
        world.handle(MediaCommand::Bridge { a: A, b: B });
        assert_eq!(world.rtp(A, ALICE, 1, 1), verdict, "{rtp}");
    };
    let refused = Verdict::Drop(DropReason::NoDestination);
    check("198.51.100.1:16384", false, refused);
    check("198.51.100.1:40000", false, forward(2, "198.51.100.1:40000"));
    check("127.0.0.1:5000", false, refused);
    check("127.0.0.1:5000", true, forward(2, "127.0.0.1:5000"));
    check("[::1]:5000", false, refused);
    check("224.0.0.5:5000", true, refused);
    check("255.255.255.255:5000", true, refused);
    check("0.0.0.0:5000", true, refused);
    check("192.0.2.20:0", true, refused);
}

#[test]
fn the_same_description_again_changes_nothing_while_the_party_speaks() {
    let mut world = World::call();
    world.expect(B, nat("10.0.0.5:5000", "203.0.113.9"));
    world.rtp(B, "203.0.113.9:61000", 2, 1);
    world.pass(Duration::from_secs(1));
    world.expect(B, nat("10.0.0.5:5000", "203.0.113.9"));
    assert_eq!(world.rtp(A, ALICE, 1, 1), forward(2, "203.0.113.9:61000"));
    assert_eq!(world.rtp(B, "203.0.113.9:62000", 9, 2), STRANGER, "another stream");
}

#[test]
fn after_a_long_hold_the_same_description_opens_the_latch() {
    let mut world = World::call();
    world.expect(B, nat("10.0.0.5:5000", "203.0.113.9"));
    world.rtp(B, "203.0.113.9:61000", 2, 1);
    world.pass(Duration::from_secs(300));
    world.expect(B, nat("10.0.0.5:5000", "203.0.113.9"));
    assert_eq!(world.rtp(A, ALICE, 1, 1), forward(2, "203.0.113.9:61000"));
    assert_eq!(world.rtp(B, MALLORY, 77, 1), STRANGER);
    assert_eq!(world.rtp(B, "203.0.113.9:62000", 77, 500), forward(0, ALICE));
    assert_eq!(world.rtp(A, ALICE, 1, 2), forward(2, "203.0.113.9:62000"));
}

#[test]
fn directions_hold_media_but_not_rtcp() {
    let mut world = World::talking();
    world.expect(A, Expectation { sends: true, receives: false, ..expectation(ALICE) });
    world.expect(B, Expectation { sends: false, receives: true, ..expectation(BOB) });
    assert_eq!(world.rtp(A, ALICE, 1, 2), forward(2, BOB));
    assert_eq!(world.rtp(B, BOB, 2, 2), Verdict::Drop(DropReason::Direction));
    assert_eq!(world.rtcp(B, "192.0.2.20:5001", &sender_report(2, 1)), forward(1, "192.0.2.10:4001"));
    // Each side's direction counts alone.
    world.expect(A, expectation(ALICE));
    assert_eq!(world.rtp(B, BOB, 2, 3), Verdict::Drop(DropReason::Direction));
    world.expect(B, Expectation { receives: false, ..expectation(BOB) });
    assert_eq!(world.rtp(B, BOB, 2, 4), forward(0, ALICE));
    assert_eq!(world.rtp(A, ALICE, 1, 3), Verdict::Drop(DropReason::Direction));
}

/// RFC 3264 §5.1: who offers to receive is prepared to as soon as the offer is sent, and the answer may come behind the media.
#[test]
fn what_an_offer_resumes_goes_through_before_its_answer() {
    let mut world = World::talking();
    let held = [
        (A, Expectation { receives: false, ..expectation(ALICE) }),
        (B, Expectation { sends: false, ..expectation(BOB) }),
    ];
    let hold = |world: &mut World| held.iter().for_each(|(pair, expectation)| world.expect(*pair, *expectation));
    hold(&mut world);
    assert_eq!(world.rtp(B, BOB, 2, 2), Verdict::Drop(DropReason::Direction));
    world.handle(MediaCommand::Permit { pair: B, on: true });
    assert_eq!(world.rtp(B, BOB, 2, 3), forward(0, ALICE));
    // The offer is refused, or its answer is another hold.
    world.handle(MediaCommand::Permit { pair: B, on: false });
    assert_eq!(world.rtp(B, BOB, 2, 4), Verdict::Drop(DropReason::Direction));
    world.handle(MediaCommand::Permit { pair: B, on: true });
    hold(&mut world);
    assert_eq!(world.rtp(B, BOB, 2, 5), Verdict::Drop(DropReason::Direction));
}

#[test]
fn only_the_chosen_branch_is_heard() {
    let mut world = World::call();
    world.open(C, expectation("192.0.2.30:7000"));
    world.rtp(B, BOB, 2, 1);
    assert_eq!(world.rtp(C, "192.0.2.30:7000", 3, 1), Verdict::Drop(DropReason::Unbridged));
    world.handle(MediaCommand::Bridge { a: A, b: C });
    assert_eq!(world.rtp(C, "192.0.2.30:7000", 3, 2), forward(0, ALICE));
    assert_eq!(world.rtp(B, BOB, 2, 2), Verdict::Drop(DropReason::Unbridged));
    assert_eq!(world.rtp(A, ALICE, 1, 1), forward(4, "192.0.2.30:7000"));
    world.handle(MediaCommand::Close { pair: B });
    assert_eq!(world.rtp(A, ALICE, 1, 2), forward(4, "192.0.2.30:7000"));
    world.handle(MediaCommand::Close { pair: C });
    assert_eq!(world.rtp(A, ALICE, 1, 3), Verdict::Drop(DropReason::Unbridged));
}

#[test]
fn rtcp_has_a_latch_of_its_own_beside_rtp() {
    let mut world = World::call();
    world.expect(B, nat("10.0.0.5:5000", "203.0.113.9"));
    world.rtp(A, ALICE, 1, 1);
    world.rtp(B, "203.0.113.9:61000", 2, 1);
    let report = sender_report(1, 1);
    // Nobody knows the port that the NAT will give to Bob's RTCP.
    assert_eq!(world.rtcp(A, "192.0.2.10:4001", &report), Verdict::Drop(DropReason::NoDestination));
    assert_eq!(world.rtcp(B, MALLORY, &sender_report(2, 1)), STRANGER);
    assert_eq!(world.rtcp(B, "203.0.113.9:61777", &sender_report(2, 1)), forward(1, "192.0.2.10:4001"));
    assert_eq!(world.rtcp(A, "192.0.2.10:4001", &report), forward(3, "203.0.113.9:61777"));
    assert_eq!(world.rtcp(B, "203.0.113.9:61778", &sender_report(2, 1)), STRANGER);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.rtcp(B, "203.0.113.9:61778", &sender_report(9, 1)), STRANGER);
    assert_eq!(world.rtcp(B, "203.0.113.9:61778", &sender_report(2, 1)), forward(1, "192.0.2.10:4001"));
}

#[test]
fn multiplexed_rtcp_crosses_to_a_party_that_does_not() {
    let mut world = World::talking();
    world.expect(A, Expectation { mux: true, ..expectation(ALICE) });
    let report = sender_report(1, 1);
    assert_eq!(world.relay.packet(0, address(ALICE), &report, world.now), forward(3, "192.0.2.20:5001"));
    assert_eq!(world.relay.packet(0, address(MALLORY), &report, world.now), STRANGER);
    assert_eq!(world.rtcp(B, "192.0.2.20:5001", &sender_report(2, 1)), forward(0, ALICE));
    // Bob did not agree to it.
    let verdict = world.relay.packet(2, address(BOB), &sender_report(2, 1), world.now);
    assert_eq!(verdict, Verdict::Drop(DropReason::Malformed));
    assert_eq!(world.relay.report(B).unwrap().packets, 1);
}

#[test]
fn multiplexed_rtcp_alone_latches() {
    let mut world = World::call();
    let held = Expectation { mux: true, sends: false, ..nat("10.0.0.5:5000", "203.0.113.9") };
    world.expect(B, held);
    let verdict = world.relay.packet(2, address("203.0.113.9:61000"), &receiver_report(2, 1, 0, 0), world.now);
    assert_eq!(verdict, forward(1, "192.0.2.10:4001"));
    assert_eq!(world.rtp(A, ALICE, 1, 1), forward(2, "203.0.113.9:61000"));
}

#[test]
fn families_meet() {
    let mut world = World::new();
    let six = "[2001:db8::7]:4000";
    world.open(A, expectation(six));
    world.open(B, expectation(BOB));
    world.handle(MediaCommand::Bridge { a: A, b: B });
    assert_eq!(world.rtp(A, six, 1, 1), forward(2, BOB));
    assert_eq!(world.rtp(B, BOB, 2, 1), forward(0, six));
    // A socket of one family cannot reach an address of the other.
    world.expect(B, expectation("[2001:db8::8]:5000"));
    assert_eq!(world.rtp(A, six, 1, 2), Verdict::Drop(DropReason::NoDestination));
}

#[test]
fn malformed_packets_do_not_latch() {
    let mut world = World::call();
    let whole = rtp(1, 1);
    for packet in [&whole[..0], &whole[..4], &whole[..11], &[0u8; 40], &[0x40; 40], &[0x9F; 14]] {
        let verdict = world.relay.packet(0, address(ALICE), packet, world.now);
        assert_eq!(verdict, Verdict::Drop(DropReason::Malformed), "{packet:?}");
        let verdict = world.relay.packet(1, address(ALICE), packet, world.now);
        assert_eq!(verdict, Verdict::Drop(DropReason::Malformed), "{packet:?}");
    }
    assert_eq!(world.relay.record(A).unwrap().latch.source(), None);
}

#[test]
fn sockets_are_connected_when_learned_and_disconnected_in_silence() {
    let mut world = World::call();
    let all = (0..4).map(|slot| SocketCommand::Open { slot }).collect::<Vec<_>>();
    assert_eq!(world.sockets(), all);
    world.rtp(A, ALICE, 1, 1);
    assert_eq!(world.sockets(), [SocketCommand::Connect { slot: 0, peer: address(ALICE) }]);
    assert_eq!(world.relay.connections().collect::<Vec<_>>(), [(0, address(ALICE))]);
    // On trial for three seconds. Nobody better can come: what it described means nothing to us.
    world.expect(B, nat("10.0.0.5:5000", "203.0.113.9"));
    let source = "203.0.113.9:61000";
    let connect = [SocketCommand::Connect { slot: 2, peer: address(source) }];
    for sequence in 1..=150 {
        world.rtp(A, ALICE, 1, sequence);
        world.rtp(B, source, 2, sequence);
        assert_eq!(world.sockets(), []);
        world.wait(Duration::from_millis(20));
    }
    world.rtp(A, ALICE, 1, 151);
    world.rtp(B, source, 2, 151);
    assert_eq!(world.sockets(), connect);
    world.wait(Duration::from_millis(80));
    world.rtp(A, ALICE, 1, 152);
    assert_eq!(world.sockets(), []);
    world.wait(Duration::from_millis(81));
    assert_eq!(world.sockets(), [SocketCommand::Disconnect { slot: 2 }]);
    // One packet may be comfort noise of a long pause.
    world.rtp(B, source, 2, 152);
    assert_eq!(world.sockets(), []);
    world.rtp(B, source, 2, 153);
    assert_eq!(world.sockets(), connect);
    world.handle(MediaCommand::Close { pair: B });
    assert!(world.sockets().contains(&SocketCommand::Close { slot: 2 }));
}

#[test]
fn silence_is_told_once_where_packets_were_promised() {
    let mut world = World::talking();
    world.watch();
    let since = world.now.instant;
    world.wait(Duration::from_secs(59));
    assert_eq!(world.notices(), []);
    world.wait(Duration::from_secs(3));
    assert_eq!(world.notices(), [(A, Notice::Silent { since }), (B, Notice::Silent { since })]);
    world.wait(Duration::from_secs(100));
    assert_eq!(world.notices(), []);
    // A sign of life, then silence again.
    world.rtp(A, ALICE, 1, 2);
    world.wait(Duration::from_secs(62));
    let silent = world.notices().into_iter().filter(|(_, notice)| matches!(notice, Notice::Silent { .. }));
    assert_eq!(silent.map(|(pair, _)| pair).collect::<Vec<_>>(), [A]);
}

#[test]
fn a_party_that_never_sent_is_silent_too() {
    let mut world = World::call();
    world.pass(Duration::from_secs(30));
    world.watch();
    let since = world.now.instant;
    world.wait(Duration::from_secs(62));
    assert_eq!(world.notices(), [(A, Notice::Silent { since }), (B, Notice::Silent { since })]);
}

#[test]
fn held_parties_and_rtcp_keep_a_call_alive() {
    let mut world = World::talking();
    world.watch();
    world.expect(A, Expectation { sends: false, ..expectation(ALICE) });
    world.expect(B, Expectation { receives: false, ..expectation(BOB) });
    for _ in 0..20 {
        world.wait(Duration::from_secs(30));
        world.rtcp(B, "192.0.2.20:5001", &sender_report(2, 1));
    }
    assert_eq!(world.notices(), []);
    // Resumed: the promise counts from here, not from the last packet before the hold.
    world.expect(A, expectation(ALICE));
    world.wait(Duration::from_secs(50));
    assert_eq!(world.notices(), []);
    world.wait(Duration::from_secs(12));
    assert_eq!(world.notices().iter().map(|(pair, _)| *pair).collect::<Vec<_>>(), [A, B]);
}

#[test]
fn one_way_is_told_of_the_silent_party() {
    let mut world = World::talking();
    world.watch();
    let since = world.now.instant;
    for sequence in 2..400 {
        world.rtp(A, ALICE, 1, sequence);
        world.wait(Duration::from_millis(20));
    }
    assert_eq!(world.notices(), [(B, Notice::OneWay { since })]);
    assert!(world.relay.report(B).unwrap().one_way && !world.relay.report(A).unwrap().one_way);
    // It is not over when Alice pauses, too, and is told once; it is when Bob is heard again.
    world.wait(Duration::from_secs(8));
    for sequence in 400..800 {
        world.rtp(A, ALICE, 1, sequence);
        world.wait(Duration::from_millis(20));
    }
    assert_eq!(world.notices(), []);
    world.rtp(B, BOB, 2, 2);
    world.wait(Duration::from_secs(1));
    assert_eq!(world.notices(), [(B, Notice::OneWayOver)]);
    assert!(world.relay.report(B).unwrap().one_way, "the report says that it was");
    // And when he has nothing to send.
    for sequence in 800..1_200 {
        world.rtp(A, ALICE, 1, sequence);
        world.wait(Duration::from_millis(20));
    }
    assert_eq!(world.notices().len(), 1);
    world.expect(B, Expectation { sends: false, ..expectation(BOB) });
    world.wait(Duration::from_secs(1));
    assert_eq!(world.notices(), [(B, Notice::OneWayOver)]);
    // One who was not to send is no measure for the other.
    let mut world = World::talking();
    world.watch();
    world.expect(A, Expectation { sends: false, ..expectation(ALICE) });
    for sequence in 2..400 {
        world.rtp(A, ALICE, 1, sequence);
        world.wait(Duration::from_millis(20));
    }
    assert_eq!(world.notices(), []);
    // Nobody speaks: that is no one-way.
    let mut world = World::talking();
    world.watch();
    world.wait(Duration::from_secs(30));
    assert_eq!(world.notices(), []);
}

#[test]
fn round_trips_are_measured_to_each_party() {
    let mut world = World::talking();
    world.rtcp(A, "192.0.2.10:4001", &sender_report(1, 0x1234_5678));
    world.pass(Duration::from_millis(530));
    // Bob kept it for half a second: 30 ms to him and back.
    world.rtcp(B, "192.0.2.20:5001", &receiver_report(2, 1, 0x1234_5678, 65_536 / 2));
    let report = world.relay.report(B).unwrap();
    assert_eq!(report.round_trip, Some(Duration::from_millis(30)));
    assert_eq!((report.reported_fraction_lost, report.reported_lost), (0x10, 3));
    assert_eq!(world.relay.report(A).unwrap().round_trip, None);
    // What SRTCP hides is not taken for numbers.
    world.expect(B, Expectation { secure: true, ..expectation(BOB) });
    world.rtcp(B, "192.0.2.20:5001", &receiver_report(2, 1, 0x1234_5678, 0));
    assert_eq!(world.relay.report(B).unwrap().round_trip, Some(Duration::from_millis(30)));
}

#[test]
fn an_idle_port_keeps_nothing_for_the_next_call() {
    let mut world = World::talking();
    world.talk(2, 10);
    world.handle(MediaCommand::Close { pair: A });
    let report = match world.notices().pop() {
        Some((A, Notice::Closed { report })) => report,
        other => panic!("{other:?}"),
    };
    assert_eq!((report.packets, report.packets_sent, report.bytes), (11, 11, 11 * 172));
    assert_eq!(world.rtp(A, ALICE, 1, 12), Verdict::Drop(DropReason::Closed));
    assert_eq!(world.rtp(B, BOB, 2, 12), Verdict::Drop(DropReason::Unbridged));
    let ghost = world.relay.pairs[0].ghost;
    assert_eq!(world.relay.pairs[0], Pair { ghost, ..Pair::default() });
    world.open(A, expectation("192.0.2.40:4000"));
    assert_eq!(world.rtp(A, ALICE, 1, 13), STRANGER);
    assert_eq!(world.relay.report(A).unwrap(), Report { strangers: 1, ..Report::default() });
}

#[test]
fn commands_out_of_place_are_counted_and_do_nothing() {
    let mut world = World::talking();
    world.handle(MediaCommand::Close { pair: PairId(50) });
    world.handle(MediaCommand::Close { pair: PairId(u32::MAX) });
    world.handle(MediaCommand::Bridge { a: A, b: PairId(50) });
    world.handle(MediaCommand::Bridge { a: A, b: A });
    let owner = Owner { call: Handle { slot: 9, generation: 9 }, leg: 0, media: 0 };
    world.handle(MediaCommand::Open { pair: A, owner, local: address("198.51.100.1:16384") });
    assert_eq!(world.relay.counts().misdirected, 5);
    assert_eq!(world.rtp(A, ALICE, 1, 2), forward(2, BOB));
    let verdict = world.relay.packet(u32::MAX, address(ALICE), &rtp(1, 1), world.now);
    assert_eq!(verdict, Verdict::Drop(DropReason::Closed));
}

#[test]
fn the_queue_is_bounded_and_nothing_important_is_forgotten() {
    let mut world = World::talking();
    world.watch();
    while world.relay.push(MediaOutput::Socket(SocketCommand::Close { slot: 9 })) {}
    world.wait(Duration::from_secs(70));
    assert_eq!(world.relay.connections().count(), 2);
    world.outputs();
    world.wait(Duration::from_secs(1));
    // Asked for again as soon as there is room.
    assert_eq!(world.relay.connections().count(), 0);
    assert_eq!(world.notices().len(), 2);
}

#[test]
fn nothing_open_nothing_due() {
    let mut world = World::new();
    assert_eq!(world.relay.next_deadline(), None);
    world.open(A, expectation(ALICE));
    assert!(world.relay.next_deadline().is_some());
    world.handle(MediaCommand::Close { pair: A });
    assert_eq!(world.relay.next_deadline(), None);
}

#[test]
fn a_kept_record_goes_on_in_another_relay() {
    let mut world = World::talking();
    let kept: Vec<_> = [A, B].map(|pair| (pair, *world.relay.record(pair).unwrap())).into();
    world.relay = Relay::new(settings(), 200);
    for (pair, record) in kept {
        world.relay.restore(pair, record, world.now);
    }
    assert_eq!(world.relay.connections().count(), 2);
    assert_eq!(world.rtp(A, MALLORY, 1, 2), STRANGER);
    assert_eq!(world.rtp(A, ALICE, 1, 2), forward(2, BOB));
    assert!(world.relay.next_deadline().is_some());
}

#[test]
fn a_record_fits_its_room() {
    let mut world = World::new();
    let six = "[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65534";
    world.now.instant = Instant::from_nanos(u64::MAX >> 8);
    world.open(A, nat(six, "2001:db8:ffff:ffff:ffff:ffff:ffff:fffe"));
    world.open(B, nat(six, "2001:db8:ffff:ffff:ffff:ffff:ffff:fffe"));
    world.handle(MediaCommand::Bridge { a: A, b: B });
    let numbers = announce::voice(Sound::File);
    let voice = Some(Voice { ssrc: u32::MAX, sequence: u16::MAX, timestamp: u32::MAX, ..numbers });
    world.handle(MediaCommand::Announce { pair: A, voice });
    for index in 0..8u32 {
        world.rtp(A, six, u32::MAX - index, u16::MAX);
        world.rtcp(A, six, &sender_report(u32::MAX, u32::MAX - index));
        world.rtcp(B, six, &sender_report(u32::MAX, u32::MAX - index));
    }
    let used = postcard::to_allocvec(world.relay.record(A).unwrap()).unwrap().len();
    // What is counted may grow: two dozen counters of at most ten bytes.
    assert!(used + 24 * 10 <= crate::machine::media::pair::RECORD_BYTES_MAX, "{used}");
}

mod announce;
mod latch;
mod symmetric;
mod unheard;

#[derive(Clone, Debug)]
enum Act {
    Command(MediaCommand),
    Packet { slot: u32, source: SocketAddr, bytes: Vec<u8> },
    Pass(u64),
    Drain,
}

fn any_act() -> impl Strategy<Value = Act> {
    let place = || prop_oneof![Just(ALICE), Just(BOB), Just(MALLORY), Just("10.0.0.5:5000"), Just("192.0.2.10:4444")];
    let pair = || (0u32..3).prop_map(PairId);
    let owner = Owner { call: Handle { slot: 1, generation: 1 }, leg: 0, media: 0 };
    let local = address("198.51.100.1:16384");
    let expect =
        (place(), place(), any::<[bool; 4]>()).prop_map(|(rtp, signalling, [mux, secure, sends, receives])| {
            Expectation { mux, secure, sends, receives, signalling: address(signalling).ip(), ..expectation(rtp) }
        });
    let command = prop_oneof![
        3 => pair().prop_map(move |pair| MediaCommand::Open { pair, owner, local }),
        4 => (pair(), expect).prop_map(|(pair, expectation)| MediaCommand::Expect { pair, expectation }),
        4 => (pair(), pair()).prop_map(|(a, b)| MediaCommand::Bridge { a, b }),
        1 => (pair(), any::<bool>()).prop_map(|(pair, on)| MediaCommand::Permit { pair, on }),
        1 => pair().prop_map(|pair| MediaCommand::Unbridge { pair }),
        2 => (pair(), any::<bool>()).prop_map(|(pair, on)| MediaCommand::Watch { pair, on }),
        3 => (pair(), any::<bool>()).prop_map(|(pair, on)| {
            MediaCommand::Announce { pair, voice: on.then_some(announce::voice(Sound::Tone)) }
        }),
        2 => (pair(), 0..3usize).prop_map(|(pair, switch)| {
            let switch = [TapeSwitch::On(CALL), TapeSwitch::Paused, TapeSwitch::Off][switch];
            MediaCommand::Tape { pair, switch }
        }),
        1 => pair().prop_map(|pair| MediaCommand::Close { pair }),
    ];
    let bytes = prop_oneof![
        12 => (0u32..3, 0u16..200).prop_map(|(ssrc, sequence)| rtp(ssrc, sequence)),
        3 => (0u32..3, 0u32..4).prop_map(|(ssrc, ntp)| sender_report(ssrc, ntp)),
        2 => (0u32..3, 0u32..4).prop_map(|(ssrc, ntp)| receiver_report(ssrc, 1, ntp, 9)),
        1 => proptest::collection::vec(any::<u8>(), 0..40),
    ];
    prop_oneof![
        4 => command.prop_map(Act::Command),
        12 => (0u32..6, place(), bytes).prop_map(|(slot, source, bytes)| Act::Packet { slot, source: address(source), bytes }),
        4 => (0u64..5_000).prop_map(Act::Pass),
        1 => Just(Act::Drain),
    ]
}

fn apply(world: &mut World, act: &Act) -> (Option<Verdict>, Vec<MediaOutput>) {
    match act {
        Act::Command(command) => world.handle(command.clone()),
        Act::Packet { slot, source, bytes } => {
            return (Some(world.relay.packet(*slot, *source, bytes, world.now)), Vec::new());
        }
        Act::Pass(millis) => world.wait(Duration::from_millis(*millis)),
        Act::Drain => return (None, world.outputs()),
    }
    (None, Vec::new())
}

proptest! {
    #[test]
    fn restored_at_any_step_it_goes_on_the_same(acts in proptest::collection::vec((any_act(), any::<bool>()), 1..120)) {
        let (mut straight, mut restored) = (World::with_pairs(3), World::with_pairs(3));
        for (act, restore) in &acts {
            prop_assert_eq!(apply(&mut straight, act), apply(&mut restored, act));
            for (id, pair) in (0..).map(PairId).zip(&straight.relay.pairs) {
                let is_told = pair.player.as_ref().is_some_and(Player::is_playing);
                let sums = (pair.has_copy, pair.is_recorded, pair.is_told, straight.relay.connected[0] >> id.0 & 1 == 1);
                prop_assert_eq!(sums, (pair.also.is_some(), pair.recording.is_some(), is_told, pair.connected));
                prop_assert!(!pair.connected || pair.owner.is_some());
            }
            if *restore {
                let bytes = postcard::to_allocvec(&restored.relay).unwrap();
                restored.relay = postcard::from_bytes(&bytes).unwrap();
            }
        }
        prop_assert_eq!(straight.outputs(), restored.outputs());
        prop_assert_eq!(straight.relay.counts(), restored.relay.counts());
    }

    /// Whatever happens, media goes only to addresses that a description or a signalling address named.
    #[test]
    fn nothing_leaks_to_strangers(acts in proptest::collection::vec(any_act(), 1..120)) {
        let mut world = World::with_pairs(3);
        let mut vouched = BTreeSet::new();
        for act in &acts {
            if let Act::Command(MediaCommand::Expect { expectation, .. }) = act {
                vouched.extend(expectation.rtp.map(|rtp| rtp.ip()));
                vouched.insert(expectation.signalling);
            }
            if let (Some(Verdict::Forward { peer, slot }), _) = apply(&mut world, act) {
                // A stream that goes on from elsewhere vouches for the place.
                let record = world.relay.record(PairId::of_slot(slot));
                prop_assert!(vouched.contains(&peer.ip()) || record.is_some_and(|pair| pair.home.is_some()), "{}", peer);
                prop_assert!(world.relay.record(PairId::of_slot(slot)).is_some());
            }
            let bridges: Vec<_> = world.relay.open_pairs().filter_map(|(id, pair)| Some((id, pair.bridged_to?))).collect();
            for (from, to) in bridges {
                prop_assert_eq!(world.relay.record(to).and_then(|pair| pair.bridged_to), Some(from));
            }
        }
    }
}

const CALL: CallId = CallId::from_bits(77);

impl World {
    fn tape(&mut self, switch: TapeSwitch) {
        for pair in [A, B] {
            self.handle(MediaCommand::Tape { pair, switch });
        }
    }

    fn forks(&mut self, pair: PairId, source: &str, sequence: u16) -> Option<(u8, CallId)> {
        self.rtp(pair, source, 5 + pair.0, sequence);
        self.relay.fork().map(|fork| (fork.leg, fork.call))
    }
}

#[test]
fn what_the_other_party_hears_goes_to_the_tape_and_nothing_else() {
    let mut world = World::talking();
    assert_eq!(world.forks(A, ALICE, 100), None);
    world.tape(TapeSwitch::On(CALL));
    let legs: Vec<_> = world.relay.open_pairs().filter_map(|(_, pair)| pair.owner).map(|owner| owner.leg).collect();
    assert_eq!(world.forks(A, ALICE, 101), Some((legs[0], CALL)));
    assert_eq!(world.forks(B, BOB, 100), Some((legs[1], CALL)));
    assert_eq!(world.forks(A, MALLORY, 102), None, "a stranger");
    world.rtcp(A, "192.0.2.10:4001", &sender_report(5, 1));
    assert_eq!(world.relay.fork(), None, "reports");
    world.expect(A, Expectation { sends: false, ..expectation(ALICE) });
    assert_eq!(world.forks(A, ALICE, 103), None, "held");
    world.expect(A, expectation(ALICE));
    assert_eq!(world.forks(A, ALICE, 104), Some((legs[0], CALL)), "the same recording goes on");
    world.tape(TapeSwitch::Paused);
    assert_eq!(world.forks(A, ALICE, 105), None);
    world.tape(TapeSwitch::On(CALL));
    assert_eq!(world.forks(A, ALICE, 106), Some((legs[0], CALL)));
    world.notices();
    world.tape(TapeSwitch::Off);
    // The stranger's packet had the number 102; hers never came.
    let untaped = Untaped { direction: 1, strangers: 1, lost: 1, ..Untaped::default() };
    let taped = |frames, untaped| Notice::Taped { frames, untaped };
    assert_eq!(world.notices(), [(A, taped(3, untaped)), (B, taped(1, Untaped::default()))]);
    assert_eq!(world.forks(A, ALICE, 107), None);
    world.tape(TapeSwitch::On(CALL));
    world.forks(A, ALICE, 108);
    world.handle(MediaCommand::Close { pair: A });
    let closed = world.notices();
    assert!(matches!(&closed[..], [(_, Notice::Closed { report })] if report.taped == 1), "{closed:?}");
}

#[test]
fn a_session_is_counted_once_by_what_is_done_with_it() {
    let mut world = World::talking();
    let second = Duration::from_secs(1);
    let (far_a, far_b) = (PairId(150), PairId(70));
    world.open(far_a, expectation(ALICE));
    world.open(far_b, expectation(BOB));
    let check = |world: &mut World, relayed, recorded, announced| {
        world.wait(second);
        assert_eq!(world.relay.sessions(), Sessions { relayed, recorded, announced });
    };
    check(&mut world, 1, 0, 0);
    world.handle(MediaCommand::Bridge { a: far_a, b: far_b });
    check(&mut world, 2, 0, 0);
    world.tape(TapeSwitch::On(CALL));
    check(&mut world, 1, 1, 0);
    // Held: it waits to be told.
    world.expect(B, Expectation { receives: false, ..expectation(BOB) });
    world.handle(MediaCommand::Announce { pair: B, voice: Some(announce::voice(Sound::Tone)) });
    check(&mut world, 1, 0, 1);
    world.handle(MediaCommand::Unbridge { pair: far_b });
    check(&mut world, 0, 0, 1);
    for pair in [A, B, far_a, far_b] {
        world.handle(MediaCommand::Close { pair });
    }
    assert_eq!(world.relay.sessions(), Sessions::default());
}

#[test]
fn every_packet_that_came_is_counted() {
    let mut world = World::talking();
    let before = *world.relay.counts();
    world.rtp(A, ALICE, 1, 2);
    world.rtp(A, MALLORY, 1, 3);
    world.rtp(PairId(9), ALICE, 1, 1);
    world.rtcp(A, "192.0.2.10:4001", &sender_report(1, 1));
    world.rtcp(PairId(9), ALICE, &sender_report(1, 1));
    let counts = world.relay.counts();
    assert_eq!((counts.rtp_received() - before.rtp_received(), counts.rtcp_received - before.rtcp_received), (3, 2));
}

#[test]
fn what_phones_encrypt_between_themselves_is_not_kept() {
    let mut world = World::talking();
    for (pair, at) in [(A, ALICE), (B, BOB)] {
        world.expect(pair, Expectation { secure: true, ..expectation(at) });
    }
    world.tape(TapeSwitch::On(CALL));
    assert_eq!(world.forks(A, ALICE, 100), None);
    assert_eq!(world.relay.report(A).unwrap().untaped, Untaped { encrypted: 1, ..Untaped::default() });
}

#[test]
fn what_came_for_a_recording_and_is_not_on_the_tape_is_counted() {
    let mut world = World::talking();
    let malformed = |world: &mut World, source: &str, packet: &[u8]| {
        world.relay.packet(A.rtp_slot(), address(source), packet, world.now);
    };
    world.rtp(A, MALLORY, 9, 1);
    world.sockets();
    world.tape(TapeSwitch::On(CALL));
    let recording = |pair: PairId| Fork { call: CALL, leg: pair.0 as u8, media: 0 };
    let count = |pair: PairId| SocketCommand::CountLost { slot: pair.rtp_slot() };
    let tell = |pair: PairId| SocketCommand::TellLost { slot: pair.rtp_slot(), recording: recording(pair) };
    assert_eq!(world.sockets(), [count(A), count(B)]);
    // Given again after each negotiation.
    world.tape(TapeSwitch::On(CALL));
    assert_eq!(world.sockets(), []);
    // A held party goes on speaking.
    world.expect(A, Expectation { sends: false, ..expectation(ALICE) });
    for sequence in 2..10 {
        world.rtp(A, ALICE, 1, sequence);
    }
    world.rtp(A, MALLORY, 9, 2);
    malformed(&mut world, ALICE, &[0x40; 40]);
    // Keep-alives, STUN, reports and what others send are no speech of hers.
    malformed(&mut world, ALICE, b"\r\n\r\n");
    malformed(&mut world, ALICE, &[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    malformed(&mut world, ALICE, &sender_report(1, 1));
    malformed(&mut world, MALLORY, &[0x40; 40]);
    let untaped = Untaped { direction: 8, strangers: 1, malformed: 1, ..Untaped::default() };
    assert_eq!(world.relay.report(A).unwrap().untaped, untaped);
    // Nothing of a pause was asked for.
    world.tape(TapeSwitch::Paused);
    assert_eq!(world.sockets(), [tell(A), tell(B)]);
    world.rtp(A, ALICE, 1, 10);
    world.rtp(A, MALLORY, 9, 3);
    assert_eq!(world.relay.report(A).unwrap().untaped, untaped);
    world.tape(TapeSwitch::On(CALL));
    world.rtp(A, ALICE, 1, 11);
    world.handle(MediaCommand::Close { pair: A });
    let outputs = world.outputs();
    let at = |wanted: &dyn Fn(&MediaOutput) -> bool| outputs.iter().position(wanted);
    let told = at(&|output| *output == MediaOutput::Socket(tell(A)));
    let closed = at(&|output| *output == MediaOutput::Socket(SocketCommand::Close { slot: 0 }));
    assert!(told.is_some() && told < closed, "{outputs:?}");
    let reported = outputs.iter().find_map(|output| match output {
        MediaOutput::Notice(MediaNotice { notice: Notice::Closed { report }, .. }) => Some(report.untaped),
        _ => None,
    });
    assert_eq!(reported, Some(Untaped { direction: 9, ..untaped }));
}

#[test]
fn keys_are_told_once_each_and_not_faster_than_anybody_presses() {
    let mut world = World::talking();
    let event = |timestamp: u32, code: u8| {
        let mut packet = vec![0x80, 101, 1, 0];
        packet.extend_from_slice(&timestamp.to_be_bytes());
        packet.extend_from_slice(&5u32.to_be_bytes());
        packet.extend_from_slice(&[code, 10, 0, 160]);
        packet
    };
    let press = |world: &mut World, timestamp, code| {
        for _ in 0..6 {
            world.relay.packet(A.rtp_slot(), address(ALICE), &event(timestamp, code), world.now);
        }
        let notices = world.notices();
        world.pass(Duration::from_millis(60));
        notices
    };
    assert!(press(&mut world, 1, 5).is_empty(), "nobody asked");
    world.handle(MediaCommand::Listen { pair: A, events: [101].into_iter().collect() });
    assert_eq!(press(&mut world, 2, 10), [(A, Notice::Digit { digit: '*' })]);
    assert_eq!(press(&mut world, 3, 1), [(A, Notice::Digit { digit: '1' })]);
    assert!(press(&mut world, 4, 16).is_empty(), "a flash is no key");
    for timestamp in 100..200 {
        world.relay.packet(A.rtp_slot(), address(ALICE), &event(timestamp, 3), world.now);
    }
    assert_eq!(world.notices().len(), 1, "a flood of events");
    // An event without a payload is none.
    world.pass(Duration::from_millis(60));
    world.relay.packet(A.rtp_slot(), address(ALICE), &event(900, 3)[..12], world.now);
    assert!(world.notices().is_empty());
}
