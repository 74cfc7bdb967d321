//! `blobpack unname`: the end of a name.

use clap::Args;

use blobpack::Name;

use super::failure::Failure;
use super::pack::{Json, WritePack, end_removal};

/// Remove a name and drop the reference that it held; where that was the last, the blob goes, and what only it kept
/// alive.
///
/// Counts: one reference less on the blob that had the name. At zero it goes, and so on down, as with `deref`.
///
/// Costs: one commit with its sync; it grows with the number of blobs that go, not with their sizes.
///
/// Never: removes what somebody else keeps, changes anything where there is no such name, gives space back: that is
/// what `compact` does.
#[derive(Args)]
#[command(after_help = "\
Examples:
  blobpack name store.pack greeting sha256:2cf24dba
  blobpack unname store.pack greeting

Prints the digests of the blobs that are gone, none while other references are left.
--json prints one object: {\"removed\":[...],\"reclaimable_bytes\"}.")]
pub struct Unname {
    #[command(flatten)]
    pack: WritePack,
    /// The name
    #[arg(value_name = "NAME")]
    name: Name,
    #[command(flatten)]
    format: Json,
}

impl Unname {
    /// Removes the name.
    pub fn run(self) -> Result<(), Failure> {
        let store = self.pack.open()?;
        let removed = store.remove_name(&self.name)?;
        end_removal(store, removed, self.format.json, None)
    }
}
