//! Bytes to values and back: every format that enters or leaves a process, and nothing else.

pub mod control;
pub mod event;
pub mod g711;
pub mod hep;
pub mod journal;
pub mod link;

pub mod rtcp;
pub mod rtp;
pub mod sdp;
pub mod sip;
pub mod tape;
pub mod wav;
