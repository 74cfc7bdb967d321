//! The schedules: a few threads, a few operations each.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock};

use blobpack::commit::Tuning;
use blobpack::format::{IDENTITY_AT, Identity, SUPERBLOCKS_AT, Superblock};
use blobpack::medium::{Fault, Sim, SimDirectory};
use blobpack::store::How;
use blobpack::{Error, OpenOptions, Store};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner, thread};
use zerocopy::{FromBytes, IntoBytes};

use crate::history::{Event, is_linearizable};
use crate::operation::{BLOBS, Operation, digest};

const PACK: &str = "blobs.pack";
const FILE_BYTES_MAX: u64 = 8 << 20;
/// Schedules of each test where the environment does not say.
const SCHEDULES: usize = 400;
/// PCT finds every bug that so many switches make.
const DEPTH: usize = 4;

static EMPTY: OnceLock<Vec<u8>> = OnceLock::new();

thread_local! {
    /// What the schedule of this moment was made from. A test has one thread, whatever shuttle runs on it.
    static SEED: Cell<u64> = const { Cell::new(0) };
    /// The first seed of this run.
    static FIRST: Cell<u64> = const { Cell::new(0) };
}

fn options() -> OpenOptions {
    let tuning = Tuning { slots: 2, chunk_bytes: 64 << 10, checkpoint_images: 9, ..Tuning::default() };
    Store::options().tuning(Tuning { checkpoint_bytes: 1 << 20, reserve_segments: 1, ..tuning })
}

/// An empty pack whose secret is always the same, so that a seed always makes the same index.
fn empty_pack() -> Vec<u8> {
    let directory = SimDirectory::new(FILE_BYTES_MAX);
    let store = options().create_in(directory.create(PACK).unwrap()).unwrap().unwrap();
    store.close().unwrap();
    let mut bytes = directory.bytes(PACK).unwrap();
    let mut identity = Identity::read_from_prefix(&bytes[IDENTITY_AT.0 as usize..]).unwrap().0;
    identity.secret = std::array::from_fn(|at| (at * 97 % 251) as u8);
    let identity = identity.sealed();
    bytes[..size_of::<Identity>()].copy_from_slice(identity.as_bytes());
    for at in SUPERBLOCKS_AT.map(|at| at.0 as usize) {
        let superblock = Superblock::mut_from_prefix(&mut bytes[at..]).unwrap().0;
        if superblock.is_sealed() {
            superblock.identity = identity;
            *superblock = superblock.sealed();
        }
    }
    bytes
}

/// A small generator (xorshift), so that a seed says everything.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, bound: u8) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 32) % u64::from(bound)) as u8
    }

    fn operation(&mut self, links: bool) -> Operation {
        let blob = self.below(BLOBS);
        match self.below(if links { 9 } else { 6 }) {
            0..3 => Operation::Put(blob),
            3 => Operation::Reference(blob),
            4 => Operation::Dereference(blob),
            5 => Operation::Look(blob),
            kind => {
                let from = 1 + self.below(BLOBS - 1);
                let to = self.below(from);
                if kind < 8 { Operation::Link { to, from } } else { Operation::Unlink { to, from } }
            }
        }
    }
}

/// What the threads of one schedule did, with a clock.
#[derive(Default)]
struct Recorder {
    clock: AtomicU64,
    events: Mutex<Vec<Event>>,
}

impl Recorder {
    fn run(&self, operation: Operation, store: &Store<Sim>) {
        let called = self.clock.fetch_add(1, Ordering::Relaxed);
        let outcome = operation.run(store);
        let returned = self.clock.fetch_add(1, Ordering::Relaxed);
        self.events.lock().unwrap().push(Event { operation, outcome, called, returned });
    }
}

fn read_only(directory: &SimDirectory) -> Store<Sim> {
    let medium = directory.open(PACK, false).unwrap();
    options().read_only(true).open_in(medium, How::Open).unwrap().unwrap()
}

/// Two threads that change and look, one that makes checkpoints and compactions, and one with a handle of its own that
/// only reads, as another process would.
///
/// Only single records change at one moment for those who look (a cascade goes from parents to children), so with
/// `links` the looks beside changes are checked by themselves, and the rest as one history.
fn one_schedule(seed: u64, links: bool) {
    let directory = SimDirectory::new(FILE_BYTES_MAX);
    directory.insert(PACK, EMPTY.get().expect("it was made before the first schedule").clone());
    // Where there is no writer yet, it recovers for itself, and has to notice who takes over.
    let early = (seed % 2 == 0).then(|| read_only(&directory));
    let store = options().open_in(directory.open(PACK, true).unwrap(), How::Open).unwrap().unwrap();
    let recorder = Arc::new(Recorder::default());
    let mut threads = Vec::new();
    for number in 0..2 {
        let (store, recorder) = (store.clone(), recorder.clone());
        let mut random = Random::new(seed * 8 + number);
        threads.push(thread::spawn(move || {
            for _ in 0..4 {
                recorder.run(random.operation(links), &store);
            }
        }));
    }
    let keeper = store.clone();
    let mut random = Random::new(seed * 8 + 2);
    threads.push(thread::spawn(move || {
        for _ in 0..2 {
            match random.below(2) {
                0 => keeper.checkpoint().unwrap(),
                _ => match keeper.compact() {
                    Ok(_) | Err(Error::InUse { .. }) => {}
                    Err(error) => panic!("{error}"),
                },
            }
        }
    }));
    let (beside, watch) = (directory.clone(), recorder.clone());
    let mut random = Random::new(seed * 8 + 3);
    threads.push(thread::spawn(move || {
        let reading = early.unwrap_or_else(|| read_only(&beside));
        for _ in 0..4 {
            watch.run(Operation::Look(random.below(BLOBS)), &reading);
        }
    }));
    for thread in threads {
        thread.join().unwrap();
    }
    let mut events = std::mem::take(&mut *recorder.events.lock().unwrap());
    if links {
        events.retain(|event| !matches!(event.operation, Operation::Look(_)));
    }
    (0..BLOBS).for_each(|blob| recorder.run(Operation::Look(blob), &store));
    events.append(&mut recorder.events.lock().unwrap());
    assert!(is_linearizable(&events), "no serial order explains {events:#?}");

    let mut listed: Vec<_> = store.list().map(|digest| digest.unwrap()).collect();
    let mut there: Vec<_> = (0..BLOBS).map(digest).filter(|digest| store.contains(digest).unwrap()).collect();
    listed.sort();
    there.sort();
    assert_eq!(listed, there);
    let damage = store.verify().unwrap().damage;
    assert!(damage.is_empty(), "{damage:?}");
}

/// Three threads that put and one that makes checkpoints, until a call of the medium fails. Nobody waits for ever for
/// what nobody leads any more, and what was acknowledged is there.
fn one_failure(seed: u64) {
    let directory = SimDirectory::new(FILE_BYTES_MAX);
    directory.insert(PACK, EMPTY.get().expect("it was made before the first schedule").clone());
    let store = options().open_in(directory.open(PACK, true).unwrap(), How::Open).unwrap().unwrap();
    directory.fail_step(Random::new(seed).below(60).into(), Fault::Io);
    let expected = |error: &Error| assert!(matches!(error, Error::Io { .. } | Error::Poisoned { .. }), "{error}");
    let putting = |number: u8| {
        let store = store.clone();
        move || {
            let put = |round| store.put(&[number, round]).inspect_err(expected).map(|put| put.digest);
            (0..4).map_while(|round| put(round).ok()).collect::<Vec<_>>()
        }
    };
    let threads: Vec<_> = (0..3).map(|number| thread::spawn(putting(number))).collect();
    let keeper = store.clone();
    let keeping = thread::spawn(move || (0..2).all(|_| keeper.checkpoint().inspect_err(expected).is_ok()));
    let acknowledged: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    keeping.join().unwrap();
    directory.clear_fault();
    let are_there = |store: &Store<Sim>| acknowledged.iter().all(|digest| store.contains(digest).unwrap());
    assert!(are_there(&store));
    drop(store);
    assert!(are_there(&options().open_in(directory.open(PACK, true).unwrap(), How::Open).unwrap().unwrap()));
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

fn run(schedule: fn(u64), scheduler: impl FnOnce(u64, usize) -> Box<dyn Scheduler + Send>) {
    let seed = number("BLOBPACK_SEED").unwrap_or(1);
    let schedules = number("BLOBPACK_SCHEDULES").map_or(SCHEDULES, |count| count as usize);
    let config = || {
        let mut config = Config::new();
        config.stack_size = 1 << 20;
        config.silence_warnings = true;
        config
    };
    Runner::new(RandomScheduler::new_from_seed(0, 1), config()).run(|| {
        EMPTY.get_or_init(empty_pack);
    });
    name_seeds();
    let next = AtomicU64::new(seed);
    let body = move || {
        FIRST.set(seed);
        SEED.set(next.fetch_add(1, Ordering::Relaxed));
        schedule(SEED.get());
    };
    Runner::new(scheduler(seed, schedules), config()).run(body);
    println!("{schedules} schedules from seed {seed}");
}

/// Lets every panic say which seed it came from.
fn name_seeds() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            before(panic);
            let (first, this) = (FIRST.get(), SEED.get());
            eprintln!("the operations were those of BLOBPACK_SEED={this}");
            let schedules = this.saturating_sub(first) + 1;
            eprintln!("BLOBPACK_SEED={first} BLOBPACK_SCHEDULES={schedules} ends with the same schedule");
        }));
    });
}

fn random(seed: u64, schedules: usize) -> Box<dyn Scheduler + Send> {
    Box::new(RandomScheduler::new_from_seed(seed, schedules))
}

fn pct(seed: u64, schedules: usize) -> Box<dyn Scheduler + Send> {
    Box::new(PctScheduler::new_from_seed(seed, DEPTH, schedules))
}

#[test]
fn reads_and_changes_of_single_blobs_are_linearizable_under_random_schedules() {
    run(|seed| one_schedule(seed, false), random);
}

#[test]
fn reads_and_changes_of_single_blobs_are_linearizable_under_pct_schedules() {
    run(|seed| one_schedule(seed, false), pct);
}

#[test]
fn changes_with_links_are_linearizable_under_random_schedules() {
    run(|seed| one_schedule(seed, true), random);
}

#[test]
fn changes_with_links_are_linearizable_under_pct_schedules() {
    run(|seed| one_schedule(seed, true), pct);
}

#[test]
fn after_a_failing_call_nobody_waits_for_ever_under_random_schedules() {
    run(one_failure, random);
}

#[test]
fn after_a_failing_call_nobody_waits_for_ever_under_pct_schedules() {
    run(one_failure, pct);
}
