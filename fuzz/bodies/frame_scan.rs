//! Any bytes as frames: parsed at every place, walked forwards and backwards.

use blobpack::format::{BlobHeader, Frame, Kind, Offset, SPACE_AT};
use blobpack::log::{Commit, Tail, history, read_chunk, walk};
use blobpack::medium::{Medium, Sim, SimDirectory};
use blobpack::record::Image;

use super::image;

/// The input stands for a file as [`image::decode`] says. Its marker is where a pack has it.
pub fn run(input: &[u8]) {
    let bytes = image::decode(input);
    let marker = bytes.get(32..).and_then(|rest| rest.first_chunk()).map_or(0, |marker| u64::from_le_bytes(*marker));
    let directory = SimDirectory::new(0);
    directory.insert("frames", bytes.clone());
    let medium = directory.open("frames", false).expect("it was put there");
    let file_bytes = medium.length().expect("memory has a length");
    for at in (0..bytes.len()).step_by(64) {
        if let Some(frame) = Frame::parse(&bytes[at..], marker, Offset(at as u64)) {
            one(&medium, marker, &frame, file_bytes);
        }
    }
}

fn one(medium: &Sim, marker: u64, frame: &Frame, file_bytes: u64) {
    assert!(frame.end() > frame.offset);
    match (frame.kind, frame.digest) {
        (Kind::Blob, Some(digest)) => {
            let header = BlobHeader::new(marker, frame.offset, &digest, frame.length);
            assert_eq!(header.bytes().len() as u64, frame.header_bytes);
            let again = Frame::parse(header.bytes(), marker, frame.offset).expect("it was just made");
            assert_eq!((again.digest, again.length), (frame.digest, frame.length));
        }
        (Kind::Commit, _) => {
            let Ok(Some(commit)) = Commit::read(medium, marker, frame.offset, file_bytes) else { return };
            for image in commit.images().flatten() {
                assert_eq!(Image::parse(&image.bytes()).map(|again| again.bytes()), Some(image.bytes()));
            }
            assert!(commit.published().count() as u64 <= commit.body.published.get());
            let mut tail = tail(&commit, file_bytes);
            if let Ok(before) = history(medium, marker, &tail, file_bytes) {
                assert!(before.commits.is_sorted());
                assert_eq!(before.commits.last(), Some(&frame.offset));
            }
            forwards(medium, marker, tail, file_bytes);
            // As if the log began with it.
            tail.at = frame.offset;
            (tail.commit, tail.commit_checksum) =
                (Offset(commit.detail.previous.get()), commit.detail.previous_checksum.get());
            forwards(medium, marker, tail, file_bytes);
        }
        (Kind::Chunk, _) => {
            let Ok(Some(chunk)) = read_chunk(medium, marker, frame.offset, file_bytes) else { return };
            assert!(frame.offset >= SPACE_AT);
            let tail = Tail {
                epoch: chunk.epoch.get(),
                chunk: frame.offset,
                chunk_end: frame.offset.0.saturating_add(chunk.length.get()),
                at: frame.end(),
                commit: Offset::NONE,
                commit_checksum: chunk.commit_checksum.get(),
            };
            forwards(medium, marker, tail, file_bytes);
        }
        _ => {}
    }
}

/// The tail right behind a commit, in a chunk that takes all of the file.
fn tail(commit: &Commit, file_bytes: u64) -> Tail {
    Tail {
        epoch: commit.detail.epoch.get(),
        chunk: SPACE_AT,
        chunk_end: file_bytes,
        at: commit.frame.end(),
        commit: commit.frame.offset,
        commit_checksum: commit.frame.checksum,
    }
}

fn forwards(medium: &Sim, marker: u64, from: Tail, file_bytes: u64) {
    let mut at = from.at;
    let walked = walk(medium, marker, from, file_bytes, |group| {
        assert!(group.commits.is_sorted() && group.commits.first() >= Some(&at));
        at = group.tail.at;
        Ok(())
    });
    if let Ok((tail, chunks)) = walked {
        assert!(tail.at >= from.at && tail.at == at);
        assert!(chunks.iter().all(|passed| passed.chunk.offset < Offset(file_bytes)));
    }
}
