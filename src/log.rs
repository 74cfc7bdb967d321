//! The log: chunks of frames. This module encodes what is appended and walks what is there.
//!
//! A commit frame names the commit before it, by offset and checksum, and carries an epoch that only grows; a chunk
//! that is full ends in a jump to the next. So the walk from a superblock's tail knows the first frame that does not
//! belong, and the walk backwards from the newest commit reaches the pack's first.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use crate::error::{Error, Result};
use crate::format::{
    BlobHeader, CHUNK_ALIGN, ChunkDetail, CommitBody, CommitDetail, Counters, FRAME_ALIGN, Frame, FrameHeader,
    IMAGES_MAX, JumpDetail, Kind, NAME_BYTES_MAX, NameDetail, Offset, Publication, RECORD_BYTES, SEQUENCE_MAX,
    SPACE_AT, Superblock, align_up, crc, to_u64, to_usize,
};
use crate::medium::Medium;
use crate::name::Name;
use crate::record::Image;
use crate::space::Region;

mod ahead;
mod history;
#[cfg(test)]
mod tests;

pub use ahead::{Ahead, read_frame};
pub use history::{History, history};

/// The bytes of a jump or chunk frame.
pub const PLAIN_BYTES: u64 = 64;

/// Where the log stands: what the next frame must name, and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Of the frames to come.
    pub epoch: u64,
    /// The chunk that the log is in.
    pub chunk: Offset,
    /// Its end.
    pub chunk_end: u64,
    /// Where the next frame goes.
    pub at: Offset,
    /// The newest commit frame, or `NONE`.
    pub commit: Offset,
    /// Its header's checksum, or 0.
    pub commit_checksum: u32,
}

impl Tail {
    /// The tail that a superblock tells of.
    #[must_use]
    pub fn of(superblock: &Superblock) -> Tail {
        Tail {
            epoch: superblock.epoch.get(),
            chunk: Offset(superblock.chunk.get()),
            chunk_end: superblock.chunk_end.get(),
            at: Offset(superblock.tail.get()),
            commit: Offset(superblock.commit.get()),
            commit_checksum: superblock.commit_checksum.get(),
        }
    }

    /// How many bytes the chunk still takes; room for a jump is kept.
    #[must_use]
    pub const fn room(&self) -> u64 {
        self.chunk_end.saturating_sub(self.at.0).saturating_sub(PLAIN_BYTES)
    }

    /// The chunk frame that begins `region`, which the log enters without a jump.
    pub fn begin_chunk(&mut self, marker: u64, region: Region) -> FrameHeader {
        let detail = ChunkDetail {
            epoch: U64::new(self.epoch),
            previous: U64::new(self.chunk.0),
            length: U64::new(region.bytes),
            commit_checksum: U32::new(self.commit_checksum),
            reserved: U32::ZERO,
        };
        self.chunk = region.offset;
        self.chunk_end = region.end();
        self.at = Offset(region.offset.0 + PLAIN_BYTES);
        FrameHeader::plain(marker, Kind::Chunk, region.offset, 0, detail_bytes(&detail))
    }

    /// The jump that ends the chunk, and the chunk frame that it leads to.
    pub fn jump(&mut self, marker: u64, region: Region) -> ((Offset, FrameHeader), (Offset, FrameHeader)) {
        let detail = JumpDetail {
            epoch: U64::new(self.epoch),
            target: U64::new(region.offset.0),
            commit_checksum: U32::new(self.commit_checksum),
            reserved: [0; 12],
        };
        let from = self.at;
        let jump = FrameHeader::plain(marker, Kind::Jump, from, 0, detail_bytes(&detail));
        ((from, jump), (region.offset, self.begin_chunk(marker, region)))
    }
}

fn detail_bytes<T: IntoBytes + zerocopy::Immutable>(detail: &T) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(detail.as_bytes());
    bytes
}

/// The length of a chunk that must hold `bytes` of frames.
#[must_use]
pub const fn chunk_bytes(bytes: u64, least: u64) -> u64 {
    let needed = align_up(bytes + 2 * PLAIN_BYTES, CHUNK_ALIGN);
    if needed > least { needed } else { least }
}

/// A blob or a name that a commit publishes.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    /// Its frame.
    pub id: Offset,
    /// CRC-32 over payload, then header.
    pub checksum: u32,
    /// Whether both are durable already.
    pub synced: bool,
}

/// What a commit group says beside its images.
#[derive(Clone, Copy, Debug)]
pub struct CommitFields {
    /// Sequence of the newest durable superblock.
    pub sequence: u64,
    /// Commits below are durable.
    pub durable_upto: Offset,
    /// After this commit.
    pub counters: Counters,
}

/// The most bytes that a commit group of so many images and publications takes.
#[must_use]
pub const fn group_bytes(images: u64, published: u64) -> u64 {
    let frames = if images == 0 { 1 } else { images.div_ceil(IMAGES_MAX) };
    frames * (PLAIN_BYTES + size_of::<CommitBody>() as u64 + FRAME_ALIGN)
        + images * RECORD_BYTES
        + published * size_of::<Publication>() as u64
}

/// The longest body of a commit frame. What is published has an image, so there are no more publications than
/// images.
const COMMIT_BYTES_MAX: u64 =
    size_of::<CommitBody>() as u64 + IMAGES_MAX * (RECORD_BYTES + size_of::<Publication>() as u64) + FRAME_ALIGN;

/// Encodes a commit group at the tail and moves the tail behind it. Every image of what is published is among `images`.
pub fn encode_group(
    marker: u64,
    tail: &mut Tail,
    images: &[Image],
    published: &[Published],
    fields: &CommitFields,
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(to_usize(group_bytes(images.len() as u64, published.len() as u64)));
    let mut parts: Vec<&[Image]> = images.chunks(to_usize(IMAGES_MAX)).collect();
    if parts.is_empty() {
        parts.push(&[]);
    }
    let mut published = published.chunks(to_usize(IMAGES_MAX));
    for (position, part) in parts.iter().enumerate() {
        let last = position + 1 == parts.len();
        let published = published.next().unwrap_or(&[]);
        encode_frame(marker, tail, part, published, fields, (position, last), &mut bytes);
    }
    bytes
}

/// Encodes one commit frame of a group whose frames are made one by one, at the tail, and moves the tail behind it.
/// `place` is its number in the group, and whether it is the last.
pub fn encode_part(
    marker: u64,
    tail: &mut Tail,
    images: &[Image],
    fields: &CommitFields,
    place: (usize, bool),
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(to_usize(group_bytes(to_u64(images.len()), 0)));
    encode_frame(marker, tail, images, &[], fields, place, &mut bytes);
    bytes
}

fn encode_frame(
    marker: u64,
    tail: &mut Tail,
    images: &[Image],
    published: &[Published],
    fields: &CommitFields,
    (position, last): (usize, bool),
    bytes: &mut Vec<u8>,
) {
    let start = bytes.len();
    bytes.resize(start + 64, 0);
    let body = CommitBody {
        sequence: U64::new(fields.sequence),
        durable_upto: U64::new(fields.durable_upto.0),
        images: U64::new(images.len() as u64),
        published: U64::new(published.len() as u64),
        counters: fields.counters,
        reserved: [0; 48],
    };
    bytes.extend_from_slice(body.as_bytes());
    for image in images {
        bytes.extend_from_slice(&image.bytes());
    }
    for blob in published {
        let publication = Publication {
            offset: U64::new(blob.id.0),
            checksum: U32::new(blob.checksum),
            flags: U32::new(if blob.synced { Publication::SYNCED } else { 0 }),
        };
        bytes.extend_from_slice(publication.as_bytes());
    }
    bytes.resize(start + to_usize(align_up((bytes.len() - start) as u64, FRAME_ALIGN)), 0);
    let body = &bytes[start + 64..];
    let detail = CommitDetail {
        epoch: U64::new(tail.epoch),
        previous: U64::new(tail.commit.0),
        previous_checksum: U32::new(tail.commit_checksum),
        body_checksum: U32::new(crc32fast::hash(body)),
        position: U32::new(u32::try_from(position).expect("a batch has far fewer than 2^52 images")),
        last: U32::new(u32::from(last)),
    };
    let head = FrameHeader::plain(marker, Kind::Commit, tail.at, body.len() as u64, detail_bytes(&detail));
    tail.commit = tail.at;
    tail.commit_checksum = head.checksum.get();
    tail.at = Offset(tail.at.0 + (bytes.len() - start) as u64);
    bytes[start..start + 64].copy_from_slice(head.as_bytes());
}

/// The checksum that the publication of a blob with this header carries, `payload` being the CRC-32 of its payload.
#[must_use]
pub fn seal_blob(header: &BlobHeader, mut payload: crc32fast::Hasher) -> u32 {
    payload.update(header.bytes());
    payload.finalize()
}

/// The header of a name's frame, and the checksum that its publication carries.
#[must_use]
pub fn seal_name(marker: u64, at: Offset, name: &str) -> (FrameHeader, u32) {
    let mut payload = crc();
    payload.update(name.as_bytes());
    let detail = NameDetail { body_checksum: U32::new(payload.clone().finalize()), reserved: [0; 28] };
    let header = FrameHeader::plain(marker, Kind::Name, at, name.len() as u64, detail_bytes(&detail));
    payload.update(header.as_bytes());
    (header, payload.finalize())
}

/// The name that a frame with this body holds; `None` where it is no frame of a name, or its text is damaged or none.
#[must_use]
pub fn name_in(frame: &Frame, body: &[u8]) -> Option<Name> {
    let detail: NameDetail = frame.detail();
    let sound = frame.kind == Kind::Name
        && body.len() as u64 == frame.length
        && frame.length <= NAME_BYTES_MAX
        && crc32fast::hash(body) == detail.body_checksum.get();
    if sound { Name::new(std::str::from_utf8(body).ok()?).ok() } else { None }
}

/// Reads and checks the name frame at `at`; `None` where there is none, or it is damaged.
pub fn read_name<M: Medium>(medium: &M, marker: u64, at: Offset, end: u64) -> Result<Option<Name>> {
    let Some(frame) = read_frame(medium, marker, at, end)? else { return Ok(None) };
    if frame.kind != Kind::Name || frame.length > NAME_BYTES_MAX || frame.end().0 > end {
        return Ok(None);
    }
    let mut body = vec![0; to_usize(frame.length)];
    medium.read_at(frame.body(), &mut body).map_err(|e| Error::io("read a name", medium.path(), e))?;
    Ok(name_in(&frame, &body))
}

/// A commit frame whose header and body agree with their checksums.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Its frame's header.
    pub frame: Frame,
    /// Its place in the chain.
    pub detail: CommitDetail,
    /// What it says beside the images.
    pub body: CommitBody,
    /// The whole body.
    bytes: Vec<u8>,
}

impl Commit {
    /// Checks a body against its frame.
    #[must_use]
    pub fn parse(frame: Frame, bytes: Vec<u8>) -> Option<Commit> {
        if frame.kind != Kind::Commit || bytes.len() as u64 != frame.length {
            return None;
        }
        let detail: CommitDetail = frame.detail();
        if crc32fast::hash(&bytes) != detail.body_checksum.get() {
            return None;
        }
        let (body, _) = CommitBody::read_from_prefix(&bytes).ok()?;
        let needed = (body.images.get().checked_mul(RECORD_BYTES)?)
            .checked_add(body.published.get().checked_mul(size_of::<Publication>() as u64)?)?
            .checked_add(size_of::<CommitBody>() as u64)?;
        let sound = needed <= frame.length
            && body.images.get() <= IMAGES_MAX
            && body.sequence.get().max(detail.epoch.get()) <= SEQUENCE_MAX;
        sound.then_some(Commit { frame, detail, body, bytes })
    }

    /// Reads and checks the commit frame at `at`; what lies beyond `end` is not touched.
    pub fn read<M: Medium>(medium: &M, marker: u64, at: Offset, end: u64) -> Result<Option<Commit>> {
        let Some(frame) = read_frame(medium, marker, at, end)? else { return Ok(None) };
        if frame.kind != Kind::Commit || frame.end().0 > end || frame.length > COMMIT_BYTES_MAX {
            return Ok(None);
        }
        let mut bytes = vec![0; to_usize(frame.length)];
        medium.read_at(frame.body(), &mut bytes).map_err(|e| Error::io("read a commit", medium.path(), e))?;
        Ok(Commit::parse(frame, bytes))
    }

    /// Its after-images, in order; `None` stands for one that makes no sense.
    pub fn images(&self) -> impl Iterator<Item = Option<Image>> + '_ {
        self.slots().iter().map(Image::parse)
    }

    /// The bytes of its images, in order.
    #[must_use]
    pub fn slots(&self) -> &[[u8; 64]] {
        let images = &self.bytes[size_of::<CommitBody>()..][..to_usize(self.body.images.get() * RECORD_BYTES)];
        images.as_chunks().0
    }

    /// The blobs and names that it publishes.
    pub fn published(&self) -> impl Iterator<Item = Published> + '_ {
        let skip = size_of::<CommitBody>() + to_usize(self.body.images.get() * RECORD_BYTES);
        let bytes = &self.bytes[skip..][..to_usize(self.body.published.get()) * size_of::<Publication>()];
        bytes.chunks_exact(size_of::<Publication>()).filter_map(|bytes| {
            let publication = Publication::ref_from_bytes(bytes).ok()?;
            Some(Published {
                id: Offset(publication.offset.get()),
                checksum: publication.checksum.get(),
                synced: publication.flags.get() & Publication::SYNCED != 0,
            })
        })
    }

    /// Whether it ends its group.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.detail.last.get() == 1
    }
}

/// Reads the chunk frame at `at`: its detail, if it is one and lies before `end`. The chunk may reach farther than the
/// file: a power cut takes back the length of what was allocated and not written yet.
pub fn read_chunk<M: Medium>(medium: &M, marker: u64, at: Offset, end: u64) -> Result<Option<ChunkDetail>> {
    if at < SPACE_AT || !at.is_aligned(CHUNK_ALIGN) {
        return Ok(None);
    }
    let Some(frame) = read_frame(medium, marker, at, end)? else { return Ok(None) };
    let chunk: ChunkDetail = frame.detail();
    let fits = chunk.length.get() >= 2 * PLAIN_BYTES && at.checked_add(chunk.length.get()).is_some();
    Ok((frame.kind == Kind::Chunk && fits).then_some(chunk))
}

/// One complete commit group found by a walk.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its commit frames.
    pub commits: Vec<Offset>,
    /// Where the log stands behind it.
    pub tail: Tail,
    /// What its last frame says was durable.
    pub durable_upto: Offset,
    /// The superblock that it builds on.
    pub sequence: u64,
    /// After it.
    pub counters: Counters,
    /// How many images.
    pub images: u64,
}

/// A chunk that a walk entered.
#[derive(Clone, Copy, Debug)]
pub struct Passed {
    /// The jump frame that led to it.
    pub jump: Offset,
    /// The chunk.
    pub chunk: Region,
}

/// The parts of the log from `from` to `tail`, `chunks` being those in between, in order.
#[must_use]
pub fn spans(from: &Tail, chunks: &[Passed], tail: &Tail) -> Vec<Region> {
    let mut start = from.at;
    let mut spans = Vec::new();
    for passed in chunks.iter().filter(|passed| passed.chunk.offset <= tail.at) {
        spans.push(Region { offset: start, bytes: passed.jump.0 + PLAIN_BYTES - start.0 });
        start = passed.chunk.offset;
    }
    spans.push(Region { offset: start, bytes: tail.at.0 - start.0 });
    spans
}

/// Walks the log from `tail` on to the first frame that does not belong. Calls `found` with each complete group; the
/// tail that comes back is that behind the last of them. Only headers and commit bodies are read, not payloads.
///
/// Headers of frames are read ahead: a system call for each would take two thirds of the time.
///
/// Every step moves on by at least 64 bytes and chunks stand ever higher in the file, so the walk ends.
pub fn walk<M: Medium>(
    medium: &M,
    marker: u64,
    mut tail: Tail,
    file_bytes: u64,
    mut found: impl FnMut(Group) -> Result<()>,
) -> Result<(Tail, Vec<Passed>)> {
    let mut good = tail;
    let mut chunks = vec![];
    let mut passed = vec![];
    let mut group: Vec<Offset> = Vec::new();
    let mut images = 0;
    let mut ahead = Ahead::new(medium);
    loop {
        let end = tail.chunk_end.min(file_bytes);
        let Some(frame) = ahead.read_frame(marker, tail.at, end)? else { break };
        match frame.kind {
            Kind::Blob | Kind::Name if frame.end().0 <= end => tail.at = frame.end(),
            Kind::Commit => {
                let Some(commit) = Commit::read(medium, marker, tail.at, end)? else { break };
                let chained = commit.detail.epoch.get() >= tail.epoch
                    && commit.detail.previous.get() == tail.commit.0
                    && commit.detail.previous_checksum.get() == tail.commit_checksum
                    && commit.detail.position.get() as usize == group.len();
                if !chained {
                    break;
                }
                group.push(tail.at);
                images += commit.body.images.get();
                tail.epoch = commit.detail.epoch.get();
                tail.commit = frame.offset;
                tail.commit_checksum = frame.checksum;
                tail.at = frame.end();
                if commit.is_last() {
                    good = tail;
                    chunks.append(&mut passed);
                    found(Group {
                        commits: std::mem::take(&mut group),
                        tail,
                        durable_upto: Offset(commit.body.durable_upto.get()),
                        sequence: commit.body.sequence.get(),
                        counters: commit.body.counters,
                        images: std::mem::take(&mut images),
                    })?;
                }
            }
            Kind::Jump => {
                let jump: JumpDetail = frame.detail();
                let target = Offset(jump.target.get());
                let chained = jump.epoch.get() >= tail.epoch
                    && jump.commit_checksum.get() == tail.commit_checksum
                    && target.0 >= tail.chunk_end;
                let chunk = if chained { read_chunk(medium, marker, target, file_bytes)? } else { None };
                let Some(chunk) = chunk else { break };
                if chunk.previous.get() != tail.chunk.0
                    || chunk.commit_checksum.get() != tail.commit_checksum
                    || chunk.epoch.get() < tail.epoch
                {
                    break;
                }
                passed.push(Passed { jump: frame.offset, chunk: Region { offset: target, bytes: chunk.length.get() } });
                tail.chunk = target;
                tail.chunk_end = target.0 + chunk.length.get();
                tail.at = Offset(target.0 + PLAIN_BYTES);
            }
            _ => break,
        }
    }
    Ok((good, chunks))
}
