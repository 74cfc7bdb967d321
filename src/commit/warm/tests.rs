#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::commit::lock;
use crate::digest::Digest;
use crate::medium::{Sim, SimDirectory};
use crate::store::Store;

fn store() -> Store<Sim> {
    Store::options().create_in(SimDirectory::new(64 << 20).create("a.pack").unwrap()).unwrap().unwrap()
}

/// Puts, references, and what gives them up, of new blobs and of stored ones.
fn batch(store: &Store<Sim>, blobs: u32) -> Vec<Digest> {
    let mut batch = store.batch();
    let digests: Vec<Digest> = (0..blobs).map(|number| batch.put(&number.to_le_bytes()).unwrap()).collect();
    for digest in digests.iter().step_by(2) {
        batch.reference(digest).dereference(digest);
    }
    batch.commit().unwrap();
    digests
}

#[test]
fn large_batches_come_to_what_small_ones_do() {
    let blobs = if cfg!(miri) { 12 } else { 300 };
    assert!(blobs as usize > OPERATIONS_MIN);
    let (at_once, one_by_one) = (store(), store());
    for round in 1..=3 {
        let digests = batch(&at_once, blobs);
        for (number, digest) in (0u32..).zip(&digests) {
            assert_eq!(one_by_one.put(&number.to_le_bytes()).unwrap().digest, *digest);
            assert_eq!(at_once.descriptor(digest).unwrap(), one_by_one.descriptor(digest).unwrap());
            assert_eq!(at_once.descriptor(digest).unwrap().ref_count, round);
        }
        at_once.checkpoint().unwrap();
    }
}

#[test]
fn whoever_goes_ahead_prepares_what_is_stored_into_and_nothing_frozen() {
    let store = store();
    let digests = batch(&store, 40);
    let pack = store.shared().pack();
    let writer = pack.writer().unwrap();
    let mut tags: Vec<u64> = digests.iter().map(|digest| pack.source().tagger().of_blob(digest)).collect();
    tags.extend([0, 1, u64::MAX]);
    let prepared = |over| {
        let before = writer.medium().prepared().len();
        writer.go_ahead(&tags, &AtomicBool::new(over));
        writer.medium().prepared().split_off(before)
    };
    let born = lock(&writer.applied).table.born();
    let segments: Vec<_> = tags.iter().filter_map(|&tag| pack.source().view().born_segment(tag, born)).collect();
    assert!(segments.len() >= 40);
    assert_eq!(prepared(false), segments);
    assert_eq!(prepared(true), [], "the work is over");
    let applied = lock(&writer.applied);
    assert_eq!(prepared(false), [], "whoever has this may freeze them at any moment");
    drop(applied);
    store.checkpoint().unwrap();
    assert_eq!(prepared(false), []);
}
