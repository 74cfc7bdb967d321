//! The bytes of a blob into a descriptor, inside the kernel where it can: `copy_file_range(2)` into regular files,
//! `sendfile(2)` into pipes and sockets, and `write(2)` from the map where neither is to be had.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use blobpack::Blob;
use indicatif::ProgressBar;

/// After so many bytes the bar moves.
const PIECE_BYTES: usize = 16 << 20;

/// Copies a range of the blob to `target`, at its position. The range is inside the blob.
pub fn copy(blob: &Blob, range: Range<u64>, target: &impl AsFd, bar: &ProgressBar) -> io::Result<()> {
    let bytes = blob.range(range.clone()).map_err(io::Error::from)?;
    let target = target.as_fd();
    let done = match blob.file_range() {
        Some((pack, payload)) => in_kernel(pack, payload + range.start, bytes.len(), target, bar)?,
        None => 0,
    };
    let mut target = File::from(target.try_clone_to_owned()?);
    for piece in bytes[done..].chunks(PIECE_BYTES) {
        target.write_all(piece)?;
        bar.inc(piece.len() as u64);
    }
    Ok(())
}

/// How many bytes the kernel copied: fewer than asked for where it can't do it between these two files.
#[cfg(target_os = "linux")]
fn in_kernel(pack: &File, offset: u64, bytes: usize, target: BorrowedFd<'_>, bar: &ProgressBar) -> io::Result<usize> {
    use rustix::fs::{FileType, copy_file_range, fstat, sendfile};
    use rustix::io::Errno;

    let (mut offset, mut done) = (offset, 0);
    let mut range_copy = FileType::from_raw_mode(fstat(target)?.st_mode) == FileType::RegularFile;
    while done < bytes {
        let piece = PIECE_BYTES.min(bytes - done);
        let copied = if range_copy {
            copy_file_range(pack, Some(&mut offset), target, None, piece)
        } else {
            sendfile(target, pack, Some(&mut offset), piece)
        };
        match copied {
            Ok(0) => break,
            Ok(copied) => {
                done += copied;
                bar.inc(copied as u64);
            }
            Err(Errno::INTR) => {}
            // Another file system, a file open for appending, an old kernel: the next way.
            Err(Errno::XDEV | Errno::INVAL | Errno::BADF | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                if !range_copy {
                    break;
                }
                range_copy = false;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(done)
}

/// Elsewhere there is no such call.
#[cfg(not(target_os = "linux"))]
fn in_kernel(_: &File, _: u64, _: usize, _: BorrowedFd<'_>, _: &ProgressBar) -> io::Result<usize> {
    Ok(0)
}
