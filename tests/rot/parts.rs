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

/// The bits of what is in a pack, one out of `step`, at a place inside each group that moves from group to group.
///
/// Of payloads of more than a kilobyte the ends and one byte of each page are looked at, as all others are covered by the
/// same digest; of regions of the index that hold no live segment a tenth. What no structure covers (the space between
/// frames, and holes of the sparse file, where nothing is stored) is left out.
pub fn bits(bytes: &[u8], step: usize) -> Vec<usize> {
    let mut ranges: Vec<(usize, usize)> = vec![(0, 192), (192 << 10, (192 << 10) + 128)];
    ranges.extend(SUPERBLOCKS_AT.map(|at| (at.0 as usize, at.0 as usize + 352)));
    let live = index(bytes);
    ranges.extend(live.iter().map(|&(at, length)| (at as usize, (at + length) as usize)));
    for frame in frames(bytes) {
        let (start, body) = (frame.offset.0 as usize, frame.body().0 as usize);
        let end = body + frame.length as usize;
        if end - body > 1024 {
            ranges.extend([(start, body + 8), (end - 8, end)]);
            ranges.extend((body + 4096..end).step_by(4096).map(|at| (at, at + 1)));
        } else {
            ranges.push((start, end));
        }
        if frame.kind == Kind::Run {
            // Its regions.
            for page in (start + 4096..bytes.len()).step_by(4096).take(40) {
                let is_index = bytes[page..page + 8] != [0; 8] && !live.iter().any(|(at, _)| *at == page as u64);
                ranges.extend(is_index.then_some((page + 64 * (page / 4096 % 5), page + 64 * (page / 4096 % 5) + 32)));
            }
        }
    }
    ranges.sort_unstable();
    ranges.dedup();
    let all = ranges.into_iter().flat_map(|(start, end)| start * 8..end * 8).collect::<std::collections::BTreeSet<_>>();
    let all: Vec<usize> = all.into_iter().collect();
    all.chunks(step).enumerate().filter_map(|(group, bits)| bits.get(group * 7 % step).copied()).collect()
}
