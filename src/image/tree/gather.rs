//! A tree of files into a pack, in one batch.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Stat, fstat};

use super::walk::{Visitor, inode, stamp, walk};
use super::{At, Entry, Escaped, HEAD, Mode, TAIL, TREE_BYTES_MAX};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{Error, Result};
use crate::fault::Fault;
use crate::format::LARGE_BYTES;
use crate::image::import::commit;
use crate::medium::{Medium, directory_of};
use crate::name::Name;
use crate::store::{Batch, Store};
use crate::writer::BlobWriter;

/// Files are read in pieces of this size.
const PIECE_BYTES: usize = 256 << 10;

/// What an import of a tree did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportedTree {
    /// The manifest.
    pub digest: Digest,
    /// How many blobs the tree has, the manifest among them. Equal files are one blob.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many of them the pack lacked.
    pub stored_blobs: u64,
    /// The bytes of these.
    pub stored_bytes: u64,
    /// How many blobs went because the name was another blob's before.
    pub removed_blobs: u64,
}

/// Looks whether a tree can be imported into a pack, which need not be there yet, without reading the tree's files:
/// what is special, too deep or can't be opened, or a pack that lies in the tree, is an error before the pack is
/// touched.
///
/// # Errors
/// As for [`import_tree`].
pub fn check_tree(path: &Path, pack: &Path) -> Result<()> {
    if let Some(inside) = pack_in(path, pack) {
        return Err(At(path).refused(inside.as_os_str().as_bytes(), "is the pack itself".into()));
    }
    walk(At(path), &mut Check)
}

/// Where a pack lies in a tree, if it does, by the paths without symbolic links: the tree's own are not followed.
fn pack_in(tree: &Path, pack: &Path) -> Option<PathBuf> {
    let pack = if pack.is_dir() { pack.join("blobs.pack") } else { pack.to_path_buf() };
    let real =
        pack.canonicalize().ok().or_else(|| Some(directory_of(&pack).canonicalize().ok()?.join(pack.file_name()?)))?;
    real.strip_prefix(tree.canonicalize().ok()?).ok().map(Path::to_path_buf)
}

/// A visitor that takes nothing.
struct Check;

impl Visitor for Check {
    fn directory(&mut self, _: &[u8], _: Mode) -> Result<()> {
        Ok(())
    }

    fn file(&mut self, _: File, _: &Stat, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn symlink(&mut self, _: &[u8], _: Escaped) -> Result<()> {
        Ok(())
    }
}

/// Imports the tree of files below a directory: a manifest, which has the name, links to the files. Tells how many
/// bytes of the files were read so far, once for their digests.
///
/// One batch commits it: the tree is there as a whole or not at all. Importing the same tree again changes no count.
/// Without a name the caller has a reference on the manifest, one however often the tree is imported.
///
/// A directory that `path` itself is a symbolic link to is meant; links in the tree are kept as links and not followed.
/// Small files that the pack lacks wait in memory for the commit. One of 64 KiB and more is read once for its digest,
/// and where the pack lacks it once more, into the pack.
///
/// # Errors
/// [`Error::Image`] names what is neither file, directory nor symbolic link, and what changed while it was read (as far
/// as its size and its times show); [`Error::Io`] what can't be read; those of the pack as for [`Store::put`]. Nothing
/// of the tree is there then, and what [`check_tree`] sees has changed no byte of the pack.
pub fn import_tree<M: Medium>(
    store: &Store<M>,
    path: &Path,
    name: Option<&Name>,
    progress: &mut dyn FnMut(u64),
) -> Result<ImportedTree> {
    let at = At(path);
    check_tree(path, &store.path())?;
    let pack = store.path().metadata().ok().map(|pack| (pack.dev(), pack.ino()));
    let digest = Digest::of(Algorithm::Sha256, b"");
    let mut ingest = Ingest {
        store,
        at,
        pack,
        manifest: store.writer(Algorithm::Sha256)?,
        entries: 0,
        files: Vec::new(),
        seen: HashSet::new(),
        batch: store.batch(),
        imported: ImportedTree { digest, blobs: 0, bytes: 0, stored_blobs: 0, stored_bytes: 0, removed_blobs: 0 },
        read_bytes: 0,
        progress,
    };
    walk(at, &mut ingest)?;
    let (mut batch, mut imported) = ingest.finish()?;
    if let Some(name) = name {
        batch.set_name(name, &imported.digest);
    } else if store.spare_references(&imported.digest)? > 0 {
        batch.dereference(&imported.digest);
    }
    imported.removed_blobs = commit(batch)?;
    Ok(imported)
}

struct Ingest<'a, M: Medium> {
    store: &'a Store<M>,
    at: At<'a>,
    /// Device and inode of the pack.
    pack: Option<(u64, u64)>,
    manifest: BlobWriter<M>,
    entries: u64,
    /// The blobs that the manifest is to link to, in the order of their first file.
    files: Vec<Digest>,
    seen: HashSet<Digest>,
    batch: Batch<M>,
    imported: ImportedTree,
    read_bytes: u64,
    progress: &'a mut dyn FnMut(u64),
}

impl<M: Medium> Visitor for Ingest<'_, M> {
    fn directory(&mut self, path: &[u8], mode: Mode) -> Result<()> {
        self.entry(&Entry::Directory { path: Escaped(path.into()), mode })
    }

    fn file(&mut self, file: File, status: &Stat, path: &[u8]) -> Result<()> {
        if Some(inode(status)) == self.pack {
            return Err(self.at.refused(path, "is the pack itself".into()));
        }
        let (size, digest) = self.blob(file, status, path)?;
        self.entry(&Entry::File { path: Escaped(path.into()), mode: Mode::of(status), size, digest })
    }

    fn symlink(&mut self, path: &[u8], target: Escaped) -> Result<()> {
        self.entry(&Entry::Symlink { path: Escaped(path.into()), target })
    }
}

impl<M: Medium> Ingest<'_, M> {
    /// Takes one reference on a file's blob, unless an earlier file was the same.
    fn blob(&mut self, mut file: File, stat: &Stat, path: &[u8]) -> Result<(u64, Digest)> {
        let (mut hasher, mut size) = (Hasher::new(Algorithm::Sha256), 0);
        let mut small = Vec::new();
        let expected = u64::try_from(stat.st_size).unwrap_or_default();
        self.at.pieces(&mut file, expected, path, |piece| {
            hasher.update(piece);
            size += piece.len() as u64;
            if size < LARGE_BYTES {
                small.extend_from_slice(piece);
            }
            self.read_bytes += piece.len() as u64;
            (self.progress)(self.read_bytes);
        })?;
        self.still(&file, stat, size, path)?;
        let digest = hasher.finish();
        if !self.seen.insert(digest) {
            return Ok((size, digest));
        }
        self.files.push(digest);
        self.imported.blobs += 1;
        self.imported.bytes += size;
        if self.store.contains(&digest)? {
            self.batch.reference(&digest);
            return Ok((size, digest));
        }
        self.imported.stored_blobs += 1;
        self.imported.stored_bytes += size;
        if size < LARGE_BYTES {
            self.batch.put(&small)?;
        } else {
            self.stream(file, size, digest, path)?;
        }
        Ok((size, digest))
    }

    /// Reads a file again, into the pack.
    fn stream(&mut self, mut file: File, size: u64, digest: Digest, path: &[u8]) -> Result<()> {
        let mut writer = self.store.writer(Algorithm::Sha256)?.expect_digest(digest).expect_size(size);
        self.at.read(path, file.rewind())?;
        self.at.pieces(&mut file, size, path, |piece| {
            // The writer keeps its first error and returns it when it is staged.
            let _ = writer.write_all(piece);
        })?;
        let staged = writer.stage().map_err(|error| match error {
            Error::DigestMismatch { .. } | Error::SizeMismatch { .. } => self.at.changed(path),
            error => error,
        })?;
        self.batch.add(staged).map(drop)
    }

    /// A file that was read is the one that was opened, as far as its times and its size show.
    fn still(&self, file: &File, before: &Stat, size: u64, path: &[u8]) -> Result<()> {
        let now = self.at.io(path, "look at a file", fstat(file))?;
        let whole = u64::try_from(now.st_size).is_ok_and(|now| now == size);
        if whole && stamp(&now) == stamp(before) { Ok(()) } else { Err(self.at.changed(path)) }
    }

    /// Writes a line of the manifest.
    fn entry(&mut self, entry: &Entry) -> Result<()> {
        let line = serde_json::to_string(entry).expect("an entry has nothing that JSON lacks");
        let before = if self.entries == 0 { HEAD } else { ",\n" };
        self.entries += 1;
        // The writer keeps its first error and returns it when it is staged.
        let _ = self.manifest.write_all(before.as_bytes()).and_then(|()| self.manifest.write_all(line.as_bytes()));
        let size = self.manifest.written();
        if size > TREE_BYTES_MAX {
            return Err(self.at.fault(b"", Fault::TooLarge { size, limit: TREE_BYTES_MAX }));
        }
        Ok(())
    }

    /// The manifest and its links. The batch has a reference on the manifest to give away.
    fn finish(mut self) -> Result<(Batch<M>, ImportedTree)> {
        let _ = self.manifest.write_all(TAIL.as_bytes());
        let (digest, size) = (self.manifest.digest(), self.manifest.written());
        let (mut batch, mut imported) = (self.batch, self.imported);
        imported.digest = digest;
        (imported.blobs, imported.bytes) = (imported.blobs + 1, imported.bytes + size);
        if self.store.contains(&digest)? {
            batch.reference(&digest);
        } else {
            batch.add(self.manifest.stage()?)?;
            (imported.stored_blobs, imported.stored_bytes) = (imported.stored_blobs + 1, imported.stored_bytes + size);
        }
        for file in &self.files {
            batch.link(file, &digest);
        }
        Ok((batch, imported))
    }
}

impl At<'_> {
    /// Reads to the end, piece by piece. A file that is longer than it was has changed, and is read no further: while
    /// somebody writes to it its end may never come.
    fn pieces(&self, file: &mut File, size: u64, path: &[u8], mut take: impl FnMut(&[u8])) -> Result<()> {
        let (mut piece, mut left) = (vec![0; PIECE_BYTES], size);
        loop {
            let read = match file.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return self.read(path, Err(error)),
            };
            left = left.checked_sub(read as u64).ok_or_else(|| self.changed(path))?;
            take(&piece[..read]);
        }
    }

    fn read(&self, path: &[u8], result: io::Result<()>) -> Result<()> {
        result.map_err(|error| Error::io("read a file of a tree", &self.path(path), error))
    }
}
