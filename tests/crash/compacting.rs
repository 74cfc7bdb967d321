//! What a compaction says and leaves, and what it leaves alone where it fails.

use std::sync::{Arc, Mutex};

use blobpack::medium::{Action, Fault, Sim, SimDirectory};
use blobpack::store::How;
use blobpack::{CompactOptions, Error, Name, OpenOptions, Stats, Store};

use super::history::{FILE_BYTES_MAX, NAME, create, open, open_how, open_read_only, options};

/// A pack with small and large blobs, links and names, of which much is dead.
fn pack(dead: u32) -> (SimDirectory, Store<Sim>) {
    let directory = SimDirectory::new(FILE_BYTES_MAX);
    let store = create(&directory, &options()).unwrap();
    let mut batch = store.batch();
    let root = batch.put(b"root").unwrap();
    for byte in 0..9 {
        let leaf = batch.put(&[byte; 100]).unwrap();
        batch.link(&leaf, &root);
    }
    batch.commit().unwrap();
    for (number, length) in [70_000, 65_535, 65_536, 1 << 20].into_iter().enumerate() {
        store.put(&vec![number as u8; length]).unwrap();
    }
    store.set_name(&Name::new("first").unwrap(), &root).unwrap();
    store.reference(&root).unwrap();
    store.set_name(&Name::new("second").unwrap(), &root).unwrap();
    for number in 0..dead {
        let digest = store.put(&number.to_le_bytes().repeat(25_000)).unwrap().digest;
        store.dereference(&digest).unwrap();
    }
    (directory, store)
}

fn counted(stats: &Stats) -> (u64, u64, u64, u64) {
    (stats.blobs, stats.links, stats.names, stats.live_bytes)
}

fn content<M: blobpack::medium::Medium>(store: &Store<M>) -> Vec<(blobpack::Digest, Vec<u8>)> {
    let digests: Vec<_> = store.list().map(Result::unwrap).collect();
    digests.into_iter().map(|digest| (digest, store.get(&digest).unwrap().as_bytes().to_vec())).collect()
}

#[test]
fn a_compacted_pack_counts_what_the_old_one_did_and_so_does_its_log() {
    let (directory, store) = pack(20);
    let (before, content) = (store.stats().unwrap(), content(&store));
    assert_eq!((before.blobs, before.links, before.names), (14, 9, 2));
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = told.clone();
    let compacted =
        store.compact_with(CompactOptions::new().progress(move |now| tell.lock().unwrap().push(now))).unwrap();
    assert!((compacted.blobs, compacted.skipped) == (14, false));
    assert_eq!(compacted.freed_bytes, compacted.before_bytes - compacted.after_bytes);
    assert!(compacted.freed_bytes > 19 * 100_000, "{compacted:?}");
    let told = told.lock().unwrap();
    assert!(told.last().is_some_and(|last| last.done == last.total && last.total == before.live_bytes), "{told:?}");
    let check = |store: &Store<Sim>| {
        let now = store.stats().unwrap();
        assert_eq!((counted(&now), now.dead_bytes), (counted(&before), 0));
        assert_eq!(now.commits, before.commits + 1, "the snapshot is one");
        assert!(self::content(store) == content);
        assert_eq!(store.verify().unwrap().damage.len(), 0);
    };
    check(&store);
    store.close().unwrap();
    let store = open(&directory, &options()).unwrap();
    assert_eq!(store.recovery(), blobpack::Recovery::default(), "its checkpoint knows all of it");
    check(&store);
    store.close().unwrap();
    check(&open_how(&directory, &options(), How::Rebuild).unwrap());
    let file = directory.bytes(NAME).unwrap().len() as u64;
    assert!(file < before.file_bytes - 19 * 100_000, "{file}");
}

/// All that it may need is allocated before the first byte is copied, so that a full disk shows then.
#[test]
fn a_compaction_gives_back_what_it_has_allocated_and_not_used() {
    // With segments of the usual size so few records need less of the index than is expected, whatever their tags are.
    let directory = SimDirectory::new(FILE_BYTES_MAX);
    let store = create(&directory, &OpenOptions::new()).unwrap();
    store.put(b"the only one").unwrap();
    directory.record(true);
    store.compact().unwrap();
    let steps = directory.steps();
    let new = steps.iter().map(|step| step.file).max();
    let is_given_back = |action: &Action| matches!(action, Action::Punch { length, .. } if *length > 0);
    assert!(steps.iter().any(|step| Some(step.file) == new && is_given_back(&step.action)));
}

/// For so many records segments of three pages waste less than those of one page that the pack was made with.
#[test]
fn a_pack_whose_segments_became_longer_is_opened_again() {
    let directory = SimDirectory::new(FILE_BYTES_MAX);
    let store = create(&directory, &OpenOptions::new()).unwrap();
    let mut batch = store.batch();
    for number in 0..255_u32 {
        batch.put(&number.to_le_bytes()).unwrap();
    }
    batch.commit().unwrap();
    let content = content(&store);
    store.compact().unwrap();
    store.close().unwrap();
    let store = open(&directory, &OpenOptions::new()).unwrap();
    assert!(content.len() == 255 && self::content(&store) == content);
    assert_eq!(store.verify().unwrap().damage.len(), 0);
}

#[test]
fn a_compaction_that_would_give_too_little_back_does_nothing() {
    let compacted = |percent: u8, dead: u32| {
        let (directory, store) = pack(dead);
        store.checkpoint().unwrap();
        let before = directory.bytes(NAME).unwrap();
        let done = store.compact_with(CompactOptions::new().min_dead(percent)).unwrap();
        if done.skipped {
            assert_eq!((done.after_bytes, done.freed_bytes, done.blobs), (done.before_bytes, 0, 0));
            assert!(directory.bytes(NAME).unwrap() == before);
        } else {
            assert_eq!(done.blobs, 14);
        }
        done
    };
    let whole = compacted(0, 20);
    let percent = (whole.freed_bytes * 100 / whole.before_bytes) as u8;
    assert!((30..90).contains(&percent), "{whole:?}");
    // The need is stated with some room to spare.
    assert!(!compacted(percent - 10, 20).skipped && compacted(percent + 1, 20).skipped, "{percent} percent");
    assert!(compacted(100, 20).skipped);
    let nothing = compacted(0, 0);
    assert!(!nothing.skipped, "it was asked for: {nothing:?}");
    assert!(compacted(90, 0).skipped);
}

#[test]
fn a_copy_that_is_compacted_leaves_the_pack_as_it_is_and_replaces_nothing() {
    let (directory, store) = pack(5);
    let (before, bytes) = (content(&store), directory.bytes(NAME).unwrap());
    let copy = || store.compact_with(CompactOptions::new().output("copy"));
    let done = copy().unwrap();
    assert!(!done.skipped && done.blobs == 14);
    assert!(directory.bytes(NAME).unwrap() == bytes);
    let there = directory.bytes("copy").unwrap();
    match copy().unwrap_err() {
        Error::AlreadyExists { path } => assert_eq!(path, std::path::Path::new("copy")),
        other => panic!("{other}"),
    }
    assert!(directory.bytes("copy").unwrap() == there);
    store.put(b"it goes on").unwrap();
    let copied = SimDirectory::new(FILE_BYTES_MAX);
    copied.insert(NAME, there);
    assert!(content(&open(&copied, &options()).unwrap()) == before);
}

/// But for the last call, which tells whether the new file's name is there for good.
#[test]
fn a_compaction_that_fails_leaves_a_store_that_goes_on() {
    // All but the heads: the live page tells readers that a new file may come.
    let body = |directory: &SimDirectory| directory.bytes(NAME).unwrap().split_off(256 << 10);
    for number in 0.. {
        let (directory, store) = pack(1);
        let reader = open_read_only(&directory).unwrap();
        let (before, there) = (content(&store), body(&directory));
        directory.fail_step(number, if number % 2 == 0 { Fault::Io } else { Fault::Full });
        let done = store.compact();
        let was_struck = !directory.clear_fault();
        if !was_struck {
            assert!(done.is_ok() && number > 15, "{number}: {done:?}");
            return;
        }
        assert!(content(&store) == before && content(&reader) == before, "step {number}");
        if done.is_err() && body(&directory) != there {
            // The new file has the name, perhaps not for good.
            assert!(matches!(store.put(b"more"), Err(Error::Poisoned { .. })), "step {number}");
            continue;
        }
        let digest = store.put(b"it goes on").unwrap_or_else(|error| panic!("step {number}: {error}")).digest;
        assert!(reader.contains(&digest).unwrap(), "step {number}");
        store.compact().unwrap();
        store.put(b"once more").unwrap();
        drop(store);
        assert_eq!(open(&directory, &options()).unwrap().list().count(), before.len() + 2, "step {number}");
    }
}

#[test]
fn options_are_shown_with_what_they_say() {
    let shown = format!("{:?}", CompactOptions::new().min_dead(7).output("copy"));
    assert!(shown.contains("min_dead: 7") && shown.contains("copy"), "{shown}");
}
