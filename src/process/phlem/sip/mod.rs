//! SIP as PHLEM speaks it: messages in `rsip`'s model, read and written by an adapter of our own where `rsip` cannot.
//!
//! `docs/phlem.md` lists what the adapter covers. Nothing here comes from the engine's parser or transactions.

pub mod digest;
pub mod message;
pub mod sdp;
pub mod transaction;
pub mod value;
