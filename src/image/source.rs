//! What an image is read from.

use std::collections::HashMap;
use std::io::Read;

use oci_spec::image::{Descriptor, OciLayout};
use serde::Deserialize;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::fault::Fault;
use crate::image::archive::{Entry, ReadAt};
use crate::image::docker;
use crate::image::files::{Blame, Files};
use crate::image::location::{Location, Place};
use crate::image::manifest::{MANIFEST_BYTES_MAX, Reference, parse};

/// The file that says that a directory is a layout, and of which version.
pub const LAYOUT: &str = "oci-layout";
/// The file that says which images are in it.
pub const INDEX: &str = "index.json";
/// The name of an image in a layout.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The whole name, where the one before is only a tag: written by containerd and Docker.
pub const IMAGE_NAME: &str = "io.containerd.image.name";

/// A place that holds images, one of which was chosen.
///
/// Opening it reads what says which images there are (and, of an archive, the headers of all entries), and writes
/// nothing. What is chosen:
///
/// * with a reference, the image of that name: its `org.opencontainers.image.ref.name` or `io.containerd.image.name` in
///   a layout, its tag in a Docker archive; or the one with that digest;
/// * without, the only image there is. Where there are several they are named in the error.
pub struct Source {
    pub(super) files: Files,
    /// The chosen image.
    pub(super) root: Reference,
    /// What the source calls it.
    pub(super) names: Vec<String>,
    /// Blobs that are not in the files under their digests.
    pub(super) elsewhere: HashMap<Digest, Elsewhere>,
}

/// A blob that has no file under its digest.
pub(super) enum Elsewhere {
    /// It is a file of another name.
    File(String),
    /// It was made.
    Made(Vec<u8>),
}

/// One image that a source holds.
pub(super) struct Candidate {
    pub root: Reference,
    /// What it can be chosen by.
    pub called: Vec<String>,
    /// What it is named, where a name is wanted.
    pub name: Option<String>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("digest", &self.root.digest).field("names", &self.names).finish()
    }
}

impl Source {
    /// Opens the place and chooses an image.
    ///
    /// # Errors
    /// [`Error::Image`] names the part that is missing or is not what it has to be; [`Error::Io`].
    pub fn open(location: &Location) -> Result<Source> {
        match location.place {
            Place::Layout => layout(Files::of_directory(location)?, location),
            Place::Archive => layout(Files::of_archive(location, expected)?, location),
            Place::DockerArchive => docker::open(Files::of_archive(location, docker::expected)?, location),
        }
    }

    /// The same with the bytes of an archive that is no file.
    #[doc(hidden)]
    pub fn of_bytes(location: &Location, bytes: impl ReadAt + 'static) -> Result<Source> {
        let blame = Blame::new(location);
        match location.place {
            Place::DockerArchive => docker::open(Files::of_bytes(Box::new(bytes), blame, docker::expected)?, location),
            _ => layout(Files::of_bytes(Box::new(bytes), blame, expected)?, location),
        }
    }

    /// The root's digest: that of the image's manifest or index.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.root.digest
    }

    /// What the source calls the image.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Chooses among the images by the reference.
    pub(super) fn choose(
        files: Files,
        elsewhere: HashMap<Digest, Elsewhere>,
        found: Vec<Candidate>,
        reference: Option<&str>,
    ) -> Result<Source> {
        let meant = |candidate: &&Candidate| is_meant(reference, &candidate.called, &candidate.root.digest.to_string());
        let chosen: Vec<&Candidate> = found.iter().filter(meant).collect();
        let Some(first) = chosen.first() else {
            return Err(match reference {
                Some(reference) => {
                    files.blame.refused(reference, &format!("no such image: there {}", listed(found.iter(), &found)))
                }
                None => files.blame.refused("", "holds no image"),
            });
        };
        if chosen.iter().any(|other| other.root.digest != first.root.digest) {
            let reason = format!(
                "holds several images: choose one, with its name or digest after a colon; there {}",
                listed(chosen.into_iter(), &found)
            );
            return Err(files.blame.refused(reference.unwrap_or(""), &reason));
        }
        let mut names: Vec<String> = chosen.iter().filter_map(|candidate| candidate.name.clone()).collect();
        names.sort();
        names.dedup();
        Ok(Source { root: first.root.clone(), names, files, elsewhere })
    }

    /// Where a blob is; none where it is absent.
    pub(super) fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        match self.elsewhere.get(digest) {
            Some(Elsewhere::Made(bytes)) => Ok(Some(bytes.len() as u64)),
            _ => self.files.size(&self.part(digest)),
        }
    }

    /// The bytes of a blob that is there, whatever they are.
    pub(super) fn open_blob(&self, digest: &Digest) -> Result<Box<dyn Read + '_>> {
        match self.elsewhere.get(digest) {
            Some(Elsewhere::Made(bytes)) => Ok(Box::new(&**bytes)),
            _ => match self.files.open(&self.part(digest))? {
                Some(content) => Ok(content.reader),
                None => Err(self.fault(digest, Fault::Missing)),
            },
        }
    }

    /// The bytes of a manifest that is there, compared with its digest.
    pub(super) fn manifest(&self, digest: &Digest) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        // One more than allowed: a file that grows has another digest than the one that was chosen.
        let read = self.open_blob(digest)?.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut bytes);
        self.files.blame.io("read a manifest", read)?;
        let found = Digest::of(digest.algorithm(), &bytes);
        if found != *digest {
            return Err(self.fault(digest, Fault::Digest { expected: Box::new(*digest), found: Box::new(found) }));
        }
        Ok(bytes)
    }

    /// How a blob is called in errors: by the file that it is.
    pub(super) fn part(&self, digest: &Digest) -> String {
        match self.elsewhere.get(digest) {
            Some(Elsewhere::File(name)) => name.clone(),
            Some(Elsewhere::Made(_)) => "the manifest made for it".to_owned(),
            None => blob_file(digest),
        }
    }

    pub(super) fn fault(&self, digest: &Digest, fault: Fault) -> Error {
        self.files.blame.fault(&self.part(digest), fault)
    }
}

/// The file of a blob in a layout.
pub fn blob_file(digest: &Digest) -> String {
    format!("blobs/{}", digest.to_string().replacen(':', "/", 1))
}

/// Whether the reference is one of an image's names or its digest; without one any image will do.
fn is_meant(reference: Option<&str>, called: &[String], digest: &str) -> bool {
    reference.is_none_or(|reference| called.iter().any(|name| name == reference) || digest == reference)
}

/// The images' names, for errors; the digests of those that have none, or one that another of `all` has too.
fn listed<'a>(images: impl ExactSizeIterator<Item = &'a Candidate>, all: &[Candidate]) -> String {
    const MOST: usize = 8;
    let name = |candidate: &Candidate| {
        let own = candidate.called.first().filter(|name| {
            all.iter().all(|other| other.root.digest == candidate.root.digest || !other.called.contains(name))
        });
        own.map_or_else(|| candidate.root.digest.to_string(), |name| format!("{name:?}"))
    };
    let more = if images.len() > MOST { ", …" } else { "" };
    let names: Vec<String> = images.take(MOST).map(name).collect();
    format!("are {}{more}", names.join(", "))
}

/// Whether a layout is of the version that is known, by the bytes of its [`LAYOUT`].
pub(super) fn check_version(bytes: &[u8], blame: &Blame) -> Result<()> {
    let layout: OciLayout = parse(bytes).map_err(|fault| blame.fault(LAYOUT, fault))?;
    if layout.image_layout_version().starts_with("1.") {
        return Ok(());
    }
    let reason = format!("has version {:?}, and 1 is known", layout.image_layout_version());
    Err(blame.refused(LAYOUT, &reason))
}

/// What may be in an archive of a layout.
fn expected(name: &str, entry: &Entry) -> Result<(), &'static str> {
    let parts: Vec<&str> = name.split('/').collect();
    match (&*parts, entry) {
        (_, Entry::Symlink(_) | Entry::Hardlink(_)) => Err("it is a link, which no image layout has"),
        (["blobs"] | ["blobs", _], Entry::Directory) => Ok(()),
        (["oci-layout" | "index.json" | "manifest.json" | "repositories"], Entry::File { .. }) => Ok(()),
        (["blobs", algorithm, encoded], Entry::File { .. }) => is_blob(algorithm, encoded),
        _ => Err("it is none of the entries of an image layout"),
    }
}

/// Whether a file below `blobs` can be a blob.
pub(super) fn is_blob(algorithm: &str, encoded: &str) -> Result<(), &'static str> {
    match format!("{algorithm}:{encoded}").parse::<Digest>() {
        Ok(_) => Ok(()),
        Err(_) => Err("its name is no digest"),
    }
}

/// What is needed of `index.json`. A Go program writes an empty list as null: `umoci init` does.
#[derive(Deserialize)]
struct Index {
    // What has none is no index.
    #[serde(rename = "schemaVersion")]
    _schema_version: u32,
    // Null is no list, and a field that is not there is something else.
    #[serde(deserialize_with = "Option::deserialize")]
    manifests: Option<Vec<Descriptor>>,
}

/// The images of a layout.
fn layout(files: Files, location: &Location) -> Result<Source> {
    if let Some(bytes) = files.read(LAYOUT, MANIFEST_BYTES_MAX)? {
        check_version(&bytes, &files.blame)?;
    }
    let Some(bytes) = files.read(INDEX, MANIFEST_BYTES_MAX)? else {
        if files.size(docker::MANIFEST)?.is_some() {
            let reason = "is missing, and a manifest.json is there: this is a docker-archive";
            return Err(files.blame.refused(INDEX, reason));
        }
        return Err(files.blame.fault(INDEX, Fault::Missing));
    };
    let index: Index = parse(&bytes).map_err(|fault| files.blame.fault(INDEX, fault))?;
    let reference = location.reference.as_deref();
    let mut found = Vec::new();
    for descriptor in &index.manifests.unwrap_or_default() {
        let annotation = |key| descriptor.annotations().as_ref().and_then(|all| all.get(key)).filter(|v| !v.is_empty());
        let (whole, tag) = (annotation(IMAGE_NAME), annotation(REF_NAME));
        let called: Vec<String> = tag.into_iter().chain(whole).cloned().collect();
        match Reference::new(descriptor) {
            Ok(root) => found.push(Candidate { root, called, name: whole.or(tag).cloned() }),
            Err(fault) if is_meant(reference, &called, descriptor.digest().as_ref()) => {
                return Err(files.blame.fault(INDEX, fault));
            }
            // What another image is does not matter.
            Err(_) => {}
        }
    }
    Source::choose(files, HashMap::new(), found, reference)
}
