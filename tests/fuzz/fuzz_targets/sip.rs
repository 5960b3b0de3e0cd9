//! libFuzzer's door to the properties of `wire::sip`.

#![no_main]

#[path = "../targets/sip.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::all(bytes));
