//! `blobpack inspect`: the file, frame by frame.

use std::io;

use clap::Args;

use super::failure::Failure;
use super::output::{BAD, Output, Paint};
use super::pack::{Json, ReadPack};

/// Show what the file holds, frame by frame.
///
/// Never writes, takes no lock and goes on behind damage. What stands behind the end of the log is shown too, so a
/// frame that is not valid is not always damage: `blobpack verify` says whether it is.
///
/// Counts: none change.
///
/// Costs: the whole file is read once. Memory stays the same, however long it is: a commit at a time, some 80 MiB at
/// most.
///
/// Never: writes, takes the lock, stops at damage.
#[derive(Args)]
#[command(after_help = "\
Examples:
  blobpack inspect store.pack | less
  blobpack inspect --json store.pack | jq -c 'select(.valid | not)'

Prints offset, kind and length of each frame, and what is in it.
--json prints an object a line: {\"offset\",\"kind\",\"length\",\"detail\",\"valid\"}.")]
pub struct Inspect {
    #[command(flatten)]
    pack: ReadPack,
    #[command(flatten)]
    format: Json,
}

impl Inspect {
    /// Shows the frames.
    pub fn run(self) -> Result<(), Failure> {
        let mut output = Output::new();
        let invalid = format!("  {}", Paint::of(&io::stdout()).paint(BAD, "NOT VALID"));
        for item in blobpack::inspect(&self.pack.path)? {
            if self.format.json {
                output.json(&item)?;
            } else {
                let invalid = if item.valid { "" } else { &invalid };
                let (offset, kind, length, detail) = (item.offset, item.kind, item.length, &item.detail);
                output.line(format_args!("{offset:>16}  {kind:<10}  {length:>14}  {detail}{invalid}"))?;
            }
            if output.is_closed() {
                break;
            }
        }
        output.flush()
    }
}
