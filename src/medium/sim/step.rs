//! What a recording consists of.

use std::io;
use std::path::PathBuf;

use crate::format::Offset;

/// One change that was made to a file or its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which file; files are numbered from 0 in the order of their creation.
    pub file: u64,
    /// What was done.
    pub action: Action,
}

/// What a [`Step`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The file was there, whole and durable, when the recording began or when a test put it there.
    Insert {
        /// Its names.
        names: Vec<PathBuf>,
        /// All its bytes.
        bytes: Vec<u8>,
    },
    /// An empty file without a name was made.
    Create,
    /// Bytes were written, and synced with `durable`.
    Write {
        /// Where.
        offset: Offset,
        /// The bytes.
        bytes: Vec<u8>,
        /// Whether their range was synced.
        durable: bool,
    },
    /// Words were stored through the map: all but the first in ascending order, then the first.
    Store {
        /// Where the first one is.
        offset: Offset,
        /// The words, native.
        words: Vec<u64>,
    },
    /// A range was given its place; the file has at least its end as length.
    Allocate {
        /// Where it begins.
        offset: Offset,
        /// How long it is, in bytes.
        length: u64,
    },
    /// The place of a range was given back; it reads as zeros.
    Punch {
        /// Where it begins.
        offset: Offset,
        /// How long it is, in bytes.
        length: u64,
    },
    /// A range became durable.
    SyncRange {
        /// Where it begins.
        offset: Offset,
        /// How long it is, in bytes.
        length: u64,
    },
    /// The whole file became durable.
    SyncAll,
    /// The file got a name. Durable only with the next [`SyncDirectory`](Action::SyncDirectory).
    Publish {
        /// The name.
        name: PathBuf,
        /// Whether it may have taken the place of another file.
        replace: bool,
    },
    /// All names became durable.
    SyncDirectory,
    /// A name was removed.
    Remove {
        /// The name.
        name: PathBuf,
    },
    /// A handle took the writer's lock.
    Lock,
    /// The handle that had the writer's lock was dropped.
    Unlock,
}

/// How a call fails, with nothing done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `EIO`.
    Io,
    /// `ENOSPC`.
    Full,
}

impl Fault {
    pub(super) fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            Fault::Io => libc::EIO,
            Fault::Full => libc::ENOSPC,
        })
    }
}
