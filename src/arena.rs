//! The memory in which operations, and the bytes of small blobs, wait for their batch.
//!
//! Fresh memory is not cheap: a page that is touched for the first time costs a fault and its zeroing, and later it is
//! given back. That took a quarter of a bulk put of 4 KiB, as long as half the hash. So the memory of the last large
//! batch of a store is kept for its next one, and given back if that is small.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex};

/// More than this is not kept.
const KEPT_MAX: usize = 64 << 20;
/// Less than this is not worth keeping: the allocator has it at hand.
const KEPT_MIN: usize = 64 << 10;

/// What is kept between batches.
pub struct Spare<T>(Mutex<Vec<T>>);

impl<T> Default for Spare<T> {
    fn default() -> Spare<T> {
        Spare(Mutex::default())
    }
}

/// A vector that leaves its memory to its spare, if it has one, when it is dropped.
pub struct Arena<T> {
    items: Vec<T>,
    spare: Option<Arc<Spare<T>>>,
}

impl<T> Arena<T> {
    /// An empty one, in the memory that is kept, if nobody else has that now.
    pub fn from_spare(spare: Arc<Spare<T>>) -> Arena<T> {
        let items = spare.0.lock().map(|mut kept| std::mem::take(&mut *kept)).unwrap_or_default();
        Arena { items, spare: Some(spare) }
    }
}

impl<T> Default for Arena<T> {
    fn default() -> Arena<T> {
        Vec::new().into()
    }
}

impl<T> From<Vec<T>> for Arena<T> {
    fn from(items: Vec<T>) -> Arena<T> {
        Arena { items, spare: None }
    }
}

impl<T> Drop for Arena<T> {
    fn drop(&mut self) {
        if let Some(spare) = &self.spare
            && (KEPT_MIN..=KEPT_MAX).contains(&size_of_val(self.items.as_slice()))
        {
            self.items.clear();
            if let Ok(mut kept) = spare.0.lock()
                && kept.capacity() < self.items.capacity()
            {
                std::mem::swap(&mut *kept, &mut self.items);
            }
        }
    }
}

impl<T> Deref for Arena<T> {
    type Target = Vec<T>;

    fn deref(&self) -> &Vec<T> {
        &self.items
    }
}

impl<T> DerefMut for Arena<T> {
    fn deref_mut(&mut self) -> &mut Vec<T> {
        &mut self.items
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The memory that a batch of so many bytes has left behind.
    fn left_by(spare: &Arc<Spare<u8>>, bytes: usize) -> usize {
        let mut arena = Arena::from_spare(spare.clone());
        assert!(arena.is_empty());
        arena.extend_from_slice(&vec![7; bytes]);
        drop(arena);
        spare.0.lock().expect("no test panics with it").capacity()
    }

    #[test]
    fn the_memory_of_a_large_batch_is_there_for_the_next() {
        let spare = Arc::<Spare<u8>>::default();
        assert_eq!(left_by(&spare, KEPT_MIN - 1), 0);
        let kept = left_by(&spare, KEPT_MIN);
        assert!(kept >= KEPT_MIN);
        assert_eq!(left_by(&spare, KEPT_MIN), kept);
        assert!(left_by(&spare, 3 * KEPT_MIN) >= 3 * KEPT_MIN);
        assert_eq!(left_by(&spare, 1), 0, "it is not needed any more");
    }

    #[test]
    fn of_two_at_a_time_the_larger_one_is_kept() {
        let spare = Arc::<Spare<u8>>::default();
        let arenas = [1, 3, 2].map(|times| {
            let mut arena = Arena::from_spare(spare.clone());
            arena.extend_from_slice(&vec![7; times * KEPT_MIN]);
            arena
        });
        drop(arenas);
        let arena = Arena::from_spare(spare.clone());
        assert!(arena.is_empty() && arena.capacity() >= 3 * KEPT_MIN);
        assert_eq!(Arena::from_spare(spare).capacity(), 0, "it is given to one");
    }

    #[test]
    #[cfg_attr(miri, ignore = "much memory")]
    fn what_is_too_large_is_given_back() {
        assert_eq!(left_by(&Arc::default(), KEPT_MAX + 1), 0);
    }
}
