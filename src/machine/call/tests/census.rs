//! Dialogs and transactions from INVITE to the end, as they are counted.

use std::time::Duration;

use super::ladder::*;
use crate::machine::call::census::Census;

#[test]
fn dialogs_and_transactions_are_counted_as_they_come_and_go() {
    let mut ladder = Ladder::new(&invite("", &sdp(10, "")), &[20]);
    let none = Census::default();
    ladder.expect(10, "SIP/2.0 100");
    let offer = ladder.expect(20, "INVITE");
    assert_eq!(ladder.call.census(), Census { proceeding: 1, calling: 1, ..none });
    ladder.receive(20, &offer.response(180, "b1", "", ""));
    let ringing = ladder.expect(10, "SIP/2.0 180");
    assert_eq!(ladder.call.census(), Census { proceeding: 2, dialogs: 2, ..none });
    ladder.receive(20, &offer.response(200, "b1", "", &sdp(20, "")));
    let (mut alice, mut bob) = (Phone::alice(&ringing), Phone::callee(20, &offer, "b1"));
    ladder.receive(10, &alice.ack(10, ""));
    assert_eq!(ladder.call.census(), Census { accepted: 2, dialogs: 2, ..none });
    ladder.advance(Duration::from_secs(64));
    ladder.take_sent();
    assert_eq!(ladder.call.census(), Census { dialogs: 2, ..none });

    ladder.receive(20, &bob.request("INFO", "", ""));
    let info = ladder.expect(10, "INFO");
    assert_eq!(ladder.call.census(), Census { trying: 2, dialogs: 2, ..none }, "Bob's and ours");
    ladder.receive(10, &info.response(200, "", "", ""));
    ladder.expect(20, "SIP/2.0 200");
    assert_eq!(ladder.call.census(), Census { completed: 1, dialogs: 2, ..none });
    ladder.receive(10, &alice.request("BYE", "", ""));
    ladder.expect(10, "SIP/2.0 200");
    let bye = ladder.expect(20, "BYE");
    assert_eq!(ladder.call.census().dialogs, 0);
    ladder.receive(20, &bye.response(200, "", "", ""));
    ladder.finish();
    assert_eq!(ladder.call.census(), none);
}

#[test]
fn a_sum_follows_its_parts() {
    let mut sum = Census { dialogs: 7, trying: 1, ..Census::default() };
    let before = Census { dialogs: 2, trying: 1, ..Census::default() };
    sum.replace(before, Census { dialogs: 1, completed: 3, ..Census::default() });
    assert_eq!(sum, Census { dialogs: 6, completed: 3, ..Census::default() });
}
