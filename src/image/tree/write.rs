//! A tree of files out of the pack. Everything is made through directories that this export made itself and holds open,
//! under names that are single parts of a path, and only where nothing has that name: so no manifest, and no symbolic
//! link that it or somebody else puts in the way, leads out of the target.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, Mode as CreateMode, OFlags, fchmod, fsync, mkdirat, open, openat, renameat, symlinkat};
use rustix::io::Errno;

use super::{At, Entry, Mode, TREE_BYTES_MAX, Tree, split};
use crate::blob::Blob;
use crate::compact::Progress;
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::fault::Fault;
use crate::format::to_usize;
use crate::image::files::beginning;
use crate::medium::{Medium, directory_of};
use crate::store::Store;

/// Files are written in pieces of this size.
const PIECE_BYTES: u64 = 256 << 10;

/// What an export of a tree did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportedTree {
    /// The manifest.
    pub digest: Digest,
    /// How many blobs the tree has, the manifest among them. Equal files are one blob.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many files were written.
    pub files: u64,
    /// Their bytes.
    pub file_bytes: u64,
}

/// Exports the tree whose manifest has this digest, and tells how many bytes of its files were written so far. Each
/// file is compared with its digest on the way. No count changes.
///
/// A target that does not exist appears whole or not at all, after a power cut too: it is made beside its place, under
/// the name `.NAME.PID-N.tmp`, which is what a killed export leaves. An empty directory is filled where it is, keeps
/// its own permissions, and has after a failure what was written until then. Anything else is refused. Files,
/// directories and links are made with the permissions that the manifest states, whatever the umask, and belong to who
/// exports.
///
/// # Errors
/// [`Error::NotFound`] for a blob that the pack lacks, [`Error::DigestMismatch`] for one that is damaged;
/// [`Error::Image`] where the blob is no sound manifest of a tree, or the target is not what can be written to;
/// [`Error::Io`].
pub fn export_tree<M: Medium>(
    store: &Store<M>,
    digest: &Digest,
    path: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<ExportedTree> {
    let at = At(path);
    let tree = load(store, digest, at)?;
    let exported = measure(store, &tree, at, digest)?;
    let mut job = Job { store, at, tree: &tree, done: Progress { done: 0, total: exported.file_bytes }, progress };
    match Target::new(at)? {
        Target::Empty(directory) => job.fill(&directory, None)?,
        Target::New(beside) => {
            let filled = job.fill(&beside.directory, Some(tree.mode)).and_then(|()| beside.publish(at));
            if filled.is_err() {
                // The first error is the one to tell; what can't be removed has a name that says what it is.
                let _ = fs::remove_dir_all(&beside.path);
            }
            filled?;
        }
    }
    Ok(exported)
}

/// The checked manifest.
fn load<M: Medium>(store: &Store<M>, digest: &Digest, at: At<'_>) -> Result<Tree> {
    let blob = store.get(digest)?;
    let size = blob.size();
    let part = digest.to_string();
    if size > TREE_BYTES_MAX {
        return Err(at.fault(part.as_bytes(), Fault::TooLarge { size, limit: TREE_BYTES_MAX }));
    }
    blob.verify()?;
    Tree::parse(&blob).map_err(|(entry, fault)| {
        let part = if entry.is_empty() { part } else { format!("{part}: {entry}") };
        at.fault_in(part, fault)
    })
}

/// Whether all blobs are there and as long as the manifest says; and how much that is.
fn measure<M: Medium>(store: &Store<M>, tree: &Tree, at: At<'_>, digest: &Digest) -> Result<ExportedTree> {
    let bytes = store.get(digest)?.size();
    let mut exported = ExportedTree { digest: *digest, blobs: 1, bytes, files: 0, file_bytes: 0 };
    let mut seen = HashSet::new();
    for entry in &tree.entries {
        let Entry::File { path, size, digest, .. } = entry else { continue };
        let found = store.find(digest)?.ok_or(Error::NotFound { digest: *digest })?.size();
        if found != *size {
            return Err(at.fault(&path.0, Fault::Size { expected: *size, found }));
        }
        if seen.insert(digest) {
            (exported.blobs, exported.bytes) = (exported.blobs + 1, exported.bytes.saturating_add(*size));
        }
        (exported.files, exported.file_bytes) = (exported.files + 1, exported.file_bytes.saturating_add(*size));
    }
    Ok(exported)
}

/// Where a tree goes.
enum Target {
    /// Into a directory that is there.
    Empty(OwnedFd),
    /// To a path where nothing is.
    New(Beside),
}

/// A directory that takes its place when it is whole.
struct Beside {
    parent: OwnedFd,
    directory: OwnedFd,
    name: String,
    path: PathBuf,
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Target {
    fn new(at: At<'_>) -> Result<Target> {
        // A link that leads nowhere is something, too.
        if at.0.symlink_metadata().is_err() {
            return Beside::new(at).map(Target::New);
        }
        let directory = match open(at.0, DIRECTORY, CreateMode::empty()) {
            Err(Errno::NOTDIR) => return Err(at.refused(b"", "is no directory".into())),
            opened => at.io(b"", "open a directory", opened)?,
        };
        for entry in at.io(b"", "list a directory", Dir::read_from(&directory))? {
            let entry = at.io(b"", "list a directory", entry)?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                return Err(at.refused(b"", "is not empty; a tree goes to an empty directory or a new one".into()));
            }
        }
        Ok(Target::Empty(directory))
    }
}

impl Beside {
    fn new(at: At<'_>) -> Result<Beside> {
        let Some(name) = at.0.file_name() else {
            return Err(at.refused(b"", "is no path that a directory can be made at".into()));
        };
        let above = directory_of(at.0);
        let parent = at.io(b"", "open the directory above", open(above, DIRECTORY, CreateMode::empty()))?;
        let prefix = beginning(name);
        let mut attempt = 0_u32;
        loop {
            let name = format!(".{prefix}.{}-{attempt}.tmp", std::process::id());
            match mkdirat(&parent, &name, CreateMode::RWXU) {
                Err(Errno::EXIST) if attempt < u32::MAX => attempt += 1,
                made => {
                    at.io(b"", "make a directory beside", made)?;
                    let opened = openat(&parent, &name, DIRECTORY | OFlags::NOFOLLOW, CreateMode::empty());
                    let directory = at.io(b"", "open a new directory", opened)?;
                    return Ok(Beside { parent, directory, path: above.join(&name), name });
                }
            }
        }
    }

    /// Puts it in its place. A directory that appeared there meanwhile is replaced if it is empty, else it is an error.
    fn publish(&self, at: At<'_>) -> Result<()> {
        #[cfg(target_os = "linux")]
        at.io(b"", "sync the file system", rustix::fs::syncfs(&self.directory))?;
        let name = at.0.file_name().expect("it has one, or there would be nothing beside it");
        at.io(b"", "rename a directory", renameat(&self.parent, &self.name, &self.parent, name))?;
        at.io(b"", "sync the directory above", fsync(&self.parent))
    }
}

/// The directories from the target down to where the last entry was.
struct Descent<'t> {
    root: BorrowedFd<'t>,
    open: Vec<(OwnedFd, &'t [u8], Mode)>,
}

impl<'t> Descent<'t> {
    /// The open directory of this path. Those that it is not in are left.
    fn to(
        &mut self,
        path: &[u8],
        mut leave: impl FnMut(&OwnedFd, &[u8], Mode) -> Result<()>,
    ) -> Result<BorrowedFd<'_>> {
        while let Some((directory, open, mode)) = self.open.last() {
            if *open == path {
                break;
            }
            leave(directory, open, *mode)?;
            self.open.pop();
        }
        Ok(self.open.last().map_or(self.root, |(directory, ..)| directory.as_fd()))
    }

    /// Opens a directory that this export has made.
    fn enter(&mut self, directory: OwnedFd, path: &'t [u8], mode: Mode) {
        self.open.push((directory, path, mode));
    }
}

struct Job<'a, M: Medium> {
    store: &'a Store<M>,
    at: At<'a>,
    tree: &'a Tree,
    done: Progress,
    progress: &'a mut dyn FnMut(Progress),
}

impl<M: Medium> Job<'_, M> {
    /// Makes everything, then gives the directories their permissions, which may forbid to make anything in them.
    fn fill(&mut self, root: &OwnedFd, mode: Option<Mode>) -> Result<()> {
        let tree = self.tree;
        let mut descent = Descent { root: root.as_fd(), open: Vec::new() };
        for entry in &tree.entries {
            let (above, name) = split(&entry.path().0).expect("the manifest was checked");
            let directory = descent.to(above, |_, _, _| Ok(()))?;
            if let Some(made) = self.make(directory, name, entry)? {
                descent.enter(made, &entry.path().0, Mode(0));
            }
        }
        let mut descent = Descent { root: root.as_fd(), open: Vec::new() };
        let at = self.at;
        let leave = |directory: &OwnedFd, path: &[u8], mode: Mode| {
            at.io(path, "set permissions", fchmod(directory, mode.bits()))
        };
        for entry in &tree.entries {
            let Entry::Directory { path, mode } = entry else { continue };
            let (above, name) = split(&path.0).expect("the manifest was checked");
            let directory = descent.to(above, leave)?;
            let opened = openat(directory, name, DIRECTORY | OFlags::NOFOLLOW, CreateMode::empty());
            let opened = at.io(&path.0, "open a new directory", opened)?;
            descent.enter(opened, &path.0, *mode);
        }
        descent.to(b"", leave)?;
        mode.map_or(Ok(()), |mode| leave(root, b"", mode))
    }

    /// Makes one thing; gives back the directory that it is.
    fn make(&mut self, directory: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<Option<OwnedFd>> {
        let at = self.at;
        match entry {
            Entry::Directory { path, .. } => {
                at.io(&path.0, "make a directory", mkdirat(directory, name, CreateMode::RWXU))?;
                let opened = openat(directory, name, DIRECTORY | OFlags::NOFOLLOW, CreateMode::empty());
                return at.io(&path.0, "open a new directory", opened).map(Some);
            }
            Entry::Symlink { path, target } => {
                at.io(&path.0, "make a symbolic link", symlinkat(&target.0[..], directory, name))?;
            }
            Entry::File { path, mode, digest, .. } => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let opened = openat(directory, name, flags, CreateMode::RUSR | CreateMode::WUSR);
                let mut file = File::from(at.io(&path.0, "make a file", opened)?);
                self.copy(&self.store.get(digest)?, &mut file, &path.0)?;
                at.io(&path.0, "set permissions", fchmod(&file, mode.bits()))?;
            }
        }
        Ok(None)
    }

    /// Copies a blob, and compares it with its digest. It is read with system calls, so that a sector that can't be
    /// read is an error and not the end of the process.
    fn copy(&mut self, blob: &Blob<M>, file: &mut File, path: &[u8]) -> Result<()> {
        let mut hasher = Hasher::new(blob.digest().algorithm());
        let mut piece = vec![0; to_usize(blob.size().min(PIECE_BYTES))];
        let mut position = 0;
        while position < blob.size() {
            let part = &mut piece[..to_usize((blob.size() - position).min(PIECE_BYTES))];
            blob.read_at(part, position)?;
            hasher.update(part);
            file.write_all(part).map_err(|error| Error::io("write a file", &self.at.path(path), error))?;
            position += part.len() as u64;
            self.done.done += part.len() as u64;
            (self.progress)(self.done);
        }
        blob.digest().check(hasher.finish())
    }
}
