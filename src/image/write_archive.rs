//! Writing an image as an archive: a layout in a tar file, the same bytes for the same image each time.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::Map;
use tar::{Builder, EntryType, Header};

use crate::compact::Progress;
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::image::export::{ExportOptions, Exported, Image};
use crate::image::files::{Blame, beginning, through_links};
use crate::image::layout::{LAYOUT_TEXT, sync_directory, with_image};
use crate::image::source::{INDEX, LAYOUT, blob_file};
use crate::medium::{Medium, directory_of};
use crate::store::Store;

/// Writes the archive beside its place, and puts it there when it is whole.
///
/// The temporary file has the same name each time, so that what a kill leaves is written over by the next export. A
/// lock keeps two exports from writing it at once, also those of archives whose long names begin alike.
pub fn to_file<M: Medium>(
    store: &Store<M>,
    image: &Image,
    path: &Path,
    blame: &Blame,
    mut options: ExportOptions<'_>,
) -> Result<Exported> {
    if let Ok(there) = path.metadata() {
        if !there.is_file() {
            return Err(blame.refused("", "is there, and is no plain file"));
        }
        if store.path().metadata().is_ok_and(|pack| (pack.dev(), pack.ino()) == (there.dev(), there.ino())) {
            return Err(blame.refused("", "is the pack itself"));
        }
    }
    // Through a link to the file that it leads to, be that there or not yet, as by writing it in place.
    let path = &through_links(path).map_err(|e| Error::io("follow symbolic links", path, e))?;
    let Some(name) = path.file_name() else { return Err(blame.refused("", "is no file's name")) };
    let temporary = path.with_file_name(format!(".{}.blobpack.tmp", beginning(name)));
    options.step("make a temporary file");
    let file = locked(&temporary)?;
    let written = file
        .set_len(0)
        .map_err(|e| Error::io("empty a leftover", &temporary, e))
        .and_then(|()| stream(store, image, &mut &file, &temporary, &mut options))
        .and_then(|exported| {
            options.step("sync a temporary file");
            file.sync_all().map_err(|e| Error::io("sync an archive", &temporary, e))?;
            options.step("rename a temporary file");
            fs::rename(&temporary, path).map_err(|e| Error::io("rename an archive", path, e))?;
            Ok(exported)
        });
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    let exported = written?;
    options.step("done");
    sync_directory(directory_of(path))?;
    Ok(exported)
}

/// Opens a temporary file that is this export's alone.
fn locked(path: &Path) -> Result<File> {
    let io = |e| Error::io("make a temporary file", path, e);
    loop {
        // Behind a symbolic link would be somebody else's file, which is never the one that has the name.
        let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).custom_flags(flags).open(path);
        let file = file.map_err(io)?;
        fs2::FileExt::lock_exclusive(&file).map_err(io)?;
        // Whoever had the lock before may have renamed or removed it.
        let (opened, there) = (file.metadata().map_err(io)?, path.symlink_metadata());
        if there.is_ok_and(|there| (there.dev(), there.ino()) == (opened.dev(), opened.ino())) {
            return Ok(file);
        }
    }
}

/// Writes the archive into a stream.
pub fn to_stream<M: Medium>(
    store: &Store<M>,
    image: &Image,
    writer: &mut dyn Write,
    mut options: ExportOptions<'_>,
) -> Result<Exported> {
    stream(store, image, writer, Path::new("-"), &mut options)
}

fn stream<M: Medium>(
    store: &Store<M>,
    image: &Image,
    writer: &mut dyn Write,
    path: &Path,
    options: &mut ExportOptions<'_>,
) -> Result<Exported> {
    let io = |error: io::Error| match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::io("write an archive", path, error),
    };
    let mut archive = Builder::new(io::BufWriter::with_capacity(1 << 20, writer));
    let reference = options.reference.clone();
    let index = with_image(Map::new(), &image.root, reference.as_deref());
    let index = serde_json::to_vec(&index).expect("JSON values are written as they are");
    for (name, bytes) in [(LAYOUT, LAYOUT_TEXT.as_bytes()), (INDEX, &*index)] {
        options.step("write an entry");
        archive.append_data(&mut header(EntryType::Regular, bytes.len() as u64), name, bytes).map_err(io)?;
    }
    let mut places: Vec<PathBuf> = Vec::new();
    let mut done = Progress { done: 0, total: image.plan.bytes() };
    for node in image.plan.bottom_up() {
        let name = PathBuf::from(blob_file(&node.digest));
        let algorithm = name.parent().expect("a blob lies below blobs/ALGORITHM");
        for place in [Path::new("blobs"), algorithm] {
            if !places.iter().any(|known| known == place) {
                let mut header = header(EntryType::Directory, 0);
                archive.append_data(&mut header, place.join(""), io::empty()).map_err(io)?;
                places.push(place.to_path_buf());
            }
        }
        options.step("write an entry");
        let blob = store.get(&node.digest)?;
        let checked =
            Checked { bytes: &blob, hasher: Some(Hasher::new(node.digest.algorithm())), expected: node.digest };
        archive.append_data(&mut header(EntryType::Regular, node.size), &name, checked).map_err(io)?;
        done.done += node.size;
        if let Some(progress) = &mut options.progress {
            progress(done);
        }
    }
    archive.into_inner().and_then(|mut writer| writer.flush()).map_err(io)?;
    Ok(image.exported(reference, image.plan.nodes.len() as u64, image.plan.bytes()))
}

/// A header that says nothing but what the image says.
fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

/// A blob that is compared with its digest while it is read: its end is an error where they differ.
struct Checked<'b> {
    bytes: &'b [u8],
    hasher: Option<Hasher>,
    expected: Digest,
}

impl Read for Checked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.bytes.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..read]);
        }
        if self.bytes.is_empty()
            && let Some(hasher) = self.hasher.take()
        {
            self.expected.check(hasher.finish()).map_err(io::Error::other)?;
        }
        Ok(read)
    }
}
