//! What verbs share: opening the pack, reading digests, showing one blob.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use blobpack::{Algorithm, Descriptor, Digest, Error, OpenOptions, Recovery, Removed, Store};
use clap::Args;
use serde::Serialize;

use super::failure::Failure;
use super::name::Line;
use super::output::{Output, Size, complain, count, note, size_note};

/// The pack of a verb that reads.
#[derive(Args)]
pub struct ReadPack {
    /// The pack: a file, or a directory with a file blobs.pack in it
    #[arg(value_name = "PACK")]
    pub path: PathBuf,
}

impl ReadPack {
    /// Opens the pack beside whoever writes to it.
    pub fn open(&self) -> Result<Store, Failure> {
        Ok(Store::options().read_only(true).open(&self.path)?)
    }
}

/// The pack of a verb that writes.
#[derive(Args)]
pub struct WritePack {
    /// The pack: a file, or a directory with a file blobs.pack in it
    #[arg(value_name = "PACK")]
    pub path: PathBuf,
    /// Wait so long for another process that writes to the pack, then exit with code 5
    #[arg(long, value_name = "SECS", value_parser = seconds)]
    wait: Option<Duration>,
}

impl WritePack {
    /// Opens a pack that is there, for writing.
    pub fn open(&self) -> Result<Store, Failure> {
        Ok(self.options().open(&self.path).inspect(|store| note_dropped(&store.recovery()))?)
    }

    /// Opens the pack for reading, if there is one.
    pub fn read_if_there(&self) -> Result<Option<Store>, Failure> {
        match Store::options().read_only(true).open(&self.path) {
            Ok(store) => Ok(Some(store)),
            Err(Error::NoPack { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the pack for writing, or creates it.
    pub fn open_or_create(&self) -> Result<Store, Failure> {
        Ok(self.options().create(true).open(&self.path).inspect(|store| note_dropped(&store.recovery()))?)
    }

    /// How the pack is opened.
    pub fn options(&self) -> OpenOptions {
        let options = Store::options().create(false);
        match self.wait {
            Some(wait) => options.lock_timeout(wait),
            None => options,
        }
    }
}

/// Whether results are for a script.
#[derive(Args)]
pub struct Json {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// Says how much was found behind the log's end, and is taken to be incomplete.
pub fn note_dropped(recovery: &Recovery) {
    if recovery.dropped_commits > 0 {
        note(&format!("dropped {} that the log's end does not hold whole", count(recovery.dropped_commits, "commit")));
    }
}

/// Ends the work with a pack that was written to.
///
/// What the verb did is durable already; a checkpoint that fails only makes the next open slower.
pub fn close(store: Store) {
    if let Err(error) = store.close() {
        complain(&format!("warning: everything is stored, but no checkpoint could be written: {error}"));
    }
}

/// Whether both lead to the same file.
pub fn is_same_file(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Reads a digest, a prefix that one blob begins with, or a name.
pub fn resolve(store: &Store, text: &str) -> Result<Digest, Failure> {
    match store.resolve(text) {
        Err(Error::InvalidDigest { .. }) if is_prefix(text) => Err(Failure::no_blob_begins_with(text)),
        Err(Error::NoSuchName { name }) if is_foreign_digest(text) => {
            Err(text.parse::<Digest>().err().unwrap_or(Error::NoSuchName { name }).into())
        }
        resolved => Ok(resolved?),
    }
}

/// Whether a text that is a name by the rules was more likely meant as a digest: of another algorithm, or with its
/// label in upper case. The shortest digest in use, of MD5, has 32 digits.
fn is_foreign_digest(text: &str) -> bool {
    let hex = text.split_once(':').map_or("", |(_, hex)| hex);
    hex.len() >= 32 && hex.bytes().all(|digit| digit.is_ascii_hexdigit())
}

/// Whether a text is written as a digest's prefix is.
fn is_prefix(text: &str) -> bool {
    let Some((label, hex)) = text.split_once(':') else { return false };
    let Some(algorithm) = Algorithm::from_label(label) else { return false };
    (8..=2 * algorithm.digest_bytes()).contains(&hex.len())
        && hex.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// One blob, with what it links to and what links to it: the JSON of `stat`, `ref`, `link` and `unlink`.
#[derive(Serialize)]
pub struct Detail {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// How many references there are to it.
    pub ref_count: u64,
    /// What it links to, in the order in which the links were made.
    pub links: Vec<Digest>,
    /// What links to it, likewise.
    pub referrers: Vec<Digest>,
}

impl Detail {
    /// Looks a blob up.
    pub fn of(store: &Store, digest: &Digest) -> Result<Detail, Error> {
        let Descriptor { digest, size, ref_count, .. } = store.descriptor(digest)?;
        let mut links: Vec<_> = store.links(&digest)?.collect::<Result<_, _>>()?;
        let mut referrers: Vec<_> = store.referrers(&digest)?.collect::<Result<_, _>>()?;
        links.reverse();
        referrers.reverse();
        Ok(Detail { digest, size, ref_count, links, referrers })
    }

    /// A blob that is gone.
    pub fn removed(was: &Descriptor) -> Detail {
        Detail { digest: was.digest, size: was.size, ref_count: 0, links: Vec::new(), referrers: Vec::new() }
    }
}

/// A blob on a line: digest, size, references, links.
pub fn long_line(blob: &Descriptor) -> String {
    // As wide as a SHA-256 digest, which most are; a listing has no end to look ahead to for the widest.
    let (digest, size) = (blob.digest.to_string(), Size::on_stdout(blob.size));
    format!("{digest:<71}  {size:>14}  {:>8}  {:>8}", blob.ref_count, blob.link_count)
}

/// Says what was removed, in JSON behind the fields of `before`, and ends the work with the pack.
pub fn end_removal(store: Store, removed: Removed, json: bool, before: Option<&Line>) -> Result<(), Failure> {
    let mut output = Output::new();
    if json {
        json_removed(before, &removed, &mut output)?;
    } else {
        print_removed(&removed, &mut output)?;
    }
    drop(removed);
    close(store);
    Ok(())
}

/// What was removed as one JSON object, behind the fields of another one. Written as it is read: a cascade can be
/// longer than memory holds.
fn json_removed(before: Option<&Line>, removed: &Removed, output: &mut Output) -> Result<(), Failure> {
    let before = before.map(serde_json::to_string).transpose();
    let before = before.map_err(|e| Failure::new(format!("writing JSON: {e}")))?;
    match before.as_deref().and_then(|object| object.strip_suffix('}')) {
        Some(fields) => output.text(format_args!("{fields},\"removed\":["))?,
        None => output.text(format_args!("{{\"removed\":["))?,
    }
    for (n, digest) in removed.digests().enumerate() {
        output.text(format_args!("{}\"{}\"", if n == 0 { "" } else { "," }, digest?))?;
    }
    output.line(format_args!("],\"reclaimable_bytes\":{}}}", removed.reclaimable_bytes()))?;
    output.flush()
}

/// Says on standard output what was removed, on standard error how much that was.
pub fn print_removed(removed: &Removed, output: &mut Output) -> Result<(), Failure> {
    for digest in removed.digests() {
        output.line(digest?)?;
    }
    output.flush()?;
    note_removed(removed);
    Ok(())
}

/// Says on standard error how much was removed.
pub fn note_removed(removed: &Removed) {
    let (blobs, bytes) = (count(removed.blobs(), "blob"), size_note(removed.reclaimable_bytes()));
    note(&format!("removed {blobs}; compaction can free {bytes}"));
}
