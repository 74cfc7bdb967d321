//! When checkpoints are due, what they sync, and what they promise to batches on their way.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::batch::Operation;
use crate::commit::Tuning;
use crate::medium::{Action, Fault, Sim, SimDirectory};
use crate::store::{How, Store};

fn create(durability: Durability) -> (SimDirectory, Store<Sim>) {
    let directory = SimDirectory::new(64 << 20);
    let options = Store::options().durability(durability);
    let store = options.create_in(directory.create("a.pack").unwrap()).unwrap().unwrap();
    (directory, store)
}

#[test]
fn what_is_left_to_the_next_checkpoint_is_counted_anew() {
    let (_, store) = create(Durability::PowerLoss);
    let pack = store.shared().pack();
    let writer = pack.writer().unwrap();
    writer.count(&mut lock(&writer.state), 2_000_000, 0);
    assert!(writer.is_checkpoint_due(2) && !writer.is_checkpoint_due(3));
    writer.count_anew();
    assert!(!writer.is_checkpoint_due(1));
}

#[test]
fn batches_that_a_checkpoint_overtakes_are_promised_copies() {
    let (_, store) = create(Durability::PowerLoss);
    let digest = store.put(b"a blob").unwrap().digest;
    let pack = store.shared().pack();
    let writer = pack.writer().unwrap();
    let decide = || writer.decide(&mut lock(&writer.state), &mut Operation::Reference(digest).into());
    let (ticket, _) = decide().unwrap().unwrap();
    writer.checkpoint().unwrap();
    assert_eq!(lock(&writer.state).overtaken, [(ticket, 1)], "its segment was new until then");
    let (ticket, _) = decide().unwrap().unwrap();
    writer.wait_for(ticket).unwrap();
    writer.checkpoint().unwrap();
    assert_eq!(lock(&writer.state).overtaken, [], "nothing is on its way");
}

#[test]
fn commits_after_a_checkpoint_name_its_superblock() {
    let (_, store) = create(Durability::PowerLoss);
    let pack = store.shared().pack();
    let writer = pack.writer().unwrap();
    for byte in 0..3 {
        store.put(&[byte]).unwrap();
        store.checkpoint().unwrap();
        assert_eq!(lock(&writer.state).sequence, lock(&writer.superblocks).newest.sequence.get());
    }
}

#[test]
fn a_checkpoint_syncs_the_whole_file_where_commits_did_not_sync_the_log() {
    let [durable, fast] = [Durability::PowerLoss, Durability::Process].map(|durability| {
        let (directory, store) = create(durability);
        store.put(b"a blob").unwrap();
        directory.record(true);
        store.checkpoint().unwrap();
        let steps = directory.steps();
        let whole = steps.iter().filter(|step| step.action == Action::SyncAll).count();
        let ranged = steps.iter().filter(|step| matches!(step.action, Action::SyncRange { .. })).count();
        (whole, ranged)
    });
    assert_eq!((durable.0, fast.0), (0, 1));
    assert!(durable.1 > fast.1, "ranges of the index are in it: {durable:?} {fast:?}");
}

#[test]
fn what_a_checkpoint_beside_commits_can_do_before_is_done() {
    let directory = SimDirectory::new(64 << 20);
    let limit = 1 << 20;
    let options = Store::options().max_bytes(limit);
    let store = options.create_in(directory.create("a.pack").unwrap()).unwrap().unwrap();
    let pack = store.shared().pack();
    let writer = pack.writer().unwrap();
    let (mut grown, mut left) = (0, 0);
    for number in 0..60_u32 {
        let before = lock(&writer.superblocks).newest.end.get();
        let digest = store.put(&[number.to_le_bytes(); 1 << 10].concat()).unwrap().digest;
        let end = lock(&writer.space).end().0;
        writer.checkpoint_beside_commits().unwrap();
        let expected = writer.medium().reserved().pop().unwrap();
        assert_eq!(expected, (end - before).min(limit - end), "as much as came, within the limit");
        (grown, left) = (grown + u32::from(expected == end - before), left + u32::from(expected != end - before));
        let named = lock(&writer.superblocks).newest.directory.get();
        let live = lock(&writer.applied).table.live();
        assert_ne!(live.directory.0, named, "the next change need not copy it");
        store.reference(&digest).unwrap();
        assert_eq!(lock(&writer.applied).table.live(), live);
        if end + (end - before) > limit {
            break;
        }
    }
    assert!(grown > 1 && left == 1, "{grown}, {left}");
    // Where nothing was committed there is nothing to do, and the copy is not kept.
    let sequence_and_end = || {
        writer.checkpoint_beside_commits().unwrap();
        (lock(&writer.superblocks).newest.sequence.get(), lock(&writer.space).end())
    };
    let first = sequence_and_end();
    assert_eq!([sequence_and_end(), sequence_and_end()], [first; 2]);
}

/// A checkpoint may make the live directory deeper than any batch on its way was promised.
#[test]
fn batches_behind_others_are_promised_the_live_directory_at_least() {
    let (_, store) = create(Durability::PowerLoss);
    let digests: Vec<_> = (0..300_u32).map(|number| store.put(&number.to_le_bytes()).unwrap().digest).collect();
    let pack = store.shared().pack();
    let writer = pack.writer().unwrap();
    let decide = |operation: Operation| writer.decide(&mut lock(&writer.state), &mut operation.into()).unwrap();
    decide(Operation::Reference(digests[0])).unwrap();
    lock(&writer.state).depth_promised = 0;
    let (ticket, _) = decide(Operation::Dereference(digests[1])).unwrap();
    let live = lock(&writer.applied).table.live().depth;
    assert!(live > 0 && lock(&writer.state).depth_promised >= live);
    writer.wait_for(ticket).unwrap();
}

#[test]
fn what_is_committed_while_the_directory_is_copied_is_there_after_the_checkpoint() {
    let tuning = Tuning { slots: 4, ..Tuning::default() };
    let directory = SimDirectory::new(64 << 20);
    let options = Store::options().tuning(tuning);
    let store = options.create_in(directory.create("a.pack").unwrap()).unwrap().unwrap();
    let pack = store.shared().pack();
    let writer = pack.writer().unwrap();
    let mut digests = Vec::new();
    let (mut copied, mut pieces) = (0, 0);
    for round in 0..12_u32 {
        lock(&writer.applied).table.begin_successor(writer.medium().as_ref(), &mut lock(&writer.space)).unwrap();
        for number in 0..40_u32 {
            digests.push(store.put(&(100 * round + number).to_le_bytes()).unwrap().digest);
            pieces += u32::from(number < 36 && writer.copy_piece().unwrap());
        }
        while writer.copy_piece().unwrap() {}
        store.checkpoint().unwrap();
        let named = lock(&writer.superblocks).newest.directory.get();
        copied += u32::from(lock(&writer.applied).table.live().directory.0 != named);
        digests.push(store.put(&(100 * round + 99).to_le_bytes()).unwrap().digest);
    }
    assert!(copied > 3 && pieces > 30, "{copied}, {pieces}");
    // Another process after the end of this one, which made no last checkpoint.
    let after = SimDirectory::new(64 << 20);
    after.insert("a.pack", directory.bytes("a.pack").unwrap());
    let again = Store::options().open_in(after.open("a.pack", true).unwrap(), How::Open).unwrap().unwrap();
    for store in [&store, &again] {
        assert!(digests.iter().all(|digest| store.contains(digest).unwrap()));
        assert_eq!(store.stats().unwrap().blobs, digests.len() as u64);
        assert!(store.verify().unwrap().damage.is_empty());
    }
}

/// The live directory is then one that may be stored into, though no segment is.
#[test]
fn batches_that_overlap_a_checkpoint_after_a_copied_directory_are_promised_another() {
    let (_, store) = create(Durability::PowerLoss);
    let digest = store.put(b"a blob").unwrap().digest;
    let pack = store.shared().pack();
    let writer = pack.writer().unwrap();
    writer.checkpoint_beside_commits().unwrap();
    let free = || lock(&writer.space).secure_directories(writer.medium().as_ref(), PAGE_BYTES, 9);
    while free() > 0 {
        lock(&writer.space).take_directory(writer.medium().as_ref(), PAGE_BYTES).unwrap();
    }
    let (ticket, _) =
        writer.decide(&mut lock(&writer.state), &mut Operation::Dereference(digest).into()).unwrap().unwrap();
    assert_eq!(free(), 0, "it needs none as long as there is no checkpoint");
    writer.checkpoint_unless_poisoned(&mut lock(&writer.superblocks), features::NAMES).unwrap();
    assert_eq!(free(), 3, "two that were made for it, and one that no superblock names any more");
    writer.wait_for(ticket).unwrap();
}

/// It is there only to save time.
#[test]
fn a_full_disk_costs_no_more_than_the_copy_of_the_directory() {
    let (directory, store) = create(Durability::PowerLoss);
    let pack = store.shared().pack();
    let writer = pack.writer().unwrap();
    let mut struck = 0;
    for number in 0..12_u32 {
        store.put(&number.to_le_bytes()).unwrap();
        directory.fail_step((number % 4).into(), Fault::Full);
        writer.copy_directory().unwrap();
        struck += u32::from(!directory.clear_fault());
        writer.give_up_copy();
    }
    assert!(struck > 3, "{struck}");
    store.put(b"a blob").unwrap();
    writer.checkpoint_beside_commits().unwrap();
    assert_eq!(store.stats().unwrap().blobs, 13);
}
