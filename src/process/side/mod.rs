//! The side process: directory, call records, metrics endpoint and HTTP API; it may take its time.
//!
//! It may be dead for an hour: the engine goes on, and events wait in the engine's spool. Nothing here is on a call's path.

mod clock;
pub mod directory;
mod record;
mod run;
mod seal;
mod store;

pub use run::run;
