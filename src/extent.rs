//! The bytes of one large blob, from their allocation until a commit publishes them or they are given back.

use std::sync::Arc;

use crate::format::{Offset, PAGE_BYTES};
use crate::space::Region;

/// Gives bytes of the pack back.
pub trait GiveBack: Send + Sync {
    /// The bytes of `region` belong to nobody any more.
    fn give_back(&self, region: Region);
}

/// The extent of one large blob. Unless it is kept, its bytes are given back when it is dropped.
pub struct Extent {
    /// All of it.
    pub region: Region,
    /// Bytes of the frame's header.
    pub header: u64,
    /// Who takes its bytes back.
    pub owner: Option<Arc<dyn GiveBack>>,
}

impl Extent {
    /// Where the frame stands: right before the payload, which begins a page after the extent.
    #[must_use]
    pub fn frame(&self) -> Offset {
        Offset(self.payload().0 - self.header)
    }

    /// Where the payload begins.
    #[must_use]
    pub fn payload(&self) -> Offset {
        Offset(self.region.offset.0 + PAGE_BYTES)
    }

    /// How many payload bytes fit.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.region.bytes - PAGE_BYTES
    }

    /// Its bytes belong to a commit now.
    pub fn keep(&mut self) {
        self.owner = None;
    }
}

impl Drop for Extent {
    fn drop(&mut self) {
        if let Some(owner) = &self.owner {
            owner.give_back(self.region);
        }
    }
}
