//! libFuzzer's door to `targets::sdp::description`.

#![no_main]

#[path = "../targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::sdp::description(bytes));
