//! What keeps a blob, what a blob keeps, and what that costs: [`Tree`], [`Why`] and [`Usage`].
//!
//! All three read the records that they need into a [`Graph`] and work on that: memory and time are linear in the blobs
//! and links that are looked at, however deep the graph and however many paths lead through it. (The time of a usage is
//! so for each name, as that is a dry run of its own.) Nothing here recurses.

mod graph;
mod names;
mod tree;
mod why;

use crate::digest::Digest;

pub use names::{Holder, Keeps, NameUsage, Usage, usage};
pub use tree::{Lines, Tree, TreeLine, tree};
pub use why::{Chain, Chains, Why, why};

/// A blob of a [`Tree`] or of a [`Why`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Kept {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its references.
    pub ref_count: u64,
    /// How many blobs it links to.
    pub link_count: u64,
    /// Of a tree: whether something outside of the tree keeps it too.
    pub shared: bool,
}

/// How many blobs, and how large they are together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Amount {
    /// Blobs.
    pub blobs: u64,
    /// Payload bytes of all of them.
    pub bytes: u64,
    /// Bytes of the file that a compaction gives back when they are removed.
    pub reclaimable_bytes: u64,
}

impl Amount {
    fn add(&mut self, size: u64, space: u64) {
        self.blobs += 1;
        self.bytes = self.bytes.saturating_add(size);
        self.reclaimable_bytes = self.reclaimable_bytes.saturating_add(space);
    }
}
