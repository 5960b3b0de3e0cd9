//! PHLEM, the phone emulator: from one phone to as many as a machine holds, against any SIP server.
//!
//! A second implementation of telephony beside the engine's: it shares `base`, `wire::rtp`, the codecs and the shard runtime, and
//! nothing of the engine's SIP, SDP, digest, transactions or dialogs, because a shared fault would hide. `tests/tidy.rs` holds that.

pub mod ceiling;
pub mod figures;
pub mod fleet;
pub mod live;
pub mod media;
pub mod null;
pub mod phone;
pub mod report;
pub mod run;
pub mod scenario;
pub mod sip;
mod text;
