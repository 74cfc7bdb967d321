//! The medium that packs really live on: files of the system.
//!
//! `sys` holds the calls that only Linux has, with a plainer way for the other Unixes; `lock` the writer's lock;
//! `directory` all that is done with names; `write` ways to write; `room` what is reserved behind the file's end.
//! Nothing here decides anything about packs.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use zerocopy::IntoBytes;

use self::directory::Name;
use self::lock::Lock;
use super::{AtPath, Medium, is_full};
use crate::format::{FILE_BYTES_MAX, Offset, PAGE_BYTES, SPACE_AT, align_up, to_u64, to_usize};
use crate::map::Map;

mod directory;
mod lock;
mod room;
mod sys;
mod write;

/// The least address space that a map takes, so that a growing pack is seldom mapped anew: a long map that goes holds
/// its owner up. It costs nothing until it is used.
const MAP_BYTES_AMPLE: u64 = 64 << 30;
/// The same where there is not that much, or the process has a limit (`RLIMIT_AS`) that it needs for other things.
const MAP_BYTES_MIN: u64 = 1 << 30;
/// Ranges are made private, and long durable ones written, in pieces of this size.
const PIECE_BYTES: u64 = 1 << 20;
/// How long a lookup that met a changing index sleeps before it tries again.
const PAUSE: Duration = Duration::from_micros(200);

/// An open file on the disk.
pub struct Disk {
    /// Absolute, and without symbolic links when it was resolved: neither `chdir` nor a later link changes what it
    /// means.
    path: PathBuf,
    /// For reads and commits.
    file: File,
    /// See [`opened_again`](Disk::opened_again).
    for_maps: OnceLock<File>,
    for_checkpoints: OnceLock<File>,
    write: bool,
    lock: Lock,
    name: Mutex<Name>,
    map: ArcSwapOption<Map>,
    /// Held while a longer map is made.
    mapping: Mutex<()>,
    /// Held while the file grows, so that no growth undoes another.
    allocating: Mutex<()>,
    /// There may be room behind the file's end: reserved by this handle, or by a process before it that was killed.
    has_room: AtomicBool,
    /// A length that the file had: it has at least this one still, as it is never shrunk.
    length_seen: AtomicU64,
    /// The kernel or the file system does not know `RWF_DSYNC`.
    syncs_apart: AtomicBool,
    /// A store through the map could find the disk full.
    stores_by_pwrite: AtomicBool,
}

impl Disk {
    /// Opens what is at a path, whatever it is: see [`kind`](Disk::kind). A FIFO or a device does not block the call.
    pub fn open(path: &Path, write: bool) -> io::Result<Disk> {
        Disk::open_resolved(directory::resolve(path)?, write)
    }

    fn open_resolved(path: PathBuf, write: bool) -> io::Result<Disk> {
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        match OpenOptions::new().read(true).write(write).custom_flags(flags).open(&path) {
            Ok(file) => Ok(Disk::new(path, file, write, Lock::default(), Name::Published)),
            // Neither a directory nor a socket can be opened so, but the caller wants to say what it is.
            Err(error) => match sys::open_for_kind(&path) {
                Some(file) if !file.metadata()?.is_file() => {
                    Ok(Disk::new(path, file, false, Lock::default(), Name::Published))
                }
                _ => Err(error),
            },
        }
    }

    /// Makes a new, empty, locked file without a published name in the directory of `path`.
    /// [`publish`](Medium::publish) gives it that name; dropped before, it vanishes. Its permissions are `mode` without
    /// the bits of the process's umask.
    pub fn create(path: &Path, mode: u32) -> io::Result<Disk> {
        let path = directory::resolve(path)?;
        // Its owner must be able to open it again, for lock and syncs; the bits that were not asked for go after that.
        let surplus = 0o600 & !mode;
        let (file, lock, name) = directory::create(&path, (mode | 0o600) & 0o777)?;
        let disk = Disk::new(path, file, true, lock, name);
        if surplus != 0 {
            disk.open_all();
            let mode = disk.file.metadata()?.mode() & 0o777 & !surplus;
            disk.file.set_permissions(Permissions::from_mode(mode))?;
        }
        Ok(disk)
    }

    fn new(path: PathBuf, file: File, write: bool, lock: Lock, name: Name) -> Disk {
        let stores_by_pwrite = AtomicBool::new(!sys::preallocation_holds(&file));
        Disk {
            path,
            file,
            for_maps: OnceLock::new(),
            for_checkpoints: OnceLock::new(),
            write,
            lock,
            name: Mutex::new(name),
            map: ArcSwapOption::empty(),
            mapping: Mutex::new(()),
            allocating: Mutex::new(()),
            has_room: AtomicBool::new(true),
            length_seen: AtomicU64::new(0),
            syncs_apart: AtomicBool::new(false),
            stores_by_pwrite,
        }
    }

    /// What the path leads to where it is no regular file.
    pub fn kind(&self) -> io::Result<Option<&'static str>> {
        let kind = self.file.metadata()?.file_type();
        Ok(match () {
            () if kind.is_file() => None,
            () if kind.is_dir() => Some("a directory"),
            () if kind.is_fifo() => Some("a FIFO"),
            () if kind.is_socket() => Some("a socket"),
            () => Some("a device"),
        })
    }

    /// The same file, opened once more.
    ///
    /// Linux tells each open file once, and at its next sync, of a write that the disk failed. Were there one for all,
    /// the first to sync would take the error of others with it. So commits end with a write by one open file, and
    /// checkpoints by another one; what either syncs before that through the map, whoever is told there, both are told
    /// again. Where the file can't be opened once more they share the first.
    fn opened_again<'d>(&'d self, place: &'d OnceLock<File>) -> &'d File {
        if self.write
            && place.get().is_none()
            && let Ok(again) = lock::open_again_for(&self.file, &self.path, true)
        {
            let _ = place.set(again);
        }
        place.get().unwrap_or(&self.file)
    }

    /// Opens the file as often as it is needed: before its mode may forbid that, and before there is anything that the
    /// disk could fail, as an open file is not told of what others were told before.
    fn open_all(&self) {
        self.opened_again(&self.for_maps);
        self.opened_again(&self.for_checkpoints);
    }

    /// Makes all later stores go by `pwrite`, as on a file system where preallocation is no guarantee.
    pub fn store_by_pwrite(&self) {
        self.stores_by_pwrite.store(true, Ordering::Relaxed);
    }

    /// Whether the file is at least so long. Beyond its end the map is `SIGBUS`.
    fn reaches(&self, end: u64) -> io::Result<bool> {
        if end > self.length_seen.load(Ordering::Relaxed) {
            self.length_seen.fetch_max(self.length()?, Ordering::Relaxed);
        }
        Ok(end <= self.length_seen.load(Ordering::Relaxed))
    }
}

impl Medium for Disk {
    fn path(&self) -> &Path {
        &self.path
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: Offset, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset.0)
    }

    fn write_at(&self, offset: Offset, pieces: &[&[u8]], durable: bool) -> io::Result<()> {
        if !durable {
            return self.write_plainly(offset, pieces);
        }
        if offset < SPACE_AT {
            // A superblock is what a checkpoint ends with: it must not name what the disk failed to write.
            let file = self.opened_again(&self.for_checkpoints);
            write::check_written(file)?;
            return self.write_synced(file, offset, pieces);
        }
        let bytes: u64 = pieces.iter().map(|piece| to_u64(piece.len())).sum();
        let is_long = bytes >= PIECE_BYTES * (to_u64(pieces.len()) + 1);
        // Each system call syncs what it wrote: many of them are slower than one sync before the last one.
        let Some((last, before)) = pieces.split_last().filter(|_| is_long || pieces.len() > sys::PIECES_MAX) else {
            return self.write_synced(&self.file, offset, pieces);
        };
        let (most, last) = last.split_at(last.len() - last.len().min(to_usize(PAGE_BYTES)));
        let most = [before, &[most]].concat();
        if is_long {
            self.write_in_parts(offset, &most)?;
        } else {
            self.write_plainly(offset, &most)?;
        }
        let at = Offset(offset.0 + bytes - to_u64(last.len()));
        self.sync_range(offset, at.0 - offset.0)?;
        self.write_synced(&self.file, at, &[last])
    }

    fn allocate(&self, offset: Offset, length: u64) -> io::Result<()> {
        let end = offset.checked_add(length).ok_or(io::ErrorKind::FileTooLarge)?;
        if length == 0 {
            return Ok(());
        }
        let _alone = lock(&self.allocating);
        match sys::allocate(&self.file, offset.0, length) {
            Err(error) if sys::is_unsupported(&error) => {
                self.store_by_pwrite();
                if end.0 > self.length()? { self.file.set_len(end.0) } else { Ok(()) }
            }
            Err(error) if is_full(&error) => {
                // What was found before made the file longer. Blocks may be smaller than pages: the rest of the last
                // page becomes a hole, which needs no space now, nor when the pack is opened next.
                let length = self.length()?;
                if length % PAGE_BYTES != 0 {
                    let _ = self.file.set_len(align_up(length, PAGE_BYTES));
                }
                Err(error)
            }
            done => done,
        }
    }

    fn reserve(&self, bytes: u64) {
        self.reserve_room(bytes);
    }

    fn give_room_back(&self) {
        self.give_back_room();
    }

    fn make_private(&self, offset: Offset, length: u64) -> io::Result<()> {
        let allocated = self.allocate(offset, length);
        if length == 0 || !self.shares_blocks() {
            return allocated;
        }
        match allocated.and_then(|()| sys::unshare(&self.file, offset.0, length)) {
            // On a full disk xfs refuses to allocate what is allocated. The same bytes are written once more instead:
            // what is written has a place, and is the file's own.
            Err(error) if is_full(&error) || sys::is_unsupported(&error) => self.write_again(offset, length),
            done => done,
        }
    }

    fn shares_blocks(&self) -> bool {
        self.stores_by_pwrite.load(Ordering::Relaxed)
    }

    fn punch(&self, offset: Offset, length: u64) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        match sys::punch(&self.file, offset.0, length) {
            Err(error) if sys::is_unsupported(&error) => Ok(()),
            done => done,
        }
    }

    fn sync_range(&self, offset: Offset, length: u64) -> io::Result<()> {
        // A map shares the page cache with the file, so its sync covers what `pwrite` wrote too. Elsewhere `msync`
        // promises less than a sync of the file does, and Linux syncs nothing through a map of what is open for reading
        // only.
        let by_map = cfg!(target_os = "linux") && self.write;
        let map = self.map.load();
        match &*map {
            Some(map) if by_map && offset.0.checked_add(length).is_some_and(|end| end <= map.length()) => {
                map.flush(offset, length)
            }
            _ => self.opened_again(&self.for_maps).sync_data(),
        }
    }

    fn overwrites_in_place(&self) -> bool {
        !self.shares_blocks()
    }

    fn has_background(&self) -> bool {
        true
    }

    fn prepare_store(&self, offset: Offset) {
        let by_map = self.write && !self.stores_by_pwrite.load(Ordering::Relaxed);
        if by_map
            && offset.checked_add(8).is_some_and(|end| self.reaches(end.0).unwrap_or(false))
            && let Some(map) = &*self.map.load()
        {
            map.touch(offset);
        }
    }

    fn prepare_sync(&self, offset: Offset, length: u64) {
        if !self.stores_by_pwrite.load(Ordering::Relaxed)
            && let Some(map) = &*self.map.load()
        {
            map.prepare_sync(offset, length);
        }
    }

    fn closes_slowly(&self) -> bool {
        self.blocks()
            .is_ok_and(|bytes| sys::LONG_BYTES <= bytes && sys::free_bytes(&self.file).is_ok_and(|free| free > bytes))
    }

    fn write_back(&self, offset: Offset, length: u64) {
        sys::write_back(&self.file, offset.0, length);
    }

    fn sync_all(&self) -> io::Result<()> {
        self.opened_again(&self.for_checkpoints).sync_all()
    }

    fn store(&self, offset: Offset, words: &[u64]) -> io::Result<()> {
        if !self.write {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let length = to_u64(size_of_val(words));
        let end = offset.checked_add(length).filter(|_| offset.is_aligned(8)).ok_or(io::ErrorKind::InvalidInput)?;
        if !self.reaches(end.0)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !self.stores_by_pwrite.load(Ordering::Relaxed) {
            let stored = match &*self.map.load() {
                Some(map) if map.length() >= end.0 => map.store_words(offset, words),
                _ => self.map(end.0)?.store_words(offset, words),
            };
            return stored.ok_or(io::ErrorKind::InvalidInput.into());
        }
        let Some((first, rest)) = words.split_first() else { return Ok(()) };
        if !rest.is_empty() {
            let bytes: Vec<u8> = rest.iter().flat_map(|word| word.to_le_bytes()).collect();
            self.write_plainly(Offset(offset.0 + 8), &[&bytes])?;
        }
        self.write_plainly(offset, &[first.to_le().as_bytes()])
    }

    fn map(&self, length: u64) -> io::Result<Arc<Map>> {
        if length > FILE_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let current = || self.map.load_full().filter(|map| map.length() >= length);
        if let Some(map) = current() {
            return Ok(map);
        }
        let _alone = lock(&self.mapping);
        if let Some(map) = current() {
            return Ok(map);
        }
        self.open_all();
        let least = align_up(length.max(1), PAGE_BYTES);
        let whole = least.max(self.length()?.min(FILE_BYTES_MAX));
        let modest = whole.next_power_of_two().max(MAP_BYTES_MIN);
        let mut bytes = if sys::address_space_is_limited() { modest } else { modest.max(MAP_BYTES_AMPLE) };
        loop {
            match Map::of_file(self.opened_again(&self.for_maps), bytes, self.write) {
                Ok(map) => {
                    self.map.store(Some(Arc::clone(&map)));
                    return Ok(map);
                }
                Err(_) if bytes > modest => bytes = modest,
                // Halving ends after at most 46 rounds.
                Err(_) if bytes > least => bytes = align_up(bytes / 2, PAGE_BYTES).max(least),
                Err(error) => return Err(error),
            }
        }
    }

    fn host(&self) -> io::Result<[u64; 4]> {
        let metadata = self.file.metadata()?;
        let [high, low] = sys::boot_id()?;
        Ok([high, low, metadata.dev(), metadata.ino()])
    }

    fn links(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.nlink())
    }

    fn at_path(&self) -> io::Result<AtPath> {
        directory::at_path(&self.file, &self.path, self.write)
    }

    fn blocks(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks() * 512)
    }

    fn data_after(&self, offset: Offset) -> io::Result<Option<Offset>> {
        if offset.0 >= self.length()? {
            return Ok(None);
        }
        Ok(sys::data_after(&self.file, offset.0)?.map(Offset))
    }

    fn file(&self) -> Option<&File> {
        Some(&self.file)
    }

    fn reopen(&self, write: bool) -> io::Result<Disk> {
        let disk = Disk::open_resolved(self.path.clone(), write)?;
        disk.stores_by_pwrite.fetch_or(self.stores_by_pwrite.load(Ordering::Relaxed), Ordering::Relaxed);
        Ok(disk)
    }

    fn create_beside(&self, path: Option<&Path>) -> io::Result<Disk> {
        let path = path.map_or_else(|| Ok(self.path.clone()), directory::resolve)?;
        let (file, lock, name) = directory::create(&path, 0o600)?;
        let disk = Disk::new(path, file, true, lock, name);
        disk.stores_by_pwrite.fetch_or(self.stores_by_pwrite.load(Ordering::Relaxed), Ordering::Relaxed);
        disk.open_all();
        directory::copy_owner_and_mode(&self.file, &disk.file)?;
        Ok(disk)
    }

    fn publish(&self, replace: bool) -> io::Result<()> {
        directory::publish(&mut lock(&self.name), &self.file, &self.path, replace)
    }

    fn sync_directory(&self) -> io::Result<()> {
        directory::sync_directory(&self.path)
    }

    fn remove_leftovers(&self) {
        if matches!(*lock(&self.name), Name::Published) {
            directory::remove_leftovers(&self.file, &self.path);
        }
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.lock.try_exclusive(&self.file, &self.path)
    }

    fn unlock(&self) {
        self.give_back_lock();
    }

    fn is_locked(&self) -> io::Result<bool> {
        self.lock.is_held_by_any(&self.file, &self.path)
    }

    fn set_ready(&self) -> io::Result<()> {
        self.lock.set_ready()
    }

    fn is_ready(&self) -> io::Result<bool> {
        self.lock.is_ready(&self.file, &self.path)
    }

    fn pause(&self) {
        std::thread::sleep(PAUSE);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.give_back_lock();
        if let Name::Temporary(path) = &*lock(&self.name) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Locks a mutex that guards steps rather than data: after a panic they can be taken again.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
