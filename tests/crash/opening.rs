//! What an opening finds and says, for a reader and for a writer.

use std::sync::Arc;

use blobpack::format::SUPERBLOCKS_AT;
use blobpack::medium::{Action, Sim, SimDirectory, Step};
use blobpack::store::How;
use blobpack::{Recovery, Store};

use super::history::{FILE_BYTES_MAX, NAME, create, open, open_how, open_read_only, options};
use super::superblocks_written;

/// What a kill leaves, on a machine that was booted since.
fn killed(directory: &SimDirectory) -> SimDirectory {
    let killed = SimDirectory::new(FILE_BYTES_MAX);
    killed.insert(NAME, directory.bytes(NAME).unwrap());
    killed
}

fn sums(store: &Store<Sim>) -> (u64, u64, u64, u64, u64, u32) {
    let stats = store.stats().unwrap();
    (stats.blobs, stats.links, stats.live_bytes, stats.commits, stats.index_bytes, stats.index_depth)
}

/// A reader works out what a writer counts.
#[test]
fn a_reader_says_of_the_pack_what_its_writer_does() {
    let directory = SimDirectory::new(FILE_BYTES_MAX);
    let store = create(&directory, &options()).unwrap();
    assert_eq!(sums(&open_read_only(&directory).unwrap()), sums(&store));
    for byte in 0..50 {
        store.put(&[byte; 10]).unwrap();
        if byte == 40 {
            store.checkpoint().unwrap();
        }
    }
    let expected = sums(&store);
    assert!(expected.0 == 50 && expected.5 > 2, "{expected:?}");
    assert_eq!(sums(&open_read_only(&directory).unwrap()), expected);
    store.close().unwrap();
    assert_eq!(sums(&open_read_only(&directory).unwrap()), expected);
    assert_eq!(sums(&open(&directory, &options()).unwrap()), expected);
}

/// A writer that comes at this moment changes what is read, so a reader looks again; but damage stays.
#[test]
fn a_reader_looks_again_before_it_tells_a_damage_but_not_for_ever() {
    let directory = SimDirectory::new(FILE_BYTES_MAX);
    let store = create(&directory, &options()).unwrap();
    store.put(&[1; 600]).unwrap();
    store.put(&[2; 600]).unwrap();
    store.put(&[3; 600]).unwrap();
    let looked = |damaged: &SimDirectory| {
        let file = Arc::new(damaged.open(NAME, false).unwrap());
        let found = blobpack::recovery::attach(file.clone());
        (found.map(drop), file.pauses())
    };
    let left = killed(&directory);
    assert!(matches!(looked(&left), (Ok(()), 0)), "it need not wait");
    let mut bytes = directory.bytes(NAME).unwrap();
    let payload = bytes.windows(600).position(|window| window == [1; 600]).unwrap();
    // The first commit.
    bytes[payload + 640 + 70] ^= 1;
    left.insert(NAME, bytes);
    let (found, pauses) = looked(&left);
    assert!(found.unwrap_err().is_damage());
    assert!((2..100).contains(&pauses), "{pauses}");
}

/// The same pack with bytes behind its log, and where they stand.
fn followed_by_no_frame(directory: &SimDirectory) -> (SimDirectory, usize) {
    let mut bytes = directory.bytes(NAME).unwrap();
    let payload = bytes.windows(600).position(|window| window == [1; 600]).unwrap();
    let tail = (payload + 640..).step_by(64).find(|at| bytes[*at..at + 64] == [0; 64]).unwrap();
    bytes[tail + 40] = 7;
    let cut = SimDirectory::new(FILE_BYTES_MAX);
    cut.insert(NAME, bytes);
    (cut, tail)
}

/// Frames that are written over something else could not be told from it after a power cut.
#[test]
fn the_log_goes_on_elsewhere_where_bytes_that_are_no_frame_follow_it() {
    let directory = SimDirectory::new(FILE_BYTES_MAX);
    let store = create(&directory, &options()).unwrap();
    store.put(&[1; 600]).unwrap();
    store.close().unwrap();
    let (cut, tail) = followed_by_no_frame(&directory);
    cut.record(true);
    let store = open(&cut, &options()).unwrap();
    assert_eq!(store.recovery(), Recovery::default(), "nothing was dropped that is known of");
    assert_eq!(superblocks_written(&cut).len(), 2);
    store.put(&[2; 600]).unwrap();
    assert_eq!(cut.bytes(NAME).unwrap()[tail + 40], 7);
    assert_eq!(open(&killed(&cut), &options()).unwrap().list().count(), 2);
}

/// One whose writer was killed between the two superblocks that lead to the log was taken for whole by the next one, and
/// when the one superblock rotted, all that this had committed was cut off.
#[test]
fn both_superblocks_lead_to_a_log_that_goes_on_elsewhere_though_a_writer_was_killed_between_them() {
    let directory = SimDirectory::new(FILE_BYTES_MAX);
    let store = create(&directory, &options()).unwrap();
    store.put(&[1; 600]).unwrap();
    store.close().unwrap();
    let (cut, _) = followed_by_no_frame(&directory);
    cut.record(true);
    let before = cut.step_count();
    open(&cut, &options()).unwrap();
    let steps = cut.steps();
    let is_superblock =
        |step: &Step| matches!(step.action, Action::Write { offset, .. } if SUPERBLOCKS_AT.contains(&offset));
    let first = before + steps[before..].iter().position(is_superblock).unwrap();
    let left = SimDirectory::replay(&steps, first + 1, FILE_BYTES_MAX);
    let store = open(&left, &options()).unwrap();
    store.put(&[2; 600]).unwrap();
    for at in SUPERBLOCKS_AT {
        let mut bytes = left.bytes(NAME).unwrap();
        bytes[at.0 as usize..][..4096].fill(0);
        let rotten = SimDirectory::new(FILE_BYTES_MAX);
        rotten.insert(NAME, bytes);
        assert_eq!(open(&rotten, &options()).unwrap().list().count(), 2);
    }
}

/// The log of a pack that holds nothing may say nothing at all.
#[test]
fn a_rebuild_keeps_how_many_commits_there_were() {
    let directory = SimDirectory::new(FILE_BYTES_MAX);
    let store = create(&directory, &options()).unwrap();
    let digest = store.put(b"it goes again").unwrap().digest;
    store.dereference(&digest).unwrap();
    store.compact().unwrap();
    let before = sums(&store);
    assert!(before.0 == 0 && before.3 >= 2, "{before:?}");
    store.close().unwrap();
    let store = open_how(&directory, &options(), How::Rebuild).unwrap();
    assert_eq!(sums(&store).3, before.3);
    store.put(b"another").unwrap();
    assert_eq!(sums(&store).3, before.3 + 1);
    store.close().unwrap();
    let store = open_how(&directory, &options(), How::Rebuild).unwrap();
    assert_eq!((sums(&store).0, sums(&store).3), (1, before.3 + 1));
}
