//! TEMPORARY crate docs; the real ones come with the store.

#![deny(missing_docs)]

pub mod blob;
#[doc(hidden)]
pub mod batch;
#[doc(hidden)]
pub mod commit;
pub mod compact;
pub mod digest;
pub mod error;
#[doc(hidden)]
pub mod format;
#[doc(hidden)]
pub mod graph;
#[doc(hidden)]
pub mod index;
pub mod inspect;
pub mod list;
#[doc(hidden)]
pub mod log;
#[doc(hidden)]
pub mod map;
#[doc(hidden)]
pub mod medium;
pub mod reader;
#[doc(hidden)]
pub mod record;
pub mod recovery;
#[doc(hidden)]
pub mod source;
#[doc(hidden)]
pub mod space;
pub mod store;
#[doc(hidden)]
pub mod superblock;
#[doc(hidden)]
pub mod verify;
#[doc(hidden)]
pub mod view;
pub mod writer;

pub use blob::Blob;
pub use commit::Durability;
pub use compact::{CompactOptions, Compacted, Progress};
pub use digest::{Algorithm, Digest, Hasher};
pub use error::{Damage, Error, Result};
pub use reader::{BlobRef, Reader};
pub use recovery::Recovery;
pub use inspect::{Inspection, Item, inspect};
pub use list::{Descriptors, Links, List};
pub use verify::{Finding, Verified};
pub use store::{Batch, Descriptor, OpenOptions, Outcome, Removed, Stats, Store};
pub use writer::{BlobWriter, Staged};
