//! A map for the model checker: in place of memory it has the words and frames that somebody wrote, each known to loom,
//! which then tries every order of threads and every value that a load may return.
//!
//! Words exist from the first store to their page on, frames from the write on: a test that wants readers to come
//! upon a page has it written before there are several threads. Bytes are those of whole frames. They are no atomics;
//! whether a reader may rely on them is asked of a relaxed flag, which is seen set for sure only by who is ordered
//! after the write.

use std::fs::File;
use std::io;
use std::sync::Arc;

use elsa::sync::FrozenMap;

use super::{LINE_BYTES, Line, WORD_BYTES, Window};
use crate::format::{Offset, PAGE_BYTES, to_u64, to_usize};
use crate::sync::{Ordering, Word};

/// How much of each page has words: a segment of five slots, or a directory of depth five.
const PAGE_WORDS: usize = 48;
/// Readers ask for up to this many bytes of a frame's header.
const HEADER_BYTES: usize = 128;

/// See the module.
pub struct Map {
    length: u64,
    pages: FrozenMap<u64, Box<[Word]>>,
    frames: FrozenMap<u64, Box<FrameBytes>>,
}

struct FrameBytes {
    bytes: Vec<u8>,
    is_there: Word,
}

impl Map {
    /// An empty map that claims to be so long.
    #[must_use]
    pub fn memory(bytes: u64) -> Arc<Map> {
        Arc::new(Map { length: bytes, pages: FrozenMap::new(), frames: FrozenMap::new() })
    }

    /// There are no files in a model.
    pub fn of_file(_: &File, _: u64, _: bool) -> io::Result<Arc<Map>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Gives the pages of a range their words, all zero.
    pub fn lay_words(&self, offset: Offset, length: u64) {
        for page in offset.0 / PAGE_BYTES..(offset.0 + length).div_ceil(PAGE_BYTES) {
            if self.pages.get(&page).is_none() {
                self.pages.insert(page, (0..PAGE_WORDS).map(|_| Word::new(0)).collect());
            }
        }
    }

    /// Writes a frame, as the kernel does: the bytes are there before the call returns, for those who know of it.
    pub fn write_frame(&self, offset: Offset, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        bytes.resize(bytes.len().max(HEADER_BYTES), 0);
        let frame = self.frames.insert(offset.0, Box::new(FrameBytes { bytes, is_there: Word::new(0) }));
        frame.is_there.store(1, Ordering::Relaxed);
    }

    /// Writes words, as the kernel does: in no order that somebody could rely on.
    pub fn write_words(&self, offset: Offset, bytes: &[u8]) {
        self.lay_words(offset, to_u64(bytes.len()));
        let words = self.words(offset, bytes.len() / 8).expect("they were just laid");
        for (word, bytes) in words.iter().zip(bytes.as_chunks().0) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
    }

    /// How far the map reaches.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Always.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        true
    }

    /// `count` words of one page; `None` where there are none.
    #[must_use]
    pub fn words(&self, offset: Offset, count: usize) -> Option<&[Word]> {
        if !offset.is_aligned(WORD_BYTES) || offset.0 >= self.length {
            return None;
        }
        let first = to_usize(offset.0 % PAGE_BYTES / WORD_BYTES);
        self.pages.get(&(offset.0 / PAGE_BYTES))?.get(first..first.checked_add(count)?)
    }

    /// Bytes of the frame that begins at `offset`.
    ///
    /// # Panics
    ///
    /// If the reader was led to a frame whose bytes it may not see yet.
    #[must_use]
    pub fn bytes(&self, offset: Offset, length: u64) -> Option<&[u8]> {
        let frame = self.frames.get(&offset.0)?;
        assert_eq!(frame.is_there.load(Ordering::Relaxed), 1, "a reader is led to a frame before its bytes are there");
        frame.bytes.get(..to_usize(length))
    }

    /// Nothing to sync.
    pub fn flush(&self, _: Offset, _: u64) -> io::Result<()> {
        Ok(())
    }

    /// Nothing to prepare.
    pub fn prepare_sync(&self, _: Offset, _: u64) {}
}

impl std::fmt::Debug for Map {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Map").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Window {
    /// Its cache lines.
    #[must_use]
    pub fn front(&self) -> Front<'_> {
        Front { map: &self.map, lines: to_usize(self.lines.load(Ordering::Relaxed)) }
    }
}

/// What a window shows.
#[derive(Clone, Copy)]
pub struct Front<'m> {
    map: &'m Map,
    lines: usize,
}

impl<'m> Front<'m> {
    /// One word, by its number.
    #[must_use]
    pub fn word(&self, number: usize) -> Option<&'m Word> {
        if number / 8 < self.lines { self.map.word(Offset(WORD_BYTES * to_u64(number))) } else { None }
    }

    /// One cache line, by its number.
    #[must_use]
    pub fn line(&self, number: usize) -> Option<&'m Line> {
        if number < self.lines { self.map.words(Offset(LINE_BYTES * to_u64(number)), 8)?.first_chunk() } else { None }
    }

    /// Cache lines, by the number of the first.
    #[must_use]
    pub fn lines<const COUNT: usize>(&self, number: usize) -> Option<&'m [Line; COUNT]> {
        if number.checked_add(COUNT)? > self.lines {
            return None;
        }
        let words = self.map.words(Offset(LINE_BYTES * to_u64(number)), 8 * COUNT)?;
        words.as_chunks().0.first_chunk()
    }

    /// Nothing to load.
    pub fn prefetch(&self, _: Offset) {}

    /// A payload of so many bytes behind the header of the frame at `offset`, if that `is` the right one.
    #[must_use]
    pub fn payload(&self, offset: Offset, length: u64, is: impl FnOnce(&[u8; 64]) -> bool) -> Option<&'m [u8]> {
        let end = offset.0.checked_add(64)?.checked_add(length)?;
        if end > LINE_BYTES * to_u64(self.lines) {
            return None;
        }
        let (header, payload) = self.map.bytes(offset, 64 + length)?.split_first_chunk()?;
        is(header).then_some(payload)
    }
}

/// Whether two cache lines hold the same words.
#[must_use]
pub fn is_same_line(one: [u64; 8], other: [u64; 8]) -> bool {
    one == other
}
