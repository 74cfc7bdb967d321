//! Whole packs, opened: what is written, what readers are told, and what a view of the log shows.
#![allow(clippy::unwrap_used, reason = "tests")]

use zerocopy::little_endian::U32;
use zerocopy::{FromZeros, IntoBytes};

use super::tests::{MARKER, START, tail, write};
use super::*;
use crate::digest::Algorithm;
use crate::format::{BlobHeader, CHUNK_ALIGN, Counters, IDENTITY_AT, Identity, MAGIC, VERSION};
use crate::log::{CommitFields, Published, encode_group, seal_blob};
use crate::medium::{Action, Sim, SimDirectory};
use crate::record::BlobRecord;

const SLOTS: u32 = 63;
/// Images in each of a log's commits: together they do not fit into one segment.
const IMAGES: u64 = 40;

/// A pack that holds nothing, with the end of its log.
fn pack() -> (SimDirectory, Arc<Sim>, Tail) {
    let directory = SimDirectory::new(32 << 20);
    let medium = directory.create("pack").unwrap();
    Superblocks::allocate_heads(&medium).unwrap();
    assert!(medium.try_lock().unwrap());
    let identity =
        Identity { magic: MAGIC, version: U32::new(VERSION), marker: U64::new(MARKER), ..Identity::new_zeroed() };
    let identity = identity.sealed();
    write(&medium, IDENTITY_AT.0, identity.as_bytes());
    let mut space = Space::empty(MARKER, SLOTS, u64::MAX);
    let mut end = Tail { chunk: Offset::NONE, ..tail(START, START) };
    let head = end.begin_chunk(MARKER, space.allocate(&medium, CHUNK_ALIGN, CHUNK_ALIGN).unwrap());
    write(&medium, START, head.as_bytes());
    let mut table = Table::create(&medium, &mut space, SLOTS, 0, 7).unwrap();
    let live = table.freeze(2).live;
    let blank = Superblock { identity, slots: U32::new(SLOTS), ..Superblock::new_zeroed() };
    let nothing = CountersNow::default();
    Superblocks::write_both(&medium, &blank, |before| next_superblock(before, &end, &space, live, nothing)).unwrap();
    (directory, Arc::new(medium), end)
}

fn blob(number: u64) -> Record {
    let (none, algorithm) = (Offset::NONE, Algorithm::Sha256);
    let (tag, id) = ((number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15), Offset(START + 64 * number));
    let (first_out, first_in) = (none, none);
    Record::Blob(BlobRecord {
        tag,
        id,
        length: 5,
        algorithm,
        references: 1,
        held: 0,
        first_out,
        first_in,
        out_count: 0,
    })
}

/// Writes three commits; returns where each ends.
fn commits(medium: &Sim, end: &mut Tail) -> [Offset; 3] {
    [0, 1, 2].map(|number| {
        let images: Vec<Image> = (number * IMAGES..(number + 1) * IMAGES)
            .map(|number| Image { record: blob(number), removed: false })
            .collect();
        let counters = Counters { commits: U64::new(number + 1), ..Counters::default() };
        let fields = CommitFields { sequence: 2, durable_upto: Offset::NONE, counters };
        let at = end.at.0;
        write(medium, at, &encode_group(MARKER, end, &images, &[], &fields));
        end.at
    })
}

/// How many commits the records of a view come from, each whole, and in how many segments they are.
fn shown<M: Medium>(view: &View<M>) -> (u64, u64) {
    let there = |number| {
        let record = blob(number);
        view.record(record.key(), record.tag()).unwrap() == Some(record)
    };
    let count = (0..3 * IMAGES).take_while(|&number| there(number)).count() as u64;
    let (mut next, mut walked, mut segments) = (Some(0), 0, 0);
    while let Some(tag) = next {
        let (records, after) = view.records_from(tag).unwrap();
        (next, walked, segments) = (after, walked + records.len() as u64, segments + 1);
    }
    assert_eq!((walked, count % IMAGES), (count, 0));
    (count / IMAGES, segments)
}

#[test]
fn a_pack_with_nothing_behind_its_checkpoint_gets_no_other() {
    let (_, medium, mut end) = pack();
    let sequence = || open(&medium, u64::MAX, false).unwrap().1.superblocks.newest.sequence.get();
    assert_eq!([sequence(), sequence()], [2, 2]);
    commits(&medium, &mut end);
    assert_eq!([sequence(), sequence()], [3, 3], "one for all that was replayed");
}

#[test]
fn after_a_failure_readers_are_shown_the_log_up_to_what_was_acknowledged() {
    let (_, medium, mut end) = pack();
    let begin = end.at;
    let [first, second, third] = commits(&medium, &mut end);
    let counts = [begin, first, second, third].map(|upto| shown(&view_of_log(&medium, upto).unwrap()).0);
    assert_eq!(counts, [0, 1, 2, 3]);
    for upto in [second.0 - 64, third.0 + 64] {
        let error = view_of_log(&medium, Offset(upto)).err().unwrap();
        assert!(error.to_string().contains("ends before what was acknowledged"), "{error}");
    }
}

#[test]
fn a_reader_says_what_the_newest_commit_and_the_segments_come_to() {
    let (_, medium, mut end) = pack();
    commits(&medium, &mut end);
    medium.unlock();
    let (view, _) = attach(medium.clone()).unwrap();
    let (count, segments) = shown(&view);
    assert!(count == 3 && segments > 1, "{segments}");
    let (counters, found) = look(&view).unwrap();
    assert_eq!((counters.commits, found), (3, segments));
}

#[test]
fn an_index_that_is_made_in_memory_holds_all_of_the_log() {
    let (_, medium, mut end) = pack();
    commits(&medium, &mut end);
    let superblocks = Superblocks::read(medium.as_ref()).unwrap();
    assert_eq!(shown(&rebuild_in_memory(&medium, &superblocks, &end).unwrap()).0, 3);
}

/// A reader that is attached sees by the notice that there is another writer, and that its pack is not superseded.
#[test]
fn each_writer_has_a_notice_of_its_own() {
    let (_, medium, _) = pack();
    medium.store(live::NOTICE, &[7 | live::SUPERSEDED]).unwrap();
    let notice = || open(&medium, u64::MAX, false).unwrap().0.notice();
    assert_eq!([notice(), notice()], [8, 10]);
}

/// A rebuild kept what it had taken by then: each attempt left less room for the next one.
#[test]
fn what_finds_the_disk_full_gives_back_what_it_took() {
    for bring_up in [open, rebuild] {
        let (directory, medium, mut end) = pack();
        commits(&medium, &mut end);
        let used = directory.used();
        let mut pages = 0;
        let view = loop {
            directory.set_capacity(used + pages * PAGE_BYTES);
            match bring_up(&medium, u64::MAX, false) {
                Ok((view, ..)) => break view,
                Err(error) => assert!(matches!(error, Error::NoSpace { .. }), "{error}"),
            }
            assert_eq!(directory.used(), used, "{pages} pages");
            pages += 1;
        };
        assert!(pages > 8 && shown(&view).0 == 3, "{pages}");
    }
}

/// No jump leads to where the log goes on. With one superblock only a rotten page would cost all that comes after.
#[test]
fn both_superblocks_lead_to_a_log_that_goes_on_elsewhere() {
    for (moved, expected) in [(false, (9, 2)), (true, (10, 9))] {
        let (_, medium, end) = pack();
        let mut superblocks = Superblocks::read(medium.as_ref()).unwrap();
        let mut space = Space::new(&superblocks.newest, u64::MAX);
        let mut table = Table::new(SLOTS, live_of(&superblocks), 2, 7);
        let tail = Tail { epoch: 6, ..end };
        finish(medium.as_ref(), &mut superblocks, &mut table, &mut space, &tail, (8, moved), CountersNow::default())
            .unwrap();
        let found = Superblocks::read(medium.as_ref()).unwrap();
        assert_eq!((found.newest.sequence.get(), found.oldest()), expected);
        assert_eq!(found.newest.epoch.get(), 6);
        assert_eq!(found.older.unwrap().epoch.get(), if moved { 6 } else { 1 });
    }
}

/// A small file took minutes to open, and gigabytes were written.
#[test]
fn a_blob_that_a_log_publishes_again_and_again_is_not_written_again_for_each() {
    const COUNT: usize = 40;
    // One commit, or many; those that nobody vouches for, or the last one, which is torn.
    for (commits, torn) in [(1, false), (1, true), (COUNT, false), (COUNT, true)] {
        let (directory, medium, mut end) = pack();
        let id = Offset(2 << 20);
        let payload = vec![7; 1 << 20];
        let header = BlobHeader::new(MARKER, id, &Digest::of(Algorithm::Sha256, &payload), to_u64(payload.len()));
        medium.allocate(id, 2 << 20).unwrap();
        write(&medium, id.0, &[header.bytes(), &payload].concat());
        let mut crc = crc32fast::Hasher::new();
        crc.update(&payload);
        let blob = Published { id, checksum: seal_blob(&header, crc), synced: false };
        let mut commit = |durable_upto, published: &[Published]| {
            let fields = CommitFields { sequence: 2, durable_upto, counters: Counters::default() };
            let at = end.at.0;
            write(&medium, at, &encode_group(MARKER, &mut end, &[], published, &fields));
            end.at
        };
        let ends: Vec<_> = (0..commits).map(|_| commit(Offset::NONE, &vec![blob; COUNT / commits])).collect();
        if torn {
            commit(ends[commits - 1], &[Published { checksum: !blob.checksum, ..blob }]);
        }
        directory.record(true);
        let (_, _, report) = open(&medium, u64::MAX, false).unwrap();
        let bytes = directory.steps().into_iter().map(|step| match step.action {
            Action::Write { bytes, .. } => to_u64(bytes.len()),
            _ => 0,
        });
        let written: u64 = bytes.sum();
        assert!(written < 4 << 20, "{commits} commits, torn: {torn}: {written} bytes");
        assert_eq!(report.replayed_commits + report.dropped_commits, commits as u64 + u64::from(torn));
        assert!(report.dropped_commits > 0, "{report:?}");
    }
}
