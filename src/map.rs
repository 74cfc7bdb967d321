//! The memory that a pack is read through: a shared map of the file, or plain memory that stands in for one.
//!
//! A map never moves and never shrinks, and whoever borrows from it keeps it alive. Two kinds of bytes lie in it,
//! which are kept apart: what was committed never changes again and is lent out as `&[u8]`; what does
//! change (segments, directories, the live page) is only ever reached as [`Word`].
//!
//! Three things end a process here that no check in it can prevent, and all need a program that ignores the contract of
//! `open`: a file that is truncated (`SIGBUS` at the next load), a disk that fails under a load (likewise), and
//! committed bytes that are rewritten (a `&[u8]` that changes is undefined behaviour).

use std::sync::Arc;

use crate::format::{Offset, to_u64, to_usize};
use crate::sync::{AtomicU64, Ordering, Word};

#[cfg(loom)]
#[path = "map/model.rs"]
mod raw;
#[cfg(not(loom))]
mod raw;

pub use raw::{Front, Map, is_same_line};

/// One word of a map, in bytes.
const WORD_BYTES: u64 = 8;
/// One cache line, in bytes.
pub const LINE_BYTES: u64 = 64;
/// The words of a cache line.
pub type Line = [Word; 8];

/// The beginning of a map, as far as its file is known to go.
#[derive(Debug)]
pub struct Window {
    map: Arc<Map>,
    /// At most so many as the map has.
    lines: AtomicU64,
}

impl Window {
    /// So many bytes of this map.
    #[must_use]
    pub fn of(map: Arc<Map>, bytes: u64) -> Window {
        let lines = AtomicU64::new(bytes.min(map.length()) / LINE_BYTES);
        Window { map, lines }
    }

    /// The file has so many bytes now. One that shows nothing stays so.
    pub fn extend(&self, bytes: u64) {
        let lines = bytes.min(self.map.length()) / LINE_BYTES;
        let mut now = self.lines.load(Ordering::Relaxed);
        while (1..lines).contains(&now)
            && let Err(other) = self.lines.compare_exchange_weak(now, lines, Ordering::Relaxed, Ordering::Relaxed)
        {
            now = other;
        }
    }

    /// Shows nothing from now on.
    pub fn close(&self) {
        self.lines.store(0, Ordering::Relaxed);
    }

    /// Whether it shows nothing.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.lines.load(Ordering::Relaxed) == 0
    }
}

impl Map {
    /// The word at a multiple of 8; `None` elsewhere and beyond the map.
    #[inline]
    #[must_use]
    pub fn word(&self, offset: Offset) -> Option<&Word> {
        self.words(offset, 1)?.first()
    }

    /// Stores native words as the file has them: all but the first in ascending order, then the first, each with
    /// release ordering. `None`, and nothing stored, beyond the map, off a multiple of 8, or where it is not writable.
    #[inline]
    pub fn store_words(&self, offset: Offset, new: &[u64]) -> Option<()> {
        let words = self.words(offset, new.len()).filter(|_| self.is_writable())?;
        let Some(((first, rest), (first_new, rest_new))) = words.split_first().zip(new.split_first()) else {
            return Some(());
        };
        for (word, new) in rest.iter().zip(rest_new) {
            word.store(new.to_le(), Ordering::Release);
        }
        first.store(first_new.to_le(), Ordering::Release);
        Some(())
    }

    /// Takes the fault of the next store into this word's page. Changes nothing, and does nothing beyond the map or
    /// where that is not writable.
    pub fn touch(&self, offset: Offset) {
        if let Some(word) = self.word(offset).filter(|_| self.is_writable()) {
            let now = word.load(Ordering::Relaxed);
            // A compiler may make a load of an addition of zero.
            let _ = word.compare_exchange_weak(now, now, Ordering::Relaxed, Ordering::Relaxed);
        }
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
        let (whole, tail) = rest.as_chunks();
        let (inside, after) = words.as_slice().split_at_checked(whole.len())?;
        for (eight, word) in whole.iter().zip(inside) {
            word.store(u64::from_ne_bytes(*eight), Ordering::Release);
        }
        if !tail.is_empty() {
            merge(after.first()?, 0, tail);
        }
        Some(())
    }

    /// Reads bytes as atomic words: for ranges that may be changing. `None` beyond the map.
    pub fn read_bytes(&self, offset: Offset, buffer: &mut [u8]) -> Option<()> {
        let (words, skip) = self.words_around(offset, to_u64(buffer.len()))?;
        let count = buffer.len().min((8 - skip) % 8);
        let (head, rest) = buffer.split_at_mut(count);
        let mut words = words.iter();
        if !head.is_empty() {
            let bytes = words.next()?.load(Ordering::Acquire).to_ne_bytes();
            head.copy_from_slice(&bytes[skip..skip + count]);
        }
        let (whole, tail) = rest.as_chunks_mut();
        let (inside, after) = words.as_slice().split_at_checked(whole.len())?;
        for (eight, word) in whole.iter_mut().zip(inside) {
            *eight = word.load(Ordering::Acquire).to_ne_bytes();
        }
        if !tail.is_empty() {
            tail.copy_from_slice(&after.first()?.load(Ordering::Acquire).to_ne_bytes()[..tail.len()]);
        }
        Some(())
    }

    /// The words that a range of bytes touches, and where in the first of them it begins.
    fn words_around(&self, offset: Offset, length: u64) -> Option<(&[Word], usize)> {
        let first = offset.0 - offset.0 % WORD_BYTES;
        let count = offset.0.checked_add(length)?.checked_sub(first)?.div_ceil(WORD_BYTES);
        Some((self.words(Offset(first), to_usize(count))?, to_usize(offset.0 - first)))
    }
}

/// Stores some bytes of a word, and leaves the others as another thread has them.
fn merge(word: &Word, skip: usize, bytes: &[u8]) {
    let mut old = word.load(Ordering::Relaxed);
    loop {
        let mut merged = old.to_ne_bytes();
        merged[skip..skip + bytes.len()].copy_from_slice(bytes);
        match word.compare_exchange_weak(old, u64::from_ne_bytes(merged), Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return,
            Err(now) => old = now,
        }
    }
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
    }

    #[test]
    fn a_window_shows_what_the_file_is_known_to_have() {
        let map = Map::memory(192);
        let bytes: Vec<u8> = (0..192).collect();
        map.write_bytes(Offset(0), &bytes).unwrap();
        let closed = Window::of(map.clone(), 0);
        closed.extend(128);
        assert!(closed.is_closed() && closed.front().line(0).is_none());
        assert!(closed.front().payload(Offset(0), 0, |_| true).is_none());
        let window = Window::of(map, 64);
        window.extend(127);
        assert!(window.front().line(0).is_some() && window.front().line(1).is_none());
        window.extend(u64::MAX);
        window.extend(64);
        let front = window.front();
        assert!(front.line(2).is_some() && front.line(3).is_none() && front.line(usize::MAX).is_none());
        assert!(front.word(23).is_some() && front.word(24).is_none());
        assert!(front.lines::<2>(1).is_some() && front.lines::<2>(2).is_none());
        assert!(front.lines::<2>(usize::MAX).is_none() && front.lines::<4>(0).is_none());
        for (at, length) in [(0, 128), (3, 61), (3, 125), (64, 64), (128, 0)] {
            let mut seen = Vec::new();
            let mut look = |header: &[u8; 64], is| {
                seen = header.to_vec();
                is
            };
            let offset = Offset(to_u64(at));
            let payload = front.payload(offset, to_u64(length), |header| look(header, true));
            assert_eq!(payload, Some(&bytes[at + 64..][..length]));
            assert_eq!(seen, bytes[at..at + 64]);
            assert_eq!(front.payload(offset, to_u64(length), |_| false), None);
        }
        for (offset, length) in [(64, 65), (129, 0), (192, 0), (0, u64::MAX), (u64::MAX, 8), (u64::MAX - 63, 0)] {
            let payload = front.payload(Offset(offset), length, |_| unreachable!("it lies outside"));
            assert!(payload.is_none(), "{length} bytes behind a header at {offset}");
        }
        front.prefetch(Offset(0));
        front.prefetch(Offset(u64::MAX));
    }

    #[test]
    fn lines_are_the_same_where_all_their_words_are() {
        let line = [1, 2, 3, 4, 5, 6, 7, u64::MAX];
        assert!(is_same_line(line, line));
        for bit in 0..512 {
            let mut other = line;
            other[bit / 64] ^= 1 << (bit % 64);
            assert!(!is_same_line(line, other) && !is_same_line(other, line), "bit {bit}");
        }
    }

    #[test]
    fn long_memory_is_zeros_that_cost_nothing_until_they_are_written() {
        let bytes: u64 = if cfg!(miri) { 1 << 20 } else { 1 << 30 };
        let map = Map::memory(bytes);
        assert!(map.length() == bytes && map.is_writable());
        map.write_bytes(Offset(bytes - 3), &[1, 2, 3]).unwrap();
        map.flush(Offset(bytes - 8), 8).unwrap();
        assert_eq!(map.bytes(Offset(bytes - 8), 8), Some(&[0, 0, 0, 0, 0, 1, 2, 3][..]));
        assert_eq!(map.bytes(Offset(bytes / 2), 4096), Some(&[0; 4096][..]));
        assert!(map.word(Offset(bytes)).is_none());
    }

    #[test]
    fn bytes_are_written_at_every_alignment_and_leave_their_neighbours_alone() {
        for offset in 0..17 {
            // Every third has all remainders of a word, too.
            for length in (0..40).step_by(if cfg!(miri) { 3 } else { 1 }) {
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
        for map in [&map, &readable] {
            [Offset(8), Offset(1), Offset(1 << 20), Offset(u64::MAX)].iter().for_each(|at| map.touch(*at));
        }
        assert_eq!(u64::from_le(readable.word(Offset(8)).unwrap().load(Ordering::Acquire)), 7);
    }
}
