//! A call: one caller, the phones that ring for it, and the session between the two that talk (a B2BUA, RFC 7092).
//!
//! [`Call`] owns everything of one call: the caller's INVITE ([`caller`]), a branch per contact ([`branch`]), and a bond per
//! pair of dialogs ([`bond`]). One file per thing that happens. It finds no phones, passes no packets, and knows no socket:
//! the exchange finds the call that a message belongs to, the relay moves media.

pub mod best_response;
pub mod body;
pub mod census;
pub mod input;
pub mod recording;
pub mod trace;

mod abort;
mod answer;
mod bond;
mod branch;
mod caller;
mod cancel;
mod change;
mod early;
mod ending;
mod facts;
mod head;
mod hints;
mod in_dialog;
mod media;
mod notice;
mod party;
mod prack;
mod reconnect;
mod reliable;
mod renegotiate;
mod respond;
mod ring;
mod session_timer;
mod terms;
mod timeout;

#[cfg(test)]
pub(crate) mod tests;

use serde::Deserialize;
use serde::Serialize;

use crate::base::id::CallId;
use crate::base::time::Instant;
use crate::machine::call::bond::Bond;
use crate::machine::call::branch::Branch;
use crate::machine::call::caller::Caller;
use crate::machine::call::change::Changes;
use crate::machine::call::facts::Facts;
pub use crate::machine::call::in_dialog::Sender;
use crate::machine::call::input::CallInput;
use crate::machine::call::input::Context;
use crate::machine::call::input::SymmetricMedia;
use crate::machine::call::party::Party;
use crate::machine::call::party::Side;
use crate::machine::call::recording::Recording;
use crate::machine::call::trace::Trace;
use crate::machine::call::trace::What;
use crate::machine::outbox::Outbox;
use crate::wire::event::Cause;
use crate::wire::link::LiveCall;
use crate::wire::link::TraceStep;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    facts: Facts,
    state: State,
    caller: Caller,
    branches: Vec<Branch>,
    bonds: Vec<Bond>,
    /// Dialogs of callees that answered too late: acknowledged and hung up.
    strays: Vec<Party>,
    trace: Trace,
    /// The branch that the caller hears; 0 while none.
    bridged: u8,
    /// Reports of closed ports that have not come yet.
    reports_awaited: u8,
    recording: Recording,
    /// Since they were last asked for.
    provisionals_joined: u8,
    /// Most have nothing said about it.
    symmetric: Option<Box<SymmetricMedia>>,
    /// Most calls have none.
    changes: Option<Box<Changes>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum State {
    /// The bindings are being asked for.
    Locating {
        until: Instant,
    },
    Ringing {
        until: Instant,
    },
    /// `bonds` has one entry: the two who talk.
    Answered,
    /// Over for both parties; the last media reports come.
    Ending {
        cause: Cause,
        until: Instant,
    },
    /// The end was told; transactions may wait for repeats.
    Ended,
}

impl Call {
    pub fn handle(&mut self, input: CallInput<'_>, cx: &mut Context<'_>, out: &mut Outbox) {
        match input {
            CallInput::Targets(targets) => self.on_targets(targets, cx, out),
            CallInput::Request { message, flow } => self.on_request(message, flow, cx, out),
            CallInput::Response { leg, message } => self.on_response(leg, message, cx, out),
            CallInput::Media(notice) => self.on_notice(notice, cx, out),
            CallInput::FlowClosed(flow) | CallInput::SendFailed(flow) => self.on_flow_gone(flow, cx, out),
            CallInput::Hangup { by, text } => self.on_hangup(by, text, cx, out),
            CallInput::Record { wish, by } => self.on_record_wish(wish, by, cx, out),
            CallInput::Fault => panic!("a fault was asked for"),
        }
        self.search(cx, out);
        self.check_invariants();
    }

    pub fn id(&self) -> CallId {
        self.facts.id
    }

    pub fn tenant(&self) -> &str {
        &self.facts.tenant
    }

    /// Finds the caller's INVITE, its retransmissions and its CANCEL, which know no tag of ours yet: see
    /// [`server_key`](crate::machine::transaction::key::server_key) with the method INVITE.
    pub fn invite_key(&self) -> u64 {
        self.caller.key
    }

    /// Finds the call by a copy of its INVITE that came another way: see [`merge_key`](crate::machine::transaction::key::merge_key).
    pub fn merge_key(&self) -> u64 {
        self.caller.merge_key
    }

    /// The caller's INVITE has a transaction yet.
    pub fn serves_invite(&self) -> bool {
        !self.caller.transaction.is_terminated()
    }

    pub fn live(&self) -> LiveCall {
        self.facts.live()
    }

    pub fn trace(&self) -> Vec<TraceStep> {
        self.trace.steps()
    }

    /// Provisional responses that never went out by themselves, since this was asked last.
    pub fn take_provisionals_joined(&mut self) -> u8 {
        std::mem::take(&mut self.provisionals_joined)
    }

    /// It waits for the bindings of whom it calls.
    pub fn is_locating(&self) -> bool {
        matches!(self.state, State::Locating { .. })
    }

    /// People still talk or wait: `false` from the moment that the end was decided.
    pub fn is_up(&self) -> bool {
        !self.is_ending()
    }

    /// Nothing is left to do: the place can be given away.
    pub fn is_over(&self) -> bool {
        let acked = !self.bonds.iter().any(|bond| bond.caller.unacked.is_some());
        let served = match self.caller.transaction.is_proceeding() {
            true => false,
            false => self.caller.transaction.is_terminated() || self.facts.was_answered() && acked,
        };
        self.state == State::Ended
            && served
            && self.branches.iter().all(Branch::is_settled)
            && self.bonds.iter().all(Bond::is_settled)
            && self.strays.iter().all(Party::is_settled)
    }

    fn is_ending(&self) -> bool {
        matches!(self.state, State::Ending { .. } | State::Ended)
    }

    fn branch_mut(&mut self, leg: u8) -> Option<&mut Branch> {
        self.branches.iter_mut().find(|branch| branch.leg == leg)
    }

    fn step(&mut self, cx: &Context<'_>, leg: u8, what: What) {
        self.trace.step(cx.now.unix, leg, what);
    }

    /// The bond and side whose dialog a request is in.
    fn find_dialog(&self, owns: impl Fn(&Party) -> bool) -> Option<(usize, Side)> {
        self.bonds.iter().enumerate().find_map(|(index, bond)| {
            let side = [Side::Caller, Side::Callee].into_iter().find(|side| owns(bond.party(*side)))?;
            Some((index, side))
        })
    }

    fn check_invariants(&self) {
        debug_assert!(self.state != State::Answered || self.bonds.len() == 1);
        debug_assert!(!self.is_ending() || self.branches.iter().all(|branch| branch.ports.pairs().next().is_none()));
    }
}
