//! The engine: signalling and media.

pub mod clerk;
pub mod received;
mod run;
pub mod secrets;

pub use run::run;
