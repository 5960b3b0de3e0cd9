//! libFuzzer's door to the properties of `wire::tape`.

#![no_main]

#[path = "../targets/tape.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::all(bytes));
