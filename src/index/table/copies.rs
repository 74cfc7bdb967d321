//! What a batch will copy, and what it stores into.

use std::collections::HashSet;

use foldhash::fast::RandomState;

use super::Table;
use crate::error::Result;
use crate::medium::Medium;
use crate::record::Image;
use crate::view::View;

impl Table {
    /// What the headers of the segments hold that are stored into: those made after the last freeze.
    pub fn born(&self) -> u64 {
        self.born
    }

    /// Reads the frozen segments that these images change. Their first change copies them with all that they hold, so
    /// where another record there fails its checksum the batch can't be applied: to be known before it is durable.
    ///
    /// # Errors
    /// The damage.
    pub fn check_copies<M: Medium>(&self, view: &View<M>, images: &[Image]) -> Result<()> {
        let mut seen = HashSet::with_hasher(RandomState::default());
        for image in images {
            let (index, entry) = self.entry(view, image.record.tag())?;
            if !self.is_ours(self.segment(view, entry)?) && seen.insert(entry.segment) {
                self.read(view, index, entry)?;
            }
        }
        Ok(())
    }
}
