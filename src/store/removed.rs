//! What a removal came to.

use std::sync::Arc;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::Offset;
use crate::graph;
use crate::log::Commit;
use crate::medium::{Disk, Medium};
use crate::record::{Image, Record};
use crate::source::Source;

/// What giving up a reference removed.
pub struct Removed<M: Medium = Disk> {
    source: Arc<Source<M>>,
    what: graph::Removed,
}

impl<M: Medium> Removed<M> {
    pub(crate) fn new(source: Arc<Source<M>>, what: graph::Removed) -> Removed<M> {
        Removed { source, what }
    }

    /// How many blobs: 0 where references remain.
    #[must_use]
    pub fn blobs(&self) -> u64 {
        self.what.blobs()
    }

    /// Whether nothing was removed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blobs() == 0
    }

    /// Bytes of the file that a compaction can give back because of this removal.
    #[must_use]
    pub fn reclaimable_bytes(&self) -> u64 {
        self.what.frame_bytes
    }

    /// The digests, parents before what they linked to, read one by one from the file.
    pub fn digests(&self) -> impl Iterator<Item = Result<Digest>> + '_ {
        let digest = |id| self.source.ask(|view| view.digest_at(id));
        let listed = self.what.listed_in.iter().flat_map(move |&commit| match self.ids_in(commit) {
            Ok(ids) => ids.into_iter().map(digest).collect(),
            Err(error) => vec![Err(error)],
        });
        self.what.ids.iter().map(move |&id| digest(id)).chain(listed)
    }

    /// The blobs that a commit removes.
    fn ids_in(&self, at: Offset) -> Result<Vec<Offset>> {
        let (medium, marker) = (self.source.medium(), self.source.identity().marker.get());
        let end = medium.length().map_err(|e| Error::io("length", medium.path(), e))?;
        let commit = Commit::read(medium.as_ref(), marker, at, end)?
            .ok_or_else(|| Error::damaged(medium.path(), at.0, "a commit of the log is damaged"))?;
        let id = |image: Image| match image.record {
            Record::Blob(blob) if image.removed => Some(blob.id),
            _ => None,
        };
        Ok(commit.images().flatten().filter_map(id).collect())
    }
}

impl<M: Medium> std::fmt::Debug for Removed<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Removed")
            .field("blobs", &self.blobs())
            .field("reclaimable_bytes", &self.reclaimable_bytes())
            .finish()
    }
}
