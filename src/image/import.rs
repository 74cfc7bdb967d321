//! An image into the pack: the plan, the blobs that are not there, the links, the names, in one batch.

use std::io::{Read, Write};

use crate::blob::Blob;
use crate::compact::Progress;
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::fault::Fault;
use crate::image::plan::{Blobs, Plan};
use crate::image::source::Source;
use crate::medium::Medium;
use crate::name::Name;
use crate::store::{Batch, Outcome, Store};
use crate::writer::Staged;

/// A source is read in pieces of this size.
const PIECE_BYTES: usize = 256 << 10;

/// How to import.
#[derive(Default)]
pub struct ImportOptions<'p> {
    name: Option<Name>,
    sparse: bool,
    progress: Option<Box<dyn FnMut(Progress) + 'p>>,
}

impl<'p> ImportOptions<'p> {
    /// The source's own names; everything has to be there.
    #[must_use]
    pub fn new() -> ImportOptions<'p> {
        ImportOptions::default()
    }

    /// Gives the image this name, and none of those that the source has for it. What has the name now loses it.
    #[must_use]
    pub fn name(mut self, name: Name) -> Self {
        self.name = Some(name);
        self
    }

    /// Takes an index without those of its manifests that the source lacks, as long as it has one: `docker save` and
    /// `skopeo copy --multi-arch` write images for one platform so. The index stays byte for byte what it is.
    #[must_use]
    pub fn sparse(mut self, sparse: bool) -> Self {
        self.sparse = sparse;
        self
    }

    /// Is told how many bytes of those that the pack lacks were read.
    #[must_use]
    pub fn progress(mut self, progress: impl FnMut(Progress) + 'p) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }
}

/// What an import did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Imported {
    /// The root: the image's manifest, or its index.
    pub digest: Digest,
    /// What the root is.
    pub media_type: String,
    /// The image's names; none where neither the caller nor the source has one, and the caller has a reference instead.
    pub names: Vec<Name>,
    /// How many blobs the image has.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many of them the pack lacked.
    pub stored_blobs: u64,
    /// The bytes of these.
    pub stored_bytes: u64,
    /// What is named in the image and is neither in the source nor in the pack, and need not be.
    pub missing: Vec<Digest>,
    /// How many blobs went because the name was another image's before.
    pub removed_blobs: u64,
}

/// The blobs of the source and the pack, where there is one, together. What is in the pack is not looked for in the
/// source.
struct Both<'a, M: Medium> {
    store: Option<&'a Store<M>>,
    source: &'a Source,
}

impl<M: Medium> Both<'_, M> {
    fn stored(&self, digest: &Digest) -> Result<Option<Blob<M>>> {
        self.store.map_or(Ok(None), |store| store.find(digest))
    }
}

impl<M: Medium> Blobs for Both<'_, M> {
    fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        match self.stored(digest)? {
            Some(blob) => Ok(Some(blob.size())),
            None => self.source.size(digest),
        }
    }

    fn bytes(&self, digest: &Digest) -> Result<Vec<u8>> {
        match self.stored(digest)? {
            Some(blob) => {
                blob.verify()?;
                Ok(blob.to_vec())
            }
            None => self.source.manifest(digest),
        }
    }

    fn fault(&self, digest: &Digest, fault: Fault) -> Error {
        self.source.fault(digest, fault)
    }

    fn missing(&self, digest: &Digest) -> Error {
        self.source.fault(digest, Fault::Missing)
    }
}

/// Imports the image that was chosen in a source. See the [module](crate::image) for what that does to counts.
///
/// # Errors
/// [`Error::Image`] names the part of the source that is missing or is not what it has to be, or the source's own name
/// that can't be one. Those of the disk as for [`Store::put`]. Nothing of the image is visible then, and no count has
/// changed.
pub fn import<M: Medium>(store: &Store<M>, source: &Source, mut options: ImportOptions<'_>) -> Result<Imported> {
    let both = Both { store: Some(store), source };
    let names = names(&both, options.name.take())?;
    let plan = Plan::new(&source.root, &both, options.sparse)?;
    let mut reading = Reading::new(source, bytes_to_read(&both, &plan)?, options.progress.as_deref_mut());
    let (mut batch, mut stored_blobs) = (store.batch(), 0);
    for node in plan.bottom_up() {
        if store.contains(&node.digest)? {
            batch.reference(&node.digest);
        } else {
            batch.add(reading.stage(store, &node.digest, node.size)?)?;
            stored_blobs += 1;
        }
    }
    let stored_bytes = reading.done.done;
    link(&plan, &mut batch);
    hold(store, &plan.nodes[0].digest, &names, &mut batch)?;
    Ok(Imported {
        digest: source.root.digest,
        media_type: source.root.media_type.clone(),
        names,
        blobs: plan.nodes.len() as u64,
        bytes: plan.bytes(),
        stored_blobs,
        stored_bytes,
        missing: plan.missing,
        removed_blobs: commit(batch)?,
    })
}

/// Commits an import; returns how many blobs went.
pub(super) fn commit<M: Medium>(batch: Batch<M>) -> Result<u64> {
    let outcomes = batch.commit().map_err(|error| match error {
        // The position in a batch that the caller has not made says nothing; the cause has the digest.
        Error::Batch { source, .. } => *source,
        error => error,
    })?;
    Ok(outcomes.iter().map(|outcome| if let Outcome::Removed(removed) = outcome { removed.blobs() } else { 0 }).sum())
}

/// Does all that [`import`] does before it writes: reads and compares every blob that the pack lacks, or that there is
/// where there is no pack. An import can do without: what it finds wrong changes nothing that is visible. But it has
/// the pack open for writing then, which changes bytes of the file that nobody sees; after this, only a full disk or a
/// source that changes can make it fail. The price is a second reading of the source.
///
/// # Errors
/// As for [`import`].
pub fn check<M: Medium>(store: Option<&Store<M>>, source: &Source, options: &mut ImportOptions<'_>) -> Result<()> {
    let both = Both { store, source };
    names(&both, options.name.clone())?;
    let plan = Plan::new(&source.root, &both, options.sparse)?;
    let mut reading = Reading::new(source, bytes_to_read(&both, &plan)?, options.progress.as_deref_mut());
    for node in plan.bottom_up() {
        if both.stored(&node.digest)?.is_none() {
            reading.check(&node.digest, node.size)?;
        }
    }
    Ok(())
}

/// The names that the image gets. One that nobody asked for is not taken away from another image.
fn names<M: Medium>(both: &Both<'_, M>, asked: Option<Name>) -> Result<Vec<Name>> {
    let Both { store, source } = both;
    if let Some(name) = asked {
        return Ok(vec![name]);
    }
    let mut names = Vec::new();
    for text in &source.names {
        let name: Name = text.parse().map_err(|error| {
            // It is the source that is wrong, not what the caller said.
            source.files.blame.refused("", &format!("{error}; choose a name for the image"))
        })?;
        let held = store.map_or(Ok(None), |store| store.find_name(&name))?;
        if let Some(other) = held.filter(|&other| other != source.root.digest) {
            let reason = format!("is the name of {other} already: choose a name for the image");
            return Err(source.files.blame.refused(text, &reason));
        }
        names.push(name);
    }
    Ok(names)
}

/// Links all that a blob names to it.
///
/// Each blob comes with one reference of the batch's own, which its first link takes; for every further link it takes
/// another one first. A link that is there already consumes a reference all the same, so that in the end no count has
/// changed. That is right whatever other threads do meanwhile: nothing is decided by what was true before the batch.
fn link<M: Medium>(plan: &Plan, batch: &mut Batch<M>) {
    let mut given = std::collections::HashSet::new();
    for node in plan.bottom_up() {
        for child in &node.children {
            if !given.insert(*child) {
                batch.reference(child);
            }
            batch.link(child, &node.digest);
        }
    }
}

/// Moves the reference on the root into its name, or leaves it to the caller.
fn hold<M: Medium>(store: &Store<M>, root: &Digest, names: &[Name], batch: &mut Batch<M>) -> Result<()> {
    for (index, name) in names.iter().enumerate() {
        if index > 0 {
            batch.reference(root);
        }
        batch.set_name(name, root);
    }
    // Nobody's image twice is one image: a caller that holds it already has no second reference to give back.
    if names.is_empty() && store.spare_references(root)? > 0 {
        batch.dereference(root);
    }
    Ok(())
}

/// The bytes of the blobs that are to be read.
fn bytes_to_read<M: Medium>(both: &Both<'_, M>, plan: &Plan) -> Result<u64> {
    plan.nodes.iter().try_fold(0_u64, |sum, node| {
        let bytes = if both.stored(&node.digest)?.is_some() { 0 } else { node.size };
        Ok(sum.saturating_add(bytes))
    })
}

/// Is told how far it has come.
type Follower<'p> = dyn FnMut(Progress) + 'p;

/// Blobs on their way out of the source.
struct Reading<'a, 'p> {
    source: &'a Source,
    progress: Option<&'a mut Follower<'p>>,
    done: Progress,
    piece: Vec<u8>,
}

impl<'a, 'p> Reading<'a, 'p> {
    fn new(source: &'a Source, total: u64, progress: Option<&'a mut Follower<'p>>) -> Reading<'a, 'p> {
        Reading { source, progress, done: Progress { done: 0, total }, piece: vec![0; PIECE_BYTES] }
    }

    /// Reads a blob to its end, but no more than one byte beyond its size: that one shows that there are too many.
    /// Stops where `take` returns false.
    fn blob(&mut self, digest: &Digest, size: u64, mut take: impl FnMut(&[u8]) -> bool) -> Result<()> {
        let mut reader = self.source.open_blob(digest)?.take(size.saturating_add(1));
        loop {
            let read = match reader.read(&mut self.piece) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return self.source.files.blame.io("read a blob of an image", Err(error)),
            };
            if !take(&self.piece[..read]) {
                return Ok(());
            }
            self.done.done += read as u64;
            if let Some(progress) = &mut self.progress {
                progress(self.done);
            }
        }
    }

    /// Reads a blob and compares it with its digest and size.
    fn check(&mut self, digest: &Digest, size: u64) -> Result<()> {
        let (mut hasher, mut bytes) = (Hasher::new(digest.algorithm()), 0);
        self.blob(digest, size, |piece| {
            hasher.update(piece);
            bytes += piece.len() as u64;
            true
        })?;
        if bytes != size {
            return Err(self.source.fault(digest, Fault::Size { expected: size, found: bytes }));
        }
        let found = hasher.finish();
        if found == *digest {
            return Ok(());
        }
        Err(self.source.fault(digest, Fault::Digest { expected: Box::new(*digest), found: Box::new(found) }))
    }

    /// Reads a blob into the pack, where nobody sees it yet, and compares it with its digest and size.
    fn stage<M: Medium>(&mut self, store: &Store<M>, digest: &Digest, size: u64) -> Result<Staged<M>> {
        let mut writer = store.writer(digest.algorithm())?.expect_digest(*digest).expect_size(size);
        // The writer keeps its first error and returns it when it is staged.
        self.blob(digest, size, |piece| writer.write_all(piece).is_ok())?;
        writer.stage().map_err(|error| match error {
            Error::DigestMismatch { expected, found } => self.source.fault(digest, Fault::Digest { expected, found }),
            Error::SizeMismatch { expected, found } => self.source.fault(digest, Fault::Size { expected, found }),
            error => error,
        })
    }
}
