//! What a rebuild can still put right beside the index: headers of blobs whose bytes are whole.

use crate::blob::digest_by_read;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::{BlobHeader, FRAME_ALIGN, Offset, SPACE_AT, header_bytes};
use crate::index::probe::Stop;
use crate::log::read_frame;
use crate::medium::Medium;
use crate::record::{BlobRecord, Record};
use crate::source::Source;
use crate::view::View;

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
    let end = medium.length().map_err(|e| Error::io("length", medium.path(), e))?;
    let mut restored = Vec::new();
    let view = source.view();
    view.each_segment(|_, records| {
        for record in records.map_err(|stop: Stop| stop.into_error(&view))? {
            let Record::Blob(blob) = record else { continue };
            // An unreadable sector may be readable again tomorrow, or in a copy of the file.
            let Ok(frame) = read_frame(medium.as_ref(), marker, blob.id, end) else { continue };
            if frame.is_some_and(|frame| frame.digest.is_some()) {
                continue;
            }
            let Some(digest) = digest_of_bytes(&view, &blob) else { continue };
            let header = BlobHeader::new(marker, blob.id, &digest, blob.length);
            medium
                .write_at(blob.id, &[header.bytes()], true)
                .map_err(|e| Error::io("write a blob's header again", medium.path(), e))?;
            restored.push(digest);
        }
        Ok(())
    })?;
    Ok(restored)
}
