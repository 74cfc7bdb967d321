//! How large things are made.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::format::Kind;
use crate::log::read_frame;
use crate::medium::SimDirectory;

#[test]
fn the_shape_that_fills_the_segments_best_is_taken() {
    let tuning = Tuning::default();
    // Up to 68 of 100 slots are filled; segments have one page, or three.
    let shapes = [0, 42, 43, 129, 130, 255, 260, 1_000_000].map(|records| shape(records, &tuning));
    assert_eq!(shapes, [(63, 0), (63, 0), (63, 1), (63, 2), (63, 2), (191, 1), (63, 3), (191, 13)]);
    for records in (100..200_000).step_by(997) {
        let (slots, depth) = shape(records, &tuning);
        let all = u64::from(slots) << depth;
        assert!(records * 100 <= all * 68 && records * 100 > all * 33, "{records} records in {all} slots");
    }
    let small = Tuning { slots: 4, ..tuning };
    assert_eq!([2, 3, 6].map(|records| shape(records, &small)), [(4, 0), (4, 1), (4, 2)]);
}

#[test]
fn the_need_counts_the_log_the_large_blobs_the_index_and_what_is_kept_for_a_full_disk() {
    let counters = CountersNow { blobs: 10, links: 3, names: 2, ..CountersNow::default() };
    let mut survey =
        Survey { blobs: Vec::new(), names: Vec::new(), counters, small_bytes: 5000, extent_bytes: 3 * PAGE_BYTES };
    // The anchor of the names is a record too.
    assert_eq!((counters.records(), survey.log_bytes()), (16, 5000 + 256 + 16 * 64));
    let log = CHUNK_ALIGN;
    let index = (4 << 10) * PAGE_BYTES + 2 * 2 * PAGE_BYTES + 2 * PAGE_BYTES;
    let kept = PAGE_BYTES + 5 * 4 * PAGE_BYTES + 2 * 3 * PAGE_BYTES;
    assert_eq!(survey.need(255, 10, 5), SPACE_AT.0 + log + 3 * PAGE_BYTES + index + kept);
    // With what is kept in the log it is just one chunk, and then just more.
    survey.small_bytes = CHUNK_ALIGN - (256 + 16 * 64 + 64 * 512 + 4 * 64);
    assert_eq!(survey.need(255, 10, 5), SPACE_AT.0 + log + 3 * PAGE_BYTES + index + kept);
    survey.small_bytes += 1;
    assert_eq!(survey.need(255, 10, 5), SPACE_AT.0 + 2 * log + 3 * PAGE_BYTES + index + kept);
    survey.counters.links = 2 * SNAPSHOT_IMAGES as u64;
    let records = survey.counters.records();
    assert_eq!(survey.log_bytes(), survey.small_bytes + 3 * 256 + records * 64, "three commits");
}

#[test]
fn large_payloads_begin_on_the_next_page_that_leaves_room_for_their_headers() {
    let after = |algorithm| [0, 4096 - 128, 4096 - 127, 4096 - 64, 4096 - 63].map(|end| large_payload(end, algorithm));
    assert_eq!(after(Algorithm::Sha256), [4096, 4096, 4096, 4096, 8192]);
    assert_eq!(after(Algorithm::Sha512), [4096, 4096, 8192, 8192, 8192]);
}

#[test]
fn the_new_log_goes_on_in_another_chunk_only_where_the_frame_does_not_fit() {
    let medium = SimDirectory::new(4 << 20).create("new").unwrap();
    let mut space = Space::empty(99, 63, u64::MAX);
    let mut log = LogCopy::new(&medium, &mut space, 99, 100_000, 3).unwrap();
    let first = Offset(SPACE_AT.0);
    assert_eq!((log.tail.chunk, log.tail.chunk_end), (first, first.0 + (128 << 10)), "as long as what is to come");
    let names = ["a", &"long".repeat(30)].map(|name| Name::new(name).unwrap());
    let places = [log.name(&names[0]).unwrap(), log.name(&names[1]).unwrap()];
    assert_eq!(places, [64, 64 + 128].map(|at| Offset(first.0 + at)));
    assert_eq!((log.tail.at, log.left), (Offset(first.0 + 64 + 128 + 192), 100_000 - 320));
    let room = log.tail.room();
    log.make_room(room).unwrap();
    assert_eq!((log.tail.chunk, log.left), (first, 0), "it fits exactly");
    log.make_room(room + 1).unwrap();
    let second = Offset(first.0 + (128 << 10));
    assert_eq!(
        (log.tail.chunk, log.tail.chunk_end, log.tail.at),
        (second, second.0 + (128 << 10), Offset(second.0 + 64))
    );
    log.flush().unwrap();
    let end = medium.length().unwrap();
    for (at, name) in places.into_iter().zip(names) {
        assert_eq!(read_name(&medium, 99, at, end).unwrap(), Some(name));
    }
    let kind = |at: u64| read_frame(&medium, 99, Offset(at), end).unwrap().map(|frame| frame.kind);
    assert_eq!([first.0, first.0 + 384, second.0].map(kind), [Kind::Chunk, Kind::Jump, Kind::Chunk].map(Some));
}

#[test]
fn the_first_chunk_of_the_new_log_has_room_for_its_own_frames_too() {
    let medium = SimDirectory::new(4 << 20).create("new").unwrap();
    let mut chunk = |bytes| {
        let mut space = Space::empty(99, 63, u64::MAX);
        let log = LogCopy::new(&medium, &mut space, 99, bytes, 3).unwrap();
        log.tail.chunk_end - log.tail.chunk.0
    };
    let most = CHUNK_ALIGN - 2 * 64;
    assert_eq!([1, most, most + 1].map(&mut chunk), [CHUNK_ALIGN, CHUNK_ALIGN, 2 * CHUNK_ALIGN]);
    assert_eq!(chunk(1 << 30), CHUNK_BYTES, "the rest goes into others");
}
