//! `blobpack ref`: one reference more.

use clap::Args;

use super::failure::Failure;
use super::output::Output;
use super::pack::{Detail, Json, WritePack, close, long_line, resolve};

/// Take one more reference on a blob.
///
/// Counts: one reference more, yours.
///
/// Costs: one commit of a few hundred bytes, with its sync.
///
/// Never: reads or copies the bytes of the blob.
#[derive(Args)]
#[command(after_help = "\
Examples:
  blobpack ref store.pack sha256:2cf24dba

Prints digest, size, references and links. `blobpack deref` drops the reference again.
--json prints one object: {\"digest\",\"size\",\"ref_count\",\"links\",\"referrers\"}.")]
pub struct Reference {
    #[command(flatten)]
    pack: WritePack,
    /// The blob, by its digest or the first digits of it, or by its name
    digest: String,
    #[command(flatten)]
    format: Json,
}

impl Reference {
    /// Takes the reference.
    pub fn run(self) -> Result<(), Failure> {
        let store = self.pack.open()?;
        let blob = store.reference(&resolve(&store, &self.digest)?)?;
        let mut output = Output::new();
        if self.format.json {
            output.json(&Detail::of(&store, &blob.digest)?)?;
        } else {
            output.line(long_line(&blob))?;
        }
        output.flush()?;
        close(store);
        Ok(())
    }
}
