//! The one error type: what went wrong, with which value, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
#[cfg(feature = "oci")]
use crate::fault::ImageFault;
use crate::name::Name;

/// The result of every call that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong.
///
/// Variants carry data; [`Display`](std::fmt::Display) is one lower-case line with the remedy where there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The digest is not stored.
    #[error("no blob {digest} in the pack")]
    NotFound {
        /// The digest that was asked for.
        digest: Digest,
    },
    /// A text is not a digest of the form `label:hex`.
    #[error("{text:?} is not a digest: {reason}")]
    InvalidDigest {
        /// The text as given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The label before the colon is none of `sha256`, `sha384`, `sha512`.
    #[error("{label:?}: hash not supported (sha256, sha384 and sha512 are)")]
    UnsupportedAlgorithm {
        /// The label as given.
        label: String,
    },
    /// A text is no name.
    #[error("{:?} is not a name: {reason}", shortened(text))]
    InvalidName {
        /// The text as given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No blob has this name.
    #[error("no name {:?} in the pack", name.as_str())]
    NoSuchName {
        /// The name that was asked for.
        name: Name,
    },
    /// More than one blob begins with this prefix.
    #[error("{prefix:?} is ambiguous: {first} and {second} begin so; give more digits")]
    AmbiguousPrefix {
        /// The prefix as given.
        prefix: String,
        /// One blob that matches.
        first: Box<Digest>,
        /// Another one.
        second: Box<Digest>,
    },
    /// Dropping or moving a reference would take one that a link or a name holds.
    #[error(
        "{digest} has no reference to spare: links and names hold {held} of {references}; \
         take another reference first, or remove a link or a name"
    )]
    NoSpareReference {
        /// The blob.
        digest: Box<Digest>,
        /// Its reference count.
        references: u64,
        /// How many of these inbound links and names hold.
        held: u64,
    },
    /// One more reference than 2^32 - 1.
    #[error("{digest} has {limit} references, the most a blob can have")]
    TooManyReferences {
        /// The blob.
        digest: Box<Digest>,
        /// The limit.
        limit: u64,
    },
    /// The link would close a cycle, which reference counts could never free.
    #[error("a link from {from} to {to} would close a cycle")]
    WouldCycle {
        /// The blob that would be linked to.
        to: Box<Digest>,
        /// The blob that would hold the link.
        from: Box<Digest>,
    },
    /// There is no such link to remove.
    #[error("{from} has no link to {to}")]
    NotLinked {
        /// The blob that is not linked to.
        to: Box<Digest>,
        /// The blob that was said to hold the link.
        from: Box<Digest>,
    },
    /// The bytes have another digest than the caller expected.
    #[error("expected {expected}, but the bytes have {found}")]
    DigestMismatch {
        /// What the caller expected, or what the store has on record.
        expected: Box<Digest>,
        /// The digest of the bytes.
        found: Box<Digest>,
    },
    /// The blob has another size than the caller expected.
    #[error("expected {expected} bytes, got {found}")]
    SizeMismatch {
        /// The size that the caller expected, in bytes.
        expected: u64,
        /// The size found, in bytes.
        found: u64,
    },
    /// A blob longer than the format can hold.
    #[error("a blob of {length} bytes is too large: {limit} is the limit")]
    TooLarge {
        /// Its length in bytes.
        length: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A range that is not inside the blob.
    #[error("range {start}..{end} is outside the blob of {length} bytes")]
    RangeOutside {
        /// First byte asked for.
        start: u64,
        /// One past the last byte asked for.
        end: u64,
        /// The blob's length in bytes.
        length: u64,
    },
    /// An operation of a batch failed; nothing of the batch happened.
    #[error("operation {index} of the batch: {source}")]
    Batch {
        /// The operation's position in the batch, from 0.
        index: usize,
        /// Why it failed.
        source: Box<Error>,
    },
    /// A staged blob, or the pack that is at a reader's path now, belongs to another store.
    #[error("{what} belongs to another store")]
    ForeignHandle {
        /// Which handle.
        what: &'static str,
    },
    /// There is no pack where one was to be opened.
    #[error("{}: no pack here (open with create to make one)", path.display())]
    NoPack {
        /// The path that was looked at.
        path: PathBuf,
    },
    /// `create_new` found something at the path.
    #[error("{}: already exists", path.display())]
    AlreadyExists {
        /// The path.
        path: PathBuf,
    },
    /// The path leads to something that is no regular file.
    #[error("{}: {found}, not a pack file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// The file is not a pack.
    #[error("{}: not a pack: {reason}", path.display())]
    NotAPack {
        /// The file.
        path: PathBuf,
        /// What is missing.
        reason: &'static str,
    },
    /// The pack was written by a newer blobpack.
    #[error("{}: format version {found}; this blobpack knows up to {supported}: use a newer one", path.display())]
    UnsupportedVersion {
        /// The file.
        path: PathBuf,
        /// Its format version.
        found: u32,
        /// The newest version known here.
        supported: u32,
    },
    /// The pack uses a feature that is unknown here.
    #[error("{}: unknown feature flags {flags:#x}: use a newer blobpack", path.display())]
    UnsupportedFeature {
        /// The file.
        path: PathBuf,
        /// The unknown flags.
        flags: u64,
    },
    /// The file's bytes contradict themselves or their checksums.
    #[error(transparent)]
    Damaged(Box<Damage>),
    /// The pack is open for writing already: in another process, or in this one, by another store or by what has
    /// outlived it (a reader, a list, a batch, a blob's writer, a staged blob).
    #[error("{}: locked by another writer{}", path.display(), waited(*waited_ms))]
    Locked {
        /// The file.
        path: PathBuf,
        /// How long the call waited, in milliseconds.
        waited_ms: u64,
    },
    /// The store is open for reading only.
    #[error("{}: open for reading only", path.display())]
    ReadOnly {
        /// The file.
        path: PathBuf,
    },
    /// A write or a sync failed before; the handle reads on but writes nothing more.
    #[error("{}: no more writes after a failure ({reason}); close and open the pack again", path.display())]
    Poisoned {
        /// The file.
        path: PathBuf,
        /// The failure.
        reason: String,
    },
    /// The disk is full. Nothing was changed.
    #[error("{}: no space left: {needed} bytes are needed", path.display())]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// How many bytes it asked the disk for at once, and did not get: all of them, not what is missing.
        needed: u64,
    },
    /// The pack would grow beyond the `max_bytes` that it was opened with. Nothing was changed.
    #[error("{}: would grow to {needed} bytes, beyond the limit of {limit}", path.display())]
    LimitReached {
        /// The file.
        path: PathBuf,
        /// The length that the file would need, in bytes.
        needed: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// Something of this store is still in use that the call can't work beside.
    #[error("{}: in use: {writers} open writers, {staged} staged blobs; commit or drop them first", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
        /// Writers that are neither committed nor cancelled.
        writers: u64,
        /// Staged blobs that are neither committed nor dropped.
        staged: u64,
    },
    /// A compaction would separate the pack's names from one another.
    #[error("{}: has {links} hard links; a compaction would leave the others with the old file", path.display())]
    HardLinks {
        /// The file.
        path: PathBuf,
        /// How many names it has.
        links: u64,
    },
    /// The path leads to another file now, or to none: a compaction would put the pack in the place of that.
    #[error("{}: the pack was moved away from here; close it and open it where it is", path.display())]
    Moved {
        /// The path that the pack was opened by.
        path: PathBuf,
    },
    /// The writer changed the index for longer than a lookup waits.
    #[error("{}: busy: the index kept changing; try again", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// A text is not a place where an image can be.
    #[cfg(feature = "oci")]
    #[error("{text:?}: {reason} (oci:DIR, oci-archive:FILE, docker-archive:FILE or dir:PATH)")]
    InvalidLocation {
        /// The text as given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// What an image is read from, or written to, is not what it has to be. Nothing of it was taken over.
    #[cfg(feature = "oci")]
    #[error(transparent)]
    Image(Box<ImageFault>),
    /// The system refused a call.
    #[error("{}: {operation}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Where a file is damaged, and what that means.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}: damaged at offset {offset}: {what}{}", path.display(), after(*remedy))]
#[non_exhaustive]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// The offset in the file, in bytes.
    pub offset: u64,
    /// What is wrong there.
    pub what: String,
    /// What to do, where something can be done.
    pub remedy: Option<&'static str>,
}

fn after(remedy: Option<&str>) -> String {
    remedy.map(|remedy| format!("; {remedy}")).unwrap_or_default()
}

/// A text that may be of any length, as an error line shows it.
pub(crate) fn shortened(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

fn waited(ms: u64) -> String {
    if ms == 0 { String::new() } else { format!(" (waited {ms} ms)") }
}

impl Error {
    /// Whether the error says that a digest, or a name, is not stored.
    #[doc(alias = "IsBlobNotExists")]
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        match self {
            Error::NotFound { .. } | Error::NoSuchName { .. } => true,
            Error::Batch { source, .. } => source.is_not_found(),
            _ => false,
        }
    }

    /// Whether the error names damage in the file.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Error::Damaged(_) => true,
            Error::Batch { source, .. } => source.is_damage(),
            _ => false,
        }
    }

    pub(crate) fn damaged(path: &Path, offset: u64, what: impl Into<String>) -> Error {
        Error::Damaged(Box::new(Damage { path: path.into(), offset, what: what.into(), remedy: None }))
    }

    /// Wraps a failed system call; a full disk keeps its own variant only where the need is known.
    pub(crate) fn io(operation: &'static str, path: &Path, source: io::Error) -> Error {
        Error::Io { operation, path: path.into(), source }
    }

    /// What the standard library would call it.
    pub(crate) fn kind(&self) -> io::ErrorKind {
        match self {
            Error::NotFound { .. } | Error::NoSuchName { .. } | Error::NoPack { .. } => io::ErrorKind::NotFound,
            Error::AlreadyExists { .. } => io::ErrorKind::AlreadyExists,
            Error::Batch { source, .. } => source.kind(),
            Error::Io { source, .. } => source.kind(),
            Error::NoSpace { .. } => io::ErrorKind::StorageFull,
            Error::LimitReached { .. } => io::ErrorKind::QuotaExceeded,
            Error::TooLarge { .. } => io::ErrorKind::FileTooLarge,
            Error::Damaged(_) | Error::DigestMismatch { .. } | Error::SizeMismatch { .. } | Error::NotAPack { .. } => {
                io::ErrorKind::InvalidData
            }
            #[cfg(feature = "oci")]
            Error::Image(_) => io::ErrorKind::InvalidData,
            Error::UnsupportedVersion { .. } | Error::UnsupportedFeature { .. } => io::ErrorKind::Unsupported,
            Error::ReadOnly { .. } => io::ErrorKind::ReadOnlyFilesystem,
            Error::InUse { .. } => io::ErrorKind::ResourceBusy,
            Error::Locked { .. } | Error::Busy { .. } => io::ErrorKind::WouldBlock,
            Error::InvalidDigest { .. }
            | Error::InvalidName { .. }
            | Error::UnsupportedAlgorithm { .. }
            | Error::AmbiguousPrefix { .. }
            | Error::RangeOutside { .. } => io::ErrorKind::InvalidInput,
            #[cfg(feature = "oci")]
            Error::InvalidLocation { .. } => io::ErrorKind::InvalidInput,
            _ => io::ErrorKind::Other,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        io::Error::new(error.kind(), error)
    }
}
