//! `blobpack rebuild`: the index anew.

use clap::Args;

use super::failure::Failure;
use super::output::{Output, count, note};
use super::pack::{Json, WritePack, close};
use super::progress;
use super::verify::note_mended;

/// Make the index anew from the log alone.
///
/// Everything that the pack knows stands in its log; the index is derived from it. That holds for a file that was cut
/// off, too, if all of its log is there.
///
/// Counts: none change; they are in the log. A name whose text is damaged is removed, and told: the reference that it
/// held is a caller's then, so that its blob stays.
///
/// Costs: the log is read once, without the bytes of the blobs, and a new index is written.
///
/// Never: changes a blob or what stands in the log, goes on where the log itself is damaged: `verify --repair` does.
#[derive(Args)]
#[command(after_help = "\
Examples:
  blobpack rebuild store.pack

--json prints the rebuilt pack's totals as one object, the one of `blobpack stat` without \"compaction\".")]
pub struct Rebuild {
    #[command(flatten)]
    pack: WritePack,
    #[command(flatten)]
    format: Json,
}

impl Rebuild {
    /// Rebuilds the index.
    pub fn run(self) -> Result<(), Failure> {
        let spinner = progress::spinner("rebuilding the index");
        let rebuilt = self.pack.options().rebuild(&self.pack.path);
        spinner.finish_and_clear();
        let store = rebuilt?;
        let stats = store.stats()?;
        if self.format.json {
            let mut output = Output::new();
            output.json(&stats)?;
            output.flush()?;
        } else {
            note(&format!("{} and {} indexed", count(stats.blobs, "blob"), count(stats.links, "link")));
        }
        note_mended(&store.recovery());
        close(store);
        Ok(())
    }
}
