//! `blobpack ls`: what is in the pack.

use clap::Args;

use super::failure::Failure;
use super::output::Output;
use super::pack::{Json, ReadPack, long_line, resolve};

/// List the blobs, a digest a line.
///
/// The order is the pack's own and stays the same; a listing that was cut off goes on with --after.
///
/// Counts: none change.
///
/// Costs: the index is read once, and of each blob the header of its frame. Memory stays the same, however many blobs
/// there are.
///
/// Never: reads the bytes of a blob, writes to the pack or waits for who does.
#[derive(Args)]
#[command(after_help = "\
Examples:
  blobpack ls store.pack
  blobpack ls --long store.pack | sort -nk2
  blobpack ls --json store.pack | jq -r 'select(.ref_count > 1).digest'
  blobpack ls --after sha256:2cf24dba store.pack

--long prints digest, size in bytes, references to the blob, and links that it holds.
--json prints an object a line: {\"digest\",\"size\",\"ref_count\",\"link_count\"}.")]
pub struct Ls {
    #[command(flatten)]
    pack: ReadPack,
    /// Print size, references and links too
    #[arg(long, short)]
    long: bool,
    /// Begin behind this blob
    #[arg(long, value_name = "DIGEST")]
    after: Option<String>,
    #[command(flatten)]
    format: Json,
}

impl Ls {
    /// Lists the blobs.
    pub fn run(self) -> Result<(), Failure> {
        let store = self.pack.open()?;
        let mut output = Output::new();
        let after = self.after.as_deref().map(|text| resolve(&store, text)).transpose()?;
        if self.long || self.format.json {
            let blobs = after.map_or_else(|| store.descriptors(), |digest| store.descriptors_after(&digest));
            for blob in blobs {
                match blob? {
                    blob if self.format.json => output.json(&blob)?,
                    blob => output.line(long_line(&blob))?,
                }
                if output.is_closed() {
                    break;
                }
            }
        } else {
            for digest in after.map_or_else(|| store.list(), |digest| store.list_after(&digest)) {
                output.line(digest?)?;
                if output.is_closed() {
                    break;
                }
            }
        }
        output.flush()
    }
}
