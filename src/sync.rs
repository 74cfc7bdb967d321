//! Where threads meet: atomics, locks, and the calls that let another thread run. They are those of the standard
//! library; under `--cfg loom` or `--cfg shuttle` those of that model checker, which then decides which thread goes on.
//!
//! What no test of interleavings runs (the real disk, the threads of `verify`) takes the standard library's directly.

#[cfg(loom)]
pub mod watched;

/// A word of a map: eight bytes of memory that others may be storing to. (Shuttle's atomics have another layout, so it
/// does not switch threads between two of these; loom's map is no memory at all.)
#[cfg(not(any(loom, shuttle)))]
pub use std::sync::atomic::AtomicU64 as Word;
#[cfg(loom)]
pub use {
    loom::hint::spin_loop,
    loom::sync::atomic::{AtomicBool, Ordering},
    loom::sync::{Condvar, Mutex, MutexGuard},
    loom::thread::yield_now,
    watched::{AtomicU64, AtomicU64 as Word},
};
#[cfg(shuttle)]
pub use {
    shuttle::hint::spin_loop,
    shuttle::sync::atomic::{AtomicBool, AtomicU64},
    shuttle::sync::{Condvar, Mutex, MutexGuard},
    shuttle::thread::yield_now,
    std::sync::atomic::{AtomicU64 as Word, Ordering},
};
#[cfg(not(any(loom, shuttle)))]
pub use {
    std::hint::spin_loop,
    std::sync::atomic::{AtomicBool, AtomicU64, Ordering},
    std::sync::{Condvar, Mutex, MutexGuard},
    std::thread::yield_now,
};
