//! The bytes of one large blob, from their allocation until a commit publishes them or they are given back.

use std::sync::Arc;

use crate::format::{Offset, PAGE_BYTES, align_up};
use crate::space::Region;
use crate::sync::Mutex;

/// So many holes are kept in mind.
const HOLES_MAX: usize = 1 << 10;

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

/// Extents that came to nothing since the pack was opened. Other extents may have their bytes, and nothing else: a
/// power cut may bring back what was written there, which an extent's own bytes replace before a commit names it, but
/// which would be in the way of what the log or the index is to have there.
#[derive(Default)]
pub struct Holes(Mutex<Vec<Region>>);

impl Holes {
    /// The pages of this region, which begins with one, belong to nobody any more.
    pub fn add(&self, region: Region) {
        let Ok(mut holes) = self.0.lock() else { return };
        let mut hole = Region { bytes: align_up(region.bytes, PAGE_BYTES), ..region };
        let mut at = holes.partition_point(|other| other.offset < hole.offset);
        if let Some(next) = holes.get(at).filter(|next| next.offset.0 == hole.end()) {
            hole.bytes += next.bytes;
            holes.remove(at);
        }
        if let Some(before) =
            at.checked_sub(1).and_then(|number| holes.get(number)).filter(|b| b.end() == hole.offset.0)
        {
            hole = Region { offset: before.offset, bytes: before.bytes + hole.bytes };
            at -= 1;
            holes.remove(at);
        }
        holes.insert(at, hole);
        if holes.len() > HOLES_MAX {
            let shortest = (0..holes.len()).min_by_key(|&number| holes[number].bytes);
            shortest.map(|number| holes.remove(number));
        }
    }

    /// So many bytes of the shortest hole that has them. They have no place on the disk.
    pub fn take(&self, bytes: u64) -> Option<Region> {
        let mut holes = self.0.lock().ok()?;
        let fits = (0..holes.len()).filter(|&number| holes[number].bytes >= bytes);
        let at = fits.min_by_key(|&number| holes[number].bytes)?;
        let hole = holes[at];
        let used = align_up(bytes, PAGE_BYTES);
        if used < hole.bytes {
            holes[at] = Region { offset: Offset(hole.offset.0 + used), bytes: hole.bytes - used };
        } else {
            holes.remove(at);
        }
        Some(Region { bytes, ..hole })
    }
}

impl Drop for Extent {
    fn drop(&mut self) {
        if let Some(owner) = &self.owner {
            owner.give_back(self.region);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::to_u64;

    const PAGE: u64 = PAGE_BYTES;

    fn region(page: u64, pages: u64) -> Region {
        Region { offset: Offset(page * PAGE), bytes: pages * PAGE }
    }

    #[test]
    fn holes_side_by_side_are_one() {
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let holes = Holes::default();
            for page in order {
                holes.add(region(10 + 2 * page, 2));
            }
            assert_eq!(holes.take(7 * PAGE), None);
            assert_eq!(holes.take(6 * PAGE), Some(region(10, 6)), "{order:?}");
            assert_eq!(holes.take(1), None);
        }
    }

    #[test]
    fn a_part_of_the_shortest_hole_that_is_long_enough_is_taken() {
        let holes = Holes::default();
        for hole in [region(10, 9), region(20, 3), region(30, 5)] {
            holes.add(hole);
        }
        let bytes = 3 * PAGE + 1;
        assert_eq!(holes.take(bytes), Some(Region { bytes, ..region(30, 5) }));
        assert_eq!(holes.take(PAGE), Some(region(34, 1)), "what is left of its last page is nobody's");
        assert_eq!(holes.take(4 * PAGE), Some(region(10, 4)));
        // It comes back with all of its last page.
        holes.add(Region { bytes, ..region(30, 5) });
        assert_eq!(holes.take(4 * PAGE), Some(region(30, 4)));
        assert_eq!([4, 3].map(|pages| holes.take(pages * PAGE)), [Some(region(14, 4)), Some(region(20, 3))]);
    }

    #[test]
    fn of_too_many_holes_the_shortest_are_forgotten() {
        let holes = Holes::default();
        let many = to_u64(HOLES_MAX);
        (0..many).for_each(|number| holes.add(region(10 * number, 2)));
        holes.add(region(10 * many, 1));
        assert_eq!(holes.take(PAGE).map(|hole| hole.bytes), Some(PAGE));
        holes.add(region(10 * many + 10, 3));
        assert_eq!(holes.take(3 * PAGE), Some(region(10 * many + 10, 3)));
    }
}
