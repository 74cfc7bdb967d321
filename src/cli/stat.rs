//! `blobpack stat`: the pack's totals, or one blob.

use std::fmt::Display;

use clap::Args;
use serde::Serialize;

use blobpack::{CompactionEstimate, Name, Stats, Store};

use super::failure::Failure;
use super::output::{Output, Size, percent};
use super::pack::{Detail, Json, ReadPack, resolve};

/// Show the pack's totals, or one blob with its names and links.
///
/// Counts: none change.
///
/// Costs: totals are counters that the pack keeps. What a compaction would give back is worked out from all records of
/// the index: 40 bytes of memory a blob, 8 a link. For a blob its links and referrers are listed, a lookup each, and
/// all names of the pack are looked through.
///
/// Never: reads the bytes of a blob, writes to the pack or waits for who does.
#[derive(Args)]
#[command(after_help = "\
Examples:
  blobpack stat store.pack
  blobpack stat store.pack sha256:2cf24dba
  blobpack stat --json store.pack | jq .dead_bytes

Shares are of what the file takes on the disk. Dead bytes are frames of removed blobs; compaction gives back more: \
superseded commits, index regions, and space that waits to be used. What links to a blob keeps it alive, and so do its \
names. Of its references, those that neither hold are held by callers.
--json prints one object: {\"blobs\",\"links\",\"names\",\"live_bytes\",\"dead_bytes\",\"file_bytes\",\
\"index_bytes\",...,\"compaction\":{\"before_bytes\",\"after_bytes\",\"freed_bytes\"}} for a pack, \
{\"digest\",\"size\",\"ref_count\",\"links\",\"referrers\",\"names\"} for a blob.")]
pub struct Stat {
    #[command(flatten)]
    pack: ReadPack,
    /// A blob of the pack, by its digest or the first digits of it, or by its name
    digest: Option<String>,
    #[command(flatten)]
    format: Json,
}

impl Stat {
    /// Shows the pack or the blob.
    pub fn run(self) -> Result<(), Failure> {
        let store = self.pack.open()?;
        let mut output = Output::new();
        match &self.digest {
            Some(text) => {
                let blob = Named::of(&store, text)?;
                if self.format.json { output.json(&blob)? } else { print_blob(&blob, &mut output)? }
            }
            None if self.format.json => {
                let (totals, compaction) = (store.stats()?, store.compaction_estimate()?);
                output.json(&Totals { totals, compaction })?;
            }
            None => print_pack(&store, &mut output)?,
        }
        output.flush()
    }
}

/// The JSON of a pack.
#[derive(Serialize)]
struct Totals {
    #[serde(flatten)]
    totals: Stats,
    compaction: CompactionEstimate,
}

fn print_pack(store: &Store, output: &mut Output) -> Result<(), Failure> {
    let stats = store.stats()?;
    let uuid: String = store.uuid().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut row = |name: &str, value: &dyn Display| output.line(format_args!("{name:<12}  {value:>20}"));
    row("blobs", &stats.blobs)?;
    row("links", &stats.links)?;
    row("names", &stats.names)?;
    row("commits", &stats.commits)?;
    row("index load", &format_args!("{:.2}", stats.index_load))?;
    row("file bytes", &Size::on_stdout(stats.file_bytes))?;
    let own = stats.live_bytes.saturating_add(stats.dead_bytes).saturating_add(stats.index_bytes);
    for (name, bytes) in [
        ("disk bytes", stats.disk_bytes),
        ("live bytes", stats.live_bytes),
        ("dead bytes", stats.dead_bytes),
        ("index bytes", stats.index_bytes),
        ("other bytes", stats.disk_bytes.saturating_sub(own)),
    ] {
        let share = percent(bytes, stats.disk_bytes);
        output.line(format_args!("{name:<12}  {:>20}  {share:>7}", Size::on_stdout(bytes)))?;
    }
    output.line(format_args!("{:<12}  {uuid}", "uuid"))?;
    output.line("")?;
    // Last, as a damaged index is an error here and not above.
    let CompactionEstimate { before_bytes, after_bytes, freed_bytes, .. } = store.compaction_estimate()?;
    output.line(format_args!(
        "compaction would give back {} of {}, {}, and leave {}",
        Size::on_stdout(freed_bytes),
        Size::on_stdout(before_bytes),
        percent(freed_bytes, before_bytes),
        Size::on_stdout(after_bytes),
    ))
}

/// A blob with its names, which the other verbs' JSON has not: it takes a look at all names to find them.
#[derive(Serialize)]
struct Named {
    #[serde(flatten)]
    blob: Detail,
    names: Vec<Name>,
}

impl Named {
    fn of(store: &Store, text: &str) -> Result<Named, Failure> {
        let blob = Detail::of(store, &resolve(store, text)?)?;
        let names = store.names()?.into_iter().filter(|(_, digest)| *digest == blob.digest);
        Ok(Named { names: names.map(|(name, _)| name).collect(), blob })
    }

    /// References that neither links nor names hold. Beside a writer the numbers may be from different moments.
    fn held_by_callers(&self) -> u64 {
        self.blob.ref_count.saturating_sub((self.blob.referrers.len() + self.names.len()) as u64)
    }
}

fn print_blob(named: &Named, output: &mut Output) -> Result<(), Failure> {
    let blob = &named.blob;
    output.line(format_args!("{:<12}  {}", "digest", blob.digest))?;
    output.line(format_args!("{:<12}  {}", "size", Size::on_stdout(blob.size)))?;
    output.line(format_args!("{:<12}  {}", "references", blob.ref_count))?;
    output.line(format_args!("{:<12}  {}", "of callers", named.held_by_callers()))?;
    for name in &named.names {
        output.line(format_args!("{:<12}  {name}", "name"))?;
    }
    for digest in &blob.links {
        output.line(format_args!("{:<12}  {digest}", "links to"))?;
    }
    for digest in &blob.referrers {
        output.line(format_args!("{:<12}  {digest}", "linked from"))?;
    }
    Ok(())
}
