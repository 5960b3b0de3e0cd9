//! Where a party's media goes: where it said, where it sends from, or both.

use super::*;

const OTHER_PORT: &str = "192.0.2.20:5555";

/// Bob is heard from `source`: where Alice's media goes then, the copy of it, and her reports.
fn goes(symmetric: Symmetric, expectation: Expectation, source: &str) -> (SocketAddr, Option<SocketAddr>) {
    let mut world = World::call();
    world.expect(B, Expectation { symmetric, ..expectation });
    for sequence in 1..200 {
        assert_eq!(world.rtp(B, source, 2, sequence), forward(0, ALICE), "{source}");
        world.wait(Duration::from_millis(20));
    }
    match world.rtp(A, ALICE, 1, 1) {
        Verdict::Forward { peer, .. } => (peer, world.relay.copy_to()),
        Verdict::Drop(reason) => panic!("{reason:?}"),
    }
}

#[test]
fn a_phone_may_send_from_one_port_and_receive_on_another() {
    let (said, sent) = (address(BOB), address(OTHER_PORT));
    assert_eq!(goes(Symmetric::Auto, expectation(BOB), BOB), (said, None));
    assert_eq!(goes(Symmetric::Auto, expectation(BOB), OTHER_PORT), (said, Some(sent)));
    assert_eq!(goes(Symmetric::Always, expectation(BOB), OTHER_PORT), (sent, None));
    assert_eq!(goes(Symmetric::Never, expectation(BOB), OTHER_PORT), (said, None));
}

#[test]
fn behind_a_nat_media_goes_where_it_comes_from() {
    let (inside, outside) = ("10.0.0.5:5000", "203.0.113.9:61000");
    let sent = address(outside);
    for symmetric in [Symmetric::Auto, Symmetric::Always] {
        assert_eq!(goes(symmetric, nat(inside, "203.0.113.9"), outside), (sent, None));
    }
    assert_eq!(goes(Symmetric::Never, nat(inside, "203.0.113.9"), outside), (address(inside), None));
}

#[test]
fn before_it_is_heard_media_goes_where_it_can() {
    let first = |symmetric| {
        let mut world = World::call();
        world.expect(B, Expectation { symmetric, ..nat("10.0.0.5:5000", "203.0.113.9") });
        world.rtp(A, ALICE, 1, 1)
    };
    assert_eq!(first(Symmetric::Auto), forward(2, "203.0.113.9:5000"));
    assert_eq!(first(Symmetric::Always), forward(2, "203.0.113.9:5000"));
    assert_eq!(first(Symmetric::Never), forward(2, "10.0.0.5:5000"));
}

#[test]
fn reports_go_where_the_media_goes() {
    let mut world = World::call();
    assert_eq!(world.rtp(B, OTHER_PORT, 2, 1), forward(0, ALICE));
    world.rtcp(B, "192.0.2.20:5556", &sender_report(2, 1));
    world.rtp(A, ALICE, 1, 1);
    assert_eq!(world.rtcp(A, "192.0.2.10:4001", &sender_report(1, 1)), forward(3, "192.0.2.20:5001"));
}
