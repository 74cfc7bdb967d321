//! Where an import comes from and an export goes to: an image's location, or `dir:PATH`, a plain tree of files.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use blobpack::Error;
use blobpack::image::Location;

/// What stands before the path of a tree.
const TREE: &[u8] = b"dir:";

/// A place outside of the pack.
#[derive(Clone)]
pub enum Place {
    /// An image in a layout or an archive.
    Image(Location),
    /// A plain tree of files below a directory.
    Tree(PathBuf),
}

impl Place {
    /// Reads a place. What is not UTF-8 in its path stays what it is.
    pub fn parse(text: OsString) -> Result<Place, Error> {
        match text.as_bytes().strip_prefix(TREE) {
            Some(b"") => Err(Error::InvalidLocation {
                text: text.to_string_lossy().into_owned(),
                reason: "no path after the scheme",
            }),
            Some(path) => Ok(Place::Tree(OsStr::from_bytes(path).into())),
            None => Location::parse(&text).map(Place::Image),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Image(location) => location.fmt(f),
            Place::Tree(path) => write!(f, "dir:{}", path.display()),
        }
    }
}
