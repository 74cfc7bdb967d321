//! `blobpack get`: a blob out of the pack.

use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use indicatif::ProgressBar;

use super::copy::copy;
use super::failure::Failure;
use super::pack::{ReadPack, resolve};
use super::progress;
use super::target::Target;

/// Write a blob to standard output or to a file.
///
/// The whole blob's digest is checked before its first byte goes out, for a range too.
///
/// Counts: none change.
///
/// Costs: the whole blob is hashed, for a range too; then the kernel copies what was asked for.
///
/// Never: writes to the pack or waits for who does, lets a byte of a damaged blob out, leaves half a file at the path
/// of -o.
#[derive(Args)]
#[command(after_help = "\
Examples:
  blobpack get store.pack sha256:2cf24dba > report.pdf
  blobpack get store.pack sha256:2cf24dba -o report.pdf
  blobpack get store.pack sha256:2cf24dba --range 0..4 | xxd

A file given with -o appears whole or not at all.")]
pub struct Get {
    #[command(flatten)]
    pack: ReadPack,
    /// The blob, by its digest or the first digits of it, or by its name
    digest: String,
    /// Write to this file; - is standard output
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

const NO_NUMBER: &str = "START and END are numbers of bytes";

impl FromStr for Range {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Range, &'static str> {
        let (start, end) = text.split_once("..").ok_or("two dots belong between START and END")?;
        let number = |text: &str| match text {
            "" => Ok(None),
            // A sign, which the parser would take, is more likely a slip.
            text if text.starts_with('+') => Err(NO_NUMBER),
            text => text.parse().map(Some).map_err(|_| NO_NUMBER),
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

        let Some(path) = self.output.filter(|path| path.as_os_str() != "-") else {
            return match copy(&blob, range, &io::stdout(), &ProgressBar::hidden()) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                copied => copied.map_err(|error| Failure::new(format!("standard output: {error}"))),
            };
        };
        let bar = progress::bar("writing", range.end - range.start);
        let written = Target::create(&path, &store.path()).and_then(|target| {
            copy(&blob, range, target.file(), &bar)?;
            target.publish()
        });
        bar.finish_and_clear();
        written.map_err(|error| Failure::new(format!("{}: {error}", path.display())))
    }
}
