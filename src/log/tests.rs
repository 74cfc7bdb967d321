//! Frames come back as they were encoded, and a walk ends where the chain breaks.
#![allow(clippy::unwrap_used, reason = "tests")]

use zerocopy::FromZeros;

use super::*;
use crate::digest::{Algorithm, Digest};
use crate::format::FILE_BYTES_MAX;
use crate::medium::{Sim, SimDirectory};
use crate::record::{LinkRecord, Record};

const MARKER: u64 = 99;
const FILE_BYTES: u64 = 1 << 20;

fn image(number: u64) -> Image {
    let [from, to] = [Offset(64 * number), Offset(64 * number + 64)];
    let [next_out, previous_out, next_in, previous_in] = [Offset::NONE; 4];
    let link = LinkRecord { tag: 2 + number, from, to, next_out, previous_out, next_in, previous_in };
    Image { record: Record::Link(link), removed: number % 2 == 1 }
}

fn published(number: u32) -> Published {
    Published { id: Offset(u64::from(number) << 20), checksum: number + 7, synced: number % 2 == 1 }
}

fn fields(sequence: u64) -> CommitFields {
    let counters = Counters { blobs: U64::new(sequence + 50), ..Counters::default() };
    CommitFields { sequence, durable_upto: Offset(1000 + sequence), counters }
}

/// A log of two chunks' length, and where it stands.
struct Log {
    medium: Sim,
    tail: Tail,
}

impl Log {
    fn new() -> Log {
        let medium = SimDirectory::new(FILE_BYTES).create("blobs.pack").unwrap();
        medium.allocate(Offset(FILE_BYTES - 1), 1).unwrap();
        let mut tail = Tail {
            epoch: 3,
            chunk: Offset::NONE,
            chunk_end: 0,
            at: Offset::NONE,
            commit: Offset::NONE,
            commit_checksum: 0,
        };
        let head = tail.begin_chunk(MARKER, Region { offset: SPACE_AT, bytes: 2 * CHUNK_ALIGN });
        let log = Log { medium, tail };
        log.write(SPACE_AT, head.as_bytes());
        log
    }

    fn write(&self, at: Offset, bytes: &[u8]) {
        self.medium.write_at(at, &[bytes], false).unwrap();
    }

    /// Appends a group of one frame, with two images.
    fn commit(&mut self, sequence: u64) {
        let at = self.tail.at;
        let images = [image(sequence), image(sequence + 1)];
        let bytes = encode_group(
            MARKER,
            &mut self.tail,
            &images,
            &[published(4), published(5), published(6)],
            &fields(sequence),
        );
        self.write(at, &bytes);
    }

    /// Appends one frame of a group, encoded as if the log stood as `tail` says.
    fn part(&mut self, mut tail: Tail, place: (usize, bool)) {
        let at = tail.at;
        let bytes = encode_part(MARKER, &mut tail, &[image(1)], &fields(1), place);
        self.write(at, &bytes);
        self.tail = tail;
    }

    /// What a walk from `from` finds: the groups, and where it ends.
    fn walked(&self, from: Tail) -> (Vec<Group>, Tail, Vec<Passed>) {
        let mut groups = Vec::new();
        let (tail, passed) = walk(&self.medium, MARKER, from, FILE_BYTES, |group| {
            groups.push(group);
            Ok(())
        })
        .unwrap();
        (groups, tail, passed)
    }
}

/// A frame of this kind with any detail and body.
fn frame<T: IntoBytes + zerocopy::Immutable>(kind: Kind, at: Offset, length: u64, detail: &T) -> Frame {
    Frame::parse(FrameHeader::plain(MARKER, kind, at, length, detail_bytes(detail)).as_bytes(), MARKER, at).unwrap()
}

#[test]
fn a_walk_finds_all_groups_and_where_the_log_stands() {
    let mut log = Log::new();
    let start = log.tail;
    let mut commits = vec![log.tail.at];
    log.commit(10);
    let first = log.tail;

    let digest = Digest::of(Algorithm::Sha512, b"payload");
    let blob = BlobHeader::new(MARKER, log.tail.at, &digest, 7);
    log.write(log.tail.at, blob.bytes());
    log.tail.at = Frame::parse(blob.bytes(), MARKER, log.tail.at).unwrap().end();
    let (name, _) = seal_name(MARKER, log.tail.at, "latest");
    log.write(log.tail.at, name.as_bytes());
    log.write(Offset(log.tail.at.0 + 64), b"latest");
    log.tail.at = Offset(log.tail.at.0 + 128);
    let two = log.tail.at;
    log.part(log.tail, (0, false));
    commits.extend([two, log.tail.at]);
    log.part(log.tail, (1, true));
    let second = log.tail;

    let region = Region { offset: Offset(SPACE_AT.0 + 3 * CHUNK_ALIGN), bytes: CHUNK_ALIGN };
    let jump_at = log.tail.at;
    let ((at, jump), (to, chunk)) = log.tail.jump(MARKER, region);
    assert_eq!((at, to), (jump_at, region.offset));
    assert_eq!((log.tail.at.0, log.tail.room()), (region.offset.0 + 64, CHUNK_ALIGN - 128));
    log.write(at, jump.as_bytes());
    log.write(to, chunk.as_bytes());
    log.tail.epoch += 1;
    commits.push(log.tail.at);
    log.commit(12);

    let (groups, tail, passed) = log.walked(start);
    assert_eq!(tail, log.tail);
    assert_eq!(groups.iter().map(|group| group.tail).collect::<Vec<_>>(), [first, second, log.tail]);
    assert_eq!(groups.iter().map(|group| group.images).collect::<Vec<_>>(), [2, 2, 2]);
    assert_eq!(groups.iter().flat_map(|group| group.commits.clone()).collect::<Vec<_>>(), commits);
    assert_eq!(groups.iter().map(|group| group.sequence).collect::<Vec<_>>(), [10, 1, 12]);
    assert_eq!(groups.iter().map(|group| group.durable_upto.0).collect::<Vec<_>>(), [1010, 1001, 1012]);
    assert_eq!(groups[2].counters, fields(12).counters);
    assert_eq!(passed.iter().map(|passed| (passed.jump, passed.chunk)).collect::<Vec<_>>(), [(jump_at, region)]);
    let whole = history(&log.medium, MARKER, &tail, FILE_BYTES).unwrap();
    assert_eq!((whole.commits, whole.groups, whole.images), (commits, 3, 6));

    let up_to_jump = Region { offset: start.at, bytes: jump_at.0 + 64 - start.at.0 };
    let behind = Region { offset: region.offset, bytes: tail.at.0 - region.offset.0 };
    assert_eq!(spans(&start, &passed, &tail), [up_to_jump, behind]);
    let before = Region { offset: start.at, bytes: second.at.0 - start.at.0 };
    assert_eq!(spans(&start, &passed, &second), [before], "the walk had gone beyond this tail");

    // A part of the last group lies behind the end of the file.
    let mut found = 0;
    let count = |_| {
        found += 1;
        Ok(())
    };
    let (cut, passed) = walk(&log.medium, MARKER, start, tail.at.0 - 1, count).unwrap();
    assert_eq!((cut, found, passed.len()), (second, 2, 0));
}

#[test]
fn a_commit_comes_back_as_it_was_encoded() {
    let mut log = Log::new();
    let at = log.tail.at;
    log.commit(10);
    let read = |end| Commit::read(&log.medium, MARKER, at, end).unwrap();
    let commit = read(log.tail.at.0).unwrap();
    assert!(commit.is_last() && commit.frame.end() == log.tail.at && commit.frame.checksum == log.tail.commit_checksum);
    assert!(commit.images().eq([Some(image(10)), Some(image(11))]));
    let expected = [4, 5, 6].map(|number| (published(number).id, published(number).checksum, number == 5));
    assert!(commit.published().map(|blob| (blob.id, blob.checksum, blob.synced)).eq(expected));
    assert!(read(log.tail.at.0 - 1).is_none(), "it ends behind the end");
    assert!(read(at.0 + 63).is_none() && read(at.0).is_none() && read(0).is_none(), "so does its header");
    assert!(Commit::read(&log.medium, MARKER, SPACE_AT, FILE_BYTES).unwrap().is_none(), "a chunk is no commit");
    let part = log.tail.at;
    log.part(log.tail, (0, false));
    assert!(!Commit::read(&log.medium, MARKER, part, FILE_BYTES).unwrap().unwrap().is_last());
}

#[test]
fn a_commit_that_contradicts_itself_is_none() {
    let at = Offset(SPACE_AT.0 + 64);
    let parsed = |kind, length, images: u64, published: u64, spoil: u32| {
        let body = CommitBody {
            images: U64::new(images),
            published: U64::new(published),
            ..CommitBody::read_from_bytes(&[0; 128]).unwrap()
        };
        let mut bytes = body.as_bytes().to_vec();
        bytes.resize(256, 0);
        let mut detail = CommitDetail::read_from_bytes(&[0; 32]).unwrap();
        detail.body_checksum = U32::new(crc32fast::hash(&bytes) ^ spoil);
        Commit::parse(frame(kind, at, length, &detail), bytes)
    };
    assert!(parsed(Kind::Commit, 256, 2, 0, 0).is_some());
    assert!(parsed(Kind::Commit, 256, 1, 4, 0).is_some());
    assert!(parsed(Kind::Name, 256, 2, 0, 0).is_none(), "another kind");
    assert!(parsed(Kind::Commit, 320, 2, 0, 0).is_none(), "a part of the body is missing");
    assert!(parsed(Kind::Commit, 256, 2, 0, 1).is_none(), "the checksum is wrong");
    assert!(parsed(Kind::Commit, 256, 3, 0, 0).is_none(), "more images than there is room for");
    assert!(parsed(Kind::Commit, 256, 2, 1, 0).is_none(), "more publications than there is room for");
    assert!(parsed(Kind::Commit, 256, u64::MAX / 64, 0, 0).is_none());
    assert!(parsed(Kind::Commit, 256, 0, u64::MAX, 0).is_none());
}

/// Recovery counts up from both; that overflowed.
#[test]
fn a_commit_whose_sequence_or_epoch_nobody_reaches_is_none() {
    let parsed = |sequence, epoch| {
        let mut body = CommitBody::read_from_bytes(&[0; 128]).unwrap();
        body.sequence = U64::new(sequence);
        let mut detail = CommitDetail::read_from_bytes(&[0; 32]).unwrap();
        (detail.epoch, detail.body_checksum) = (U64::new(epoch), U32::new(crc32fast::hash(body.as_bytes())));
        let frame = frame(Kind::Commit, Offset(SPACE_AT.0 + 64), 128, &detail);
        Commit::parse(frame, body.as_bytes().to_vec())
    };
    assert!(parsed(SEQUENCE_MAX, SEQUENCE_MAX).is_some());
    assert!(parsed(SEQUENCE_MAX + 1, 0).is_none());
    assert!(parsed(0, u64::MAX).is_none());
}

#[test]
fn a_group_of_several_frames_takes_the_room_that_was_reserved() {
    let most = IMAGES_MAX;
    for (images, publications, frames) in [(0, 0, 1), (1, 0, 1), (1, 1, 1), (7, 3, 1), (most + 1, most, 2)] {
        let all: Vec<Image> = (0..images).map(image).collect();
        let blobs = vec![published(1); to_usize(publications)];
        let mut tail = Log::new().tail;
        let start = tail.at;
        let bytes = encode_group(MARKER, &mut tail, &all, &blobs, &fields(1));
        let length = to_u64(bytes.len());
        assert_eq!(tail.at.0, start.0 + length);
        assert!((length..=length + 64 * frames).contains(&group_bytes(images, publications)), "{images} images");
        let mut at = 0;
        for position in 0..frames {
            let frame = Frame::parse(&bytes[at..], MARKER, Offset(start.0 + to_u64(at))).unwrap();
            let body = at + 64..at + 64 + to_usize(frame.length);
            at = body.end;
            if frames > 1 && position == 0 {
                // The longest that is ever read.
                assert!((frame.length..=frame.length + 64).contains(&COMMIT_BYTES_MAX));
            }
            let commit = Commit::parse(frame, bytes[body].to_vec()).unwrap();
            assert_eq!((u64::from(commit.detail.position.get()), commit.is_last()), (position, position + 1 == frames));
        }
        assert_eq!(at, bytes.len());
    }
}

#[test]
fn a_commit_that_claims_more_than_any_has_is_not_read() {
    let log = Log::new();
    let at = log.tail.at;
    let detail = CommitDetail::read_from_bytes(&[0; 32]).unwrap();
    let read = |length| {
        let header = FrameHeader::plain(MARKER, Kind::Commit, at, length, detail_bytes(&detail));
        log.write(at, header.as_bytes());
        Commit::read(&log.medium, MARKER, at, FILE_BYTES_MAX)
    };
    assert!(read(COMMIT_BYTES_MAX + 1).unwrap().is_none());
    assert!(matches!(read(COMMIT_BYTES_MAX), Err(Error::Io { .. })), "it is looked for in the file");
}

#[test]
fn a_walk_ends_at_a_commit_that_does_not_belong() {
    type Change = fn(&mut Tail);
    let cases: [(&str, (usize, bool), Change, bool); 7] = [
        ("the next", (0, true), |_| (), true),
        ("of a later epoch", (0, true), |tail| tail.epoch += 1, true),
        ("of an earlier epoch", (0, true), |tail| tail.epoch -= 1, false),
        ("behind another commit", (0, true), |tail| tail.commit = SPACE_AT, false),
        ("behind a commit with another checksum", (0, true), |tail| tail.commit_checksum ^= 1, false),
        ("the second of a group without a first", (1, true), |_| (), false),
        ("the first of a group without a second", (0, false), |_| (), false),
    ];
    for (what, place, change, belongs) in cases {
        let mut log = Log::new();
        let start = log.tail;
        log.commit(1);
        let good = log.tail;
        let mut tail = good;
        change(&mut tail);
        log.part(tail, place);
        let (groups, tail, _) = log.walked(start);
        assert_eq!(groups.len(), if belongs { 2 } else { 1 }, "{what}");
        assert_eq!(tail, if belongs { log.tail } else { good }, "{what}");
    }
}

#[test]
fn a_walk_ends_at_a_jump_or_chunk_that_does_not_belong() {
    type Change = fn(&mut Tail);
    let nothing: Change = |_| ();
    let next = SPACE_AT.0 + 2 * CHUNK_ALIGN;
    let cases: [(&str, Change, Change, u64, bool); 10] = [
        ("as it is", nothing, nothing, next, true),
        ("a jump of a later epoch", |tail| tail.epoch += 1, nothing, next, true),
        ("a chunk of a later epoch", nothing, |tail| tail.epoch += 1, next, true),
        ("a jump of an earlier epoch", |tail| tail.epoch -= 1, nothing, next, false),
        ("a chunk of an earlier epoch", nothing, |tail| tail.epoch -= 1, next, false),
        ("a jump behind another commit", |tail| tail.commit_checksum ^= 1, nothing, next, false),
        ("a chunk behind another commit", nothing, |tail| tail.commit_checksum ^= 1, next, false),
        ("a chunk behind another chunk", nothing, |tail| tail.chunk.0 += CHUNK_ALIGN, next, false),
        ("a jump into its own chunk", nothing, nothing, SPACE_AT.0 + CHUNK_ALIGN, false),
        ("a jump to no chunk", nothing, |tail| tail.at.0 += 64, next + 64, false),
    ];
    for (what, jump_change, chunk_change, target, belongs) in cases {
        let mut log = Log::new();
        let start = log.tail;
        log.commit(1);
        let good = log.tail;
        let region = Region { offset: Offset(target), bytes: CHUNK_ALIGN };
        let (mut for_jump, mut for_chunk) = (good, good);
        jump_change(&mut for_jump);
        chunk_change(&mut for_chunk);
        let ((at, jump), _) = for_jump.jump(MARKER, region);
        log.write(at, jump.as_bytes());
        log.write(region.offset, for_chunk.begin_chunk(MARKER, region).as_bytes());
        log.tail.jump(MARKER, region);
        log.commit(2);
        let (groups, tail, passed) = log.walked(start);
        assert_eq!(groups.len(), if belongs { 2 } else { 1 }, "{what}");
        assert_eq!(passed.len(), usize::from(belongs), "{what}");
        assert_eq!(tail, if belongs { log.tail } else { good }, "{what}");
    }
}

#[test]
fn a_history_that_contradicts_itself_is_damage() {
    let mut log = Log::new();
    log.commit(1);
    let first = log.tail;
    assert_eq!(history(&log.medium, MARKER, &first, FILE_BYTES).unwrap().commits, [first.commit]);
    let damaged = |log: &Log, tail: &Tail, what: &str| {
        let error = history(&log.medium, MARKER, tail, FILE_BYTES).err().unwrap();
        assert!(error.is_damage() && error.to_string().contains(what), "{error}");
    };
    damaged(&log, &Tail { commit_checksum: first.commit_checksum ^ 1, ..first }, "not the one");
    damaged(&log, &Tail { commit: SPACE_AT, ..first }, "is damaged");
    log.part(Tail { commit: first.at, ..first }, (0, true));
    damaged(&log, &log.tail, "in a circle");
}

#[test]
fn a_chunk_stands_where_chunks_can_and_reaches_as_far_as_they_may() {
    let log = Log::new();
    let read = |at: u64, length: u64, kind| {
        let at = Offset(at);
        let detail = ChunkDetail { length: U64::new(length), ..ChunkDetail::read_from_bytes(&[0; 32]).unwrap() };
        log.write(at, FrameHeader::plain(MARKER, kind, at, 0, detail_bytes(&detail)).as_bytes());
        read_chunk(&log.medium, MARKER, at, FILE_BYTES).unwrap().map(|chunk| chunk.length.get())
    };
    let first = SPACE_AT.0;
    assert_eq!(read(first, CHUNK_ALIGN, Kind::Chunk), Some(CHUNK_ALIGN));
    assert_eq!(read(first, 128, Kind::Chunk), Some(128), "it has room for itself and a jump");
    assert_eq!(read(first, 127, Kind::Chunk), None);
    assert_eq!(read(first, FILE_BYTES_MAX - first, Kind::Chunk), Some(FILE_BYTES_MAX - first));
    assert_eq!(read(first, FILE_BYTES_MAX, Kind::Chunk), None);
    assert_eq!(read(first, CHUNK_ALIGN, Kind::Jump), None);
    assert_eq!(read(first + 4096, CHUNK_ALIGN, Kind::Chunk), None);
    assert_eq!(read(first - CHUNK_ALIGN, CHUNK_ALIGN, Kind::Chunk), None);
    assert_eq!(read(first + CHUNK_ALIGN, CHUNK_ALIGN, Kind::Chunk), Some(CHUNK_ALIGN));
}

#[test]
fn chunks_have_room_for_their_frame_and_a_jump() {
    assert_eq!(chunk_bytes(CHUNK_ALIGN - 128, 0), CHUNK_ALIGN);
    assert_eq!(chunk_bytes(CHUNK_ALIGN - 127, 0), 2 * CHUNK_ALIGN);
    assert_eq!(chunk_bytes(1, 1 << 20), 1 << 20);
    assert_eq!(chunk_bytes(1 << 20, 1 << 20), (1 << 20) + CHUNK_ALIGN);
    let log = Log::new();
    assert_eq!(log.tail.room(), 2 * CHUNK_ALIGN - 128);
    assert_eq!(Tail { at: Offset(log.tail.chunk_end - 64), ..log.tail }.room(), 0);
    assert_eq!(Tail { at: Offset(log.tail.chunk_end), ..log.tail }.room(), 0);
}

#[test]
fn a_name_comes_back_only_whole() {
    let log = Log::new();
    let at = log.tail.at;
    let longest = "n".repeat(to_usize(NAME_BYTES_MAX));
    for text in ["latest", &longest] {
        let (header, checksum) = seal_name(MARKER, at, text);
        log.write(at, header.as_bytes());
        log.write(Offset(at.0 + 64), text.as_bytes());
        let frame = Frame::parse(header.as_bytes(), MARKER, at).unwrap();
        let expected = Some(Name::new(text).unwrap());
        assert_eq!(name_in(&frame, text.as_bytes()), expected);
        assert_eq!(name_in(&frame, &text.as_bytes()[1..]), None);
        let read = |end: u64| read_name(&log.medium, MARKER, at, end).unwrap();
        assert_eq!(read(frame.end().0), expected);
        assert_eq!(read(frame.end().0 - 1), None, "it ends behind the end");
        let mut both = text.as_bytes().to_vec();
        both.extend_from_slice(header.as_bytes());
        assert_eq!(checksum, crc32fast::hash(&both));
    }
    let detail = |text: &str| {
        let body_checksum = U32::new(crc32fast::hash(text.as_bytes()));
        NameDetail { body_checksum, reserved: [0; 28] }
    };
    assert_eq!(name_in(&frame(Kind::Commit, at, 6, &detail("latest")), b"latest"), None, "another kind");
    assert_eq!(name_in(&frame(Kind::Name, at, 7, &detail("latest")), b"latest"), None, "a part is missing");
    assert_eq!(name_in(&frame(Kind::Name, at, 6, &detail("latest")), b"latesT"), None, "the checksum is wrong");
    assert_eq!(read_name(&log.medium, MARKER, SPACE_AT, FILE_BYTES).unwrap(), None, "a chunk is no name");
}

#[test]
fn a_blobs_publication_vouches_for_payload_and_header() {
    let digest = Digest::of(Algorithm::Sha256, b"payload");
    let header = BlobHeader::new(MARKER, SPACE_AT, &digest, 7);
    let mut payload = crc32fast::Hasher::new();
    payload.update(b"payload");
    let mut both = b"payload".to_vec();
    both.extend_from_slice(header.bytes());
    assert_eq!(seal_blob(&header, payload), crc32fast::hash(&both));
}

/// The four bytes that give what they follow this checksum.
fn patch(bytes: &[u8], checksum: u32) -> u32 {
    let of = |patch: u32| crc32fast::hash(&[bytes, &patch.to_le_bytes()].concat());
    let (mut basis, mut wanted, mut patch) = ([(0, 0); 32], checksum ^ of(0), 0);
    for bit in (0..32).map(|number| 1 << number) {
        let (mut change, mut by) = (of(bit) ^ of(0), bit);
        while change != 0 {
            let place = &mut basis[change.ilog2() as usize];
            if place.0 == 0 {
                *place = (change, by);
                break;
            }
            (change, by) = (change ^ place.0, by ^ place.1);
        }
    }
    while wanted != 0 {
        let (change, by) = basis[wanted.ilog2() as usize];
        (wanted, patch) = (wanted ^ change, patch ^ by);
    }
    patch
}

/// Bytes that a thousand commits claim would be read a thousand times. Who knows the sums can make them agree.
#[test]
fn a_history_of_commits_that_lie_over_one_another_is_damage() {
    let mut log = Log::new();
    let begin = log.tail;
    let (before, length) = (128, 640);
    let detail = CommitDetail { body_checksum: U32::new(7), last: U32::new(1), ..CommitDetail::new_zeroed() };
    let outer = FrameHeader::plain(MARKER, Kind::Commit, begin.at, length, detail_bytes(&detail));
    let commit_checksum = outer.checksum.get();
    log.tail = Tail { at: Offset(begin.at.0 + 64 + before), commit: begin.at, commit_checksum, ..begin };
    let at = log.tail.at;
    let inner = encode_group(MARKER, &mut log.tail, &[], &[], &fields(1));
    let mut body = vec![0; to_usize(length) - 4];
    body[to_usize(before)..][..inner.len()].copy_from_slice(&inner);
    let patch = patch(&body, 7);
    body.extend_from_slice(&patch.to_le_bytes());
    log.write(begin.at, &[outer.as_bytes(), &body].concat());
    assert!(Commit::read(&log.medium, MARKER, begin.at, FILE_BYTES).unwrap().is_some());
    assert!(Commit::read(&log.medium, MARKER, at, FILE_BYTES).unwrap().is_some());
    let error = history(&log.medium, MARKER, &log.tail, FILE_BYTES).err().unwrap();
    assert!(error.to_string().contains("a commit of the log is damaged"), "{error}");
}
