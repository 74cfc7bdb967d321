//! `blobpack ls`: what is in the pack.

use blobpack::Error;
use clap::Args;

use super::failure::Failure;
use super::output::{Output, complain};
use super::pack::{Json, ReadPack, long_line, resolve};

/// List the blobs, a digest a line.
///
/// The order is the pack's own and stays the same; a listing that was cut off goes on with --after. Where the disk has
/// lost what a blob is, that is told, and the others are listed.
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
        let output = Output::new();
        let after = self.after.as_deref().map(|text| resolve(&store, text)).transpose()?;
        if self.long || self.format.json {
            let blobs = after.map_or_else(|| store.descriptors(), |digest| store.descriptors_after(&digest));
            print(output, blobs, |output, blob| match blob {
                blob if self.format.json => output.json(&blob),
                blob => output.line(long_line(&blob)),
            })
        } else {
            let digests = after.map_or_else(|| store.list(), |digest| store.list_after(&digest));
            print(output, digests, |output, digest| output.line(digest))
        }
    }
}

/// Prints all that can be told, and says what can't.
fn print<T>(
    mut output: Output,
    listing: impl Iterator<Item = Result<T, Error>>,
    line: impl Fn(&mut Output, T) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut is_damaged = false;
    for item in listing {
        match item {
            Ok(item) => line(&mut output, item)?,
            Err(error) if error.is_damage() => {
                complain(&error.to_string());
                is_damaged = true;
            }
            Err(error) => return Err(error.into()),
        }
        if output.is_closed() {
            break;
        }
    }
    output.flush()?;
    if is_damaged { Err(Failure::damage()) } else { Ok(()) }
}
