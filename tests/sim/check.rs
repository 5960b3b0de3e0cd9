//! What must hold when a world has settled, whatever happened in it.

use std::collections::BTreeMap;

use tipring::wire::event::Body;

use crate::phone::Fact;
use crate::world::World;

pub fn with_seed(seed: u64, world: &World) {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| settled(world)));
    if result.is_err() {
        panic!("seed {seed} fails; its story:\n{}", world.story());
    }
}

/// As [`nothing_is_left`], and no step panicked.
pub fn settled(world: &World) {
    for (index, shard) in world.shards.iter().enumerate() {
        assert_eq!(shard.faults(), 0, "panics on shard {index}");
    }
    nothing_is_left(world);
}

/// No call, port or phone is left in a call; each call that began ended once; nobody heard a stranger.
pub fn nothing_is_left(world: &World) {
    for (index, shard) in world.shards.iter().enumerate() {
        assert_eq!(shard.calls_len(), 0, "calls left on shard {index}");
        assert_eq!(shard.ports_in_use(), 0, "ports left on shard {index}");
    }
    each_call_ends_once(world);
    for phone in &world.phones {
        assert!(!phone.is_busy(), "{} is still in a call", phone.user);
        for (at, fact) in &phone.facts {
            assert!(!matches!(fact, Fact::WrongAudio(_)), "{} at {at:?}: {fact:?}", phone.user);
        }
    }
}

fn each_call_ends_once(world: &World) {
    let mut calls: BTreeMap<_, (u32, u32)> = BTreeMap::new();
    for (_, call, body) in &world.events {
        let Some(call) = call else { continue };
        let counts = calls.entry(*call).or_default();
        match body {
            Body::CallStarted { .. } => counts.0 += 1,
            Body::CallEnded { .. } => counts.1 += 1,
            _ => {}
        }
    }
    for (call, counts) in calls {
        assert_eq!(counts, (1, 1), "call {call}: started and ended");
    }
}
