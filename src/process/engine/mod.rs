//! The engine: signalling and media.

pub mod clerk;
