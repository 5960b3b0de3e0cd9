//! Media as a weapon: a description that names somebody who has asked for nothing.

use super::*;

const VICTIM: &str = "203.0.113.77:7000";

/// Bob signals from his own address and describes another; Alice is heard.
fn aimed(described: &str) -> World {
    let mut world = World::new();
    world.open(A, expectation(ALICE));
    world.open(B, nat(described, "192.0.2.20"));
    world.handle(MediaCommand::Bridge { a: A, b: B });
    world
}

/// How many of so many seconds of Alice's packets go to this address.
fn reach(world: &mut World, seconds: u64, first: u16, to: &str) -> usize {
    let packets = seconds * 50;
    let sent = (0..packets).filter(|n| {
        let verdict = world.rtp(A, ALICE, 1, first.wrapping_add(*n as u16));
        world.wait(Duration::from_millis(20));
        verdict == forward(2, to)
    });
    sent.count()
}

#[test]
fn who_keeps_silent_is_sent_five_seconds_and_then_a_packet_a_second() {
    let mut world = aimed(VICTIM);
    let sent = reach(&mut world, 5, 1, VICTIM);
    assert!((245..=250).contains(&sent), "{sent}");
    let sent = reach(&mut world, 60, 251, VICTIM);
    assert!((58..=66).contains(&sent), "{sent}");
    assert!(world.relay.counts().dropped[DropReason::Unheard as usize] > 2_900);
}

#[test]
fn descriptions_of_one_after_the_other_have_one_allowance() {
    let mut world = aimed(VICTIM);
    reach(&mut world, 5, 1, VICTIM);
    for (n, other) in ["203.0.113.78:7000", "203.0.113.77:7002", BOB, VICTIM].into_iter().enumerate() {
        world.expect(B, nat(other, "192.0.2.20"));
        let sent = reach(&mut world, 2, 300 * (n as u16 + 1), other);
        let expected = if other == BOB { 100..=100 } else { 1..=8 };
        assert!(expected.contains(&sent), "{other}: {sent}");
    }
}

#[test]
fn a_sign_of_life_opens_the_way() {
    let stun = [&[0, 1, 0, 0][..], &0x2112_A442u32.to_be_bytes(), &[7; 12]].concat();
    for (slot, source, packet) in [
        (2, VICTIM, rtp(9, 1)),
        (2, "203.0.113.77:9999", rtp(9, 1)),
        (2, "203.0.113.77:9999", stun.clone()),
        (3, "203.0.113.77:7001", sender_report(9, 1)),
        (3, "203.0.113.77:7001", stun.clone()),
    ] {
        let mut world = aimed(VICTIM);
        reach(&mut world, 10, 1, VICTIM);
        world.relay.packet(slot, address(source), &packet, world.now);
        assert_eq!(reach(&mut world, 10, 600, VICTIM), 500, "{source} at slot {slot}");
    }
    // Nobody else's is one, nor the signalling's.
    for (slot, source, packet) in
        [(3, MALLORY, sender_report(9, 1)), (2, MALLORY, stun.clone()), (3, "192.0.2.20:9", stun)]
    {
        let mut world = aimed(VICTIM);
        reach(&mut world, 10, 1, VICTIM);
        world.relay.packet(slot, address(source), &packet, world.now);
        assert!(reach(&mut world, 10, 600, VICTIM) <= 12, "{source} at slot {slot}");
    }
}

#[test]
fn phones_where_they_signal_from_and_trunks_may_keep_silent() {
    let mut world = aimed("192.0.2.20:7000");
    assert_eq!(reach(&mut world, 60, 1, "192.0.2.20:7000"), 3_000);
    // An inside address of a NAT: media goes to the outside one.
    let mut world = aimed("10.0.0.5:7000");
    assert_eq!(reach(&mut world, 60, 1, "192.0.2.20:7000"), 3_000);
    for bounds in [
        MediaBounds { unheard: Duration::ZERO, ..MediaBounds::default() },
        MediaBounds {
            trunks: vec![crate::machine::settings::Prefix { address: [192, 0, 2, 0].into(), bits: 24 }],
            ..MediaBounds::default()
        },
    ] {
        let mut world = World::new();
        world.relay = Relay::new(RelaySettings { bounds, ..settings() }, 4);
        world.open(A, expectation(ALICE));
        world.open(B, nat(VICTIM, "192.0.2.20"));
        world.handle(MediaCommand::Bridge { a: A, b: B });
        assert_eq!(reach(&mut world, 60, 1, VICTIM), 3_000);
    }
}

#[test]
fn reports_are_no_weapon_either() {
    let mut world = aimed(BOB);
    let expectation = Expectation { rtcp: Some(address(VICTIM)), ..expectation(BOB) };
    world.expect(B, expectation);
    let mut sent = 0;
    for _ in 0..50 * 65 {
        let verdict = world.relay.packet(1, address("192.0.2.10:4001"), &sender_report(1, 1), world.now);
        sent += u32::from(verdict == forward(3, VICTIM));
        world.wait(Duration::from_millis(20));
    }
    assert!((250..330).contains(&sent), "{sent}");
}

#[test]
fn nothing_goes_where_no_phone_can_be() {
    for described in
        ["169.254.169.254:7000", "198.51.100.1:20000", "192.0.2.20:53", "255.255.255.255:7000", "127.0.0.1:7000"]
    {
        let mut world = aimed(described);
        assert_eq!(world.rtp(A, ALICE, 1, 1), Verdict::Drop(DropReason::NoDestination), "{described}");
    }
}
