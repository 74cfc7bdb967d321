//! `blobpack compact`: the space of removed blobs comes back.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use blobpack::{CompactOptions, Finding};

use super::failure::Failure;
use super::output::{Output, Size, note};
use super::pack::{Json, WritePack, close};
use super::progress;

/// Give back the space of removed blobs.
///
/// Copies what is alive into a new file, checking every digest on the way, and puts it in the pack's place. Until then
/// the pack is untouched; readers that have it open go on undisturbed.
///
/// Counts: none change; of a link or a name that --leave-out-damaged leaves out the reference becomes a caller's, so
/// that its blob stays.
///
/// Costs: every live blob is read, hashed and written once, with --leave-out-damaged read and hashed twice. While it
/// runs it needs as much free space as `stat` says that it would leave: the live blobs and a new index. Other processes
/// can't write meanwhile.
///
/// Never: touches the pack before its successor is whole and durable, disturbs who reads the old file, copies a damaged
/// blob, loses one without being told to.
#[derive(Args)]
#[command(after_help = "\
Examples:
  blobpack compact store.pack
  blobpack compact --min-dead 25 --wait 60 store.pack
  blobpack compact --output ../elsewhere/store.pack store.pack
  blobpack compact --leave-out-damaged --output sound.pack store.pack

Prints the bytes before, after and freed.
A damaged blob is an error, and nothing is changed; let `verify --repair` do first what it can. What then is still \
damaged --leave-out-damaged leaves out and tells: blobs, with their links and names, and names whose texts are \
damaged, whatever --min-dead says. What links to them is incomplete until they are stored and linked again. Without \
--output the damaged pack is replaced. Where index and log are both damaged nothing can be compacted: `get` what it \
still finds, by the digests that `inspect` shows, and put that into a new pack.
--json prints one object: {\"before_bytes\",\"after_bytes\",\"freed_bytes\"}, with --leave-out-damaged also \
\"left_out\":[{\"offset\",\"digest\",\"name\",\"what\",\"referrers\"}...].")]
pub struct Compact {
    #[command(flatten)]
    pack: WritePack,
    /// Do nothing where less than so many percent would be given back; `stat` says how much that is
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    min_dead: Option<u8>,
    /// Write the compacted pack to this file, on another file system if need be, and leave the pack where it is
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Leave out blobs and names that are damaged, and tell each
    #[arg(long)]
    leave_out_damaged: bool,
    #[command(flatten)]
    format: Json,
}

/// The JSON of a compaction.
#[derive(Serialize)]
struct Report {
    before_bytes: u64,
    after_bytes: u64,
    freed_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<Vec<Finding>>,
}

impl Compact {
    /// Compacts the pack.
    pub fn run(self) -> Result<(), Failure> {
        let store = self.pack.open()?;
        let bar = progress::bar("compacting", 0);
        let mut options = CompactOptions::new();
        if let Some(percent) = self.min_dead {
            options = options.min_dead(percent);
        }
        if let Some(output) = self.output {
            options = options.output(output);
        }
        if self.leave_out_damaged {
            options = options.leave_out_damaged();
        }
        let follower = bar.clone();
        options = options.progress(move |done| progress::follow(&follower, &done));
        let compacted = store.compact_with(options);
        bar.finish_and_clear();
        let compacted = compacted?;
        for finding in &compacted.left_out {
            note(&format!("left out: {finding}"));
        }
        let mut output = Output::new();
        if self.format.json {
            output.json(&Report {
                before_bytes: compacted.before_bytes,
                after_bytes: compacted.after_bytes,
                freed_bytes: compacted.freed_bytes,
                left_out: self.leave_out_damaged.then_some(compacted.left_out),
            })?;
        } else {
            output.line(format_args!("before  {:>20}", Size::on_stdout(compacted.before_bytes)))?;
            output.line(format_args!("after   {:>20}", Size::on_stdout(compacted.after_bytes)))?;
            output.line(format_args!("freed   {:>20}", Size::on_stdout(compacted.freed_bytes)))?;
        }
        output.flush()?;
        if compacted.skipped {
            note("not compacted: less would be given back than --min-dead asks for");
        }
        close(store);
        Ok(())
    }
}
