//! The log of the new file, chunk by chunk.

use zerocopy::IntoBytes;

use super::CHUNK_BYTES;
use crate::error::{Error, Result};
use crate::format::{CHUNK_ALIGN, Offset, align_up, name_frame_bytes, to_u64, to_usize};
use crate::log::{CommitFields, PLAIN_BYTES, Tail, chunk_bytes, encode_group, group_bytes, seal_name};
use crate::medium::Medium;
use crate::name::Name;
use crate::record::Image;
use crate::space::Space;

/// The end of the new log.
pub(super) struct LogCopy<'a, M: Medium> {
    medium: &'a M,
    pub(super) space: &'a mut Space,
    marker: u64,
    pub(super) tail: Tail,
    /// What stands in the chunk before `tail.at`.
    buffer: Vec<u8>,
    start: Offset,
    /// Frame bytes that are still to come.
    left: u64,
}

impl<'a, M: Medium> LogCopy<'a, M> {
    pub(super) fn new(
        medium: &'a M,
        space: &'a mut Space,
        marker: u64,
        bytes: u64,
        epoch: u64,
    ) -> Result<LogCopy<'a, M>> {
        let tail = Tail {
            epoch,
            chunk: Offset::NONE,
            chunk_end: 0,
            at: Offset::NONE,
            commit: Offset::NONE,
            commit_checksum: 0,
        };
        let mut log = LogCopy { medium, space, marker, tail, buffer: Vec::new(), start: Offset::NONE, left: bytes };
        let chunk = log.space.allocate(medium, log.next_chunk_bytes(0), CHUNK_ALIGN)?;
        let head = log.tail.begin_chunk(marker, chunk);
        log.start = chunk.offset;
        log.buffer.extend_from_slice(head.as_bytes());
        Ok(log)
    }

    fn next_chunk_bytes(&self, needed: u64) -> u64 {
        chunk_bytes(needed, align_up((self.left + 2 * PLAIN_BYTES).min(CHUNK_BYTES), CHUNK_ALIGN))
    }

    /// Sees to it that the next `bytes` fit into the chunk.
    pub(super) fn make_room(&mut self, bytes: u64) -> Result<()> {
        if self.tail.room() < bytes {
            let chunk = self.space.allocate(self.medium, self.next_chunk_bytes(bytes), CHUNK_ALIGN)?;
            let ((_, jump), (_, head)) = self.tail.jump(self.marker, chunk);
            self.buffer.extend_from_slice(jump.as_bytes());
            self.flush()?;
            self.start = chunk.offset;
            self.buffer.extend_from_slice(head.as_bytes());
        }
        self.left = self.left.saturating_sub(bytes);
        Ok(())
    }

    /// What stands behind the buffer is written by others.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.medium
            .write_at(self.start, &[&self.buffer], false)
            .map_err(|e| Error::io("write the new log", self.medium.path(), e))?;
        self.buffer.clear();
        self.start = self.tail.at;
        Ok(())
    }

    /// Gives a small blob's frame its place. Whoever copies the blob writes there.
    pub(super) fn place(&mut self, bytes: u64) -> Result<Offset> {
        self.make_room(bytes)?;
        if !self.buffer.is_empty() {
            self.flush()?;
        }
        let at = self.tail.at;
        self.tail.at = Offset(at.0 + bytes);
        self.start = self.tail.at;
        Ok(at)
    }

    /// Writes a name's frame; returns where it stands.
    pub(super) fn name(&mut self, name: &Name) -> Result<Offset> {
        let text = name.as_str();
        let bytes = name_frame_bytes(to_u64(text.len()));
        self.make_room(bytes)?;
        let at = self.tail.at;
        let before = self.buffer.len();
        self.buffer.extend_from_slice(seal_name(self.marker, at, text).0.as_bytes());
        self.buffer.extend_from_slice(text.as_bytes());
        self.buffer.resize(before + to_usize(bytes), 0);
        self.tail.at = Offset(at.0 + bytes);
        Ok(at)
    }

    pub(super) fn commit(&mut self, images: &[Image], fields: &CommitFields) -> Result<()> {
        self.make_room(group_bytes(images.len() as u64, 0))?;
        let bytes = encode_group(self.marker, &mut self.tail, images, &[], fields);
        self.buffer.extend_from_slice(&bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
