//! What is up now, as the engine says it: registrations and calls, in memory only.
//!
//! A snapshot replaces all of it at its end; until then the old one is shown.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::MutexGuard;

use crate::base::id::CallId;
use crate::base::limit::MIRRORED_CALLS_MAX;
use crate::base::limit::MIRRORED_REGISTRATIONS_MAX;
use crate::base::time::UnixTime;
use crate::wire::link::LiveCall;
use crate::wire::link::Registration;

/// (tenant, user, contact)
pub(crate) type RegistrationKey = (String, String, String);

#[derive(Debug, Default)]
pub(crate) struct Mirror(Mutex<State>);

/// Whether the engine takes new calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// Not connected to an engine.
    #[default]
    Down,
    /// Connected, and the snapshot is not whole yet.
    Starting,
    Draining,
    Ready,
}

#[derive(Debug, Default)]
struct State {
    connected: bool,
    draining: bool,
    /// The keeper says so, which holds while there is no engine too.
    keeper_draining: bool,
    /// The version of the directory that the engine does not serve yet: until then it knows too few phones.
    awaited: Option<u64>,
    shown: Tables,
    /// The snapshot that is being received.
    arriving: Option<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    registrations: BTreeMap<RegistrationKey, Registration>,
    calls: BTreeMap<CallId, LiveCall>,
}

impl Mirror {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn readiness(&self) -> Readiness {
        let state = self.state();
        let is_starting = state.arriving.is_some() || state.awaited.is_some();
        match (state.connected, is_starting, state.draining || state.keeper_draining) {
            (false, ..) => Readiness::Down,
            (true, true, _) => Readiness::Starting,
            (true, false, true) => Readiness::Draining,
            (true, false, false) => Readiness::Ready,
        }
    }

    pub(crate) fn on_hello(&self) {
        let mut state = self.state();
        state.connected = true;
        state.draining = false;
        state.awaited = None;
        state.arriving = Some(Tables::default());
    }

    pub(crate) fn on_disconnect(&self) {
        let mut state = self.state();
        state.connected = false;
        state.arriving = None;
    }

    pub(crate) fn on_snapshot_end(&self) {
        let mut state = self.state();
        if let Some(arriving) = state.arriving.take() {
            state.shown = arriving;
        }
    }

    /// A whole directory is on its way.
    pub(crate) fn on_directory_sent(&self, version: u64) {
        self.state().awaited = Some(version);
    }

    pub(crate) fn on_directory_served(&self, version: u64) {
        let mut state = self.state();
        if state.awaited.is_some_and(|awaited| awaited <= version) {
            state.awaited = None;
        }
    }

    pub(crate) fn on_draining(&self, draining: bool) {
        self.state().draining = draining;
    }

    pub(crate) fn on_keeper_draining(&self, draining: bool) {
        self.state().keeper_draining = draining;
    }

    /// False if there was no room for it.
    pub(crate) fn on_registration(&self, registration: Registration) -> bool {
        let mut state = self.state();
        let table = &mut state.tables().registrations;
        let key = (registration.tenant.clone(), registration.user.clone(), registration.contact.clone());
        let fits = table.len() < MIRRORED_REGISTRATIONS_MAX || table.contains_key(&key);
        if fits {
            table.insert(key, registration);
        }
        fits
    }

    pub(crate) fn on_registration_gone(&self, key: &RegistrationKey) {
        self.state().tables().registrations.remove(key);
    }

    /// False if there was no room for it.
    pub(crate) fn on_call(&self, call: LiveCall) -> bool {
        let mut state = self.state();
        let id = call.call;
        let table = &mut state.tables().calls;
        let fits = table.len() < MIRRORED_CALLS_MAX || table.contains_key(&id);
        if fits {
            table.insert(id, call);
        }
        fits
    }

    pub(crate) fn on_call_gone(&self, call: CallId) {
        self.state().tables().calls.remove(&call);
    }

    pub(crate) fn call(&self, call: CallId) -> Option<LiveCall> {
        self.state().shown.calls.get(&call).cloned()
    }

    /// Calls after `after` that fit, in the order of their ids.
    pub(crate) fn calls(&self, after: Option<CallId>, limit: usize, fits: impl Fn(&LiveCall) -> bool) -> Vec<LiveCall> {
        let state = self.state();
        let calls = state.shown.calls.iter().filter(|(id, _)| after.is_none_or(|after| **id > after));
        calls.map(|(_, call)| call).filter(|call| fits(call)).take(limit).cloned().collect()
    }

    /// Registrations after `after` that fit and have not expired, ordered by tenant, user and contact.
    pub(crate) fn registrations(
        &self,
        after: Option<RegistrationKey>,
        limit: usize,
        now: UnixTime,
        fits: impl Fn(&Registration) -> bool,
    ) -> Vec<Registration> {
        use std::ops::Bound;
        let state = self.state();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = state.shown.registrations.range((from, Bound::Unbounded));
        let live = range.map(|(_, found)| found).filter(|found| found.expires_at > now && fits(found));
        live.take(limit).cloned().collect()
    }

    /// (registrations, calls)
    pub(crate) fn counts(&self) -> (usize, usize) {
        let state = self.state();
        (state.shown.registrations.len(), state.shown.calls.len())
    }
}

impl State {
    /// Where changes go: into the arriving snapshot while there is one.
    fn tables(&mut self) -> &mut Tables {
        self.arriving.as_mut().unwrap_or(&mut self.shown)
    }
}
