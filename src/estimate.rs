//! What a compaction would give back, without doing it.
//!
//! The new file's layout is worked out as [`compact`](crate::compact) would allocate it: the same chunks, extents and
//! regions, one behind the other, and the index with the tags that its records will have. Only what a file system needs
//! for itself is not foreseen.

use crate::commit::{RESERVED_LOG_BYTES, Tuning};
use crate::compact::{CHUNK_BYTES, SNAPSHOT_IMAGES, for_all_records, large_payload, shape};
use crate::digest::Algorithm;
use crate::error::{Error, Result};
use crate::format::{
    CHUNK_ALIGN, LARGE_BYTES, Offset, PAGE_BYTES, RECORD_BYTES, SPACE_AT, align_up, directory_bytes, frame_bytes,
    header_bytes, name_frame_bytes, segment_bytes, to_u64, to_usize,
};
use crate::index::table::built;
use crate::log::{PLAIN_BYTES, chunk_bytes, group_bytes};
use crate::medium::Medium;
use crate::pack::Shared;
use crate::record::{NameRecord, Record};
use crate::space::run_segments;
use crate::still::stand_still;
use crate::view::View;

/// What a compaction would come to; see [`Store::compaction_estimate`](crate::Store::compaction_estimate). Bytes are
/// what files take on the disk, as in [`Compacted`](crate::Compacted).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CompactionEstimate {
    /// Of the file as it is.
    pub before_bytes: u64,
    /// Of the compacted one.
    pub after_bytes: u64,
    /// The difference, 0 where the compacted file would be larger.
    pub freed_bytes: u64,
}

/// Works it out for the pack that is current.
pub fn estimate<M: Medium>(shared: &Shared<M>) -> Result<CompactionEstimate> {
    let (after_bytes, before_bytes) = stand_still(shared, |sight| {
        let medium = sight.view.medium();
        // As a compaction does.
        medium.give_room_back();
        let before_bytes = medium.blocks().map_err(|e| Error::io("look at the file", medium.path(), e))?;
        Ok((after_bytes(sight.view, &shared.settings().tuning)?, before_bytes))
    })?
    .0;
    Ok(CompactionEstimate { before_bytes, after_bytes, freed_bytes: before_bytes.saturating_sub(after_bytes) })
}

/// What the file would take after a compaction. Nothing changes the index meanwhile.
pub(crate) fn after_bytes<M: Medium>(view: &View<M>, tuning: &Tuning) -> Result<u64> {
    let (mut blobs, mut names, mut records) = (Vec::new(), Vec::new(), 0_u64);
    for_all_records(view, |record| {
        records += 1;
        match record {
            Record::Blob(blob) => {
                blobs.push(Moved { id: blob.id, to: Offset::NONE, length: blob.length, algorithm: blob.algorithm });
            }
            Record::Name(NameRecord { id: Offset::NONE, .. }) | Record::Link(_) => {}
            Record::Name(name) => {
                let text = view.name_at(name.id).map_err(|stop| stop.into_error(view))?;
                names.push((name.id, name_frame_bytes(to_u64(text.as_str().len()))));
            }
        }
        Ok(())
    })?;
    blobs.sort_unstable_by_key(|blob| blob.id);
    names.sort_unstable();
    let mut file = NewFile::default();
    file.put_all(&mut blobs, &names, records);

    let (slots, planned) = shape(records, tuning);
    let tags = tags(view, &blobs, records)?;
    let crowded = || view.damaged(view.live().directory, "too many records with one tag for the index");
    let (segments, depth) = built(slots, planned, &tags).ok_or_else(crowded)?;
    let mut room = 0;
    while room < segments {
        let run = run_segments(room, if room == 0 { 1 << planned } else { 1 });
        file.allocate(PAGE_BYTES + segment_bytes(slots) * run, PAGE_BYTES);
        room += run;
    }
    // What is kept for a full disk: segments, and two directories more.
    let kept = tuning.reserve_segments.saturating_sub(room - segments);
    if kept > 0 {
        file.allocate(PAGE_BYTES + segment_bytes(slots) * kept, PAGE_BYTES);
    }
    for _ in 0..3 {
        file.allocate(PAGE_BYTES + directory_bytes(depth), PAGE_BYTES);
    }
    // Four pages of heads; between them are holes.
    Ok(4 * PAGE_BYTES + file.end - SPACE_AT.0)
}

/// The tags that all records will have, in ascending order. Blobs and names keep theirs; those of links are made of
/// places.
fn tags<M: Medium>(view: &View<M>, blobs: &[Moved], records: u64) -> Result<Vec<u64>> {
    let to = |id: Offset| match blobs.binary_search_by_key(&id, |blob| blob.id) {
        Ok(at) => Ok(blobs[at].to),
        Err(_) => Err(view.damaged(id, "a link speaks of a blob that has no record")),
    };
    let mut tags = Vec::with_capacity(to_usize(records));
    for_all_records(view, |record| {
        tags.push(match record {
            Record::Blob(_) | Record::Name(_) => record.tag(),
            Record::Link(link) => view.tagger().of_link(to(link.from)?, to(link.to)?),
        });
        Ok(())
    })?;
    tags.sort_unstable();
    Ok(tags)
}

/// A blob, and where it goes.
struct Moved {
    id: Offset,
    to: Offset,
    length: u64,
    algorithm: Algorithm,
}

/// The new file, as far as it goes.
#[derive(Default)]
struct NewFile {
    end: u64,
    /// Where the next frame of the log goes.
    at: u64,
    chunk_end: u64,
    /// Frame bytes of the log that are still to come.
    left: u64,
}

impl NewFile {
    /// Log and large blobs, the small ones and snapshots of all records among the log.
    fn put_all(&mut self, blobs: &mut [Moved], names: &[(Offset, u64)], records: u64) {
        let is_large = |blob: &Moved| blob.length >= LARGE_BYTES;
        let bytes = |blob: &Moved| frame_bytes(blob.algorithm, blob.length);
        let large_end = (blobs.iter().filter(|blob| is_large(blob)))
            .fold(0, |end, blob| large_payload(end, blob.algorithm) + blob.length);
        let images = to_u64(SNAPSHOT_IMAGES);
        let small = blobs.iter().filter(|blob| !is_large(blob)).map(bytes);
        let small_bytes: u64 = small.chain(names.iter().map(|(_, bytes)| *bytes)).sum();
        let commits = records.div_ceil(images).max(1);
        self.left = small_bytes + commits * group_bytes(0, 0) + records * RECORD_BYTES + RESERVED_LOG_BYTES;
        self.end = SPACE_AT.0;
        self.chunk(0);
        let mut large = self.allocate(align_up(large_end, PAGE_BYTES), PAGE_BYTES);
        for blob in blobs {
            if is_large(blob) {
                let payload = large_payload(large, blob.algorithm);
                blob.to = Offset(payload - header_bytes(blob.algorithm));
                large = payload + blob.length;
            } else {
                blob.to = self.append(bytes(blob), bytes(blob));
            }
        }
        for &(_, bytes) in names {
            self.append(bytes, bytes);
        }
        let mut left = records;
        while left > 0 {
            let part = left.min(images);
            // Room is made for the most that a group can take; one frame without publications takes a unit less.
            self.append(group_bytes(part, 0), group_bytes(part, 0) - PLAIN_BYTES);
            left -= part;
        }
        self.append(RESERVED_LOG_BYTES, 0);
    }

    fn allocate(&mut self, length: u64, align: u64) -> u64 {
        if length == 0 {
            return self.end;
        }
        let offset = align_up(self.end, align);
        self.end = align_up(offset + length, PAGE_BYTES);
        offset
    }

    /// A new chunk that takes `needed` bytes.
    fn chunk(&mut self, needed: u64) {
        let least = align_up((self.left + 2 * PLAIN_BYTES).min(CHUNK_BYTES), CHUNK_ALIGN);
        let length = chunk_bytes(needed, least);
        let offset = self.allocate(length, CHUNK_ALIGN);
        (self.at, self.chunk_end) = (offset + PLAIN_BYTES, offset + length);
    }

    /// A frame for which room for `needed` bytes is made and which takes `taken`: where it stands.
    fn append(&mut self, needed: u64, taken: u64) -> Offset {
        if self.chunk_end.saturating_sub(self.at).saturating_sub(PLAIN_BYTES) < needed {
            self.chunk(needed);
        }
        self.left = self.left.saturating_sub(needed);
        self.at += taken;
        Offset(self.at - taken)
    }
}
