//! Writing an image into a layout, a directory.
//!
//! The steps, each of which a kill may be the last to see; the export that comes next goes on from there:
//!
//! 1. the directory is made, and locked (`flock`, so that two exports into it follow one another);
//! 2. nothing is changed before it is known to be a layout, or empty, or what an export left that was killed;
//! 3. temporary files of such an export are removed;
//! 4. `oci-layout`, which says that the directory is a layout, so before anything else is in it;
//! 5. the directories, and the blobs, manifests after what they name;
//! 6. all of that is synced; then `index.json`, which makes the image visible, is read once more and replaced.
//!
//! Files are written under a temporary name, synced and renamed, so what has its name is whole. A blob that is there is
//! read and compared, and written again where it is damaged.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::compact::Progress;
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::fault::Fault;
use crate::image::export::{ExportOptions, Exported, Image};
use crate::image::files::Blame;
use crate::image::location::Location;
use crate::image::manifest::{MANIFEST_BYTES_MAX, Reference, parse};
use crate::image::source::{IMAGE_NAME, INDEX, LAYOUT, REF_NAME, blob_file, check_version, is_blob};
use crate::medium::{Medium, directory_of};
use crate::store::Store;

const BLOBS: &str = "blobs";
/// The name of files that are not whole. The lock sees to it that one at a time is in use.
const TEMPORARY: &str = ".blobpack.tmp";
/// Blobs are written and compared in pieces of this size.
const PIECE_BYTES: usize = 1 << 20;

/// What `oci-layout` holds.
pub const LAYOUT_TEXT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// Adds an image to the layout.
pub fn write<M: Medium>(
    store: &Store<M>,
    image: &Image,
    target: &Location,
    blame: &Blame,
    mut options: ExportOptions<'_>,
) -> Result<Exported> {
    let directory = &*target.path;
    if directory.metadata().is_ok_and(|there| !there.is_dir()) {
        return Err(blame.refused("", "is not a directory"));
    }
    options.step("make the directory");
    make_directories(directory)?;
    let lock = File::open(directory).map_err(|e| Error::io("open a directory", directory, e))?;
    fs2::FileExt::lock_exclusive(&lock).map_err(|e| Error::io("lock a directory", directory, e))?;
    let mut layout = Layout { directory, blame, options, written_blobs: 0, written_bytes: 0 };
    let is_new = layout.check()?;
    let reference = layout.options.reference.take();
    layout.listing(&image.root, reference.as_deref())?;
    layout.clean()?;
    if is_new {
        layout.put(LAYOUT, LAYOUT_TEXT.as_bytes())?;
    }
    layout.blobs(store, image)?;
    // Read once more: other tools, which know nothing of the lock, may have listed images meanwhile.
    let listing = layout.listing(&image.root, reference.as_deref())?;
    layout.put(INDEX, &listing)?;
    layout.options.step("done");
    Ok(image.exported(reference, layout.written_blobs, layout.written_bytes))
}

struct Layout<'a, 'p> {
    directory: &'a Path,
    blame: &'a Blame,
    options: ExportOptions<'p>,
    written_blobs: u64,
    written_bytes: u64,
}

impl Layout<'_, '_> {
    /// Refuses a directory that is somebody else's: whether `oci-layout` is yet to be written.
    fn check(&self) -> Result<bool> {
        if let Some(bytes) = self.read(LAYOUT)? {
            return check_version(&bytes, self.blame).map(|()| false);
        }
        let foreign = "the directory has this in it, and is not an image layout";
        for name in names(self.directory)? {
            match &*name {
                TEMPORARY => {}
                BLOBS => self.check_blobs(foreign)?,
                other => return Err(self.blame.refused(other, foreign)),
            }
        }
        Ok(true)
    }

    /// That there are only directories of blobs, as an export leaves them.
    fn check_blobs(&self, foreign: &str) -> Result<()> {
        let blobs = self.directory.join(BLOBS);
        for algorithm in names_in_directory(&blobs)?.ok_or_else(|| self.blame.refused(BLOBS, foreign))? {
            let part = format!("{BLOBS}/{algorithm}");
            let within = names_in_directory(&blobs.join(&algorithm))?;
            for name in within.ok_or_else(|| self.blame.refused(&part, foreign))? {
                if name != TEMPORARY && is_blob(&algorithm, &name).is_err() {
                    return Err(self.blame.refused(&format!("{part}/{name}"), foreign));
                }
            }
        }
        Ok(())
    }

    /// The index that is there, or an empty one.
    fn index(&self) -> Result<Map<String, Value>> {
        let Some(bytes) = self.read(INDEX)? else { return Ok(Map::new()) };
        // As values: what is not known here stays as it is.
        let index: Map<String, Value> = parse(&bytes).map_err(|fault| self.blame.fault(INDEX, fault))?;
        if !matches!(index.get("manifests"), None | Some(Value::Null | Value::Array(_))) {
            return Err(self.blame.fault(INDEX, Fault::Json { reason: "its manifests are no list".into() }));
        }
        Ok(index)
    }

    /// What `index.json` is to be, as long as it can be read again.
    fn listing(&self, root: &Reference, reference: Option<&str>) -> Result<Vec<u8>> {
        let index = with_image(self.index()?, root, reference);
        let text = serde_json::to_vec(&index).expect("JSON values are written as they are");
        let size = text.len() as u64;
        if size > MANIFEST_BYTES_MAX {
            let reason = format!("would have {size} bytes with this image, and {MANIFEST_BYTES_MAX} are the limit");
            return Err(self.blame.refused(INDEX, &reason));
        }
        Ok(text)
    }

    /// Removes what a killed export left half written.
    fn clean(&mut self) -> Result<()> {
        let mut places = vec![self.directory.to_path_buf()];
        let blobs = self.directory.join(BLOBS);
        if let Ok(Some(algorithms)) = names_in_directory(&blobs) {
            places.extend(algorithms.iter().map(|algorithm| blobs.join(algorithm)));
        }
        for place in places {
            let leftover = place.join(TEMPORARY);
            if leftover.symlink_metadata().is_ok() {
                self.options.step("remove a leftover");
                fs::remove_file(&leftover).map_err(|e| Error::io("remove a leftover", &leftover, e))?;
            }
        }
        Ok(())
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.directory.join(name);
        let io = |e| Error::io("read a file of a layout", &path, e);
        let metadata = match path.metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        if !metadata.is_file() {
            return Err(self.blame.refused(name, "is no plain file"));
        }
        if metadata.len() > MANIFEST_BYTES_MAX {
            return Err(self.blame.fault(name, Fault::TooLarge { size: metadata.len(), limit: MANIFEST_BYTES_MAX }));
        }
        fs::read(&path).map(Some).map_err(io)
    }

    /// Writes the blobs that are not there, and makes all of them durable.
    fn blobs<M: Medium>(&mut self, store: &Store<M>, image: &Image) -> Result<()> {
        let mut places: Vec<PathBuf> = Vec::new();
        let mut done = Progress { done: 0, total: image.plan.bytes() };
        for node in image.plan.bottom_up() {
            let path = self.directory.join(blob_file(&node.digest));
            let place = path.parent().expect("a blob lies below the layout").to_path_buf();
            if !places.contains(&place) {
                self.options.step("make a directory of blobs");
                fs::create_dir_all(&place).map_err(|e| Error::io("make a directory", &place, e))?;
                places.push(place);
            }
            if !is_whole(&path, &node.digest, node.size)? {
                self.blob(store, &node.digest, &path)?;
                self.written_blobs += 1;
                self.written_bytes += node.size;
            }
            done.done += node.size;
            if let Some(progress) = &mut self.options.progress {
                progress(done);
            }
        }
        places.extend([self.directory.join(BLOBS), self.directory.to_path_buf()]);
        places.iter().try_for_each(|place| sync_directory(place))
    }

    fn blob<M: Medium>(&mut self, store: &Store<M>, digest: &Digest, path: &Path) -> Result<()> {
        let blob = store.get(digest)?;
        let mut hasher = Hasher::new(digest.algorithm());
        let options = &mut self.options;
        write_whole(path, options, |file, options| {
            for piece in blob.chunks(PIECE_BYTES) {
                options.step("write a piece");
                hasher.update(piece);
                file.write_all(piece)?;
            }
            digest.check(hasher.finish()).map_err(io::Error::other)
        })
    }

    /// Writes a small file at once.
    fn put(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        write_whole(&self.directory.join(name), &mut self.options, |file, options| {
            options.step("write a piece");
            file.write_all(bytes)
        })?;
        sync_directory(self.directory)
    }
}

/// A file under its name once all of it is durable.
fn write_whole(
    path: &Path,
    options: &mut ExportOptions<'_>,
    fill: impl FnOnce(&mut File, &mut ExportOptions<'_>) -> io::Result<()>,
) -> Result<()> {
    let temporary = path.with_file_name(TEMPORARY);
    options.step("make a temporary file");
    let io = |e| Error::io("make a temporary file", &temporary, e);
    let mut file = File::options().write(true).create_new(true).open(&temporary).map_err(io)?;
    let filled = fill(&mut file, options).and_then(|()| {
        options.step("sync a temporary file");
        file.sync_all()
    });
    let renamed = filled.and_then(|()| {
        options.step("rename a temporary file");
        fs::rename(&temporary, path)
    });
    renamed.map_err(|error| {
        let _ = fs::remove_file(&temporary);
        match error.downcast::<Error>() {
            Ok(error) => error,
            Err(error) => Error::io("write", path, error),
        }
    })
}

/// Makes a directory and those above it, with names that last, but for one in a directory that may not be read: there
/// is no way to sync that.
fn make_directories(directory: &Path) -> Result<()> {
    let missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let new: Vec<&Path> = directory.ancestors().take_while(missing).collect();
    fs::create_dir_all(directory).map_err(|e| Error::io("make a directory", directory, e))?;
    new.iter().try_for_each(|path| match sync_directory(directory_of(path)) {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        done => done,
    })
}

pub(super) fn sync_directory(path: &Path) -> Result<()> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(|e| Error::io("sync a directory", path, e))
}

/// Whether a blob is there, and is what it has to be.
fn is_whole(path: &Path, digest: &Digest, size: u64) -> Result<bool> {
    match path.metadata() {
        Ok(metadata) if metadata.is_file() && metadata.len() == size => {}
        // What is in the way and can't be replaced shows when it is tried.
        _ => return Ok(false),
    }
    let io = |e| Error::io("read a file of a layout", path, e);
    let mut file = File::open(path).map_err(io)?;
    let mut hasher = Hasher::new(digest.algorithm());
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(hasher.finish() == *digest),
            Ok(read) => hasher.update(&piece[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(io(error)),
        }
    }
}

fn names(directory: &Path) -> Result<Vec<String>> {
    let io = |e| Error::io("list a directory", directory, e);
    let entries = directory.read_dir().map_err(io)?;
    entries.map(|entry| Ok(entry.map_err(io)?.file_name().to_string_lossy().into_owned())).collect()
}

/// The same; none where it is no directory.
fn names_in_directory(path: &Path) -> Result<Option<Vec<String>>> {
    if path.metadata().is_ok_and(|metadata| metadata.is_dir()) { names(path).map(Some) } else { Ok(None) }
}

/// The index with an image added. A reference that another image has is taken away from that one, which stays in the
/// layout; the same image under the same reference is there once.
pub fn with_image(mut index: Map<String, Value>, root: &Reference, reference: Option<&str>) -> Map<String, Value> {
    let mut manifests = match index.remove("manifests") {
        Some(Value::Array(manifests)) => manifests,
        _ => Vec::new(),
    };
    let digest = root.digest.to_string();
    let is_root = |entry: &Value| entry.get("digest").and_then(Value::as_str) == Some(&*digest);
    let mut there = false;
    for entry in &mut manifests {
        let is_root = is_root(entry);
        let annotations = entry.get_mut("annotations").and_then(Value::as_object_mut);
        match (annotations, reference) {
            // Without a reference any entry of the image will do.
            (_, None) => there |= is_root,
            (Some(annotations), Some(reference)) if is_root => {
                there |= annotations.get(REF_NAME).is_some_and(|name| name == reference);
            }
            // By either of the two an image is chosen.
            (Some(annotations), Some(reference)) => {
                annotations.retain(|key, value| ![REF_NAME, IMAGE_NAME].contains(&&**key) || value != reference);
            }
            (None, Some(_)) => {}
        }
    }
    if !there {
        // An entry of the image that has no reference gets this one, so that it is not listed twice.
        let nameless = |entry: &Value| {
            is_root(entry) && entry.pointer("/annotations").is_none_or(|all| all.get(REF_NAME).is_none())
        };
        let entry = match manifests.iter().position(nameless) {
            Some(at) => &mut manifests[at],
            None => manifests.push_mut(json!({"mediaType": root.media_type, "digest": digest, "size": root.size})),
        };
        if let Some(reference) = reference {
            // All else that the entry says is not ours.
            match entry.get_mut("annotations").and_then(Value::as_object_mut) {
                Some(annotations) => drop(annotations.insert(REF_NAME.into(), reference.into())),
                None => entry["annotations"] = json!({REF_NAME: reference}),
            }
        }
    }
    index.entry("schemaVersion").or_insert(json!(2));
    index.insert("manifests".into(), Value::Array(manifests));
    index
}
