//! The parts of a recovery by themselves: what is read of frames, what is looked for, what is given back.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::commit::Durability;
use crate::digest::Algorithm;
use crate::format::{BlobHeader, SPACE_AT};
use crate::log::{CommitFields, Group, Passed, Published, encode_group};
use crate::medium::{Action, Sim, SimDirectory};
use crate::record::{BlobRecord, Image};
use crate::store::{How, Store};

pub(in crate::recovery) const MARKER: u64 = 99;
pub(in crate::recovery) const START: u64 = SPACE_AT.0;

/// A file of four megabytes without data.
pub(in crate::recovery) fn file() -> (SimDirectory, Sim) {
    let directory = SimDirectory::new(4 << 20);
    let medium = directory.create("pack").unwrap();
    medium.allocate(Offset(0), 4 << 20).unwrap();
    directory.record(true);
    (directory, medium)
}

pub(in crate::recovery) fn write(medium: &Sim, at: u64, bytes: &[u8]) {
    medium.write_at(Offset(at), &[bytes], false).unwrap();
}

pub(in crate::recovery) fn tail(at: u64, chunk_end: u64) -> Tail {
    let none = Offset::NONE;
    Tail { epoch: 1, chunk: Offset(START), chunk_end, at: Offset(at), commit: none, commit_checksum: 0 }
}

pub(in crate::recovery) fn scan(tail: Tail) -> Scan {
    let report = Recovery::default();
    let (groups, chunks) = (Vec::new(), Vec::new());
    Scan { marker: MARKER, groups, chunks, from: tail, tail, report, residue: false, cut: false }
}

/// What was done since the last look.
fn actions(directory: &SimDirectory) -> Vec<(&'static str, u64, u64)> {
    let steps = directory.steps().into_iter().filter_map(|step| match step.action {
        Action::Allocate { offset, length } => Some(("allocate", offset.0, length)),
        Action::Punch { offset, length } => Some(("punch", offset.0, length)),
        _ => None,
    });
    let actions = steps.collect();
    directory.record(true);
    actions
}

/// What was written and synced since the recording began.
fn written(directory: &SimDirectory) -> Vec<(u64, u64)> {
    let steps = directory.steps().into_iter().filter_map(|step| match step.action {
        Action::Write { offset, bytes, durable: true } => Some((offset.0, to_u64(bytes.len()))),
        _ => None,
    });
    steps.collect()
}

/// A segment that a dead writer made would pass for one that was made since the last freeze, and be stored into.
#[test]
fn no_two_writers_have_the_same_number_for_their_segments() {
    let (_, medium) = file();
    let numbers = [(); 3].map(|()| random(&medium).unwrap());
    assert!(numbers[0] != numbers[1] && numbers[1] != numbers[2], "{numbers:?}");
}

#[test]
fn a_length_is_made_whole_pages_within_the_limit() {
    let medium = SimDirectory::new(1 << 20).create("pack").unwrap();
    medium.allocate(Offset(0), 5000).unwrap();
    let error = whole_pages(&medium, 8191).unwrap_err();
    assert!(matches!(error, Error::LimitReached { needed: 8192, limit: 8191, .. }), "{error}");
    assert_eq!(medium.length().unwrap(), 5000);
    assert_eq!(whole_pages(&medium, 8192).unwrap(), 8192);
    assert_eq!(medium.length().unwrap(), 8192);
    assert_eq!(whole_pages(&medium, 0).unwrap(), 8192, "nothing is needed");
}

#[test]
fn the_heads_and_the_rest_of_the_log_are_made_private() {
    let (directory, medium) = file();
    let heads = [64, 128, 192].map(|kib| ("allocate", kib << 10, PAGE_BYTES));
    let private = |tail: Tail, file_bytes: u64| {
        make_private(&medium, &tail, file_bytes).unwrap();
        let actions = actions(&directory);
        assert_eq!(actions[..3], heads);
        actions[3]
    };
    let page = START + PAGE_BYTES;
    assert_eq!(private(tail(page + 64, page + 40_960), 4 << 20), ("allocate", page, 40_960), "up to the chunk's end");
    assert_eq!(private(tail(page, page + 40_960), page + 8192), ("allocate", page, 8192), "up to the file's end");
    assert_eq!(private(tail(page, 1 << 40), 4 << 20), ("allocate", page, 2 << 20), "no forged chunk has more");
}

#[test]
fn what_lies_between_the_chunks_of_the_log_is_given_back() {
    let (directory, medium) = file();
    let chunk = |at: u64, bytes: u64| Passed { jump: Offset::NONE, chunk: Region { offset: Offset(at), bytes } };
    let mut scan = scan(tail(START, START));
    scan.chunks = vec![chunk(2 << 20, 1 << 16), chunk(1 << 20, 1 << 16)];
    give_back(&medium, &scan, Extents::behind((1 << 19) + 1), (3 << 20) - 1).unwrap();
    let first = (1 << 19) + PAGE_BYTES;
    let expected = [
        ("punch", first, (1 << 20) - first),
        ("punch", (1 << 20) + (1 << 16), (1 << 20) - (1 << 16)),
        ("punch", (2 << 20) + (1 << 16), (1 << 20) - (1 << 16)),
    ];
    assert_eq!(actions(&directory), expected);
    give_back(&medium, &scan, Extents::behind(1 << 20), (1 << 20) + (1 << 16)).unwrap();
    assert_eq!(actions(&directory), [], "all of it is a chunk");
    scan.cut = true;
    give_back(&medium, &scan, Extents::behind(1 << 19), 3 << 20).unwrap();
    assert_eq!(actions(&directory), [], "what damage has cut off stays");
}

#[test]
fn large_blobs_of_the_log_are_not_given_back() {
    let (directory, medium) = file();
    let (none, algorithm) = (Offset::NONE, Algorithm::Sha256);
    let blob = |id: u64, length| BlobRecord {
        tag: 9,
        id: Offset(id),
        length,
        algorithm,
        references: 1,
        held: 0,
        first_out: none,
        first_in: none,
        out_count: 0,
    };
    // The large one takes a page with its header, and seventeen with its payload.
    let blobs = [blob((1 << 20) + PAGE_BYTES - 64, LARGE_BYTES + 1), blob(START + 64, LARGE_BYTES - 1)];
    let images = blobs.map(|blob| Image { record: Record::Blob(blob), removed: false });
    let mut end = tail(START + 640, START + (1 << 16));
    let fields = CommitFields { sequence: 1, durable_upto: none, counters: Default::default() };
    write(&medium, START + 640, &encode_group(MARKER, &mut end, &images, &[], &fields));
    let mut scan = scan(end);
    let (commits, counters) = (vec![Offset(START + 640)], Default::default());
    scan.groups = vec![Group { commits, tail: end, durable_upto: none, sequence: 1, counters, images: 2 }];
    let mut extents = Extents::behind(1 << 19);
    images.iter().for_each(|image| extents.add(&image.record));
    give_back(&medium, &scan, extents, 2 << 20).unwrap();
    let after = (1 << 20) + 18 * PAGE_BYTES;
    assert_eq!(actions(&directory), [("punch", 1 << 19, 1 << 19), ("punch", after, (2 << 20) - after)]);
}

/// Without syncs nothing in the log vouches for what came since the checkpoint: where one of its payloads was rotten,
/// all that came after it was dropped, and nobody was told.
#[test]
fn what_a_killed_process_was_told_is_there_or_missed() {
    for durability in [Durability::PowerLoss, Durability::Process] {
        let directory = SimDirectory::new(64 << 20);
        let options = || Store::options().durability(durability);
        let store = options().create_in(directory.create("a.pack").unwrap()).unwrap().unwrap();
        let digests: Vec<Digest> = (0..8u8).map(|byte| store.put(&[byte; 100]).unwrap().digest).collect();
        let id = |digest| store.shared().source().view().blob_record(digest).unwrap().unwrap().id;
        for number in [0, 3, 7] {
            let mut bytes = directory.bytes("a.pack").unwrap();
            bytes[to_usize(id(&digests[number]).0) + 100] ^= 1;
            let open_after = |boot: Option<u64>| {
                let killed = SimDirectory::new(64 << 20);
                killed.insert("a.pack", bytes.clone());
                if let Some(boot) = boot {
                    killed.set_boot(boot);
                }
                options().open_in(killed.open("a.pack", true).unwrap(), How::Open).map(Option::unwrap)
            };
            let is_cut = durability == Durability::Process || number == 7;
            let context = format!("{durability:?}, blob {number}");
            match open_after(Some(directory.boot())) {
                Ok(store) => assert!(!is_cut && store.stats().unwrap().blobs == 8, "{context}"),
                Err(error) => {
                    assert!(is_cut && error.to_string().contains("more was acknowledged"), "{context}: {error}")
                }
            }
            // After a power cut it may be torn.
            let store = open_after(None).unwrap();
            let left = if is_cut { number as u64 } else { 8 };
            assert_eq!((store.stats().unwrap().blobs, store.recovery().dropped_commits), (left, 8 - left), "{context}");
        }
    }
}

/// A large blob whose place was given out before the checkpoint, and whose bytes were not synced, was left as it was:
/// the checkpoint that ended the recovery counted on it, and a power cut took it.
#[test]
fn what_no_later_commit_vouches_for_is_written_again_and_synced() {
    let (directory, medium) = file();
    let begin = (2 << 20) + 64;
    let published = |id, synced| Published { id: Offset(id), checksum: 0, synced };
    let blob = |at: u64, length| {
        let digest = Digest::of(Algorithm::Sha256, &at.to_le_bytes());
        write(&medium, at, BlobHeader::new(MARKER, Offset(at), &digest, length).bytes());
    };
    let [before, large, synced, small] = [1, 2, 130, 150].map(|kib| START + (kib << 10));
    let cut_off = (4 << 20) - LARGE_BYTES;
    for (at, length) in [(before, LARGE_BYTES), (large, LARGE_BYTES), (synced, LARGE_BYTES), (small, LARGE_BYTES - 1)] {
        blob(at, length);
    }
    blob(cut_off, LARGE_BYTES);
    let mut scan = scan(tail(begin, (2 << 20) + (1 << 16)));
    let mut end = scan.from;
    let mut commit = |durable_upto, published: &[Published]| {
        let at = end.at;
        let fields = CommitFields { sequence: 1, durable_upto, counters: Default::default() };
        write(&medium, at.0, &encode_group(MARKER, &mut end, &[], published, &fields));
        let counters = Default::default();
        scan.groups.push(Group { commits: vec![at], tail: end, durable_upto, sequence: 1, counters, images: 0 });
        end.at
    };
    let vouched = commit(Offset::NONE, &[published(before, false)]);
    let last = [published(large, false), published(synced, true), published(small, false), published(cut_off, false)];
    let until = commit(vouched, &last);
    scan.tail = end;
    let bytes = || {
        let mut bytes = vec![0; 4 << 20];
        medium.read_at(Offset(0), &mut bytes).unwrap();
        bytes
    };
    let there = bytes();
    directory.record(true);
    rewrite(&medium, &scan, 4 << 20).unwrap();
    let written = written(&directory);
    assert_eq!(written, [(large, LARGE_BYTES + 64), (vouched.0, until.0 - vouched.0), (cut_off, LARGE_BYTES)]);
    assert!(bytes() == there, "the same bytes");
}

/// In a log they do not: a forged one had its bytes written again for each of them.
#[test]
fn what_blobs_that_lie_over_one_another_have_in_common_is_written_again_once() {
    let (directory, medium) = file();
    let blob = |at: u64, length| {
        let digest = Digest::of(Algorithm::Sha256, &at.to_le_bytes());
        write(&medium, at, BlobHeader::new(MARKER, Offset(at), &digest, length).bytes());
        Published { id: Offset(at), checksum: 0, synced: false }
    };
    let [first, within, across] = [1, 65, 129].map(|kib| START + (kib << 10));
    let (long, short) = (blob(first, 3 * LARGE_BYTES), blob(within, LARGE_BYTES));
    let last = blob(across, 2 * LARGE_BYTES);
    let mut end = tail((2 << 20) + 64, (2 << 20) + (1 << 16));
    let mut scan = scan(end);
    let begin = end.at;
    let published = [last, long, short, long];
    let fields = CommitFields { sequence: 1, durable_upto: Offset::NONE, counters: Default::default() };
    write(&medium, begin.0, &encode_group(MARKER, &mut end, &[], &published, &fields));
    let (counters, durable_upto) = (Default::default(), Offset::NONE);
    scan.groups = vec![Group { commits: vec![begin], tail: end, durable_upto, sequence: 1, counters, images: 0 }];
    scan.tail = end;
    directory.record(true);
    rewrite(&medium, &scan, 4 << 20).unwrap();
    let (middle, log) = (first + 64 + 3 * LARGE_BYTES, end.at.0 - begin.0);
    let rest = across + 64 + 2 * LARGE_BYTES - middle;
    assert_eq!(written(&directory), [(first, middle - first), (middle, rest), (begin.0, log)]);
}

#[test]
fn a_long_log_is_written_again_in_pieces_chunk_by_chunk() {
    let (directory, medium) = file();
    let mut scan = scan(tail(START + 64, START + (1 << 16)));
    let second = Region { offset: Offset(1 << 20), bytes: 2 << 20 };
    scan.chunks = vec![Passed { jump: Offset(START + 128), chunk: second }];
    scan.tail = Tail { at: Offset((5 << 19) + 64), ..tail(1 << 20, 3 << 20) };
    let written = |scan: &Scan| {
        directory.record(true);
        rewrite(&medium, scan, 4 << 20).unwrap();
        written(&directory)
    };
    let last = (2 << 20, (1 << 19) + 64);
    assert_eq!(written(&scan), [(START + 64, 128), (1 << 20, 1 << 20), last]);
    let durable_upto = Offset((1 << 20) + 640);
    let (counters, commits) = (Default::default(), Vec::new());
    scan.groups = vec![Group { commits, tail: scan.tail, durable_upto, sequence: 1, counters, images: 0 }];
    let (from, end) = (durable_upto.0, (2 << 20) + 640);
    assert_eq!(written(&scan), [(from, 1 << 20), (end, (5 << 19) + 64 - end)]);
}
