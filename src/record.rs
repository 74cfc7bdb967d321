//! Records in memory: what the index holds of a blob, a link and a name, and how that becomes the 64 bytes of a slot.
//!
//! A record is parsed once, by [`Image::parse`], which checks checksum, kind and algorithm; what it holds besides
//! (offsets, lengths, counts) is checked where it is used, against the frame or the neighbour that it speaks of.

use byteorder::{ByteOrder, LittleEndian};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use crate::digest::{Algorithm, Digest};
use crate::format::{
    BLOB_BYTES_LIMIT, BlobSlot, Counters, Kind, LinkSlot, NameSlot, Offset, SLOT_REMOVED, TAG_MIN, frame_bytes,
};

/// The eight words of a slot, in the machine's byte order.
pub type Words = [u64; 8];

/// What the index knows of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobRecord {
    /// Keyed hash of its digest.
    pub tag: u64,
    /// Where its frame stands.
    pub id: Offset,
    /// Payload bytes.
    pub length: u64,
    /// The digest's algorithm.
    pub algorithm: Algorithm,
    /// All references: held by callers, by links and by names.
    pub references: u32,
    /// Those held by links and names (one for each inbound link, one for each name).
    pub held: u32,
    /// The first blob that it links to, or `NONE`.
    pub first_out: Offset,
    /// The first blob that links to it, or `NONE`.
    pub first_in: Offset,
    /// How many blobs it links to.
    pub out_count: u64,
}

impl BlobRecord {
    /// The bytes that its frame takes in the file.
    #[must_use]
    pub const fn frame_bytes(&self) -> u64 {
        frame_bytes(self.algorithm, self.length)
    }
}

/// What a store knows of a blob, as of the moment it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Descriptor {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its references: those that callers hold, and one for each blob that links to it and for each of its names.
    pub ref_count: u64,
    /// How many blobs it links to.
    pub link_count: u64,
}

impl Descriptor {
    #[inline]
    pub(crate) fn new(digest: Digest, blob: &BlobRecord) -> Descriptor {
        Descriptor { digest, size: blob.length, ref_count: blob.references.into(), link_count: blob.out_count }
    }
}

/// What the index knows of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkRecord {
    /// Keyed hash of both ids.
    pub tag: u64,
    /// The blob that holds the link.
    pub from: Offset,
    /// The blob that is linked to.
    pub to: Offset,
    /// The next blob that `from` links to, or `NONE`.
    pub next_out: Offset,
    /// The previous one.
    pub previous_out: Offset,
    /// The next blob that links to `to`, or `NONE`.
    pub next_in: Offset,
    /// The previous one.
    pub previous_in: Offset,
}

/// What the index knows of a name, or of the anchor of the ring of all names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameRecord {
    /// Keyed hash of the name; of the empty one in the anchor.
    pub tag: u64,
    /// Where the frame with its text stands; `NONE` in the anchor.
    pub id: Offset,
    /// The blob that has the name; `NONE` in the anchor.
    pub target: Offset,
    /// The next name in the ring, or the anchor.
    pub next: Neighbour,
    /// The previous one, or the anchor.
    pub previous: Neighbour,
}

/// What leads to the record of a name, without its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Where its frame stands; `NONE` for the anchor.
    pub id: Offset,
    /// The record's tag.
    pub tag: u64,
}

impl Neighbour {
    /// The anchor, with the tag of the empty name.
    #[must_use]
    pub const fn anchor(tag: u64) -> Neighbour {
        Neighbour { id: Offset::NONE, tag }
    }

    /// Whether it is the anchor.
    #[must_use]
    pub fn is_anchor(&self) -> bool {
        self.id == Offset::NONE
    }
}

impl NameRecord {
    /// The anchor of a ring of no names, with the tag of the empty name.
    #[must_use]
    pub const fn anchor(tag: u64) -> NameRecord {
        let anchor = Neighbour::anchor(tag);
        NameRecord { tag, id: Offset::NONE, target: Offset::NONE, next: anchor, previous: anchor }
    }

    /// What leads to it.
    #[must_use]
    pub const fn place(&self) -> Neighbour {
        Neighbour { id: self.id, tag: self.tag }
    }
}

/// A record of any kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// Of a blob.
    Blob(BlobRecord),
    /// Of a link.
    Link(LinkRecord),
    /// Of a name, or the anchor of their ring.
    Name(NameRecord),
}

/// What tells two records apart, and never changes while a record lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// The blob with this id.
    Blob(Offset),
    /// The link from the first to the second.
    Link(Offset, Offset),
    /// The name whose frame stands here; `NONE`: the anchor.
    Name(Offset),
}

impl Record {
    /// The record's tag.
    #[must_use]
    pub const fn tag(&self) -> u64 {
        match self {
            Record::Blob(blob) => blob.tag,
            Record::Link(link) => link.tag,
            Record::Name(name) => name.tag,
        }
    }

    /// The record's key.
    #[must_use]
    pub const fn key(&self) -> Key {
        match self {
            Record::Blob(blob) => Key::Blob(blob.id),
            Record::Link(link) => Key::Link(link.from, link.to),
            Record::Name(name) => Key::Name(name.id),
        }
    }
}

/// What a commit does to one record: its state afterwards, or that it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// The record; of one that is gone, as it was.
    pub record: Record,
    /// Whether it is gone.
    pub removed: bool,
}

impl Image {
    /// The 64 bytes of a slot or of a commit's image.
    #[must_use]
    pub fn bytes(&self) -> [u8; 64] {
        let flags = U16::new(if self.removed { SLOT_REMOVED } else { 0 });
        let mut bytes = [0; 64];
        match &self.record {
            Record::Blob(blob) => {
                let slot = BlobSlot {
                    tag: U64::new(blob.tag),
                    offset: U64::new(blob.id.0),
                    length: U64::new(blob.length),
                    references: U32::new(blob.references),
                    held: U32::new(blob.held),
                    first_out: U64::new(blob.first_out.0),
                    first_in: U64::new(blob.first_in.0),
                    out_count: U64::new(blob.out_count),
                    checksum: U32::ZERO,
                    kind: Kind::Blob as u8,
                    algorithm: blob.algorithm.code(),
                    flags,
                };
                bytes.copy_from_slice(slot.sealed().as_bytes());
            }
            Record::Link(link) => {
                let slot = LinkSlot {
                    tag: U64::new(link.tag),
                    from: U64::new(link.from.0),
                    to: U64::new(link.to.0),
                    next_out: U64::new(link.next_out.0),
                    previous_out: U64::new(link.previous_out.0),
                    next_in: U64::new(link.next_in.0),
                    previous_in: U64::new(link.previous_in.0),
                    checksum: U32::ZERO,
                    kind: Kind::Link as u8,
                    algorithm: 0,
                    flags,
                };
                bytes.copy_from_slice(slot.sealed().as_bytes());
            }
            Record::Name(name) => {
                let slot = NameSlot {
                    tag: U64::new(name.tag),
                    offset: U64::new(name.id.0),
                    target: U64::new(name.target.0),
                    next: U64::new(name.next.id.0),
                    previous: U64::new(name.previous.id.0),
                    next_tag: U64::new(name.next.tag),
                    previous_tag: U64::new(name.previous.tag),
                    checksum: U32::ZERO,
                    kind: Kind::Name as u8,
                    algorithm: 0,
                    flags,
                };
                bytes.copy_from_slice(slot.sealed().as_bytes());
            }
        }
        bytes
    }

    /// The same as words.
    #[must_use]
    pub fn words(&self) -> Words {
        words_of(&self.bytes())
    }

    /// The inverse of [`bytes`](Image::bytes); `None` where checksum, tag, kind, algorithm, length or flags are not
    /// right.
    #[must_use]
    pub fn parse(bytes: &[u8; 64]) -> Option<Image> {
        let slot = BlobSlot::ref_from_bytes(bytes).ok()?;
        let (tag, flags) = (slot.tag.get(), slot.flags.get());
        if !slot.is_sealed() || tag < TAG_MIN || flags & !SLOT_REMOVED != 0 {
            return None;
        }
        let record = match Kind::from_code(slot.kind)? {
            Kind::Blob if slot.length.get() < BLOB_BYTES_LIMIT => Record::Blob(BlobRecord {
                tag,
                id: Offset(slot.offset.get()),
                length: slot.length.get(),
                algorithm: Algorithm::from_code(slot.algorithm)?,
                references: slot.references.get(),
                held: slot.held.get(),
                first_out: Offset(slot.first_out.get()),
                first_in: Offset(slot.first_in.get()),
                out_count: slot.out_count.get(),
            }),
            Kind::Link => {
                let link = LinkSlot::ref_from_bytes(bytes).ok()?;
                Record::Link(LinkRecord {
                    tag,
                    from: Offset(link.from.get()),
                    to: Offset(link.to.get()),
                    next_out: Offset(link.next_out.get()),
                    previous_out: Offset(link.previous_out.get()),
                    next_in: Offset(link.next_in.get()),
                    previous_in: Offset(link.previous_in.get()),
                })
            }
            Kind::Name => {
                let name = NameSlot::ref_from_bytes(bytes).ok()?;
                Record::Name(NameRecord {
                    tag,
                    id: Offset(name.offset.get()),
                    target: Offset(name.target.get()),
                    next: Neighbour { id: Offset(name.next.get()), tag: name.next_tag.get() },
                    previous: Neighbour { id: Offset(name.previous.get()), tag: name.previous_tag.get() },
                })
            }
            _ => return None,
        };
        Some(Image { record, removed: flags & SLOT_REMOVED != 0 })
    }

    /// [`parse`](Image::parse) of a slot's words.
    #[must_use]
    pub fn parse_words(words: &Words) -> Option<Image> {
        Image::parse(&bytes_of(words))
    }
}

/// What a pack holds; [`Counters`] as plain numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CountersNow {
    /// Blobs stored.
    pub blobs: u64,
    /// Links between them.
    pub links: u64,
    /// Names.
    pub names: u64,
    /// Payload bytes of all blobs.
    pub live_bytes: u64,
    /// Bytes of the file that removed blobs and names take.
    pub dead_bytes: u64,
    /// Commit groups so far.
    pub commits: u64,
}

impl CountersNow {
    /// How many records there are.
    #[must_use]
    pub const fn records(&self) -> u64 {
        let anchor = if self.names > 0 { 1 } else { 0 };
        self.blobs.saturating_add(self.links).saturating_add(self.names).saturating_add(anchor)
    }
}

impl From<Counters> for CountersNow {
    fn from(stored: Counters) -> CountersNow {
        CountersNow {
            blobs: stored.blobs.get(),
            links: stored.links.get(),
            names: stored.names.get(),
            live_bytes: stored.live_bytes.get(),
            dead_bytes: stored.dead_bytes.get(),
            commits: stored.commits.get(),
        }
    }
}

impl From<CountersNow> for Counters {
    fn from(now: CountersNow) -> Counters {
        Counters {
            blobs: now.blobs.into(),
            links: now.links.into(),
            names: now.names.into(),
            live_bytes: now.live_bytes.into(),
            dead_bytes: now.dead_bytes.into(),
            commits: now.commits.into(),
        }
    }
}

/// The words of 64 bytes.
#[must_use]
pub fn words_of(bytes: &[u8; 64]) -> Words {
    let mut words = [0; 8];
    for (word, eight) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = LittleEndian::read_u64(eight);
    }
    words
}

/// The bytes of eight words.
#[must_use]
pub fn bytes_of(words: &Words) -> [u8; 64] {
    let mut bytes = [0; 64];
    for (eight, word) in bytes.chunks_exact_mut(8).zip(words) {
        LittleEndian::write_u64(eight, *word);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn blob() -> BlobRecord {
        BlobRecord {
            tag: 99,
            id: Offset(0x4_0040),
            length: 7,
            algorithm: Algorithm::Sha384,
            references: 3,
            held: 2,
            first_out: Offset(64),
            first_in: Offset(128),
            out_count: 9,
        }
    }

    #[test]
    fn an_image_comes_back_and_no_flipped_bit_is_taken() {
        let link = LinkRecord {
            tag: 98,
            from: Offset(1 << 20),
            to: Offset(2 << 20),
            next_out: Offset(1),
            previous_out: Offset(2),
            next_in: Offset(3),
            previous_in: Offset(4),
        };
        let name = NameRecord {
            tag: 97,
            id: Offset(0x4_0080),
            target: Offset(0x4_0040),
            next: Neighbour { id: Offset(0x4_0100), tag: 96 },
            previous: Neighbour::anchor(95),
        };
        for record in [Record::Blob(blob()), Record::Link(link), Record::Name(name)] {
            for removed in [false, true] {
                let image = Image { record, removed };
                assert_eq!(Image::parse_words(&image.words()), Some(image));
                for bit in 0..512 {
                    let mut bytes = image.bytes();
                    bytes[bit / 8] ^= 1 << (bit % 8);
                    assert_eq!(Image::parse(&bytes), None);
                }
            }
        }
    }
}
