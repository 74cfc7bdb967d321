//! Making pages of new segments, some at a time.
//!
//! Where a store through the map is the first touch of a page, the system reads ahead before it goes on, of a new run
//! zeros too: as much as it is set to, which may be 8 MiB and take 20 ms. So zeros are written first. Not where stores
//! go by `pwrite`: these read nothing ahead, and where each write takes new space it would be spent on zeros.

use super::{Region, Space};
use crate::error::{Error, Result};
use crate::format::{Offset, PAGE_BYTES, to_usize};
use crate::medium::Medium;

/// So many are written at a time. Miri, to which each word is one, has enough with a page.
const PIECE_BYTES: u64 = if cfg!(miri) { PAGE_BYTES } else { 64 << 10 };

impl Space {
    /// Fills a segment that was just taken with zeros, and those that come next, where that was not done yet: for who
    /// stores into it for the first time. Of segments that were free when the pack was opened nobody knows whether they
    /// are new before they are taken, so they are filled one at a time.
    pub fn fill<M: Medium>(&mut self, medium: &M, segment: Region) -> Result<()> {
        static ZEROS: [u8; to_usize(PIECE_BYTES)] = [0; to_usize(PIECE_BYTES)];
        if medium.shares_blocks() || self.filled.contains(&segment.offset) {
            return Ok(());
        }
        let mut end = segment.end();
        for (offset, fresh) in self.segments.iter().rev() {
            let next = offset.0 + segment.bytes;
            if !fresh || offset.0 != end || next - segment.offset.0 > PIECE_BYTES {
                break;
            }
            end = next;
        }
        self.filled = segment.offset..Offset(end);
        let zeros = &ZEROS[..to_usize(end - segment.offset.0).min(ZEROS.len())];
        medium.write_at(segment.offset, &[zeros], false).map_err(|e| Error::io("fill the index", medium.path(), e))
    }
}
