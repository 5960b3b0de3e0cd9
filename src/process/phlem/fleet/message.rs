//! What the leader and the agents say to each other: JSON over NATS subjects.
//!
//! `FLEET.call` (who is there; agents answer [`Hello`]), `FLEET.agent.ID` ([`Task`], answered with [`Answer`]), `FLEET.run.RUN.report`
//! ([`Report`]), `FLEET.run.RUN.alive` and `FLEET.run.RUN.stop` (the leader's, empty).

use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::base::time::UnixTime;
use crate::process::phlem::figures::Figures;
use crate::process::phlem::media::LegEnd;
use crate::process::phlem::run::Phase;
use crate::process::phlem::scenario::Scenario;

/// Agents of another version may count differently.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) id: String,
    pub(super) version: String,
    /// What it can carry, against others.
    pub(super) capacity: u32,
    pub(super) is_busy: bool,
    /// Its clock when it answered.
    pub(super) now: UnixTime,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Task {
    pub(super) run: String,
    pub(super) scenario: Scenario,
    pub(super) server: Option<String>,
    pub(super) seed: Option<u64>,
    pub(super) from: f64,
    pub(super) to: f64,
    /// By the agent's clock.
    pub(super) start_at: UnixTime,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    Accepted,
    Refused(String),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) agent: String,
    pub(super) state: State,
    pub(super) phase: Phase,
    pub(super) elapsed_ms: u64,
    pub(super) figures: Figures,
    pub(super) notes: Vec<String>,
    /// Legs that ended since the last report.
    #[serde(default)]
    pub(super) ends: Vec<LegEnd>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum State {
    Running,
    Done,
    Failed(String),
}

pub(super) fn emit<T: Serialize>(message: &T) -> bytes::Bytes {
    // Plain values with string keys: nothing in them cannot be written.
    serde_json::to_vec(message).unwrap_or_default().into()
}

/// What is no message of ours is as if it had not come.
pub(super) fn parse<T: DeserializeOwned>(payload: &[u8]) -> Option<T> {
    serde_json::from_slice(payload).ok()
}
