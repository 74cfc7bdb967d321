//! Content-addressed blobs with reference counts and links, in **one memory-mapped pack file**.
//!
//! A blob is stored once, under its digest. Whoever stores it holds a reference; a blob that links to others (an
//! image's manifest to its layers) keeps them alive, and so does a name; when the last reference goes, a blob and what
//! only it kept go with it. Reads borrow from the map and copy nothing. A commit that was acknowledged survives a power
//! cut.
//!
//! ```
//! use blobpack::Store;
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("images.pack");
//!
//! let store = Store::open(&path)?; // creates the pack, or opens it
//! let mut batch = store.batch(); // all or nothing, one sync
//! let layer = batch.put(b"the layer's bytes")?;
//! let manifest = batch.put(b"the manifest")?;
//! batch.link(&layer, &manifest); // the manifest keeps the layer alive
//! batch.commit()?;
//!
//! let blob = store.get(&layer)?; // no copy: borrowed from the map
//! assert_eq!(&*blob, b"the layer's bytes");
//!
//! let removed = store.dereference(&manifest)?; // nobody keeps either now
//! assert_eq!(removed.blobs(), 2);
//! assert_eq!(&*blob, b"the layer's bytes"); // what is held stays readable
//! store.compact()?; // gives the space back
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where things are
//!
//! From the top down; imports go only down. The on-disk format is [`format`](mod@format), the commit protocol is told
//! at the top of `commit.rs`, the read path is `reader.rs`, `index/home.rs` and `index/probe.rs`.
//!
//! | layer | modules | what |
//! |---|---|---|
//! | 7 | `image/` | whole images in and out, through the store's public calls |
//! | 7 | [`guide`], [`promises`] | how to use it, the tool verb by verb; what is guaranteed, and by which test |
//! | 7 | `store/` | [`Store`], [`OpenOptions`], [`Batch`], [`Stats`]; delegates |
//! | 6 | `compact/`, `verify/`, `inspect` | long operations: a new file, a full check, a look at the frames |
//! | 6 | `layout/`, `estimate`, `usage/` | what each byte is for; what a compaction would free; what keeps what |
//! | 5 | `reader`, `blob`, `list`, `names`, `writer` | what callers hold: borrowed and owned blobs, listings, streams |
//! | 5 | `mend` | what a rebuild puts right beside the index |
//! | 5 | `pack`, `commit/`, `source`, `still`, `recovery/` | what handles share; commits; which view is true; opening |
//! | 4 | `batch`, `graph/` | pending operations; the pure rules of references and links |
//! | 3 | `superblock`, `log/`, `index/`, `record` | checkpoints; frames; the hash table and what it holds |
//! | 3 | `space/`, `extent`, `view` | who owns which bytes; checked access to them |
//! | 2 | `medium/`, `map/` | the one door to the disk, real and simulated; the mapping |
//! | 1 | [`format`](mod@format) | the byte specification |
//! | 0 | `digest`, `name`, `error`, `fault` | digests; names; the one error type; what is wrong with an image |
//! | 0 | `arena`, `pieces` | the memory of batches, kept from one to the next; lists that grow in pieces |
//! | 0 | `sync` | the standard library's atomics and locks, or those of a model checker |
//!
//! Deliberately absent: async (a store never waits for anything but the disk), threads that stay (a checkpoint that is
//! due, the closing of a long file that a compaction has replaced, and what goes ahead of a large batch have one of
//! their own, which ends with it) and global state.
//!
//! # What is promised
//!
//! What was acknowledged is there, after the end of a process and after a power cut; a batch is there as a whole or not
//! at all; bytes that are not a blob's are never given out for it. [`promises`] says it line by line, with what is
//! assumed of the system, what is not promised, and the test behind each line.

#![deny(missing_docs)]

// The modules that are hidden from the documentation are reachable for the tests and fuzzers of this repository. They
// promise nothing to anybody else.
#[doc(hidden)]
pub mod arena;
#[doc(hidden)]
pub mod batch;
mod blob;
#[doc(hidden)]
pub mod commit;
mod compact;
mod digest;
mod error;
mod estimate;
#[doc(hidden)]
pub mod extent;
#[cfg(feature = "oci")]
mod fault;
pub mod format;
#[doc(hidden)]
pub mod graph;
pub mod guide;
#[cfg(feature = "oci")]
pub mod image;
#[doc(hidden)]
pub mod index;
mod inspect;
mod layout;
mod list;
#[doc(hidden)]
pub mod log;
#[doc(hidden)]
pub mod map;
pub mod medium;
mod mend;
mod name;
mod names;
mod pack;
#[doc(hidden)]
pub mod pieces;
pub mod promises;
mod reader;
#[doc(hidden)]
pub mod record;
#[doc(hidden)]
pub mod recovery;
#[doc(hidden)]
pub mod source;
#[doc(hidden)]
pub mod space;
mod still;
#[doc(hidden)]
pub mod store;
#[doc(hidden)]
pub mod superblock;
#[doc(hidden)]
pub mod sync;
mod usage;
mod verify;
#[doc(hidden)]
pub mod view;
mod writer;

pub use blob::Blob;
pub use commit::{Durability, RESERVED_DEREFERENCES};
pub use compact::{CompactOptions, Compacted, Progress};
pub use digest::{Algorithm, Digest, Hasher};
pub use error::{Damage, Error, Result};
pub use estimate::CompactionEstimate;
#[doc(hidden)]
pub use inspect::inspect_in;
pub use inspect::{Inspection, Item, inspect};
pub use layout::{Cell, Layout, Part, PartKind};
pub use list::{Descriptors, Links, List};
pub use name::Name;
pub use reader::{BlobRef, Reader};
pub use recovery::{LostName, Recovery};
pub use store::{Batch, Descriptor, OpenOptions, Outcome, Removed, Stats, Store};
pub use usage::{Amount, Chain, Chains, Holder, Keeps, Kept, Lines, NameUsage, Tree, TreeLine, Usage, Why};
pub use verify::{Finding, Verified};
pub use writer::{BlobWriter, Staged};

// The fast suite of the mutation tests is one program with the unit tests, so that a mutant is built only once. Tests
// run in the order of their names: these come last, as they take longest.
#[cfg(test)]
#[cfg(mutants)]
extern crate self as blobpack;
#[cfg(test)]
#[cfg(mutants)]
#[path = "../tests/mutants/suite.rs"]
mod whole_stores;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
