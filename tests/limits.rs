//! The sizes at which other stores give up: long chains, wide blobs, full counts, chosen digests, long lives.
//!
//! `BLOBPACK_FULL=1` runs the sizes that are promised, the continuous build smaller ones.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use blobpack::commit::Tuning;
use blobpack::format::{Offset, SUPERBLOCKS_AT, Superblock};
use blobpack::index::table::built;
use blobpack::index::tag::Tagger;
use blobpack::medium::{Medium, Sim, SimDirectory};
use blobpack::record::{Image, Record};
use blobpack::store::How;
use blobpack::{Algorithm, Digest, Durability, Error, Name, PartKind, Store};

use zerocopy::FromBytes;

mod common;
use common::{PACK, content, open_simulated, simulated, small};

/// Counts the bytes that the program has asked for and not given back.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn grown(bytes: usize) {
    MOST.fetch_max(NOW.fetch_add(bytes, Ordering::Relaxed) + bytes, Ordering::Relaxed);
}

#[expect(unsafe_code, reason = "an allocator that counts")]
// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(start, layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // While it is copied both are there.
        grown(bytes);
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(start, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static ALONE: Mutex<()> = Mutex::new(());

/// Memory is counted for the whole program, so its tests run one at a time.
fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_full() -> bool {
    std::env::var_os("BLOBPACK_FULL").is_some_and(|value| value == "1")
}

fn size(full: u64, quick: u64) -> u64 {
    if is_full() { full } else { quick }
}

/// The most bytes that were allocated at one time during `work`, beyond those before it.
fn memory_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let done = work();
    (done, MOST.load(Ordering::Relaxed).saturating_sub(before))
}

/// Nanoseconds of processor time that this thread has had.
fn processor_time() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

fn temporary() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::options().durability(Durability::Process).open(directory.path()).unwrap();
    (directory, store)
}

fn numbered(n: u64) -> Digest {
    Digest::of(Algorithm::Sha256, &n.to_le_bytes())
}

/// Stores blobs 0 to n, each but the first linked to by the next; only the last has a reference of a caller's.
fn chain(store: &Store, length: u64) -> Digest {
    let mut last = None;
    for start in (0..length).step_by(10_000) {
        let mut batch = store.batch();
        for n in start..length.min(start + 10_000) {
            let digest = batch.put(&n.to_le_bytes()).unwrap();
            if let Some(last) = last.replace(digest) {
                batch.link(&last, &digest);
            }
        }
        batch.commit().unwrap();
    }
    last.unwrap()
}

/// So many bytes of memory a removal takes, however much it removes, with the parts that these tests make; the usual
/// ones are eight times as large.
const MEMORY_MAX: u64 = 8 << 20;

/// Runs on a thread with a stack of 256 KiB.
fn on_a_small_stack<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        std::thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, work).unwrap().join().unwrap()
    })
}

#[test]
fn a_long_chain_is_freed_on_a_small_stack_and_in_bounded_memory() {
    let _alone = alone();
    let length = size(10_000_000, 100_000);
    let directory = tempfile::tempdir().unwrap();
    let tuning = Tuning { removal_images: 8 << 10, ..Tuning::default() };
    let options = Store::options().tuning(tuning).durability(Durability::Process);
    let store = options.open(directory.path()).unwrap();
    let top = on_a_small_stack(|| chain(&store, length));
    assert_eq!(store.stats().unwrap().links, length - 1);
    let (removed, bytes) = memory_of(|| on_a_small_stack(|| store.dereference(&top).unwrap()));
    assert_eq!(removed.digests().step_by(1000).map(Result::unwrap).next(), Some(top));
    assert_eq!(removed.digests().count() as u64, length);
    let removed = removed.blobs();
    println!("{bytes} bytes of memory for a chain of {length}");
    assert_eq!(removed, length);
    let stats = store.stats().unwrap();
    assert_eq!((stats.blobs, stats.links, stats.live_bytes), (0, 0, 0));
    assert_eq!(store.list().count(), 0);
    // Each segment that is copied is noted until the next checkpoint.
    assert!(bytes as u64 <= MEMORY_MAX + 4 * length, "{bytes} bytes");
}

/// Processor time to link `count` blobs to one and unlink them all again; with `outward` it is the one that links.
fn wide(count: u64, outward: bool) -> u64 {
    let (_directory, store) = temporary();
    let hub = store.put(b"hub").unwrap().digest;
    let all: Vec<u64> = (0..count).collect();
    for some in all.chunks(10_000) {
        let mut batch = store.batch();
        for n in some {
            batch.put(&n.to_le_bytes()).unwrap();
        }
        batch.commit().unwrap();
    }
    let begun = processor_time();
    for links in [true, false] {
        for some in all.chunks(1_000) {
            let mut batch = store.batch();
            for &n in some {
                let (to, from) = if outward { (numbered(n), hub) } else { (hub, numbered(n)) };
                if links {
                    batch.reference(&to).link(&to, &from);
                } else {
                    batch.unlink(&to, &from);
                }
            }
            batch.commit().unwrap();
        }
        let listed = if outward { store.links(&hub) } else { store.referrers(&hub) }.unwrap();
        assert_eq!(listed.map(Result::unwrap).count() as u64, if links { count } else { 0 });
    }
    // The whole list at once, in a removal.
    let mut batch = store.batch();
    for &n in &all {
        let (to, from) = if outward { (numbered(n), hub) } else { (hub, numbered(n)) };
        batch.reference(&to).link(&to, &from);
    }
    batch.commit().unwrap();
    if outward {
        assert_eq!(store.dereference(&hub).unwrap().blobs(), 1);
    } else {
        assert!(matches!(store.dereference(&hub), Ok(removed) if removed.is_empty()));
        let mut batch = store.batch();
        for &n in &all {
            batch.dereference(&numbered(n));
        }
        batch.commit().unwrap();
    }
    assert_eq!(store.stats().unwrap().links, 0);
    processor_time() - begun
}

fn grows_linearly(outward: bool) {
    let _alone = alone();
    let count = size(1_000_000, 12_000);
    let (small, large) = (wide(count / 4, outward), wide(count, outward));
    println!("{count}: {large} ns, {}: {small} ns", count / 4);
    // Four times as many take four times as long; if each took its way along the list, sixteen times.
    assert!(large < 9 * small, "{large} ns for {count}, {small} ns for a quarter");
}

#[test]
fn a_blob_that_links_to_a_million_is_linked_and_unlinked_in_linear_time() {
    grows_linearly(true);
}

#[test]
fn a_blob_that_a_million_link_to_is_linked_and_unlinked_in_linear_time() {
    grows_linearly(false);
}

const REFERENCES_MAX: u64 = u32::MAX as u64;

#[test]
fn a_count_at_its_maximum_is_an_error_and_nothing_wraps() {
    let _alone = alone();
    let (directory, store) = simulated(16 << 20);
    let digest = store.put(b"popular").unwrap().digest;
    let parent = store.put(b"parent").unwrap().digest;
    store.close().unwrap();
    // Nobody waits for four thousand million references: they are forged, wherever the record stands.
    let medium = directory.open(PACK, true).unwrap();
    let bytes = directory.bytes(PACK).unwrap();
    let mut forged = 0;
    for at in (0..bytes.len()).step_by(64) {
        let slot: &[u8; 64] = bytes[at..at + 64].try_into().unwrap();
        if let Some(Image { record: Record::Blob(mut blob), removed: false }) = Image::parse(slot)
            && blob.length == 7
        {
            blob.references = u32::MAX;
            let image = Image { record: Record::Blob(blob), removed: false };
            medium.write_at(Offset(at as u64), &[&image.bytes()], true).unwrap();
            forged += 1;
        }
    }
    assert!(forged > 0);
    drop(medium);
    let store = open_simulated(&directory, &small(), How::Open).unwrap();
    let count = || store.descriptor(&digest).unwrap().ref_count;
    let is_refused = |result: Result<(), Error>| match result {
        Err(Error::TooManyReferences { limit, .. }) => assert_eq!(limit, REFERENCES_MAX),
        other => panic!("{other:?}"),
    };
    for _ in 0..2 {
        assert_eq!(count(), REFERENCES_MAX);
        is_refused(store.reference(&digest).map(drop));
        is_refused(store.put(b"popular").map(drop));
        let mut batch = store.batch();
        batch.put(b"not this either").unwrap();
        batch.reference(&digest);
        match batch.commit() {
            Err(Error::Batch { index: 1, source }) => is_refused(Err(*source)),
            other => panic!("{other:?}"),
        }
        assert_eq!((count(), store.stats().unwrap().blobs), (REFERENCES_MAX, 2));
        // A link moves a reference and asks for none.
        store.link(&digest, &parent).unwrap();
        assert_eq!(count(), REFERENCES_MAX);
        store.unlink(&digest, &parent).unwrap();
        assert_eq!(count(), REFERENCES_MAX - 1);
        store.reference(&digest).unwrap();
    }
}

/// Digests that an attacker who does not know the secret would choose to fill one bucket: those of an index by the
/// first bytes, by the last ones, by any few bits.
#[test]
fn digests_that_are_alike_are_spread_like_any_others() {
    let _alone = alone();
    let (count, depth) = if is_full() { (100_000, 11) } else { (12_000, 8) };
    let shape = |secret: &[u8; 112], digest: &dyn Fn(u64) -> [u8; 32]| {
        let tagger = Tagger::new(secret);
        let of = |n| tagger.of_blob(&Digest::from_bytes(Algorithm::Sha256, &digest(n)).unwrap());
        let mut tags: Vec<u64> = (0..count).map(of).collect();
        tags.sort_unstable();
        built(63, depth, &tags).expect("no more have one tag than a segment holds")
    };
    // Six bytes are more than anybody can afford.
    let alike_at = |place: usize| {
        move |n: u64| {
            let mut bytes: [u8; 32] = numbered(n).as_bytes().try_into().unwrap();
            bytes[place..place + 6].fill(0x5a);
            bytes
        }
    };
    for seed in 0..2 {
        let secret: [u8; 112] = content(seed, 112).try_into().unwrap();
        let (segments, depth) = shape(&secret, &|n| numbered(n).as_bytes().try_into().unwrap());
        for place in [0, 1, 4, 8, 10, 26] {
            let (ground, deepest) = shape(&secret, &alike_at(place));
            assert!(ground <= segments + segments / 20, "{ground} segments instead of {segments}");
            assert!(deepest <= depth + 2, "depth {deepest} instead of {depth}");
        }
    }
}

/// Real ones: their digests begin with the same byte.
#[test]
fn blobs_whose_digests_were_ground_to_begin_alike_fill_the_index_like_any_others() {
    let _alone = alone();
    let count = size(100_000, 4_000) as usize;
    let ground = (0..u64::MAX).filter(|n| numbered(*n).as_bytes()[0] == 0);
    let fill = |numbers: &mut dyn Iterator<Item = u64>| {
        let (_directory, store) = temporary();
        let numbers: Vec<u64> = numbers.take(count).collect();
        for some in numbers.chunks(1000) {
            let mut batch = store.batch();
            for n in some {
                batch.put(&n.to_le_bytes()).unwrap();
            }
            batch.commit().unwrap();
        }
        let reader = store.reader().unwrap();
        assert!(numbers.iter().all(|n| *reader.get(&numbered(*n)).unwrap() == n.to_le_bytes()));
        store.stats().unwrap()
    };
    let (alike, others) = (fill(&mut { ground }), fill(&mut (0..)));
    assert_eq!(alike.blobs, others.blobs);
    assert!(alike.index_bytes <= others.index_bytes + others.index_bytes / 8, "{alike:?}, {others:?}");
    assert!(alike.index_depth <= others.index_depth + 2, "{alike:?}, {others:?}");
}

#[test]
fn an_index_under_churn_does_not_grow() {
    let _alone = alone();
    const ALIVE: u64 = 1000;
    let rounds = size(1_000_000, 50_000);
    let (_directory, store) = temporary();
    let mut all = Vec::new();
    for start in (0..rounds).step_by(100) {
        let mut batch = store.batch();
        for n in start..start + 100 {
            batch.put(&n.to_le_bytes()).unwrap();
            if n >= ALIVE {
                batch.dereference(&numbered(n - ALIVE));
            }
        }
        batch.commit().unwrap();
        if start % (rounds / 10) == 0 && start > 0 {
            store.checkpoint().unwrap();
            let layout = store.layout().unwrap();
            all.push(layout.bytes(PartKind::Index) + layout.bytes(PartKind::Spare));
        }
    }
    assert_eq!(store.stats().unwrap().blobs, ALIVE);
    println!("bytes of the index, and of what is kept for it: {all:?}");
    // Chance fills a segment now and then, which splits; that has its end where segments are half empty.
    let (half, end) = (all[all.len() / 2], all[all.len() - 1]);
    assert!(end <= half + half / 4 && end <= 2 << 20, "{all:?}");
}

/// A store in memory with a hub, what hangs on it in chains, and what else holds some of that.
fn knot(size: u64) -> (SimDirectory, Store<Sim>, Digest) {
    let (directory, store) = simulated(64 << 20);
    let mut batch = store.batch();
    let hub = batch.put(b"hub").unwrap();
    let other = batch.put(b"stays").unwrap();
    let mut last = other;
    for n in 0..size {
        let blob = batch.put(&n.to_le_bytes()).unwrap();
        if n % 5 != 0 {
            batch.link(&last, &blob);
        } else if n > 0 {
            batch.link(&last, &hub);
        }
        batch.reference(&other).link(&other, &blob);
        last = blob;
    }
    batch.link(&last, &hub);
    batch.commit().unwrap();
    (directory, store, hub)
}

fn counts(store: &Store<Sim>) -> (u64, u64) {
    let stats = store.stats().unwrap();
    (stats.blobs, stats.links)
}

#[test]
fn a_removal_in_parts_is_there_as_a_whole_or_not_at_all_wherever_it_is_cut_off() {
    let _alone = alone();
    let (directory, store, hub) = knot(40);
    let before = counts(&store);
    directory.record(true);
    let begun = directory.step_count();
    let removed = store.dereference(&hub).unwrap();
    assert_eq!(removed.blobs(), 41);
    let mut digests: Vec<Digest> = removed.digests().map(Result::unwrap).collect();
    assert_eq!(digests[0], hub);
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), 41);
    assert_eq!(counts(&store), (1, 0));
    let steps = directory.steps();
    let mut seen = [0, 0];
    for upto in (begun..=steps.len()).rev().step_by(size(1, 5) as usize) {
        let directory = SimDirectory::replay(&steps, upto, 64 << 20);
        let store = open_simulated(&directory, &small(), How::Open).unwrap();
        let now = counts(&store);
        assert!(now == before || now == (1, 0), "{now:?} after {upto} steps");
        seen[usize::from(now != before)] += 1;
        assert_eq!(store.verify().unwrap().damage, []);
        if now == before {
            assert_eq!(store.dereference(&hub).unwrap().blobs(), 41);
            assert_eq!(store.verify().unwrap().damage, []);
        }
    }
    assert!(seen[0] > 20 && seen[1] > 0, "{seen:?}");
    drop(store);
    let store = open_simulated(&directory, &small(), How::Rebuild).unwrap();
    assert_eq!(counts(&store), (1, 0));
    assert_eq!(store.verify().unwrap().damage, []);
}

/// What had the name goes with it in parts: all of that is one commit too.
#[test]
fn a_name_that_another_blob_gets_is_all_that_it_kept_or_nothing_of_it_wherever_that_is_cut_off() {
    let _alone = alone();
    let (directory, store, hub) = knot(40);
    let name: Name = "a".parse().unwrap();
    store.set_name(&name, &hub).unwrap();
    let next = store.put(b"next").unwrap().digest;
    store.checkpoint().unwrap();
    let state = |store: &Store<Sim>| (counts(store), store.name(&name).unwrap());
    let (before, after) = (state(&store), ((2, 0), next));
    directory.record(true);
    let begun = directory.step_count();
    let removed = store.set_name(&name, &next).unwrap();
    let digests: BTreeSet<Digest> = removed.digests().map(Result::unwrap).collect();
    assert_eq!((removed.blobs(), digests.len(), digests.contains(&next)), (41, 41, false));
    assert_eq!(state(&store), after);
    let steps = directory.steps();
    let mut seen = [0, 0];
    for upto in (begun..=steps.len()).rev().step_by(size(1, 5) as usize) {
        let directory = SimDirectory::replay(&steps, upto, 64 << 20);
        let store = open_simulated(&directory, &small(), How::Open).unwrap();
        let now = state(&store);
        assert!(now == before || now == after, "{now:?} after {upto} steps");
        seen[usize::from(now != before)] += 1;
        assert_eq!(store.verify().unwrap().damage, []);
        if now == before {
            assert_eq!(store.set_name(&name, &next).unwrap().blobs(), 41);
            assert_eq!((state(&store), store.verify().unwrap().damage), (after, vec![]));
        }
    }
    assert!(seen[0] > 20 && seen[1] > 0, "{seen:?}");
    drop(store);
    let store = open_simulated(&directory, &small(), How::Rebuild).unwrap();
    assert_eq!((state(&store), store.verify().unwrap().damage), (after, vec![]));
}

/// Contents of blobs whose tags in this pack begin with the same ten bits.
fn alike(directory: &SimDirectory) -> Vec<Vec<u8>> {
    let at = SUPERBLOCKS_AT[0].0 as usize;
    let bytes = directory.bytes(PACK).unwrap();
    let tagger = Tagger::new(&Superblock::read_from_bytes(&bytes[at..at + 512]).unwrap().identity.secret);
    let begins = |bytes: &Vec<u8>| tagger.of_blob(&Digest::of(Algorithm::Sha256, bytes)) >> 54 == 0;
    (0..).map(|n| content(n, 8)).filter(begins).take(5).collect()
}

#[test]
fn a_put_that_doubles_the_directory_many_times_is_refused_where_there_is_no_space() {
    // Room was kept for one doubling and few splits. A put into a full segment whose records begin alike needs more at
    // once: on a full disk that was found out when its commit was durable already, and ended the handle.
    let _alone = alone();
    let mut refused = 0;
    loop {
        let (directory, store) = simulated(64 << 20);
        let blobs = alike(&directory);
        for blob in &blobs[..4] {
            store.put(blob).unwrap();
        }
        let before = counts(&store);
        directory.set_capacity(directory.used() + refused * 4096);
        let stored = store.put(&blobs[4]);
        let Err(error) = stored else { break };
        assert!(matches!(error, Error::NoSpace { needed, .. } if needed > 0), "{error:?}");
        refused += 1;
        assert_eq!(counts(&store), before);
        store.dereference(&Digest::of(Algorithm::Sha256, &blobs[0])).unwrap();
        directory.set_capacity(u64::MAX);
        store.put(&blobs[0]).unwrap();
        store.put(&blobs[4]).unwrap();
        assert_eq!(store.verify().unwrap().damage, []);
        drop(store);
        let store = open_simulated(&directory, &small(), How::Open).unwrap();
        assert_eq!(store.list().count(), 5);
        assert_eq!(store.verify().unwrap().damage, []);
    }
    assert!(refused > 4, "{refused}");
}

#[test]
fn a_removal_in_parts_that_finds_no_space_changes_nothing() {
    let _alone = alone();
    let mut refused = 0;
    // How much it needs depends on the secret that each pack draws.
    for room in (0..).step_by(3) {
        let (directory, store, hub) = knot(200);
        let before = counts(&store);
        directory.set_capacity(directory.used() + room * 4096);
        match store.dereference(&hub) {
            Ok(removed) => {
                assert_eq!(removed.blobs(), 201);
                break;
            }
            Err(Error::NoSpace { needed, .. }) => assert!(needed > 0),
            Err(error) => panic!("{error:?}"),
        }
        refused += 1;
        assert_eq!(counts(&store), before);
        assert_eq!(store.list().count() as u64, before.0);
        directory.set_capacity(u64::MAX);
        store.put(b"goes on").unwrap();
        assert_eq!(store.verify().unwrap().damage, []);
        assert_eq!(store.dereference(&hub).unwrap().blobs(), 201);
        store.checkpoint().unwrap();
        store.put(b"and on").unwrap();
        assert_eq!(store.verify().unwrap().damage, []);
        drop(store);
        let store = open_simulated(&directory, &small(), How::Open).unwrap();
        assert_eq!(counts(&store), (3, 0));
        assert_eq!(store.verify().unwrap().damage, []);
    }
    assert!(refused > 2, "{refused}");
}
