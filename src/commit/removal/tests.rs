//! What removals in parts leave behind.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::commit::Tuning;
use crate::commit::in_flight::Current;
use crate::format::{Entry, Kind};
use crate::medium::{Action, Sim, SimDirectory, Step};
use crate::store::{How, Store};

/// A pack with a blob that links to twenty, after a checkpoint, so that the newest superblock names the whole index.
fn tree(durability: Durability) -> (SimDirectory, Store<Sim>, Digest) {
    let directory = SimDirectory::new(64 << 20);
    let tuning = Tuning { removal_images: 6, ..Tuning::default() };
    let options = Store::options().durability(durability).tuning(tuning);
    let store = options.create_in(directory.create("a.pack").unwrap()).unwrap().unwrap();
    let mut batch = store.batch();
    let root = batch.put(b"root").unwrap();
    for byte in 0..20 {
        let leaf = batch.put(&[byte; 10]).unwrap();
        batch.link(&leaf, &root);
    }
    batch.commit().unwrap();
    store.checkpoint().unwrap();
    (directory, store, root)
}

#[test]
fn a_removal_in_parts_is_one_commit_as_durable_as_others_are() {
    for durability in [Durability::PowerLoss, Durability::Process] {
        let (_, store, root) = tree(durability);
        let pack = store.shared().pack();
        let writer = pack.writer().unwrap();
        let acknowledged = || writer.source().view().word(live::ACKNOWLEDGED).unwrap();
        let (before, commits) = (lock(&writer.state).durable_upto, store.stats().unwrap().commits);
        assert_eq!(store.dereference(&root).unwrap().blobs(), 21);
        let state = lock(&writer.state);
        assert_eq!(state.counters.commits, commits + 1);
        let durable = if durability == Durability::PowerLoss { state.tail.at } else { before };
        assert_eq!((state.durable_upto, acknowledged()), (durable, state.tail.at.0), "{durability:?}");
        assert_eq!(state.tail.chunk_end - state.tail.chunk.0, 128 << 10, "no more of the log is taken than it needs");
    }
}

#[test]
fn a_removal_in_parts_leaves_what_is_kept_for_small_ones() {
    let (directory, store, root) = tree(Durability::PowerLoss);
    let pack = store.shared().pack();
    let writer = pack.writer().unwrap();
    directory.set_capacity(directory.used());
    let reserve = writer.settings.tuning.reserve_segments;
    while lock(&writer.space).promise(writer.medium.as_ref(), 1, reserve).is_ok() {}
    assert!(matches!(store.dereference(&root), Err(Error::NoSpace { .. })));
    assert_eq!(store.stats().unwrap().blobs, 21);
}

#[test]
fn the_blob_that_a_name_keeps_goes_in_parts_too() {
    let (_, store, root) = tree(Durability::PowerLoss);
    let name = Name::new("a").unwrap();
    store.set_name(&name, &root).unwrap();
    assert_eq!(store.remove_name(&name).unwrap().blobs(), 21);
    assert_eq!((store.stats().unwrap().blobs, store.stats().unwrap().names), (0, 0));
}

/// What setting this name to a blob came to, where the writer is asked.
fn set(store: &Store<Sim>, name: &Name, digest: &Digest, in_parts: bool) -> Removed {
    let (pack, mut operations) = (store.shared().pack(), Operations::default());
    let writer = pack.writer().unwrap();
    operations.set_name(writer.source().tagger(), name, digest);
    let done = if in_parts { writer.remove_in_parts(operations) } else { writer.commit(operations) };
    match done.unwrap().ok().unwrap().as_slice() {
        [Done::Removed(removed)] => removed.clone(),
        _ => unreachable!("one operation was asked for"),
    }
}

#[test]
fn what_had_a_name_goes_in_parts_when_another_blob_gets_it() {
    let (_, store, root) = tree(Durability::PowerLoss);
    let name = Name::new("a").unwrap();
    store.set_name(&name, &root).unwrap();
    let other = store.put(b"other").unwrap().digest;
    let removed = set(&store, &name, &other, false);
    assert_eq!(removed.blobs(), 21);
    assert!(removed.listed_in.len() > 2, "in {} parts", removed.listed_in.len());
    assert_eq!((store.name(&name).unwrap(), store.stats().unwrap().blobs), (other, 1));
    assert!(store.verify().unwrap().damage.is_empty());
}

/// It was there when the removal was decided.
#[test]
fn a_name_that_another_caller_has_removed_meanwhile_is_a_new_one() {
    let (_, store, root) = tree(Durability::PowerLoss);
    let name = Name::new("a").unwrap();
    assert_eq!(set(&store, &name, &root, true), Removed::default());
    assert_eq!((store.name(&name).unwrap(), store.stats().unwrap().blobs), (root, 21));
    assert!(store.verify().unwrap().damage.is_empty());
}

#[test]
fn a_batch_of_removals_is_never_done_in_parts() {
    let (_, store, root) = tree(Durability::PowerLoss);
    let other = store.put(b"another").unwrap().digest;
    let mut batch = store.batch();
    batch.dereference(&root).dereference(&other);
    assert_eq!(batch.commit().unwrap().len(), 2);
    assert_eq!(store.stats().unwrap().blobs, 0);
}

/// The older superblock is what is left where a power cut takes the newer one.
#[test]
fn what_a_removal_in_parts_replaces_is_kept_as_long_as_a_superblock_names_it() {
    let (_, store, root) = tree(Durability::PowerLoss);
    let pack = store.shared().pack();
    let writer = pack.writer().unwrap();
    let view = writer.source().view();
    let named = Entry::unpack(view.word(view.live().directory).unwrap()).segment;
    store.dereference(&root).unwrap();
    store.checkpoint().unwrap();
    let mut space = lock(&writer.space);
    for _ in 0..500 {
        assert_ne!(space.take_segment(writer.medium.as_ref()).unwrap().0.offset, named);
    }
}

#[test]
fn the_anchor_of_names_is_looked_for_where_it_is() {
    let (_, store, root) = tree(Durability::PowerLoss);
    store.set_name(&Name::new("a").unwrap(), &root).unwrap();
    let source = store.shared().source();
    let view = source.view();
    let hidden = Hidden { view: &view };
    let anchor = Neighbour { id: Offset::NONE, tag: hidden.anchor_tag() };
    assert!(hidden.name_at(anchor).unwrap().is_some());
}

#[test]
fn a_frame_whose_blob_has_come_back_elsewhere_is_no_blob() {
    let (_, store, _) = tree(Durability::PowerLoss);
    let digest = store.put(b"a blob").unwrap().digest;
    let pack = store.shared().pack();
    let source = pack.writer().unwrap().source();
    let first = source.view().blob_record(&digest).unwrap().unwrap();
    assert_eq!(Hidden { view: &source.view() }.blob_by_id(first.id).unwrap(), (first, digest));
    store.dereference(&digest).unwrap();
    store.put(b"a blob").unwrap();
    let again = source.view().blob_record(&digest).unwrap().unwrap();
    assert_eq!(Hidden { view: &source.view() }.blob_by_id(again.id).unwrap(), (again, digest));
    Hidden { view: &source.view() }.blob_by_id(first.id).unwrap_err();
    let state = lock(&pack.writer().unwrap().state);
    Current::new(&state, source).blob_by_id(first.id).unwrap_err();
}

/// What was decided before another removal or link came first: a refusal, of which nothing stays.
#[test]
fn a_removal_in_parts_that_is_refused_after_all_is_not_the_writers_end() {
    let (_, store, root) = tree(Durability::PowerLoss);
    let other = store.put(b"other").unwrap().digest;
    let pack = store.shared().pack();
    let again = || pack.writer().unwrap().remove_in_parts(Operation::Dereference(root).into());
    store.link(&root, &other).unwrap();
    assert!(matches!(again(), Err(Error::NoSpareReference { .. })));
    store.unlink(&root, &other).unwrap();
    assert!(matches!(again(), Err(Error::NotFound { .. })));
    store.put(b"another").unwrap();
    assert_eq!(store.stats().unwrap().blobs, 2);
    assert!(store.verify().unwrap().damage.is_empty());
}

#[test]
fn damage_that_a_removal_meets_is_an_error_with_nothing_changed() {
    for durability in [Durability::PowerLoss, Durability::Process] {
        let (_, store, root) = tree(durability);
        let pack = store.shared().pack();
        let writer = pack.writer().unwrap();
        // The oldest link is met last, several parts later. Its blob's header rots.
        let leaf = Digest::of(crate::digest::Algorithm::Sha256, &[0; 10]);
        let id = writer.source().view().blob_record(&leaf).unwrap().unwrap().id;
        let rotten = Offset(id.0 + 40);
        let mut bytes = [0; 4];
        writer.medium.read_at(rotten, &mut bytes).unwrap();
        writer.medium.write_at(rotten, &[&bytes.map(|byte| !byte)], false).unwrap();
        let tail = lock(&writer.state).tail.at;
        assert!(matches!(store.dereference(&root), Err(Error::Damaged(_))));
        assert_eq!(lock(&writer.state).tail.at, tail);
        writer.medium.write_at(rotten, &[&bytes], false).unwrap();
        store.put(b"another").unwrap();
        assert!(store.verify().unwrap().damage.is_empty());
        assert_eq!(store.dereference(&root).unwrap().blobs(), 21);
        assert!(store.verify().unwrap().damage.is_empty());
    }
}

/// A large blob had the place of a chunk that such a removal had begun, or one behind it. After a kill, what was left
/// of the removal led there, and the blob was said to be dropped, though it was not.
#[test]
fn what_a_removal_that_comes_to_nothing_has_written_is_not_found_again() {
    let mut chunks = 0;
    for fill in (90_000..100_000).step_by(200) {
        let (directory, store, root) = tree(Durability::PowerLoss);
        store.put(&vec![1; 50_000]).unwrap();
        store.put(&vec![2; fill - 50_000]).unwrap();
        store.checkpoint().unwrap();
        let pack = store.shared().pack();
        let writer = pack.writer().unwrap();
        let leaf = Digest::of(crate::digest::Algorithm::Sha256, &[0; 10]);
        let rotten = Offset(writer.source().view().blob_record(&leaf).unwrap().unwrap().id.0 + 40);
        let mut bytes = [0; 4];
        writer.medium.read_at(rotten, &mut bytes).unwrap();
        writer.medium.write_at(rotten, &[&bytes.map(|byte| !byte)], false).unwrap();
        directory.record(true);
        assert!(matches!(store.dereference(&root), Err(Error::Damaged(_))));
        writer.medium.write_at(rotten, &[&bytes], false).unwrap();
        let is_chunk = |step: &Step| match &step.action {
            Action::Write { bytes, .. } => bytes.len() == 64 && bytes[8] == Kind::Chunk as u8,
            _ => false,
        };
        chunks += directory.steps().iter().filter(|step| is_chunk(step)).count();
        let large = store.put(&vec![3; 70_000]).unwrap().digest;
        let killed = SimDirectory::new(64 << 20);
        killed.insert("a.pack", directory.bytes("a.pack").unwrap());
        let again = Store::options().open_in(killed.open("a.pack", true).unwrap(), How::Open).unwrap().unwrap();
        assert!(again.contains(&large).unwrap());
        assert_eq!((again.recovery().dropped_blobs, again.recovery().dropped_commits), (vec![], 0), "{fill}");
    }
    assert!(chunks > 2, "{chunks}");
}
