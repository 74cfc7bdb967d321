//! A file that was cut off, so that neither superblock counts: what a rebuild goes by.
//!
//! Only where every commit that the newest superblock knows of is still there. Then the file may be made as long as it
//! was at any time: what is missing of the index is damage until a rebuild, and what is missing of blobs stays damage.
//! Were commits missing, a file that was made long and whose repair then came to nothing would pass for whole.

use zerocopy::little_endian::U64;

use super::length;
use crate::error::{Error, Result};
use crate::format::Superblock;
use crate::log::{self, Tail};
use crate::medium::Medium;
use crate::superblock::Superblocks;

/// The superblocks that a rebuild goes by: those that count, or the newest one of a file that was cut off.
pub(super) fn superblocks<M: Medium>(medium: &M, limit: u64) -> Result<Superblocks> {
    let error = match Superblocks::read(medium) {
        Err(error) if error.is_damage() => error,
        found => return found,
    };
    let Ok(found) = Superblocks::read_cut_off(medium) else { return Err(error) };
    let newest = found.newest;
    match log::history(medium, newest.identity.marker.get(), &Tail::of(&newest), length(medium)?) {
        Err(reason) if reason.is_damage() => return Err(error),
        history => history?,
    };
    if newest.end.get() > limit {
        return Err(Error::LimitReached { path: medium.path().into(), needed: newest.end.get(), limit });
    }
    // The old index is missing in part, so its space is not used again.
    Ok(Superblocks { newest: Superblock { run: U64::ZERO, ..newest }, older: None, ..found })
}
