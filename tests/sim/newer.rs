//! Phones with 100rel, UPDATE and INFO call each other: what they ask is answered once, whoever asks first.

use std::time::Duration;

use tipring::base::random::Random;

use crate::check;
use crate::phone::Act;
use crate::phone::Fact;
use crate::phone::Manner;
use crate::phone::Phone;
use crate::world::Faults;
use crate::world::World;

/// Worlds of offers that meet.
const SEEDS: u64 = 150;
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn newer_phones_talk() {
    for seed in 0..32 {
        check::with_seed(seed, "newer_phones_talk", || talk(seed));
    }
}

fn talk(seed: u64) {
    let mut world = two(seed, Faults { restored: seed % 3 * 100, ..Faults::NONE }, SECOND * 3);
    let before = Duration::from_millis(1_500);
    world.plan(Duration::ZERO, 0, Act::Call { user: "1002".to_owned() });
    // Before the answer one of them has another offer, and then both.
    world.plan(before, usize::from(seed & 8 > 0), Act::Update);
    for after in [5, 6, 7] {
        world.plan(SECOND * after, 0, Act::Press);
        world.plan(SECOND * after, 1, Act::Press);
    }
    world.plan(SECOND * 8, 0, Act::Update);
    world.plan(SECOND * 9, 1, Act::Update);
    world.plan(SECOND * 10, 0, Act::Hold);
    world.plan(SECOND * 11, 0, Act::Resume);
    world.run(SECOND * 12);
    assert!(world.phones.iter().all(Phone::is_up), "a call ended");
    check::pairs(&world);
    for phone in &world.phones {
        assert_eq!(phone.ext.taken.len(), 3, "digits of {}", phone.user);
        assert_eq!(count(phone, &Fact::Unpracked), 0, "PRACK for {}", phone.user);
        assert_eq!(count(phone, &Fact::Glare), 0, "offers of {} met none", phone.user);
    }
    let updated: usize = world.phones.iter().map(|phone| count(phone, &Fact::Updated)).sum();
    // A caller or callee without the early description has nothing to offer anew.
    assert_eq!(updated, 3, "answers to UPDATE");
    world.plan(Duration::ZERO, 0, Act::HangUp);
    world.run(SECOND * 60);
    check::settled(&world);
}

#[test]
fn offers_that_meet_leave_one_session() {
    let mut glares = 0;
    for seed in 0..SEEDS {
        check::with_seed(seed, "offers_that_meet", || glares += meet(seed));
    }
    assert!(glares > 20, "{glares} offers met another");
}

/// How many were told that their offer met another.
fn meet(seed: u64) -> usize {
    let mut random = Random::new(seed ^ 0x91a4e);
    let faults = Faults {
        lost: random.below(2) * 100,
        delayed: random.below(2) * 300,
        doubled: random.below(2) * 200,
        restored: random.below(2) * 60,
        ..Faults::NONE
    };
    let mut world = two(seed, faults, SECOND);
    world.plan(Duration::ZERO, 0, Act::Call { user: "1002".to_owned() });
    // Also where one of them knows no UPDATE: it is offered in a re-INVITE.
    world.phones[1].extended = !seed.is_multiple_of(5);
    world.run(SECOND * 20);
    for round in 0..4 {
        let mut about = || SECOND * (1 + 20 * round) + Duration::from_micros(random.below(12_000));
        world.plan(about(), 0, Act::Update);
        world.plan(about(), 1, if seed.is_multiple_of(3) { Act::Hold } else { Act::Update });
    }
    world.run(SECOND * 100);
    assert!(world.phones.iter().all(Phone::is_up), "a call ended");
    check::pairs(&world);
    let heard: Vec<u64> = world.phones.iter().map(|phone| phone.frames_received).collect();
    world.run(SECOND * 2);
    check::audio_flows(&world, &heard);
    world.set_faults(Faults::NONE);
    world.plan(Duration::ZERO, 0, Act::HangUp);
    world.run(SECOND * 120);
    check::settled(&world);
    world.phones.iter().map(|phone| count(phone, &Fact::Glare)).sum()
}

/// Two newer phones, registered; the second has early media.
fn two(seed: u64, faults: Faults, answers_after: Duration) -> World {
    let mut world = World::new(seed, 1 + (seed % 4) as u8, faults);
    world.populate(&[Manner::Ignores, Manner::EarlyMedia { after: answers_after }]);
    for phone in 0..2 {
        world.phones[phone].extended = true;
        world.phones[phone].tcp = seed & (2 << phone) != 0;
        world.plan(Duration::from_millis(10), phone, Act::Register { expires: 3_600 });
    }
    world.run(SECOND * 3);
    world
}

fn count(phone: &Phone, wanted: &Fact) -> usize {
    phone.facts.iter().filter(|(_, fact)| fact == wanted).count()
}
