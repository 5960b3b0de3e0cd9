//! The engine's one thread that may wait for disks and for the side process.

pub mod journal;
pub mod link;
pub mod spool;
pub mod store;
