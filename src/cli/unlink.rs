//! `blobpack unlink`: the end of a link.

use clap::Args;

use super::failure::Failure;
use super::output::Output;
use super::pack::{Detail, Json, WritePack, close, print_removed, resolve};

/// Remove a link and drop the reference that it held.
///
/// Counts: one reference less on the blob that was linked to. At zero it goes, and so on down, as with `deref`.
///
/// Costs: one commit with its sync; it grows with the number of blobs that go.
///
/// Never: touches the blob that held the link or its count, changes anything where there is no such link.
#[derive(Args)]
#[command(after_help = "\
Examples:
  blobpack unlink store.pack --to sha256:2cf24dba --from sha256:9f86d081

Where that was the last reference, the blob that was linked to goes, and what only it kept alive. Prints the \
digests of the blobs that are gone.
--json prints the blob that was linked to: {\"digest\",\"size\",\"ref_count\",\"links\",\"referrers\"}, with a \
ref_count of 0 where it is gone.")]
pub struct Unlink {
    #[command(flatten)]
    pack: WritePack,
    /// The blob that was kept alive
    #[arg(long, value_name = "DIGEST")]
    to: String,
    /// The blob that kept it alive
    #[arg(long, value_name = "DIGEST")]
    from: String,
    #[command(flatten)]
    format: Json,
}

impl Unlink {
    /// Removes the link.
    pub fn run(self) -> Result<(), Failure> {
        let store = self.pack.open()?;
        let (to, from) = (resolve(&store, &self.to)?, resolve(&store, &self.from)?);
        let was = store.descriptor(&to)?;
        let removed = store.unlink(&to, &from)?;
        let mut output = Output::new();
        if self.format.json {
            let now = if removed.is_empty() { Detail::of(&store, &to)? } else { Detail::removed(&was) };
            output.json(&now)?;
            output.flush()?;
        } else {
            print_removed(&removed, &mut output)?;
        }
        drop(removed);
        close(store);
        Ok(())
    }
}
