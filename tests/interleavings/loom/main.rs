//! The protocol between the writer and lock-free readers, under [loom](https://docs.rs/loom): the library's own lookups
//! and its own writer of the index (publish, segment copy and split, directory doubling, region reuse, take-over,
//! superseding) run on words that loom watches, in every order of two threads with at most so many preemptions, and
//! with every value that the C11 memory model lets a load return.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test --test loom                  # all models, with up to three preemptions
//! RUSTFLAGS="--cfg loom" cargo test --test loom -- NAME          # those whose names contain NAME
//! RUSTFLAGS="--cfg loom" cargo test --test loom -- --weaken      # which orderings are needed
//! LOOM_MAX_PREEMPTIONS=5 RUSTFLAGS="--cfg loom" cargo test --test loom
//! ```
//!
//! `--weaken` makes each acquire and release that the models come upon relaxed, one at a time, and wants a model
//! to fail each time, but for those in `weaken::REDUNDANT`.
//!
//! What loom does not show: orderings of the system calls (`pwrite` beside a load from a map, `fstat`), and `SeqCst`,
//! which the protocol does not use. A map of several pages is one memory here as it is there.

#[cfg(loom)]
mod medium;
#[cfg(loom)]
mod models;
#[cfg(loom)]
mod rig;
#[cfg(loom)]
mod run;
#[cfg(loom)]
mod weaken;

#[cfg(loom)]
use run::main;

#[cfg(not(loom))]
fn main() -> std::process::ExitCode {
    eprintln!("these are models for loom: build them with RUSTFLAGS=\"--cfg loom\"");
    std::process::ExitCode::FAILURE
}
