//! The fastest path to many blobs: slices borrowed from the map, no reference count touched, no shared memory written.

use std::ops::Deref;
use std::sync::Arc;

use elsa::FrozenVec;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::index::home::Miss;
use crate::index::probe::Stop;
use crate::medium::{Disk, Medium};
use crate::name::Name;
use crate::names;
use crate::pack::Shared;
use crate::view::View;

/// How often a lookup goes on with a newer view.
const RENEWALS: usize = 1000;

/// Borrows blobs from the store. For one thread at a time; make one for each.
///
/// It sees every commit, also those of a writer in another process. The maps that it borrowed from stay until
/// [`refresh`](Reader::refresh) or until it is dropped.
///
/// ```
/// use blobpack::Store;
/// let store = Store::temporary()?;
/// let digest = store.put(b"hello")?.digest;
/// let reader = store.reader()?;
/// assert_eq!(&*reader.get(&digest)?, b"hello");
/// # Ok::<(), blobpack::Error>(())
/// ```
pub struct Reader<M: Medium = Disk> {
    shared: Arc<Shared<M>>,
    /// The last one counts; slices may be borrowed from all of them.
    views: FrozenVec<Arc<View<M>>>,
}

/// A blob borrowed from a [`Reader`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BlobRef<'r> {
    bytes: &'r [u8],
}

impl<'r> BlobRef<'r> {
    /// Its bytes, as they are stored.
    #[must_use]
    pub fn as_bytes(&self) -> &'r [u8] {
        self.bytes
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
}

impl Deref for BlobRef<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

impl std::fmt::Debug for BlobRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobRef").field("size", &self.bytes.len()).finish()
    }
}

impl<M: Medium> Reader<M> {
    pub(crate) fn new(shared: Arc<Shared<M>>) -> Result<Reader<M>> {
        shared.source().current()?;
        let views = FrozenVec::new();
        views.push(shared.source().view());
        Ok(Reader { shared, views })
    }

    /// Gets a blob.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it is not stored.
    #[inline]
    pub fn get(&self, digest: &Digest) -> Result<BlobRef<'_>> {
        match self.find(digest)? {
            Some(blob) => Ok(blob),
            None => Err(Error::NotFound { digest: *digest }),
        }
    }

    /// Whether a blob is stored.
    ///
    /// # Errors
    /// Those of a damaged pack.
    pub fn contains(&self, digest: &Digest) -> Result<bool> {
        Ok(self.find(digest)?.is_some())
    }

    /// The blob that has a name.
    ///
    /// # Errors
    /// [`Error::NoSuchName`] where none has it.
    pub fn name(&self, name: &Name) -> Result<Digest> {
        self.find_name(name)?.ok_or_else(|| Error::NoSuchName { name: name.clone() })
    }

    /// The blob that has a name, or `None` where none has it.
    ///
    /// # Errors
    /// Those of a damaged pack.
    pub fn find_name(&self, name: &Name) -> Result<Option<Digest>> {
        names::find(&self.shared.source(), name)
    }

    /// Gets several blobs, in the order of their digests; `None` where one is not stored. Faster than one by one: while
    /// one waits for memory the next are looked up.
    ///
    /// # Errors
    /// The first error.
    pub fn get_many(&self, digests: &[Digest]) -> Result<Vec<Option<BlobRef<'_>>>> {
        let mut found = Vec::with_capacity(digests.len());
        self.view().find_many_near_home(digests, |digest, bytes| {
            found.push(match bytes {
                Some(bytes) => Some(BlobRef { bytes }),
                None => self.find_farther(digest)?,
            });
            Ok(())
        })?;
        Ok(found)
    }

    /// Gets a blob, or `None` where it is not stored.
    ///
    /// # Errors
    /// Those of a damaged pack.
    #[inline]
    pub fn find(&self, digest: &Digest) -> Result<Option<BlobRef<'_>>> {
        match self.view().find_near_home(digest) {
            Some(bytes) => Ok(Some(BlobRef { bytes })),
            None => self.find_farther(digest),
        }
    }

    /// What is not near its home.
    #[inline(never)]
    fn find_farther(&self, digest: &Digest) -> Result<Option<BlobRef<'_>>> {
        match self.view().find_farther(digest) {
            Ok(bytes) => Ok(Some(BlobRef { bytes })),
            Err(Miss::Absent) => Ok(None),
            Err(Miss::Unsure) => self.find_carefully(digest),
        }
    }

    /// What the fast path does not know.
    #[inline(never)]
    fn find_carefully(&self, digest: &Digest) -> Result<Option<BlobRef<'_>>> {
        let view = self.view();
        let found = if view.is_current() && !view.is_left() { view.find_blob(digest).ok() } else { None };
        match found.filter(|_| !view.is_private() || view.is_current()) {
            Some(None) => Ok(None),
            Some(Some(found)) => match view.bytes(found.payload, found.length) {
                Some(bytes) => Ok(Some(BlobRef { bytes })),
                None => self.find_slowly(digest),
            },
            None => self.find_slowly(digest),
        }
    }

    #[inline]
    fn view(&self) -> &View<M> {
        self.views.last().expect("a reader has a view from its first moment")
    }

    /// The view is not true any more, or too short, or the index changed under it.
    #[cold]
    fn find_slowly(&self, digest: &Digest) -> Result<Option<BlobRef<'_>>> {
        for _ in 0..RENEWALS {
            let source = self.shared.source();
            let current = source.current()?.clone();
            if !std::ptr::eq(self.view(), &raw const *current) {
                self.views.push(current);
            }
            match self.view().find_blob(digest) {
                Ok(None) if source.current().is_ok_and(|now| std::ptr::eq(self.view(), &raw const **now)) => {
                    return Ok(None);
                }
                Ok(None) => {}
                Ok(Some(found)) => {
                    if let Some(bytes) = self.view().bytes(found.payload, found.length) {
                        return Ok(Some(BlobRef { bytes }));
                    }
                    source.renew()?;
                }
                Err(Stop::Outgrown) => {
                    source.renew()?;
                }
                // The source knows what to do about a writer that is busy or dead.
                Err(Stop::Busy | Stop::Stuck(_) | Stop::Failed(_)) => {
                    source.ask(|view| view.find_blob(digest))?;
                }
            }
        }
        Err(Error::Busy { path: self.shared.source().medium().path().into() })
    }

    /// Lets go of older maps, which nothing is borrowed from any more, and takes the newest.
    ///
    /// # Errors
    /// Those of a pack that can't be read any more.
    pub fn refresh(&mut self) -> Result<()> {
        self.shared.source().current()?;
        let newest = self.shared.source().view();
        *self.views.as_mut() = vec![newest];
        Ok(())
    }
}

impl<M: Medium> std::fmt::Debug for Reader<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("maps", &self.views.len()).finish()
    }
}
