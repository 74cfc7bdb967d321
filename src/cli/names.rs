//! `blobpack names`: all names.

use std::ffi::OsStr;

use clap::Args;

use super::failure::Failure;
use super::name::Line;
use super::output::{Output, checksum_line};
use super::pack::{Json, ReadPack};

/// List the names with the blobs that have them, sorted by name.
///
/// Counts: none change.
///
/// Costs: a lookup for each name, and memory for all of them. Blobs without a name are not looked at.
///
/// Never: reads the bytes of a blob, writes to the pack or waits for who does.
#[derive(Args)]
#[command(after_help = "\
Examples:
  blobpack names store.pack
  blobpack names --json store.pack | jq -r .name

Prints `DIGEST  NAME` a line; a name with a backslash in it is escaped as `put` does it.
--json prints an object a line: {\"name\",\"digest\"}.")]
pub struct Names {
    #[command(flatten)]
    pack: ReadPack,
    #[command(flatten)]
    format: Json,
}

impl Names {
    /// Lists the names.
    pub fn run(self) -> Result<(), Failure> {
        let store = self.pack.open()?;
        let mut output = Output::new();
        for (name, digest) in store.names()? {
            if self.format.json {
                output.json(&Line { name, digest })?;
            } else {
                output.bytes(&checksum_line(digest, OsStr::new(name.as_str())))?;
            }
            if output.is_closed() {
                break;
            }
        }
        output.flush()
    }
}
