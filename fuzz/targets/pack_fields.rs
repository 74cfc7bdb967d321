//! Words of a sound pack changed.
#![no_main]

#[path = "../bodies/image.rs"]
mod image;
#[path = "../bodies/pack_bytes.rs"]
mod pack_bytes;
#[path = "../bodies/pack_fields.rs"]
mod pack_fields;

libfuzzer_sys::fuzz_target!(|input: &[u8]| pack_fields::run(input));
