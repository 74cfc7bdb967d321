//! Which regions of the index a superblock reaches, and which can be used.

use byteorder::{ByteOrder, LittleEndian};

use crate::error::{Error, Result};
use crate::format::{Entry, Offset, Superblock};
use crate::medium::Medium;
use crate::view::read_vec;

/// What a superblock's directory names.
pub(crate) struct Reach {
    pub(super) directory: Offset,
    /// Sorted, each once.
    pub(crate) segments: Vec<Offset>,
}

impl Reach {
    pub(crate) fn of<M: Medium>(medium: &M, superblock: &Superblock) -> Result<Reach> {
        let directory = Offset(superblock.directory.get());
        let bytes = 8u64 << superblock.depth.get();
        let words =
            read_vec(medium, directory, bytes).map_err(|e| Error::io("read the index directory", medium.path(), e))?;
        let entry = |eight: &[u8]| Entry::unpack(LittleEndian::read_u64(eight)).segment;
        let mut segments: Vec<Offset> = words.chunks_exact(8).map(entry).collect();
        segments.dedup();
        segments.sort_unstable();
        segments.dedup();
        Ok(Reach { directory, segments })
    }

    /// Whether all that it names are segments; `segments` are all that there are, sorted.
    pub(super) fn check<M: Medium>(&self, medium: &M, segments: &[Offset]) -> Result<()> {
        match self.segments.iter().find(|segment| segments.binary_search(segment).is_err()) {
            Some(astray) => {
                Err(Error::damaged(medium.path(), astray.0, "the index directory names what is no segment"))
            }
            None => Ok(()),
        }
    }
}

/// Those of the segments, in ascending order, that have their place on the disk.
pub(super) fn keep_allocated<M: Medium>(medium: &M, segments: &[Offset], bytes: u64) -> Vec<Offset> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < segments.len() {
        let run = segments[at..].windows(2).take_while(|pair| pair[1].0 == pair[0].0 + bytes).count() + 1;
        if medium.allocate(segments[at], bytes * run as u64).is_ok() {
            kept.extend_from_slice(&segments[at..at + run]);
        }
        at += run;
    }
    kept
}
