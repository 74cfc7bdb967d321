//! How the places that images come from and go to are written: `oci:DIR`, `oci-archive:FILE`, `docker-archive:FILE`.
//!
//! The spelling is that of the `containers-transports(5)` of skopeo, podman and buildah: a scheme, a path up to the
//! next colon, and after that, where it is given, the reference of one image in there, which may hold colons itself. So
//! a path with a colon in it can't be written.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Where an image comes from or goes to.
///
/// ```
/// use blobpack::image::{Location, Place};
/// let location: Location = "oci:layouts/alpine:3.20".parse()?;
/// assert_eq!(location.place, Place::Layout);
/// assert_eq!(location.path.to_str(), Some("layouts/alpine"));
/// assert_eq!(location.reference.as_deref(), Some("3.20"));
/// # Ok::<(), blobpack::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Location {
    /// What kind of place it is.
    pub place: Place,
    /// The directory, or the file.
    pub path: PathBuf,
    /// Which image in there, as the place calls it: a layout's `org.opencontainers.image.ref.name`, a Docker archive's
    /// tag, or a digest.
    pub reference: Option<String>,
}

/// The kinds of places, by their schemes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// `oci`: a directory that is an image layout of the Open Container Initiative.
    Layout,
    /// `oci-archive`: such a layout in a tar archive, also what `docker save` writes since Docker 25.
    Archive,
    /// `docker-archive`: what `docker save` wrote before.
    DockerArchive,
}

impl Place {
    /// All kinds.
    pub const ALL: [Place; 3] = [Place::Layout, Place::Archive, Place::DockerArchive];

    /// What stands before the first colon.
    #[must_use]
    pub const fn scheme(self) -> &'static str {
        match self {
            Place::Layout => "oci",
            Place::Archive => "oci-archive",
            Place::DockerArchive => "docker-archive",
        }
    }
}

impl Location {
    /// Reads a location. The path may be any bytes, the rest is UTF-8.
    ///
    /// # Errors
    /// [`Error::InvalidLocation`].
    pub fn parse(text: &OsStr) -> Result<Location> {
        let invalid = |reason| Error::InvalidLocation { text: text.to_string_lossy().into_owned(), reason };
        let bytes = text.as_bytes();
        let (scheme, rest) = split(bytes).ok_or_else(|| invalid("no scheme before a colon"))?;
        let place = Place::ALL.into_iter().find(|place| place.scheme().as_bytes() == scheme);
        let place = place.ok_or_else(|| invalid("the scheme is not known"))?;
        let (path, reference) = match split(rest) {
            Some((path, reference)) => (path, Some(reference)),
            None => (rest, None),
        };
        let reference = match reference.map(str::from_utf8).transpose() {
            Ok(Some("")) => return Err(invalid("nothing stands after the last colon")),
            Ok(reference) => reference.map(str::to_owned),
            Err(_) => return Err(invalid("the reference is not UTF-8")),
        };
        if path.is_empty() {
            return Err(invalid("no path after the scheme"));
        }
        Ok(Location { place, path: OsStr::from_bytes(path).into(), reference })
    }
}

/// What stands before and after the first colon.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = bytes.iter().position(|&byte| byte == b':')?;
    Some((&bytes[..colon], &bytes[colon + 1..]))
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Location> {
        Location::parse(text.as_ref())
    }
}

/// As it is parsed, but for what is not UTF-8 in the path.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.place.scheme(), self.path.display())?;
        self.reference.as_ref().map_or(Ok(()), |reference| write!(f, ":{reference}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_a_scheme_a_path_and_perhaps_a_reference() {
        for (text, place, path, reference) in [
            ("oci:layout", Place::Layout, "layout", None),
            ("oci:/srv/layout:v1", Place::Layout, "/srv/layout", Some("v1")),
            ("oci:a:docker.io/library/alpine:3.20", Place::Layout, "a", Some("docker.io/library/alpine:3.20")),
            ("oci-archive:x.tar", Place::Archive, "x.tar", None),
            ("oci-archive:-", Place::Archive, "-", None),
            ("docker-archive:x.tar:alpine:3.20", Place::DockerArchive, "x.tar", Some("alpine:3.20")),
        ] {
            let location: Location = text.parse().unwrap();
            assert_eq!(location, Location { place, path: path.into(), reference: reference.map(str::to_owned) });
            assert_eq!(location.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_location_is_refused_with_the_reason() {
        for (text, part) in [
            ("", "no scheme"),
            ("layout", "no scheme"),
            (":layout", "not known"),
            ("OCI:layout", "not known"),
            ("docker:alpine", "not known"),
            ("oci:", "no path"),
            ("oci::v1", "no path"),
            ("oci:layout:", "nothing stands after"),
        ] {
            let error = text.parse::<Location>().unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("oci-archive:FILE"), "{text:?}: {error}");
        }
        let error = Location::parse(OsStr::from_bytes(b"oci:a:\xff")).unwrap_err().to_string();
        assert!(error.contains("not UTF-8"), "{error}");
        assert_eq!(Location::parse(OsStr::from_bytes(b"oci:\xff")).unwrap().path, OsStr::from_bytes(b"\xff"));
    }
}
