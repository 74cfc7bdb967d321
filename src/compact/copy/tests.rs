//! Copies by themselves: what is copied together, what stands in the new file, and which blob an error names.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use zerocopy::FromZeros;
use zerocopy::little_endian::U64;

use super::*;
use crate::digest::Algorithm;
use crate::format::{Identity, SPACE_AT, to_u64};
use crate::medium::{Action, Sim, SimDirectory};

const MARKER: u64 = 99;
/// Where the first old frame stands, and the first new one.
const OLD: u64 = SPACE_AT.0;
const NEW: u64 = SPACE_AT.0 + 192;

/// Blobs in an old file, and the places that they are to get in a new one.
struct Files {
    directory: SimDirectory,
    view: View<Sim>,
    new: Sim,
    blobs: Vec<BlobRecord>,
    places: Vec<Offset>,
    payloads: Vec<Vec<u8>>,
}

fn payload(number: usize, length: u64) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(31) ^ at >> 8 ^ number as u64).to_le_bytes()[0]).collect()
}

impl Files {
    /// Blobs of these lengths, each so many bytes behind the one before in the old file, and in the new one.
    fn new(blobs: &[(u64, u64, u64)]) -> Files {
        let directory = SimDirectory::new(24 << 20);
        let mut identity = Identity::new_zeroed();
        identity.marker = U64::new(MARKER);
        identity.secret = std::array::from_fn(|at| (at * 37 % 251).to_le_bytes()[0]);
        directory.insert("old", vec![0; 1 << 20]);
        let old = Arc::new(directory.open("old", true).unwrap());
        let new = directory.create("new").unwrap();
        let view = View::new(old.clone(), &identity, 63).unwrap();
        let (mut from, mut to) = (OLD, NEW);
        let mut files = Files { directory, view, new, blobs: vec![], places: vec![], payloads: vec![] };
        for (number, (length, old_gap, new_gap)) in blobs.iter().enumerate() {
            let algorithm = if number % 3 == 1 { Algorithm::Sha512 } else { Algorithm::Sha256 };
            let payload = payload(number, *length);
            let digest = Digest::of(algorithm, &payload);
            let id = Offset(from + old_gap);
            let none = Offset::NONE;
            let blob = BlobRecord {
                tag: files.view.tagger().of_blob(&digest),
                id,
                length: *length,
                algorithm,
                references: 1,
                held: 0,
                first_out: none,
                first_in: none,
                out_count: 0,
            };
            // What stands behind a payload is none of the new file's business.
            let mut frame = vec![0xee; to_usize(blob.frame_bytes())];
            let header = BlobHeader::new(MARKER, id, &digest, *length);
            frame[..header.bytes().len()].copy_from_slice(header.bytes());
            frame[header.bytes().len()..][..payload.len()].copy_from_slice(&payload);
            old.write_at(id, &[&frame], false).unwrap();
            let place = Offset(to + new_gap);
            (from, to) = (id.0 + blob.frame_bytes(), place.0 + blob.frame_bytes());
            files.blobs.push(blob);
            files.places.push(place);
            files.payloads.push(payload);
        }
        files.new.allocate(Offset(0), to + 4096).unwrap();
        files
    }

    fn copying(&self) -> Copying<'_, Sim> {
        Copying { view: &self.view, new: &self.new, blobs: &self.blobs, places: &self.places }
    }

    /// Copies all; what was told on the way.
    fn copy(&self) -> Result<Vec<Progress>> {
        let mut told = Vec::new();
        self.copying().run(&mut |progress| told.push(progress))?;
        Ok(told)
    }

    fn flip(&self, at: u64) {
        let mut byte = [0];
        self.view.medium().read_at(Offset(at), &mut byte).unwrap();
        self.view.medium().write_at(Offset(at), &[&[byte[0] ^ 1]], false).unwrap();
    }

    /// Looks at every frame of the new file, and at what lies between them.
    fn check(&self) {
        let length = to_usize(self.new.length().unwrap());
        let (mut found, mut expected) = (vec![0; length], vec![0; length]);
        self.new.read_at(Offset(0), &mut found).unwrap();
        for ((blob, place), payload) in self.blobs.iter().zip(&self.places).zip(&self.payloads) {
            let header = BlobHeader::new(MARKER, *place, &Digest::of(blob.algorithm, payload), blob.length);
            let frame = [header.bytes(), payload].concat();
            expected[to_usize(place.0)..][..frame.len()].copy_from_slice(&frame);
        }
        assert!(found == expected);
    }
}

fn said(error: &Error, at: u64, what: &str) {
    assert!(matches!(error, Error::Damaged(damage) if damage.offset == at), "{at}: {error}");
    assert!(error.to_string().contains(what), "{error}");
}

#[test]
fn small_blobs_that_will_stand_one_behind_the_other_are_copied_together_up_to_a_mebibyte() {
    // How many blobs each part has.
    let parts = |blobs: &[(u64, u64, u64)]| {
        let parts = Files::new(blobs).copying().parts();
        assert!(parts.iter().flat_map(Range::clone).eq(0..blobs.len()), "each blob once, in order");
        parts.iter().map(Range::len).collect::<Vec<_>>()
    };
    assert!(parts(&[]).is_empty());
    assert_eq!(parts(&[(100, 0, 0), (7, 64, 0), (0, 0, 0)]), [3], "apart in the old file");
    assert_eq!(parts(&[(100, 0, 0), (7, 0, 64), (8, 0, 0)]), [1, 2], "apart in the new file");
    let large = LARGE_BYTES;
    assert_eq!(parts(&[(5, 0, 0), (large, 0, 0), (large, 0, 0), (5, 0, 0), (5, 0, 0)]), [1, 1, 1, 2]);
    // Sixteen frames of 64 KiB take a mebibyte; of every third the header is longer.
    let mut many: Vec<_> = (0..17).map(|number| (large - if number % 3 == 1 { 128 } else { 64 }, 0, 0)).collect();
    assert_eq!(parts(&many), [16, 1]);
    many[0].0 -= 64;
    many[1].0 += 63;
    assert_eq!(parts(&many), [16, 1]);
    many[2].0 += 1;
    assert_eq!(parts(&many), [15, 2], "one frame is longer");
}

#[test]
fn copies_have_the_same_bytes_and_headers_of_their_own() {
    let large = LARGE_BYTES + (1 << 20) + 5;
    let files =
        Files::new(&[(100, 0, 0), (3, 0, 0), (0, 640, 0), (7, 64, 64), (large, 64, 4096), (64, 0, 0), (65, 0, 0)]);
    let total = files.blobs.iter().map(|blob| blob.length).sum();
    let parts = [103, 110, 110 + large, total];
    assert_eq!(files.copy().unwrap(), parts.map(|done| Progress { done, total }));
    files.check();
}

#[test]
fn all_threads_together_copy_what_one_would() {
    let files = Files::new(&vec![(LARGE_BYTES, 0, 0); 80]);
    let told = files.copy().unwrap();
    files.check();
    let total = 80 * LARGE_BYTES;
    assert_eq!(told.last(), Some(&Progress { done: total, total }));
    assert!(told.iter().all(|told| told.total == total && told.done <= total));
    // The first failure is told, whichever thread comes first.
    for number in [70, 30, 5] {
        files.flip(files.blobs[number].id.0 + 300);
    }
    for _ in 0..10 {
        let header = header_bytes(files.blobs[5].algorithm);
        said(&files.copy().unwrap_err(), files.blobs[5].id.0 + header, "have the digest");
    }
}

#[test]
fn an_error_names_the_blob_that_is_damaged() {
    let new = || Files::new(&[(100, 0, 0), (50, 0, 0), (70, 0, 0), (LARGE_BYTES, 0, 0)]);
    for number in 0..4 {
        let files = new();
        let (id, header) = (files.blobs[number].id.0, header_bytes(files.blobs[number].algorithm));
        files.flip(id + header + 49);
        said(&files.copy().unwrap_err(), id + header, "have the digest");
        let files = new();
        files.flip(id + 20);
        // The bytes are whole, and say what the header was.
        files.copy().unwrap();
        files.check();
        files.flip(id + header + 49);
        said(&files.copy().unwrap_err(), id, "there is none");
        let mut files = new();
        files.blobs[number].tag ^= 1;
        said(&files.copy().unwrap_err(), id, "the tag of another digest");
    }
}

#[test]
fn where_a_run_cannot_be_read_each_blob_is_read_for_itself() {
    let files = Files::new(&[(100, 0, 0), (50, 0, 0), (70, 0, 0)]);
    // Nothing but what stands behind the second payload.
    let end = files.blobs[1].id.0 + 128 + 50;
    files.directory.set_unreadable("old", end..files.blobs[2].id.0);
    files.copy().unwrap();
    files.check();
    files.directory.set_unreadable("old", end - 1..end);
    let error = files.copy().unwrap_err();
    assert!(matches!(&error, Error::Io { operation: "read a payload", .. }), "{error}");
    files.flip(files.blobs[0].id.0 + 64);
    said(&files.copy().unwrap_err(), files.blobs[0].id.0 + 64, "have the digest");
}

#[test]
fn a_header_that_cannot_be_read_is_made_anew() {
    for length in [100, LARGE_BYTES] {
        let files = Files::new(&[(50, 0, 0), (length, 0, 0)]);
        let id = files.blobs[1].id.0;
        files.directory.set_unreadable("old", id..id + 64);
        files.copy().unwrap();
        files.check();
        files.directory.set_unreadable("old", id..id + header_bytes(files.blobs[1].algorithm) + 1);
        let error = files.copy().unwrap_err();
        assert!(matches!(&error, Error::Io { .. }), "{error}");
    }
}

/// Parts are written at once; a part's bytes are not written twice.
#[test]
fn a_part_is_one_write_and_a_large_blob_one_for_each_mebibyte() {
    let files = Files::new(&[(100, 0, 0), (3, 640, 0), ((1 << 20) + 1, 0, 0)]);
    files.directory.record(true);
    files.copy().unwrap();
    let steps = files.directory.steps().into_iter().filter_map(|step| match step.action {
        Action::Write { offset, bytes, durable } => Some((offset.0, to_u64(bytes.len()), durable)),
        _ => None,
    });
    let large = files.places[2].0;
    let expected = [
        (NEW, large - NEW, false),
        (large + 64, 1 << 20, false),
        (large + 64 + (1 << 20), 1, false),
        (large, 64, false),
    ];
    assert_eq!(steps.collect::<Vec<_>>(), expected);
}
