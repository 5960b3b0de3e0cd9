//! Recordings that are not in the database yet: of calls that are up, and those that are being finished.
//!
//! The threads that read tapes and finish recordings tell it; the API shows it beside what the database has.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use crate::base::id::CallId;
use crate::base::limit::LIVE_RECORDINGS_MAX;
use crate::base::time::UnixTime;
use crate::process::side::recording::work::Begin;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Recording,
    /// It ended then, and becomes a recording.
    Processing(UnixTime),
}

impl State {
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Recording => "recording",
            Self::Processing(_) => "processing",
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct LiveRecording {
    pub(crate) id: String,
    pub(crate) call: CallId,
    pub(crate) tenant: String,
    pub(crate) started_at: UnixTime,
    pub(crate) state: State,
}

#[derive(Debug, Default)]
struct Table {
    recordings: BTreeMap<String, LiveRecording>,
    /// Calls whose waiting records somebody wants to hear.
    wanted: Vec<CallId>,
}

#[derive(Debug, Default)]
pub(crate) struct Live(Mutex<Table>);

impl Live {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Beyond the limit it is recorded and not shown before it is finished.
    pub(crate) fn on_begin(&self, id: &str, call: CallId, begin: &Begin) {
        let mut table = self.table();
        if table.recordings.len() < LIVE_RECORDINGS_MAX {
            let (tenant, started_at) = (begin.tenant.clone(), begin.at);
            let live = LiveRecording { id: id.to_owned(), call, tenant, started_at, state: State::Recording };
            table.recordings.insert(id.to_owned(), live);
        }
    }

    pub(crate) fn on_end(&self, id: &str, at: UnixTime) {
        if let Some(live) = self.table().recordings.get_mut(id) {
            live.state = State::Processing(at);
        }
    }

    pub(crate) fn on_gone(&self, id: &str) {
        self.table().recordings.remove(id);
    }

    pub(crate) fn get(&self, id: &str) -> Option<LiveRecording> {
        self.table().recordings.get(id).cloned()
    }

    /// Those before `before` that fit, the last id first.
    pub(crate) fn list(
        &self,
        before: Option<&str>,
        limit: usize,
        fits: impl Fn(&LiveRecording) -> bool,
    ) -> Vec<LiveRecording> {
        let table = self.table();
        let earlier = table.recordings.iter().rev().filter(|(id, _)| before.is_none_or(|before| id.as_str() < before));
        earlier.map(|(_, live)| live).filter(|live| fits(live)).take(limit).cloned().collect()
    }

    /// (recording, processing)
    pub(crate) fn counts(&self) -> (usize, usize) {
        let table = self.table();
        let recording = table.recordings.values().filter(|live| live.state == State::Recording).count();
        (recording, table.recordings.len() - recording)
    }

    /// Asks for what is waiting of the call to be written.
    pub(crate) fn want(&self, call: CallId) {
        let mut table = self.table();
        if !table.wanted.contains(&call) {
            table.wanted.push(call);
        }
    }

    pub(crate) fn is_wanted(&self, call: CallId) -> bool {
        self.table().wanted.contains(&call)
    }

    pub(crate) fn wanted(&self) -> Vec<CallId> {
        self.table().wanted.clone()
    }

    /// What waited then is written.
    pub(crate) fn on_written(&self, calls: &[CallId]) {
        self.table().wanted.retain(|call| !calls.contains(call));
    }
}
