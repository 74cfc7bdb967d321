//! `blobpack put`: files into the pack.
//!
//! A commit costs a sync, so files share one: a batch is committed when it has many files or many bytes. A file's line
//! is printed once its batch is durable, never before. Small files wait in memory; large ones, and whatever does not
//! end, stream into the pack in constant memory. What a file's metadata says of its size is only a hint: it may change
//! while it is read.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::ProgressBar;
use serde::Serialize;

use blobpack::{Algorithm, Batch, Digest, Error, Name, Outcome, Store};

use super::failure::Failure;
use super::output::{Output, checksum_line, complain};
use super::pack::{Json, WritePack, close, is_same_file, note_removed};
use super::progress;

/// Files up to this size wait in memory for their batch, longer ones stream.
const SMALL_BYTES_MAX: usize = 64 << 10;
/// A batch has at most so many files.
const BATCH_FILES_MAX: usize = 1_000;
/// A batch is committed when so many bytes wait in memory.
const BATCH_SMALL_BYTES: u64 = 8 << 20;
/// A batch is committed when so many bytes were streamed: what follows is not to hold up their lines for long.
const BATCH_STREAMED_BYTES: u64 = 256 << 20;
/// A stream is read in pieces of this size.
const PIECE_BYTES: usize = 1 << 20;

/// Store files. The pack is created where there is none.
///
/// Prints `DIGEST  NAME` a line once the file is durable. You have one reference on each blob then; a file that is in
/// the pack already is not stored again but has one reference more.
///
/// Counts: each blob has one reference more, yours; a new one has its first. With --name it is the name's, and what had
/// the name before has one less, as with `name`.
///
/// Costs: every file is read and hashed once. What is new is written once; a file of 64 KiB or more is written before
/// it is known whether it is stored already, and given back then. One sync for up to 1,000 files. A few MiB of memory,
/// however long the files are.
///
/// Never: keeps the same bytes twice, prints a line before its blob is durable, changes a file.
#[derive(Args)]
#[command(after_help = "\
Examples:
  blobpack put store.pack report.pdf photo.jpg
  tar c src | blobpack put store.pack
  find src -type f -print0 | xargs -0 blobpack put store.pack
  blobpack put --algorithm sha512 store.pack disk.img
  blobpack put --name reports/today store.pack report.pdf

A name with a backslash or a line's end in it is escaped as sha256sum does it. A file that can't be read is named \
on standard error; the others are stored all the same, and the exit code is 1.
--json prints an object a line: {\"digest\",\"name\",\"size\",\"ref_count\"}; what is not UTF-8 in a name \
is replaced by U+FFFD.")]
pub struct Put {
    #[command(flatten)]
    pack: WritePack,
    /// The files; standard input without any, or for -
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Name the blobs by this hash: sha256, sha384 or sha512
    #[arg(long, value_name = "HASH", default_value = "sha256")]
    algorithm: Algorithm,
    /// Give the blob of the only file this name, as `name` does, in the same commit
    #[arg(long, value_name = "NAME")]
    name: Option<Name>,
    #[command(flatten)]
    format: Json,
}

impl Put {
    /// Stores the files.
    pub fn run(mut self) -> Result<(), Failure> {
        if self.files.is_empty() {
            self.files.push("-".into());
        }
        if self.name.is_some() && self.files.len() > 1 {
            return Err(Failure::wrong_usage("--name is for one file, and there are more"));
        }
        let store = self.pack.open_or_create()?;
        let mut ingest = Ingest {
            batch: store.batch(),
            store: &store,
            algorithm: self.algorithm,
            name: self.name,
            json: self.format.json,
            output: Output::new(),
            bar: bar_over(&self.files),
            waiting: Vec::new(),
            small_bytes: 0,
            streamed_bytes: 0,
            piece: Vec::new(),
            unreadable: false,
        };
        let outcome = ingest.files(&self.files);
        ingest.bar.finish_and_clear();
        let unreadable = ingest.unreadable;
        drop(ingest);
        outcome?;
        close(store);
        if unreadable { Err(Failure::reported()) } else { Ok(()) }
    }
}

/// A bar over all bytes, or a count of bytes where their number is not known before.
fn bar_over(files: &[PathBuf]) -> ProgressBar {
    let mut total = 0;
    for file in files {
        match file.metadata() {
            Ok(metadata) if metadata.is_file() && file.as_os_str() != "-" => total += metadata.len(),
            _ => return progress::spinner("storing"),
        }
    }
    progress::bar("storing", total)
}

/// A file whose batch is not durable yet.
struct Waiting<'f> {
    digest: Digest,
    name: &'f OsStr,
}

/// The JSON of a stored file.
#[derive(Serialize)]
struct Line<'a> {
    digest: Digest,
    name: &'a str,
    size: u64,
    ref_count: u64,
}

/// Why a file was not taken in.
enum Refused {
    /// It can't be read. The others can.
    Unreadable(io::Error),
    /// The pack takes nothing more.
    Failed(Failure),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        Refused::Failed(error.into())
    }
}

/// Files on their way into the pack.
struct Ingest<'s, 'f> {
    store: &'s Store,
    algorithm: Algorithm,
    /// Of the only file.
    name: Option<Name>,
    json: bool,
    output: Output,
    bar: ProgressBar,
    batch: Batch,
    /// One for each operation of the batch; with a name that is set, one for both.
    waiting: Vec<Waiting<'f>>,
    small_bytes: u64,
    streamed_bytes: u64,
    /// What was read last; kept for the next file.
    piece: Vec<u8>,
    unreadable: bool,
}

impl<'f> Ingest<'_, 'f> {
    fn files(&mut self, files: &'f [PathBuf]) -> Result<(), Failure> {
        for file in files {
            match self.take(file) {
                Ok(digest) => {
                    self.waiting.push(Waiting { digest, name: file.as_os_str() });
                    if let Some(name) = &self.name {
                        self.batch.set_name(name, &digest);
                    }
                }
                Err(Refused::Unreadable(error)) => {
                    self.bar.suspend(|| complain(&format!("{}: {error}", file.display())));
                    self.unreadable = true;
                }
                Err(Refused::Failed(failure)) => {
                    // What was read before is still good, unless the pack is not: then the second failure says the
                    // same.
                    let _ = self.commit();
                    return Err(failure.about(&file.display().to_string()));
                }
            }
            if self.waiting.len() >= BATCH_FILES_MAX
                || self.small_bytes >= BATCH_SMALL_BYTES
                || self.streamed_bytes >= BATCH_STREAMED_BYTES
            {
                self.commit()?;
            }
        }
        self.commit()
    }

    /// Reads a file to its end into the batch.
    fn take(&mut self, path: &Path) -> Result<Digest, Refused> {
        let (mut file, size_hint) = open(path, &self.store.path()).map_err(Refused::Unreadable)?;
        read_piece(&mut file, &mut self.piece, SMALL_BYTES_MAX).map_err(Refused::Unreadable)?;
        if self.piece.len() < SMALL_BYTES_MAX {
            let digest = self.batch.put_with(self.algorithm, &self.piece)?;
            self.small_bytes += self.piece.len() as u64;
            self.bar.inc(self.piece.len() as u64);
            return Ok(digest);
        }
        let mut writer = self.store.writer(self.algorithm)?;
        if let Some(bytes) = size_hint {
            writer = writer.size_hint(bytes);
        }
        while !self.piece.is_empty() {
            if writer.write_all(&self.piece).is_err() {
                // The writer keeps its first error and returns it when it is staged.
                break;
            }
            self.streamed_bytes += self.piece.len() as u64;
            self.bar.inc(self.piece.len() as u64);
            read_piece(&mut file, &mut self.piece, PIECE_BYTES).map_err(Refused::Unreadable)?;
        }
        Ok(self.batch.add(writer.stage()?)?)
    }

    /// Makes the batch durable, then says so.
    fn commit(&mut self) -> Result<(), Failure> {
        let batch = std::mem::replace(&mut self.batch, self.store.batch());
        let waiting = std::mem::take(&mut self.waiting);
        (self.small_bytes, self.streamed_bytes) = (0, 0);
        if waiting.is_empty() {
            return Ok(());
        }
        let outcomes = batch.commit().map_err(|error| match error {
            Error::Batch { index, source } => {
                // With a name there are two operations for the one file.
                let file = waiting.get(index).or(waiting.last());
                let name = file.map_or_else(|| "-".into(), |file| file.name.to_string_lossy());
                Failure::from(*source).about(&name)
            }
            error => error.into(),
        })?;
        let (output, store, named) = (&mut self.output, self.store, self.name.is_some());
        self.bar.suspend(|| {
            for (outcome, Waiting { digest, name }) in outcomes.iter().zip(waiting) {
                let Outcome::Blob(blob) = outcome else { continue };
                if self.json {
                    let name = &*name.to_string_lossy();
                    // The name may have had this blob already, and consumed the new reference.
                    let ref_count = if named { store.descriptor(&digest)?.ref_count } else { blob.ref_count };
                    output.json(&Line { digest, name, size: blob.size, ref_count })?;
                } else {
                    output.bytes(&checksum_line(digest, name))?;
                }
            }
            output.flush()
        })?;
        if let Some(Outcome::Removed(removed)) = outcomes.last().filter(|_| named) {
            self.bar.suspend(|| note_removed(removed));
        }
        Ok(())
    }
}

/// Opens a file, or standard input for `-`; with the size that it has now, where it has one.
fn open(path: &Path, pack: &Path) -> io::Result<(File, Option<u64>)> {
    let file = match path.as_os_str() == "-" {
        true => File::from(io::stdin().as_fd().try_clone_to_owned()?),
        false => File::open(path)?,
    };
    let metadata = file.metadata()?;
    if is_same_file(&metadata, &pack.metadata()?) {
        // It grows while it is read, and would be read without an end.
        return Err(io::Error::other("is the pack itself"));
    }
    // The files of /proc say that they are empty.
    let size = (metadata.is_file() && metadata.len() > 0).then_some(metadata.len());
    Ok((file, size))
}

/// Reads so many bytes, fewer only at the end of the file.
fn read_piece(file: impl Read, piece: &mut Vec<u8>, bytes: usize) -> io::Result<()> {
    piece.clear();
    file.take(bytes as u64).read_to_end(piece)?;
    Ok(())
}
