//! What a look at the log finds: where it ends, what was lost or dropped behind that, and where it goes on.
#![allow(clippy::unwrap_used, reason = "tests")]

use zerocopy::little_endian::{U32, U64};

use super::*;
use crate::digest::Algorithm;
use crate::format::{BlobHeader, CommitBody, CommitDetail, LARGE_BYTES, PAGE_BYTES, Superblock, to_u64};
use crate::log::{CommitFields, Published, encode_group, seal_blob, seal_name};
use crate::medium::{Sim, SimDirectory};
use crate::recovery::tests::{MARKER, START, file, scan, tail, write};
use crate::space::Region;

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
        let superblocks = Superblocks { identity: newest.identity, newest, slot: 0, older: None, cut_off: None };
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

/// A forged log may publish the same bytes again and again.
#[test]
fn payloads_are_read_up_to_the_length_of_the_file() {
    let file_bytes = 4 << 20;
    let replayed = |length: u64, groups: &[usize]| {
        let mut pack = Pack::new();
        let id = Offset((4 << 20) - 64 - length);
        let header = BlobHeader::new(MARKER, id, &Digest::of(Algorithm::Sha256, b"forged"), length);
        write(&pack.medium, id.0, header.bytes());
        let mut crc = crc32fast::Hasher::new();
        crc.update(&vec![0; usize::try_from(length).unwrap()]);
        let blob = Published { id, checksum: seal_blob(&header, crc), synced: false };
        for count in groups {
            pack.commit(SEQUENCE, Offset::NONE, &vec![blob; *count]);
        }
        pack.run(false).unwrap().report.replayed_commits
    };
    let half = file_bytes / 2 - 64;
    assert_eq!([1, 2, 3].map(|count| replayed(half, &[count])), [1, 1, 0]);
    assert_eq!(replayed(half, &[1; 4]), 2, "many commits publish it");
    assert_eq!(replayed(half, &[1, 2]), 1);
    assert_eq!(replayed(half + 64, &[1; 4]), 1, "headers count");
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

/// A forged log may hold many frames that claim the same bytes as their bodies.
#[test]
fn bodies_of_commits_are_read_up_to_twice_the_length_of_what_is_looked_at() {
    let found = |forged: u64| {
        let (_, medium) = file();
        let to = START + (1 << 16);
        for at in (0..forged).map(|number| START + 64 * number) {
            let header = FrameHeader::plain(MARKER, Kind::Commit, Offset(at), to - at - 64, [0; 32]);
            write(&medium, at, header.as_bytes());
        }
        let published = [Published { id: Offset(START), checksum: 0, synced: false }; 20];
        let fields = CommitFields { sequence: 1, durable_upto: Offset::NONE, counters: Default::default() };
        write(&medium, START + 8192, &encode_group(MARKER, &mut tail(START + 8192, to), &[], &published, &fields));
        let mut behind = Behind::default();
        behind.look(&medium, MARKER, Offset(START), to).unwrap();
        behind.commits.len()
    };
    assert_eq!([0, 1, 2].map(found), [1, 1, 0]);
}

/// Its images are what a stranger had stored, perhaps.
#[test]
fn a_commit_inside_of_another_one_is_none() {
    let (_, medium) = file();
    let fields = CommitFields { sequence: 1, durable_upto: Offset::NONE, counters: Default::default() };
    let inner_at = START + 64 + 128;
    let inner = encode_group(MARKER, &mut tail(inner_at, START + (1 << 16)), &[], &[], &fields);
    let images = to_u64(inner.len() / 64);
    let body = CommitBody { images: U64::new(images), ..CommitBody::new_zeroed() };
    let body = [body.as_bytes(), &inner].concat();
    let checksum = U32::new(crc32fast::hash(&body));
    let detail = CommitDetail { body_checksum: checksum, last: U32::new(1), ..CommitDetail::new_zeroed() };
    let mut bytes = [0; 32];
    bytes.copy_from_slice(detail.as_bytes());
    let look = || {
        let mut behind = Behind::default();
        behind.look(&medium, MARKER, Offset(START), 1 << 20).unwrap();
        behind.commits.iter().map(|commit| commit.frame.offset.0).collect::<Vec<_>>()
    };
    write(&medium, START + 64, &body);
    assert_eq!(look(), [inner_at]);
    let header = FrameHeader::plain(MARKER, Kind::Commit, Offset(START), to_u64(body.len()), bytes);
    write(&medium, START, header.as_bytes());
    assert_eq!(look(), [START]);
}

#[test]
fn the_checksum_of_a_payload_is_that_of_all_its_bytes_and_its_header() {
    let (_, medium) = file();
    let (name, at) = ("a name", Offset(START));
    let (header, checksum) = seal_name(MARKER, at, name);
    write(&medium, at.0, header.as_bytes());
    write(&medium, at.0 + 64, name.as_bytes());
    let found = |at, end| payload_checksum(&medium, MARKER, at, end, &mut (4 << 20)).unwrap();
    assert_eq!(found(at, START + 70), Some(checksum));
    assert_eq!(found(at, START + 69), None, "the body is cut off");
    assert_eq!(found(Offset(START + 64), 4 << 20), None, "no frame");

    // More than is read at a time.
    let payload: Vec<u8> = (0..(1 << 20) + 5).map(|n: u32| n.to_le_bytes()[0]).collect();
    let at = Offset(START + 4096);
    let header = BlobHeader::new(MARKER, at, &Digest::of(Algorithm::Sha512, &payload), to_u64(payload.len()));
    write(&medium, at.0, header.bytes());
    write(&medium, at.0 + 128, &payload);
    let expected = crc32fast::hash(&[&payload, header.bytes()].concat());
    assert_eq!(found(at, 4 << 20), Some(expected));

    let plain = |kind, length| {
        let at = Offset(START + 256);
        write(&medium, at.0, FrameHeader::plain(MARKER, kind, at, length, [0; 32]).as_bytes());
        found(at, 4 << 20)
    };
    assert!(plain(Kind::Name, NAME_BYTES_MAX).is_some());
    assert_eq!(plain(Kind::Name, NAME_BYTES_MAX + 1), None, "no name is that long");
    assert_eq!(plain(Kind::Run, 0), None);
}

#[test]
fn frames_behind_the_end_are_found_wherever_they_stand() {
    let (_, medium) = file();
    let blob = |at: u64| {
        let digest = Digest::of(Algorithm::Sha256, &at.to_le_bytes());
        write(&medium, at, BlobHeader::new(MARKER, Offset(at), &digest, 3).bytes());
        (Offset(at), digest)
    };
    let jump = |at: u64, target: u64| {
        let detail = JumpDetail { target: U64::new(target), ..JumpDetail::new_zeroed() };
        let mut bytes = [0; 32];
        bytes.copy_from_slice(detail.as_bytes());
        write(&medium, at, FrameHeader::plain(MARKER, Kind::Jump, Offset(at), 0, bytes).as_bytes());
    };
    let from = START + 64;
    let commit = START + 3 * LOOK_BYTES - 128;
    let fields = CommitFields { sequence: 1, durable_upto: Offset::NONE, counters: Default::default() };
    let bytes = encode_group(MARKER, &mut tail(commit, START + (1 << 16)), &[], &[], &fields);
    let end = commit + to_u64(bytes.len());
    write(&medium, commit, &bytes);
    let blobs = [from, from + 64, from + LOOK_BYTES, end].map(blob);
    blob(START); // This one stands before all that is looked at.
    jump(end + 64, (2 << 20) + 77);
    let look = |to: u64| {
        let mut found = Behind::default();
        let targets = found.look(&medium, MARKER, Offset(from - 1), to).unwrap();
        (found.blobs, found.commits.iter().map(|commit| commit.frame.offset.0).collect::<Vec<_>>(), targets)
    };
    let all = (blobs.to_vec(), vec![commit], vec![2 << 20]);
    assert_eq!(look(end + 128), all);
    assert_eq!(look(4 << 20), all);
    assert_eq!(look(end + 127), (blobs.to_vec(), vec![commit], vec![]), "half a header is none");
    assert_eq!(look(from), (vec![], vec![], vec![]));
    // The file ends there.
    let last = blob((4 << 20) - 128);
    let mut found = Behind::default();
    found.look(&medium, MARKER, last.0, 4 << 20).unwrap();
    assert_eq!(found.blobs, [last]);
}

#[test]
fn the_live_page_vouches_for_the_newest_commit_while_the_machine_runs() {
    let (directory, medium) = file();
    let found = |durable: u64, host: [u64; 5]| {
        medium.store(live::ACKNOWLEDGED, &[durable]).unwrap();
        medium.store(live::HOST, &host).unwrap();
        scan(tail(START + 640, START + (1 << 16))).check_live_page(&medium).unwrap().map(|(at, _)| at)
    };
    let host = host_words(&medium).unwrap();
    assert_eq!(found(START + 641, host), Some(Offset(START + 640)));
    assert_eq!(found(START + 640, host), None);
    for word in 0..5 {
        let mut other = host;
        other[word] += 1;
        assert_eq!(found(START + 641, other), None, "another boot, device or inode");
    }
    let crc = host[..4].iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    assert_eq!(host[4], u64::from(crc32fast::hash(&crc)));
    drop(directory);
    // The page lies outside a file that is shorter.
    let medium = SimDirectory::new(1 << 20).create("short").unwrap();
    medium.allocate(Offset(0), live::HOST.0 + 39).unwrap();
    assert!(scan(tail(START, START)).check_live_page(&medium).unwrap().is_none());
}
