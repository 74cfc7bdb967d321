//! Any bytes as frames.
#![no_main]

#[path = "../bodies/frame_scan.rs"]
mod frame_scan;
#[path = "../bodies/image.rs"]
mod image;

libfuzzer_sys::fuzz_target!(|input: &[u8]| frame_scan::run(input));
