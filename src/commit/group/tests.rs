//! Who leads, who is woken, and what they are told, by one thread: batches are decided by hand, who waits is made up.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::batch::Operation;
use crate::digest::Digest;
use crate::medium::{Fault, Sim, SimDirectory};
use crate::pack::Pack;
use crate::store::Store;

/// A pack with one blob.
struct Rig {
    directory: SimDirectory,
    store: Store<Sim>,
    pack: Arc<Pack<Sim>>,
    digest: Digest,
}

impl Rig {
    fn new() -> Rig {
        let directory = SimDirectory::new(64 << 20);
        let store = Store::options().create_in(directory.create("a.pack").unwrap()).unwrap().unwrap();
        let digest = store.put(b"a blob").unwrap().digest;
        let pack = store.shared().pack();
        Rig { directory, store, pack, digest }
    }

    fn writer(&self) -> &Writer<Sim> {
        self.pack.writer().unwrap()
    }

    /// Decides to take a reference: a batch that nobody leads yet. Its ticket.
    fn decided(&self) -> u64 {
        let mut operations = Operation::Reference(self.digest).into();
        let decided = self.writer().decide(&mut lock(&self.writer().state), &mut operations);
        decided.unwrap().unwrap().0
    }

    fn waits_for(&self, ticket: u64) -> Arc<Waiter> {
        let waiter = Arc::<Waiter>::default();
        lock(&self.writer().state).waiting.push((ticket, waiter.clone()));
        waiter
    }

    fn done(&self) -> u64 {
        self.writer().done.load(Ordering::Acquire)
    }
}

impl Waiter {
    fn is_woken(&self) -> bool {
        *lock(&self.woken)
    }
}

fn an_error() -> Error {
    Error::io("sync the index", "a.pack".as_ref(), std::io::Error::from_raw_os_error(5))
}

#[test]
fn a_group_wakes_its_own_and_one_more_to_lead_the_next() {
    let rig = Rig::new();
    let first = rig.decided();
    let second = rig.decided();
    // As if the second had been decided while the first was on its way.
    let later = lock(&rig.writer().state).pending.pop().unwrap();
    let told = rig.waits_for(first);
    let waiting = [rig.waits_for(second), rig.waits_for(second)];
    rig.writer().wait_for(first).unwrap();
    assert_eq!((rig.done(), told.is_woken()), (first, true));
    assert_eq!(waiting.iter().filter(|waiter| waiter.is_woken()).count(), 1);
    assert_eq!(lock(&rig.writer().state).waiting.len(), 1);
    lock(&rig.writer().state).pending.push(later);
    rig.writer().wait_for(second).unwrap();
    assert!(waiting.iter().all(|waiter| waiter.is_woken()));
    assert_eq!((rig.done(), lock(&rig.writer().state).waiting.len()), (second, 0));
    assert_eq!(rig.store.descriptor(&rig.digest).unwrap().ref_count, 3);
}

#[test]
fn whoever_finds_the_writer_poisoned_wakes_all_others() {
    let rig = Rig::new();
    let ticket = rig.decided();
    let waiting = [ticket, ticket, ticket].map(|ticket| rig.waits_for(ticket));
    rig.writer().poison(&an_error());
    assert!(matches!(rig.writer().wait_for(ticket), Err(Error::Poisoned { .. })));
    assert!(waiting.iter().all(|waiter| waiter.is_woken()));
}

#[test]
fn nothing_is_written_after_the_writer_was_poisoned() {
    let rig = Rig::new();
    rig.decided();
    rig.directory.record(true);
    let steps = rig.directory.step_count();
    rig.writer().poison(&an_error());
    // As if a checkpoint had failed after the leader had looked.
    assert!(matches!(rig.writer().lead(lock(&rig.writer().state)), Err(Error::Poisoned { .. })));
    assert_eq!(rig.directory.step_count(), steps);
}

#[test]
fn a_group_that_fails_is_not_done_and_wakes_all() {
    for calls in 0.. {
        let rig = Rig::new();
        let ticket = rig.decided();
        let waiting = [rig.waits_for(ticket), rig.waits_for(ticket)];
        rig.directory.fail_step(calls, Fault::Io);
        let result = rig.writer().wait_for(ticket);
        if rig.directory.clear_fault() {
            result.unwrap();
            assert!(calls > 2, "it takes several calls");
            break;
        }
        result.unwrap_err();
        assert!(rig.done() < ticket && !lock(&rig.writer().state).leading);
        // The first to wake wakes the others.
        assert!(matches!(rig.writer().wait_for(ticket), Err(Error::Poisoned { .. })));
        assert!(waiting.iter().all(|waiter| waiter.is_woken()));
        rig.writer().pause_commits(false, |_| unreachable!("something is on its way for ever")).unwrap_err();
    }
}

#[test]
fn a_pause_leads_what_is_on_its_way() {
    let rig = Rig::new();
    let ticket = rig.decided();
    assert!(rig.writer().pause_commits(false, |_| Ok(false)).unwrap());
    assert_eq!(rig.done(), ticket);
    assert!(!lock(&rig.writer().state).pausing);
}

#[test]
fn a_pack_that_was_poisoned_while_a_compaction_waited_is_not_replaced() {
    let rig = Rig::new();
    rig.writer().poison(&an_error());
    let replaced = rig.writer().pause_commits(true, |_| unreachable!("what is in the file is not known"));
    assert!(matches!(replaced, Err(Error::Poisoned { .. })));
    // To look is always allowed.
    assert!(rig.writer().pause_commits(false, |_| Ok(false)).unwrap());
}
