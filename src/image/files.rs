//! The files of an image's source: those of a directory, or of an archive.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::fault::{Fault, ImageFault};
use crate::image::archive::{Archive, Entry, ReadAt};
use crate::image::location::Location;

/// Links in an archive that lead to links are followed so often.
const LINKS_MAX: usize = 16;

/// Whose fault an error is.
pub struct Blame {
    location: String,
    path: PathBuf,
}

impl Blame {
    /// Errors are about this place.
    pub fn new(location: &Location) -> Blame {
        // Without the reference: what is wrong is wrong for all images in there.
        let place = Location { reference: None, ..location.clone() };
        Blame { location: place.to_string(), path: location.path.clone() }
    }

    /// A part of it is not what it has to be.
    pub fn fault(&self, part: &str, fault: Fault) -> Error {
        Error::Image(Box::new(ImageFault { location: self.location.clone(), part: part.into(), fault }))
    }

    /// The same, for reasons without data.
    pub fn refused(&self, part: &str, reason: &str) -> Error {
        self.fault(part, Fault::Refused { reason: reason.into() })
    }

    /// The system refused a call.
    pub fn io<T>(&self, operation: &'static str, result: io::Result<T>) -> Result<T> {
        result.map_err(|error| Error::io(operation, &self.path, error))
    }
}

/// The files of a source, under names with `/` between their parts.
pub struct Files {
    pub blame: Blame,
    kind: Kind,
}

enum Kind {
    Directory(PathBuf),
    Archive(Archive),
}

/// One file: its bytes and their number.
pub struct Content<'a> {
    pub reader: Box<dyn Read + 'a>,
    pub size: u64,
}

impl Files {
    /// Those below a directory. Symbolic links are followed: unlike those in an archive they are the owner's.
    pub fn of_directory(location: &Location) -> Result<Files> {
        let blame = Blame::new(location);
        if !blame.io("open an image layout", location.path.metadata())?.is_dir() {
            return Err(blame.refused("", "is not a directory (an archive is named oci-archive:FILE)"));
        }
        Ok(Files { blame, kind: Kind::Directory(location.path.clone()) })
    }

    /// Those in an archive.
    pub fn of_archive(
        location: &Location,
        expected: impl Fn(&str, &Entry) -> Result<(), &'static str>,
    ) -> Result<Files> {
        let blame = Blame::new(location);
        let file = blame.io("open an archive", open_plain(&location.path))?;
        let Some(file) = file else {
            return Err(blame.refused("", "is no plain file, as an archive has to be that is read here and there"));
        };
        Files::of_bytes(Box::new(file), blame, expected)
    }

    /// Those in the bytes of an archive.
    pub fn of_bytes(
        bytes: Box<dyn ReadAt>,
        blame: Blame,
        expected: impl Fn(&str, &Entry) -> Result<(), &'static str>,
    ) -> Result<Files> {
        let archive = Archive::new(bytes, &blame, expected)?;
        Ok(Files { blame, kind: Kind::Archive(archive) })
    }

    /// Opens a file, if it is there.
    pub fn open(&self, name: &str) -> Result<Option<Content<'_>>> {
        match &self.kind {
            Kind::Directory(directory) => self.open_below(directory, name),
            Kind::Archive(archive) => {
                let Some((at, size)) = self.find(archive, name)? else { return Ok(None) };
                Ok(Some(Content { reader: Box::new(archive.part(at, size)), size }))
            }
        }
    }

    fn open_below(&self, directory: &Path, name: &str) -> Result<Option<Content<'_>>> {
        let path = directory.join(name);
        match open_plain(&path) {
            Ok(Some(file)) => {
                let size = file.metadata().map_err(|e| Error::io("read the length", &path, e))?.len();
                Ok(Some(Content { reader: Box::new(file), size }))
            }
            Ok(None) => Err(self.blame.refused(name, "is no plain file")),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(Error::io("open a file of an image", &path, error)),
        }
    }

    /// Where a file's bytes are. Links lead to other entries of the archive, or nowhere.
    fn find(&self, archive: &Archive, name: &str) -> Result<Option<(u64, u64)>> {
        let mut at = name.to_owned();
        for _ in 0..LINKS_MAX {
            let target = match archive.entry(&at) {
                Some(Entry::File { at, size }) => return Ok(Some((*at, *size))),
                Some(Entry::Directory) => return Err(self.blame.refused(name, "is no plain file")),
                Some(Entry::Symlink(target)) => beside(&at, target),
                Some(Entry::Hardlink(target)) => beside("", target),
                None if at == name => return Ok(None),
                None => return Err(self.blame.refused(name, &format!("links to {at}, which is not there"))),
            };
            at = target.ok_or_else(|| self.blame.refused(name, "links to what is outside of the archive"))?;
        }
        Err(self.blame.refused(name, "links to links without an end"))
    }

    /// How long a file is, if it is there.
    pub fn size(&self, name: &str) -> Result<Option<u64>> {
        Ok(self.open(name)?.map(|content| content.size))
    }

    /// The whole of a file that is small by what it is for.
    pub fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(content) = self.open(name)? else { return Ok(None) };
        if content.size > limit {
            return Err(self.blame.fault(name, Fault::TooLarge { size: content.size, limit }));
        }
        let mut bytes = Vec::new();
        let read = content.reader.take(content.size).read_to_end(&mut bytes);
        self.blame.io("read a file of an image", read)?;
        Ok(Some(bytes))
    }
}

/// The beginning of a long name, for a temporary one: what is added is not to make it longer than names can be.
pub fn beginning(name: &OsStr) -> String {
    name.to_string_lossy().chars().take(40).collect()
}

/// Where a path leads through symbolic links, be something there or not yet. What leads to its directory stays as it
/// is: the absolute path may be too long, or lead through directories that the process may not enter.
#[doc(hidden)]
pub fn through_links(path: &Path) -> io::Result<PathBuf> {
    // As many as Linux follows.
    const LINKS: usize = 40;
    let mut path = path.to_path_buf();
    for _ in 0..=LINKS {
        match path.read_link() {
            Ok(to) => path = path.with_file_name(to),
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

/// Opens a plain file; none where it is anything else, which could block or never end.
fn open_plain(path: &Path) -> io::Result<Option<File>> {
    if !path.metadata()?.is_file() {
        return Ok(None);
    }
    let file = File::open(path)?;
    Ok(file.metadata()?.is_file().then_some(file))
}

/// Where a link at `link` leads to; none outside of the archive.
fn beside(link: &str, target: &str) -> Option<String> {
    if target.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = link.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}
