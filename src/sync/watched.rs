//! Loom's atomics, with each call that orders others known by its place in the source: so that a test can take the
//! order away at one place after the other, and see whether anything fails.

use std::collections::BTreeSet;
use std::panic::Location;
use std::sync::{Mutex, OnceLock, PoisonError};

use loom::sync::atomic::{self, Ordering};

/// A call in the source: file, line, column.
pub type Place = (String, u32, u32);

static WEAKENED: OnceLock<Place> = OnceLock::new();
static SEEN: Mutex<BTreeSet<Place>> = Mutex::new(BTreeSet::new());

/// From here on the calls at this place order nothing. Only the first call counts.
pub fn weaken(place: Place) {
    let _ = WEAKENED.set(place);
}

/// The places of all calls so far that ordered something.
pub fn seen() -> BTreeSet<Place> {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

#[track_caller]
fn effective(order: Ordering) -> Ordering {
    if order == Ordering::Relaxed {
        return order;
    }
    let caller = Location::caller();
    if let Some((file, line, column)) = WEAKENED.get() {
        let is_it = caller.line() == *line && caller.column() == *column && caller.file() == file;
        return if is_it { Ordering::Relaxed } else { order };
    }
    let place = (caller.file().to_owned(), caller.line(), caller.column());
    SEEN.lock().unwrap_or_else(PoisonError::into_inner).insert(place);
    order
}

/// See the module.
#[derive(Debug)]
pub struct AtomicU64(atomic::AtomicU64);

impl AtomicU64 {
    /// A new word.
    #[must_use]
    pub fn new(value: u64) -> AtomicU64 {
        AtomicU64(atomic::AtomicU64::new(value))
    }

    /// As that of the standard library.
    #[track_caller]
    pub fn load(&self, order: Ordering) -> u64 {
        self.0.load(effective(order))
    }

    /// As that of the standard library.
    #[track_caller]
    pub fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, effective(order));
    }

    /// As that of the standard library.
    #[track_caller]
    pub fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        self.0.fetch_add(value, effective(order))
    }

    /// As that of the standard library.
    #[track_caller]
    pub fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
        self.0.fetch_sub(value, effective(order))
    }

    /// As that of the standard library.
    #[track_caller]
    pub fn fetch_max(&self, value: u64, order: Ordering) -> u64 {
        self.0.fetch_max(value, effective(order))
    }

    /// As that of the standard library.
    #[track_caller]
    pub fn compare_exchange_weak(&self, old: u64, new: u64, success: Ordering, failure: Ordering) -> Result<u64, u64> {
        self.0.compare_exchange_weak(old, new, effective(success), failure)
    }
}
