//! The memory that a pack is read through: a shared map of the file, or plain memory that stands in for one.
//!
//! A map never moves and never shrinks, and whoever borrows from it keeps it alive. Two kinds of bytes lie in it, and
//! the rules R12 and R13 keep them apart: what was committed never changes again and is lent out as `&[u8]`; what does
//! change (segments, directories, the live page) is only ever reached as [`AtomicU64`].
//!
//! Three things end a process here that no check in it can prevent, and all need a program that ignores the contract of
//! `open`: a file that is truncated (`SIGBUS` at the next load), a disk that fails under a load (likewise), and
//! committed bytes that are rewritten (a `&[u8]` that changes is undefined behaviour).

use std::fs::File;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};

use crate::format::{Offset, to_u64, to_usize};

/// One word of a map, in bytes.
const WORD_BYTES: u64 = 8;

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

impl Map {
    /// Writable memory of `bytes` bytes (rounded up to whole words), all zero. Pages that nobody stores to cost
    /// nothing.
    #[must_use]
    pub fn memory(bytes: u64) -> Arc<Map> {
        let count = to_usize(bytes.div_ceil(WORD_BYTES));
        // `vec!` asks the allocator for zeroed memory and writes none of it.
        let words = NonNull::from(Box::leak(vec![0u64; count].into_boxed_slice()));
        Arc::new(Map { start: words.cast(), length: to_u64(count) * WORD_BYTES, backing: Backing::Memory { words } })
    }

    /// Maps the first `bytes` bytes of a file, shared with all others who have it open. The map may be longer than the
    /// file.
    ///
    /// Loads and stores beyond the file's end, rounded up to a page, are `SIGBUS`, so callers check each offset against
    /// a length from `fstat`, which is good for ever, because the file is never shrunk (R12). So is a store into a hole
    /// when the disk is full (R8). Without `write` every store is `SIGSEGV`.
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
            Backing::Memory { .. } => true,
        }
    }

    /// The word at a multiple of 8; `None` elsewhere and beyond the map.
    #[inline]
    #[must_use]
    pub fn word(&self, offset: Offset) -> Option<&AtomicU64> {
        self.words(offset, 1)?.first()
    }

    /// `count` words from a multiple of 8 on; `None` elsewhere and beyond the map.
    #[inline]
    #[must_use]
    #[expect(unsafe_code, reason = "borrows mapped memory as atomics")]
    pub fn words(&self, offset: Offset, count: usize) -> Option<&[AtomicU64]> {
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
        Some(unsafe { std::slice::from_raw_parts(at.cast::<AtomicU64>().as_ptr(), count) })
    }

    /// `length` bytes from `offset` on; `None` beyond the map.
    ///
    /// The caller asks only for ranges that were committed: those are written once, before anybody learns of them, and
    /// never again (R12; recovery rewrites some with identical bytes). Mutable ranges go by [`word`](Map::word) (R13),
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

    /// Asks the processor to load the cache line at `offset`, as a hint: any offset will do.
    #[inline]
    pub fn prefetch(&self, offset: Offset) {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        #[expect(unsafe_code, reason = "a processor hint")]
        if let Some(at) = self.at(offset, 1) {
            // SAFETY: a prefetch reads nothing that the program can see and never faults, whatever the address.
            unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.as_ptr().cast()) };
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let _ = offset;
    }

    /// Makes a range durable (`msync` with `MS_SYNC`), however it was written. Memory has nothing to sync.
    ///
    /// Linux syncs nothing through the map of a file that is open for reading only.
    pub fn flush(&self, offset: Offset, length: u64) -> io::Result<()> {
        self.at(offset, length).ok_or(io::ErrorKind::InvalidInput)?;
        match &self.backing {
            Backing::File { map, .. } => map.flush_range(to_usize(offset.0), to_usize(length)),
            Backing::Memory { .. } => Ok(()),
        }
    }

    /// Stores native words as the file has them: all but the first in ascending order, then the first, each with
    /// release ordering. `None`, and nothing stored, beyond the map, off a multiple of 8, or where it is not writable.
    #[inline]
    pub fn store_words(&self, offset: Offset, new: &[u64]) -> Option<()> {
        let words = self.words(offset, new.len()).filter(|_| self.is_writable())?;
        let order = (1..new.len()).chain((!new.is_empty()).then_some(0));
        for index in order {
            words[index].store(new[index].to_le(), Ordering::Release);
        }
        Some(())
    }

    /// Writes bytes as atomic words, in ascending order, so that it may go on beside readers of other bytes or of
    /// words. `None`, and nothing written, beyond the map or where it is not writable.
    pub fn write_bytes(&self, offset: Offset, bytes: &[u8]) -> Option<()> {
        let (words, skip) = self.words_around(offset, to_u64(bytes.len())).filter(|_| self.is_writable())?;
        let (head, rest) = bytes.split_at(bytes.len().min((8 - skip) % 8));
        let mut words = words.iter();
        if !head.is_empty() {
            merge(words.next()?, skip, head);
        }
        let mut whole = rest.chunks_exact(8);
        for (chunk, word) in (&mut whole).zip(&mut words) {
            let chunk = chunk.try_into().expect("a chunk of 8 has 8 bytes");
            word.store(u64::from_ne_bytes(chunk), Ordering::Release);
        }
        if !whole.remainder().is_empty() {
            merge(words.next()?, 0, whole.remainder());
        }
        Some(())
    }

    /// Reads bytes as atomic words: for ranges that may be changing. `None` beyond the map.
    pub fn read_bytes(&self, offset: Offset, buffer: &mut [u8]) -> Option<()> {
        let (words, mut skip) = self.words_around(offset, to_u64(buffer.len()))?;
        let mut rest = buffer;
        for word in words {
            let bytes = word.load(Ordering::Acquire).to_ne_bytes();
            let count = rest.len().min(8 - skip);
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(&bytes[skip..skip + count]);
            (rest, skip) = (later, 0);
        }
        Some(())
    }

    /// The words that a range of bytes touches, and where in the first of them it begins.
    fn words_around(&self, offset: Offset, length: u64) -> Option<(&[AtomicU64], usize)> {
        let first = offset.0 - offset.0 % WORD_BYTES;
        let count = offset.0.checked_add(length)?.checked_sub(first)?.div_ceil(WORD_BYTES);
        Some((self.words(Offset(first), to_usize(count))?, to_usize(offset.0 - first)))
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

/// Stores some bytes of a word, and leaves the others as another thread has them.
fn merge(word: &AtomicU64, skip: usize, bytes: &[u8]) {
    word.update(Ordering::Release, Ordering::Relaxed, |old| {
        let mut merged = old.to_ne_bytes();
        merged[skip..skip + bytes.len()].copy_from_slice(bytes);
        u64::from_ne_bytes(merged)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_lent_only_inside_the_map() {
        let map = Map::memory(64);
        assert_eq!(map.length(), 64);
        assert!(map.word(Offset(56)).is_some());
        for outside in [4, 57, 64, 72, u64::MAX, u64::MAX - 7] {
            assert!(map.word(Offset(outside)).is_none(), "{outside}");
        }
        assert!(map.words(Offset(0), 8).is_some());
        assert!(map.words(Offset(8), 8).is_none());
        assert!(map.words(Offset(0), usize::MAX).is_none());
        assert_eq!(map.bytes(Offset(3), 61), Some(&[0; 61][..]));
        assert_eq!(map.bytes(Offset(64), 0), Some(&[][..]));
        assert!(map.bytes(Offset(3), 62).is_none());
        assert!(map.bytes(Offset(8), u64::MAX).is_none());
        assert!(Map::memory(0).word(Offset(0)).is_none());
        map.prefetch(Offset(0));
        map.prefetch(Offset(u64::MAX));
    }

    #[test]
    fn bytes_are_written_at_every_alignment_and_leave_their_neighbours_alone() {
        for offset in 0..17 {
            for length in 0..40 {
                let map = Map::memory(64);
                let mut expected = [0xee; 64];
                map.write_bytes(Offset(0), &expected).unwrap();
                let data: Vec<u8> = (1..=length).collect();
                map.write_bytes(Offset(offset), &data).unwrap();
                let start = to_usize(offset);
                expected[start..start + data.len()].copy_from_slice(&data);
                assert_eq!(map.bytes(Offset(0), 64).unwrap(), expected);
                let mut read = vec![0; data.len()];
                map.read_bytes(Offset(offset), &mut read).unwrap();
                assert_eq!(read, data);
            }
        }
        let map = Map::memory(8);
        assert!(map.write_bytes(Offset(4), &[1; 5]).is_none());
        assert!(map.read_bytes(Offset(4), &mut [1; 5]).is_none());
        assert!(map.write_bytes(Offset(u64::MAX), &[1; 5]).is_none());
        assert_eq!(map.word(Offset(0)).unwrap().load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_word_that_a_reader_acquires_brings_all_earlier_stores_with_it() {
        let map = Map::memory(16);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                map.write_bytes(Offset(8), b"payload!").unwrap();
                map.word(Offset(0)).unwrap().store(1, Ordering::Release);
            });
            while map.word(Offset(0)).unwrap().load(Ordering::Acquire) == 0 {
                std::thread::yield_now();
            }
            assert_eq!(map.bytes(Offset(8), 8).unwrap(), b"payload!");
        });
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps a file")]
    fn a_map_of_a_file_sees_what_is_written_after_it_was_made() {
        use std::os::unix::fs::FileExt;
        let file = tempfile::tempfile().unwrap();
        let map = Map::of_file(&file, 1 << 20, true).unwrap();
        file.set_len(8192).unwrap();
        file.write_all_at(b"later", 4096).unwrap();
        assert_eq!(map.bytes(Offset(4096), 5).unwrap(), b"later");
        map.word(Offset(8)).unwrap().store(7u64.to_le(), Ordering::Release);
        map.flush(Offset(8), 8).unwrap();
        let mut word = [0; 8];
        file.read_exact_at(&mut word, 8).unwrap();
        assert_eq!(u64::from_le_bytes(word), 7);
        let readable = Map::of_file(&file, 8192, false).unwrap();
        assert!(!readable.is_writable() && readable.write_bytes(Offset(0), &[1]).is_none());
        assert_eq!(u64::from_le(readable.word(Offset(8)).unwrap().load(Ordering::Acquire)), 7);
    }
}
