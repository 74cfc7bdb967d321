//! What lives, and what that needs in the new file.

use super::{LeftOut, SNAPSHOT_IMAGES};
use crate::commit::{RESERVED_LOG_BYTES, Tuning};
use crate::digest::Algorithm;
use crate::error::{Error, Result};
use crate::format::{
    CHUNK_ALIGN, LARGE_BYTES, Offset, PAGE_BYTES, RECORD_BYTES, SPACE_AT, align_up, directory_bytes, header_bytes,
    name_frame_bytes, segment_bytes, to_u64,
};
use crate::log::{PLAIN_BYTES, group_bytes, read_name};
use crate::medium::Medium;
use crate::name::Name;
use crate::record::{BlobRecord, CountersNow, NameRecord, Record};
use crate::view::View;

/// Segments are filled to about this share; above it many records stand far from home.
const LOAD: f64 = 0.68;

/// The live blobs, and what they need.
pub(super) struct Survey {
    /// Sorted by offset.
    pub(super) blobs: Vec<BlobRecord>,
    /// Ids and texts, sorted by id; without the anchor.
    pub(super) names: Vec<(Offset, Name)>,
    pub(super) counters: CountersNow,
    /// Bytes of small frames.
    pub(super) small_bytes: u64,
    /// Bytes of the large blobs, headers and alignment included.
    pub(super) extent_bytes: u64,
}

impl Survey {
    pub(super) fn run<M: Medium>(view: &View<M>, left_out: &LeftOut, commits: u64) -> Result<Survey> {
        view.check_index_readable()?;
        let mut survey = Survey {
            blobs: Vec::new(),
            names: Vec::new(),
            counters: CountersNow { commits, ..CountersNow::default() },
            small_bytes: 0,
            extent_bytes: 0,
        };
        let end = view.medium().length().map_err(|e| Error::io("length", view.medium().path(), e))?;
        left_out.for_the_others(view, |record| {
            match record {
                Record::Link(_) => survey.counters.links += 1,
                Record::Name(NameRecord { id: Offset::NONE, .. }) => {}
                Record::Name(name) => {
                    let text = read_name(view.medium().as_ref(), view.marker(), name.id, end)?
                        .filter(|text| view.tagger().of_name(text.as_str()) == name.tag)
                        .ok_or_else(|| view.damaged(name.id, "a record speaks of a name here, but there is none"))?;
                    survey.counters.names += 1;
                    survey.small_bytes += name_frame_bytes(to_u64(text.as_str().len()));
                    survey.names.push((name.id, text));
                }
                Record::Blob(blob) => {
                    survey.counters.blobs += 1;
                    survey.counters.live_bytes += blob.length;
                    // What large ones take is worked out below, in the order of the file.
                    if blob.length < LARGE_BYTES {
                        survey.small_bytes += blob.frame_bytes();
                    }
                    survey.blobs.push(*blob);
                }
            }
            Ok(())
        })?;
        survey.blobs.sort_unstable_by_key(|blob| blob.id);
        survey.names.sort_unstable();
        let end = survey
            .blobs
            .iter()
            .filter(|blob| blob.length >= LARGE_BYTES)
            .fold(0, |end, blob| large_payload(end, blob.algorithm) + blob.length);
        survey.extent_bytes = align_up(end, PAGE_BYTES);
        Ok(survey)
    }

    /// Bytes of the log's frames.
    pub(super) fn log_bytes(&self) -> u64 {
        let records = self.counters.records();
        let commits = records.div_ceil(SNAPSHOT_IMAGES as u64).max(1);
        self.small_bytes + commits * group_bytes(0, 0) + records * RECORD_BYTES
    }

    /// About how long the new file will be, with what is kept for a full disk.
    pub(super) fn need(&self, slots: u32, depth: u32, reserve: u64) -> u64 {
        let index = (segment_bytes(slots) << depth) + 2 * directory_bytes(depth) + 2 * PAGE_BYTES;
        let kept = PAGE_BYTES + reserve * segment_bytes(slots) + 2 * (PAGE_BYTES + directory_bytes(depth));
        let log = align_up(self.log_bytes() + RESERVED_LOG_BYTES + 4 * PLAIN_BYTES, CHUNK_ALIGN);
        SPACE_AT.0 + log + self.extent_bytes + index + kept
    }
}

/// Calls `each` with every record of the index, in the order of their tags.
pub(crate) fn for_all_records<M: Medium>(view: &View<M>, mut each: impl FnMut(&Record) -> Result<()>) -> Result<()> {
    let mut next = Some(0);
    while let Some(tag) = next {
        let (records, after) = view.records_from(tag).map_err(|stop| stop.into_error(view))?;
        for record in &records {
            each(record)?;
        }
        next = after;
    }
    Ok(())
}

/// Slots a segment and depth of the directory for so many records: the choice that fills the segments best. With one
/// and with three pages a segment there is always one that is at least half full.
pub(crate) fn shape(records: u64, tuning: &Tuning) -> (u32, u32) {
    let choices = if tuning.slots == Tuning::default().slots { vec![63, 191] } else { vec![tuning.slots] };
    let of = |slots: u32| {
        let mut depth = 0;
        #[allow(clippy::cast_precision_loss, reason = "a load factor")]
        let load = |depth: u32| records as f64 / ((1u64 << depth) as f64 * f64::from(slots));
        while load(depth) > LOAD {
            depth += 1;
        }
        (load(depth), slots, depth)
    };
    let best = choices.into_iter().map(of).max_by(|a, b| a.0.total_cmp(&b.0)).expect("there is a choice");
    // A pack that is small now may grow: segments of one page then waste least.
    if best.2 == 0 { (tuning.slots, of(tuning.slots).2) } else { (best.1, best.2) }
}

/// Where the payload of a large blob goes that comes after `end`: on the next page boundary that leaves room for its
/// header.
pub(crate) fn large_payload(end: u64, algorithm: Algorithm) -> u64 {
    align_up(end + header_bytes(algorithm), PAGE_BYTES)
}

#[cfg(test)]
mod tests;
