//! When checkpoints are due, what they sync, and what they promise to batches on their way.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::batch::Operation;
use crate::medium::{Action, Sim, SimDirectory};
use crate::store::Store;

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
