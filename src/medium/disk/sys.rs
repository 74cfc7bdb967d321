//! System calls that Linux alone has, with a plainer way for the other Unixes.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

#[cfg(target_os = "linux")]
pub(super) use linux::*;
#[cfg(not(target_os = "linux"))]
pub(super) use other::*;

/// The most pieces that one write takes (`IOV_MAX`).
pub(super) const PIECES_MAX: usize = 1024;

/// Whether an error says that the kernel or the file system does not know such a call.
pub(super) fn is_unsupported(error: &io::Error) -> bool {
    let codes = [libc::EOPNOTSUPP, libc::ENOTSUP, libc::ENOSYS, libc::EINVAL];
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

/// Writes all pieces, in as many calls as it takes. With `durable` each call syncs what it wrote.
pub(super) fn write_pieces(file: &File, mut offset: u64, pieces: &[&[u8]], durable: bool) -> io::Result<()> {
    for group in pieces.chunks(PIECES_MAX) {
        let mut slices: Vec<IoSlice<'_>> = group.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut rest = &mut slices[..];
        // Drops empty pieces at the front, so that a call always has something to write.
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            match write_once(file, offset, rest, durable) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += crate::format::to_u64(written);
                    IoSlice::advance_slices(&mut rest, written);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Whether this process may use only so much address space (`RLIMIT_AS`).
pub(super) fn address_space_is_limited() -> bool {
    rustix::process::getrlimit(rustix::process::Resource::As).current.is_some()
}

/// A file that takes up less is closed in some milliseconds.
pub(super) const LONG_BYTES: u64 = 32 << 20;

/// How much room the file system has for whoever asks.
pub(super) fn free_bytes(file: &File) -> io::Result<u64> {
    let found = rustix::fs::fstatvfs(file)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Opens what can't be opened for reading and writing, only to learn what it is.
pub(super) fn open_for_kind(path: &Path) -> Option<File> {
    #[cfg(target_os = "linux")]
    let flags = libc::O_PATH;
    #[cfg(not(target_os = "linux"))]
    let flags = libc::O_NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags).open(path).ok()
}

#[cfg(target_os = "linux")]
mod linux {
    use std::os::fd::AsRawFd;

    use rustix::fs::{AtFlags, CWD, FallocateFlags, IFlags, RenameFlags, SeekFrom};
    use rustix::io::ReadWriteFlags;

    use super::{Errno, File, IoSlice, OpenOptions, OpenOptionsExt, Path, PathBuf, io};

    /// `EXT4_SUPER_MAGIC`, which is that of ext2 and ext3 too.
    const EXT_MAGIC: u64 = 0xef53;
    /// `TMPFS_MAGIC`.
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    /// The byte that is locked as a mark, behind all that a pack can have.
    const MARK_AT: i64 = i64::MAX - 1;

    pub(in super::super) fn write_once(
        file: &File,
        offset: u64,
        pieces: &[IoSlice<'_>],
        durable: bool,
    ) -> Result<usize, Errno> {
        if durable {
            rustix::io::pwritev2(file, pieces, offset, ReadWriteFlags::DSYNC)
        } else {
            rustix::io::pwritev(file, pieces, offset)
        }
    }

    /// Whether a store into a preallocated range of this file can't meet a full disk. Not so where blocks may be shared
    /// or are written elsewhere each time (btrfs, xfs with reflinks, overlays), and nobody knows elsewhere.
    pub(in super::super) fn preallocation_holds(file: &File) -> bool {
        rustix::fs::fstatfs(file).is_ok_and(|found| matches!(found.f_type as u64, EXT_MAGIC | TMPFS_MAGIC))
    }

    pub(in super::super) fn allocate(file: &File, offset: u64, length: u64) -> io::Result<()> {
        let allocate = || rustix::fs::fallocate(file, FallocateFlags::empty(), offset, length);
        Ok(rustix::io::retry_on_intr(allocate)?)
    }

    /// Whether the file system reads from the disk when it looks for room.
    pub(in super::super) fn searches_for_room(file: &File) -> bool {
        rustix::fs::fstatfs(file).is_ok_and(|found| found.f_type as u64 == EXT_MAGIC)
    }

    /// Gives a range behind the file's end its place on the disk; the file keeps its length.
    pub(in super::super) fn reserve(file: &File, offset: u64, length: u64) -> io::Result<()> {
        let reserve = || rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, offset, length);
        Ok(rustix::io::retry_on_intr(reserve)?)
    }

    pub(in super::super) fn unshare(file: &File, offset: u64, length: u64) -> io::Result<()> {
        let unshare = || rustix::fs::fallocate(file, FallocateFlags::UNSHARE_RANGE, offset, length);
        Ok(rustix::io::retry_on_intr(unshare)?)
    }

    /// Asks that an empty file is written in place, where the file system (btrfs) would else write elsewhere each time:
    /// only so its space can be reserved.
    pub(in super::super) fn forbid_copy_on_write(file: &File) {
        if let Ok(flags) = rustix::fs::ioctl_getflags(file) {
            let _ = rustix::fs::ioctl_setflags(file, flags | IFlags::NOCOW);
        }
    }

    pub(in super::super) fn punch(file: &File, offset: u64, length: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::io::retry_on_intr(|| rustix::fs::fallocate(file, flags, offset, length))?)
    }

    #[expect(unsafe_code, reason = "rustix has no sync_file_range")]
    pub(in super::super) fn write_back(file: &File, offset: u64, length: u64) {
        // To the system that means all up to the file's end.
        if length == 0 {
            return;
        }
        let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else { return };
        // SAFETY: the call takes no memory, and the descriptor is open for as long as `file` is borrowed.
        let _ = unsafe { libc::sync_file_range(file.as_raw_fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE) };
    }

    /// The first data at or after an offset inside the file. Moves the descriptor's position, which nothing here uses.
    pub(in super::super) fn data_after(file: &File, offset: u64) -> io::Result<Option<u64>> {
        match rustix::fs::seek(file, SeekFrom::Data(offset)) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NXIO) => Ok(None),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(offset)),
            Err(error) => Err(error.into()),
        }
    }

    /// The identity of this boot of the machine; zeros where it is not known. What is missing for the moment is an
    /// error: a writer that wrote zeros down would not be believed for as long as it lives.
    pub(in super::super) fn boot_id() -> io::Result<[u64; 2]> {
        let text = match std::fs::read_to_string("/proc/sys/kernel/random/boot_id") {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) => {
                return Err(error);
            }
            read => read.unwrap_or_default(),
        };
        let hex: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        let half = |range| u64::from_str_radix(hex.get(range).unwrap_or_default(), 16).ok();
        Ok(match (half(0..16), half(16..32)) {
            (Some(high), Some(low)) => [high, low],
            _ => [0, 0],
        })
    }

    /// Marks an open file: a shared lock, of the kind that belongs to an open file, on a byte that no pack has. Nobody
    /// ever asks for that byte alone, so it is there at once.
    pub(in super::super) fn mark(file: &File) -> io::Result<()> {
        match lock_mark(file, libc::F_OFD_SETLK, libc::F_RDLCK) {
            // Without such locks nobody finds one missing.
            Err(error) if super::is_unsupported(&error) => Ok(()),
            done => done.map(drop),
        }
    }

    /// Whether another descriptor of this file is marked; always where there are no such locks.
    pub(in super::super) fn is_marked(file: &File) -> io::Result<bool> {
        match lock_mark(file, libc::F_OFD_GETLK, libc::F_WRLCK) {
            Err(error) if super::is_unsupported(&error) => Ok(true),
            found => Ok(found? != libc::F_UNLCK),
        }
    }

    #[expect(unsafe_code, reason = "rustix has no locks of open files")]
    #[expect(clippy::cast_possible_truncation, reason = "the system's constants are small")]
    fn lock_mark(file: &File, command: libc::c_int, kind: libc::c_int) -> io::Result<libc::c_int> {
        let mut lock = libc::flock {
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: MARK_AT,
            l_len: 1,
            l_pid: 0,
        };
        // SAFETY: the descriptor is open for as long as `file` is borrowed, and the call reads and writes no memory but
        // `lock`, which is of the type that both commands take.
        match unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(lock.l_type.into()),
        }
    }

    /// A path that opens the inode of an open file.
    pub(in super::super) fn descriptor_path(file: &File) -> Option<PathBuf> {
        Some(format!("/proc/self/fd/{}", file.as_raw_fd()).into())
    }

    pub(in super::super) fn create_nameless(directory: &Path, mode: u32) -> Option<File> {
        OpenOptions::new().read(true).write(true).mode(mode).custom_flags(libc::O_TMPFILE).open(directory).ok()
    }

    pub(in super::super) fn link_nameless(file: &File, path: &Path) -> io::Result<()> {
        let from = descriptor_path(file).ok_or(io::ErrorKind::Unsupported)?;
        Ok(rustix::fs::linkat(CWD, from, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
    }

    /// Renames, unless there is something of that name.
    pub(in super::super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
        Ok(rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use std::os::unix::fs::FileExt;

    use super::{Errno, File, IoSlice, Path, PathBuf, io};

    pub(in super::super) fn write_once(
        file: &File,
        offset: u64,
        pieces: &[IoSlice<'_>],
        durable: bool,
    ) -> Result<usize, Errno> {
        if durable {
            return Err(Errno::OPNOTSUPP);
        }
        let first = pieces.iter().find(|piece| !piece.is_empty()).map_or(&[][..], |piece| piece);
        file.write_at(first, offset).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }

    pub(in super::super) fn preallocation_holds(_: &File) -> bool {
        false
    }

    pub(in super::super) fn allocate(_: &File, _: u64, _: u64) -> io::Result<()> {
        Err(unsupported())
    }

    pub(in super::super) fn searches_for_room(_: &File) -> bool {
        false
    }

    pub(in super::super) fn reserve(_: &File, _: u64, _: u64) -> io::Result<()> {
        Err(unsupported())
    }

    pub(in super::super) fn unshare(_: &File, _: u64, _: u64) -> io::Result<()> {
        Err(unsupported())
    }

    pub(in super::super) fn forbid_copy_on_write(_: &File) {}

    pub(in super::super) fn punch(_: &File, _: u64, _: u64) -> io::Result<()> {
        Err(unsupported())
    }

    pub(in super::super) fn write_back(_: &File, _: u64, _: u64) {}

    pub(in super::super) fn data_after(_: &File, offset: u64) -> io::Result<Option<u64>> {
        Ok(Some(offset))
    }

    pub(in super::super) fn boot_id() -> io::Result<[u64; 2]> {
        Ok([0, 0])
    }

    pub(in super::super) fn mark(_: &File) -> io::Result<()> {
        Ok(())
    }

    pub(in super::super) fn is_marked(_: &File) -> io::Result<bool> {
        Ok(true)
    }

    pub(in super::super) fn descriptor_path(_: &File) -> Option<PathBuf> {
        None
    }

    pub(in super::super) fn create_nameless(_: &Path, _: u32) -> Option<File> {
        None
    }

    pub(in super::super) fn link_nameless(_: &File, _: &Path) -> io::Result<()> {
        Err(unsupported())
    }

    pub(in super::super) fn rename_new(_: &Path, _: &Path) -> io::Result<()> {
        Err(unsupported())
    }

    fn unsupported() -> io::Error {
        io::Error::from_raw_os_error(libc::ENOTSUP)
    }
}
