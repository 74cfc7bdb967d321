//! The blobs that are stored: random bytes, the same in every run, each blob's by its number.

use std::io::Read;

use crate::engines::{Key, key};

/// splitmix64, of a counter: every number of a stream differs.
pub fn mixed(number: u64) -> u64 {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

/// Blobs of one size, one after another.
pub struct Contents {
    pub bytes: Vec<u8>,
    pub blob_bytes: usize,
}

impl Contents {
    /// `count` blobs, from the `first` on. `blob_bytes` is a multiple of 8.
    pub fn new(first: usize, count: usize, blob_bytes: usize) -> Contents {
        let words = blob_bytes / 8;
        let mut bytes = Vec::with_capacity(count * blob_bytes);
        for word in first * words..(first + count) * words {
            bytes.extend_from_slice(&mixed(word as u64 + 1).to_le_bytes());
        }
        Contents { bytes, blob_bytes }
    }

    /// All of them.
    pub fn blobs(&self) -> Vec<&[u8]> {
        self.bytes.chunks_exact(self.blob_bytes).collect()
    }

    /// Their keys.
    pub fn keys(&self) -> Vec<Key> {
        self.bytes.chunks_exact(self.blob_bytes).map(key).collect()
    }
}

/// So many of these keys, at random places.
pub fn shuffled(keys: &[Key], count: usize, round: u64) -> Vec<Key> {
    let place = |number: usize| (mixed((round << 40) + number as u64) % keys.len() as u64) as usize;
    (0..count).map(|number| keys[place(number)]).collect()
}

/// A stream of so many bytes, another for each number.
pub fn stream(number: u64, bytes: u64) -> impl Read {
    let mut next = mixed(number + 1) >> 8;
    let words = std::iter::repeat_with(move || {
        next += 1;
        mixed(next)
    });
    Words { words, rest: bytes }
}

struct Words<I> {
    words: I,
    rest: u64,
}

impl<I: Iterator<Item = u64>> Read for Words<I> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = (buffer.len() as u64).min(self.rest) as usize / 8 * 8;
        for (part, word) in buffer[..length].chunks_exact_mut(8).zip(&mut self.words) {
            part.copy_from_slice(&word.to_le_bytes());
        }
        self.rest -= length as u64;
        Ok(length)
    }
}
