//! The walk over a tree of files. Everything is read through directories that stay open, and no symbolic link in it is
//! followed, so that nobody who changes the tree meanwhile leads the walk out of it.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode as CreateMode, OFlags, Stat, fstat, open, openat, readlinkat, statat};
use rustix::io::Errno;

use super::{At, Escaped, LEVELS_MAX, Mode};
use crate::error::{Error, Result};
use crate::fault::Fault;

/// What becomes of the things in a tree: they are looked at before anything is written, or taken into a pack.
pub(super) trait Visitor {
    /// A directory, before what is in it.
    fn directory(&mut self, path: &[u8], mode: Mode) -> Result<()>;
    /// A plain file, opened, with its status before anything was read.
    fn file(&mut self, file: File, status: &Stat, path: &[u8]) -> Result<()>;
    /// A symbolic link.
    fn symlink(&mut self, path: &[u8], target: Escaped) -> Result<()>;
}

/// Visits everything, each directory in the order of its names.
pub(super) fn walk(at: At<'_>, visitor: &mut impl Visitor) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = match open(at.0, flags, CreateMode::empty()) {
        Err(Errno::NOTDIR) => return Err(at.refused(b"", "is no directory".into())),
        opened => at.io(b"", "open a directory", opened)?,
    };
    Walk { at, visitor }.whole(root)
}

/// What shows that a file or a directory has changed. (When it was read is no change.)
#[derive(PartialEq, Eq)]
pub(super) struct Stamp {
    inode: (u64, u64),
    size: i64,
    modified: (i64, u64),
    changed: (i64, u64),
}

#[allow(clippy::unnecessary_cast, clippy::useless_conversion, reason = "the widths differ between systems")]
pub(super) fn stamp(stat: &Stat) -> Stamp {
    Stamp {
        inode: inode(stat),
        size: stat.st_size as i64,
        modified: (stat.st_mtime as i64, stat.st_mtime_nsec as u64),
        changed: (stat.st_ctime as i64, stat.st_ctime_nsec as u64),
    }
}

#[allow(clippy::unnecessary_cast, reason = "the widths differ between systems")]
pub(super) fn inode(stat: &Stat) -> (u64, u64) {
    (stat.st_dev as u64, stat.st_ino as u64)
}

/// A directory on the way.
struct Frame {
    directory: OwnedFd,
    /// Its path in the tree with a slash behind it; nothing for the tree's own.
    prefix: Vec<u8>,
    /// What is in it and was not visited yet.
    names: std::vec::IntoIter<CString>,
    before: Stamp,
}

struct Walk<'a, V> {
    at: At<'a>,
    visitor: &'a mut V,
}

impl<V: Visitor> Walk<'_, V> {
    fn whole(&mut self, root: OwnedFd) -> Result<()> {
        let mut stack = vec![self.enter(root, b".", Vec::new())?];
        while let Some(frame) = stack.last_mut() {
            let Some(name) = frame.names.next() else {
                self.unchanged(frame)?;
                stack.pop();
                continue;
            };
            let mut path = frame.prefix.clone();
            path.extend_from_slice(name.to_bytes());
            if let Some(directory) = self.visit(frame, &name, &path)? {
                if stack.len() > LEVELS_MAX {
                    return Err(self.at.fault(&path, Fault::TooDeep { limit: LEVELS_MAX }));
                }
                let mut prefix = path.clone();
                prefix.push(b'/');
                stack.push(self.enter(directory, &path, prefix)?);
            }
        }
        Ok(())
    }

    /// Lists a directory.
    fn enter(&mut self, directory: OwnedFd, path: &[u8], prefix: Vec<u8>) -> Result<Frame> {
        let stat = self.at.io(path, "look at a directory", fstat(&directory))?;
        self.visitor.directory(path, Mode::of(&stat))?;
        let mut names = Vec::new();
        for entry in self.at.io(path, "list a directory", Dir::read_from(&directory))? {
            let entry = self.at.io(path, "list a directory", entry)?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        names.sort_unstable();
        Ok(Frame { directory, prefix, names: names.into_iter(), before: stamp(&stat) })
    }

    /// A directory that is left has the names that it had when it was entered.
    fn unchanged(&self, frame: &Frame) -> Result<()> {
        let path = frame.prefix.strip_suffix(b"/").unwrap_or(b".");
        let now = self.at.io(path, "look at a directory", fstat(&frame.directory))?;
        if stamp(&now) == frame.before { Ok(()) } else { Err(self.at.changed(path)) }
    }

    /// Takes in what has this name; gives a directory back, to be entered.
    fn visit(&mut self, frame: &Frame, name: &CStr, path: &[u8]) -> Result<Option<OwnedFd>> {
        let directory = frame.directory.as_fd();
        let found = self.at.there(path, statat(directory, name, AtFlags::SYMLINK_NOFOLLOW))?;
        let kind = FileType::from_raw_mode(found.st_mode);
        let special = match kind {
            FileType::Symlink => {
                let target = self.at.there(path, readlinkat(directory, name, Vec::new()))?;
                self.visitor.symlink(path, Escaped(target.into_bytes()))?;
                return Ok(None);
            }
            FileType::Directory | FileType::RegularFile => None,
            FileType::Fifo => Some("a FIFO"),
            FileType::Socket => Some("a socket"),
            FileType::BlockDevice | FileType::CharacterDevice => Some("a device"),
            _ => Some("something unknown"),
        };
        if let Some(special) = special {
            return Err(self.at.refused(path, format!("is {special}, not a file, a directory or a symbolic link")));
        }
        // What takes its place in this moment is not waited for.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = self.at.there(path, openat(directory, name, flags, CreateMode::empty()))?;
        let stat = self.at.io(path, "look at a file", fstat(&opened))?;
        if inode(&stat) != inode(&found) || FileType::from_raw_mode(stat.st_mode) != kind {
            return Err(self.at.changed(path));
        }
        if kind == FileType::Directory {
            return Ok(Some(opened));
        }
        self.visitor.file(File::from(opened), &stat, path)?;
        Ok(None)
    }
}

impl At<'_> {
    /// What is gone, or has become something else, since its name was read has changed.
    fn there<T>(&self, path: &[u8], result: rustix::io::Result<T>) -> Result<T> {
        match result {
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO) => Err(self.changed(path)),
            result => self.io(path, "open a file of a tree", result),
        }
    }

    pub(super) fn changed(&self, path: &[u8]) -> Error {
        self.refused(path, "changed while it was read; try again".into())
    }
}
