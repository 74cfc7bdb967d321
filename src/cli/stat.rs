//! `blobpack stat`: the pack's totals, or one blob.

use std::fmt::Display;

use clap::Args;

use blobpack::Store;

use super::failure::Failure;
use super::output::Output;
use super::pack::{Detail, Json, ReadPack, resolve};

/// Show the pack's totals, or one blob with its links.
#[derive(Args)]
#[command(after_help = "\
Examples:
  blobpack stat store.pack
  blobpack stat store.pack sha256:2cf24dba
  blobpack stat --json store.pack | jq .dead_bytes

Dead bytes are what `blobpack compact` can give back. A blob's referrers keep it alive.
--json prints one object: {\"blobs\",\"links\",\"live_bytes\",\"dead_bytes\",\"file_bytes\",\"index_bytes\",...} for a \
pack, {\"digest\",\"size\",\"ref_count\",\"links\",\"referrers\"} for a blob.")]
pub struct Stat {
    #[command(flatten)]
    pack: ReadPack,
    /// A blob of the pack, by its digest or the first digits of it
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
                let blob = Detail::of(&store, &resolve(&store, text)?)?;
                if self.format.json { output.json(&blob)? } else { print_blob(&blob, &mut output)? }
            }
            None if self.format.json => output.json(&store.stats()?)?,
            None => print_pack(&store, &mut output)?,
        }
        output.flush()
    }
}

fn print_pack(store: &Store, output: &mut Output) -> Result<(), Failure> {
    let stats = store.stats()?;
    let uuid: String = store.uuid().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut row = |name: &str, value: &dyn Display| output.line(format_args!("{name:<12}  {value:>20}"));
    row("blobs", &stats.blobs)?;
    row("links", &stats.links)?;
    row("live bytes", &stats.live_bytes)?;
    row("dead bytes", &stats.dead_bytes)?;
    row("file bytes", &stats.file_bytes)?;
    row("disk bytes", &stats.disk_bytes)?;
    row("index bytes", &stats.index_bytes)?;
    row("index load", &format_args!("{:.2}", stats.index_load))?;
    row("commits", &stats.commits)?;
    output.line(format_args!("{:<12}  {uuid}", "uuid"))
}

fn print_blob(blob: &Detail, output: &mut Output) -> Result<(), Failure> {
    output.line(format_args!("{:<12}  {}", "digest", blob.digest))?;
    output.line(format_args!("{:<12}  {}", "size", blob.size))?;
    output.line(format_args!("{:<12}  {}", "references", blob.ref_count))?;
    for digest in &blob.links {
        output.line(format_args!("{:<12}  {digest}", "links to"))?;
    }
    for digest in &blob.referrers {
        output.line(format_args!("{:<12}  {digest}", "linked from"))?;
    }
    Ok(())
}
