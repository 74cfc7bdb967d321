//! An image out of the pack: what is written where. How a layout is written is told in `layout.rs`, an archive in
//! `write_archive.rs`.

use std::io::Write;

use crate::compact::Progress;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::fault::Fault;
use crate::image::files::Blame;
use crate::image::layout;
use crate::image::location::{Location, Place};
use crate::image::manifest::{MANIFEST_BYTES_MAX, Reference, media_type};
use crate::image::plan::{Blobs, Plan};
use crate::image::write_archive;
use crate::medium::Medium;
use crate::store::Store;

/// Is told what comes next.
type Observer<'p> = Box<dyn FnMut(&str) + 'p>;

/// How to export.
#[derive(Default)]
pub struct ExportOptions<'p> {
    pub(super) reference: Option<String>,
    pub(super) progress: Option<Box<dyn FnMut(Progress) + 'p>>,
    pub(super) observe: Option<Observer<'p>>,
}

impl<'p> ExportOptions<'p> {
    /// Without a reference, unless the location has one.
    #[must_use]
    pub fn new() -> ExportOptions<'p> {
        ExportOptions::default()
    }

    /// What the image is called in the layout or archive, as its `org.opencontainers.image.ref.name`. One that stands
    /// in the location comes first.
    #[must_use]
    pub fn reference(mut self, reference: impl Into<String>) -> Self {
        self.reference = Some(reference.into());
        self
    }

    /// Is told how many bytes were written or found there.
    #[must_use]
    pub fn progress(mut self, progress: impl FnMut(Progress) + 'p) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// Is told before each change to the file system, and after the last: for tests that look at what a kill at that
    /// instant would leave.
    #[doc(hidden)]
    #[must_use]
    pub fn observe(mut self, observe: impl FnMut(&str) + 'p) -> Self {
        self.observe = Some(Box::new(observe));
        self
    }

    pub(super) fn step(&mut self, what: &str) {
        if let Some(observe) = &mut self.observe {
            observe(what);
        }
    }
}

/// What an export did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exported {
    /// The root: the image's manifest, or its index.
    pub digest: Digest,
    /// What the root is.
    pub media_type: String,
    /// What the image is called where it was written to.
    pub reference: Option<String>,
    /// How many blobs the image has.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many of them were not there yet.
    pub written_blobs: u64,
    /// The bytes of these.
    pub written_bytes: u64,
    /// What is named in the image and not in the pack: it was not in the image's source either.
    pub missing: Vec<Digest>,
}

/// An image of the pack, all of which is there.
pub(super) struct Image {
    pub root: Reference,
    pub plan: Plan,
}

struct Stored<'a, M: Medium> {
    store: &'a Store<M>,
    blame: &'a Blame,
}

impl<M: Medium> Blobs for Stored<'_, M> {
    fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        Ok(self.store.find(digest)?.map(|blob| blob.size()))
    }

    fn bytes(&self, digest: &Digest) -> Result<Vec<u8>> {
        let blob = self.store.get(digest)?;
        blob.verify()?;
        Ok(blob.to_vec())
    }

    fn fault(&self, digest: &Digest, fault: Fault) -> Error {
        self.blame.fault(&digest.to_string(), fault)
    }

    fn missing(&self, digest: &Digest) -> Error {
        Error::NotFound { digest: *digest }
    }
}

impl Image {
    /// Looks at all of the image that has this root.
    pub fn new<M: Medium>(store: &Store<M>, digest: &Digest, blame: &Blame) -> Result<Image> {
        let stored = Stored { store, blame };
        let size = stored.size(digest)?.ok_or_else(|| stored.missing(digest))?;
        if size > MANIFEST_BYTES_MAX {
            let reason =
                format!("is no image: it has {size} bytes, and no manifest has more than {MANIFEST_BYTES_MAX}");
            return Err(stored.fault(digest, Fault::Refused { reason }));
        }
        let media_type = media_type(&stored.bytes(digest)?).map_err(|fault| stored.fault(digest, fault))?;
        let root = Reference { digest: *digest, size, media_type, optional: false };
        // What was imported without some platforms is exported without them.
        let plan = Plan::new(&root, &stored, true)?;
        Ok(Image { root, plan })
    }

    pub fn exported(&self, reference: Option<String>, written_blobs: u64, written_bytes: u64) -> Exported {
        Exported {
            digest: self.root.digest,
            media_type: self.root.media_type.clone(),
            reference,
            blobs: self.plan.nodes.len() as u64,
            bytes: self.plan.bytes(),
            written_blobs,
            written_bytes,
            missing: self.plan.missing.clone(),
        }
    }
}

/// Exports the image whose root has this digest, every blob byte for byte as it came in and compared with its digest on
/// the way out. No count changes.
///
/// A layout that is there gets the image in addition: what is called by the same reference there loses it, and nothing
/// else changes. An archive that is there is replaced. Either is done at the last moment and at once.
///
/// # Errors
/// [`Error::NotFound`] for a blob that the pack lacks, [`Error::DigestMismatch`] for one that is damaged;
/// [`Error::Image`] where the blob is no image, or the target is not what can be written to; [`Error::Io`].
pub fn export<M: Medium>(
    store: &Store<M>,
    digest: &Digest,
    target: &Location,
    mut options: ExportOptions<'_>,
) -> Result<Exported> {
    let blame = Blame::new(target);
    if target.reference.is_some() {
        options.reference.clone_from(&target.reference);
    }
    match target.place {
        Place::Layout => layout::write(store, &Image::new(store, digest, &blame)?, target, &blame, options),
        Place::Archive => {
            let image = Image::new(store, digest, &blame)?;
            write_archive::to_file(store, &image, &target.path, &blame, options)
        }
        Place::DockerArchive => {
            Err(blame.refused("", "is read and not written: oci-archive:FILE is what Docker loads since version 25"))
        }
    }
}

/// Exports as an archive into a stream.
///
/// # Errors
/// As for [`export`]; what was written before the error stays written.
pub fn export_to<M: Medium>(
    store: &Store<M>,
    digest: &Digest,
    stream: &mut dyn Write,
    options: ExportOptions<'_>,
) -> Result<Exported> {
    let location = Location { place: Place::Archive, path: "-".into(), reference: None };
    let blame = Blame::new(&location);
    let image = Image::new(store, digest, &blame)?;
    write_archive::to_stream(store, &image, stream, options)
}
