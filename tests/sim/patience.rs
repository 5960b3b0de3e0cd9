//! How long anything may take by the virtual clock, in every world: setting up, ringing, transactions, what is left of a call
//! that ended. And that nobody is registered over a connection that is gone.
//!
//! Looked at all the time ([`check`]); what holds for single messages is in [`crate::watch`].

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use tipring::base::id::CallId;
use tipring::base::time::Instant;
use tipring::wire::event::Body;
use tipring::wire::sip::Transport;

use crate::world::World;

/// A question to other shards and its answer: two ways over the mesh of at most 2 ms, and the millisecond of a timer.
const LOCATED_MAX: Duration = Duration::from_millis(5);
/// How long a call may ring, in all worlds.
pub const RING_MAX: Duration = Duration::from_secs(60);
/// Of the records' patience for the last figures of the media.
const REPORTED_MAX: Duration = Duration::from_secs(1);
const TIMER: Duration = Duration::from_millis(2);
/// 64*T1 for a phone that says nothing to its CANCEL, as long again in which it may answer all the same, and as long and T4 for
/// the BYE that it gets.
const AFTERLIFE_MAX: Duration = Duration::from_secs(32 + 32 + 32 + 5 + 1);

/// What the events of the calls that are not forgotten yet said.
#[derive(Debug, Default)]
pub struct Patience {
    /// More time to find phones where messages of the mesh are lost.
    pub slack: Duration,
    calls: BTreeMap<CallId, Phase>,
    /// Contacts that each call rang.
    invited: BTreeSet<(CallId, String)>,
    /// Users and contacts that are bound.
    registered: BTreeSet<(String, String)>,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Locating { since: Instant },
    Ringing { since: Instant },
    Answered,
    Ended { since: Instant },
}

impl Phase {
    fn ends(self, slack: Duration) -> Instant {
        match self {
            Self::Locating { since } => since + LOCATED_MAX + slack,
            Self::Ringing { since } => since + RING_MAX + REPORTED_MAX + TIMER,
            Self::Answered => Instant::NEVER,
            Self::Ended { since } => since + AFTERLIFE_MAX,
        }
    }
}

impl Patience {
    pub fn on_event(&mut self, call: Option<CallId>, body: &Body, now: Instant) {
        match body {
            Body::BindingAdded { phone, contact, .. } => {
                assert!(self.registered.insert((phone.clone(), contact.clone())), "{contact} is registered twice");
            }
            Body::BindingRemoved { phone, contact, .. } => {
                assert!(self.registered.remove(&(phone.clone(), contact.clone())), "{contact} is removed twice");
            }
            _ => {}
        }
        let Some(call) = call else { return };
        let before = self.calls.get(&call).copied();
        let phase = match body {
            Body::CallStarted { .. } => Phase::Locating { since: now },
            Body::LegInvited { contact, .. } => {
                assert!(self.invited.insert((call, contact.clone())), "call {call} rings {contact} twice");
                Phase::Ringing { since: now }
            }
            Body::CallAnswered => Phase::Answered,
            Body::CallEnded { .. } => Phase::Ended { since: now },
            _ => return,
        };
        // An outcome comes in time, also where nobody looked meanwhile.
        let is_late = before.is_some_and(|before| now > before.ends(self.slack));
        assert!(!is_late, "call {call}: {body:?} at {now:?}, too late for {before:?}");
        self.calls.insert(call, phase);
    }
}

/// Looks at all shards.
pub fn check(world: &World) {
    let now = world.now;
    for (call, phase) in &world.patience.calls {
        let is_over = matches!(phase, Phase::Ended { .. });
        assert!(is_over || now <= phase.ends(world.patience.slack), "call {call} is still {phase:?} at {now:?}");
    }
    for (index, shard) in world.shards.iter().enumerate() {
        for live in shard.live_calls() {
            let phase = world.patience.calls.get(&live.call);
            let lasts = phase.is_some_and(|phase| now <= phase.ends(world.patience.slack));
            assert!(lasts, "call {} is left on shard {index}: {phase:?} at {now:?}", live.call);
        }
    }
    sockets(world);
    registrations(world);
    world.watch.check_patience(now);
}

/// An open media socket is that of a call that has not ended.
fn sockets(world: &World) {
    for (shard, slot) in world.open_sockets() {
        let call = world.shards[shard].call_of_slot(slot).map(|(call, _)| call);
        let phase = call.and_then(|call| world.patience.calls.get(&call));
        let is_used = match phase {
            Some(Phase::Ended { since }) => world.now <= *since + REPORTED_MAX,
            other => other.is_some(),
        };
        assert!(is_used, "slot {slot} of shard {shard} is open for {call:?}, {phase:?}");
    }
}

/// Who is registered is so over a flow that is there, is told so by the events, and is counted once.
fn registrations(world: &World) {
    let mut counted = BTreeSet::new();
    for shard in &world.shards {
        let (registrations, rest) = shard.registrar().registrations(None, usize::MAX);
        assert!(rest.is_none());
        assert_eq!(registrations.len(), shard.registrar().len(), "bindings and their number");
        for registration in registrations {
            let over = |stream: &&crate::stream::Stream| {
                registration.transport == Transport::Tcp && stream.flow.peer == registration.received
            };
            let stream = world.streams.iter().find(over);
            let is_gone = stream.is_some_and(|stream| stream.is_known_gone(world.now));
            let may_be_missed = world.patience.slack > Duration::ZERO;
            assert!(
                !is_gone || may_be_missed,
                "{} is registered over {}, which is gone",
                registration.user,
                registration.received
            );
            assert!(counted.insert((registration.user, registration.contact)), "a binding is there twice");
        }
    }
    assert_eq!(counted, world.patience.registered, "bindings, and those that the events tell of");
}
