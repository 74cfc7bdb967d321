//! Who leads, who is woken, and what they are told, by one thread: batches are decided by hand, who waits is made up.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::batch::Operation;
use crate::commit::Tuning;
use crate::digest::Digest;
use crate::medium::{Action, Fault, Sim, SimDirectory};
use crate::pack::Pack;
use crate::record::CountersNow;
use crate::space::Region;
use crate::store::Store;
use crate::sync::AtomicBool;

/// A pack with one blob.
struct Rig {
    directory: SimDirectory,
    store: Store<Sim>,
    pack: Arc<Pack<Sim>>,
    digest: Digest,
}

impl Rig {
    fn new() -> Rig {
        Rig::with(Durability::PowerLoss)
    }

    fn with(durability: Durability) -> Rig {
        let directory = SimDirectory::new(64 << 20);
        let options = Store::options().durability(durability);
        let store = options.create_in(directory.create("a.pack").unwrap()).unwrap().unwrap();
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
fn readers_of_a_poisoned_writer_have_an_index_of_the_log() {
    let rig = Rig::new();
    assert!(!rig.writer().source().view().is_private());
    rig.writer().poison(&an_error());
    assert!(rig.writer().source().view().is_private());
    assert_eq!(&*rig.store.get(&rig.digest).unwrap(), b"a blob");
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
        rig.writer().pause_commits(true, |_| unreachable!("something is on its way for ever")).unwrap_err();
        // To look is always allowed.
        assert!(rig.writer().pause_commits(false, |_| Ok(false)).unwrap());
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

#[test]
fn whoever_waits_goes_on_when_it_is_told() {
    let (waiter, told) = (Waiter::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            waiter.wait();
            told.load(Ordering::Acquire)
        });
        // One that does not wait would be at its end by then.
        std::thread::sleep(std::time::Duration::from_millis(50));
        told.store(true, Ordering::Release);
        waiter.wake();
        assert!(waiting.join().unwrap());
    });
}

#[test]
fn a_group_is_one_write_and_says_how_many_may_come_again() {
    let rig = Rig::new();
    for _ in 0..3 {
        rig.decided();
    }
    rig.directory.record(true);
    rig.writer().lead(lock(&rig.writer().state)).unwrap();
    let writes = rig.directory.steps().into_iter().filter(|step| matches!(step.action, Action::Write { .. }));
    assert_eq!(writes.count(), 1);
    let state = lock(&rig.writer().state);
    assert_eq!((state.callers, state.in_flight.waiting.len()), (3, 0));
}

#[test]
fn a_batch_is_promised_copies_and_growth() {
    let rig = Rig::new();
    rig.store.checkpoint().unwrap();
    rig.decided();
    let state = lock(&rig.writer().state);
    let space = lock(&rig.writer().space);
    let growth = space.usual_growth(1, 0).0;
    assert_eq!(state.pending[0].promised, space.copies_needed(1) + growth, "{growth}");
}

#[test]
fn what_is_durable_is_known_where_commits_are_synced() {
    for durability in [Durability::PowerLoss, Durability::Process] {
        let rig = Rig::with(durability);
        let before = lock(&rig.writer().state).durable_upto;
        rig.writer().wait_for(rig.decided()).unwrap();
        let state = lock(&rig.writer().state);
        let synced = durability == Durability::PowerLoss;
        assert_eq!(state.durable_upto, if synced { state.tail.at } else { before }, "{durability:?}");
    }
}

#[test]
fn promises_that_a_checkpoint_made_end_with_the_batches_that_it_overtook() {
    let rig = Rig::new();
    let ticket = rig.decided();
    lock(&rig.writer().state).overtaken.extend([(ticket, 0), (ticket + 1, 0)]);
    rig.writer().wait_for(ticket).unwrap();
    assert_eq!(lock(&rig.writer().state).overtaken, [(ticket + 1, 0)]);
}

#[test]
fn what_happens_to_the_index_is_counted() {
    let rig = Rig::new();
    rig.store.checkpoint().unwrap();
    let before = rig.writer().events().copies;
    rig.writer().wait_for(rig.decided()).unwrap();
    assert_eq!(rig.writer().events().copies, before + 1);
}

#[test]
fn what_is_full_begins_its_way_to_the_disk_where_commits_are_not_synced() {
    for durability in [Durability::PowerLoss, Durability::Process] {
        let directory = SimDirectory::new(64 << 20);
        let tuning = Tuning { chunk_bytes: 64 << 10, ..Tuning::default() };
        let options = Store::options().durability(durability).tuning(tuning);
        let store = options.create_in(directory.create("a.pack").unwrap()).unwrap().unwrap();
        let pack = store.shared().pack();
        let writer = pack.writer().unwrap();
        let mut full = Vec::new();
        let digest = store.put(b"a blob").unwrap().digest;
        for _ in 0..1000 {
            let (_, before) = writer.totals();
            store.reference(&digest).unwrap();
            if writer.totals().1.chunk != before.chunk {
                full.push((Offset(before.at.0 - (64 << 10)), 64 << 10));
            }
        }
        assert!(full.len() > 2);
        let synced = durability == Durability::PowerLoss;
        assert_eq!(writer.medium().written_back(), if synced { Vec::new() } else { full }, "{durability:?}");
        // As while a checkpoint is at work.
        let (begun, checkpoint) = (writer.medium().written_back(), lock(&writer.superblocks));
        (0..1000).for_each(|_| assert!(store.reference(&digest).is_ok()));
        assert_eq!(writer.medium().written_back(), begun, "{durability:?}");
        drop(checkpoint);
    }
}

/// How many zeros are written where, with a group that uses so much of a chunk of 1,600 bytes.
fn zeros_ahead<M: Medium>(store: &Store<M>, begins_chunk: bool, used: u64) -> Option<(u64, usize)> {
    let none = Offset::NONE;
    let mut tail = Tail { epoch: 1, chunk: none, chunk_end: 0, at: none, commit: none, commit_checksum: 0 };
    let head = tail.begin_chunk(1, Region { offset: Offset(1000), bytes: 1600 });
    tail.at = Offset(1000 + used);
    let (images, digests, names, counters) = (Vec::new(), Vec::new(), Vec::new(), CountersNow::default());
    let group = [Pending {
        ticket: 1,
        heads: if begins_chunk { vec![(tail.chunk, head)] } else { Vec::new() },
        arena: Arena::default(),
        frames: Vec::new(),
        commit: (tail.chunk, Vec::new()),
        outcome: Arc::new(Outcome { images, digests, names, counters }),
        tail,
        promised: 0,
    }];
    let pack = store.shared().pack();
    let (at, zeros) = pack.writer().unwrap().room_ahead(&group)?;
    assert!(zeros.iter().all(|byte| *byte == 0));
    Some((at.0, zeros.len()))
}

#[test]
#[cfg_attr(miri, ignore = "files")]
fn zeros_go_ahead_of_a_small_group_that_begins_a_chunk() {
    let directory = tempfile::tempdir().unwrap();
    let on_disk = |durability| {
        let path = directory.path().join(format!("{durability:?}.pack"));
        Store::options().create_new(true).durability(durability).open(path).unwrap()
    };
    let [durable, fast] = [Durability::PowerLoss, Durability::Process].map(on_disk);
    // On other file systems a block that is written again costs as much as one that is new.
    let in_place = durable.shared().pack().writer().unwrap().medium().overwrites_in_place();
    assert_eq!(zeros_ahead(&durable, true, 100), in_place.then_some((1100, 1500)));
    for (begins_chunk, used) in [(true, 101), (false, 100), (false, 101)] {
        assert_eq!(zeros_ahead(&durable, begins_chunk, used), None, "{begins_chunk} {used}");
    }
    for (begins_chunk, used) in [(true, 100), (true, 101), (false, 100)] {
        assert_eq!(zeros_ahead(&fast, begins_chunk, used), None, "{begins_chunk} {used}");
    }
    assert_eq!(zeros_ahead(&Rig::new().store, true, 100), None, "nobody knows of this medium");
}
