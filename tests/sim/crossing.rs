//! Two who decide at the same time: the last ring, an answer, a CANCEL and a BYE that cross on their way. Whoever wins, both
//! phones and the record agree on one outcome, at once.

use std::time::Duration;

use tipring::base::random::Random;
use tipring::wire::event::Body;
use tipring::wire::event::By;
use tipring::wire::event::Cause;

use crate::check;
use crate::patience::RING_MAX;
use crate::phone::Act;
use crate::phone::Fact;
use crate::phone::Manner;
use crate::phone::Phone;
use crate::world::Faults;
use crate::world::World;

/// Worlds of each kind.
const SEEDS: u64 = 300;
/// Two ways over the network, each with a stall of a connection of at most a second and a few pieces.
const SETTLES: Duration = Duration::from_millis(2_500);

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crossing {
    /// The callee picks up when it has rung for as long as it may.
    AnswerAndTimeout,
    /// And the caller hangs up then.
    AnswerTimeoutAndCancel,
    /// The callee picks up when the caller hangs up.
    AnswerAndCancel,
    /// The callee picks up and hangs up again.
    AnswerAndBye,
    /// All at once, and the caller too.
    AnswerByeAndCancel,
    /// Of an answered call both hang up.
    ByeAndBye,
    /// One puts the other on hold, who hangs up.
    HoldAndBye,
}

#[test]
fn an_answer_crosses_the_last_ring() {
    many(Crossing::AnswerAndTimeout);
    many(Crossing::AnswerTimeoutAndCancel);
}

#[test]
fn an_answer_crosses_a_cancel() {
    many(Crossing::AnswerAndCancel);
    many(Crossing::AnswerByeAndCancel);
}

#[test]
fn an_answer_crosses_a_bye() {
    many(Crossing::AnswerAndBye);
    many(Crossing::ByeAndBye);
    many(Crossing::HoldAndBye);
}

fn many(crossing: Crossing) {
    let mut outcomes = [0; 2];
    for seed in 0..SEEDS {
        let world = || outcomes[usize::from(crosses(crossing, seed))] += 1;
        check::with_seed(seed, &format!("crossing::{crossing:?}"), world);
    }
    // Both orders came about, where there are two.
    let has_two = !matches!(crossing, Crossing::ByeAndBye | Crossing::HoldAndBye);
    assert!(outcomes[1] > 0 && (outcomes[0] > 0 || !has_two), "{crossing:?}: {outcomes:?}");
}

/// True if the call was answered.
fn crosses(crossing: Crossing, seed: u64) -> bool {
    let mut random = Random::new(seed ^ 0xc2055);
    let faults = Faults {
        delayed: random.below(2) * 500,
        doubled: random.below(2) * 200,
        restored: random.below(2) * 60,
        ..Faults::NONE
    };
    let mut world = World::new(seed, 1 + random.below(4) as u8, faults);
    // Some ways over the network, so that each may be first.
    let mut about = |at: Duration| at + Duration::from_micros(random.below(80_000)) - Duration::from_millis(30);
    let second = Duration::from_secs(1);
    let at_timeout = matches!(crossing, Crossing::AnswerAndTimeout | Crossing::AnswerTimeoutAndCancel);
    let at = if at_timeout { RING_MAX } else { second };
    let answers = Manner::Answers { after: about(at) };
    world.populate(&[Manner::Ignores, answers]);
    for phone in 0..2 {
        world.phones[phone].tcp = seed & (1 << phone) != 0;
        world.plan(Duration::from_millis(10), phone, Act::Register { expires: 3_600 });
    }
    world.run(Duration::from_secs(3));
    world.plan(Duration::ZERO, 0, Act::Call { user: "1002".to_owned() });
    let dialled = Duration::from_millis(30);
    let hang_ups: &[usize] = match crossing {
        Crossing::AnswerAndTimeout => &[],
        Crossing::AnswerTimeoutAndCancel | Crossing::AnswerAndCancel => &[0],
        Crossing::AnswerAndBye => &[1],
        Crossing::HoldAndBye if seed & 4 == 0 => &[0],
        Crossing::HoldAndBye => &[1],
        Crossing::AnswerByeAndCancel | Crossing::ByeAndBye => &[0, 1],
    };
    let is_up = matches!(crossing, Crossing::ByeAndBye | Crossing::HoldAndBye);
    let later = at + dialled + if is_up { second * 5 } else { Duration::ZERO };
    for phone in hang_ups {
        world.plan(about(later), *phone, Act::HangUp);
        if crossing == Crossing::HoldAndBye {
            world.plan(about(later), 1 - *phone, Act::Hold);
        }
    }
    world.run(at + second * 7 + SETTLES);
    let answered = agree(&world);
    for phone in 0..2 {
        world.plan(second, phone, Act::HangUp);
        world.plan(second * 40, phone, Act::HangUp);
    }
    world.run(Duration::from_secs(120));
    one_record(&world, answered);
    check::settled(&world);
    answered
}

/// Both phones are in the call, or none; true if the caller was answered.
fn agree(world: &World) -> bool {
    let [caller, callee] = &world.phones[..] else { unreachable!("two phones") };
    assert_eq!(caller.is_busy(), callee.is_busy(), "one phone is alone in the call");
    check::pairs(world);
    let is = |wanted: &Fact| count(caller, |fact| fact == wanted);
    let failed = count(caller, |fact| matches!(fact, Fact::Failed(_)));
    assert_eq!(is(&Fact::Answered) + failed, 1, "the caller heard of {:?}", caller.facts);
    // Whose answer came too late, or who was hung up on, knows at once.
    let mut since = None;
    for (at, fact) in &callee.facts {
        match fact {
            Fact::Answered => since = Some(*at),
            Fact::Ended if failed > 0 => {
                let after = since.map(|since| at.since(since));
                assert!(after.is_none_or(|after| after <= SETTLES), "the callee is alone for {after:?}");
            }
            _ => {}
        }
    }
    failed == 0
}

/// One call began and ended, and its end is that of an answered call if it was answered.
fn one_record(world: &World, answered: bool) {
    let count = |is: fn(&Body) -> bool| world.events.iter().filter(|(_, _, body)| is(body)).count();
    assert_eq!(count(|body| matches!(body, Body::CallStarted { .. })), 1);
    assert_eq!(count(|body| matches!(body, Body::CallAnswered)), usize::from(answered), "answered for the record");
    let causes = world.events.iter().filter_map(|(_, _, body)| match body {
        Body::CallEnded { cause, .. } => Some(cause),
        _ => None,
    });
    let causes: Vec<&Cause> = causes.collect();
    let [cause] = causes[..] else { panic!("ended as {causes:?}") };
    let fits = match (answered, cause.by) {
        (true, By::Caller | By::Callee) => cause.sip == 200,
        (false, By::Caller) => cause.sip == 487,
        (false, By::Callee) => matches!(cause.sip, 480 | 486),
        (false, By::Timer) => cause.sip == 480,
        _ => false,
    };
    assert!(fits, "answered: {answered}, {cause:?}");
}

fn count(phone: &Phone, is: impl Fn(&Fact) -> bool) -> usize {
    phone.facts.iter().filter(|(_, fact)| is(fact)).count()
}
