//! Many threads on one store, each medium: what readers find beside writers, checkpoints and compactions. These are
//! built with ThreadSanitizer too (`.ci/run`), which sees when a reader relies on bytes that nothing ordered before it:
//! in the simulated medium's files, as they are memory of this process.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use blobpack::medium::{Medium, SimDirectory};
use blobpack::store::How;
use blobpack::{Algorithm, Digest, Durability, Error, Store};

mod common;
use common::{PACK, content, simulated, small};

const FILE_BYTES_MAX: u64 = 64 << 20;

/// Sets a flag when it goes, also by a panic: those who wait for it end then.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Every second thing that a thread puts stays, with a parent; every third parent goes again.
fn write<M: Medium>(store: &Store<M>, thread: u64, rounds: u64, shared: &Digest) -> Vec<(u64, Digest)> {
    let mut kept = Vec::new();
    for n in 0..rounds {
        let seed = (thread << 32) + n;
        let length = if n % 30 == 3 { 70_000 } else { 200 };
        let digest = store.put(&content(seed, length)).unwrap().digest;
        store.reference(shared).unwrap();
        if n % 2 == 0 {
            assert_eq!(store.dereference(&digest).unwrap().blobs(), 1);
            store.dereference(shared).unwrap();
            continue;
        }
        let mut batch = store.batch();
        let parent = batch.put(&content(seed + (1 << 31), 100)).unwrap();
        batch.link(&digest, &parent);
        batch.commit().unwrap();
        if n % 3 == 0 {
            assert_eq!(store.dereference(&parent).unwrap().blobs(), 2);
        } else {
            kept.push((seed, parent));
        }
    }
    kept
}

fn writers_and_readers<M: Medium>(store: &Store<M>) {
    const THREADS: u64 = 6;
    const ROUNDS: u64 = 90;
    let shared = store.put(b"all threads hold on to this").unwrap().digest;
    let stays: Vec<Digest> = (0..50).map(|n| store.put(&content(n, 300)).unwrap().digest).collect();
    let ended = AtomicBool::new(false);
    let kept: Vec<Vec<(u64, Digest)>> = std::thread::scope(|scope| {
        let _ends = Ends(&ended);
        for _ in 0..3 {
            scope.spawn(|| {
                let mut reader = store.reader().unwrap();
                while !ended.load(Ordering::Relaxed) {
                    for (n, digest) in stays.iter().enumerate() {
                        assert!(*reader.get(digest).unwrap() == *content(n as u64, 300));
                    }
                    let listed: Vec<Digest> = store.list().map(Result::unwrap).collect();
                    assert!(stays.iter().all(|digest| listed.contains(digest)), "a listing lost what stays");
                    reader.refresh().unwrap();
                }
            });
        }
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                match store.compact() {
                    Ok(_) | Err(Error::InUse { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
                store.checkpoint().unwrap();
                std::thread::yield_now();
            }
        });
        let writers: Vec<_> =
            (1..=THREADS).map(|thread| scope.spawn(move || write(store, thread, ROUNDS, &shared))).collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let blobs = 51 + 2 * kept.iter().map(Vec::len).sum::<usize>() as u64;
    for (seed, parent) in kept.iter().flatten() {
        assert!(*store.get(parent).unwrap() == *content(seed + (1 << 31), 100));
        let children: Vec<Digest> = store.links(parent).unwrap().map(Result::unwrap).collect();
        assert_eq!(children.len(), 1);
        assert_eq!(store.descriptor(&children[0]).unwrap().ref_count, 1);
    }
    assert_eq!(store.descriptor(&shared).unwrap().ref_count, 1 + THREADS * ROUNDS / 2);
    assert_eq!(store.stats().unwrap().blobs, blobs);
    assert!(store.verify().unwrap().damage.is_empty());
}

#[test]
fn writers_and_readers_in_many_threads_end_where_each_alone_would() {
    let directory = tempfile::tempdir().unwrap();
    writers_and_readers(&small().durability(Durability::Process).open(directory.path()).unwrap());
}

#[test]
fn so_they_do_on_the_simulated_medium() {
    writers_and_readers(&simulated(FILE_BYTES_MAX).1);
}

/// One writer and two readers that look for blobs which may be there any moment, so that nothing but the index leads
/// them to the bytes; one reader is the writer's own, one has opened the pack for itself. What the writer was told is
/// stored is found.
fn followers<M: Medium>(store: &Store<M>, beside: &Store<M>) {
    const BLOBS: u64 = 400;
    let digests: Vec<Digest> = (0..BLOBS).map(|n| Digest::of(Algorithm::Sha256, &content(n, 150))).collect();
    let told = AtomicU64::new(0);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ends = Ends(&ended);
        for store in [store, beside] {
            let (digests, told, ended) = (&digests, &told, &ended);
            scope.spawn(move || {
                let mut reader = store.reader().unwrap();
                let mut next = 0;
                while next < BLOBS && !ended.load(Ordering::Relaxed) {
                    // Looked for before anything says that they are there.
                    for n in next..(next + 3).min(BLOBS) {
                        if let Some(found) = reader.find(&digests[n as usize]).unwrap() {
                            assert!(*found == *content(n, 150), "blob {n} has other bytes");
                        }
                        if let Some(found) = store.find(&digests[n as usize]).unwrap() {
                            assert_eq!((found.ref_count(), found.link_count()), (1, 0));
                        }
                    }
                    reader.refresh().unwrap();
                    let stored = told.load(Ordering::Acquire);
                    for n in next..stored {
                        assert!(reader.contains(&digests[n as usize]).unwrap(), "blob {n} is stored, and not found");
                    }
                    next = stored;
                }
            });
        }
        for n in 0..BLOBS {
            store.put(&content(n, 150)).unwrap();
            told.store(n + 1, Ordering::Release);
            if n % 100 == 70 {
                store.compact().unwrap();
            }
        }
        // The readers come to their end by themselves.
        std::mem::forget(ends);
    });
    assert!(store.verify().unwrap().damage.is_empty());
}

#[test]
fn a_blob_is_found_with_its_bytes_as_soon_as_it_is_stored() {
    let directory = tempfile::tempdir().unwrap();
    let store = small().durability(Durability::Process).open(directory.path()).unwrap();
    let beside = Store::options().read_only(true).open(directory.path()).unwrap();
    followers(&store, &beside);
}

#[test]
fn so_it_is_on_the_simulated_medium() {
    let (directory, store): (SimDirectory, _) = simulated(FILE_BYTES_MAX);
    let medium = directory.open(PACK, false).unwrap();
    let beside = Store::options().read_only(true).open_in(medium, How::Open).unwrap().unwrap();
    followers(&store, &beside);
}
