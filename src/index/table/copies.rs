//! A look at what a batch will copy, while it can still be refused.

use std::collections::HashSet;

use foldhash::fast::RandomState;

use super::Table;
use crate::error::Result;
use crate::medium::Medium;
use crate::record::Image;
use crate::view::View;

impl Table {
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
