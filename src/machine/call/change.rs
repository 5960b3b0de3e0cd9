//! Changes in the course of a call that are told as they come: media that moves or is heard one way only, glare, session
//! refreshes, connections lost and found.
//!
//! A phone can bring most of them about as often as it likes, and events are never shed: of one kind on one stream or leg
//! one is told in [`PAUSE`], the others are steps of the trace alone. An end is told
//! only if its beginning was.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::time::Instant;
use crate::machine::call::Call;
use crate::machine::call::input::Context;
use crate::machine::outbox::Outbox;
use crate::wire::event::Body;

pub(super) const PAUSE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Change {
    MediaMoved { stream: u8 },
    OneWay { stream: u8 },
    Glare,
    Refreshed,
    RefreshFailed,
    FlowLost,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Changes {
    /// By leg: at most four of it and two of each of its streams.
    told: BTreeMap<(u8, Change), Told>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    at: Instant,
    /// Its end, if it is a thing with an end, was not told.
    is_open: bool,
}

impl Changes {
    fn admits(&mut self, leg: u8, change: Change, now: Instant) -> bool {
        let is_new = self.told.get(&(leg, change)).is_none_or(|told| now.since(told.at) >= PAUSE);
        if is_new {
            self.told.insert((leg, change), Told { at: now, is_open: true });
        }
        is_new
    }

    fn ends(&mut self, leg: u8, change: Change) -> bool {
        self.told.get_mut(&(leg, change)).is_some_and(|told| std::mem::take(&mut told.is_open))
    }
}

impl Call {
    pub(super) fn tell_change(&mut self, leg: u8, change: Change, body: Body, cx: &Context<'_>, out: &mut Outbox) {
        if self.is_ending() {
            return;
        }
        let changes = self.changes.get_or_insert_default();
        if changes.admits(leg, change, cx.now.instant) {
            self.facts.event(Some(leg), body, out);
        }
    }

    /// What was told is over.
    pub(super) fn tell_over(&mut self, leg: u8, change: Change, body: Body, out: &mut Outbox) {
        let was_told = self.changes.as_mut().is_some_and(|changes| changes.ends(leg, change));
        if was_told && !self.is_ending() {
            self.facts.event(Some(leg), body, out);
        }
    }
}
