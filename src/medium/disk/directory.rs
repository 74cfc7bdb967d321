//! Names: where a path leads, files that have no name yet, and how they get one.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use super::lock::{self, Lock};
use super::sys;
use crate::medium::{AtPath, directory_of};

/// As many symbolic links as Linux follows.
const SYMLINKS_MAX: usize = 40;
/// The longest part of a pack's name that goes into a temporary name: that has 22 bytes more, and a name at most 255.
const STEM_BYTES_MAX: usize = 233;
/// How often a temporary name is tried. A try fails only when a clean-up comes between its creation and its lock.
const TRIES_MAX: usize = 16;

/// What name a file has.
pub(super) enum Name {
    /// The path's.
    Published,
    /// None at all: made with `O_TMPFILE`, it vanishes with the process.
    Nameless,
    /// A temporary one beside the path.
    Temporary(PathBuf),
}

/// The absolute path, without symbolic links, that a path leads to, where something is or could be made.
pub(super) fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_path_buf();
    for _ in 0..SYMLINKS_MAX {
        match fs::canonicalize(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            resolved => return resolved,
        }
        // A directory that is not there: a file of that name would not be found by this path.
        if [&b"/"[..], b"/."].iter().any(|end| path.as_os_str().as_bytes().ends_with(end)) {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        let name = path.file_name().ok_or(io::ErrorKind::NotFound)?;
        let resolved = fs::canonicalize(directory_of(&path))?.join(name);
        // A link that leads nowhere yet: what it names can be made.
        match fs::read_link(&resolved) {
            Ok(target) => path = directory_of(&resolved).join(target),
            Err(_) => return Ok(resolved),
        }
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

/// Makes a file without a published name in the directory of `path`, and locks it.
pub(super) fn create(path: &Path, mode: u32) -> io::Result<(File, Lock, Name)> {
    let (file, lock, name) = create_empty(path, mode)?;
    sys::forbid_copy_on_write(&file);
    Ok((file, lock, name))
}

fn create_empty(path: &Path, mode: u32) -> io::Result<(File, Lock, Name)> {
    if let Some(file) = sys::create_nameless(directory_of(path), mode)
        && let Ok(again) = lock::open_again(&file, path)
        && lock::try_exclusive(&again).unwrap_or(false)
    {
        return Ok((file, Lock::held(again), Name::Nameless));
    }
    create_named(path, mode)
}

/// Makes and locks a file with a temporary name, for where there are none without.
pub(super) fn create_named(path: &Path, mode: u32) -> io::Result<(File, Lock, Name)> {
    for _ in 0..TRIES_MAX {
        let temporary = temporary_path(path)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(mode)
            .custom_flags(libc::O_NONBLOCK)
            .open(&temporary)?;
        match lock_new(&file, &temporary) {
            Ok(Some(lock)) => return Ok((file, lock, Name::Temporary(temporary))),
            Ok(None) => {}
            Err(error) => {
                let _ = fs::remove_file(&temporary);
                return Err(error);
            }
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

/// Locks a new file. `None`: somebody's clean-up was quicker, and has removed it or is about to.
fn lock_new(file: &File, temporary: &Path) -> io::Result<Option<Lock>> {
    let again = lock::open_again(file, temporary)?;
    let ours = lock::try_exclusive(&again)? && at_path(file, temporary, true)? == AtPath::Same;
    Ok(ours.then(|| Lock::held(again)))
}

/// Gives `to` the permissions of `from`, and its owner and group as far as the process may.
pub(super) fn copy_owner_and_mode(from: &File, to: &File) -> io::Result<()> {
    let (from, now) = (from.metadata()?, to.metadata()?);
    if (from.uid(), from.gid()) != (now.uid(), now.gid()) {
        // Only a privileged process may give a file away; a group of its own any may set.
        let _ = fchown(to, None, Some(from.gid()));
        let _ = fchown(to, Some(from.uid()), None);
    }
    // Last, as a change of owner may clear bits.
    to.set_permissions(Permissions::from_mode(from.mode() & 0o777))
}

/// Gives a file its name and makes that durable.
pub(super) fn publish(name: &mut Name, file: &File, path: &Path, replace: bool) -> io::Result<()> {
    // First of all: where that can't be, because no descriptor is left, there must not be a name already.
    let directory = File::open(directory_of(path))?;
    if replace && matches!(name, Name::Nameless) {
        // Only a rename takes the place of another file, and only a name can be renamed.
        let temporary = temporary_path(path)?;
        sys::link_nameless(file, &temporary)?;
        *name = Name::Temporary(temporary);
    }
    match name {
        Name::Published => return Err(io::ErrorKind::InvalidInput.into()),
        Name::Nameless => sys::link_nameless(file, path)?,
        Name::Temporary(temporary) if replace => fs::rename(temporary, path)?,
        Name::Temporary(temporary) => match sys::rename_new(temporary, path) {
            Err(error) if sys::is_unsupported(&error) => {
                fs::hard_link(&*temporary, path)?;
                // A crash in between leaves two names of one file: the next clean-up takes the temporary one.
                fs::remove_file(temporary)?;
            }
            done => done?,
        },
    }
    *name = Name::Published;
    sync_opened(&directory)
}

/// Makes the names in the directory of `path` durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    sync_opened(&File::open(directory_of(path))?)
}

fn sync_opened(directory: &File) -> io::Result<()> {
    match directory.sync_all() {
        // Some network file systems have nothing to sync in a directory and say so.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        done => done,
    }
}

/// What a path leads to, seen from a file. Who writes may put another file there: in the place of a link, whatever that
/// leads to.
pub(super) fn at_path(file: &File, path: &Path, write: bool) -> io::Result<AtPath> {
    use io::ErrorKind::{NotADirectory, NotFound};
    let own = file.metadata()?;
    match if write { fs::symlink_metadata(path) } else { fs::metadata(path) } {
        Ok(found) if (found.dev(), found.ino()) == (own.dev(), own.ino()) => Ok(AtPath::Same),
        Ok(_) => Ok(AtPath::Other),
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => Ok(AtPath::Missing),
        Err(error) => Err(error),
    }
}

/// Removes temporary names of `path` that nobody works on, and those that are second names of `file`.
pub(super) fn remove_leftovers(file: &File, path: &Path) {
    let (Ok(own), Ok(entries), Some(stem)) = (file.metadata(), fs::read_dir(directory_of(path)), stem(path)) else {
        return;
    };
    for entry in entries.flatten().filter(|entry| is_temporary(&entry.file_name(), stem)) {
        let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_NOCTTY;
        let Ok(found) = OpenOptions::new().read(true).custom_flags(flags).open(entry.path()) else { continue };
        let Ok(metadata) = found.metadata() else { continue };
        let same = (metadata.dev(), metadata.ino()) == (own.dev(), own.ino());
        // Who has this lock is not in the middle of a creation, as that holds it from beginning to end.
        if metadata.is_file() && (same || lock::try_exclusive(&found).unwrap_or(false)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The part of a pack's name that its temporary names contain.
fn stem(path: &Path) -> Option<&[u8]> {
    let name = path.file_name()?.as_bytes();
    Some(&name[..name.len().min(STEM_BYTES_MAX)])
}

/// A new name `.NAME.<16 hex>.tmp` beside `path`.
fn temporary_path(path: &Path) -> io::Result<PathBuf> {
    let stem = stem(path).ok_or(io::ErrorKind::InvalidInput)?;
    let random = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
    let name = [b".", stem, format!(".{random:016x}.tmp").as_bytes()].concat();
    Ok(path.with_file_name(OsString::from_vec(name)))
}

fn is_temporary(name: &OsStr, stem: &[u8]) -> bool {
    let random = name.as_bytes().strip_prefix(b".").and_then(|rest| rest.strip_prefix(stem));
    let random = random.and_then(|rest| rest.strip_prefix(b".")?.strip_suffix(b".tmp"));
    random.is_some_and(|hex| hex.len() == 16 && hex.iter().all(u8::is_ascii_hexdigit))
}
