//! The calls of a shard: where they are, when they want to be woken, and that the fault of one is the end of that one alone.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use serde::Deserialize;
use serde::Serialize;

use crate::base::id::CallId;
use crate::base::id::Handle;
use crate::base::id::ShardId;
use crate::base::limit::BRANCHES_TYPICAL_MAX;
use crate::base::limit::CALL_BYTES_TYPICAL;
use crate::base::limit::CALLS_PER_SHARD_MAX;
use crate::base::limit::SIP_MESSAGE_BYTES_TYPICAL_MAX;
use crate::base::random::Random;
use crate::base::time::Instant;
use crate::base::time::Now;
use crate::base::timer::Alarm;
use crate::base::timer::Wheel;
use crate::machine::Shared;
use crate::machine::admission::Admission;
use crate::machine::admission::IN_DIALOG;
use crate::machine::admission::Owner;
use crate::machine::admission::Pace;
use crate::machine::call::Call;
use crate::machine::call::census::Census;
use crate::machine::call::input::CallInput;
use crate::machine::call::input::Context;
use crate::machine::call::input::Invite;
use crate::machine::flow::Flow;
use crate::machine::media::ports::PortPool;
use crate::machine::outbox::Live;
use crate::machine::outbox::Outbox;
use crate::machine::outbox::Output;
use crate::wire::event::Body;
use crate::wire::event::By;
use crate::wire::event::Cause;

/// Calls woken in one turn.
const WAKES_MAX: usize = 256;
/// The place of a call that has none: what is sent there finds nobody.
const NOWHERE: Handle = Handle { slot: u32::MAX, generation: u32::MAX };

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Calls {
    table: crate::base::slab::Slab<Entry>,
    /// Initial INVITE transactions, for what comes before our tag is known.
    by_invite: BTreeMap<u64, Handle>,
    /// The same INVITEs by what their copies have in common.
    by_merge: BTreeMap<u64, Handle>,
    by_id: BTreeMap<CallId, Handle>,
    /// Calls by the connections that they use.
    by_connection: BTreeSet<(Flow, Handle)>,
    wheel: Wheel<Handle>,
    /// Steps that panicked.
    pub(super) faults: u64,
    pub(super) provisionals_joined: u64,
    /// The call of the last step.
    pub(super) concerned: Option<CallId>,
    /// Of all calls.
    pub(super) census: Census,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    call: Box<Call>,
    alarm: Alarm,
    /// As they stand in the index.
    connections: Vec<Flow>,
    /// As it stands in the sum.
    census: Census,
    /// The phone that called.
    owner: Owner,
    /// It counts as one of the phone's calls until it is hung up.
    is_counted: bool,
    /// What it keeps, as the admission knows it.
    bytes: u64,
    /// Requests within it.
    pace: Pace,
}

/// What a step of a call may use of its shard.
pub(super) struct Surroundings<'a> {
    pub(super) shard: ShardId,
    pub(super) random: &'a mut Random,
    pub(super) ports: &'a mut PortPool,
    pub(super) admission: &'a mut Admission,
    pub(super) now: Now,
    pub(super) shared: Shared<'a>,
}

impl Surroundings<'_> {
    fn context(&mut self, handle: Handle) -> Context<'_> {
        Context {
            now: self.now,
            settings: self.shared.settings,
            shard: self.shard,
            handle,
            random: self.random,
            ports: self.ports,
        }
    }
}

impl Calls {
    pub(super) fn new(now: Instant) -> Self {
        Self::with_room(now, CALLS_PER_SHARD_MAX)
    }

    pub(super) fn with_room(now: Instant, calls_max: u32) -> Self {
        let table = crate::base::slab::Slab::new(calls_max);
        Self {
            table,
            by_invite: BTreeMap::new(),
            by_merge: BTreeMap::new(),
            by_id: BTreeMap::new(),
            by_connection: BTreeSet::new(),
            wheel: Wheel::new(now),
            faults: 0,
            provisionals_joined: 0,
            concerned: None,
            census: Census::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn indexes_len(&self) -> usize {
        self.by_invite.len() + self.by_merge.len() + self.by_id.len() + self.by_connection.len()
    }

    pub(super) fn places(&self) -> usize {
        self.table.places()
    }

    /// The phone that called.
    pub(super) fn owner(&self, handle: Handle) -> Owner {
        self.table.get(handle).map(|entry| entry.owner).unwrap_or_default()
    }

    /// A request within the call that asks for something may be handled.
    pub(super) fn paces(&mut self, handle: Handle, now: Instant) -> bool {
        self.table.get_mut(handle).is_none_or(|entry| entry.pace.take(IN_DIALOG, now))
    }

    pub(super) fn find_invite(&self, key: u64) -> Option<Handle> {
        self.by_invite.get(&key).copied()
    }

    /// A call whose INVITE is being served, or was a moment ago, has this one's copy (RFC 3261 §8.2.2.2).
    pub(super) fn is_merged(&self, merge_key: u64) -> bool {
        let call = self.by_merge.get(&merge_key).and_then(|handle| self.get(*handle));
        call.is_some_and(Call::serves_invite)
    }

    pub(super) fn find(&self, call: CallId) -> Option<Handle> {
        self.by_id.get(&call).copied()
    }

    /// The calls that use a connection.
    pub(super) fn on_connection(&self, flow: Flow) -> Vec<Handle> {
        let first = Handle { slot: 0, generation: 0 };
        self.by_connection
            .range((flow, first)..)
            .take_while(|(own, _)| *own == flow)
            .map(|(_, handle)| *handle)
            .collect()
    }

    pub(super) fn get(&self, handle: Handle) -> Option<&Call> {
        self.table.get(handle).map(|entry| entry.call.as_ref())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Handle, &Call)> {
        self.table.iter().map(|(handle, entry)| (handle, entry.call.as_ref()))
    }

    /// A new call; false if there is no room for it.
    pub(super) fn begin(
        &mut self,
        key: u64,
        owner: Owner,
        invite: Invite<'_>,
        mut around: Surroundings<'_>,
        out: &mut Outbox,
    ) -> bool {
        let is_large = invite.message.bytes().len() > SIP_MESSAGE_BYTES_TYPICAL_MAX;
        // The place comes first: its number is part of every identifier of the call.
        let Some(handle) = self.table.reserve() else { return false };
        let (mark, now) = (out.len(), around.now.instant);
        around.ports.serve(owner);
        let begun = catch_unwind(AssertUnwindSafe(|| Call::new(invite, &mut around.context(handle), out)));
        match begun {
            Ok(call) => {
                self.by_invite.insert(key, handle);
                self.by_merge.insert(call.merge_key(), handle);
                self.by_id.insert(call.id(), handle);
                self.concerned = Some(call.id());
                around.admission.enter(&owner, now);
                let (connections, census) = (Vec::new(), Census::default());
                let (call, alarm, pace) = (Box::new(call), Alarm::new(), Pace::default());
                let (is_counted, bytes) = (true, CALL_BYTES_TYPICAL);
                let entry = Entry { call, alarm, connections, census, owner, is_counted, bytes, pace };
                self.keep(handle, entry, is_large, around.admission);
            }
            Err(_) => {
                out.truncate(mark);
                around.ports.undo(now);
                self.faults += 1;
                self.table.remove(handle);
            }
        }
        true
    }

    /// A call for which there is no place: it leaves its record and its refusal.
    pub(super) fn turn_away(
        &mut self,
        invite: &Invite<'_>,
        status: u16,
        mut around: Surroundings<'_>,
        out: &mut Outbox,
    ) {
        let mark = out.len();
        let refused =
            catch_unwind(AssertUnwindSafe(|| Call::refused(invite, status, &mut around.context(NOWHERE), out)));
        match refused {
            Ok(call) => {
                self.concerned = Some(call.id());
                out.push(Output::Traced { call: call.id(), tenant: call.tenant().to_owned(), steps: call.trace() });
            }
            Err(_) => {
                out.truncate(mark);
                self.faults += 1;
            }
        }
    }

    pub(super) fn handle(&mut self, handle: Handle, input: CallInput<'_>, around: Surroundings<'_>, out: &mut Outbox) {
        let is_large = is_large(&input);
        self.step(handle, is_large, around, out, |call, context, out| call.handle(input, context, out));
    }

    /// Wakes those whose time has come; a bounded number of them.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Handle> {
        let mut due = Vec::new();
        self.wheel.expire(now, &mut due, WAKES_MAX);
        due
    }

    pub(super) fn handle_timeout(&mut self, handle: Handle, around: Surroundings<'_>, out: &mut Outbox) {
        let now = around.now.instant;
        let Some(entry) = self.table.get_mut(handle) else { return };
        entry.alarm.rang();
        // The deadline may have moved since the alarm was set.
        if entry.call.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.step(handle, false, around, out, |call, context, out| call.handle_timeout(context, out));
        } else {
            entry.alarm.set(entry.call.next_deadline(), handle, &mut self.wheel);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.wheel.next_deadline()
    }

    /// One step of one call. If it panics, its effects and the call as it left it are thrown away; what it was before the
    /// step ends by the shortest path.
    fn step(
        &mut self,
        handle: Handle,
        is_large: bool,
        mut around: Surroundings<'_>,
        out: &mut Outbox,
        act: impl FnOnce(&mut Call, &mut Context<'_>, &mut Outbox),
    ) {
        let Some(mut entry) = self.table.take(handle) else { return };
        self.concerned = Some(entry.call.id());
        let before = entry.call.clone();
        let (mark, now) = (out.len(), around.now.instant);
        around.ports.serve(entry.owner);
        let stepped = catch_unwind(AssertUnwindSafe(|| act(&mut entry.call, &mut around.context(handle), out)));
        if stepped.is_err() {
            out.truncate(mark);
            around.ports.undo(now);
            self.faults += 1;
            entry.call = before;
            let place = "a step of the call".to_owned();
            let aborted =
                catch_unwind(AssertUnwindSafe(|| entry.call.abort(fault(), place, &mut around.context(handle), out)));
            if aborted.is_err() {
                // Not even that: the record is closed, and the phones find out by themselves.
                out.truncate(mark);
                self.tell_lost(&entry.call, out);
                self.remove(handle, &entry, around.admission, out);
                return;
            }
        }
        self.provisionals_joined += u64::from(entry.call.take_provisionals_joined());
        if entry.call.is_over() {
            self.remove(handle, &entry, around.admission, out);
        } else {
            self.keep(handle, entry, is_large, around.admission);
        }
    }

    /// `is_large`: the step brought more than usual, so the call is weighed.
    fn keep(&mut self, handle: Handle, mut entry: Entry, is_large: bool, admission: &mut Admission) {
        let connections = entry.call.connections();
        if connections != entry.connections {
            entry.connections.iter().for_each(|flow| _ = self.by_connection.remove(&(*flow, handle)));
            self.by_connection.extend(connections.iter().map(|flow| (*flow, handle)));
            entry.connections = connections;
        }
        let census = entry.call.census();
        self.census.replace(entry.census, census);
        entry.census = census;
        if entry.is_counted && !entry.call.is_up() {
            entry.is_counted = false;
            admission.hang_up(&entry.owner);
        }
        if is_large || entry.bytes > CALL_BYTES_TYPICAL {
            let bytes = weight(&entry.call);
            admission.weigh(&entry.owner, entry.bytes, bytes);
            entry.bytes = bytes;
        }
        entry.alarm.set(entry.call.next_deadline(), handle, &mut self.wheel);
        self.table.put_back(handle, entry);
    }

    fn tell_lost(&self, call: &Call, out: &mut Outbox) {
        let cause = fault();
        let tenant = call.tenant().to_owned();
        out.push(Output::Event { tenant, call: Some(call.id()), leg: None, body: Body::CallEnded { cause, legs: 0 } });
        out.push(Output::Live(Live::CallGone(call.id())));
    }

    fn remove(&mut self, handle: Handle, entry: &Entry, admission: &mut Admission, out: &mut Outbox) {
        let call = &entry.call;
        if entry.is_counted {
            admission.hang_up(&entry.owner);
        }
        admission.leave(&entry.owner, entry.bytes);
        self.census.replace(entry.census, Census::default());
        entry.connections.iter().for_each(|flow| _ = self.by_connection.remove(&(*flow, handle)));
        out.push(Output::Traced { call: call.id(), tenant: call.tenant().to_owned(), steps: call.trace() });
        self.table.remove(handle);
        self.by_invite.remove(&call.invite_key());
        if self.by_merge.get(&call.merge_key()) == Some(&handle) {
            self.by_merge.remove(&call.merge_key());
        }
        self.by_id.remove(&call.id());
    }
}

/// A step with it may make the call keep more than calls usually do.
fn is_large(input: &CallInput<'_>) -> bool {
    match input {
        CallInput::Request { message, .. } | CallInput::Response { message, .. } => {
            message.bytes().len() > SIP_MESSAGE_BYTES_TYPICAL_MAX
        }
        CallInput::Targets(targets) => targets.len() > BRANCHES_TYPICAL_MAX,
        _ => false,
    }
}

/// Bytes that a call keeps, as far as they depend on what others said; never less than those of a usual one.
fn weight(call: &Call) -> u64 {
    let bytes = postcard::serialize_with_flavor(call, postcard::ser_flavors::Size::default());
    bytes.map_or(CALL_BYTES_TYPICAL, |bytes| (bytes as u64).max(CALL_BYTES_TYPICAL))
}

/// Q.850 41: temporary failure.
fn fault() -> Cause {
    Cause { sip: 500, q850: 41, text: "a fault of ours".to_owned(), by: By::System }
}
