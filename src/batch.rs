//! What callers ask for, before anything is decided: operations, and the bytes of the small blobs and names among them.

use std::ops::Range;

use crate::arena::Arena;
use crate::digest::{Algorithm, Digest};
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::format::{BLOB_BYTES_LIMIT, FRAME_ALIGN, FrameHeader, align_up, crc, header_bytes, to_usize};
use crate::index::tag::Tagger;
use crate::name::Name;
use crate::record::Neighbour;

/// A small blob that waits in the arena: the room of its header, its payload, zeros to the next frame.
pub struct Small {
    /// What it is.
    pub digest: Digest,
    /// Where it goes in the index.
    pub tag: u64,
    /// Payload bytes.
    pub length: u64,
    /// The frame in the arena.
    pub frame: Range<usize>,
    /// CRC-32 of the payload so far; the header follows when its offset is known.
    pub checksum: crc32fast::Hasher,
}

/// A large blob whose payload and header are in an extent already.
pub struct Large {
    /// What it is.
    pub digest: Digest,
    /// Where it goes in the index.
    pub tag: u64,
    /// Payload bytes.
    pub length: u64,
    /// CRC-32 over payload, then header.
    pub checksum: u32,
    /// Whether it was synced.
    pub synced: bool,
    /// Gives its space back unless it is published.
    pub extent: Extent,
}

/// A name that waits in the arena, as a small blob does: whether it is new is not known yet.
pub struct NewName {
    /// What it is.
    pub name: Name,
    /// Where it goes in the index.
    pub tag: u64,
    /// The frame in the arena.
    pub frame: Range<usize>,
    /// The blob that gets it.
    pub digest: Digest,
}

/// One operation of a batch.
pub enum Operation {
    /// Store a small blob.
    Small(Small),
    /// Store a large one.
    Large(Box<Large>),
    /// Add a reference.
    Reference(Digest),
    /// Drop a reference.
    Dereference(Digest),
    /// Move a reference on the first into the second.
    Link(Digest, Digest),
    /// Remove the link to the first from the second, with its reference.
    Unlink(Digest, Digest),
    /// Move a reference on a blob into a name.
    SetName(Box<NewName>),
    /// Remove a name, with its reference.
    RemoveName(Name),
    /// Remove a name whose text can't be read, and leave its reference to the caller.
    ReleaseName(Neighbour),
}

impl Operation {
    /// Where the first record that it changes stands in the index, or will.
    pub fn tag(&self, tagger: &Tagger) -> Option<u64> {
        match self {
            Operation::Small(small) => Some(small.tag),
            Operation::Large(large) => Some(large.tag),
            Operation::SetName(new) => Some(new.tag),
            Operation::RemoveName(name) => Some(tagger.of_name(name.as_str())),
            _ => self.stored().map(|digest| tagger.of_blob(digest)),
        }
    }

    /// The blob that it changes, where that has to be stored already.
    pub fn stored(&self) -> Option<&Digest> {
        match self {
            Operation::Reference(digest)
            | Operation::Dereference(digest)
            | Operation::Link(digest, _)
            | Operation::Unlink(digest, _) => Some(digest),
            _ => None,
        }
    }
}

impl From<Operation> for Operations {
    fn from(operation: Operation) -> Operations {
        Operations { list: vec![operation].into(), arena: Arena::default() }
    }
}

/// The operations of one batch.
#[derive(Default)]
pub struct Operations {
    /// In the order that they were asked for.
    pub list: Arena<Operation>,
    /// The frames of the small blobs and of names, one after another.
    pub arena: Arena<u8>,
}

impl Operations {
    /// Hashes and takes in a small blob.
    pub fn put(&mut self, tagger: &Tagger, algorithm: Algorithm, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(algorithm, bytes);
        self.put_hashed(tagger, digest, bytes)?;
        Ok(digest)
    }

    /// Takes in a small blob whose digest was computed from these very bytes.
    pub fn put_hashed(&mut self, tagger: &Tagger, digest: Digest, bytes: &[u8]) -> Result<()> {
        let length = bytes.len() as u64;
        if length >= BLOB_BYTES_LIMIT {
            return Err(Error::TooLarge { length, limit: BLOB_BYTES_LIMIT - 1 });
        }
        let start = self.arena.len();
        let header = to_usize(header_bytes(digest.algorithm()));
        self.arena.resize(start + header, 0);
        self.arena.extend_from_slice(bytes);
        let end = to_usize(align_up(self.arena.len() as u64, FRAME_ALIGN));
        self.arena.resize(end, 0);
        let mut checksum = crc();
        checksum.update(bytes);
        let tag = tagger.of_blob(&digest);
        self.list.push(Operation::Small(Small { digest, tag, length, frame: start..end, checksum }));
        Ok(())
    }

    /// Takes in a name that is to be set.
    pub fn set_name(&mut self, tagger: &Tagger, name: &Name, digest: &Digest) {
        let start = self.arena.len();
        self.arena.resize(start + size_of::<FrameHeader>(), 0);
        self.arena.extend_from_slice(name.as_str().as_bytes());
        let end = to_usize(align_up(self.arena.len() as u64, FRAME_ALIGN));
        self.arena.resize(end, 0);
        let tag = tagger.of_name(name.as_str());
        self.list.push(Operation::SetName(Box::new(NewName {
            name: name.clone(),
            tag,
            frame: start..end,
            digest: *digest,
        })));
    }

    /// Whether any operation sets a name.
    pub fn sets_names(&self) -> bool {
        self.list.iter().any(|op| matches!(op, Operation::SetName(_)))
    }

    /// Whether all operations give up references, so that they may use the space kept for a full disk.
    pub fn only_gives_up(&self) -> bool {
        let gives_up = |op: &Operation| {
            matches!(
                op,
                Operation::Dereference(_)
                    | Operation::Unlink(..)
                    | Operation::RemoveName(_)
                    | Operation::ReleaseName(_)
            )
        };
        self.list.iter().all(gives_up)
    }
}
