//! Where `-o FILE` writes to: a file of its own until it is whole, then under its name.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use blobpack::image::through_links;

use super::pack::is_same_file;

/// Where `-o` writes to.
pub enum Target {
    /// A device, a pipe: there is nothing to put in its place.
    Direct(File),
    /// A file without a name, which goes with the process, until it is whole.
    Nameless { file: File, target: PathBuf },
    /// The same under a name of its own, for where every file has one.
    Temporary { file: File, name: Temporary, target: PathBuf },
}

/// A file that is removed unless it was renamed.
pub struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Target {
    /// A place for the file at `path`, which must not be the pack.
    pub fn create(path: &Path, pack: &Path) -> io::Result<Target> {
        let old = match fs::metadata(path) {
            Ok(old) if !old.is_file() => {
                return OpenOptions::new().write(true).open(path).map(Target::Direct);
            }
            Ok(old) if is_same_file(&old, &fs::metadata(pack)?) => return Err(io::Error::other("is the pack itself")),
            old => old.ok(),
        };
        // A symbolic link is to stay, be there what it leads to or not yet.
        let target = through_links(path)?;
        let new = match nameless(&target) {
            Some(file) => Target::Nameless { file, target },
            None => {
                let create = |name: &Path| OpenOptions::new().write(true).create_new(true).open(name);
                let (file, name) = under_a_name_beside(&target, create)?;
                Target::Temporary { file, name, target }
            }
        };
        if let Some(old) = old {
            new.file().set_permissions(old.permissions())?;
        }
        Ok(new)
    }

    /// The file to write into.
    pub fn file(&self) -> &File {
        match self {
            Target::Direct(file) | Target::Nameless { file, .. } | Target::Temporary { file, .. } => file,
        }
    }

    /// Gives the whole file its name.
    pub fn publish(self) -> io::Result<()> {
        let (name, target) = match self {
            Target::Direct(_) => return Ok(()),
            Target::Nameless { file, target } => {
                match link_nameless(&file, &target) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    done => return done,
                }
                // Only what has a name can take the place of another file.
                let ((), name) = under_a_name_beside(&target, |name| link_nameless(&file, name))?;
                (name, target)
            }
            Target::Temporary { name, target, .. } => (name, target),
        };
        fs::rename(&name.0, target)?;
        std::mem::forget(name);
        Ok(())
    }
}

/// Makes something under a temporary name in the same directory.
fn under_a_name_beside<T>(target: &Path, mut make: impl FnMut(&Path) -> io::Result<T>) -> io::Result<(T, Temporary)> {
    let Some(name) = target.file_name() else { return Err(io::ErrorKind::InvalidFilename.into()) };
    // The prefix of a long name: the addition is not to make it longer than names can be.
    let prefix: String = name.to_string_lossy().chars().take(40).collect();
    for attempt in 0u32.. {
        let temporary = target.with_file_name(format!(".{prefix}.{}-{attempt}.tmp", std::process::id()));
        match make(&temporary) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return Ok((made?, Temporary(temporary))),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// A file without a name that can get one in the target's directory, where there are such files.
#[cfg(target_os = "linux")]
fn nameless(target: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let directory = target.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut options = OpenOptions::new();
    options.write(true).mode(0o666).custom_flags(libc::O_TMPFILE);
    // It gets its name through this path, so without one every file has a name.
    options.open(directory).ok().filter(|file| descriptor_path(file).exists())
}

#[cfg(target_os = "linux")]
fn link_nameless(file: &File, name: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, linkat};
    Ok(linkat(CWD, descriptor_path(file), CWD, name, AtFlags::SYMLINK_FOLLOW)?)
}

#[cfg(target_os = "linux")]
fn descriptor_path(file: &File) -> PathBuf {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// Elsewhere every file has a name.
#[cfg(not(target_os = "linux"))]
fn nameless(_: &Path) -> Option<File> {
    None
}

#[cfg(not(target_os = "linux"))]
fn link_nameless(_: &File, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
