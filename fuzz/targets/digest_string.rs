//! Any text as a digest.
#![no_main]

#[path = "../bodies/digest_string.rs"]
mod digest_string;

libfuzzer_sys::fuzz_target!(|input: &[u8]| digest_string::run(input));
