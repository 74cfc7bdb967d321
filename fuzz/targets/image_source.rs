//! Any archive as an image's source.
#![no_main]

#[path = "../bodies/image_source.rs"]
mod image_source;

libfuzzer_sys::fuzz_target!(|input: &[u8]| image_source::run(input));
