//! What a look at the log finds: where it ends, what was lost or dropped behind that, and where it goes on.
#![allow(clippy::unwrap_used, reason = "tests")]

use zerocopy::little_endian::U32;

use super::tests::{MARKER, START, file, tail, write};
use super::*;
use crate::digest::Algorithm;
use crate::format::{BlobHeader, Counters};
use crate::log::{CommitFields, Published, encode_group, seal_blob};
use crate::medium::{Sim, SimDirectory};

const CHUNK_END: u64 = START + CHUNK_ALIGN;
/// The sequence of the newest superblock.
const SEQUENCE: u64 = 5;

/// A pack with an empty log in its first chunk, to be written on frame by frame.
struct Pack {
    directory: SimDirectory,
    medium: Sim,
    superblocks: Superblocks,
    end: Tail,
}

impl Pack {
    fn new() -> Pack {
        let (directory, medium) = file();
        let mut newest = Superblock {
            sequence: U64::new(SEQUENCE),
            epoch: U64::new(1),
            slots: U32::new(63),
            end: U64::new(CHUNK_END),
            chunk: U64::new(START),
            chunk_end: U64::new(CHUNK_END),
            tail: U64::new(START + 64),
            ..Superblock::new_zeroed()
        };
        newest.identity.marker = U64::new(MARKER);
        let superblocks = Superblocks { identity: newest.identity, newest, slot: 0, older: None };
        Pack { directory, medium, superblocks, end: tail(START + 64, CHUNK_END) }
    }

    fn run(&self, repair: bool) -> Result<Scan> {
        Scan::run(&self.medium, &self.superblocks, repair)
    }

    /// Writes a blob's frame at the end.
    fn blob(&mut self, number: u64) -> (Published, Digest) {
        let payload = [number.to_le_bytes(); 8].concat();
        let digest = Digest::of(Algorithm::Sha256, &payload);
        let id = self.end.at;
        let header = BlobHeader::new(MARKER, id, &digest, 64);
        write(&self.medium, id.0, header.bytes());
        write(&self.medium, id.0 + 64, &payload);
        self.end.at = Offset(id.0 + 128);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&payload);
        (Published { id, checksum: seal_blob(&header, crc), synced: false }, digest)
    }

    /// Writes a commit at the end; returns where the log goes on behind it.
    fn commit(&mut self, sequence: u64, durable_upto: Offset, published: &[Published]) -> Offset {
        let counters = Counters { commits: U64::new(self.end.at.0), ..Counters::default() };
        let fields = CommitFields { sequence, durable_upto, counters };
        let at = self.end.at;
        write(&self.medium, at.0, &encode_group(MARKER, &mut self.end, &[], published, &fields));
        self.end.at
    }

    /// Goes on in a chunk of the shortest length, with a jump or without.
    fn chunk(&mut self, at: u64, by_jump: bool) {
        let region = Region { offset: Offset(at), bytes: CHUNK_ALIGN };
        let ((from, jump), (to, head)) = self.end.jump(MARKER, region);
        if by_jump {
            write(&self.medium, from.0, jump.as_bytes());
        }
        write(&self.medium, to.0, head.as_bytes());
    }
}

fn damage(found: Result<Scan>) -> String {
    match found {
        Err(error) if error.is_damage() => error.to_string(),
        Err(error) => panic!("{error}"),
        Ok(scan) => panic!("no damage: {:?}", scan.report),
    }
}

#[test]
fn commits_are_replayed_on_the_superblock_that_they_build_on_or_the_one_before() {
    for (sequence, lost) in [(SEQUENCE - 1, false), (SEQUENCE, false), (SEQUENCE + 1, true)] {
        let mut pack = Pack::new();
        let ends = [1, 2].map(|_| pack.commit(sequence, Offset::NONE, &[]));
        let scan = pack.run(false).unwrap();
        assert_eq!(scan.report, Recovery { replayed_commits: 2, lost_superblock: lost, ..Recovery::default() });
        assert_eq!((scan.tail.at, scan.residue, scan.cut), (ends[1], false, false));
        assert_eq!(scan.commits().collect::<Vec<_>>(), [Offset(START + 64), ends[0]]);
        assert_eq!(scan.counters(&Counters::default()).commits, ends[0].0, "those of the last commit");
    }
    let mut pack = Pack::new();
    pack.commit(SEQUENCE, Offset::NONE, &[]);
    pack.commit(SEQUENCE + 2, Offset::NONE, &[]);
    let told = damage(pack.run(false));
    assert!(told.contains("builds on a superblock that is not there"), "{told}");
    assert!(pack.run(true).unwrap().cut, "what was acknowledged may be missing");
}

#[test]
fn a_log_without_commits_ends_where_the_checkpoint_says() {
    let scan = Pack::new().run(false).unwrap();
    let before = Counters { commits: U64::new(77), ..Counters::default() };
    assert_eq!((scan.report.clone(), scan.residue, scan.cut), (Recovery::default(), false, false));
    assert_eq!((scan.tail.at, scan.vouched(), scan.commits().count()), (Offset(START + 64), Offset(START + 64), 0));
    assert_eq!(scan.counters(&before).commits, 77);
}

#[test]
fn a_commit_whose_payload_is_torn_is_the_end_unless_it_was_synced_or_vouched_for() {
    let torn = |synced: bool, is_vouched: bool| {
        let mut pack = Pack::new();
        let (sound, _) = pack.blob(1);
        pack.commit(SEQUENCE, Offset::NONE, &[sound]);
        let (blob, digest) = pack.blob(2);
        write(&pack.medium, blob.id.0 + 64, &[9]);
        let end = pack.commit(SEQUENCE, Offset::NONE, &[Published { synced, ..blob }]);
        let (third, also) = pack.blob(3);
        pack.commit(SEQUENCE, if is_vouched { end } else { Offset::NONE }, &[third]);
        (pack.run(false).unwrap(), blob.id, [digest, also])
    };
    let (scan, end, digests) = torn(false, false);
    assert_eq!((scan.report.replayed_commits, scan.report.dropped_commits, scan.tail.at), (1, 2, end));
    let mut dropped = digests.to_vec();
    dropped.sort_unstable();
    assert_eq!((&scan.report.dropped_blobs, scan.report.lost_blobs.len()), (&dropped, 0));
    assert!(scan.residue && !scan.cut, "nobody was told");
    for (synced, is_vouched) in [(true, false), (false, true)] {
        let (scan, ..) = torn(synced, is_vouched);
        assert_eq!((scan.report.replayed_commits, scan.report.dropped_commits, scan.residue), (3, 0, false));
    }
}

/// The chunk that the torn commit stands in is no part of the log any more, and it is looked through.
#[test]
fn a_commit_that_is_cut_off_in_the_next_chunk_is_reported_once() {
    let mut pack = Pack::new();
    let first = pack.commit(SEQUENCE, Offset::NONE, &[]);
    pack.chunk(1 << 20, true);
    pack.commit(SEQUENCE, Offset::NONE, &[]);
    let scan = pack.run(false).unwrap();
    let chunks = |scan: &Scan| scan.chunks.iter().map(|passed| passed.chunk.offset.0).collect::<Vec<_>>();
    assert_eq!((scan.report.replayed_commits, chunks(&scan), scan.residue), (2, vec![1 << 20], false));

    pack.chunk(2 << 20, true);
    let (blob, digest) = pack.blob(1);
    write(&pack.medium, blob.id.0 + 64, &[9]);
    let end = scan.tail.at;
    pack.commit(SEQUENCE, end, &[blob]);
    let scan = pack.run(false).unwrap();
    assert_eq!((scan.tail.at, chunks(&scan), scan.residue), (end, vec![1 << 20], true));
    let report =
        Recovery { replayed_commits: 2, dropped_commits: 1, dropped_blobs: vec![digest], ..Default::default() };
    assert_eq!(scan.report, report);
    assert!(end > first);
}

#[test]
fn what_was_acknowledged_behind_a_break_is_damage_wherever_it_stands() {
    for by_jump in [true, false] {
        let mut pack = Pack::new();
        let end = pack.commit(SEQUENCE, Offset::NONE, &[]);
        // This one is lost.
        pack.end.at = Offset(end.0 + 640);
        // Before the chunk behind it stands the payload of a large blob.
        write(&pack.medium, 2 << 20, &[1]);
        pack.chunk((3 << 20) + CHUNK_ALIGN, by_jump);
        let (blob, lost) = pack.blob(1);
        let durable = pack.commit(SEQUENCE, Offset::NONE, &[blob]);
        let (blob, dropped) = pack.blob(2);
        pack.commit(SEQUENCE, durable, &[blob]);
        let told = damage(pack.run(false));
        assert!(told.contains("later commits are there"), "{told}");
        let scan = pack.run(true).unwrap();
        let report = Recovery {
            replayed_commits: 1,
            lost_commits: 1,
            lost_blobs: vec![lost],
            dropped_commits: 1,
            dropped_blobs: vec![dropped],
            ..Recovery::default()
        };
        assert_eq!(scan.report, report);
        assert!(scan.cut && scan.residue && scan.tail.at == end);
    }
}

/// It lies before the end that the checkpoint knew: a commit had been given it and had not reached it yet.
#[test]
fn a_chunk_that_only_a_jump_leads_to_is_looked_at_too() {
    let mut pack = Pack::new();
    pack.superblocks.newest.end = U64::new(2 << 20);
    let end = pack.commit(SEQUENCE, Offset::NONE, &[]);
    pack.chunk(1 << 20, true);
    // The head of the chunk is damaged, so that nothing but the jump says that one is there.
    write(&pack.medium, 1 << 20, &[0; 64]);
    let first = pack.commit(SEQUENCE, Offset::NONE, &[]);
    pack.commit(SEQUENCE, first, &[]);
    damage(pack.run(false));
    let scan = pack.run(true).unwrap();
    assert_eq!((scan.report.lost_commits, scan.report.dropped_commits, scan.tail.at), (1, 1, end));
}

#[test]
fn a_repair_that_cut_something_off_in_place_is_not_undone_by_what_is_left_of_it() {
    let mut pack = Pack::new();
    let end = pack.end;
    let first = pack.commit(SEQUENCE, Offset::NONE, &[]);
    pack.commit(SEQUENCE, first, &[]);
    // The log goes on in a later epoch, in front of what stands there.
    pack.superblocks.newest.epoch = U64::new(2);
    pack.superblocks.newest.tail = U64::new(end.at.0);
    pack.superblocks.newest.commit = U64::new(end.at.0 - 64);
    let scan = pack.run(false).unwrap();
    assert!(!scan.cut && scan.report.lost_commits == 0);
    assert_eq!((scan.report.replayed_commits, scan.tail.at), (0, end.at));
}

#[test]
fn what_looks_like_a_frame_behind_the_end_counts_as_one_commit_that_was_dropped() {
    let behind = |bytes: &[(u64, u8)]| {
        let mut pack = Pack::new();
        let end = pack.commit(SEQUENCE, Offset::NONE, &[]);
        for (at, byte) in bytes {
            write(&pack.medium, end.0 + at, &[*byte]);
        }
        let scan = pack.run(false).unwrap();
        assert_eq!(scan.report.replayed_commits, 1);
        (scan.report.dropped_commits, scan.residue)
    };
    assert_eq!(behind(&[]), (0, false));
    let [marker] = [u8::try_from(MARKER).unwrap()];
    let marked: Vec<_> = (0..8).map(|n| (n, if n == 0 { marker } else { 0 })).collect();
    assert_eq!(behind(&marked), (1, true), "it begins with the marker");
    assert_eq!(behind(&[(40, 7)]), (0, true), "something else");
    assert_eq!(behind(&[(640, 7)]), (0, false), "what no frame stands before");
    // A blob whose commit never came.
    let mut pack = Pack::new();
    let end = pack.commit(SEQUENCE, Offset::NONE, &[]);
    pack.end.at = Offset(end.0 + 640);
    let (_, digest) = pack.blob(1);
    let scan = pack.run(false).unwrap();
    assert_eq!((scan.report.dropped_commits, scan.report.dropped_blobs, scan.residue), (1, vec![digest], true));
}

/// A blob of a dropped commit that a lost one stored as well is not dropped.
#[test]
fn a_blob_is_either_lost_or_dropped() {
    let mut pack = Pack::new();
    pack.commit(SEQUENCE, Offset::NONE, &[]);
    pack.end.at = Offset(pack.end.at.0 + 640);
    let (blob, digest) = pack.blob(1);
    let durable = pack.commit(SEQUENCE, Offset::NONE, &[blob]);
    let (blob, _) = pack.blob(1);
    pack.commit(SEQUENCE, durable, &[blob]);
    let scan = pack.run(true).unwrap();
    assert_eq!((scan.report.lost_blobs, scan.report.dropped_blobs), (vec![digest], vec![]));
}

#[test]
fn a_repair_does_not_ask_the_live_page() {
    let mut pack = Pack::new();
    let end = pack.commit(SEQUENCE, Offset::NONE, &[]);
    pack.medium.store(live::ACKNOWLEDGED, &[end.0]).unwrap();
    pack.medium.store(live::HOST, &host_words(&pack.medium).unwrap()).unwrap();
    pack.run(false).unwrap();
    pack.medium.store(live::ACKNOWLEDGED, &[end.0 + 64]).unwrap();
    let told = damage(pack.run(false));
    assert!(told.contains("more was acknowledged"), "{told}");
    let scan = pack.run(true).unwrap();
    assert!(!scan.cut && scan.report == Recovery { replayed_commits: 1, ..Recovery::default() });
}

#[test]
fn the_log_goes_on_elsewhere_where_something_stands_behind_it_or_its_chunk_is_cut_short() {
    let go_on = |residue: bool, cut: bool, missing: u64, is_full: bool| {
        let pack = Pack::new();
        let mut scan = pack.run(false).unwrap();
        (scan.residue, scan.cut) = (residue, cut);
        let mut space = Space::new(&pack.superblocks.newest, u64::MAX);
        space.skip_to(3 << 20);
        let mut end = scan.tail;
        if is_full {
            pack.directory.set_capacity(0);
        }
        let moved = scan.go_on(&pack.medium, &mut space, &mut end, CHUNK_END - missing);
        let is_moved = end != scan.tail;
        match moved {
            Ok(moved) => {
                assert_eq!(moved, is_moved);
                if moved {
                    assert_eq!((end.chunk.0, end.at.0), (3 << 20, (3 << 20) + 64));
                    let chunk = read_chunk(&pack.medium, MARKER, end.chunk, end.chunk_end).unwrap();
                    assert_eq!(chunk.unwrap().length.get(), CHUNK_ALIGN);
                }
                Some(moved)
            }
            Err(error) => {
                assert!(matches!(error, Error::NoSpace { .. }), "{error}");
                None
            }
        }
    };
    assert_eq!(go_on(false, false, 0, true), Some(false));
    assert_eq!(go_on(true, false, 0, false), Some(true));
    assert_eq!(go_on(false, false, 1, false), Some(true));
    // Nothing there was acknowledged: it may be written over.
    assert_eq!(go_on(true, false, 0, true), Some(false));
    assert_eq!(go_on(true, true, 0, true), None);
    assert_eq!(go_on(false, false, 1, true), None);
}

/// Its writer was killed. Its place is given back, and the log goes on where it is.
#[test]
fn a_large_blob_that_no_commit_published_is_no_part_of_the_log() {
    let mut pack = Pack::new();
    pack.commit(SEQUENCE, Offset::NONE, &[]);
    let id = Offset((2 << 20) + PAGE_BYTES - 64);
    let digest = Digest::of(Algorithm::Sha256, b"large");
    write(&pack.medium, id.0, BlobHeader::new(MARKER, id, &digest, LARGE_BYTES).bytes());
    let scan = pack.run(false).unwrap();
    assert_eq!(scan.report, Recovery { replayed_commits: 1, ..Recovery::default() });
    assert!(!scan.residue);
}
