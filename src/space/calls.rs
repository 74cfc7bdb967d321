//! Calls on the medium that have to do with space.

use crate::error::{Error, Result};
use crate::medium::{Medium, is_full};
use crate::space::Region;

/// The error of a call that asks for so much space.
pub fn no_space<M: Medium>(medium: &M, needed: u64, error: std::io::Error) -> Error {
    match is_full(&error) {
        true => Error::NoSpace { path: medium.path().into(), needed },
        false => Error::io("allocate or write", medium.path(), error),
    }
}

/// More than the bytes that the file can have in earnest, whatever its length: file systems compress, but not without
/// limit. What claims to be larger is forged, and memory is not spent on it.
pub fn data_bytes_most<M: Medium>(medium: &M) -> Result<u64> {
    let blocks = medium.blocks().map_err(|e| Error::io("look at the file", medium.path(), e))?;
    Ok(blocks.saturating_mul(64).saturating_add(1 << 24))
}

/// Syncs regions, neighbours together. `what` says in an error what was tried.
pub fn sync_regions<M: Medium>(medium: &M, regions: Vec<Region>, what: &'static str) -> Result<()> {
    for run in runs(regions) {
        medium.sync_range(run.offset, run.bytes).map_err(|e| Error::io(what, medium.path(), e))?;
    }
    Ok(())
}

/// Regions in the order of the file, those that touch as one.
pub fn runs(mut regions: Vec<Region>) -> Vec<Region> {
    regions.sort_unstable();
    let touch = |a: &Region, b: &Region| b.offset.0 <= a.end();
    let run = |run: &[Region]| Region { offset: run[0].offset, bytes: run[run.len() - 1].end() - run[0].offset.0 };
    regions.chunk_by(touch).map(run).collect()
}
