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
    /// A file under a name of its own until it is whole.
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
        let Some(name) = target.file_name() else { return Err(io::ErrorKind::InvalidFilename.into()) };
        for attempt in 0u32.. {
            // The prefix of a long name: the addition is not to make it longer than names can be.
            let prefix: String = name.to_string_lossy().chars().take(40).collect();
            let temporary = target.with_file_name(format!(".{prefix}.{}-{attempt}.tmp", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&temporary) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
                Ok(file) => {
                    let name = Temporary(temporary);
                    if let Some(old) = old {
                        file.set_permissions(old.permissions())?;
                    }
                    return Ok(Target::Temporary { file, name, target });
                }
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// The file to write into.
    pub fn file(&self) -> &File {
        match self {
            Target::Direct(file) | Target::Temporary { file, .. } => file,
        }
    }

    /// Gives the whole file its name.
    pub fn publish(self) -> io::Result<()> {
        match self {
            Target::Direct(_) => Ok(()),
            Target::Temporary { name, target, .. } => {
                fs::rename(&name.0, target)?;
                std::mem::forget(name);
                Ok(())
            }
        }
    }
}
