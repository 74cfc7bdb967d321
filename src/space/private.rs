//! Regions that stores find room in on a full disk too.
//!
//! On most file systems that is so for all that was allocated. Where files share blocks, a region from before the pack
//! was opened may be one that a copy shares with its original: then a store takes space. Such regions are made the
//! file's own before they are promised; those for which there is no space come last.

use super::{Region, Space};
use crate::error::{Error, Result};
use crate::format::{segment_bytes, to_usize};
use crate::medium::Medium;
use crate::space::no_space;

impl Space {
    /// Sees to it that stores into the next `count` free segments, as far as there are so many, need no space.
    pub fn secure_segments<M: Medium>(&mut self, medium: &M, count: u64) -> Result<()> {
        self.gather_segments(count);
        let (wanted, bytes) = (self.segments.len().min(to_usize(count)), segment_bytes(self.slots));
        let first = self.segments.len() - wanted;
        let next = self.segments[first..].iter().map(|(offset, _)| Region { offset: *offset, bytes }).collect();
        let Err(error) = self.make_private(medium, next) else { return Ok(()) };
        if !matches!(error, Error::NoSpace { .. }) {
            return Err(error);
        }
        self.gather_segments(u64::MAX);
        let (mut good, mut shared) = (Vec::new(), Vec::new());
        while good.len() < wanted
            && let Some(segment) = self.segments.pop()
        {
            let region = Region { offset: segment.0, bytes };
            let is_good = self.make_private(medium, vec![region]).is_ok();
            if is_good { good.push(segment) } else { shared.push(segment) }
        }
        self.segments.splice(0..0, shared);
        let done = if good.len() == wanted { Ok(()) } else { Err(error) };
        self.segments.extend(good.into_iter().rev());
        done
    }

    /// Of the free directories of `bytes` or more, how many, up to `count`, can be stored into without new space.
    pub fn secure_directories<M: Medium>(&mut self, medium: &M, bytes: u64, count: usize) -> usize {
        let large_enough = self.directories.iter().map(|(free, _)| *free).filter(|free| free.bytes >= bytes);
        let mut free: Vec<Region> = large_enough.collect();
        // In the order in which they are taken.
        free.sort_unstable_by_key(|region| (self.foreign.contains(&region.offset), region.bytes));
        free.into_iter().filter(|region| self.make_private(medium, vec![*region]).is_ok()).take(count).count()
    }

    /// Sees to it that stores into these regions need no space.
    fn make_private<M: Medium>(&mut self, medium: &M, mut regions: Vec<Region>) -> Result<()> {
        regions.retain(|region| self.foreign.contains(&region.offset));
        regions.sort_unstable();
        for run in regions.chunk_by(|a, b| a.end() == b.offset.0) {
            let length = run.iter().map(|region| region.bytes).sum();
            medium.make_private(run[0].offset, length).map_err(|e| no_space(medium, length, e))?;
            for region in run {
                self.foreign.remove(&region.offset);
            }
        }
        Ok(())
    }
}
