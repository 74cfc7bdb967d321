//! `blobpack get`: a blob out of the pack.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use indicatif::ProgressBar;

use super::copy::copy;
use super::failure::Failure;
use super::pack::{ReadPack, is_same_file, resolve};
use super::progress;

/// Write a blob to standard output or to a file.
///
/// The whole blob's digest is checked before its first byte goes out, for a range too.
#[derive(Args)]
#[command(after_help = "\
Examples:
  blobpack get store.pack sha256:2cf24dba > report.pdf
  blobpack get store.pack sha256:2cf24dba -o report.pdf
  blobpack get store.pack sha256:2cf24dba --range 0..512 | xxd

A file given with -o appears whole or not at all.")]
pub struct Get {
    #[command(flatten)]
    pack: ReadPack,
    /// The blob, by its digest or the first digits of it
    digest: String,
    /// Write to this file
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only these bytes: from START to before END, counted from 0; without one of them from the beginning or to the end
    #[arg(long, value_name = "START..END")]
    range: Option<Range>,
}

/// What `--range` says.
#[derive(Clone, Copy)]
struct Range {
    start: Option<u64>,
    end: Option<u64>,
}

impl FromStr for Range {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Range, &'static str> {
        let (start, end) = text.split_once("..").ok_or("two dots belong between START and END")?;
        let number = |text: &str| match text {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| "START and END are numbers of bytes"),
        };
        Ok(Range { start: number(start)?, end: number(end)? })
    }
}

impl Get {
    /// Writes the blob.
    pub fn run(self) -> Result<(), Failure> {
        let store = self.pack.open()?;
        let blob = store.get(&resolve(&store, &self.digest)?)?;
        let range = match self.range {
            Some(Range { start, end }) => start.unwrap_or(0)..end.unwrap_or(blob.size()),
            None => 0..blob.size(),
        };
        // Refused before the digest is computed, which takes a while for a large blob.
        blob.range(range.clone())?;
        let checking = progress::spinner("checking");
        let checked = blob.verify();
        checking.finish_and_clear();
        checked?;

        let Some(path) = &self.output else {
            return match copy(&blob, range, &io::stdout(), &ProgressBar::hidden()) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                copied => copied.map_err(|error| Failure::new(format!("standard output: {error}"))),
            };
        };
        let bar = progress::bar("writing", range.end - range.start);
        let written = Target::create(path, &store.path()).and_then(|target| {
            copy(&blob, range, target.file(), &bar)?;
            target.publish()
        });
        bar.finish_and_clear();
        written.map_err(|error| Failure::new(format!("{}: {error}", path.display())))
    }
}

/// Where `-o` writes to.
enum Target {
    /// A device, a pipe: there is nothing to put in its place.
    Direct(File),
    /// A file under a name of its own until it is whole.
    Temporary { file: File, name: Temporary, target: PathBuf },
}

/// A file that is removed unless it was renamed.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Target {
    fn create(path: &Path, pack: &Path) -> io::Result<Target> {
        // Through symbolic links, which are to stay.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let old = match fs::metadata(&target) {
            Ok(old) if !old.is_file() => {
                return OpenOptions::new().write(true).open(&target).map(Target::Direct);
            }
            Ok(old) if is_same_file(&old, &fs::metadata(pack)?) => return Err(io::Error::other("is the pack itself")),
            old => old.ok(),
        };
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

    fn file(&self) -> &File {
        match self {
            Target::Direct(file) | Target::Temporary { file, .. } => file,
        }
    }

    /// Gives the whole file its name.
    fn publish(self) -> io::Result<()> {
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
