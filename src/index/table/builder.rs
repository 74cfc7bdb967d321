//! A whole index at once, from records in the order of their tags.

use super::Table;
use crate::error::{Error, Result};
use crate::format::{Entry, LiveWord, Offset, directory_bytes};
use crate::index::probe::directory_index;
use crate::medium::Medium;
use crate::record::{Image, Record, Words};
use crate::space::Space;

/// Fills a new index with records that come in the order of their tags: no segment is ever split or copied.
pub struct Builder {
    table: Table,
    depth: u32,
    /// The number of the directory's entry that `records` belong to.
    index: u64,
    records: Vec<Words>,
    /// The segments so far, by prefix.
    entries: Vec<(u64, u32, Entry)>,
}

impl Builder {
    /// An empty index whose directory has this depth, or more where records lie too close together.
    pub fn new<M: Medium>(medium: &M, space: &mut Space, slots: u32, depth: u32, born: u64) -> Result<Builder> {
        space.promise(medium, 1 << depth, 0)?;
        space.release(1 << depth);
        let live = LiveWord { directory: Offset::NONE, depth, switches: 0 };
        let table = Table::new(slots, live, 0, born);
        Ok(Builder { table, depth, index: 0, records: Vec::new(), entries: Vec::new() })
    }

    /// Takes the next record.
    pub fn push<M: Medium>(&mut self, medium: &M, space: &mut Space, record: &Record) -> Result<()> {
        let index = directory_index(record.tag(), self.depth);
        while self.index < index {
            self.close_segment(medium, space)?;
        }
        self.records.push(Image { record: *record, removed: false }.words());
        Ok(())
    }

    fn close_segment<M: Medium>(&mut self, medium: &M, space: &mut Space) -> Result<()> {
        let prefix = if self.depth == 0 { 0 } else { self.index << (64 - self.depth) };
        let records = std::mem::take(&mut self.records);
        let parts = self
            .table
            .place(records, prefix, self.depth)
            .ok_or_else(|| Error::damaged(medium.path(), 0, "too many records with one tag for the index"))?;
        for part in parts {
            let placed = self.table.write_part(medium, space, &part, true)?;
            self.entries.push((placed.prefix, placed.depth, placed.entry));
        }
        self.index += 1;
        Ok(())
    }

    /// Writes the directory.
    pub fn finish<M: Medium>(mut self, medium: &M, space: &mut Space) -> Result<Table> {
        while self.index < 1 << self.depth {
            self.close_segment(medium, space)?;
        }
        self.table.write_out(medium)?;
        let depth = self.entries.iter().map(|(_, depth, _)| *depth).max().unwrap_or(0);
        self.entries.sort_unstable_by_key(|(prefix, ..)| *prefix);
        let words: Vec<u64> = (self.entries.iter())
            .flat_map(|(_, local, entry)| std::iter::repeat_n(entry.pack(), 1 << (depth - local)))
            .collect();
        let (region, _) = space.take_directory(medium, directory_bytes(depth))?;
        self.table.store(medium, region.offset, &words)?;
        self.table.dirty.push(region);
        self.table.directory_bytes = region.bytes;
        self.table.live = LiveWord { directory: region.offset, depth, switches: 0 };
        Ok(self.table)
    }
}

/// How many segments, and which depth of the directory, a [`Builder`] of this shape comes to with records of these
/// tags, which are in ascending order. `None` where too many have one tag.
pub fn built(slots: u32, depth: u32, tags: &[u64]) -> Option<(u64, u32)> {
    let table = Table::new(slots, LiveWord { directory: Offset::NONE, depth, switches: 0 }, 0, 0);
    let (mut segments, mut deepest, mut from) = (0, depth, 0);
    for index in 0..1_u64 << depth {
        let count = tags[from..].partition_point(|&tag| directory_index(tag, depth) <= index);
        let records = tags[from..from + count].iter().map(|&tag| [tag, 0, 0, 0, 0, 0, 0, 0]).collect();
        let parts = table.place(records, if depth == 0 { 0 } else { index << (64 - depth) }, depth)?;
        segments += parts.len() as u64;
        deepest = parts.iter().map(|part| part.depth).fold(deepest, u32::max);
        from += count;
    }
    Some((segments, deepest))
}
