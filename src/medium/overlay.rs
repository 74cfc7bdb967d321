//! A medium whose new regions are memory: a reader without a writer recovers on it. What lies before `start`
//! is read from the medium below and never written.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{AtPath, Medium};
use crate::format::Offset;
use crate::map::Map;

/// See the module.
pub struct Overlay<M> {
    below: Arc<M>,
    memory: Arc<Map>,
    start: Offset,
}

impl<M: Medium> Overlay<M> {
    /// `memory` stands for the bytes from `start` on.
    pub fn new(below: Arc<M>, memory: Arc<Map>, start: Offset) -> Overlay<M> {
        Overlay { below, memory, start }
    }

    fn inside(&self, offset: Offset, length: u64) -> io::Result<Offset> {
        let at = offset.0.checked_sub(self.start.0).ok_or(io::ErrorKind::ReadOnlyFilesystem)?;
        if at.checked_add(length).is_none_or(|end| end > self.memory.length()) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(Offset(at))
    }
}

impl<M: Medium> Medium for Overlay<M> {
    fn path(&self) -> &Path {
        self.below.path()
    }

    fn length(&self) -> io::Result<u64> {
        self.below.length()
    }

    fn read_at(&self, offset: Offset, buffer: &mut [u8]) -> io::Result<()> {
        if offset < self.start {
            return self.below.read_at(offset, buffer);
        }
        let at = self.inside(offset, buffer.len() as u64)?;
        let bytes = self.memory.bytes(at, buffer.len() as u64).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, offset: Offset, pieces: &[&[u8]], _durable: bool) -> io::Result<()> {
        let length = pieces.iter().map(|piece| piece.len() as u64).sum();
        let mut at = self.inside(offset, length)?;
        for piece in pieces {
            self.memory.write_bytes(at, piece);
            at.0 += piece.len() as u64;
        }
        Ok(())
    }

    fn allocate(&self, offset: Offset, length: u64) -> io::Result<()> {
        self.inside(offset, length).map(drop)
    }

    fn punch(&self, _offset: Offset, _length: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync_range(&self, _offset: Offset, _length: u64) -> io::Result<()> {
        Ok(())
    }

    fn write_back(&self, _offset: Offset, _length: u64) {}

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }

    fn store(&self, offset: Offset, words: &[u64]) -> io::Result<()> {
        let at = self.inside(offset, 8 * words.len() as u64)?;
        self.memory.store_words(at, words).ok_or(io::ErrorKind::InvalidInput.into())
    }

    fn map(&self, length: u64) -> io::Result<Arc<Map>> {
        self.below.map(length)
    }

    fn host(&self) -> io::Result<[u64; 4]> {
        self.below.host()
    }

    fn links(&self) -> io::Result<u64> {
        self.below.links()
    }

    fn at_path(&self) -> io::Result<AtPath> {
        self.below.at_path()
    }

    fn blocks(&self) -> io::Result<u64> {
        self.below.blocks()
    }

    fn data_after(&self, offset: Offset) -> io::Result<Option<Offset>> {
        self.below.data_after(offset)
    }

    fn reopen(&self, _write: bool) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn create_beside(&self, _path: Option<&Path>) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn publish(&self, _replace: bool) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(())
    }

    fn remove_leftovers(&self) {}

    fn try_lock(&self) -> io::Result<bool> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn unlock(&self) {}

    fn is_locked(&self) -> io::Result<bool> {
        self.below.is_locked()
    }

    fn is_ready(&self) -> io::Result<bool> {
        self.below.is_ready()
    }

    fn pause(&self) {
        self.below.pause();
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.below.random(bytes)
    }
}
