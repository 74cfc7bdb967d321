//! What each byte of a pack is for: parts that add up to the file, and say what is there.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use blobpack::format::PAGE_BYTES;
use blobpack::{Blob, Descriptor, Layout, PartKind, Store};
use proptest::prelude::*;

mod common;
use common::{content, golden, inserted, open_simulated, small, whole};

const LARGE: u64 = 64 << 10;

/// Adds up, in order, without gaps, neighbours of different kinds.
#[track_caller]
fn check(layout: &Layout) {
    let mut at = 0;
    for part in &layout.parts {
        assert_eq!(part.offset, at);
        assert!(part.length > 0);
        at += part.length;
    }
    assert_eq!(at, layout.file_bytes);
    assert!(layout.parts.windows(2).all(|pair| pair[0].kind != pair[1].kind));
    assert_eq!(PartKind::ALL.iter().map(|&kind| layout.bytes(kind)).sum::<u64>(), layout.file_bytes);
}

#[track_caller]
fn layout(store: &Store) -> Layout {
    let layout = store.layout().unwrap();
    check(&layout);
    assert_eq!(layout.file_bytes, std::fs::metadata(store.path()).unwrap().len());
    assert_eq!((layout.damaged_segments, layout.moving), (0, false));
    layout
}

/// The kind of the bytes of a blob, all of which are of one.
#[track_caller]
fn kind_of(layout: &Layout, blob: &Blob) -> PartKind {
    let (_, payload) = blob.file_range().unwrap();
    let part = layout.parts.iter().rfind(|part| part.offset < payload).unwrap();
    assert!(part.offset + 64 <= payload, "the header is of the same part");
    assert!(part.offset + part.length >= payload + blob.size());
    part.kind
}

/// The bytes that a SHA-256 blob takes in a file that was never compacted.
fn place(size: u64) -> u64 {
    if size < LARGE { (64 + size).next_multiple_of(64) } else { PAGE_BYTES + size.next_multiple_of(PAGE_BYTES) }
}

fn sizes() -> Vec<usize> {
    vec![0, 1, 63, 64, 65, 1000, 4096, 65_535, 65_536, 65_537, 100_000, 300_000]
}

fn put_all(store: &Store) -> Vec<(Descriptor, Blob)> {
    let put = |(seed, size): (usize, usize)| store.put(&content(seed as u64, size)).unwrap();
    sizes().into_iter().enumerate().map(put).map(|put| (put, store.get(&put.digest).unwrap())).collect()
}

#[test]
fn a_new_pack_is_header_index_and_room() {
    let store = Store::temporary().unwrap();
    let layout = layout(&store);
    assert_eq!(layout.bytes(PartKind::Header), 4 * PAGE_BYTES);
    assert_eq!(layout.bytes(PartKind::Live) + layout.bytes(PartKind::Dead) + layout.bytes(PartKind::Unknown), 0);
    assert_eq!(layout.bytes(PartKind::Log), 64, "the head of the first chunk");
    assert!(layout.bytes(PartKind::Index) >= 2 * PAGE_BYTES);
    assert_eq!(layout.parts[0].kind, PartKind::Header);
    assert_eq!((layout.parts[1].kind, layout.parts[1].length), (PartKind::Free, (64 << 10) - PAGE_BYTES));
}

#[test]
fn every_blob_is_where_it_is_and_dead_once_it_is_removed() {
    let store = Store::temporary().unwrap();
    let blobs = put_all(&store);
    let before = layout(&store);
    assert_eq!(before.bytes(PartKind::Live), sizes().iter().map(|&size| place(size as u64)).sum::<u64>());
    assert_eq!(before.bytes(PartKind::Dead), 0);
    assert_eq!(before.bytes(PartKind::Unknown), 0);
    assert!(blobs.iter().all(|(_, blob)| kind_of(&before, blob) == PartKind::Live));

    let is_removed = |number: usize| number % 3 == 1;
    for (_, (put, _)) in blobs.iter().enumerate().filter(|(number, _)| is_removed(*number)) {
        store.dereference(&put.digest).unwrap();
    }
    let after = layout(&store);
    let (mut live, mut dead) = (0, 0);
    for (number, (put, blob)) in blobs.iter().enumerate() {
        let kind = if is_removed(number) { PartKind::Dead } else { PartKind::Live };
        assert_eq!(kind_of(&after, blob), kind, "{} bytes", put.size);
        *(if is_removed(number) { &mut dead } else { &mut live }) += place(put.size);
    }
    assert_eq!((after.bytes(PartKind::Live), after.bytes(PartKind::Dead)), (live, dead));
    assert_eq!(after.bytes(PartKind::Unknown), 0);
}

#[test]
fn a_compaction_leaves_nothing_dead_and_the_same_blobs() {
    let store = Store::temporary().unwrap();
    let blobs = put_all(&store);
    for (put, _) in blobs.iter().step_by(2) {
        store.dereference(&put.digest).unwrap();
    }
    drop(blobs);
    store.compact().unwrap();
    let compacted = layout(&store);
    assert_eq!((compacted.bytes(PartKind::Dead), compacted.bytes(PartKind::Unknown)), (0, 0));
    let kept: Vec<Descriptor> = store.descriptors().map(|blob| blob.unwrap()).collect();
    let frames: u64 = kept.iter().map(|blob| (64 + blob.size).next_multiple_of(64)).sum();
    let large = kept.iter().filter(|blob| blob.size >= LARGE).count() as u64;
    assert!((frames..=frames + 2 * large * PAGE_BYTES).contains(&compacted.bytes(PartKind::Live)));
    // Large blobs that were packed one behind the other share pages; a removed one takes what is its own.
    let held: Vec<Blob> = kept.iter().map(|blob| store.get(&blob.digest).unwrap()).collect();
    for (number, gone) in kept.iter().enumerate() {
        store.dereference(&gone.digest).unwrap();
        let now = layout(&store);
        for (other, blob) in held.iter().enumerate() {
            let kind = if other <= number { PartKind::Dead } else { PartKind::Live };
            assert_eq!(kind_of(&now, blob), kind);
        }
        assert_eq!(now.bytes(PartKind::Unknown), 0);
    }
}

#[test]
fn names_are_live_until_they_are_removed() {
    let store = Store::temporary().unwrap();
    let blob = put_all(&store)[5].0;
    let before = layout(&store);
    store.set_name(&"library/alpine:3.20".parse().unwrap(), &blob.digest).unwrap();
    let named = layout(&store);
    assert_eq!(named.bytes(PartKind::Live) - before.bytes(PartKind::Live), 128);
    store.remove_name(&"library/alpine:3.20".parse().unwrap()).unwrap();
    let after = layout(&store);
    assert_eq!((after.bytes(PartKind::Dead), after.bytes(PartKind::Unknown)), (128 + place(1000), 0));
}

#[test]
fn the_layout_is_the_same_for_a_reader_whether_there_is_a_writer_or_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.pack");
    let store = Store::options().create_new(true).open(&path).unwrap();
    let blobs = put_all(&store);
    store.dereference(&blobs[5].0.digest).unwrap();
    let reader = Store::options().read_only(true).open(&path).unwrap();
    assert_eq!(layout(&reader), layout(&store));
    drop(blobs);
    store.close().unwrap();
    // The same handle now, and one that begins without a writer.
    let expected = layout(&reader);
    let later = Store::options().read_only(true).open(&path).unwrap();
    assert_eq!(layout(&later), expected);
    assert_eq!((expected.bytes(PartKind::Unknown), expected.bytes(PartKind::Dead)), (0, place(1000)));
}

#[test]
fn an_open_writers_bytes_are_unknown_and_a_cancelled_ones_free() {
    use std::io::Write;
    let store = Store::temporary().unwrap();
    let mut writer = store.writer(blobpack::Algorithm::Sha256).unwrap();
    writer.write_all(&content(1, 10 << 20)).unwrap();
    let during = layout(&store);
    let written = during.bytes(PartKind::Unknown);
    assert!((1 << 20..=10 << 20).contains(&written), "{written}: what was handed on to the file");
    writer.cancel().unwrap();
    let after = layout(&store);
    assert_eq!((after.bytes(PartKind::Unknown), after.bytes(PartKind::Dead)), (0, 0));
}

#[test]
fn every_flipped_byte_of_the_index_and_the_heads_gives_an_error_or_a_layout_that_adds_up() {
    let bytes = whole(&std::fs::read(golden("v1.pack.sparse")).unwrap());
    let mut shown = 0;
    for at in (0..bytes.len()).step_by(4001).filter(|&at| bytes[at] != 0) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        let directory = inserted(changed, 1 << 30);
        let Ok(store) = open_simulated(&directory, &small(), blobpack::store::How::Open) else { continue };
        match store.layout() {
            Ok(layout) => {
                check(&layout);
                shown += 1;
            }
            Err(error) => assert!(error.is_damage(), "{at}: {error}"),
        }
    }
    assert!(shown > 5, "{shown}");
}

#[test]
fn blobs_of_a_damaged_segment_are_unknown_not_dead() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.pack");
    let store = Store::options().create_new(true).open(&path).unwrap();
    let blobs: Vec<_> = (0..500).map(|seed| store.put(&content(seed, 500)).unwrap()).collect();
    store.dereference(&blobs[7].digest).unwrap();
    store.close().unwrap();
    let reader = Store::options().read_only(true).open(&path).unwrap();
    let sound = layout(&reader);
    drop(reader);
    // The first record of some segment: a slot that holds the length of one of these blobs.
    let mut bytes = std::fs::read(&path).unwrap();
    let index: Vec<_> = sound.parts.iter().filter(|part| part.kind == PartKind::Index).collect();
    let is_record = |at: usize| bytes[at + 16..at + 24] == 500_u64.to_le_bytes() && bytes[at..at + 8] != [0; 8];
    let slot = index
        .iter()
        .flat_map(|part| (part.offset as usize..(part.offset + part.length) as usize).step_by(64))
        .rfind(|&at| is_record(at))
        .unwrap();
    bytes[slot + 24] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let reader = Store::options().read_only(true).open(&path).unwrap();
    let damaged = reader.layout().unwrap();
    check(&damaged);
    assert_eq!(damaged.damaged_segments, 1);
    assert!(damaged.bytes(PartKind::Unknown) > 0);
    let blobs = |layout: &Layout| {
        [PartKind::Live, PartKind::Dead, PartKind::Unknown].iter().map(|&kind| layout.bytes(kind)).sum::<u64>()
    };
    assert_eq!(blobs(&damaged), blobs(&sound));
    assert!(damaged.bytes(PartKind::Dead) <= sound.bytes(PartKind::Dead));
    assert_eq!(damaged.bytes(PartKind::Index), sound.bytes(PartKind::Index));
}

#[test]
fn a_file_that_is_cut_off_behind_its_checkpoint_still_adds_up() {
    let bytes = whole(&std::fs::read(golden("v1.pack.sparse")).unwrap());
    for cut in (1..bytes.len()).rev().step_by(4099) {
        let directory = inserted(bytes[..cut].to_vec(), 1 << 30);
        if let Ok(store) = open_simulated(&directory, &small(), blobpack::store::How::Open) {
            check(&store.layout().unwrap());
        }
    }
}

/// What the estimate says of the freed bytes is at most 2 % of the new file, or 64 KiB, beside the truth.
#[track_caller]
fn estimate_holds(store: &Store) {
    let estimate = store.compaction_estimate().unwrap();
    let done = store.compact().unwrap();
    // A file system may take a block more for itself when it writes back.
    assert!(estimate.before_bytes.abs_diff(done.before_bytes) <= 64 << 10, "{estimate:?} {done:?}");
    let most = (done.after_bytes / 50).max(64 << 10);
    assert!(estimate.after_bytes.abs_diff(done.after_bytes) <= most, "{estimate:?} {done:?}");
    assert!(estimate.freed_bytes.abs_diff(done.freed_bytes) <= most + (64 << 10), "{estimate:?} {done:?}");
}

#[test]
fn the_estimate_of_a_compaction_comes_true() {
    // Small, awkward for chunks, large, many records; links too.
    for (blobs, size) in [(0, 0), (1, 10), (300, 60_000), (40, 65_536), (12, 1_000_001), (6_000, 40)] {
        let store = Store::temporary().unwrap();
        let mut batch = store.batch();
        let stored: Vec<_> = (0..blobs).map(|seed| batch.put(&content(seed, size)).unwrap()).collect();
        for pair in stored.windows(2).step_by(3) {
            batch.link(&pair[0], &pair[1]);
        }
        for (number, digest) in stored.iter().enumerate().skip(1).step_by(5) {
            batch.reference(digest);
            batch.set_name(&format!("a name of number {number}").parse().unwrap(), digest);
        }
        batch.commit().unwrap();
        estimate_holds(&store);
        for digest in stored.iter().skip(2).step_by(3) {
            store.dereference(digest).unwrap();
        }
        let reader = Store::options().read_only(true).open(store.path()).unwrap();
        let [told, expected] = [&reader, &store].map(|store| store.compaction_estimate().unwrap().after_bytes);
        assert_eq!(told, expected);
        estimate_holds(&store);
        estimate_holds(&store);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(usize),
    Drop(usize),
    Checkpoint,
    Compact,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => prop_oneof![0_usize..3000, 65_000_usize..70_000, 0_usize..300_000].prop_map(Step::Put),
        6 => any::<usize>().prop_map(Step::Drop),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Compact),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn random_histories_have_a_layout_that_knows_every_byte(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.pack");
        let options = small().durability(blobpack::Durability::Process);
        let mut store = Some(options.open(&path).unwrap());
        let mut stored = Vec::new();
        let (mut seed, mut dead) = (0, 0);
        for step in steps {
            let now = store.as_ref().unwrap();
            match step {
                Step::Put(size) => {
                    seed += 1;
                    stored.push(now.put(&content(seed, size)).unwrap());
                }
                Step::Drop(at) if !stored.is_empty() => {
                    let gone: Descriptor = stored.swap_remove(at % stored.len());
                    dead += now.dereference(&gone.digest).unwrap().reclaimable_bytes();
                }
                Step::Drop(_) => {}
                Step::Checkpoint => now.checkpoint().unwrap(),
                Step::Compact => {
                    estimate_holds(now);
                    dead = 0;
                }
                Step::Reopen => {
                    drop(store.take());
                    store = Some(options.open(&path).unwrap());
                }
            }
            let now = store.as_ref().unwrap();
            let layout = layout(now);
            prop_assert_eq!(layout.bytes(PartKind::Unknown), 0);
            prop_assert_eq!(layout.bytes(PartKind::Header), 4 * PAGE_BYTES);
            let frames: u64 = stored.iter().map(|blob| (64 + blob.size).next_multiple_of(64)).sum();
            let large = stored.iter().filter(|blob| blob.size >= LARGE).count() as u64;
            let live = layout.bytes(PartKind::Live);
            prop_assert!((frames..=frames + 2 * large * PAGE_BYTES).contains(&live), "{} of {}", live, frames);
            // The counter takes a page for each large blob, wherever it lies.
            let counted = layout.bytes(PartKind::Dead);
            prop_assert!(counted.abs_diff(dead) <= 2 * PAGE_BYTES * (seed + 1), "{} of {}", counted, dead);
            prop_assert_eq!(counted == 0, dead == 0);
        }
    }
}
