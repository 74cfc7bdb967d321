//! How an input stands for the bytes of a pack.
//!
//! A pack is mostly zeros, and nearly all of its bytes are covered by checksums: a fuzzer that changed them as they are would
//! hardly get beyond the first one. So an input lists the bytes that are not zero, and may ask for all checksums to be made right
//! again after that.

use blobpack::format::{
    Entry, FrameHeader, Identity, Kind, Offset, Publication, SPACE_AT, SUPERBLOCKS_AT, SegmentHeader, Superblock,
    checksum_without,
};
use zerocopy::{FromBytes, IntoBytes};

/// The rest of the input is the file as it is.
pub const RAW: u8 = 1;
/// All checksums are made right.
pub const SEALED: u8 = 2;
/// No file is longer.
pub const BYTES_MAX: usize = 4 << 20;
/// Where a record has its checksum.
const RECORD_CHECKSUM_AT: usize = 56;
/// Zeros that are shorter are listed with what surrounds them.
const GAP: usize = 16;

/// The file that an input stands for.
#[allow(dead_code, reason = "one body makes its files in another way")]
pub fn decode(input: &[u8]) -> Vec<u8> {
    let Some((&mode, mut rest)) = input.split_first() else { return Vec::new() };
    let mut bytes;
    if mode & RAW != 0 {
        bytes = rest[..rest.len().min(BYTES_MAX)].to_vec();
    } else {
        let length = take_u32(&mut rest).map_or(0, |length| length as usize % (BYTES_MAX + 1));
        bytes = vec![0; length];
        while let (Some(at), Some(count)) = (take_u32(&mut rest), take_u16(&mut rest)) {
            let piece = rest.split_off(..usize::from(count).min(rest.len())).unwrap_or_default();
            let at = at as usize % (BYTES_MAX + 1);
            for (to, from) in bytes.iter_mut().skip(at).zip(piece) {
                *to = *from;
            }
        }
    }
    if mode & SEALED != 0 {
        seal(&mut bytes);
    }
    bytes
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(*rest.split_off(..4)?.first_chunk()?))
}

fn take_u16(rest: &mut &[u8]) -> Option<u16> {
    Some(u16::from_le_bytes(*rest.split_off(..2)?.first_chunk()?))
}

/// The input that stands for a file.
#[allow(dead_code, reason = "only what makes the seeds needs it")]
pub fn encode(mode: u8, bytes: &[u8]) -> Vec<u8> {
    let mut input = vec![mode];
    input.extend(u32::try_from(bytes.len()).expect("seeds are short").to_le_bytes());
    let mut at = 0;
    while let Some(skip) = bytes[at..].iter().position(|&byte| byte != 0) {
        at += skip;
        let most = &bytes[at..bytes.len().min(at + usize::from(u16::MAX))];
        let end = most.windows(GAP).position(|gap| gap.iter().all(|&byte| byte == 0)).unwrap_or(most.len());
        input.extend(u32::try_from(at).expect("seeds are short").to_le_bytes());
        input.extend(u16::try_from(end).expect("cut above").to_le_bytes());
        input.extend(&most[..end]);
        at += end;
    }
    input
}

/// Makes all checksums right that can be found.
pub fn seal(bytes: &mut [u8]) {
    let Some(marker) = seal_identities(bytes) else { return };
    let mut commit = 0;
    for at in (SPACE_AT.0 as usize..bytes.len()).step_by(64) {
        if word(bytes, at) == Some(marker) && bytes.len() - at >= 64 {
            seal_frame(bytes, at, &mut commit);
        }
    }
    for at in SUPERBLOCKS_AT {
        seal_checkpoint(bytes, at.0 as usize);
    }
}

fn seal_identities(bytes: &mut [u8]) -> Option<u64> {
    let mut marker = None;
    for at in [Offset(0), SUPERBLOCKS_AT[0], SUPERBLOCKS_AT[1]] {
        let Some(place) = bytes.get_mut(at.0 as usize..) else { break };
        let Ok((identity, _)) = Identity::mut_from_prefix(place) else { break };
        *identity = identity.sealed();
        marker = marker.or(Some(identity.marker.get()));
    }
    marker
}

fn seal_checkpoint(bytes: &mut [u8], at: usize) {
    let Some(Ok((mut head, _))) = bytes.get(at..).map(Superblock::read_from_prefix) else { return };
    // A pack without a commit names none, and no checksum.
    if head.commit.get() != 0
        && let Some(checksum) = word32(bytes, head.commit.get() as usize, FrameHeader::CHECKSUM_AT)
    {
        head.commit_checksum.set(checksum);
    }
    head = head.sealed();
    bytes[at..at + size_of::<Superblock>()].copy_from_slice(head.as_bytes());
    for index in 0..1usize << head.depth.get().min(8) {
        let entry = (head.directory.get() as usize).checked_add(8 * index).and_then(|at| word(bytes, at));
        let Some(segment) = entry.map(|entry| Entry::unpack(entry).segment.0 as usize) else { return };
        let Some(Ok((header, mut slots))) = bytes.get_mut(segment..).map(SegmentHeader::mut_from_prefix) else {
            return;
        };
        *header = header.sealed();
        for _ in 0..head.slots.get().min(63) {
            let Some(record) = slots.split_off_mut(..64) else { break };
            // A slot that was never used has no checksum either.
            if record[..8] != [0; 8] {
                seal_at(record, RECORD_CHECKSUM_AT);
            }
        }
    }
}

/// `commit` is the checksum of the commit frame before.
fn seal_frame(bytes: &mut [u8], at: usize, commit: &mut u32) {
    let (before, frame) = bytes.split_at_mut(at);
    let Ok(head) = FrameHeader::read_from_prefix(frame).map(|(head, _)| head) else { return };
    let room = frame.len() - 64;
    let body = (head.length.get() as usize).min(room);
    match Kind::from_code(head.kind) {
        Some(Kind::Commit) => {
            frame[48..52].copy_from_slice(&commit.to_le_bytes());
            seal_body(before, &mut frame[64..64 + body]);
            let checksum = crc32fast::hash(&frame[64..64 + body]);
            frame[52..56].copy_from_slice(&checksum.to_le_bytes());
            seal_at(&mut frame[..64], FrameHeader::CHECKSUM_AT);
            *commit = u32::from_le_bytes([frame[12], frame[13], frame[14], frame[15]]);
        }
        Some(kind @ (Kind::Chunk | Kind::Jump)) => {
            let place = if kind == Kind::Chunk { 56 } else { 48 };
            frame[place..place + 4].copy_from_slice(&commit.to_le_bytes());
            seal_at(&mut frame[..64], FrameHeader::CHECKSUM_AT);
        }
        Some(Kind::Blob) if head.algorithm != 1 && room >= 64 => {
            seal_at(&mut frame[..128], FrameHeader::CHECKSUM_AT);
        }
        _ => seal_at(&mut frame[..64], FrameHeader::CHECKSUM_AT),
    }
}

/// Images and publications of a commit; `before` is the file up to it.
fn seal_body(before: &[u8], body: &mut [u8]) {
    let count = |at: usize, body: &[u8]| word(body, at).map_or(0, |count| count.min(1 << 16) as usize);
    let (images, published) = (count(16, body), count(24, body));
    let mut rest = body.get_mut(128..).unwrap_or_default();
    for _ in 0..images {
        let Some(image) = rest.split_off_mut(..64) else { return };
        seal_at(image, RECORD_CHECKSUM_AT);
    }
    for _ in 0..published {
        let Some(place) = rest.split_off_mut(..size_of::<Publication>()) else { return };
        let Ok(publication) = Publication::mut_from_bytes(place) else { return };
        let at = publication.offset.get() as usize;
        let Some(Ok((head, _))) = before.get(at..).map(FrameHeader::read_from_prefix) else { continue };
        let header_bytes = if head.algorithm == 1 { 64 } else { 128 };
        let payload = before.get(at + header_bytes..).and_then(|rest| rest.get(..head.length.get() as usize));
        if let (Some(payload), Some(header)) = (payload, before.get(at..at + header_bytes)) {
            let mut checksum = crc32fast::Hasher::new();
            checksum.update(payload);
            checksum.update(header);
            publication.checksum.set(checksum.finalize());
        }
    }
}

fn seal_at(bytes: &mut [u8], field: usize) {
    let checksum = checksum_without(bytes, field);
    bytes[field..field + 4].copy_from_slice(&checksum.to_le_bytes());
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn word32(bytes: &[u8], at: usize, field: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at.checked_add(field)?..)?.first_chunk()?))
}
