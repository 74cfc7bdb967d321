//! Opening and creating packs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use super::Store;
use crate::commit::{Durability, Settings, Start, Tuning};
use crate::error::{Error, Result};
use crate::format::{
    CHUNK_ALIGN, Counters, FILE_BYTES_MAX, IDENTITY_AT, Identity, MAGIC, Offset, SPACE_AT, Superblock, VERSION,
};
use crate::index::table::Table;
use crate::index::tag::Tagger;
use crate::log::Tail;
use crate::medium::{AtPath, Disk, Medium};
use crate::pack::{Pack, Shared, TemporaryDirectory};
use crate::recovery::{self, Recovery};
use crate::space::{Space, sync_regions};
use crate::superblock::{Superblocks, next_superblock};
use crate::view::View;

/// How long a writer tries to have the lock even without a timeout: readers that look whether there is a writer hold it
/// for a moment.
const LOCK_PATIENCE: Duration = Duration::from_millis(50);
/// How often an open starts over because the file at the path was replaced in between.
const OPEN_ATTEMPTS: usize = 100;
/// The first chunk of a new pack.
const FIRST_CHUNK_BYTES: u64 = 128 << 10;

/// Ways to open a pack. Start with [`Store::options`].
///
/// ```
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("cache.pack");
/// use blobpack::{Durability, Store};
/// let store = Store::options().durability(Durability::Process).max_bytes(1 << 30).open(&path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OpenOptions {
    read_only: bool,
    create: bool,
    create_new: bool,
    durability: Durability,
    lock_timeout: Duration,
    mode: u32,
    max_bytes: u64,
    tuning: Tuning,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions::new()
    }
}

impl OpenOptions {
    /// For reading and writing; creates the pack where there is none.
    #[must_use]
    pub fn new() -> OpenOptions {
        OpenOptions {
            read_only: false,
            create: true,
            create_new: false,
            durability: Durability::PowerLoss,
            lock_timeout: Duration::ZERO,
            mode: 0o666,
            max_bytes: FILE_BYTES_MAX,
            tuning: Tuning::default(),
        }
    }

    /// Whether to open for reading only: beside a writer, or without one. Nothing on the disk changes then.
    #[must_use]
    pub fn read_only(mut self, yes: bool) -> OpenOptions {
        self.read_only = yes;
        self
    }

    /// Whether to create the pack where there is none (as it is unless this says otherwise).
    #[must_use]
    pub fn create(mut self, yes: bool) -> OpenOptions {
        self.create = yes;
        self
    }

    /// Whether the pack must be new: something at the path is an error.
    #[must_use]
    pub fn create_new(mut self, yes: bool) -> OpenOptions {
        self.create_new = yes;
        self
    }

    /// When commits are acknowledged.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> OpenOptions {
        self.durability = durability;
        self
    }

    /// How long to wait for another process to let go of the pack.
    #[must_use]
    pub fn lock_timeout(mut self, timeout: Duration) -> OpenOptions {
        self.lock_timeout = timeout;
        self
    }

    /// The permissions of a new file, less the process's umask. 0o666 unless this says otherwise.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> OpenOptions {
        self.mode = mode;
        self
    }

    /// The longest that the file may become, in bytes; what needs more fails with [`Error::LimitReached`]. It counts
    /// what a compaction would give back, too: removed blobs, and large ones that were cancelled or stored already
    /// before the pack was opened this time.
    ///
    /// Opening what a killed writer has left takes some room at the end of the file. Where the limit has none, it fails
    /// with [`Error::LimitReached`] too, and nothing is lost: with a higher limit the pack opens, blobs can be removed,
    /// and a [compaction](Store::compact) makes room.
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> OpenOptions {
        self.max_bytes = bytes.min(FILE_BYTES_MAX);
        self
    }

    /// Sizes for tests.
    #[doc(hidden)]
    #[must_use]
    pub fn tuning(mut self, tuning: Tuning) -> OpenOptions {
        self.tuning = tuning;
        self
    }

    /// Opens the pack at `path`; a directory means `blobs.pack` inside it.
    ///
    /// # Errors
    /// See [`Store::open`].
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Store> {
        self.open_how(path.as_ref(), How::Open)
    }

    /// Opens a pack whose log is damaged: what comes before the damage is kept, what came after is lost, and
    /// [`Store::recovery`] names it. A sound pack is opened as it is.
    ///
    /// # Errors
    /// Those of [`open`](OpenOptions::open), but for the damage that it accepts; [`Error::ReadOnly`] where the options
    /// are for reading only.
    pub fn repair(&self, path: impl AsRef<Path>) -> Result<Store> {
        self.open_how(path.as_ref(), How::Repair)
    }

    /// Opens a pack and makes its index anew from the log alone; the old index is not looked at.
    ///
    /// So it is with a pack that was cut off, if all of its log is there; what is missing of blobs is damage to them.
    ///
    /// A blob whose frame's header is damaged while its bytes are whole gets its header back.
    ///
    /// The log knows of a name whose text is damaged all but the text. Such a name is removed, and the reference that
    /// it held is a caller's from then on, so that nothing dies of the damage; [`Store::recovery`] says which blob it
    /// was of.
    ///
    /// # Errors
    /// [`Error::Damaged`] where a commit of the log is damaged; [`Error::ReadOnly`] where the options are for reading
    /// only.
    pub fn rebuild(&self, path: impl AsRef<Path>) -> Result<Store> {
        self.open_how(path.as_ref(), How::Rebuild)
    }

    fn open_how(&self, path: &Path, how: How) -> Result<Store> {
        let path = if path.is_dir() { path.join("blobs.pack") } else { path.to_path_buf() };
        for _ in 0..OPEN_ATTEMPTS {
            let disk = match Disk::open(&path, !self.read_only) {
                Ok(disk) => disk,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    if !(self.create || self.create_new) || self.read_only || how != How::Open {
                        return Err(Error::NoPack { path });
                    }
                    let disk = Disk::create(&path, self.mode).map_err(|error| create_error(&path, error))?;
                    match self.create_in(disk)? {
                        Some(store) => return Ok(store),
                        // Another process was first: its pack is opened.
                        None if self.create_new => return Err(Error::AlreadyExists { path }),
                        None => continue,
                    }
                }
                Err(error) => return Err(Error::io("open", &path, error)),
            };
            if let Some(found) = disk.kind().map_err(|e| Error::io("look at the file", &path, e))? {
                return Err(Error::NotAFile { path, found });
            }
            if self.create_new {
                return Err(Error::AlreadyExists { path });
            }
            if let Some(store) = self.open_in(disk, how)? {
                return Ok(store);
            }
        }
        Err(Error::Busy { path })
    }

    /// Opens the pack in a medium. `None`: the path leads to another file now.
    #[doc(hidden)]
    pub fn open_in<M: Medium>(&self, medium: M, how: How) -> Result<Option<Store<M>>> {
        let medium = Arc::new(medium);
        if self.read_only {
            if how != How::Open {
                return Err(Error::ReadOnly { path: medium.path().into() });
            }
            return Ok(Some(self.store(Pack::reading(medium)?)));
        }
        self.lock(medium.as_ref())?;
        match medium.at_path().map_err(|e| Error::io("look at the path", medium.path(), e))? {
            AtPath::Same => {}
            AtPath::Missing | AtPath::Other => return Ok(None),
        }
        // Who made this file or put it here may have ended before its name was durable: what is committed to it now
        // would go with it.
        match medium.sync_directory() {
            // A directory that may be searched and not read: nothing can be done, and most likely it is durable by now.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
            done => done.map_err(|e| Error::io("sync the directory", medium.path(), e))?,
        }
        let (view, start, recovery) = match how {
            How::Open => recovery::open(&medium, self.max_bytes, false)?,
            How::Repair => recovery::repair(&medium, self.max_bytes)?,
            How::Rebuild => recovery::rebuild(&medium, self.max_bytes, false)?,
        };
        medium.remove_leftovers();
        let mut pack = Pack::writing(view, start, recovery, self.settings());
        // Where it fails a commit will say why: on a disk that is full, or with a damaged index.
        let _ = pack.writer()?.secure_reserve();
        if how == How::Rebuild {
            pack.mend()?;
        }
        Ok(Some(self.store(pack)))
    }

    fn lock<M: Medium>(&self, medium: &M) -> Result<()> {
        let begun = Instant::now();
        let patience = self.lock_timeout.max(LOCK_PATIENCE);
        while !medium.try_lock().map_err(|e| Error::io("lock", medium.path(), e))? {
            if begun.elapsed() >= patience {
                let waited_ms = u64::try_from(self.lock_timeout.as_millis()).unwrap_or(u64::MAX);
                return Err(Error::Locked { path: medium.path().into(), waited_ms });
            }
            medium.pause();
        }
        Ok(())
    }

    /// Makes a pack in a new, unpublished medium and publishes it. `None`: there is something at the path by now.
    #[doc(hidden)]
    pub fn create_in<M: Medium>(&self, medium: M) -> Result<Option<Store<M>>> {
        let identity = new_identity(&medium)?;
        let (view, start) = initialize(&Arc::new(medium), &identity, &self.tuning, self.max_bytes)?;
        let medium = view.medium().clone();
        medium.sync_all().map_err(|e| Error::io("sync a new pack", medium.path(), e))?;
        match medium.publish(false) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(None),
            Err(error) if crate::medium::is_full(&error) => return Err(create_error(medium.path(), error)),
            Err(error) => return Err(Error::io("publish", medium.path(), error)),
        }
        Ok(Some(self.store(Pack::writing(view, start, Recovery::default(), self.settings()))))
    }

    fn settings(&self) -> Settings {
        Settings { durability: self.durability, tuning: self.tuning, limit: self.max_bytes }
    }

    fn store<M: Medium>(&self, pack: Pack<M>) -> Store<M> {
        Store { shared: Arc::new(Shared::new(pack, self.settings())) }
    }
}

/// What to do with a pack that is there.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Open it.
    Open,
    /// Open it even if its log is damaged.
    Repair,
    /// Make its index anew.
    Rebuild,
}

fn create_error(path: &Path, error: std::io::Error) -> Error {
    match crate::medium::is_full(&error) {
        true => Error::NoSpace { path: path.into(), needed: SPACE_AT.0 + FIRST_CHUNK_BYTES },
        false => Error::io("create", path, error),
    }
}

fn new_identity<M: Medium>(medium: &M) -> Result<Identity> {
    let mut random = [0; 16 + 8 + 112];
    medium.random(&mut random).map_err(|e| Error::io("get random bytes", Path::new("system"), e))?;
    let (mut uuid, mut marker, mut secret) = ([0; 16], [0; 8], [0; 112]);
    uuid.copy_from_slice(&random[..16]);
    marker.copy_from_slice(&random[16..24]);
    secret.copy_from_slice(&random[24..]);
    Ok(Identity {
        magic: MAGIC,
        version: U32::new(VERSION),
        checksum: U32::ZERO,
        uuid,
        marker: U64::from_bytes(marker),
        secret: Tagger::secret(secret),
        reserved: [0; 40],
    }
    .sealed())
}

/// Writes an empty pack with this identity: identity, one chunk, an index of one segment, a superblock. Not synced.
pub(crate) fn initialize<M: Medium>(
    medium: &Arc<M>,
    identity: &Identity,
    tuning: &Tuning,
    limit: u64,
) -> Result<(View<M>, Start)> {
    let path = medium.path().to_path_buf();
    let io = |what: &'static str| {
        let path = path.clone();
        move |e| Error::io(what, &path, e)
    };
    Superblocks::allocate_heads(medium.as_ref()).map_err(|error| create_error(&path, error))?;
    medium.write_at(IDENTITY_AT, &[identity.as_bytes()], false).map_err(io("write the identity"))?;
    let mut space = Space::empty(identity.marker.get(), tuning.slots, limit);
    let mut tail = Tail {
        epoch: 1,
        chunk: Offset::NONE,
        chunk_end: 0,
        at: Offset::NONE,
        commit: Offset::NONE,
        commit_checksum: 0,
    };
    let chunk = space.allocate(medium.as_ref(), FIRST_CHUNK_BYTES.min(tuning.chunk_bytes), CHUNK_ALIGN)?;
    let head = tail.begin_chunk(identity.marker.get(), chunk);
    medium.write_at(chunk.offset, &[head.as_bytes()], false).map_err(io("write the first chunk"))?;
    let born = recovery::random(medium.as_ref())?;
    let mut table = Table::create(medium.as_ref(), &mut space, tuning.slots, 0, born)?;
    let frozen = table.freeze(2);
    let mut fresh = space.freeze();
    fresh.extend(frozen.dirty);
    sync_regions(medium.as_ref(), fresh, "sync the index")?;
    let blank = Superblock {
        identity: *identity,
        sequence: U64::ZERO,
        slots: U32::new(tuning.slots),
        ..zerocopy::FromZeros::new_zeroed()
    };
    let superblocks = Superblocks::write_both(medium.as_ref(), &blank, |before| {
        next_superblock(before, &tail, &space, frozen.live, Counters::default().into())
    })?;
    let mut view = View::new(medium.clone(), identity, tuning.slots)?;
    recovery::publish(&mut view, &mut table, &tail)?;
    let space = Space::new(&superblocks.newest, limit);
    Ok((view, Start { superblocks, table, space, tail }))
}

pub(super) fn temporary() -> Result<Store> {
    let name = format!("blobpack-{:016x}", getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id())));
    let path: PathBuf = std::env::temp_dir().join(name);
    let io = |e| Error::io("create a temporary directory", &path, e);
    std::fs::create_dir(&path).map_err(io)?;
    let directory = TemporaryDirectory(path.clone());
    let options = OpenOptions::new().create_new(true);
    let disk = Disk::create(&path.join("blobs.pack"), options.mode).map_err(|e| Error::io("create", &path, e))?;
    let store = options.create_in(disk)?.ok_or(Error::AlreadyExists { path })?;
    let shared = Arc::into_inner(store.shared).expect("nobody else has the new store yet");
    Ok(Store { shared: Arc::new(shared.with_directory(directory)) })
}
