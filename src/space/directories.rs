//! Directories: which of them are free, and how many are kept so.

use super::{HOLDS_DIRECTORY, Region, Space};
use crate::error::Result;
use crate::medium::Medium;

impl Space {
    /// A free directory of at least `bytes`, the smallest that there is, and whether it is new: nobody has ever seen
    /// it.
    pub fn take_directory<M: Medium>(&mut self, medium: &M, bytes: u64) -> Result<(Region, bool)> {
        let best = self.best_directory(bytes);
        if best.is_none() {
            self.new_directory(medium, bytes)?;
        }
        let taken = best.or_else(|| self.best_directory(bytes)).expect("a directory was just made");
        self.has_new_directory();
        Ok(taken)
    }

    fn best_directory(&mut self, bytes: u64) -> Option<(Region, bool)> {
        let (at, _) = (self.directories.iter().enumerate())
            .filter(|(_, (free, _))| free.bytes >= bytes)
            .min_by_key(|(_, (free, _))| (self.foreign.contains(&free.offset), free.bytes))?;
        Some(self.directories.swap_remove(at))
    }

    /// Whether the live directory may be stored into.
    pub fn has_directory(&self) -> bool {
        self.has_directory
    }

    /// The live directory is one that was taken just now: it may be stored into.
    pub fn has_new_directory(&mut self) {
        (self.has_directory, self.owns_directory) = (true, true);
    }

    /// Sees to it that directories of `bytes` can be had without new space: one for the commit that asks, one for
    /// the dereferences that must work on a full disk after it. These may come after a checkpoint, when the live one is
    /// free again: where that may share its blocks with another file it needs space then, so there is a third.
    pub fn reserve_directories<M: Medium>(&mut self, medium: &M, bytes: u64) -> Result<()> {
        self.reserve_so_many(medium, bytes, self.reserved_directories())
    }

    /// The same and one more, which is taken: nobody sees it before [`has_new_directory`](Space::has_new_directory).
    pub fn take_spare_directory<M: Medium>(&mut self, medium: &M, bytes: u64) -> Result<(Region, bool)> {
        self.reserve_so_many(medium, bytes, self.reserved_directories() + 1)?;
        Ok(self.best_directory(bytes).expect("a directory was just reserved"))
    }

    fn reserved_directories(&self) -> usize {
        if self.foreign.is_empty() || self.owns_directory { 2 } else { 3 }
    }

    fn reserve_so_many<M: Medium>(&mut self, medium: &M, bytes: u64, count: usize) -> Result<()> {
        for _ in self.secure_directories(medium, bytes, count)..count {
            self.new_directory(medium, bytes)?;
        }
        Ok(())
    }

    /// Sees to it that the directory that the next change may have to make, of `bytes`, can be had without new space.
    pub fn reserve_directory<M: Medium>(&mut self, medium: &M, bytes: u64) -> Result<()> {
        if self.has_directory || self.secure_directories(medium, bytes, 1) == 1 {
            return Ok(());
        }
        self.new_directory(medium, bytes)
    }

    pub(super) fn new_directory<M: Medium>(&mut self, medium: &M, bytes: u64) -> Result<()> {
        let offset = self.new_run(medium, bytes, 1, HOLDS_DIRECTORY)?;
        self.directories.push((Region { offset, bytes }, true));
        Ok(())
    }

    /// A directory that no checkpoint names is free again.
    pub fn free_directory(&mut self, region: Region) {
        self.directories.push((region, false));
    }

    /// A directory that the checkpoint `sequence`, and perhaps earlier ones, name.
    pub fn retire_directory(&mut self, region: Region, sequence: u64) {
        self.retired.entry(sequence).or_default().directories.push(region);
    }
}
