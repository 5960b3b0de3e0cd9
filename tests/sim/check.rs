//! What must hold when a world has settled, whatever happened in it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use tipring::machine::call::census::Census;
use tipring::machine::media::relay::Sessions;
use tipring::wire::event::Body;

use crate::phone::Fact;
use crate::world::World;

/// Eight ways over the network of at most 7 ms (the challenge among them), and six over the mesh of at most 2 ms; over TCP a message comes in
/// pieces, up to 3 ms apart. No timer is as short.
const SET_UP_MAX: Duration = Duration::from_millis(100);

/// Longer than any registration, and than any nonce could be used again.
const REGISTERED_MAX: Duration = Duration::from_secs(14 * 3_600);

/// Names the seed when a world fails, and how to see it again.
pub fn with_seed(seed: u64, test: &str, world: impl FnOnce()) {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(world));
    if let Err(cause) = result {
        eprintln!("seed {seed} fails; again: TIPRING_SEED={seed} cargo test --test sim {test}");
        std::panic::resume_unwind(cause);
    }
}

/// Long after the network has healed: who is in a call is in it with somebody who is in it too.
pub fn pairs(world: &World) {
    for phone in &world.phones {
        let Some((own, remote)) = phone.parties() else { continue };
        let is_mutual = world.phones.iter().any(|other| other.parties() == Some((remote, own)));
        // Who left a held call without a word promised no media, and nobody misses any; the hanging up that follows ends it.
        if !is_mutual && world.phones.iter().any(|other| other.cut_off.iter().any(|token| token == remote)) {
            continue;
        }
        assert!(is_mutual, "{} talks to {remote}, who does not", phone.user);
    }
}

/// Who is in a call and was not put on hold has been heard by the other since `before`.
pub fn audio_flows(world: &World, before: &[u64]) {
    for phone in world.phones.iter().filter(|phone| phone.talks()) {
        let remote = phone.parties().map_or("", |(_, remote)| remote);
        let other =
            world.phones.iter().zip(before).find(|(other, _)| other.parties().is_some_and(|own| own.0 == remote));
        let heard = other.map(|(other, before)| other.frames_received - before);
        assert!(heard.is_none_or(|heard| heard >= 5), "{remote} heard {heard:?} frames of {}", phone.user);
    }
}

/// As [`nothing_is_left`], and no step panicked.
pub fn settled(world: &World) {
    for (index, shard) in world.shards.iter().enumerate() {
        assert_eq!(shard.faults(), 0, "panics on shard {index}");
    }
    nothing_is_left(world);
}

/// No call, transaction, question, port or phone is left in a call; each call that began ended once; nobody heard a stranger;
/// every request has its answer.
pub fn nothing_is_left(world: &World) {
    for (index, shard) in world.shards.iter().enumerate() {
        assert_eq!(shard.calls_len(), 0, "calls left on shard {index}");
        assert_eq!(shard.ports_in_use(), 0, "ports left on shard {index}");
        assert_eq!(shard.questions(), 0, "questions left on shard {index}");
        assert_eq!(shard.lingering(), 0, "answers left on shard {index}");
        assert_eq!(shard.call_indexes_len(), 0, "ways to calls left on shard {index}");
        assert_eq!(shard.open_pairs(), 0, "pairs left on shard {index}");
        assert_eq!(shard.census(), Census::default(), "dialogs or transactions counted on shard {index}");
        assert_eq!(shard.media_sessions(), Sessions::default(), "media counted on shard {index}");
    }
    assert_eq!(world.open_sockets().count(), 0, "media sockets left open");
    each_call_ends_once(world);
    each_recording_is_told(world);
    nobody_registers_a_stranger(world);
    each_digit_comes_once(world);
    let unheard: u64 = world.shards.iter().map(|shard| shard.slowed() + shard.unanswered()).sum();
    let unanswered = world.watch.unanswered();
    assert!(unheard > 0 || unanswered.is_empty(), "no final response to {unanswered:#?}");
    let unacknowledged = world.watch.unacknowledged(world.now);
    assert!(unacknowledged.is_empty(), "no ACK for {unacknowledged:#?}");
    for phone in &world.phones {
        assert!(!phone.is_busy(), "{} is still in a call", phone.user);
        for (at, fact) in &phone.facts {
            assert!(!matches!(fact, Fact::WrongAudio(_) | Fact::Wrong(_)), "{} at {at:?}: {fact:?}", phone.user);
        }
    }
}

/// Hours later: nobody is registered, and no timer of any shard runs.
pub fn at_rest(world: &mut World) {
    world.run(REGISTERED_MAX);
    nothing_is_left(world);
    for (index, shard) in world.shards.iter().enumerate() {
        assert!(shard.registrar().is_empty(), "bindings left on shard {index}");
        assert_eq!(shard.registrar().indexes_len(), 0, "ways to bindings left on shard {index}");
        assert_eq!(shard.next_deadline(), None, "a timer runs on shard {index}");
    }
}

/// Started, answered at most once and before the end, ended; nothing after that.
fn each_call_ends_once(world: &World) {
    let mut calls: BTreeMap<_, [u32; 3]> = BTreeMap::new();
    for (_, call, body) in &world.events {
        let Some(call) = call else { continue };
        let counts = calls.entry(*call).or_default();
        let place = match body {
            Body::CallStarted { .. } => 0,
            Body::CallAnswered => 1,
            Body::CallEnded { .. } => 2,
            _ => {
                assert!(counts[0] == 1, "call {call}: {body:?} before its begin");
                continue;
            }
        };
        counts[place] += 1;
        assert!(counts[0] == 1 && counts[1] <= 1, "call {call}: begun and answered {counts:?}");
        assert!(place == 2 || counts[2] == 0, "call {call}: {body:?} after its end");
    }
    for (call, [started, _, ended]) in calls {
        assert_eq!((started, ended), (1, 1), "call {call}: started and ended");
    }
}

/// Each party of a recorded call either heard that it is, or is said not to have.
fn each_recording_is_told(world: &World) {
    let mut calls: BTreeMap<_, [u32; 3]> = BTreeMap::new();
    for (_, call, body) in &world.events {
        let place = match body {
            Body::RecordingStarted { .. } => 0,
            Body::RecordingAnnounced { .. } => 1,
            Body::RecordingStopped { .. } => 2,
            _ => continue,
        };
        calls.entry(*call).or_default()[place] += 1;
    }
    for (call, counts) in calls {
        assert_eq!(
            counts,
            [1, 2 * u32::from(world.announces), 1],
            "{call:?}: recordings, parties told, recordings ended"
        );
    }
}

fn nobody_registers_a_stranger(world: &World) {
    for (_, _, body) in &world.events {
        if let Body::BindingAdded { flow, .. } = body {
            assert!(!flow.contains(":192.0.2."), "a stranger is registered: {body:?}");
        }
    }
}

/// No digit reached two phones, and each that was said to be taken reached one.
fn each_digit_comes_once(world: &World) {
    let mut heard = BTreeSet::new();
    for digit in world.phones.iter().flat_map(|phone| &phone.ext.heard) {
        assert!(heard.insert(digit), "the digit {digit} came twice");
    }
    for digit in world.phones.iter().flat_map(|phone| &phone.ext.taken) {
        assert!(heard.contains(digit), "the digit {digit} was taken by nobody");
    }
}

/// Each call of a world without faults rang so many contacts.
pub fn all_ring(world: &World, contacts: usize) {
    let mut rung: BTreeMap<_, usize> = BTreeMap::new();
    for (_, call, body) in &world.events {
        match body {
            Body::CallStarted { .. } => _ = rung.insert(call, 0),
            Body::LegInvited { .. } => *rung.entry(call).or_default() += 1,
            _ => {}
        }
    }
    assert!(!rung.is_empty() && rung.values().all(|rung| *rung == contacts), "{rung:?}");
}

/// From dialling to ringing and from picking up to hearing of it, for every call of a world without faults.
pub fn set_up_quickly(world: &World, picks_up: Duration) {
    let mut calls = 0;
    for phone in &world.phones {
        let mut called = None;
        for (at, fact) in &phone.facts {
            match (fact, called) {
                (Fact::Called, None) => called = Some(*at),
                (Fact::Called, Some(_)) => panic!("{} heard nothing of its call before the next", phone.user),
                (Fact::Failed(status), _) => panic!("a call of {} fails: {status}", phone.user),
                (Fact::Ringing, Some(called)) => {
                    let took = at.since(called);
                    assert!(took <= SET_UP_MAX, "{} heard its call ring after {took:?}", phone.user);
                }
                (Fact::Answered, Some(dialled)) => {
                    let took = at.since(dialled).saturating_sub(picks_up);
                    assert!(took <= SET_UP_MAX, "{} was answered {took:?} late", phone.user);
                    calls += 1;
                    called = None;
                }
                _ => {}
            }
        }
    }
    assert!(calls > 0, "nobody was called");
}
