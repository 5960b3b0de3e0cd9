//! The fuzz targets: plain functions over bytes, by name. `tests/fuzz.rs` replays the corpus and mutations of it through them;
//! `fuzz_targets/` gives each to libFuzzer.

#![allow(dead_code, clippy::unwrap_used, reason = "a test fails by panicking")]

pub(crate) mod frames;
pub(crate) mod media;
pub(crate) mod sdp;
pub(crate) mod sip;
pub(crate) mod strangers;
pub(crate) mod wav;
