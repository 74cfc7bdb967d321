//! The writer's lock: `flock` on a descriptor of its own.
//!
//! The descriptor is never mapped, as a map would keep the lock beyond its closing. It is closed, not unlocked: a
//! child that the process forked shares it, and must not be able to end the parent's lock by dropping its copy.
//!
//! The mark on the lock is another kind of lock on the same descriptor, so that the two go together: the kernel lets go
//! of the mark first.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, OnceLock};

/// The lock of one handle on a file.
#[derive(Default)]
pub(super) struct Lock {
    held: Mutex<Option<File>>,
    /// Only ever locked shared, and for a moment.
    probe: OnceLock<File>,
}

impl Lock {
    /// A handle's lock that is held from the start.
    pub(super) fn held(file: File) -> Lock {
        Lock { held: Mutex::new(Some(file)), probe: OnceLock::new() }
    }

    /// Takes the lock; `false` where another has it.
    pub(super) fn try_exclusive(&self, file: &File, path: &Path) -> io::Result<bool> {
        let mut held = super::lock(&self.held);
        if held.is_none() {
            let again = open_again(file, path)?;
            if try_exclusive(&again)? {
                *held = Some(again);
            }
        }
        Ok(held.is_some())
    }

    /// Marks the lock that this handle holds.
    pub(super) fn set_ready(&self) -> io::Result<()> {
        match &*super::lock(&self.held) {
            Some(held) => super::sys::mark(held),
            None => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Whether the lock that anybody holds is marked.
    pub(super) fn is_ready(&self, file: &File, path: &Path) -> io::Result<bool> {
        super::sys::is_marked(self.probe(file, path)?)
    }

    /// Whether this handle holds the lock.
    pub(super) fn is_held(&self) -> bool {
        super::lock(&self.held).is_some()
    }

    /// Closes the descriptor that holds the lock.
    pub(super) fn release(&self) {
        *super::lock(&self.held) = None;
    }

    /// Whether anybody, this handle included, holds the lock at this moment.
    pub(super) fn is_held_by_any(&self, file: &File, path: &Path) -> io::Result<bool> {
        if self.is_held() {
            return Ok(true);
        }
        let probe = self.probe(file, path)?;
        // Two threads that share the probe may each unlock what the other locked: neither needs it any more.
        if !without_contention(fs2::FileExt::try_lock_shared(probe))? {
            return Ok(true);
        }
        fs2::FileExt::unlock(probe)?;
        Ok(false)
    }

    fn probe(&self, file: &File, path: &Path) -> io::Result<&File> {
        if let Some(probe) = self.probe.get() {
            return Ok(probe);
        }
        let again = open_again(file, path)?;
        Ok(self.probe.get_or_init(|| again))
    }
}

/// Takes the exclusive lock on a descriptor; `false` where another has it.
pub(super) fn try_exclusive(file: &File) -> io::Result<bool> {
    without_contention(fs2::FileExt::try_lock_exclusive(file))
}

/// Opens the very inode of `file` again. `path` helps where there is no `/proc`.
pub(super) fn open_again(file: &File, path: &Path) -> io::Result<File> {
    // Over NFS an exclusive lock needs a descriptor for writing; elsewhere one for reading will do.
    open_again_for(file, path, true).or_else(|_| open_again_for(file, path, false))
}

/// The same for reading, and for writing too where that is asked for.
pub(super) fn open_again_for(file: &File, path: &Path, write: bool) -> io::Result<File> {
    let own = file.metadata()?;
    let mut refused = io::Error::from(io::ErrorKind::NotFound);
    let by_descriptor = super::sys::descriptor_path(file);
    for path in by_descriptor.iter().map(AsRef::as_ref).chain([path]) {
        match OpenOptions::new().read(true).write(write).custom_flags(libc::O_NONBLOCK).open(path) {
            Ok(again) => {
                let found = again.metadata()?;
                if (found.dev(), found.ino()) == (own.dev(), own.ino()) {
                    return Ok(again);
                }
            }
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

fn without_contention(locked: io::Result<()>) -> io::Result<bool> {
    match locked {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == fs2::lock_contended_error().raw_os_error() => Ok(false),
        Err(error) => Err(error),
    }
}
