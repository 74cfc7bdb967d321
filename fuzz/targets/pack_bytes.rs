//! Any bytes as a pack.
#![no_main]

#[path = "../bodies/image.rs"]
mod image;
#[path = "../bodies/pack_bytes.rs"]
mod pack_bytes;

libfuzzer_sys::fuzz_target!(|input: &[u8]| pack_bytes::run(input));
