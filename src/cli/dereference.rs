//! `blobpack deref`: one reference less.

use clap::Args;

use super::failure::Failure;
use super::pack::{Json, WritePack, end_removal, resolve};

/// Drop one reference on a blob; the last one removes it, and what only it kept alive.
///
/// A reference that a link or a name holds is not yours to drop: unlink it, or unname it.
///
/// Counts: one reference less. At zero the blob goes, and each blob that it links to has one less in turn, and so on
/// down, all in one commit.
///
/// Costs: one commit with its sync; it grows with the number of blobs that go, not with their sizes. Works on a full
/// disk too.
///
/// Never: takes a reference that a link or a name holds, removes what somebody else keeps, gives space back: that is
/// what `compact` does.
#[derive(Args)]
#[command(after_help = "\
Examples:
  blobpack deref store.pack sha256:2cf24dba

Prints the digests of the blobs that are gone, none while other references are left.
--json prints one object: {\"removed\":[...],\"reclaimable_bytes\"}.")]
pub struct Dereference {
    #[command(flatten)]
    pack: WritePack,
    /// The blob, by its digest or the first digits of it, or by its name
    digest: String,
    #[command(flatten)]
    format: Json,
}

impl Dereference {
    /// Drops the reference.
    pub fn run(self) -> Result<(), Failure> {
        let store = self.pack.open()?;
        let removed = store.dereference(&resolve(&store, &self.digest)?)?;
        end_removal(store, removed, self.format.json, None)
    }
}
