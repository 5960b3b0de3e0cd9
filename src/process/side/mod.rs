//! The side process: directory, call records, metrics endpoint and HTTP API; it may take its time.
//!
//! It may be dead for an hour: the engine goes on, and events wait on the tape. Nothing here is on a call's path.

mod audit;
mod clock;
pub mod command;
pub mod directory;
mod http;
mod link;
mod metrics;
mod mirror;
mod node;
pub(crate) mod opening;
mod procfs;
mod record;
mod recording;
mod retain;
mod run;
mod seal;
mod sight;
mod store;
mod tapes;
mod token;
mod waiting;
mod wal_index;

pub use run::run;

#[cfg(test)]
mod tests;
