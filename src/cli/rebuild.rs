//! `blobpack rebuild`: the index anew.

use clap::Args;

use super::failure::Failure;
use super::output::{Output, count, note};
use super::pack::{Json, WritePack, close};
use super::progress;

/// Make the index anew from the log alone.
///
/// Everything that the pack knows stands in its log; the index is derived from it.
#[derive(Args)]
#[command(after_help = "\
Examples:
  blobpack rebuild store.pack

--json prints the rebuilt pack's totals as one object, the one of `blobpack stat`.")]
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
        close(store);
        Ok(())
    }
}
