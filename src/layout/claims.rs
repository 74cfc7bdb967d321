//! What the index and the superblocks say of the file: blobs and index regions, with their places.

use super::{PartKind, frame_place};
use crate::error::Result;
use crate::format::{
    DEPTH_MAX, Entry, FRAME_ALIGN, IDENTITY_AT, LARGE_BYTES, LIVE_AT, LiveWord, Offset, PAGE_BYTES, SUPERBLOCKS_AT,
    directory_bytes, segment_bytes,
};
use crate::index::probe::{Stop, directory_index};
use crate::medium::Medium;
use crate::record::Record;
use crate::space::Reach;
use crate::still::Sight;
use crate::view::View;

/// Bytes whose kind is known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) kind: PartKind,
    /// Of a blob with pages of its own: what is empty around it in its first and last page belongs to it.
    pub(super) is_large: bool,
}

/// All that is known, and what can't be.
pub(super) struct Claims {
    /// In the order of the file. They may overlap where the index is damaged.
    pub(super) list: Vec<Claim>,
    /// The ids of all names, sorted. Their records don't say how long they are.
    pub(super) names: Vec<Offset>,
    /// Tags, from the first to the last, whose records are in segments that can't be read.
    pub(super) lost: Vec<(u64, u64)>,
}

impl Claims {
    pub(super) fn gather<M: Medium>(sight: &Sight<'_, M>, file_bytes: u64) -> Result<Claims> {
        let mut claims = Claims { list: Vec::new(), names: Vec::new(), lost: Vec::new() };
        for at in [IDENTITY_AT, SUPERBLOCKS_AT[0], SUPERBLOCKS_AT[1], LIVE_AT] {
            claims.page(at, PAGE_BYTES, PartKind::Header, file_bytes);
        }
        claims.records(sight.view, file_bytes)?;
        claims.index(sight, file_bytes)?;
        claims.list.sort_unstable();
        claims.list.dedup();
        claims.names.sort_unstable();
        Ok(claims)
    }

    fn page(&mut self, at: Offset, length: u64, kind: PartKind, file_bytes: u64) {
        let end = at.0.saturating_add(length).min(file_bytes);
        if at.0 < end {
            self.list.push(Claim { start: at.0, end, kind, is_large: false });
        }
    }

    /// The frames of all stored blobs. Records that lie in damaged segments are lost.
    fn records<M: Medium>(&mut self, view: &View<M>, file_bytes: u64) -> Result<()> {
        let mut next = Some(0);
        while let Some(tag) = next {
            next = match view.records_from(tag) {
                Ok((records, after)) => {
                    records.iter().for_each(|record| self.record(record, file_bytes));
                    after
                }
                Err(Stop::Failed(error)) if error.is_damage() => {
                    let after = segment_end(view, tag);
                    self.lost.push((tag, after.map_or(u64::MAX, |after| after - 1)));
                    after
                }
                Err(stop) => return Err(stop.into_error(view)),
            };
        }
        Ok(())
    }

    fn record(&mut self, record: &Record, file_bytes: u64) {
        match record {
            Record::Blob(blob) => {
                if let Some((start, end)) = frame_place(blob.id, blob.frame_bytes(), file_bytes) {
                    let is_large = blob.length >= LARGE_BYTES;
                    self.list.push(Claim { start, end, kind: PartKind::Live, is_large });
                }
            }
            Record::Name(name) => self.names.push(name.id),
            Record::Link(_) => {}
        }
    }

    /// The regions that the live index or a superblock names. An index that was recovered in memory has none in the
    /// file; it was made of what the newest superblock names.
    fn index<M: Medium>(&mut self, sight: &Sight<'_, M>, file_bytes: u64) -> Result<()> {
        let mut segments = Vec::new();
        let superblocks = [Some(&sight.superblocks.newest), sight.superblocks.older.as_ref()];
        for superblock in superblocks.into_iter().flatten() {
            let (directory, depth) = (Offset(superblock.directory.get()), superblock.depth.get());
            segments.extend(Reach::of(sight.view.medium().as_ref(), superblock)?.segments);
            self.page(directory, directory_bytes(depth), PartKind::Index, file_bytes);
        }
        if !sight.view.is_private() {
            let LiveWord { directory, depth, .. } = sight.view.live();
            let entries = 1u64 << depth.min(DEPTH_MAX);
            let words = (0..entries).map_while(|index| sight.view.word(Offset(directory.0 + 8 * index)));
            segments.extend(words.map(|word| Entry::unpack(word).segment));
            self.page(directory, directory_bytes(depth.min(DEPTH_MAX)), PartKind::Index, file_bytes);
        }
        segments.sort_unstable();
        segments.dedup();
        for segment in segments.into_iter().filter(|segment| segment.is_aligned(FRAME_ALIGN)) {
            self.page(segment, segment_bytes(sight.view.slots()), PartKind::Index, file_bytes);
        }
        Ok(())
    }
}

/// The first tag behind the segment that should hold `tag`: behind all entries that name the same one.
fn segment_end<M: Medium>(view: &View<M>, tag: u64) -> Option<u64> {
    let LiveWord { directory, depth, .. } = view.live();
    let entry = |index: u64| view.word(Offset(directory.0.saturating_add(8 * index)));
    if depth == 0 || depth > DEPTH_MAX {
        return None;
    }
    let first = directory_index(tag, depth);
    let there = entry(first)?;
    let end = (first + 1..1 << depth).find(|&index| entry(index) != Some(there))?;
    Some(end << (64 - depth))
}
