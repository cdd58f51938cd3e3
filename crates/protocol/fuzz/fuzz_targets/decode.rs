//! Bytes as an instance might send them.
#![no_main]

#[path = "../judge.rs"]
mod judge;

libfuzzer_sys::fuzz_target!(|input: &[u8]| judge::judge(input));
