//! Cascades that are cut into parts.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::tests::{Memory, digest, store};
use super::*;

/// Drops the last reference of blob 0, in parts of so many removals: how many images each part has, and all that died.
fn free(memory: &mut Memory, removals: usize) -> (Vec<usize>, Removed) {
    let (mut sizes, mut all, mut left) = (Vec::new(), Removed::default(), Vec::new());
    while sizes.is_empty() || !left.is_empty() {
        assert!(sizes.len() < 100, "each part removes something");
        let (removed, outcome) = memory.batch(|changes, _| {
            changes.cut_after(removals);
            assert!(!changes.is_cut() && !changes.has_left());
            let mut removed = Removed::default();
            if sizes.is_empty() {
                removed = changes.dereference(&digest(0)).unwrap();
            }
            while !changes.is_cut()
                && let Some(next) = left.pop()
            {
                removed.add(changes.go_on(next).unwrap());
            }
            left.extend(changes.take_left());
            assert!(!changes.has_left());
            removed
        });
        all.add_part(&removed, Offset(sizes.len() as u64));
        sizes.push(outcome.images.iter().filter(|image| image.removed).count());
    }
    (sizes, all)
}

/// Frees blob 0 in parts of each of these sizes; the same dies as at once.
fn free_in_parts(blobs: u64, links: &[(u64, u64)], cases: &[(usize, &[usize])]) {
    let mut memory = store(blobs, links);
    let (whole, _) = memory.batch(|changes, _| changes.dereference(&digest(0)).unwrap());
    assert_eq!((whole.blobs(), whole.listed, memory.records.len()), (blobs, 0, 0));
    let expected = CountersNow { commits: 0, ..memory.counters };
    for &(removals, parts) in cases {
        let mut memory = store(blobs, links);
        let (sizes, removed) = free(&mut memory, removals);
        assert_eq!(sizes, parts, "in parts of {removals}");
        assert_eq!(CountersNow { commits: 0, ..memory.counters }, expected);
        assert_eq!(memory.records.len(), 0);
        assert_eq!((removed.blobs(), removed.listed_in.len()), (blobs, parts.len()));
        assert_eq!((removed.payload_bytes, removed.frame_bytes), (whole.payload_bytes, whole.frame_bytes));
    }
}

#[test]
fn the_links_of_a_wide_blob_are_removed_over_several_parts() {
    let links = [1, 2, 3, 4, 5].map(|to| (0, to));
    free_in_parts(6, &links, &[(100, &[11]), (11, &[11]), (10, &[10, 1]), (4, &[4, 4, 3])]);
}

#[test]
fn a_blob_whose_links_do_not_fit_waits_for_the_next_part_unless_they_are_half_of_one() {
    // 0 has two leaves and a blob with three. When its turn comes six removals were made.
    let links = [(0, 1), (0, 2), (0, 3), (3, 4), (3, 5), (3, 6)];
    free_in_parts(7, &links, &[(7, &[7, 6]), (8, &[6, 7]), (9, &[6, 7]), (10, &[10, 3]), (13, &[13])]);
}

#[test]
fn a_part_removes_two_records_at_least() {
    let mut memory = store(4, &[(0, 1), (1, 2), (2, 3)]);
    let (sizes, removed) = free(&mut memory, 0);
    assert_eq!((removed.blobs(), memory.records.len(), memory.counters.blobs), (4, 0, 0));
    assert!(sizes.iter().all(|&size| size == 1 || size == 2), "{sizes:?}");
}

#[test]
fn a_part_says_whether_it_is_full_and_whether_something_is_left() {
    let looks = |removals| {
        let memory = store(2, &[(0, 1)]);
        let mut changes = Changes::new(&memory, memory.counters);
        changes.cut_after(removals);
        changes.dereference(&digest(0)).unwrap();
        (changes.is_cut(), changes.has_left())
    };
    assert_eq!([4, 3, 2].map(looks), [(false, false), (true, false), (true, true)]);
}

#[test]
fn a_part_goes_on_only_with_a_blob_that_nothing_else_keeps() {
    let mut memory = store(1, &[]);
    memory.batch(|changes, _| changes.reference(&digest(0)).unwrap());
    let id = memory.record(&digest(0)).id;
    let error = Changes::new(&memory, memory.counters).go_on(Left::Blob(id)).unwrap_err();
    assert!(error.is_damage() && error.to_string().contains("a dying blob has references"), "{error}");
}
