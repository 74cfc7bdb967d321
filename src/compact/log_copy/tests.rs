//! When the new log goes on in another chunk, and how long that is.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::format::{Kind, SPACE_AT};
use crate::log::{read_frame, read_name};
use crate::medium::SimDirectory;

#[test]
fn the_new_log_goes_on_in_another_chunk_only_where_the_frame_does_not_fit() {
    let medium = SimDirectory::new(4 << 20).create("new").unwrap();
    let mut space = Space::empty(99, 63, u64::MAX);
    let mut log = LogCopy::new(&medium, &mut space, 99, 100_000, 3).unwrap();
    let first = Offset(SPACE_AT.0);
    assert_eq!((log.tail.chunk, log.tail.chunk_end), (first, first.0 + (128 << 10)), "as long as what is to come");
    let names = ["a", &"long".repeat(30)].map(|name| Name::new(name).unwrap());
    let places = [log.name(&names[0]).unwrap(), log.name(&names[1]).unwrap()];
    assert_eq!(places, [64, 64 + 128].map(|at| Offset(first.0 + at)));
    assert_eq!((log.tail.at, log.left), (Offset(first.0 + 64 + 128 + 192), 100_000 - 320));
    let room = log.tail.room();
    log.make_room(room).unwrap();
    assert_eq!((log.tail.chunk, log.left), (first, 0), "it fits exactly");
    log.make_room(room + 1).unwrap();
    let second = Offset(first.0 + (128 << 10));
    assert_eq!(
        (log.tail.chunk, log.tail.chunk_end, log.tail.at),
        (second, second.0 + (128 << 10), Offset(second.0 + 64))
    );
    log.flush().unwrap();
    let end = medium.length().unwrap();
    for (at, name) in places.into_iter().zip(names) {
        assert_eq!(read_name(&medium, 99, at, end).unwrap(), Some(name));
    }
    let kind = |at: u64| read_frame(&medium, 99, Offset(at), end).unwrap().map(|frame| frame.kind);
    assert_eq!([first.0, first.0 + 384, second.0].map(kind), [Kind::Chunk, Kind::Jump, Kind::Chunk].map(Some));
}

#[test]
fn the_first_chunk_of_the_new_log_has_room_for_its_own_frames_too() {
    let medium = SimDirectory::new(4 << 20).create("new").unwrap();
    let mut chunk = |bytes| {
        let mut space = Space::empty(99, 63, u64::MAX);
        let log = LogCopy::new(&medium, &mut space, 99, bytes, 3).unwrap();
        log.tail.chunk_end - log.tail.chunk.0
    };
    let most = CHUNK_ALIGN - 2 * 64;
    assert_eq!([1, most, most + 1].map(&mut chunk), [CHUNK_ALIGN, CHUNK_ALIGN, 2 * CHUNK_ALIGN]);
    assert_eq!(chunk(1 << 30), CHUNK_BYTES, "the rest goes into others");
}
