//! What a party hears while it is told that it is recorded, when it begins, and what becomes of the other party's packets.

use super::*;
use crate::machine::media::announcement::Voice;
use crate::wire::g711::Law;

const OURS: u32 = 77;

pub(super) fn voice(sound: Sound) -> Voice {
    Voice { sound, law: Law::Mu, payload_type: 0, ssrc: OURS, sequence: 500, timestamp: 9_000 }
}

impl World {
    fn announce(&mut self, pair: PairId, sound: Sound) {
        self.handle(MediaCommand::Announce { pair, voice: Some(voice(sound)) });
    }

    /// Our packets so far: slot, destination, number.
    fn packets(&mut self) -> Vec<(u32, SocketAddr, u16)> {
        let packets = self.outputs().into_iter().filter_map(|output| match output {
            MediaOutput::Packet { slot, to, bytes } => {
                let header = Header::parse(&bytes).unwrap();
                assert_eq!(header.ssrc, OURS);
                Some((slot, to, header.sequence))
            }
            _ => None,
        });
        packets.collect()
    }
}

#[test]
fn one_party_hears_us_and_then_the_other_again() {
    let mut world = World::talking();
    world.handle(MediaCommand::Tape { pair: A, switch: TapeSwitch::On(CallId::from_bits(9)) });
    world.announce(B, Sound::File);
    let told = Verdict::Drop(DropReason::Announcement);
    assert_eq!(world.rtp(A, ALICE, 1, 2), told);
    assert!(world.relay.fork().is_some(), "what is said meanwhile is recorded");
    assert_eq!(world.rtp(B, BOB, 2, 2), forward(0, ALICE), "she is not told");
    world.wait(Duration::from_millis(41));
    assert_eq!(world.packets(), [(2, address(BOB), 500), (2, address(BOB), 501), (2, address(BOB), 502)]);
    assert_eq!(world.rtp(A, ALICE, 1, 3), told, "the last packet lasts 20 ms");
    world.wait(Duration::from_millis(20));
    assert_eq!(world.notices(), [(B, Notice::Announced { played: true })]);
    assert_eq!(world.rtp(A, ALICE, 1, 4), forward(2, BOB));
    assert_eq!(world.relay.report(B).unwrap().packets_sent, 1 + 3 + 1);
}

#[test]
fn packets_keep_their_pace_and_are_not_sent_in_heaps() {
    let mut world = World::talking();
    world.announce(B, Sound::Tone);
    world.wait(Duration::from_millis(95));
    assert_eq!(world.packets().len(), 5);
    // The shard was away for a second: what is late is not made up for.
    world.pass(Duration::from_secs(1));
    world.relay.play(world.now, |_| FILE);
    assert_eq!(world.packets().len(), 5, "the one that is due, and up to three more");
}

#[test]
fn it_begins_when_the_party_can_hear() {
    // Not heard yet: its place may be behind a NAT, and is known with its first packet.
    let mut world = World::call();
    world.announce(B, Sound::File);
    world.wait(Duration::from_millis(300));
    assert!(world.packets().is_empty());
    world.rtp(B, "192.0.2.20:5555", 2, 1);
    world.wait(Duration::ZERO);
    // Nothing tells which of the two it reads.
    assert_eq!(world.packets(), [(2, address(BOB), 500), (2, address("192.0.2.20:5555"), 500)]);
    // It never speaks: its described address has to do.
    let mut world = World::call();
    world.announce(B, Sound::File);
    world.wait(Duration::from_secs(2));
    assert_eq!(world.packets().len(), 3);
    // It holds, and hears the rest when it is back.
    let mut world = World::talking();
    world.announce(B, Sound::File);
    world.wait(Duration::from_millis(10));
    world.expect(B, Expectation { receives: false, ..expectation(BOB) });
    world.wait(Duration::from_secs(3));
    assert_eq!(world.packets().len(), 1);
    world.expect(B, expectation(BOB));
    world.wait(Duration::from_secs(2));
    assert_eq!(world.packets().iter().map(|(.., sequence)| *sequence).collect::<Vec<_>>(), [501, 502]);
}

#[test]
fn what_ends_before_it_was_heard_says_so() {
    let check = |end: fn(&mut World), expected: Notice| {
        let mut world = World::talking();
        world.announce(B, Sound::File);
        world.wait(Duration::from_millis(25));
        world.outputs();
        end(&mut world);
        assert_eq!(world.notices().first(), Some(&(B, expected)));
        world.wait(Duration::from_secs(1));
        assert!(world.packets().is_empty());
    };
    let not_played = Notice::Announced { played: false };
    check(|world| world.handle(MediaCommand::Close { pair: B }), not_played.clone());
    check(|world| world.handle(MediaCommand::Announce { pair: B, voice: None }), not_played);
    let mut world = World::talking();
    world.handle(MediaCommand::Announce { pair: B, voice: None });
    assert!(world.notices().is_empty(), "nothing was to be told");
}

#[test]
fn a_file_that_is_gone_or_shorter_was_not_heard() {
    for (left, packets) in [(&[][..], 0), (&FILE[..160], 0)] {
        let mut world = World::talking();
        world.announce(B, Sound::File);
        world.wait(Duration::from_millis(45));
        assert_eq!(world.packets().len(), 3);
        world.pass(Duration::from_millis(40));
        world.relay.play(world.now, |_| left);
        let outputs = world.outputs();
        let played = outputs.iter().filter(|output| matches!(output, MediaOutput::Packet { .. })).count();
        assert_eq!(played, packets);
        let told = |output: &MediaOutput| matches!(output, MediaOutput::Notice(notice) if notice.notice == Notice::Announced { played: false });
        assert!(outputs.iter().any(told), "{outputs:?}");
    }
}

#[test]
fn a_restored_pair_goes_on_with_its_announcement() {
    let mut world = World::talking();
    world.announce(B, Sound::File);
    world.wait(Duration::from_millis(5));
    assert_eq!(world.packets().len(), 1);
    let records = [A, B].map(|pair| (pair, *world.relay.record(pair).unwrap()));
    world.relay = Relay::new(settings(), 200);
    for (pair, record) in records {
        world.relay.restore(pair, record, world.now);
    }
    world.wait(Duration::from_millis(60));
    let numbers: Vec<_> = world.packets().iter().map(|(.., sequence)| *sequence).collect();
    assert_eq!(numbers, [501, 502]);
}
