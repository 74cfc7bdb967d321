//! Calls on the medium that have to do with space.

use crate::error::{Error, Result};
use crate::format::Offset;
use crate::medium::{Medium, is_full};
use crate::space::Region;

/// So many ranges of the index are synced one by one.
const RUNS_APART: usize = 16;

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
pub fn sync_regions<M: Medium>(medium: &M, mut regions: Vec<Region>, what: &'static str) -> Result<()> {
    for run in runs(&mut regions) {
        medium.sync_range(run.offset, run.bytes).map_err(|e| Error::io(what, medium.path(), e))?;
    }
    Ok(())
}

/// Syncs regions of the index. Where many are apart the whole file is synced: each sync of a range would wait for the
/// disk by itself.
pub fn sync_index<M: Medium>(medium: &M, mut regions: Vec<Region>) -> Result<()> {
    if runs(&mut regions).count() > RUNS_APART {
        sync_whole(medium)
    } else {
        sync_regions(medium, regions, "sync the index")
    }
}

/// Syncs the whole file. Most of it is written before: while the journal of a file system is at it, whoever allocates
/// waits for the disk.
pub fn sync_whole<M: Medium>(medium: &M) -> Result<()> {
    let synced = medium.length().and_then(|length| {
        medium.write_back(Offset(0), length);
        medium.sync_all()
    });
    synced.map_err(|e| Error::io("sync the file", medium.path(), e))
}

/// Regions, those that touch as one.
fn runs(regions: &mut [Region]) -> impl Iterator<Item = Region> {
    regions.sort_unstable();
    regions.chunk_by(|a, b| b.offset.0 <= a.end()).map(|run| {
        let (first, last) = (run[0], run[run.len() - 1]);
        Region { offset: first.offset, bytes: last.end() - first.offset.0 }
    })
}
