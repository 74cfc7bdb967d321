//! Any operations against a model.
#![no_main]

#[path = "../bodies/operations_model.rs"]
mod operations_model;

libfuzzer_sys::fuzz_target!(|input: &[u8]| operations_model::run(input));
