//! All segments of an index, for those who look at everything: a damaged or unreadable one does not end the walk.

use std::collections::HashSet;

use super::probe::{Answer, Stop};
use crate::error::{Error, Result};
use crate::format::{Entry, LiveWord, Offset, segment_bytes, to_usize};
use crate::medium::Medium;
use crate::record::Record;
use crate::view::View;

/// Bytes read at a time.
const PIECE_BYTES: u64 = 1 << 20;

impl<M: Medium> View<M> {
    /// Calls `each` with every segment that the directory names, once: where it is, and its records or why there are
    /// none. What lies in the file is read with system calls before it is looked at through the map, so an unreadable
    /// sector is an error and not a signal.
    pub fn each_segment(&self, mut each: impl FnMut(Offset, Answer<Vec<Record>>) -> Result<()>) -> Result<()> {
        self.each_entry(|at, tag| {
            let readable = self.check_segment_readable(at);
            let records = readable.map_err(Stop::from).and_then(|()| self.records_from(tag));
            each(at, records.map(|(records, _)| records))
        })
    }

    /// The same with the first tag that belongs there, and unread.
    fn each_entry(&self, mut each: impl FnMut(Offset, u64) -> Result<()>) -> Result<()> {
        let live = self.live();
        self.check_directory_readable(live)?;
        let mut seen: HashSet<u64, foldhash::fast::RandomState> = HashSet::default();
        for index in 0..1_u64 << live.depth {
            let Some(word) = self.word(Offset(live.directory.0 + 8 * index)) else {
                return Err(self.damaged(live.directory, "the index directory lies outside the file"));
            };
            if seen.insert(word) {
                let tag = if live.depth == 0 { 0 } else { index << (64 - live.depth) };
                each(Entry::unpack(word).segment, tag)?;
            }
        }
        Ok(())
    }

    /// Reads all of the index with system calls: whoever looks at it next through the map meets no unreadable sector.
    ///
    /// # Errors
    /// The first that there is.
    pub fn check_index_readable(&self) -> Result<()> {
        self.each_entry(|at, _| self.check_segment_readable(at))
    }

    /// The same for the directory alone.
    pub fn check_directory_readable(&self, live: LiveWord) -> Result<()> {
        self.check_readable(live.directory, 8 << live.depth)
    }

    /// The same for one segment.
    pub fn check_segment_readable(&self, at: Offset) -> Result<()> {
        self.check_readable(at, segment_bytes(self.slots()))
    }

    /// Whether a range can be read. What lies in memory can, and what lies outside the file is for others to find.
    fn check_readable(&self, offset: Offset, length: u64) -> Result<()> {
        let medium = self.medium();
        let file_bytes = medium.length().map_err(|e| Error::io("length", medium.path(), e))?;
        let end = offset.0.saturating_add(length).min(file_bytes);
        let mut at = offset.0;
        while self.is_in_file(offset) && at < end {
            let mut piece = vec![0; to_usize((end - at).min(PIECE_BYTES))];
            let operation = "read the index";
            self.read_at(Offset(at), &mut piece).map_err(|e| Error::io(operation, medium.path(), e))?;
            at += piece.len() as u64;
        }
        Ok(())
    }
}
