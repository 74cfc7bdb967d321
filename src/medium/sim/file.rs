//! One file in memory.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, PoisonError};

use crate::format::{Offset, PAGE_BYTES, to_u64, to_usize};
use crate::map::Map;
use crate::sync::{AtomicBool, AtomicU64, Mutex, MutexGuard, Ordering};

/// The bytes of a file, which of its pages have a place on the disk, and its lock. Changes are made one at a time, by
/// whoever has the directory's mutex; maps read beside them.
pub(super) struct SimFile {
    pub(super) number: u64,
    map: Arc<Map>,
    length: AtomicU64,
    pages: Mutex<BTreeSet<u64>>,
    /// Those of them that were written or stored to.
    written: Mutex<BTreeSet<u64>>,
    locked: AtomicBool,
    /// Where the disk has gone bad: from, to.
    unreadable: [AtomicU64; 2],
    ready: AtomicBool,
}

impl SimFile {
    pub(super) fn new(number: u64, bytes_max: u64) -> SimFile {
        SimFile {
            number,
            map: memory(bytes_max),
            length: AtomicU64::new(0),
            pages: Mutex::default(),
            written: Mutex::default(),
            locked: AtomicBool::new(false),
            unreadable: [AtomicU64::new(0), AtomicU64::new(0)],
            ready: AtomicBool::new(false),
        }
    }

    pub(super) fn bytes_max(&self) -> u64 {
        self.map.length()
    }

    pub(super) fn map(&self) -> &Arc<Map> {
        &self.map
    }

    pub(super) fn set_unreadable(&self, range: Range<u64>) {
        self.unreadable[0].store(range.start, Ordering::Release);
        self.unreadable[1].store(range.end, Ordering::Release);
    }

    /// Whether a range touches what can't be read.
    pub(super) fn is_bad(&self, offset: Offset, length: u64) -> bool {
        let [start, end] = [&self.unreadable[0], &self.unreadable[1]].map(|bound| bound.load(Ordering::Acquire));
        offset.0 < end && offset.0.saturating_add(length) > start
    }

    pub(super) fn length(&self) -> u64 {
        self.length.load(Ordering::Acquire)
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; to_usize(self.length())];
        // What was not written is zeros already.
        for &page in self.written().range(..self.length().div_ceil(PAGE_BYTES)) {
            let from = to_usize(page * PAGE_BYTES);
            let to = bytes.len().min(from + to_usize(PAGE_BYTES));
            let read = self.map.read_bytes(Offset(page * PAGE_BYTES), &mut bytes[from..to]);
            read.expect("the map is as long as the file can become");
        }
        bytes
    }

    /// Gives a new file all its bytes. Pages of zeros have their place and are not written: they hold no data.
    pub(super) fn fill(&self, bytes: &[u8]) {
        let mut at = Offset(0);
        for page in bytes.chunks(to_usize(PAGE_BYTES)) {
            if *page != ZEROS[..page.len()] {
                self.write(at, page);
            }
            at.0 += PAGE_BYTES;
        }
        self.allocate(Offset(0), to_u64(bytes.len()));
    }

    /// Bytes that have a place.
    pub(super) fn allocated(&self) -> u64 {
        to_u64(self.pages().len()) * PAGE_BYTES
    }

    /// Bytes of the pages of a range that have none.
    pub(super) fn missing(&self, offset: Offset, length: u64) -> u64 {
        let all = touched(offset, length);
        let present = to_u64(self.pages().range(all.clone()).count());
        (all.end - all.start - present) * PAGE_BYTES
    }

    /// The first position from `offset` on that is in a page that was written to.
    pub(super) fn data_after(&self, offset: Offset) -> Option<Offset> {
        let page = self.written().range(offset.0 / PAGE_BYTES..).next().copied()?;
        Some(Offset(offset.0.max(page * PAGE_BYTES))).filter(|at| at.0 < self.length())
    }

    pub(super) fn write(&self, offset: Offset, bytes: &[u8]) {
        self.map.write_bytes(offset, bytes).expect("there is room: it was checked, or recorded when there was");
        self.written().extend(touched(offset, to_u64(bytes.len())));
        self.allocate(offset, to_u64(bytes.len()));
    }

    pub(super) fn store(&self, offset: Offset, words: &[u64]) {
        self.map.store_words(offset, words).expect("the range was checked, or recorded when it was inside the file");
        self.written().extend(touched(offset, to_u64(size_of_val(words))));
    }

    pub(super) fn allocate(&self, offset: Offset, length: u64) {
        if length > 0 {
            self.pages().extend(touched(offset, length));
            self.length.fetch_max(offset.0 + length, Ordering::Release);
        }
    }

    /// Zeros all of the range that is inside the file, and gives back the pages that lie inside it whole.
    pub(super) fn punch(&self, offset: Offset, length: u64) {
        let end = offset.0.saturating_add(length).min(self.length());
        // What was not written is zeros already.
        let inside: Vec<u64> = self.written().range(touched(offset, end.saturating_sub(offset.0))).copied().collect();
        for page in inside {
            let from = offset.0.max(page * PAGE_BYTES);
            let zeros = &ZEROS[..to_usize(end.min((page + 1) * PAGE_BYTES) - from)];
            self.map.write_bytes(Offset(from), zeros).expect("the file is no longer than the map");
        }
        let whole = offset.0.div_ceil(PAGE_BYTES)..offset.0.saturating_add(length) / PAGE_BYTES;
        self.pages().retain(|page| !whole.contains(page));
        self.written().retain(|page| !whole.contains(page));
    }

    /// Takes the writer's lock; `false` if it is taken.
    pub(super) fn take_lock(&self) -> bool {
        !self.locked.swap(true, Ordering::AcqRel)
    }

    pub(super) fn give_lock_back(&self) {
        self.ready.store(false, Ordering::Release);
        self.locked.store(false, Ordering::Release);
    }

    pub(super) fn is_locked(&self) -> bool {
        self.locked.load(Ordering::Acquire)
    }

    pub(super) fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// Whether who has the lock has marked it.
    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    fn pages(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn written(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

thread_local! {
    /// Memory of files that are gone, all zeros again: for a fuzzer, which makes the same files over and over. Fresh
    /// pages would cost it more than what it does to them.
    static SPARE: RefCell<Vec<Arc<Map>>> = const { RefCell::new(Vec::new()) };
}

/// No more memory is kept.
const SPARE_MAX: usize = 8;

fn memory(bytes: u64) -> Arc<Map> {
    let spare = SPARE.with_borrow_mut(|spare| {
        let found = spare.iter().position(|map| map.length() == bytes)?;
        Some(spare.swap_remove(found))
    });
    spare.unwrap_or_else(|| Map::memory(bytes))
}

impl Drop for SimFile {
    fn drop(&mut self) {
        // Who still has the map may read it.
        if cfg!(fuzzing) && Arc::get_mut(&mut self.map).is_some() {
            for &page in &*self.written() {
                self.map.write_bytes(Offset(page * PAGE_BYTES), &ZEROS).expect("it was written before");
            }
            SPARE.with_borrow_mut(|spare| {
                spare.insert(0, Arc::clone(&self.map));
                spare.truncate(SPARE_MAX);
            });
        }
    }
}

const ZEROS: [u8; to_usize(PAGE_BYTES)] = [0; to_usize(PAGE_BYTES)];

/// The numbers of the pages that a range touches.
fn touched(offset: Offset, length: u64) -> Range<u64> {
    let first = offset.0 / PAGE_BYTES;
    let end = if length == 0 { first } else { offset.0.saturating_add(length).div_ceil(PAGE_BYTES) };
    first..end.max(first)
}
