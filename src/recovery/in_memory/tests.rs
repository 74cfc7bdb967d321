//! How much memory stands behind a pack, and whose live page is believed.
#![allow(clippy::unwrap_used, reason = "tests")]

use zerocopy::FromZeros;
use zerocopy::little_endian::{U32, U64};

use super::*;
use crate::format::Superblock;
use crate::medium::{Sim, SimDirectory};
use crate::recovery::tests::file;

fn superblocks(slots: u32, end: u64) -> Superblocks {
    let newest = Superblock { slots: U32::new(slots), end: U64::new(end), ..Superblock::new_zeroed() };
    Superblocks { identity: newest.identity, newest, slot: 0, older: None, cut_off: None }
}

/// The bytes of memory, and where they stand.
fn room(medium: &Sim, superblocks: &Superblocks, images: u64, depth: u32) -> (u64, u64) {
    let (memory, start) = overlay(medium, superblocks, images, depth).unwrap();
    let is_there = |at: u64| memory.word(Offset(at)).is_some();
    let words = (0..1 << 40).step_by(1 << 12).find(|&at| !is_there(at)).unwrap();
    assert!(is_there(words - 8));
    (words, start.0)
}

#[test]
fn memory_lasts_for_twice_the_segments_that_the_images_need_and_their_directories() {
    let medium = SimDirectory::new(1 << 20).create("pack").unwrap();
    medium.allocate(Offset(0), 100_000).unwrap();
    const EXTRA: u64 = 1 << 20;
    // A thousand images touch the eight segments that there are, and split one for each fifteen of them.
    let segments = (8 + 4 * 67 + 64) * 2;
    let expected = segments * PAGE_BYTES + 4 * (8 << 13) + EXTRA;
    assert_eq!(room(&medium, &superblocks(63, 0), 1000, 3), (expected, 128 << 10));
    // Three images touch three segments. A deep directory is deeper than the segments need.
    let segments = (3 + 4 * 3 + 64) * 2;
    let expected = segments * PAGE_BYTES + 4 * (8 << 23) + EXTRA;
    assert_eq!(room(&medium, &superblocks(4, 300_000), 3, 20), (expected, 320 << 10), "behind all that is known");
}

#[test]
fn a_live_page_is_that_of_a_writer_only_in_its_boot_and_its_file() {
    let medium = Arc::new(file().1);
    let is_ours = |host: [u64; 5]| {
        medium.store(live::HOST, &host).unwrap();
        is_of_this_host(&View::new(medium.clone(), &Identity::new_zeroed(), 63).unwrap()).unwrap()
    };
    let host = host_words(medium.as_ref()).unwrap();
    assert!(is_ours(host));
    for word in 0..5 {
        let mut other = host;
        other[word] ^= 1;
        assert!(!is_ours(other), "word {word}");
    }
}
