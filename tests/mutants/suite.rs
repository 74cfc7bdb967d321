//! The fast suite that mutants have to get past, beside the unit tests: see `run` in this directory.

#[path = "../api.rs"]
mod api;
#[path = "../bad_input.rs"]
mod bad_input;
#[path = "../golden.rs"]
mod golden;
#[path = "../layout.rs"]
mod layout;
#[path = "../model.rs"]
mod model;
#[path = "../names.rs"]
mod names;
#[path = "../threads.rs"]
mod threads;
#[path = "../usage.rs"]
mod usage;
#[path = "../crash.rs"]
mod with_crashes;
