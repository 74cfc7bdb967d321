//! A pack's bytes, and where in them is what.

use blobpack::format::{
    CHUNK_ALIGN, Entry, Frame, FrameHeader, Identity, Kind, Offset, SPACE_AT, SUPERBLOCKS_AT, Superblock,
    checksum_without,
};
use zerocopy::{FromBytes, IntoBytes};

/// The superblock that counts.
pub fn newest(bytes: &[u8]) -> Superblock {
    let copies = SUPERBLOCKS_AT.map(|at| Superblock::read_from_prefix(&bytes[at.0 as usize..]).unwrap().0);
    let sealed = copies.into_iter().filter(Superblock::is_sealed);
    sealed.max_by_key(|copy| copy.sequence.get()).unwrap()
}

/// All frames, in the order of the file; those inside a frame are not looked for.
pub fn frames(bytes: &[u8]) -> Vec<Frame> {
    let marker = Identity::read_from_prefix(bytes).unwrap().0.marker.get();
    let mut found = Vec::new();
    let mut at = SPACE_AT.0 as usize;
    while at + 64 <= bytes.len() {
        match Frame::parse(&bytes[at..bytes.len().min(at + 128)], marker, Offset(at as u64)) {
            Some(frame) => {
                found.push(frame);
                at = frame.end().0 as usize;
            }
            None => at += 64,
        }
    }
    found
}

/// The frames of one kind.
pub fn of_kind(bytes: &[u8], kind: Kind) -> Vec<Frame> {
    frames(bytes).into_iter().filter(|frame| frame.kind == kind).collect()
}

/// The directory that the newest superblock names, and its segments.
pub fn index(bytes: &[u8]) -> Vec<(u64, u64)> {
    let superblock = newest(bytes);
    let (directory, depth) = (superblock.directory.get() as usize, superblock.depth.get());
    let mut parts = vec![(directory as u64, 8 << depth)];
    for index in 0..1 << depth {
        let word = u64::from_le_bytes(bytes[directory + 8 * index..][..8].try_into().unwrap());
        parts.push((Entry::unpack(word).segment.0, 64 * (u64::from(superblock.slots.get()) + 1)));
    }
    parts.sort_unstable();
    parts.dedup();
    parts
}

/// Makes the checksum of the plain frame at `at` right again.
pub fn reseal(bytes: &mut [u8], at: usize) {
    let checksum = checksum_without(&bytes[at..at + 64], FrameHeader::CHECKSUM_AT);
    bytes[at + FrameHeader::CHECKSUM_AT..][..4].copy_from_slice(&checksum.to_le_bytes());
}

/// Puts a superblock, made right, in both places.
pub fn put_superblock(bytes: &mut [u8], superblock: Superblock) {
    for at in SUPERBLOCKS_AT {
        bytes[at.0 as usize..][..size_of::<Superblock>()].copy_from_slice(superblock.sealed().as_bytes());
    }
}

/// Whether a chunk can stand at `at`.
pub fn is_chunk_place(at: u64) -> bool {
    at.is_multiple_of(CHUNK_ALIGN)
}

pub fn flip(bytes: &mut [u8], bit: usize) {
    bytes[bit / 8] ^= 1 << (bit % 8);
}
