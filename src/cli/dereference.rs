//! `blobpack deref`: one reference less.

use clap::Args;

use super::failure::Failure;
use super::output::Output;
use super::pack::{Json, WritePack, close, print_removed, resolve};

/// Drop one reference on a blob; the last one removes it, and what only it kept alive.
///
/// A reference that a link holds is not yours to drop: unlink it.
#[derive(Args)]
#[command(after_help = "\
Examples:
  blobpack deref store.pack sha256:2cf24dba

Prints the digests of the blobs that are gone, none while other references are left.
--json prints one object: {\"removed\":[...],\"reclaimable_bytes\"}.")]
pub struct Dereference {
    #[command(flatten)]
    pack: WritePack,
    /// The blob, by its digest or the first digits of it
    digest: String,
    #[command(flatten)]
    format: Json,
}

impl Dereference {
    /// Drops the reference.
    pub fn run(self) -> Result<(), Failure> {
        let store = self.pack.open()?;
        let removed = store.dereference(&resolve(&store, &self.digest)?)?;
        let mut output = Output::new();
        if self.format.json {
            // Written as it is read: a cascade can be longer than memory holds.
            output.text(format_args!("{{\"removed\":["))?;
            for (n, digest) in removed.digests().enumerate() {
                output.text(format_args!("{}\"{}\"", if n == 0 { "" } else { "," }, digest?))?;
            }
            output.line(format_args!("],\"reclaimable_bytes\":{}}}", removed.reclaimable_bytes()))?;
            output.flush()?;
        } else {
            print_removed(&removed, &mut output)?;
        }
        drop(removed);
        close(store);
        Ok(())
    }
}
