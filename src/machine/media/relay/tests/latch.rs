//! Who is taken for the party: the described address, whoever speaks best for itself, and a stream that goes on elsewhere.

use super::*;

/// Bob behind a NAT: what he describes means nothing to us.
const INSIDE: &str = "10.0.0.5:5000";
const OUTSIDE: &str = "203.0.113.9";
const BOB_OUTSIDE: &str = "203.0.113.9:61000";
/// Somebody else behind the same address.
const NEIGHBOUR: &str = "203.0.113.9:7777";
const NEW_PORT: &str = "192.0.2.10:4444";

impl World {
    fn behind_nat() -> Self {
        let mut world = Self::call();
        world.expect(B, nat(INSIDE, OUTSIDE));
        world
    }

    fn tick(&mut self) {
        self.wait(Duration::from_millis(20));
    }

    fn is_heard(&mut self, source: &str, ssrc: u32, sequence: u16) -> bool {
        matches!(self.rtp(B, source, ssrc, sequence), Verdict::Forward { .. })
    }

    fn bob_gets_it_at(&mut self) -> SocketAddr {
        match self.rtp(A, ALICE, 1, 1) {
            Verdict::Forward { peer, .. } => peer,
            Verdict::Drop(reason) => panic!("{reason:?}"),
        }
    }
}

#[test]
fn a_new_description_is_believed_at_once_and_the_old_source_is_heard_for_a_brief_time() {
    let mut world = World::talking();
    world.expect(A, expectation(NEW_PORT));
    assert_eq!(world.sockets(), [SocketCommand::Disconnect { slot: 0 }]);
    // RFC 3264 §8.3.1: media goes to the new port whatever comes from the old one.
    for sequence in 2..12 {
        assert_eq!(world.rtp(A, ALICE, 1, sequence), forward(2, BOB));
        assert_eq!(world.rtp(B, BOB, 2, sequence), forward(0, NEW_PORT));
        world.tick();
    }
    assert_eq!(world.rtp(A, NEW_PORT, 1, 12), forward(2, BOB));
    // Late packets of the same stream are still the party's; another stream would be two at once.
    assert_eq!(world.rtp(A, ALICE, 1, 11), forward(2, BOB));
    assert_eq!(world.rtp(A, ALICE, 5, 11), STRANGER);
    assert_eq!(world.rtp(B, BOB, 2, 12), forward(0, NEW_PORT));
    world.pass(Duration::from_millis(300));
    assert_eq!(world.rtp(A, ALICE, 1, 13), STRANGER);
    assert_eq!(world.rtp(A, NEW_PORT, 1, 13), forward(2, BOB));
    assert_eq!(world.rtp(B, BOB, 2, 13), forward(0, NEW_PORT));
}

#[test]
fn the_old_source_has_half_a_second_and_never_wins() {
    let mut world = World::talking();
    world.expect(A, expectation(NEW_PORT));
    for sequence in 2..27 {
        assert_eq!(world.rtp(A, ALICE, 1, sequence), forward(2, BOB));
        world.tick();
    }
    for sequence in 27..250 {
        assert_eq!(world.rtp(A, ALICE, 1, sequence), STRANGER, "{sequence}");
        assert_eq!(world.rtp(B, BOB, 2, sequence), forward(0, NEW_PORT));
        world.tick();
    }
    // A phone that goes on sending from where it did, and nobody else: it is the party, and gets media where it said.
    world.pass(Duration::from_secs(1));
    assert_eq!(world.rtp(A, ALICE, 1, 300), forward(2, BOB));
    assert_eq!(world.rtp(B, BOB, 2, 300), forward(0, NEW_PORT));
    assert_eq!(world.rtp(A, NEW_PORT, 9, 1), forward(2, BOB));
    assert_eq!(world.rtp(A, ALICE, 1, 301), STRANGER);
}

/// Its source of before says nothing of where it sends from now.
#[test]
fn who_never_sent_from_where_it_receives_may_go_on_so() {
    let mut world = World::talking();
    let sends_from = "192.0.2.10:7000";
    world.expect(A, expectation(NEW_PORT));
    for sequence in 2..50 {
        assert_eq!(world.rtp(A, sends_from, 1, sequence), forward(2, BOB));
        world.tick();
    }
    world.expect(A, expectation(ALICE));
    for sequence in 50..100 {
        assert_eq!(world.rtp(A, sends_from, 1, sequence), forward(2, BOB), "{sequence}");
        assert_eq!(world.rtp(B, BOB, 2, sequence), forward(0, ALICE));
        world.tick();
    }
}

#[test]
fn the_described_address_outranks_whatever_was_learned() {
    let mut world = World::call();
    world.expect(B, nat(BOB, OUTSIDE));
    for sequence in 1..300 {
        assert!(world.is_heard(BOB_OUTSIDE, 2, sequence));
        world.tick();
    }
    assert!(world.relay.record(B).unwrap().latch.is_settled());
    assert_eq!(world.bob_gets_it_at(), address(BOB_OUTSIDE));
    assert!(world.is_heard(BOB, 3, 1));
    assert_eq!(world.bob_gets_it_at(), address(BOB));
    assert!(!world.is_heard(BOB_OUTSIDE, 2, 300));
}

#[test]
fn only_reports_moved() {
    let mut world = World::talking();
    let elsewhere = Some(address("192.0.2.10:9009"));
    world.expect(A, Expectation { rtcp: elsewhere, ..expectation(ALICE) });
    assert_eq!(world.sockets(), [], "RTP is where it was");
    assert_eq!(world.rtcp(B, "192.0.2.20:5001", &sender_report(2, 1)), forward(1, "192.0.2.10:9009"));
}

#[test]
fn an_ended_calls_phone_is_not_the_next_ones() {
    let mut world = World::behind_nat();
    for sequence in 1..50 {
        assert!(world.is_heard(BOB_OUTSIDE, 2, sequence));
        world.tick();
    }
    world.handle(MediaCommand::Close { pair: B });
    world.open(B, nat("10.0.0.7:6000", OUTSIDE));
    world.handle(MediaCommand::Bridge { a: A, b: B });
    // It was not told that its call is over.
    for sequence in 50..100 {
        assert!(!world.is_heard(BOB_OUTSIDE, 2, sequence));
        world.tick();
    }
    // The new one, also with the port that the NAT gave to the old one.
    assert!(world.is_heard(BOB_OUTSIDE, 9, 30_000));
    assert_eq!(world.bob_gets_it_at(), address(BOB_OUTSIDE));
    // An hour later only the clock tells, and the described address is the party's in any case.
    world.handle(MediaCommand::Close { pair: B });
    world.pass(Duration::from_secs(3_600));
    world.open(B, expectation("203.0.113.9:61002"));
    world.handle(MediaCommand::Bridge { a: A, b: B });
    assert!(!world.is_heard(BOB_OUTSIDE, 9, 30_002));
    assert!(world.is_heard("203.0.113.9:61002", 9, 30_002));
}

#[test]
fn who_sends_one_stream_wins_over_who_was_first() {
    let mut world = World::behind_nat();
    // Every second packet of a stream comes here, the others go to somebody else's port.
    for sequence in (1..7).step_by(2) {
        assert!(world.is_heard(NEIGHBOUR, 66, sequence));
        world.tick();
    }
    for sequence in 1..3 {
        assert!(!world.is_heard(BOB_OUTSIDE, 2, sequence), "one packet or two are no stream");
        world.is_heard(NEIGHBOUR, 66, 7 + sequence * 2);
        world.tick();
    }
    assert!(world.is_heard(BOB_OUTSIDE, 2, 3));
    assert_eq!(world.bob_gets_it_at(), address(BOB_OUTSIDE));
    for sequence in 4..300 {
        assert!(!world.is_heard(NEIGHBOUR, 66, 20 + sequence * 2));
        assert!(world.is_heard(BOB_OUTSIDE, 2, sequence));
        world.tick();
    }
}

#[test]
fn a_source_that_comes_to_several_parties_pairs_is_none_of_them() {
    let mut world = World::behind_nat();
    world.open(C, nat("10.0.0.6:5000", OUTSIDE));
    assert!(world.is_heard(NEIGHBOUR, 66, 1), "nothing is known of it yet");
    assert_eq!(world.rtp(C, NEIGHBOUR, 66, 2), STRANGER);
    assert_eq!(world.relay.record(B).unwrap().latch.source(), None);
    assert_eq!(world.bob_gets_it_at(), address("203.0.113.9:5000"));
    for sequence in 3..50 {
        assert!(!world.is_heard(NEIGHBOUR, 66, sequence));
        world.tick();
    }
    assert!(world.is_heard(BOB_OUTSIDE, 2, 1));
    // Also where nobody would vouch for it: it is seen.
    let mut world = World::behind_nat();
    assert_eq!(world.rtp(A, NEIGHBOUR, 66, 1), STRANGER);
    assert!(!world.is_heard(NEIGHBOUR, 66, 2));
    // Who has settled is not talked out of its place by a forged packet.
    let mut world = World::behind_nat();
    for sequence in 1..300 {
        assert!(world.is_heard(BOB_OUTSIDE, 2, sequence));
        world.tick();
    }
    assert_eq!(world.rtp(A, BOB_OUTSIDE, 2, 300), STRANGER);
    assert!(world.is_heard(BOB_OUTSIDE, 2, 301));
}

/// The kernel keeps strangers from ports of parties that have latched, but not from those for reports.
#[test]
fn a_source_that_comes_to_the_rtcp_port_of_another_party_is_none() {
    for report in [rtp(66, 2), sender_report(66, 1)] {
        let mut world = World::behind_nat();
        assert!(world.is_heard(NEIGHBOUR, 66, 1));
        world.rtcp(B, NEIGHBOUR, &report);
        assert!(world.is_heard(NEIGHBOUR, 66, 2), "its own port tells nothing");
        world.rtcp(A, NEIGHBOUR, &report);
        assert!(!world.is_heard(NEIGHBOUR, 66, 3));
        assert!(world.is_heard(BOB_OUTSIDE, 2, 1));
    }
}

#[test]
fn one_phone_may_use_one_port_for_several_calls() {
    let mut world = World::behind_nat();
    world.open(C, nat(INSIDE, OUTSIDE));
    world.handle(MediaCommand::Bridge { a: A, b: C });
    assert_eq!(world.rtp(C, BOB_OUTSIDE, 3, 1), forward(0, ALICE));
    assert_eq!(world.rtp(B, BOB_OUTSIDE, 2, 1), Verdict::Drop(DropReason::Unbridged));
    assert_eq!(world.relay.report(B).unwrap().strangers, 0);
}

#[test]
fn what_was_negotiated_and_declared_counts() {
    let first = |expectation: Expectation, by: fn(&mut World) -> Verdict| {
        let mut world = World::behind_nat();
        world.expect(B, expectation);
        for sequence in 1..20 {
            assert!(world.is_heard(NEIGHBOUR, 66, sequence));
            world.tick();
        }
        by(&mut world)
    };
    let mine = |world: &mut World| world.rtp(B, BOB_OUTSIDE, 2, 1);
    assert_eq!(first(nat(INSIDE, OUTSIDE), mine), STRANGER);
    let negotiated = Expectation { payload_types: [8].into_iter().collect(), ..nat(INSIDE, OUTSIDE) };
    let with_type = |world: &mut World| {
        let mut packet = rtp(2, 1);
        packet[1] = 8;
        world.relay.packet(B.rtp_slot(), address(BOB_OUTSIDE), &packet, world.now)
    };
    assert_eq!(first(negotiated, with_type), forward(0, ALICE));
    let declared = Expectation { ssrcs: Ssrcs::of(&[77, 2]), ..nat(INSIDE, OUTSIDE) };
    assert_eq!(first(declared, mine), forward(0, ALICE));
}

#[test]
fn after_the_first_seconds_only_the_described_address_takes_over() {
    let mut world = World::behind_nat();
    for sequence in 1..=151 {
        assert!(world.is_heard(BOB_OUTSIDE, 2, sequence));
        world.tick();
    }
    for sequence in 1..50 {
        assert!(!world.is_heard(NEIGHBOUR, 66, sequence));
        world.tick();
        assert!(world.is_heard(BOB_OUTSIDE, 2, 151 + sequence));
    }
}

/// Alice falls silent for so many milliseconds, then packets come from `source`: whether they and then media follow.
fn moves(silence: u64, source: &str, ssrc: u32, sequences: &[u16]) -> (Vec<bool>, SocketAddr) {
    let mut world = World::talking();
    world.pass(Duration::from_millis(silence));
    let heard = |sequence: &u16| {
        let heard = matches!(world.rtp(A, source, ssrc, *sequence), Verdict::Forward { .. });
        world.pass(Duration::from_millis(20));
        heard
    };
    let heard = sequences.iter().map(heard).collect();
    match world.rtp(B, BOB, 2, 2) {
        Verdict::Forward { peer, .. } => (heard, peer),
        Verdict::Drop(reason) => panic!("{reason:?}"),
    }
}

#[test]
fn a_stream_that_goes_on_from_another_port_is_followed() {
    let (old, behind_nat) = (address(ALICE), "192.0.2.10:4444");
    // Media goes there, too: the phone did not say that it moved.
    assert_eq!(moves(100, behind_nat, 1, &[6, 7]), (vec![true, true], old));
    assert_eq!(moves(99, behind_nat, 1, &[6]), (vec![false], old));
    assert_eq!(moves(2_000, behind_nat, 8, &[101]), (vec![false], old), "another stream");
    assert_eq!(moves(2_000, behind_nat, 1, &[1]), (vec![false], old), "a copy");
    assert_eq!(moves(2_000, behind_nat, 1, &[9_000]), (vec![false], old), "too far ahead");
}

#[test]
fn a_stream_is_followed_also_while_the_latch_learns() {
    let mut world = World::behind_nat();
    for sequence in 1..30 {
        assert!(world.is_heard(BOB_OUTSIDE, 2, sequence));
        world.tick();
    }
    world.pass(Duration::from_millis(60));
    assert!(!world.is_heard(NEIGHBOUR, 2, 30), "80 ms of silence are too few");
    world.pass(Duration::from_millis(20));
    assert!(!world.is_heard(NEIGHBOUR, 9, 31), "another stream");
    assert!(world.is_heard(NEIGHBOUR, 2, 32));
    assert_eq!(world.bob_gets_it_at(), address(NEIGHBOUR));
}

#[test]
fn a_phone_that_changes_its_network_is_followed() {
    let (old, new) = (address(ALICE), "198.18.0.7:4000");
    assert_eq!(moves(100, new, 1, &[6, 7, 8]), (vec![false, true, true], address(new)));
    assert_eq!(moves(100, new, 1, &[6, 8, 9]), (vec![false, false, true], address(new)), "the two must be in order");
    assert_eq!(moves(60, new, 1, &[6, 7]), (vec![false, false], old));
    assert_eq!(moves(100, new, 2, &[6, 7]), (vec![false, false], old));
    assert_eq!(moves(100, "198.51.100.1:16390", 1, &[6, 7]), (vec![false, false], old), "our own port");
}

#[test]
fn who_was_followed_gives_way_to_whom_it_came_from() {
    let mut world = World::behind_nat();
    let new = "198.18.0.7:4000";
    for sequence in 1..200 {
        assert!(world.is_heard(BOB_OUTSIDE, 2, sequence));
        world.tick();
    }
    world.wait(Duration::from_millis(120));
    assert!(!world.is_heard(new, 2, 206));
    assert!(world.is_heard(new, 2, 207));
    world.tick();
    assert!(!world.is_heard(BOB_OUTSIDE, 7, 1), "another stream");
    assert!(world.is_heard(BOB_OUTSIDE, 2, 208));
    assert!(!world.is_heard(new, 2, 209));
    assert_eq!(world.bob_gets_it_at(), address(BOB_OUTSIDE));
}

#[test]
fn the_kernel_lets_a_moved_phone_in_within_a_fifth_of_a_second() {
    let mut world = World::talking();
    world.rtp(A, ALICE, 1, 2);
    for sequence in 3..20 {
        world.rtp(A, ALICE, 1, sequence);
        world.tick();
    }
    world.sockets();
    world.wait(Duration::from_millis(160));
    assert!(world.sockets().contains(&SocketCommand::Disconnect { slot: 0 }));
}

#[test]
fn media_of_anybody_is_taken_where_it_is_allowed() {
    let mut world = World::call();
    world.expect(B, Expectation { anybody: true, ..expectation(BOB) });
    assert_eq!(world.rtp(B, MALLORY, 9, 1), forward(0, ALICE));
    // Media still goes where the party said.
    assert_eq!(world.rtp(A, ALICE, 1, 1), forward(2, BOB));
    assert_eq!(world.rtp(B, BOB, 2, 1), forward(0, ALICE));
    assert_eq!(world.rtp(B, MALLORY, 9, 2), STRANGER);
}
