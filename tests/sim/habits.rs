//! Habits of real phones, networks and strangers that few expect, and worlds in which they have them.
//!
//! `TIPRING_HABITS=moves,sprayer cargo test --test sim habits` gives worlds these alone; `TIPRING_STORY=1` tells what happened.

use std::collections::BTreeSet;
use std::time::Duration;

use tipring::base::random::Random;

use crate::check;
use crate::phone::Act;
use crate::phone::Fact;
use crate::phone::Manner;
use crate::world::Faults;
use crate::world::World;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Habit {
    /// A re-INVITE or UPDATE names a new media port, and some packets still come from the old one.
    Moves,
    /// Its 200 names another port than its 183 did, and it spoke from the first.
    OtherPort,
    /// Asked to negotiate anew, it answers with another port.
    AnswererMoves,
    /// After a hold its sequence numbers begin anew or step back; the SSRC stays.
    Restarts,
    /// Its network stalls, and then everything comes at once.
    Bursts,
    /// It sends from one port and receives on another (RFC 3264 §5.1).
    SeparatePorts,
    /// Its RTP timestamps have the wrong step, and jump.
    WrongClock,
    /// Its NAT takes another port for its media in the middle of a call.
    NatRebinds,
    /// A stranger behind the same address sends to all media ports of the node.
    Sprayer,
    /// As a callee: reliable 180, reliable 183 with the answer and 200 in one moment.
    ProvisionalBurst,
    /// As a caller: PRACK comes late.
    LatePrack,
    /// Its answers have an m-line too many, or one too few for an offer of two.
    MediaLines,
    /// Its Contact has headers and a method (RFC 3261 §19.1.1).
    ContactHeaders,
    /// Its responses have two Server lines.
    DoubledHeaders,
    /// It sends from one port, listens on another, and says no rport.
    NoRport,
    /// It dials `%31` for `1`.
    EscapedUser,
    /// RFC 3323.
    Anonymous,
    /// Blanks or a NUL behind its descriptions.
    TrailingSdp,
    /// Its INVITE is not to ring for longer than that.
    InviteExpires,
}

pub const HABITS: [(&str, Habit); 19] = [
    ("moves", Habit::Moves),
    ("other-port", Habit::OtherPort),
    ("answerer-moves", Habit::AnswererMoves),
    ("restarts", Habit::Restarts),
    ("bursts", Habit::Bursts),
    ("separate-ports", Habit::SeparatePorts),
    ("wrong-clock", Habit::WrongClock),
    ("nat-rebinds", Habit::NatRebinds),
    ("sprayer", Habit::Sprayer),
    ("provisional-burst", Habit::ProvisionalBurst),
    ("late-prack", Habit::LatePrack),
    ("media-lines", Habit::MediaLines),
    ("contact-headers", Habit::ContactHeaders),
    ("doubled-headers", Habit::DoubledHeaders),
    ("no-rport", Habit::NoRport),
    ("escaped-user", Habit::EscapedUser),
    ("anonymous", Habit::Anonymous),
    ("trailing-sdp", Habit::TrailingSdp),
    ("invite-expires", Habit::InviteExpires),
];

/// Phones of a world with habits.
const PHONES: usize = 4;
/// As real ones do; other worlds are sparser.
const FRAME: Duration = Duration::from_millis(20);
/// A call, and the quiet after it.
const CALL: Duration = Duration::from_secs(9);
const ROUND: Duration = Duration::from_secs(14);
const ROUNDS: u64 = 3;

/// Which habits worlds may have; by name from the environment, or all.
pub fn switched_on() -> Vec<Habit> {
    let Ok(names) = std::env::var("TIPRING_HABITS") else {
        return HABITS.into_iter().map(|(_, habit)| habit).collect();
    };
    let known = |name: &str| HABITS.into_iter().find(|(own, _)| *own == name).map(|(_, habit)| habit);
    names.split(',').map(|name| known(name.trim()).unwrap_or_else(|| panic!("no habit is called {name}"))).collect()
}

/// Phones with these habits, each with some of them, call each other; who speaks is heard, all the time.
pub fn world(seed: u64, habits: &[Habit]) {
    let mut random = Random::new(seed ^ 0x4ab175);
    let shards = 1 + random.below(4) as u8;
    let lost = if random.chance(1, 4) { 20 } else { 0 };
    let faults = Faults { lost, restored: random.below(2) * random.below(40), ..Faults::NONE };
    let mut world = World::new(seed, shards, faults);
    let answers = Manner::Answers { after: Duration::from_millis(300 + random.below(700)) };
    let early = Manner::EarlyMedia { after: Duration::from_millis(600 + random.below(600)) };
    world.populate(&[answers, early, answers, early]);
    let is_sprayed = habits.contains(&Habit::Sprayer) && random.chance(if habits.len() == 1 { 1 } else { 4 }, 4);
    world.watch_hearing(lost > 0, is_sprayed);
    for phone in 0..PHONES {
        let own: BTreeSet<Habit> = if let [only] = habits {
            // A PRACK is late where much is said at once.
            let other = if *only == Habit::LatePrack { Habit::ProvisionalBurst } else { *only };
            BTreeSet::from([*only, other])
        } else {
            habits.iter().copied().filter(|_| random.chance(1, 4)).collect()
        };
        world.phones[phone].extended = random.chance(2, 3);
        world.phones[phone].take_habits(own, FRAME);
        world.plan(Duration::from_millis(random.below(500)), phone, Act::Register { expires: 600 });
    }
    let mut calls = 0;
    for round in 0..ROUNDS {
        let at = Duration::from_secs(2) + ROUND * round as u32;
        let caller = random.below(PHONES as u64) as usize;
        let callee = (caller + 1 + random.below(PHONES as u64 - 1) as usize) % PHONES;
        world.plan(at, caller, Act::Call { user: format!("{}", 1001 + callee) });
        calls += 1;
        if is_sprayed {
            let phone = if random.chance(1, 2) { caller } else { callee };
            world.plan_spray(at, phone, Duration::from_millis(random.below(CALL.as_millis() as u64)));
        }
        for _ in 0..random.below(7) {
            let after = at + Duration::from_millis(1_500 + random.below(CALL.as_millis() as u64 - 2_000));
            let phone = if random.chance(1, 2) { caller } else { callee };
            let act = match random.below(8) {
                0 => Act::Hold,
                1 | 2 => Act::Resume,
                3 => Act::Update,
                4 | 5 => Act::Move,
                6 => Act::RebindMedia,
                _ => Act::Stall(Duration::from_millis(200 + random.below(1_300))),
            };
            world.plan(after, phone, act);
        }
        let ends = if random.chance(1, 2) { caller } else { callee };
        world.plan(at + CALL, ends, Act::HangUp);
        // It may have crossed an offer of its own.
        world.plan(at + CALL + Duration::from_secs(3), caller, Act::HangUp);
    }
    world.run(Duration::from_secs(2) + ROUND * ROUNDS as u32);
    world.run(Duration::from_secs(100));
    if lost == 0 {
        let answered: usize = world
            .phones
            .iter()
            .map(|phone| phone.facts.iter().filter(|(_, fact)| *fact == Fact::Established).count())
            .sum();
        assert_eq!(answered, calls, "calls that were answered");
    }
    check::settled(&world);
    if std::env::var_os("TIPRING_STORY").is_some() {
        eprintln!("the story of seed {seed}:\n{}", world.story());
    }
}

/// Some of the phones of a world that has other worries, too.
pub fn spread(random: &mut Random, world: &mut World) {
    let habits = switched_on();
    for phone in &mut world.phones {
        let own = habits.iter().copied().filter(|_| random.chance(1, 6)).collect();
        let frame = phone.frame;
        phone.take_habits(own, frame);
    }
    for _ in 0..20 {
        let (after, phone) = (Duration::from_millis(3_000 + random.below(117_000)), random.below(5) as usize);
        let act = if random.chance(2, 3) { Act::Move } else { Act::RebindMedia };
        world.plan(after, phone, act);
    }
}
