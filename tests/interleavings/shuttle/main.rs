//! Whole stores on the simulated medium, under [shuttle](https://docs.rs/shuttle): several threads put, reference,
//! link, dereference, read, checkpoint and compact at once, and a scheduler decides at each lock, atomic and call of
//! the medium who goes on: at random, or by PCT (Burckhardt et al., ASPLOS'10), which finds what needs few switches.
//!
//! ```text
//! RUSTFLAGS="--cfg shuttle" cargo test --test shuttle
//! BLOBPACK_SCHEDULES=100000 BLOBPACK_SEED=7 RUSTFLAGS="--cfg shuttle" cargo test --test shuttle
//! ```
//!
//! Every schedule makes its own operations, from a seed that a failure names.
#![cfg(shuttle)]

mod history;
mod operation;
mod schedules;
