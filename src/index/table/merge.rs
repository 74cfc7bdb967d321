//! Many images at once: those of one segment are put into it together, so that it is read and written once.
//!
//! What comes of it holds the same records as if each image had been [applied](Table::apply) for itself, in the order
//! of the log: images of one record have one tag, and those of one tag keep their order.

use super::{Placed, Table};
use crate::error::Result;
use crate::format::{DEPTH_MAX, PROBES_MAX, to_usize};
use crate::index::probe::{directory_index, header};
use crate::medium::Medium;
use crate::record::{Image, Key, Words};
use crate::space::Space;
use crate::view::View;

/// Images in the order of the log, to be [merged](Table::merge) in the order of their tags.
#[derive(Default)]
pub struct Images {
    slots: Vec<Words>,
    /// The tag, the number among `slots`, and whether the image is of a removed record.
    order: Vec<(u64, u32, bool)>,
}

impl Images {
    /// Takes the next image, and the slot that it was read from. There are at most 2^32.
    pub fn push(&mut self, image: &Image, slot: Words) {
        let number = u32::try_from(self.slots.len()).expect("images are merged long before");
        self.order.push((image.record.tag(), number, image.removed));
        self.slots.push(slot);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.slots.len()
    }

    /// No more images will come: from now on they can be merged.
    pub fn sort(&mut self) {
        self.order.sort_unstable();
    }

    /// None is left; the memory is kept for those to come.
    pub fn clear(&mut self) {
        self.slots.clear();
        self.order.clear();
    }
}

impl Table {
    /// Puts those of the images from the number `from` on that belong to the same segment as that one into it; returns
    /// how many. Nobody sees the index before it is published. A segment that can't be read is an error, as long as the
    /// directory can.
    pub fn merge<M: Medium>(
        &mut self,
        view: &View<M>,
        space: &mut Space,
        images: &Images,
        from: usize,
    ) -> Result<usize> {
        let (first, number, removed) = images.order[from];
        let (index, entry) = self.entry(view, first)?;
        view.check_segment_readable(entry.segment)?;
        let words = self.segment(view, entry)?;
        let was_ours = self.is_ours(words);
        let header =
            header(words).ok_or_else(|| view.damaged(entry.segment, "a segment's header fails its checksum"))?;
        let depth = header.depth.get().min(DEPTH_MAX);
        let belongs = |&&(tag, ..): &&(u64, u32, bool)| directory_index(tag, depth) == directory_index(first, depth);
        let count = images.order[from..].iter().take_while(belongs).count();
        // To copy a segment for a few that could be stored into it would take longer than to store them.
        if 8 * count < to_usize(u64::from(self.slots)) && was_ours {
            let image = Image::parse_words(&images.slots[to_usize(u64::from(number))]).filter(|i| i.removed == removed);
            let image = image.ok_or_else(|| view.damaged(entry.segment, "an image changed in memory"))?;
            self.apply(view, space, &image)?;
            return Ok(1);
        }
        let (header, mut records) = self.read(view, index, entry)?;
        records.sort_unstable_by_key(|slot| slot[0]);
        let records = merged(records, images, from..from + count).ok_or_else(|| self.crowded(view))?;
        let parts = self.spread(view, space, &records, header.prefix.get(), depth)?;
        let deepest = parts.iter().map(|part| part.depth).max().unwrap_or(0);
        self.own_directory(view, space, deepest)?;
        self.swing(view, space, entry, was_ours, &parts)?;
        Ok(count)
    }

    /// Writes records, which are in the order of their tags, into as many segments as they need. None is filled so far
    /// that the next record would split it.
    fn spread<M: Medium>(
        &mut self,
        view: &View<M>,
        space: &mut Space,
        records: &[Words],
        prefix: u64,
        depth: u32,
    ) -> Result<Vec<Placed>> {
        let medium = view.medium().as_ref();
        let most = to_usize(u64::from(self.slots)) * 7 / 8;
        let mut placed = Vec::new();
        let mut work = vec![(records, prefix, depth)];
        while let Some((records, prefix, depth)) = work.pop() {
            if records.len() > most && depth < DEPTH_MAX {
                let high = prefix | 1 << (63 - depth);
                let (below, above) = records.split_at(records.partition_point(|slot| slot[0] < high));
                work.extend([(above, high, depth + 1), (below, prefix, depth + 1)]);
                continue;
            }
            for part in self.place(records.to_vec(), prefix, depth).ok_or_else(|| self.crowded(view))? {
                placed.push(self.write_part(medium, space, &part, true)?);
            }
        }
        self.write_out(medium)?;
        Ok(placed)
    }
}

/// The records of a segment, in the order of their tags, after these images. `None` where more have one tag than stand
/// after one home: only a forged log has them, and to look through all of them for each would take for ever.
fn merged(records: Vec<Words>, images: &Images, range: std::ops::Range<usize>) -> Option<Vec<Words>> {
    let mut all: Vec<Words> = Vec::with_capacity(records.len() + range.len());
    let mut old = records.into_iter().peekable();
    for &(tag, number, removed) in &images.order[range] {
        while let Some(record) = old.next_if(|record| record[0] <= tag) {
            all.push(record);
        }
        let slot = images.slots[to_usize(u64::from(number))];
        let same_tag = all.iter().rev().take_while(|other| other[0] == tag).count();
        let key = if same_tag > 0 { key_of(&slot) } else { None };
        let there = (all.len() - same_tag..all.len()).find(|&at| key_of(&all[at]) == key);
        match (there, removed) {
            (Some(at), false) => all[at] = slot,
            (Some(at), true) => drop(all.remove(at)),
            (None, false) if same_tag >= to_usize(u64::from(PROBES_MAX)) => return None,
            (None, false) => all.push(slot),
            (None, true) => {}
        }
    }
    all.extend(old);
    Some(all)
}

fn key_of(slot: &Words) -> Option<Key> {
    Image::parse_words(slot).map(|image| image.record.key())
}
