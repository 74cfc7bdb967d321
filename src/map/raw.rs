//! The memory itself: the system's map of a file, or zeroed memory.

use std::fs::File;
use std::hint::cold_path;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

#[cfg(target_os = "linux")]
use memmap2::{Advice, UncheckedAdvice};
use memmap2::{MmapOptions, MmapRaw};

use super::{Line, WORD_BYTES, Window};
use crate::format::{Offset, to_u64, to_usize};
use crate::sync::{Ordering, Word};

/// A range of memory that shows a file, or stands in for one.
///
/// Words are as in the file, little-endian: callers apply `u64::from_le` to what they load.
pub struct Map {
    /// The first byte. Readable for `length` bytes as long as `backing` lives, which is as long as `self`.
    start: NonNull<u8>,
    length: u64,
    backing: Backing,
}

enum Backing {
    File { map: MmapRaw, write: bool },
    Anonymous { _map: MmapRaw },
    Memory { words: NonNull<[u64]> },
}

#[expect(unsafe_code, reason = "a map is shared by all threads that read the pack")]
// SAFETY: `start` and `words` point to memory that `self` owns and that does not move; nothing in it belongs to a
// thread. All access through `&Map` is by atomics or to bytes that never change (see `bytes`), so it does not matter
// which thread makes it.
unsafe impl Send for Map {}
#[expect(unsafe_code, reason = "a map is shared by all threads that read the pack")]
// SAFETY: as for `Send`.
unsafe impl Sync for Map {}

/// So much is unmapped at a time, for the moment until it is mapped anew.
#[cfg(target_os = "linux")]
const PREPARED_BYTES: usize = 1 << 20;
/// From so many bytes on memory is mapped and not allocated.
const MAPPED_BYTES_MIN: u64 = 256 << 10;

impl Map {
    /// Writable memory of `bytes` bytes (rounded up to whole words), all zero. Pages that nobody stores to cost
    /// nothing.
    #[must_use]
    pub fn memory(bytes: u64) -> Arc<Map> {
        let count = to_usize(bytes.div_ceil(WORD_BYTES));
        let length = to_u64(count) * WORD_BYTES;
        if let Some(map) = anonymous(length)
            && let Some(start) = NonNull::new(map.as_mut_ptr())
        {
            return Arc::new(Map { start, length, backing: Backing::Anonymous { _map: map } });
        }
        // `vec!` asks the allocator for zeroed memory.
        let words = NonNull::from(Box::leak(vec![0u64; count].into_boxed_slice()));
        Arc::new(Map { start: words.cast(), length, backing: Backing::Memory { words } })
    }

    /// Maps the first `bytes` bytes of a file, shared with all others who have it open. The map may be longer than the
    /// file.
    ///
    /// Loads and stores beyond the file's end, rounded up to a page, are `SIGBUS`, so callers check each offset against
    /// a length from `fstat`, which is good for ever, because the file is never shrunk. So is a store into a hole
    /// when the disk is full. Without `write` every store is `SIGSEGV`.
    ///
    /// No advice is given to the kernel: `MADV_RANDOM` would spare a cold point read its read-around, but a large blob
    /// that is read through the map would then fault in page by page.
    pub fn of_file(file: &File, bytes: u64, write: bool) -> io::Result<Arc<Map>> {
        let mut options = MmapOptions::new();
        options.len(to_usize(bytes));
        let map = if write { options.map_raw(file)? } else { options.map_raw_read_only(file)? };
        let start = NonNull::new(map.as_mut_ptr()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Arc::new(Map { start, length: to_u64(map.len()), backing: Backing::File { map, write } }))
    }

    /// How far the map reaches, in bytes: not the length of the file.
    #[inline]
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Whether stores are possible.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        match self.backing {
            Backing::File { write, .. } => write,
            Backing::Anonymous { .. } | Backing::Memory { .. } => true,
        }
    }

    /// `count` words from a multiple of 8 on; `None` elsewhere and beyond the map.
    #[inline]
    #[must_use]
    #[expect(unsafe_code, reason = "borrows mapped memory as atomics")]
    pub fn words(&self, offset: Offset, count: usize) -> Option<&[Word]> {
        let length = to_u64(count).checked_mul(WORD_BYTES)?;
        if !offset.is_aligned(WORD_BYTES) {
            return None;
        }
        let at = self.at(offset, length)?;
        // SAFETY: `at` says that the range lies inside the map, which lives as long as `self`; `start` is aligned to a
        // word or a page, so `at` is aligned to a word. Atomics may be loaded while others store, in this process and
        // any other. What another process stores against the lock is a wrong word, not undefined behaviour. Loads of a
        // word from read-only memory are plain loads on every 64-bit target; stores there fault, and only a writer,
        // whose map is writable, stores.
        Some(unsafe { std::slice::from_raw_parts(at.cast::<Word>().as_ptr(), count) })
    }

    /// `length` bytes from `offset` on; `None` beyond the map.
    ///
    /// The caller asks only for ranges that were committed: those are written once, before anybody learns of them, and
    /// never again (recovery rewrites some with identical bytes). Mutable ranges go by [`word`](Map::word),
    /// bytes that are not trusted yet, in a file that may be damaged, by `pread`.
    #[inline]
    #[must_use]
    #[expect(unsafe_code, reason = "borrows mapped memory as bytes")]
    pub fn bytes(&self, offset: Offset, length: u64) -> Option<&[u8]> {
        let at = self.at(offset, length)?;
        // SAFETY: `at` says that the range lies inside the map, which lives as long as `self`. The bytes do not change
        // while they are borrowed: blobpack never rewrites a committed range, and the writer's lock keeps a second
        // writer away. A process that ignores the lock and overwrites them breaks this; that is the contract of `open`,
        // stated there.
        Some(unsafe { std::slice::from_raw_parts(at.as_ptr(), to_usize(length)) })
    }

    /// Makes a range durable (`msync` with `MS_SYNC`), however it was written. Memory has nothing to sync.
    ///
    /// Linux syncs nothing through the map of a file that is open for reading only.
    pub fn flush(&self, offset: Offset, length: u64) -> io::Result<()> {
        self.at(offset, length).ok_or(io::ErrorKind::InvalidInput)?;
        match &self.backing {
            Backing::File { map, .. } => map.flush_range(to_usize(offset.0), to_usize(length)),
            Backing::Anonymous { .. } | Backing::Memory { .. } => Ok(()),
        }
    }

    /// Maps the pages of a range anew, for loads: they are as a sync would leave them, which else takes the right to
    /// store from each page by itself, and tells all processors each time that what they know of it is over. A store
    /// gets that right again. Later loads find the pages mapped, and do not wait for one on its way to the disk.
    ///
    /// A hint: where the system can't map pages ahead (Linux before 5.14, a filter of system calls) nothing happens.
    pub fn prepare_sync(&self, offset: Offset, length: u64) {
        #[cfg(target_os = "linux")]
        if let (Backing::File { map, .. }, Some(_)) = (&self.backing, self.at(offset, length)) {
            let (first, end) = (to_usize(offset.0), to_usize(offset.0 + length));
            for at in (first..end).step_by(PREPARED_BYTES) {
                let length = PREPARED_BYTES.min(end - at);
                if map.advise_range(Advice::PopulateRead, at, 1).is_err() || unmap(map, at, length).is_err() {
                    return;
                }
                let _ = map.advise_range(Advice::PopulateRead, at, length);
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (offset, length);
    }

    /// The address of a range that lies inside the map. Of the map alone: whether the file goes as far is the caller's
    /// to know.
    #[inline]
    #[expect(unsafe_code, reason = "address arithmetic inside the map")]
    fn at(&self, offset: Offset, length: u64) -> Option<NonNull<u8>> {
        if offset.0.checked_add(length)? > self.length {
            return None;
        }
        // SAFETY: `offset` is at most `length`, so the address is inside the allocation, or one past its end for an
        // empty range.
        Some(unsafe { self.start.add(to_usize(offset.0)) })
    }
}

/// Takes pages out of a map, until somebody loads or stores there.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "memmap2 has this call as unsafe: of private memory it would take what was stored")]
fn unmap(map: &MmapRaw, at: usize, length: usize) -> io::Result<()> {
    // SAFETY: this changes no byte, as the maps of files are shared ones (`map_raw`, `map_raw_read_only`): what was
    // stored is in the page cache, marked as changed. Addresses stay, so slices and atomics that others borrow are
    // good; whoever is at them meanwhile gets the same page once more. That is so of the range rounded to pages, too.
    unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, at, length) }
}

/// Zeroed pages that take no memory, nor are counted as promised, until somebody stores to them. An allocator zeroes by
/// hand what it had given out before. `None` where that is not worth it, or can't be had.
fn anonymous(length: u64) -> Option<MmapRaw> {
    if length < MAPPED_BYTES_MIN || cfg!(miri) {
        return None;
    }
    let map = MmapOptions::new().len(usize::try_from(length).ok()?).no_reserve_swap().map_anon().ok()?;
    Some(MmapRaw::from(map))
}

impl Drop for Map {
    #[expect(unsafe_code, reason = "gives leaked memory back")]
    fn drop(&mut self) {
        if let Backing::Memory { words } = self.backing {
            // SAFETY: `words` comes from `Box::leak` in `memory` and is given back only here; every borrow of it
            // borrows `self`.
            drop(unsafe { Box::from_raw(words.as_ptr()) });
        }
    }
}

impl std::fmt::Debug for Map {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Map").field("length", &self.length).field("write", &self.is_writable()).finish_non_exhaustive()
    }
}

impl Window {
    /// Its cache lines.
    #[inline]
    #[must_use]
    #[expect(unsafe_code, reason = "borrows mapped memory as atomics")]
    pub fn front(&self) -> Front<'_> {
        let lines = to_usize(self.lines.load(Ordering::Relaxed));
        // SAFETY: as in `Map::words`, as the map, which lives as long as `self`, has at least so many lines: `of` and
        // `extend`, which alone store another number than 0, see to that. A line is eight words, and needs no other
        // alignment.
        Front { lines: unsafe { std::slice::from_raw_parts(self.map.start.cast::<Line>().as_ptr(), lines) } }
    }
}

/// What a [`Window`] shows: for a lookup that has one bounds check for a cache line.
#[derive(Clone, Copy)]
pub struct Front<'m> {
    lines: &'m [Line],
}

impl<'m> Front<'m> {
    /// One word, by its number.
    #[inline]
    #[must_use]
    pub fn word(&self, number: usize) -> Option<&'m Word> {
        self.lines.as_flattened().get(number)
    }

    /// One cache line, by its number.
    #[inline]
    #[must_use]
    pub fn line(&self, number: usize) -> Option<&'m Line> {
        self.lines.get(number)
    }

    /// Cache lines, by the number of the first.
    #[inline]
    #[must_use]
    pub fn lines<const COUNT: usize>(&self, number: usize) -> Option<&'m [Line; COUNT]> {
        // A range whose end is before its start is outside.
        self.lines.get(number..number.wrapping_add(COUNT))?.first_chunk()
    }

    /// Asks the processor to load the cache line at `offset`, as a hint: any offset will do.
    #[inline]
    pub fn prefetch(&self, offset: Offset) {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        #[expect(unsafe_code, reason = "a processor hint")]
        {
            let at = self.lines.as_ptr().cast::<i8>().wrapping_add(to_usize(offset.0));
            // SAFETY: a prefetch reads nothing that the program can see and never faults, whatever the address.
            unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at) };
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let _ = offset;
    }

    /// A payload of so many bytes behind the header of the frame at `offset`, if that `is` the right one.
    #[inline]
    #[must_use]
    #[expect(unsafe_code, reason = "borrows mapped memory as bytes")]
    pub fn payload(&self, offset: Offset, length: u64, is: impl FnOnce(&[u8; 64]) -> bool) -> Option<&'m [u8]> {
        let headers_end = to_u64(size_of_val(self.lines)).checked_sub(64)?;
        if length > headers_end.checked_sub(offset.0)? {
            return None;
        }
        let start: *const u8 = self.lines.as_ptr().cast();
        // SAFETY: header and payload lie inside the lines, which are borrowed for as long, and an array of bytes has no
        // alignment. What a record names was committed, and does not change, as for `Map::bytes`; where a record is
        // damaged, 64 bytes are looked at on trust, and no more unless they are the header that is expected there.
        unsafe {
            let header = start.add(to_usize(offset.0));
            if !is(&*header.cast()) {
                // A branch, and not a choice of the result that waits for the header: the caller's loads need not wait.
                cold_path();
                return None;
            }
            Some(std::slice::from_raw_parts(header.add(64), to_usize(length)))
        }
    }
}

/// Whether two cache lines hold the same words: by vectors where all processors of the target have some, which makes a
/// get faster (see [`crate::index::home`]).
#[cfg(target_arch = "x86_64")]
#[inline]
#[must_use]
#[expect(unsafe_code, reason = "calls of vector instructions are unsafe")]
pub fn is_same_line(one: [u64; 8], other: [u64; 8]) -> bool {
    use std::arch::x86_64::{__m128i, _mm_and_si128, _mm_cmpeq_epi8, _mm_movemask_epi8, _mm_set_epi64x};
    // SAFETY: these need SSE2, which is a part of this architecture, and read no memory.
    unsafe {
        let pair = |low: u64, high: u64| -> __m128i { _mm_set_epi64x(high.cast_signed(), low.cast_signed()) };
        let ([a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]) = (one, other);
        let front = _mm_and_si128(_mm_cmpeq_epi8(pair(a, b), pair(i, j)), _mm_cmpeq_epi8(pair(c, d), pair(k, l)));
        let back = _mm_and_si128(_mm_cmpeq_epi8(pair(e, f), pair(m, n)), _mm_cmpeq_epi8(pair(g, h), pair(o, p)));
        _mm_movemask_epi8(_mm_and_si128(front, back)) == 0xffff
    }
}

/// Whether two cache lines hold the same words.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
#[must_use]
pub fn is_same_line(one: [u64; 8], other: [u64; 8]) -> bool {
    one == other
}
