//! libFuzzer's door to the properties of `targets::strangers::any`.

#![no_main]

#[path = "../targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::strangers::any(bytes));
