//! What a rebuild can still put right beside the index: headers of blobs whose bytes are whole.

use crate::blob::digest_by_read;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::{BlobHeader, FRAME_ALIGN, Frame, Offset, SPACE_AT, header_bytes};
use crate::index::probe::Stop;
use crate::log::Ahead;
use crate::medium::Medium;
use crate::record::{BlobRecord, Record};
use crate::source::Source;
use crate::view::View;

/// The headers of so many blobs are looked at together.
const BLOBS_AT_ONCE: usize = 1 << 20;

/// The digest of a blob whose frame's header is damaged, if its bytes are whole: record and tag vouch for them.
pub(crate) fn digest_of_bytes<M: Medium>(view: &View<M>, blob: &BlobRecord) -> Option<Digest> {
    let payload = Offset(blob.id.0.checked_add(header_bytes(blob.algorithm))?);
    let medium = view.medium();
    let end = payload.checked_add(blob.length)?;
    if blob.id < SPACE_AT || !blob.id.is_aligned(FRAME_ALIGN) || end.0 > medium.length().ok()? {
        return None;
    }
    let digest = digest_by_read(medium.as_ref(), blob.algorithm, payload, blob.length, |_| Ok(())).ok()?;
    (view.tagger().of_blob(&digest) == blob.tag).then_some(digest)
}

/// Writes the headers of such blobs again: the bytes that were there. Returns the blobs.
pub(crate) fn restore_headers<M: Medium>(source: &Source<M>) -> Result<Vec<Digest>> {
    let (medium, marker) = (source.medium(), source.identity().marker.get());
    let view = source.view();
    let damaged = damaged_headers(&view)?;
    let mut restored = Vec::new();
    if damaged.is_empty() {
        return Ok(restored);
    }
    each_blob(&view, |blob| {
        if damaged.binary_search(&blob.id).is_err() {
            return Ok(());
        }
        let Some(digest) = digest_of_bytes(&view, blob) else { return Ok(()) };
        let header = BlobHeader::new(marker, blob.id, &digest, blob.length);
        medium
            .write_at(blob.id, &[header.bytes()], true)
            .map_err(|e| Error::io("write a blob's header again", medium.path(), e))?;
        restored.push(digest);
        Ok(())
    })?;
    Ok(restored)
}

/// The blobs in whose place there is no frame, in order. Headers are read in the order of the file, each with those
/// that stand near it. (In the order of the index each would be a system call: half of a rebuild's time.)
fn damaged_headers<M: Medium>(view: &View<M>) -> Result<Vec<Offset>> {
    let medium = view.medium().as_ref();
    let end = medium.length().map_err(|e| Error::io("length", medium.path(), e))?;
    let (mut ids, mut damaged) = (Vec::new(), Vec::new());
    let look = |ids: &mut Vec<Offset>, damaged: &mut Vec<Offset>| {
        ids.sort_unstable();
        let mut ahead = Ahead::new(medium);
        // An unreadable sector may be readable again tomorrow, or in a copy of the file.
        let mut is_damaged = |id: Offset| ahead.read_frame(view.marker(), id, end).is_ok_and(is_no_blob);
        damaged.extend(ids.drain(..).filter(|id| is_damaged(*id)));
    };
    each_blob(view, |blob| {
        ids.push(blob.id);
        if ids.len() == BLOBS_AT_ONCE {
            look(&mut ids, &mut damaged);
        }
        Ok(())
    })?;
    look(&mut ids, &mut damaged);
    damaged.sort_unstable();
    Ok(damaged)
}

fn is_no_blob(frame: Option<Frame>) -> bool {
    frame.is_none_or(|frame| frame.digest.is_none())
}

fn each_blob<M: Medium>(view: &View<M>, mut each: impl FnMut(&BlobRecord) -> Result<()>) -> Result<()> {
    view.each_segment(|_, records| {
        for record in records.map_err(|stop: Stop| stop.into_error(view))? {
            if let Record::Blob(blob) = record {
                each(&blob)?;
            }
        }
        Ok(())
    })
}
