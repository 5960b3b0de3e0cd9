//! The engine: signalling and media.

pub mod clerk;
pub mod secrets;
