//! libFuzzer's door to `targets::sip::stream`.

#![no_main]

#[path = "../targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::sip::stream(bytes));
