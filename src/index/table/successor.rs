//! The directory that follows a freeze.
//!
//! A directory that a checkpoint has frozen is copied before the next change of it, and a large one takes longer than a
//! put should wait: of ten million blobs it has 8 MiB. So before a checkpoint freezes the live directory, that is
//! copied a piece at a time, beside the commits; what they store into the live one meanwhile they store into the copy
//! too. With the freeze the copy becomes the live one.
//!
//! A split that needs a deeper directory makes one at once, and gives the copy up. So that this is seldom, the copy is
//! made deeper where the live one has some segments that only a deeper one can tell the halves of.

use super::{Table, piece_words};
use crate::error::{Error, Result};
use crate::format::{DEPTH_MAX, Offset, directory_bytes, to_u64, to_usize};
use crate::medium::Medium;
use crate::space::{Region, Space};
use crate::sync::{Ordering, Word};
use crate::view::View;

/// Where so many pairs of segments are as deep as the directory, the next one is made deeper. In a run of ten million
/// puts that was two or three checkpoints before it had to be, from 2^18 entries on.
const DEEP_PAIRS: usize = 8;

/// A copy of the live directory, of which the first entries are there.
#[derive(Clone, Copy)]
pub(super) struct Successor {
    region: Region,
    is_new: bool,
    depth: u32,
    /// Entries of the live directory that were copied, and pairs of different ones among them.
    entries: u64,
    pairs: usize,
}

impl Table {
    /// Begins a copy of the live directory, where that has been stored into since the last freeze and there is room.
    pub fn begin_successor<M: Medium>(&mut self, medium: &M, space: &mut Space) -> Result<()> {
        if self.directory_is_ours && self.successor.is_none() {
            // Where there is none the first change after the freeze copies the directory.
            self.successor = new_successor(medium, space, self.live.depth)?;
        }
        Ok(())
    }

    /// Copies a piece; says whether there is more.
    pub fn continue_successor<M: Medium>(&mut self, view: &View<M>, space: &mut Space) -> Result<bool> {
        let Some(mut successor) = self.successor else { return Ok(false) };
        let medium = view.medium().as_ref();
        let all = view
            .words(self.live.directory, 1 << self.live.depth)
            .ok_or_else(|| view.damaged(self.live.directory, "the index directory lies outside the file"))?;
        let copies = self.copies(&successor);
        let left = &all[to_usize(successor.entries)..];
        let piece = &left[..left.len().min(piece_words(copies))];
        let to = Offset(successor.region.offset.0 + 8 * successor.entries * to_u64(copies));
        self.copy_entries(medium, piece, copies, to, successor.is_new)?;
        let entry = |word: &Word| word.load(Ordering::Relaxed);
        let pairs = piece.chunks_exact(2).filter(|pair| entry(&pair[0]) != entry(&pair[1])).count();
        let were_few = successor.pairs < DEEP_PAIRS;
        successor.entries += to_u64(piece.len());
        successor.pairs += pairs;
        self.successor = Some(successor);
        let begin_deeper = copies == 1 && were_few && successor.pairs >= DEEP_PAIRS && self.live.depth < DEPTH_MAX;
        if begin_deeper && let Some(deeper) = new_successor(medium, space, self.live.depth + 1)? {
            self.give_up_successor(space);
            self.successor = Some(deeper);
            return Ok(true);
        }
        Ok(piece.len() < left.len())
    }

    /// After a freeze: puts the copy, if it is whole, in the place of the directory that is frozen now.
    pub fn succeed<M: Medium>(&mut self, view: &View<M>, space: &mut Space) -> Result<()> {
        let is_whole = |successor: &Successor| successor.entries == 1 << self.live.depth;
        let Some(successor) = self.successor.filter(is_whole) else {
            self.give_up_successor(space);
            return Ok(());
        };
        self.successor = None;
        space.has_new_directory();
        self.switch_to(view, space, successor.region, successor.depth)
    }

    /// The copy is not needed any more.
    pub fn give_up_successor(&mut self, space: &mut Space) {
        if let Some(successor) = self.successor.take() {
            space.free_directory(successor.region);
        }
    }

    /// What is stored into the live directory.
    pub(super) fn store_into_successor<M: Medium>(&self, medium: &M, index: u64, entry: u64) -> Result<()> {
        let Some(successor) = self.successor.as_ref().filter(|successor| index < successor.entries) else {
            return Ok(());
        };
        let copies = self.copies(successor);
        let at = Offset(successor.region.offset.0 + 8 * index * to_u64(copies));
        self.store(medium, at, &[entry; 2][..copies])
    }

    /// How many entries the copy has for one of the live directory.
    fn copies(&self, successor: &Successor) -> usize {
        1 << (successor.depth - self.live.depth)
    }
}

/// `None` where there is no room for one.
fn new_successor<M: Medium>(medium: &M, space: &mut Space, depth: u32) -> Result<Option<Successor>> {
    match space.take_spare_directory(medium, directory_bytes(depth)) {
        Ok((region, is_new)) => Ok(Some(Successor { region, is_new, depth, entries: 0, pairs: 0 })),
        Err(Error::NoSpace { .. } | Error::LimitReached { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
