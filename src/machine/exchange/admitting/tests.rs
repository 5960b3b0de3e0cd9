//! One phone that asks for more than any does, and the others beside it.

use std::time::Duration;

use crate::machine::exchange::Input;
use crate::machine::exchange::tests::World;
use crate::machine::exchange::tests::early;
use crate::machine::exchange::tests::world;
use crate::machine::fixture::Caller;
use crate::machine::fixture::status;
use crate::wire::event::Body;
use crate::wire::event::By;

/// The first final answer to a call of this phone, 0 while there is none.
fn call(world: &mut World, caller: &mut Caller, more: &str) -> u16 {
    let invite = caller.invite("1001", more);
    let sent = world.receive(caller.flow, &invite);
    let answers = sent.into_iter().filter(|(flow, _)| *flow == caller.flow).map(|(_, text)| status(&Some(text)));
    answers.into_iter().find(|status| *status >= 200).unwrap_or(0)
}

fn records(world: &World) -> usize {
    world.events.iter().filter(|event| matches!(event, Body::CallEnded { .. })).count()
}

/// Phones 1000 and 1002 that call, and 1001 that rings.
fn callers() -> (World, Caller, Caller) {
    let mut world = world();
    let [mut thief, mut bob, mut carol] = [("1000", 1), ("1001", 2), ("1002", 3)]
        .map(|(user, host)| Caller::new(user, &format!("198.51.100.{host}:5060")));
    for phone in [&mut thief, &mut bob, &mut carol] {
        assert_eq!(world.register(phone), 200);
    }
    (world, thief, carol)
}

#[test]
fn a_phone_at_its_bound_is_busy_and_has_its_records() {
    let (mut world, mut thief, mut carol) = callers();
    world.settings.limits.phone_calls = 2;
    assert_eq!([0; 4].map(|_| call(&mut world, &mut thief, "")), [0, 0, 486, 486]);
    assert_eq!(call(&mut world, &mut carol, ""), 0);
    assert_eq!(records(&world), 2, "each refused call has its record");
    // One call is over, another one faults: two may begin.
    let calls: Vec<_> = world.exchange.live_calls().filter(|call| call.from == "1000").map(|call| call.call).collect();
    let hang_up = Input::Hangup { call: calls[0], by: By::Operator, text: String::new() };
    world.step(|exchange, now, shared, out| exchange.handle(hang_up, now, shared, out));
    world.step(|exchange, now, shared, out| exchange.handle(Input::Fault(calls[1]), now, shared, out));
    assert_eq!(world.exchange.faults(), 1);
    assert_eq!([0; 3].map(|_| call(&mut world, &mut thief, "")), [0, 0, 486]);
    // All of it comes back once, whatever ended it.
    world.advance(Duration::from_secs(300));
    assert_eq!(world.exchange.calls_len(), 0);
    assert!(world.exchange.admission().is_idle());
    assert_eq!((world.exchange.ports_in_use(), world.exchange.answers().bytes()), (0, 0));
    world.advance(Duration::from_secs(20));
    assert_eq!(world.exchange.admission().accounts(), 0);
}

#[test]
fn calls_that_come_too_fast_have_one_event() {
    let (mut world, mut thief, mut carol) = callers();
    world.settings.limits.phone_calls = 1;
    let answers: Vec<_> = (0..300).map(|_| call(&mut world, &mut thief, "")).collect();
    assert!(answers[1..].iter().all(|status| *status == 486), "{answers:?}");
    assert_eq!(records(&world), 49, "those within the rate");
    assert_eq!(call(&mut world, &mut carol, ""), 0);
    world.advance(Duration::from_secs(10));
    let told = world.events.iter().filter_map(|event| match event {
        Body::CallsRefused { phone, count, .. } => Some((phone.as_str(), *count)),
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), [("1000", 1), ("1000", 249)]);
}

#[test]
fn the_refusal_is_repeated_and_tells_nothing_twice() {
    let (mut world, mut thief, _) = callers();
    world.settings.limits.phone_calls_per_second = 1;
    (0..5).for_each(|_| _ = call(&mut world, &mut thief, ""));
    let invite = thief.invite("1001", "");
    for _ in 0..3 {
        assert_eq!(status(&world.answer(thief.flow, &invite)), 486);
    }
    assert_eq!(world.exchange.counts().retransmissions, 2);
}

#[test]
fn a_phone_that_registers_all_the_time_slows_itself() {
    let (mut world, mut thief, mut carol) = callers();
    let answers: Vec<_> = (0..100).map(|_| world.register(&mut thief)).collect();
    assert_eq!(answers.iter().filter(|status| **status == 200).count(), 59);
    assert_eq!(answers[99], 503);
    assert_eq!(world.register(&mut carol), 200);
    world.advance(Duration::from_secs(1));
    assert_eq!([0; 3].map(|_| world.register(&mut thief)), [200, 200, 503]);
    assert_eq!(world.exchange.counts().hurried, 42);
}

#[test]
fn what_asks_within_a_call_is_paced_and_its_end_is_not() {
    let mut early = early();
    let info = "Content-Type: application/dtmf\r\n";
    let answers: Vec<_> = (0..100).map(|_| status(&early.ask("OPTIONS", 70, "", ""))).collect();
    assert!(answers[..60].iter().all(|status| *status == 200), "{answers:?}");
    assert!(answers[60..].iter().all(|status| *status == 503), "{answers:?}");
    assert_eq!(status(&early.ask("INFO", 70, info, "5")), 503);
    assert_eq!(status(&early.ask("BYE", 70, "", "")), 200);
}

#[test]
fn a_call_of_the_longest_messages_is_weighed_and_has_its_record() {
    let (mut world, mut thief, _) = callers();
    let routes = format!("Record-Route: <sip:{};lr>\r\n", "r".repeat(2_000));
    let subject = format!("Subject: {}\r\nX-Long: {}\r\n", "s".repeat(512), "x".repeat(8_000));
    let usual = world.exchange.admission().call_bytes();
    assert_eq!(call(&mut world, &mut thief, &(routes + &subject)), 0);
    let kept = world.exchange.admission().call_bytes() - usual;
    assert!((16 << 10..64 << 10).contains(&kept), "{kept}");
    world.advance(Duration::from_secs(300));
    assert_eq!((records(&world), world.exchange.admission().call_bytes()), (1, 0));
}

#[test]
fn more_than_a_message_may_have_is_refused_before_anything_is_kept() {
    let (mut world, mut thief, _) = callers();
    let before = (world.exchange.lingering(), world.exchange.answers().bytes());
    for more in [
        format!("Via: {}\r\n", vec!["SIP/2.0/UDP h"; 4_000].join(",")),
        format!("Subject: {}\r\n", "s".repeat(18_000)),
        format!("Record-Route: <sip:{}>\r\n", "r".repeat(3_000)),
    ] {
        let answer = call(&mut world, &mut thief, &more);
        assert_eq!(answer, 400);
    }
    let number = thief.invite(&"1".repeat(18_000), "");
    assert_eq!(status(&world.answer(thief.flow, &number)), 414);
    assert_eq!((world.exchange.lingering(), world.exchange.answers().bytes()), before);
    assert_eq!(
        (world.exchange.calls_len(), world.events.iter().any(|e| matches!(e, Body::CallStarted { .. }))),
        (0, false)
    );
}
