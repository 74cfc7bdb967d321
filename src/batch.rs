//! What callers ask for, before anything is decided: operations, and the bytes of the small blobs among them.

use std::ops::Range;

use crate::digest::{Algorithm, Digest};
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::format::{BLOB_BYTES_LIMIT, FRAME_ALIGN, align_up, header_bytes, to_usize};
use crate::index::tag::Tagger;

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
}

/// The operations of one batch.
#[derive(Default)]
pub struct Operations {
    /// In the order that they were asked for.
    pub list: Vec<Operation>,
    /// The frames of the small blobs, one after another.
    pub arena: Vec<u8>,
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
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(bytes);
        let tag = tagger.of_blob(&digest);
        self.list.push(Operation::Small(Small { digest, tag, length, frame: start..end, checksum }));
        Ok(())
    }

    /// Whether all operations give up references, so that they may use the space kept for a full disk.
    pub fn only_gives_up(&self) -> bool {
        self.list.iter().all(|op| matches!(op, Operation::Dereference(_) | Operation::Unlink(..)))
    }
}
