//! libFuzzer's door to `targets::media::packet`.

#![no_main]

#[path = "../targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::media::packet(bytes));
