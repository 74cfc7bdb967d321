//! Looking at a store as a whole: its layout, what a compaction would give back, who keeps what.

use crate::digest::Digest;
use crate::error::Result;
use crate::estimate::{self, CompactionEstimate};
use crate::layout::{self, Layout};
use crate::medium::Medium;
use crate::store::Store;
use crate::usage::{self, Tree, Usage, Why};

impl<M: Medium> Store<M> {
    /// What each byte of the file is for. Reads the index and, outside of stored payloads, the file; holds 24 bytes of
    /// memory a blob. On a store that writes, commits wait meanwhile.
    ///
    /// ```
    /// use blobpack::{PartKind, Store};
    /// let store = Store::temporary()?;
    /// store.put(&[7; 1000])?;
    /// let layout = store.layout()?;
    /// assert_eq!(layout.bytes(PartKind::Live), 64 + 1024); // header, and payload up to the next multiple of 64
    /// assert_eq!(layout.parts.iter().map(|part| part.length).sum::<u64>(), layout.file_bytes);
    /// # Ok::<(), blobpack::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of an unreadable file. Damage shows as [`PartKind::Unknown`](crate::PartKind::Unknown).
    pub fn layout(&self) -> Result<Layout> {
        layout::layout(self.shared())
    }

    /// What a compaction would give back. Reads all records of the index and holds 40 bytes of memory a blob and 8 a
    /// link; on a store that writes, commits wait meanwhile.
    ///
    /// # Errors
    /// Those of a damaged or unreadable index.
    pub fn compaction_estimate(&self) -> Result<CompactionEstimate> {
        estimate::estimate(self.shared())
    }

    /// What a blob keeps: all that its links lead to, and which of that would go if the blob went.
    ///
    /// Time and memory are linear in the blobs and links that are reached. On a store that writes, commits wait
    /// meanwhile.
    ///
    /// ```
    /// use blobpack::Store;
    /// let store = Store::temporary()?;
    /// let mut batch = store.batch();
    /// let [base, layer, image] = [batch.put(b"base")?, batch.put(b"layer")?, batch.put(b"image")?];
    /// batch.reference(&base); // somebody else needs the base too
    /// batch.link(&base, &image);
    /// batch.link(&layer, &image);
    /// batch.commit()?;
    /// let tree = store.tree(&image)?;
    /// assert_eq!((tree.unique.blobs, tree.shared.blobs), (2, 1)); // image and layer, base
    /// let digests: Vec<_> = tree.lines().map(|line| (line.depth, line.blob.digest)).collect();
    /// assert_eq!(digests, [(0, image), (1, base), (1, layer)]);
    /// # Ok::<(), blobpack::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound) where it is not stored; damage to a record or list on the way.
    pub fn tree(&self, digest: &Digest) -> Result<Tree> {
        usage::tree(self.shared(), digest)
    }

    /// What keeps a blob: all chains of links that lead to it, each from a reference that is held by no link.
    ///
    /// Time and memory are linear in the blobs that lead to it, the links among them and all names of the pack; the
    /// chains, of which there may be exponentially many, are told one by one. On a store that writes, commits wait
    /// meanwhile.
    ///
    /// ```
    /// use blobpack::Store;
    /// let store = Store::temporary()?;
    /// let mut batch = store.batch();
    /// let [layer, image] = [batch.put(b"layer")?, batch.put(b"image")?];
    /// batch.link(&layer, &image);
    /// batch.commit()?;
    /// let why = store.why(&layer)?;
    /// assert_eq!(why.count(), 1);
    /// let chain = why.chains().next().unwrap();
    /// let digests: Vec<_> = chain.blobs.iter().map(|blob| blob.digest).collect();
    /// assert_eq!(digests, [image, layer]);
    /// # Ok::<(), blobpack::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound) where it is not stored; damage to a record or list on the way.
    pub fn why(&self, digest: &Digest) -> Result<Why> {
        usage::why(self.shared(), digest)
    }

    /// Who keeps what, and what would go without them: a dry run of dropping their references.
    ///
    /// Reads all records of the index, and walks all that each name reaches: some 80 bytes of memory a blob, 110 where
    /// callers hold a reference on it, and 24 a link. On a store that writes, commits wait meanwhile.
    ///
    /// # Errors
    /// Those of a damaged or unreadable index.
    pub fn usage(&self) -> Result<Usage> {
        usage::usage(self.shared())
    }
}
