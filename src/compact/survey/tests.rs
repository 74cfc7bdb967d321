//! How long the new file and its index are made.

use super::*;

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
