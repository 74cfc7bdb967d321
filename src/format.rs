//! The byte specification of a pack file, version 1.
//!
//! A pack is one file. All integers are little-endian. Offsets are bytes from the start of the file. Every checksum is
//! CRC-32 (IEEE 802.3, as `crc32fast` computes it) with the checksum field itself read as zero.
//!
//! | offset | what | written |
//! |---|---|---|
//! | 0 | [`Identity`] | once, at creation |
//! | 64 KiB | [`Superblock`] A | alternately with B |
//! | 128 KiB | [`Superblock`] B | alternately with A |
//! | 192 KiB | [`live`] page: for concurrent readers only, recovery does not trust it | all the time |
//! | from 256 KiB | space from one allocator at the end of the file | see below |
//!
//! The space holds **log chunks** (at multiples of 64 KiB: a chunk frame, then blob, name and commit frames one after
//! another, at last perhaps a jump frame), **extents** (one large blob each: its frame stands so that the payload
//! begins on a page), and **index runs** (one run frame in the first page, then regions: segments of the hash table, or
//! one directory). Only regions are ever written twice.
//!
//! Frames stand at multiples of 64. A frame is a [`FrameHeader`] (64 bytes; 128 where the digest is longer than 32),
//! then a body of `length` bytes; the next frame begins at the next multiple of 64.
//!
//! The index is an extendible hash table (Fagin et al., 1979). A **directory** is `2^depth` entries of 8 bytes, by the
//! most significant bits of a record's tag: [`Entry`]. A **segment** is a [`SegmentHeader`], then `slots` records of 64
//! bytes ([`BlobSlot`], [`LinkSlot`], [`NameSlot`]), found by linear probing from `home` (see [`home_slot`]) over at
//! most [`PROBES_MAX`] slots. A slot's first word is the record's tag, [`TAG_EMPTY`] or [`TAG_TOMBSTONE`]; one that was
//! never used is zero to its end.

use std::sync::LazyLock;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::digest::{Algorithm, Digest};
use crate::name::Name;

#[cfg(not(target_pointer_width = "64"))]
compile_error!("blobpack maps whole packs: it needs a 64-bit target");

/// The format version that this code writes.
pub const VERSION: u32 = 1;
/// The first bytes of every pack.
pub const MAGIC: [u8; 8] = *b"blobpack";
/// Where the identity stands.
pub const IDENTITY_AT: Offset = Offset(0);
/// Where the two superblocks stand: far enough apart that no page size of any system writes one back with another.
pub const SUPERBLOCKS_AT: [Offset; 2] = [Offset(64 << 10), Offset(128 << 10)];
/// Where the live page stands.
pub const LIVE_AT: Offset = Offset(192 << 10);
/// Where allocated space begins.
pub const SPACE_AT: Offset = Offset(256 << 10);
/// Frames stand at multiples of this.
pub const FRAME_ALIGN: u64 = 64;
/// Chunks stand at multiples of this.
pub const CHUNK_ALIGN: u64 = 64 << 10;
/// Regions and large payloads stand at multiples of this.
pub const PAGE_BYTES: u64 = 4096;
/// A blob of this many bytes or more lies in an extent of its own, its payload on a page boundary.
pub const LARGE_BYTES: u64 = 64 << 10;
/// The longest file.
pub const FILE_BYTES_MAX: u64 = 64 << 40;
/// The longest name, in bytes of UTF-8; the shortest has one.
pub const NAME_BYTES_MAX: u64 = Name::BYTES_MAX as u64;
/// No superblock's sequence and no epoch is higher, at one for each nanosecond of a century: what claims it is forged.
pub const SEQUENCE_MAX: u64 = 1 << 62;
/// One more than the longest blob.
pub const BLOB_BYTES_LIMIT: u64 = 1 << 46;
/// Every record is one cache line.
pub const RECORD_BYTES: u64 = 64;
/// The most images in one commit frame; a larger batch is a group of several frames.
pub const IMAGES_MAX: u64 = 1 << 20;
/// A record stands at most this many slots (cyclically) after its home, so a lookup reads no more.
pub const PROBES_MAX: u32 = 16;
/// The deepest directory.
pub const DEPTH_MAX: u32 = 40;
/// The first word of a slot that was never used in this life of the segment.
pub const TAG_EMPTY: u64 = 0;
/// The first word of a slot whose record was removed.
pub const TAG_TOMBSTONE: u64 = 1;
/// The smallest tag that a record can have.
pub const TAG_MIN: u64 = 2;

/// A position in the file, in bytes. Of a frame it is also the frame's lasting name (its *id*).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u64);

impl Offset {
    /// No position: no frame can stand at 0.
    pub const NONE: Offset = Offset(0);

    /// The position `bytes` further on; `None` beyond the longest file.
    #[must_use]
    pub fn checked_add(self, bytes: u64) -> Option<Offset> {
        self.0.checked_add(bytes).filter(|&end| end <= FILE_BYTES_MAX).map(Offset)
    }

    /// The next multiple of `align` (a power of two) at or after this position.
    #[must_use]
    pub const fn align_up(self, align: u64) -> Offset {
        Offset(align_up(self.0, align))
    }

    /// Whether it is a multiple of `align`.
    #[must_use]
    pub const fn is_aligned(self, align: u64) -> bool {
        self.0 & (align - 1) == 0
    }
}

impl std::fmt::Display for Offset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The next multiple of `align` (a power of two) at or after `n`; `n` is at most the longest file.
#[must_use]
pub const fn align_up(n: u64, align: u64) -> u64 {
    (n.saturating_add(align - 1)) & !(align - 1)
}

/// A length, count or offset of the file as an index into memory. The target is 64 bits wide, so nothing is cut.
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "usize has 64 bits: see the compile_error above")]
pub const fn to_usize(n: u64) -> usize {
    n as usize
}

/// The inverse of [`to_usize`].
#[must_use]
pub const fn to_u64(n: usize) -> u64 {
    n as u64
}

/// What never changes in a pack. It stands at 0 and again at the head of both superblocks.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | magic `blobpack` |
/// | 8 | 4 | format version |
/// | 12 | 4 | checksum |
/// | 16 | 16 | uuid |
/// | 32 | 8 | frame marker: random, so that no payload contains a frame but by knowing the pack |
/// | 40 | 112 | secret of the tags: seven 128-bit coefficients (six are used), see [`crate::index::tag`] |
/// | 152 | 40 | zero |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Identity {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`VERSION`].
    pub version: U32,
    /// Of these 192 bytes.
    pub checksum: U32,
    /// Names the store; a compaction keeps it.
    pub uuid: [u8; 16],
    /// The first word of every frame.
    pub marker: U64,
    /// See [`crate::index::tag`].
    pub secret: [u8; 112],
    /// Zero.
    pub reserved: [u8; 40],
}

/// Feature flags of a superblock.
pub mod features {
    /// Incompatible: the log may hold name frames, and commits and index may hold name records. Who does not know them
    /// would take the first name frame for the end of the log. Both superblocks carry the flag before the first name
    /// frame is written, and keep it; a compaction of a pack without names drops it.
    pub const NAMES: u64 = 1;
    /// The incompatible ones that this code knows.
    pub const INCOMPATIBLE: u64 = NAMES;
}

/// A checkpoint: where the index is and how far it goes.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 192 | identity |
/// | 192 | 8 | sequence: the newer of two valid superblocks counts |
/// | 200 | 8 | epoch: of the first commit after this checkpoint |
/// | 208 | 24 | feature flags: compatible, read-only compatible, incompatible (see [`features`]) |
/// | 232 | 8 | end of the allocated space |
/// | 240 | 8 | chunk that the log goes on in |
/// | 248 | 8 | end of that chunk |
/// | 256 | 8 | tail: where the next frame goes |
/// | 264 | 8 | newest commit, 0 if there is none |
/// | 272 | 4 | checksum of that commit's header |
/// | 276 | 4 | slots a segment |
/// | 280 | 8 | directory |
/// | 288 | 4 | depth of the directory |
/// | 292 | 4 | checksum |
/// | 296 | 8 | newest index run, 0 if there is none |
/// | 304 | 48 | counters |
/// | 352 | 160 | zero |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Superblock {
    /// The pack's identity.
    pub identity: Identity,
    /// Counts the superblocks written.
    pub sequence: U64,
    /// Grows with every recovery.
    pub epoch: U64,
    /// May be ignored when unknown.
    pub compatible: U64,
    /// Allows only reading when unknown.
    pub read_only_compatible: U64,
    /// Forbids opening when unknown.
    pub incompatible: U64,
    /// Nothing that this checkpoint knows lies beyond.
    pub end: U64,
    /// The log's last chunk.
    pub chunk: U64,
    /// Its end.
    pub chunk_end: U64,
    /// Where the next frame goes.
    pub tail: U64,
    /// The newest commit frame.
    pub commit: U64,
    /// Its header's checksum.
    pub commit_checksum: U32,
    /// Slots a segment.
    pub slots: U32,
    /// The index directory.
    pub directory: U64,
    /// It has `2^depth` entries.
    pub depth: U32,
    /// Of these 512 bytes.
    pub checksum: U32,
    /// The newest run of index regions; each names the one before.
    pub run: U64,
    /// What the pack holds at this checkpoint.
    pub counters: Counters,
    /// Zero.
    pub reserved: [u8; 160],
}

/// What a pack holds, counted absolutely in every commit and superblock.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | blobs |
/// | 8 | 8 | links |
/// | 16 | 8 | names (the anchor of their ring is not counted) |
/// | 24 | 8 | payload bytes of all blobs |
/// | 32 | 8 | bytes of frames whose blobs or names were removed |
/// | 40 | 8 | commits since the pack's first |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Counters {
    /// Blobs stored.
    pub blobs: U64,
    /// Links between them.
    pub links: U64,
    /// Names.
    pub names: U64,
    /// Payload bytes of all blobs.
    pub live_bytes: U64,
    /// Frame bytes of removed blobs and names: what a compaction gives back at least.
    pub dead_bytes: U64,
    /// Commit groups so far.
    pub commits: U64,
}

/// The live page: one cache line of words that the writer stores and readers load atomically.
///
/// | word | what |
/// |---|---|
/// | 0 | live word: directory page (34 bits), depth (6), switch count (24) |
/// | 1 | notice: attach count (63 bits; a writer that takes over adds one), superseded flag (bit 0) |
/// | 2 | acknowledged tail: commits up to here were told to be done, as durable as the store's settings ask |
/// | 3, 4 | boot id of the machine that wrote this page |
/// | 5 | device |
/// | 6 | inode |
/// | 7 | CRC-32 of words 3 to 6 |
pub mod live {
    use super::{LIVE_AT, Offset};

    /// See the table.
    pub const WORD: Offset = LIVE_AT;
    /// See the table.
    pub const NOTICE: Offset = Offset(LIVE_AT.0 + 8);
    /// See the table.
    pub const ACKNOWLEDGED: Offset = Offset(LIVE_AT.0 + 16);
    /// See the table: words 3 to 7.
    pub const HOST: Offset = Offset(LIVE_AT.0 + 24);
    /// The flag in the notice.
    pub const SUPERSEDED: u64 = 1;
}

/// The live word: which directory is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveWord {
    /// The directory's offset, a multiple of [`PAGE_BYTES`].
    pub directory: Offset,
    /// It has `2^depth` entries.
    pub depth: u32,
    /// Counts directories made live, modulo 2^24.
    pub switches: u32,
}

impl LiveWord {
    /// The word as stored.
    #[must_use]
    pub fn pack(self) -> u64 {
        debug_assert!(self.directory.is_aligned(PAGE_BYTES) && self.depth < 64);
        (self.directory.0 / PAGE_BYTES) << 30 | u64::from(self.depth) << 24 | u64::from(self.switches & 0xff_ffff)
    }

    /// The inverse of [`pack`](LiveWord::pack); the directory's position is not checked here.
    #[must_use]
    pub fn unpack(word: u64) -> LiveWord {
        LiveWord {
            directory: Offset((word >> 30) * PAGE_BYTES),
            depth: (word >> 24 & 63) as u32,
            switches: (word & 0xff_ffff) as u32,
        }
    }
}

/// An entry of the directory: the segment's page (40 bits) and the low 24 bits of its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The segment's offset, a multiple of [`PAGE_BYTES`].
    pub segment: Offset,
    /// The low 24 bits of the generation in the segment's header.
    pub generation: u32,
}

impl Entry {
    /// The word as stored.
    #[must_use]
    pub fn pack(self) -> u64 {
        debug_assert!(self.segment.is_aligned(PAGE_BYTES));
        (self.segment.0 / PAGE_BYTES) << 24 | u64::from(self.generation & 0xff_ffff)
    }

    /// The inverse of [`pack`](Entry::pack); the segment's position is not checked here.
    #[must_use]
    pub fn unpack(word: u64) -> Entry {
        Entry { segment: Offset((word >> 24).saturating_mul(PAGE_BYTES)), generation: (word & 0xff_ffff) as u32 }
    }
}

/// The head of a segment: one cache line.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | generation: counts the lives of this region, from [`first_generation`], never goes back |
/// | 8 | 8 | prefix: the first `depth` bits of all tags inside, in the top bits |
/// | 16 | 8 | born: a random number of the writer's, plus its freezes; says whether it may still be stored into |
/// | 24 | 4 | depth: how many bits of the tags are common |
/// | 28 | 4 | checksum of these 64 bytes |
/// | 32 | 32 | zero |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SegmentHeader {
    /// Counts the lives of this region.
    pub generation: U64,
    /// The bits that all tags inside begin with.
    pub prefix: U64,
    /// Who may store into it.
    pub born: U64,
    /// The number of those bits.
    pub depth: U32,
    /// Of these 64 bytes.
    pub checksum: U32,
    /// Zero.
    pub reserved: [u8; 32],
}

/// The generation of a region's first life. Regions begin with different ones, so that a directory's entry with a
/// flipped bit in its place does not lead to an older copy of the same segment that would pass for it.
#[must_use]
pub const fn first_generation(region: Offset) -> u64 {
    (region.0 / PAGE_BYTES).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40 | 1
}

/// What a frame or a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A blob.
    Blob = 1,
    /// A commit frame.
    Commit = 2,
    /// The head of a log chunk.
    Chunk = 3,
    /// The end of a chunk: where the log goes on.
    Jump = 4,
    /// A link record.
    Link = 5,
    /// The head of a run of index regions.
    Run = 6,
    /// A name: a frame with its text, or a record.
    Name = 7,
    /// Reserved: bytes to be skipped.
    Padding = 8,
}

impl Kind {
    /// The inverse of `kind as u8`.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Kind> {
        use Kind::{Blob, Chunk, Commit, Jump, Link, Name, Padding, Run};
        [Blob, Commit, Chunk, Jump, Link, Run, Name, Padding].into_iter().find(|&k| k as u8 == code)
    }
}

/// The head of every frame.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | the pack's frame marker |
/// | 8 | 1 | kind |
/// | 9 | 1 | algorithm (blobs: 1 sha256, 2 sha384, 3 sha512; else 0) |
/// | 10 | 2 | flags (zero) |
/// | 12 | 4 | checksum of the header, its extension included |
/// | 16 | 8 | own offset |
/// | 24 | 8 | length of the body, in bytes |
/// | 32 | 32 | detail: of a blob the digest's first 32 bytes; else by kind, as [`CommitDetail`] |
/// | 64 | 64 | extension, only where the algorithm is not sha256: the digest's other bytes, zero-padded |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct FrameHeader {
    /// The pack's marker.
    pub marker: U64,
    /// A [`Kind`].
    pub kind: u8,
    /// An [`Algorithm`]'s code, or 0.
    pub algorithm: u8,
    /// Zero.
    pub flags: U16,
    /// Of the header.
    pub checksum: U32,
    /// Where the frame stands.
    pub offset: U64,
    /// Bytes of body after the header.
    pub length: U64,
    /// By kind.
    pub detail: [u8; 32],
}

/// The detail of a commit frame.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | epoch |
/// | 8 | 8 | previous commit frame, 0 for the first |
/// | 16 | 4 | checksum of that one's header |
/// | 20 | 4 | checksum of this one's body |
/// | 24 | 4 | position in its group, from 0 |
/// | 28 | 4 | 1 in the last frame of a group, else 0 |
///
/// The header's checksum covers the body's, so it stands for the whole frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct CommitDetail {
    /// Of the writer that wrote it.
    pub epoch: U64,
    /// The commit frame before.
    pub previous: U64,
    /// Its header's checksum.
    pub previous_checksum: U32,
    /// Of the body.
    pub body_checksum: U32,
    /// From 0.
    pub position: U32,
    /// 1 if it ends its group.
    pub last: U32,
}

/// The first bytes of a commit frame's body; `images` records follow, then `published` [`Publication`]s, then zeros to
/// a multiple of 64.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | sequence of the newest durable superblock when it was written |
/// | 8 | 8 | durable_upto: all commits below this offset were durable then, payloads included |
/// | 16 | 8 | count of images |
/// | 24 | 8 | count of publications |
/// | 32 | 48 | counters after this commit |
/// | 80 | 48 | zero |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct CommitBody {
    /// The superblock it builds on.
    pub sequence: U64,
    /// What was durable then.
    pub durable_upto: U64,
    /// Records that follow.
    pub images: U64,
    /// Publications that follow those.
    pub published: U64,
    /// After this commit.
    pub counters: Counters,
    /// Zero.
    pub reserved: [u8; 48],
}

/// A blob or a name that a commit makes visible.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | the frame's offset |
/// | 8 | 4 | CRC-32 over payload, then header |
/// | 12 | 4 | bit 0: payload and header were synced before the commit was written |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Publication {
    /// The blob's or name's frame.
    pub offset: U64,
    /// Over payload, then header.
    pub checksum: U32,
    /// [`Publication::SYNCED`] or 0.
    pub flags: U32,
}

impl Publication {
    /// Payload and header were durable before the commit frame was written.
    pub const SYNCED: u32 = 1;
}

/// The detail of a name frame; the body is the name, 1 to [`NAME_BYTES_MAX`] bytes of UTF-8.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 4 | checksum of the body |
/// | 4 | 28 | zero |
///
/// The header's checksum covers the body's, so a name frame vouches for itself. It lies in a chunk, before the commit
/// that publishes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct NameDetail {
    /// Of the body.
    pub body_checksum: U32,
    /// Zero.
    pub reserved: [u8; 28],
}

/// The detail of a chunk frame; the frame has no body.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | epoch |
/// | 8 | 8 | previous chunk, 0 for the first |
/// | 16 | 8 | length of the chunk, this frame included |
/// | 24 | 4 | checksum of the newest commit's header when the chunk was begun |
/// | 28 | 4 | zero |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ChunkDetail {
    /// Of the writer that began it.
    pub epoch: U64,
    /// The chunk before.
    pub previous: U64,
    /// A multiple of 64 KiB.
    pub length: U64,
    /// Of the newest commit's header.
    pub commit_checksum: U32,
    /// Zero.
    pub reserved: U32,
}

/// The detail of a jump frame; the frame has no body.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | epoch |
/// | 8 | 8 | the chunk where the log goes on |
/// | 16 | 4 | checksum of the newest commit's header when it was written |
/// | 20 | 12 | zero |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct JumpDetail {
    /// Of the writer that wrote it.
    pub epoch: U64,
    /// The next chunk.
    pub target: U64,
    /// Of the newest commit's header.
    pub commit_checksum: U32,
    /// Zero.
    pub reserved: [u8; 12],
}

/// The detail of a run frame; the frame has no body, the regions begin a page after it.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | previous run, 0 for the first |
/// | 8 | 8 | bytes of one region, a multiple of 4 KiB |
/// | 16 | 8 | count of regions |
/// | 24 | 4 | 1 segments, 2 directory |
/// | 28 | 4 | zero |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RunDetail {
    /// The run before.
    pub previous: U64,
    /// Of one region.
    pub region_bytes: U64,
    /// How many regions.
    pub regions: U64,
    /// 1 or 2.
    pub holds: U32,
    /// Zero.
    pub reserved: U32,
}

/// A blob record as it lies in a slot and in a commit.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | tag |
/// | 8 | 8 | the blob frame's offset: the blob's id |
/// | 16 | 8 | payload length, in bytes |
/// | 24 | 4 | references |
/// | 28 | 4 | how many of these are held by links and names |
/// | 32 | 8 | first of the list of links out: the id of the blob linked to, 0 if none |
/// | 40 | 8 | first of the list of links in: the id of the blob that links, 0 if none |
/// | 48 | 8 | number of links out |
/// | 56 | 4 | checksum of these 64 bytes |
/// | 60 | 1 | kind: [`Kind::Blob`] |
/// | 61 | 1 | algorithm |
/// | 62 | 2 | flags: [`SLOT_REMOVED`] in a commit's image of what died |
///
/// References and held count are one aligned 8-byte word, so that they are loaded and stored together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct BlobSlot {
    /// Keyed hash of the digest.
    pub tag: U64,
    /// The blob frame.
    pub offset: U64,
    /// Payload bytes.
    pub length: U64,
    /// All references.
    pub references: U32,
    /// Those held by links and names.
    pub held: U32,
    /// First link out.
    pub first_out: U64,
    /// First link in.
    pub first_in: U64,
    /// Links out.
    pub out_count: U64,
    /// Of these 64 bytes.
    pub checksum: U32,
    /// [`Kind::Blob`].
    pub kind: u8,
    /// An [`Algorithm`]'s code.
    pub algorithm: u8,
    /// [`SLOT_REMOVED`] or 0.
    pub flags: U16,
}

/// A link record as it lies in a slot and in a commit. Neighbours are ids: the record before `(from, to)` in `from`'s
/// list is that of `(from, previous_out)`.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | tag |
/// | 8 | 8 | from: id of the blob that holds the link |
/// | 16 | 8 | to: id of the blob linked to |
/// | 24 | 8 | next in from's list of links out: an id of a blob linked to |
/// | 32 | 8 | previous there |
/// | 40 | 8 | next in to's list of links in: an id of a blob that links |
/// | 48 | 8 | previous there |
/// | 56 | 4 | checksum of these 64 bytes |
/// | 60 | 1 | kind: [`Kind::Link`] |
/// | 61 | 1 | zero |
/// | 62 | 2 | flags: [`SLOT_REMOVED`] in a commit's image of what died |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct LinkSlot {
    /// Keyed hash of both ids.
    pub tag: U64,
    /// Holds the link.
    pub from: U64,
    /// Is linked to.
    pub to: U64,
    /// In from's list.
    pub next_out: U64,
    /// In from's list.
    pub previous_out: U64,
    /// In to's list.
    pub next_in: U64,
    /// In to's list.
    pub previous_in: U64,
    /// Of these 64 bytes.
    pub checksum: U32,
    /// [`Kind::Link`].
    pub kind: u8,
    /// Zero.
    pub algorithm: u8,
    /// [`SLOT_REMOVED`] or 0.
    pub flags: U16,
}

/// A name record as it lies in a slot and in a commit. All names stand in one ring, in no order; its ids are the
/// offsets of the name frames. The ring is closed by the **anchor**, a name record with the tag of the empty name, id 0
/// and no target: its next is the newest name, its previous the oldest. It is there while there are names.
///
/// A record holds the tags of its neighbours too, so that they are found without their texts: the ring can be followed
/// and changed beside a name whose frame is damaged, and past it.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | tag |
/// | 8 | 8 | the name frame's offset: the name's id; 0 in the anchor |
/// | 16 | 8 | target: the id of the blob that has the name; 0 in the anchor |
/// | 24 | 8 | next in the ring: an id, 0 for the anchor |
/// | 32 | 8 | previous there |
/// | 40 | 8 | tag of the next |
/// | 48 | 8 | tag of the previous |
/// | 56 | 4 | checksum of these 64 bytes |
/// | 60 | 1 | kind: [`Kind::Name`] |
/// | 61 | 1 | zero |
/// | 62 | 2 | flags: [`SLOT_REMOVED`] in a commit's image of what died |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct NameSlot {
    /// Keyed hash of the name.
    pub tag: U64,
    /// The name frame.
    pub offset: U64,
    /// The blob frame of the named blob.
    pub target: U64,
    /// In the ring.
    pub next: U64,
    /// In the ring.
    pub previous: U64,
    /// Of the next one's record.
    pub next_tag: U64,
    /// Of the previous one's record.
    pub previous_tag: U64,
    /// Of these 64 bytes.
    pub checksum: U32,
    /// [`Kind::Name`].
    pub kind: u8,
    /// Zero.
    pub algorithm: u8,
    /// [`SLOT_REMOVED`] or 0.
    pub flags: U16,
}

/// In a commit's image: the record is gone; its other fields are those that it had.
pub const SLOT_REMOVED: u16 = 1;

macro_rules! layout {
    ($type:ty, $size:expr $(, $field:ident @ $at:expr)* $(,)?) => {
        const _: () = {
            assert!(size_of::<$type>() == $size);
            assert!(align_of::<$type>() == 1);
            $(assert!(std::mem::offset_of!($type, $field) == $at);)*
        };
    };
}
// `IntoBytes` proves the absence of padding; these prove the tables.
layout!(Identity, 192, version @ 8, checksum @ 12, uuid @ 16, marker @ 32, secret @ 40, reserved @ 152);
layout!(
    Superblock, 512, sequence @ 192, epoch @ 200, compatible @ 208, read_only_compatible @ 216, incompatible @ 224,
    end @ 232, chunk @ 240, chunk_end @ 248, tail @ 256, commit @ 264, commit_checksum @ 272, slots @ 276,
    directory @ 280, depth @ 288, checksum @ 292, run @ 296, counters @ 304, reserved @ 352,
);
layout!(Counters, 48, blobs @ 0, links @ 8, names @ 16, live_bytes @ 24, dead_bytes @ 32, commits @ 40);
layout!(SegmentHeader, 64, generation @ 0, prefix @ 8, born @ 16, depth @ 24, checksum @ 28, reserved @ 32);
layout!(
    FrameHeader, 64, marker @ 0, kind @ 8, algorithm @ 9, flags @ 10, checksum @ 12, offset @ 16, length @ 24,
    detail @ 32,
);
layout!(
    CommitDetail, 32, epoch @ 0, previous @ 8, previous_checksum @ 16, body_checksum @ 20, position @ 24, last @ 28,
);
layout!(CommitBody, 128, sequence @ 0, durable_upto @ 8, images @ 16, published @ 24, counters @ 32, reserved @ 80);
layout!(Publication, 16, offset @ 0, checksum @ 8, flags @ 12);
layout!(NameDetail, 32, body_checksum @ 0, reserved @ 4);
layout!(ChunkDetail, 32, epoch @ 0, previous @ 8, length @ 16, commit_checksum @ 24, reserved @ 28);
layout!(JumpDetail, 32, epoch @ 0, target @ 8, commit_checksum @ 16, reserved @ 20);
layout!(RunDetail, 32, previous @ 0, region_bytes @ 8, regions @ 16, holds @ 24, reserved @ 28);
layout!(
    BlobSlot, 64, tag @ 0, offset @ 8, length @ 16, references @ 24, held @ 28, first_out @ 32, first_in @ 40,
    out_count @ 48, checksum @ 56, kind @ 60, algorithm @ 61, flags @ 62,
);
layout!(
    NameSlot, 64, tag @ 0, offset @ 8, target @ 16, next @ 24, previous @ 32, next_tag @ 40, previous_tag @ 48,
    checksum @ 56, kind @ 60, algorithm @ 61, flags @ 62,
);
layout!(
    LinkSlot, 64, tag @ 0, from @ 8, to @ 16, next_out @ 24, previous_out @ 32, next_in @ 40, previous_in @ 48,
    checksum @ 56, kind @ 60, algorithm @ 61, flags @ 62,
);

/// A CRC-32 to be computed of a short input. To ask what the processor can do takes a third of the instructions of a
/// line's, so it is asked once, and what was answered never changes.
#[must_use]
#[inline]
pub fn crc() -> crc32fast::Hasher {
    static READY: LazyLock<crc32fast::Hasher> = LazyLock::new(crc32fast::Hasher::new);
    READY.clone()
}

/// The CRC-32 of a structure whose checksum field stands at `field`.
#[must_use]
#[inline]
pub fn checksum_without(bytes: &[u8], field: usize) -> u32 {
    // Most are one line long. One call for all of it is several times as fast as one for each part.
    if let Ok(mut line) = <[u8; 64]>::try_from(bytes) {
        line[field..field + 4].fill(0);
        let mut crc = crc();
        crc.update(&line);
        return crc.finalize();
    }
    let mut crc = crc();
    crc.update(&bytes[..field]);
    crc.update(&[0; 4]);
    crc.update(&bytes[field + 4..]);
    crc.finalize()
}

macro_rules! sealed {
    ($type:ty) => {
        impl $type {
            const CHECKSUM_AT: usize = std::mem::offset_of!($type, checksum);

            /// Sets the checksum.
            #[must_use]
            pub fn sealed(mut self) -> Self {
                self.checksum = U32::new(checksum_without(self.as_bytes(), Self::CHECKSUM_AT));
                self
            }

            /// Whether the checksum is right.
            #[must_use]
            pub fn is_sealed(&self) -> bool {
                self.checksum.get() == checksum_without(self.as_bytes(), Self::CHECKSUM_AT)
            }
        }
    };
}
sealed!(Identity);
sealed!(Superblock);
sealed!(SegmentHeader);
sealed!(BlobSlot);
sealed!(LinkSlot);
sealed!(NameSlot);

/// The length of a blob frame's header, in bytes: 64, or 128 where the digest needs the extension.
#[must_use]
pub const fn header_bytes(algorithm: Algorithm) -> u64 {
    match algorithm {
        Algorithm::Sha256 => 64,
        Algorithm::Sha384 | Algorithm::Sha512 => 128,
    }
}

/// The bytes that the frame of a name of this many bytes takes, up to the next frame.
#[must_use]
pub const fn name_frame_bytes(length: u64) -> u64 {
    align_up(size_of::<FrameHeader>() as u64 + length, FRAME_ALIGN)
}

/// The bytes that a blob's frame takes from the start of its header to the next frame.
#[must_use]
pub const fn frame_bytes(algorithm: Algorithm, length: u64) -> u64 {
    align_up(header_bytes(algorithm) + length, FRAME_ALIGN)
}

/// A blob frame's header as it lies in the file: 64 or 128 bytes of [`BlobHeader::bytes`].
#[derive(Clone, Copy)]
pub struct BlobHeader {
    raw: [u8; 128],
    used: usize,
}

impl BlobHeader {
    /// The header of the blob `digest` of `length` bytes at `offset`.
    #[must_use]
    pub fn new(marker: u64, offset: Offset, digest: &Digest, length: u64) -> BlobHeader {
        let mut detail = [0; 32];
        detail.copy_from_slice(&digest.padded()[..32]);
        let head = FrameHeader {
            marker: U64::new(marker),
            kind: Kind::Blob as u8,
            algorithm: digest.algorithm().code(),
            flags: U16::ZERO,
            checksum: U32::ZERO,
            offset: U64::new(offset.0),
            length: U64::new(length),
            detail,
        };
        let used = to_usize(header_bytes(digest.algorithm()));
        let mut raw = [0; 128];
        raw[..64].copy_from_slice(head.as_bytes());
        raw[64..96].copy_from_slice(&digest.padded()[32..]);
        let checksum = checksum_without(&raw[..used], FrameHeader::CHECKSUM_AT);
        raw[12..16].copy_from_slice(&checksum.to_le_bytes());
        BlobHeader { raw, used }
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.raw[..self.used]
    }
}

impl FrameHeader {
    /// Where the checksum stands.
    pub const CHECKSUM_AT: usize = std::mem::offset_of!(FrameHeader, checksum);

    /// The header of a frame that is no blob.
    #[must_use]
    pub fn plain(marker: u64, kind: Kind, offset: Offset, length: u64, detail: [u8; 32]) -> FrameHeader {
        let mut head = FrameHeader {
            marker: U64::new(marker),
            kind: kind as u8,
            algorithm: 0,
            flags: U16::ZERO,
            checksum: U32::ZERO,
            offset: U64::new(offset.0),
            length: U64::new(length),
            detail,
        };
        head.checksum = U32::new(checksum_without(head.as_bytes(), Self::CHECKSUM_AT));
        head
    }
}

/// A frame header whose marker, checksum, own offset, kind and algorithm were checked. Its length was not: whether
/// the body lies inside the file is the caller's to check, which knows how long the file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where it stands.
    pub offset: Offset,
    /// What it is.
    pub kind: Kind,
    /// The bytes of its header.
    pub header_bytes: u64,
    /// The bytes of its body, less than 2^46.
    pub length: u64,
    /// The header's checksum.
    pub checksum: u32,
    /// By kind.
    pub detail: [u8; 32],
    /// Of a blob.
    pub digest: Option<Digest>,
}

impl Frame {
    /// Reads the header at the start of `bytes` (128 of them, or what is left of the file; at least 64), which stand at
    /// `offset`.
    #[must_use]
    pub fn parse(bytes: &[u8], marker: u64, offset: Offset) -> Option<Frame> {
        let (head, _) = FrameHeader::ref_from_prefix(bytes).ok()?;
        if head.marker.get() != marker || head.offset.get() != offset.0 || head.length.get() >= BLOB_BYTES_LIMIT {
            return None;
        }
        let kind = Kind::from_code(head.kind)?;
        let algorithm = match kind {
            Kind::Blob => Some(Algorithm::from_code(head.algorithm)?),
            _ => None,
        };
        let header_bytes = algorithm.map_or(64, header_bytes);
        let all = bytes.get(..to_usize(header_bytes))?;
        if head.checksum.get() != checksum_without(all, FrameHeader::CHECKSUM_AT) {
            return None;
        }
        let digest = match algorithm {
            Some(algorithm) => {
                let mut padded = [0; 64];
                padded[..32].copy_from_slice(&head.detail);
                if let Some(extension) = all.get(64..96) {
                    padded[32..].copy_from_slice(extension);
                }
                Some(Digest::from_bytes(algorithm, &padded[..algorithm.digest_bytes()])?)
            }
            None => None,
        };
        Some(Frame {
            offset,
            kind,
            header_bytes,
            length: head.length.get(),
            checksum: head.checksum.get(),
            detail: head.detail,
            digest,
        })
    }

    /// Where the body begins.
    #[must_use]
    pub fn body(&self) -> Offset {
        Offset(self.offset.0 + self.header_bytes)
    }

    /// Where the next frame can begin: below 2^47, as offset and length are below 2^46.
    #[must_use]
    pub fn end(&self) -> Offset {
        Offset(align_up(self.offset.0 + self.header_bytes + self.length, FRAME_ALIGN))
    }

    /// The detail as a structure of its kind; the caller has looked at `kind`.
    #[must_use]
    pub fn detail<T: FromBytes + KnownLayout + Immutable>(&self) -> T {
        const { assert!(size_of::<T>() == 32) };
        T::read_from_bytes(&self.detail).expect("the detail has 32 bytes, and so has T")
    }
}

/// The bytes of a segment region with this many slots: its header and its records, in whole pages.
#[must_use]
pub const fn segment_bytes(slots: u32) -> u64 {
    align_up((slots as u64 + 1) * RECORD_BYTES, PAGE_BYTES)
}

/// The bytes of a directory of this depth, in whole pages.
#[must_use]
pub const fn directory_bytes(depth: u32) -> u64 {
    align_up(8 << depth, PAGE_BYTES)
}

/// The slot where the search for a tag begins: the low 32 bits of the tag, scaled to the number of slots. The directory
/// takes the high bits, so the two are independent.
#[must_use]
pub const fn home_slot(tag: u64, slots: u32) -> u32 {
    (((tag & 0xffff_ffff) * slots as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_as_they_were_packed() {
        let word = LiveWord { directory: Offset(FILE_BYTES_MAX - PAGE_BYTES), depth: 40, switches: 0xff_fffe };
        assert_eq!(LiveWord::unpack(word.pack()), word);
        let entry = Entry { segment: Offset(FILE_BYTES_MAX - PAGE_BYTES), generation: 0xab_cdef };
        assert_eq!(Entry::unpack(entry.pack()), entry);
    }

    #[test]
    fn everything_stands_where_the_format_says() {
        const KIB: u64 = 1024;
        assert_eq!((IDENTITY_AT.0, SUPERBLOCKS_AT[0].0, SUPERBLOCKS_AT[1].0), (0, 64 * KIB, 128 * KIB));
        assert_eq!((LIVE_AT.0, SPACE_AT.0, CHUNK_ALIGN, LARGE_BYTES), (192 * KIB, 256 * KIB, 64 * KIB, 64 * KIB));
        let live_page = [live::WORD, live::NOTICE, live::ACKNOWLEDGED, live::HOST].map(|at| at.0 - LIVE_AT.0);
        assert_eq!(live_page, [0, 8, 16, 24]);
        assert_eq!((FILE_BYTES_MAX, BLOB_BYTES_LIMIT, IMAGES_MAX), (64 * KIB.pow(4), 64 * KIB.pow(4), KIB * KIB));
        let codes =
            [Kind::Blob, Kind::Commit, Kind::Chunk, Kind::Jump, Kind::Link, Kind::Run, Kind::Name, Kind::Padding];
        assert!((1..=8).map(|code| Kind::from_code(code).unwrap()).eq(codes));
        assert_eq!((Kind::from_code(0), Kind::from_code(9)), (None, None));
    }

    #[test]
    fn positions_are_rounded_up_and_end_with_the_longest_file() {
        assert_eq!([0, 1, 64, 65].map(|n| align_up(n, 64)), [0, 64, 64, 128]);
        assert_eq!(Offset(4097).align_up(4096), Offset(8192));
        assert!(Offset(0).is_aligned(64) && Offset(192).is_aligned(64));
        assert!(!Offset(32).is_aligned(64) && !Offset(65).is_aligned(64));
        assert_eq!(Offset(5).checked_add(6), Some(Offset(11)));
        assert_eq!(Offset(5).checked_add(FILE_BYTES_MAX - 5), Some(Offset(FILE_BYTES_MAX)));
        assert_eq!(Offset(5).checked_add(FILE_BYTES_MAX - 4), None);
        assert_eq!(Offset(5).checked_add(u64::MAX), None);
        assert_eq!(Offset(1234).to_string(), "1234");
        assert_eq!((to_usize(1 << 40), to_u64(1 << 40)), (1 << 40, 1 << 40));
        assert_eq!([4, 63, 64].map(segment_bytes), [4096, 4096, 8192]);
        assert_eq!([0, 9, 10].map(directory_bytes), [4096, 4096, 8192]);
    }

    #[test]
    fn a_search_begins_where_the_low_half_of_the_tag_says() {
        let tag = |low: u64| 0xabcd_ef01 << 32 | low;
        assert_eq!([0, 0x4000_0000, 0x8000_0000, 0xffff_ffff].map(|low| home_slot(tag(low), 60)), [0, 15, 30, 59]);
    }

    #[test]
    fn words_have_their_parts_where_the_format_says() {
        // What is counted modulo 2^24 is cut off.
        let word = LiveWord { directory: Offset(3 * PAGE_BYTES), depth: 5, switches: 0x700_0009 };
        assert_eq!(word.pack(), 3 << 30 | 5 << 24 | 9);
        let most = LiveWord { directory: Offset(((1 << 34) - 1) * PAGE_BYTES), depth: 63, switches: 0xff_ffff };
        assert_eq!(LiveWord::unpack(u64::MAX), most);
        let entry = Entry { segment: Offset(3 * PAGE_BYTES), generation: 0x700_0009 };
        assert_eq!(entry.pack(), 3 << 24 | 9);
        let most = Entry { segment: Offset(((1 << 40) - 1) * PAGE_BYTES), generation: 0xff_ffff };
        assert_eq!(Entry::unpack(u64::MAX), most);
    }

    #[test]
    fn regions_begin_with_generations_of_their_own() {
        let first: Vec<u64> = (1..100).map(|page| first_generation(Offset(page * PAGE_BYTES))).collect();
        assert_eq!(first[0], 0x9e_3779);
        assert!(first.iter().all(|generation| generation % 2 == 1 && *generation < 1 << 24));
        assert_eq!(first.iter().collect::<std::collections::BTreeSet<_>>().len(), first.len());
    }

    #[test]
    fn a_checksum_covers_all_but_its_own_field() {
        for length in [64, 192] {
            let bytes: Vec<u8> = (0..length).collect();
            let mut blank = bytes.clone();
            blank[12..16].fill(0);
            assert_eq!(checksum_without(&bytes, 12), crc32fast::hash(&blank), "{length} bytes");
        }
    }

    #[test]
    fn frames_end_where_the_next_can_begin() {
        assert_eq!([0, 1, 64, 65].map(name_frame_bytes), [64, 128, 128, 192]);
        assert_eq!([0, 1, 64, 65].map(|length| frame_bytes(Algorithm::Sha256, length)), [64, 128, 128, 192]);
        assert_eq!([0, 1, 64].map(|length| frame_bytes(Algorithm::Sha384, length)), [128, 192, 192]);
        let parsed = |length| {
            let header = FrameHeader::plain(77, Kind::Run, Offset(640), length, [5; 32]);
            Frame::parse(header.as_bytes(), 77, Offset(640))
        };
        let frame = parsed(65).unwrap();
        assert_eq!((frame.body(), frame.end(), frame.length), (Offset(704), Offset(832), 65));
        assert_eq!(frame.detail::<CommitDetail>().as_bytes(), [5; 32]);
        assert!(parsed(BLOB_BYTES_LIMIT - 1).is_some() && parsed(BLOB_BYTES_LIMIT).is_none());
    }

    #[test]
    fn a_frame_is_refused_when_any_of_its_bits_is_flipped() {
        for algorithm in Algorithm::ALL {
            let digest = Digest::of(algorithm, b"payload");
            let at = Offset(0x4_0040);
            let header = BlobHeader::new(77, at, &digest, 7);
            let frame = Frame::parse(header.bytes(), 77, at).unwrap();
            assert_eq!((frame.digest, frame.length, frame.kind), (Some(digest), 7, Kind::Blob));
            assert_eq!(frame.end(), Offset(at.0 + frame_bytes(algorithm, 7)));
            assert!(Frame::parse(header.bytes(), 78, at).is_none());
            assert!(Frame::parse(header.bytes(), 77, Offset(at.0 + 64)).is_none());
            let step = if cfg!(miri) { 37 } else { 1 };
            for bit in (0..header.bytes().len() * 8).step_by(step) {
                let mut bytes = header.bytes().to_vec();
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(Frame::parse(&bytes, 77, at).is_none(), "{algorithm}: bit {bit}");
            }
        }
    }
}
