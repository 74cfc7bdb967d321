//! `blobpack du`: what is kept by whom.

use clap::Args;
use serde::Serialize;

use blobpack::Keeps;

use super::failure::Failure;
use super::output::{Output, Size, note};
use super::pack::{Json, ReadPack};

/// Show what each name keeps, and what would go without it.
///
/// Unique are the bytes of blobs that only this name keeps, shared those of blobs that others keep too. Frees is what a
/// compaction gives back once the name is removed: frames, headers included. References without a name stand together
/// on a line of their own, as if all of them were dropped.
///
/// Counts: none change; this is a dry run.
///
/// Costs: all records of the index are read, and all that each name reaches is walked; some 80 bytes of memory a blob,
/// 110 where you have a reference on it, and 24 a link.
///
/// Never: reads the bytes of a blob, writes to the pack or waits for who does.
#[derive(Args)]
#[command(after_help = "\
Examples:
  blobpack du store.pack
  blobpack du store.pack | sort -n
  blobpack du --json store.pack | jq .unique.reclaimable_bytes

--json prints an object a line: {\"name\",\"digest\",\"unique\":{\"blobs\",\"bytes\",\"reclaimable_bytes\"},\
\"shared\":{...}}, at last {\"references\",...} for those without a name.")]
pub struct Du {
    #[command(flatten)]
    pack: ReadPack,
    #[command(flatten)]
    format: Json,
}

/// The JSON of a line.
#[derive(Serialize)]
struct Line<'a> {
    references: u64,
    #[serde(flatten)]
    keeps: &'a Keeps,
}

impl Du {
    /// Shows the usage.
    pub fn run(self) -> Result<(), Failure> {
        let store = self.pack.open()?;
        let usage = store.usage()?;
        let mut output = Output::new();
        if self.format.json {
            for name in &usage.names {
                output.json(name)?;
            }
            output.json(&Line { references: usage.caller_references, keeps: &usage.callers })?;
        } else {
            output.line(format_args!("{:>14}  {:>14}  {:>14}  name", "unique", "shared", "frees"))?;
            for usage in &usage.names {
                print(&usage.keeps, usage.name.as_str(), &mut output)?;
            }
            print(&usage.callers, "(without a name)", &mut output)?;
        }
        output.flush()?;
        if usage.moving {
            note("a writer was at work meanwhile: the figures are those of about now");
        }
        Ok(())
    }
}

fn print(keeps: &Keeps, name: &str, output: &mut Output) -> Result<(), Failure> {
    output.line(format_args!(
        "{:>14}  {:>14}  {:>14}  {name}",
        Size::on_stdout(keeps.unique.bytes),
        Size::on_stdout(keeps.shared.bytes),
        Size::on_stdout(keeps.unique.reclaimable_bytes),
    ))
}
