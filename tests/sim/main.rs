//! The simulator: worlds of phones and a node, many seeds, and what must hold in each (`world`, `phone`, `watch`, `check`).
//!
//! A seed that fails is named with its story; `TIPRING_SEED=N cargo test --test sim` makes that world alone again,
//! `TIPRING_SEEDS=N` makes more of them.

#![allow(unreachable_pub, reason = "a binary of its own")]
#![allow(clippy::print_stderr, reason = "a failure tells its seed and its story")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod check;
mod crossing;
mod habits;
mod hearing;
mod hostile;
mod newer;
mod offers;
mod patience;
mod phone;
mod stranger;
mod stream;
mod text;
mod watch;
mod world;

use std::time::Duration;

use phone::Act;
use phone::Fact;
use phone::Manner;
use tipring::base::random::Random;
use tipring::wire::event::Body;
use world::Faults;
use world::GROUP;
use world::World;

/// Worlds a test makes: some ten milliseconds each where the compiler optimises, many times that where it does not. The
/// environment may ask for more (`TIPRING_SEEDS`), or for one (`TIPRING_SEED`).
fn seeds() -> std::ops::Range<u64> {
    seeds_of(30, 2_000)
}

/// So many without and with the optimiser.
fn seeds_of(slow: u64, fast: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    if let Some(seed) = number("TIPRING_SEED") {
        return seed..seed + 1;
    }
    0..number("TIPRING_SEEDS").unwrap_or(if cfg!(debug_assertions) { slow } else { fast })
}

/// Two phones that answer, registered.
fn two_phones(seed: u64, shards: u8, faults: Faults) -> World {
    let answers = Manner::Answers { after: Duration::from_millis(800) };
    let mut world = World::new(seed, shards, faults);
    world.populate(&[answers, answers]);
    for phone in 0..2 {
        world.plan(Duration::from_millis(10), phone, Act::Register { expires: 3600 });
    }
    world.run(Duration::from_secs(1));
    world
}

#[test]
fn two_phones_talk() {
    for shards in 1..=4 {
        let mut world = two_phones(1, shards, Faults::NONE);
        assert!(world.phones.iter().all(|phone| phone.registered), "{}", world.story());
        world.plan(Duration::ZERO, 0, Act::Call { user: "1002".to_owned() });
        world.run(Duration::from_secs(3));
        assert!(world.phones.iter().all(phone::Phone::is_up), "{}", world.story());
        world.run(Duration::from_secs(10));
        world.plan(Duration::ZERO, 1, Act::HangUp);
        world.run(Duration::from_secs(40));
        for phone in &world.phones {
            assert!(phone.frames_received >= 45, "{} frames\n{}", phone.frames_received, world.story());
        }
        check::settled(&world);
    }
}

#[test]
fn both_hear_that_they_are_recorded_and_then_each_other() {
    for shards in [1, 3] {
        let answers = Manner::Answers { after: Duration::from_millis(800) };
        // A shard is another engine's at almost every step.
        let mut world = World::new(3, shards, Faults { restored: 900, ..Faults::NONE });
        world.announces = true;
        world.populate(&[answers, answers]);
        for phone in 0..2 {
            world.plan(Duration::from_millis(10), phone, Act::Register { expires: 3600 });
        }
        world.run(Duration::from_secs(1));
        world.plan(Duration::ZERO, 0, Act::Call { user: "1002".to_owned() });
        world.run(Duration::from_secs(5));
        for phone in &world.phones {
            assert_eq!(phone.announced.len(), 20, "{}", world.story());
            assert!(phone.announced.windows(2).all(|two| two[1] == two[0].wrapping_add(1)), "{:?}", phone.announced);
            assert!(phone.frames_received > 10, "{}", world.story());
        }
        world.plan(Duration::ZERO, 1, Act::HangUp);
        world.run(Duration::from_secs(60));
        check::settled(&world);
        let played =
            world.events.iter().filter(|(_, _, body)| matches!(body, Body::RecordingAnnounced { played: true, .. }));
        assert_eq!(played.count(), 2);
    }
}

#[test]
fn calls_are_set_up_without_waiting() {
    let picks_up = Duration::from_millis(800);
    for shards in 1..=4 {
        for tcp in [0, 1, 3, 6] {
            let mut world = World::new(40 + u64::from(shards), shards, Faults::NONE);
            world.populate(&[Manner::Answers { after: picks_up }; 6]);
            for phone in 0..6 {
                world.phones[phone].tcp = phone < tcp;
                world.plan(Duration::from_millis(10), phone, Act::Register { expires: 3600 });
            }
            world.run(Duration::from_secs(1));
            for round in 0..4 {
                for phone in 0..3 {
                    world.plan(Duration::ZERO, phone, Act::Call { user: format!("{}", 1004 + (phone + round) % 3) });
                    world.plan(Duration::from_secs(3), phone, Act::HangUp);
                }
                world.run(Duration::from_secs(5));
            }
            world.run(Duration::from_secs(60));
            check::set_up_quickly(&world, picks_up);
            check::all_ring(&world, 1);
            check::settled(&world);
            let slowed: u64 = world.shards.iter().map(tipring::machine::exchange::Exchange::slowed).sum();
            assert_eq!(slowed, 0);
        }
    }
}

#[test]
fn a_number_of_many_phones_rings_them_all_at_once() {
    let picks_up = Duration::from_millis(800);
    for seed in 0..40 {
        check::with_seed(seed, "a_number_of_many_phones", || {
            let mut world = World::new(seed, 1 + (seed % 4) as u8, Faults::NONE);
            (world.group, world.repeats_mesh) = (true, seed % 8 >= 4);
            world.populate(&[Manner::Answers { after: picks_up }; 6]);
            for phone in 0..6 {
                world.phones[phone].tcp = seed & (1 << phone) != 0;
                world.plan(Duration::from_millis(10), phone, Act::Register { expires: 3600 });
            }
            world.run(Duration::from_secs(1));
            world.plan(Duration::ZERO, 0, Act::Call { user: GROUP.to_owned() });
            world.plan(Duration::from_secs(3), 0, Act::HangUp);
            world.run(Duration::from_secs(60));
            check::set_up_quickly(&world, picks_up);
            check::all_ring(&world, 5);
            check::settled(&world);
        });
    }
}

#[test]
fn repeated_answers_about_bindings_change_nothing() {
    let tell = |seed, repeats_mesh| {
        let mut world = World::new(seed, 2 + (seed % 3) as u8, Faults { lost: 30, delayed: 50, ..Faults::NONE });
        (world.group, world.repeats_mesh) = (true, repeats_mesh);
        world.populate(&[Manner::Answers { after: Duration::from_millis(800) }; 5]);
        for phone in 0..5 {
            world.phones[phone].tcp = seed & (1 << phone) != 0;
            world.plan(Duration::from_millis(10), phone, Act::Register { expires: 3600 });
            world.plan(Duration::from_secs(3 + phone as u64), phone, Act::Call { user: GROUP.to_owned() });
            world.plan(Duration::from_secs(8 + phone as u64), phone, Act::HangUp);
        }
        world.run(Duration::from_secs(100));
        (world.story(), format!("{:?}", world.events))
    };
    for seed in 0..60 {
        let (once, twice) = (tell(seed, false), tell(seed, true));
        let differs = once.0.lines().zip(twice.0.lines()).find(|(once, twice)| once != twice);
        assert!(once == twice, "seed {seed}: {differs:#?}\n{}", once.0);
    }
}

#[test]
fn a_panic_ends_its_call_and_no_other() {
    for shards in [1, 3] {
        let answers = Manner::Answers { after: Duration::from_millis(500) };
        let mut world = World::new(21, shards, Faults::NONE);
        world.populate(&[answers; 4]);
        for phone in 0..4 {
            world.plan(Duration::from_millis(10), phone, Act::Register { expires: 3600 });
        }
        world.run(Duration::from_secs(1));
        world.plan(Duration::ZERO, 0, Act::Call { user: "1002".to_owned() });
        world.plan(Duration::from_millis(50), 2, Act::Call { user: "1004".to_owned() });
        world.run(Duration::from_secs(3));
        assert!(world.phones.iter().all(phone::Phone::is_up), "{}", world.story());
        let started = world.events.iter().filter(|(_, _, body)| matches!(body, Body::CallStarted { .. }));
        let calls: Vec<_> = started.filter_map(|(_, call, _)| *call).collect();
        let heard = world.phones[3].frames_received;
        world.break_call(calls[0]);
        world.run(Duration::from_secs(5));
        let up: Vec<_> = world.phones.iter().map(phone::Phone::is_up).collect();
        assert_eq!(up, [false, false, true, true], "{}", world.story());
        assert!(world.phones[3].frames_received > heard + 20);
        let told = |wanted: fn(&Body) -> bool| {
            let about = world.events.iter().filter(|(_, _, body)| wanted(body));
            about.filter_map(|(_, call, _)| *call).collect::<Vec<_>>()
        };
        assert_eq!(told(|body| matches!(body, Body::CallFault { .. })), [calls[0]]);
        assert_eq!(told(|body| matches!(body, Body::CallEnded { .. })), [calls[0]]);
        world.plan(Duration::ZERO, 2, Act::HangUp);
        world.run(Duration::from_secs(60));
        let faults: u64 = world.shards.iter().map(tipring::machine::exchange::Exchange::faults).sum();
        assert_eq!(faults, 1);
        check::nothing_is_left(&world);
    }
}

#[test]
fn a_wrong_password_never_registers() {
    let mut world = World::new(5, 2, Faults::NONE);
    world.populate(&[Manner::Ignores]);
    world.phones[0].password = "guess".to_owned();
    world.plan(Duration::ZERO, 0, Act::Register { expires: 3600 });
    world.run(Duration::from_secs(2));
    assert_eq!(world.phones[0].facts.last().map(|(_, fact)| fact.clone()), Some(Fact::RegisterFailed(401)));
}

#[test]
fn the_same_seed_makes_the_same_world() {
    let tell = |seed| {
        let mut world =
            two_phones(seed, 3, Faults { lost: 100, doubled: 50, delayed: 100, restored: 100, ..Faults::NONE });
        world.plan(Duration::ZERO, 0, Act::Call { user: "1002".to_owned() });
        world.run(Duration::from_secs(60));
        world.story()
    };
    assert_eq!(tell(11), tell(11));
    assert_ne!(tell(11), tell(12));
}

#[test]
fn phones_notice_nothing_of_somebody_who_attacks_in_their_names() {
    for seed in seeds_of(6, 200) {
        check::with_seed(seed, "phones_notice_nothing_of_somebody_who_attacks", || attacked_world(seed));
    }
}

/// Phones register, call, lose power and come back; one comes for the first time, over TCP. All the while somebody who knows their
/// addresses, ports and users floods the node with datagrams that seem to be theirs, and guesses the password of one.
fn attacked_world(seed: u64) {
    let mut random = Random::new(seed ^ 0xa77a);
    let picks_up = Duration::from_millis(800);
    let shards = 1 + (seed % 4) as u8;
    let mut world = World::new(seed, shards, Faults { restored: random.below(2) * random.below(40), ..Faults::NONE });
    world.populate(&[Manner::Answers { after: picks_up }; 6]);
    world.phones[5].tcp = true;
    for phone in 0..5 {
        world.plan(Duration::from_millis(10), phone, Act::Register { expires: 600 });
    }
    world.run(Duration::from_secs(1));
    world.plan_attack(Duration::ZERO, Duration::from_secs(30));
    world.plan(Duration::from_secs(3), 5, Act::Register { expires: 600 });
    world.plan(Duration::from_secs(4), 2, Act::PowerCut);
    world.plan(Duration::from_secs(8), 2, Act::PowerOn);
    for phone in [0, 3] {
        for round in 0..4 {
            world.plan(Duration::from_secs(6 * round + 1), phone, Act::Call { user: format!("{}", 1002 + phone) });
            world.plan(Duration::from_secs(6 * round + 4), phone, Act::HangUp);
        }
        world.plan(Duration::from_secs(26), phone, Act::Register { expires: 600 });
    }
    world.run(Duration::from_secs(31));
    for phone in &world.phones {
        assert!(phone.registered, "{}", phone.user);
    }
    let guessed = world.events.iter().filter(|(_, _, body)| matches!(body, Body::AuthenticationFailed { .. })).count();
    assert!((3..=60).contains(&guessed), "{guessed} guesses were verified");
    assert!(world.hostile.bytes_back <= world.hostile.bytes_out, "it gains by us");
    check::set_up_quickly(&world, picks_up);
    world.run(Duration::from_secs(60));
    check::settled(&world);
}

/// Each habit alone: no world may do without it by chance.
#[test]
fn habits_of_real_phones_alone() {
    for habit in habits::switched_on() {
        for seed in seeds_of(4, 20) {
            let name = habits::HABITS.iter().find(|(_, own)| *own == habit).map_or("", |(name, _)| name);
            check::with_seed(seed, &format!("habits_of_real_phones_alone (TIPRING_HABITS={name})"), || {
                habits::world(seed, &[habit])
            });
        }
    }
}

#[test]
fn habits_of_real_phones_together() {
    let habits = habits::switched_on();
    for seed in seeds_of(20, 500) {
        check::with_seed(seed, "habits_of_real_phones_together", || habits::world(seed, &habits));
    }
}

#[test]
fn calls_settle_whatever_the_network_does() {
    for seed in seeds() {
        check::with_seed(seed, "calls_settle", || busy_world(seed));
    }
}

/// Five phones of different manners, over UDP and TCP, call each other at random for two minutes over a bad network, with
/// strangers about; then it heals. Each seed has another half of it all.
fn busy_world(seed: u64) {
    let mut random = Random::new(seed ^ 0x5eed);
    let shards = 1 + random.below(4) as u8;
    let faults = Faults {
        lost: random.below(2) * random.below(150),
        doubled: random.below(2) * random.below(100),
        delayed: random.below(2) * random.below(200),
        restored: random.below(2) * random.below(60),
        ..Faults::NONE
    };
    let mut world = World::new(seed, shards, faults);
    let answers = Manner::Answers { after: Duration::from_millis(1 + random.below(3_000)) };
    world.announces = seed.is_multiple_of(3);
    world.group = random.chance(1, 2);
    world.repeats_mesh = random.chance(1, 2);
    world.populate(&[
        answers,
        answers,
        Manner::EarlyMedia { after: Duration::from_secs(2) },
        Manner::Rejects(486),
        Manner::Ignores,
    ]);
    let has_tcp = random.chance(1, 2);
    for phone in 0..5 {
        world.phones[phone].tcp = has_tcp && random.chance(1, 2);
        world.plan(Duration::from_millis(random.below(2_000)), phone, Act::Register { expires: 600 });
    }
    for _ in 0..30 {
        let after = Duration::from_millis(3_000 + random.below(117_000));
        let phone = random.below(5) as usize;
        let act = match random.below(9) {
            0..=3 if world.group && random.chance(1, 3) => Act::Call { user: GROUP.to_owned() },
            0..=3 => Act::Call { user: format!("{}", 1001 + random.below(6)) },
            4 => Act::Hold,
            5 => Act::Resume,
            6 => Act::Disconnect,
            _ => Act::HangUp,
        };
        world.plan(after, phone, act);
    }
    if random.chance(1, 2) {
        let (phone, at) = (random.below(5) as usize, 3_000 + random.below(100_000));
        world.plan(Duration::from_millis(at), phone, Act::PowerCut);
        world.plan(Duration::from_millis(at + 1_000 + random.below(90_000)), phone, Act::PowerOn);
    }
    for _ in 0..random.below(2) * random.below(40) {
        world.plan_stranger(Duration::from_millis(random.below(120_000)));
    }
    add_newer_things(seed, faults, &mut world);
    world.run(Duration::from_secs(120));
    world.set_faults(Faults { restored: faults.restored, ..Faults::NONE });
    // Longer than any transaction and any ringing lasts.
    world.run(Duration::from_secs(100));
    // What was lost over a connection is not repeated: somebody may have been left alone.
    if !may_leave_alone(seed) {
        check::pairs(&world);
        let heard: Vec<u64> = world.phones.iter().map(|phone| phone.frames_received).collect();
        world.run(Duration::from_secs(2));
        check::audio_flows(&world, &heard);
    }
    for phone in 0..5 {
        for round in 0..4 {
            world.plan(Duration::from_secs(5 + 20 * round), phone, Act::HangUp);
        }
    }
    world.run(Duration::from_secs(300));
    check::settled(&world);
    check::at_rest(&mut world);
}

/// Every other world has phones with 100rel, UPDATE and INFO; one in eight loses messages between shards, and another restarts.
fn add_newer_things(seed: u64, faults: Faults, world: &mut World) {
    let mut random = Random::new(seed ^ 0xe47e);
    if seed & 1 == 1 {
        for phone in &mut world.phones {
            phone.extended = random.chance(2, 3);
        }
        for _ in 0..20 {
            let after = Duration::from_millis(3_000 + random.below(117_000));
            let act = if random.chance(1, 2) { Act::Update } else { Act::Press };
            world.plan(after, random.below(5) as usize, act);
        }
    }
    if seed % 4 == 2 {
        habits::spread(&mut random, world);
    }
    if seed % 8 == 3 {
        world.plan_restart(Duration::from_millis(3_000 + random.below(110_000)));
    }
    if may_leave_alone(seed) {
        world.loses_mesh();
        world.set_faults(Faults { mesh_lost: 1 + random.below(80), ..faults });
    }
}

fn may_leave_alone(seed: u64) -> bool {
    matches!(seed % 16, 6 | 15)
}
