//! `blobpack name`: what a name stands for, or a name for a blob.

use clap::Args;
use serde::Serialize;

use blobpack::{Digest, Name as BlobName};

use super::failure::Failure;
use super::output::Output;
use super::pack::{Json, WritePack, end_removal, resolve};

/// Give a blob a name, which keeps it alive from then on; or print the digest of the blob that has the name.
///
/// The name takes over one reference of yours on the blob, the one that `put` gave you. What had the name before loses
/// the reference that the name held on it, in the same commit.
///
/// Counts: none change on the blob; a reference of yours becomes the name's. Where it has the name already there is one
/// reference less, for a name holds exactly one. With --ref the name gets a new reference and yours stays. One less on
/// what had the name before; at zero it goes, and so on down, as with `deref`. Without DIGEST none change.
///
/// Costs: one commit with its sync. The first name of a pack costs two checkpoints besides. Without DIGEST one lookup.
///
/// Never: takes a reference that a link or another name holds, reads the bytes of a blob.
#[derive(Args)]
#[command(after_help = "\
Examples:
  blobpack name store.pack greeting sha256:2cf24dba
  blobpack name store.pack greeting
  blobpack name --ref store.pack greeting:latest greeting
  blobpack get store.pack greeting > greeting.txt

A NAME has 1 to 1,024 bytes without control characters, and does not begin as a digest does (sha256: and so on). \
Wherever a DIGEST is asked for a NAME will do. With DIGEST it prints the digests of the blobs that are gone.
--json prints one object: {\"name\",\"digest\"}, with DIGEST also \"removed\":[...] and \"reclaimable_bytes\".")]
pub struct Name {
    #[command(flatten)]
    pack: WritePack,
    /// The name
    #[arg(value_name = "NAME")]
    name: BlobName,
    /// The blob that gets it
    digest: Option<String>,
    /// Take a new reference for the name instead of one of yours
    #[arg(long = "ref", requires = "digest")]
    reference: bool,
    #[command(flatten)]
    format: Json,
}

/// The JSON of a name.
#[derive(Serialize)]
pub struct Line {
    /// The name.
    pub name: BlobName,
    /// The blob that has it.
    pub digest: Digest,
}

impl Name {
    /// Sets or prints the name.
    pub fn run(self) -> Result<(), Failure> {
        match &self.digest {
            Some(digest) => self.set(digest),
            None => self.print(),
        }
    }

    fn print(&self) -> Result<(), Failure> {
        let store = self.pack.options().read_only(true).open(&self.pack.path)?;
        let digest = store.name(&self.name)?;
        let mut output = Output::new();
        if self.format.json {
            output.json(&Line { name: self.name.clone(), digest })?;
        } else {
            output.line(digest)?;
        }
        output.flush()
    }

    fn set(&self, digest: &str) -> Result<(), Failure> {
        let store = self.pack.open()?;
        let digest = resolve(&store, digest)?;
        let mut batch = store.batch();
        if self.reference {
            batch.reference(&digest);
        }
        batch.set_name(&self.name, &digest);
        let outcome = batch.commit()?.pop();
        let Some(blobpack::Outcome::Removed(removed)) = outcome else {
            unreachable!("setting a name says what it removed");
        };
        end_removal(store, removed, self.format.json, Some(&Line { name: self.name.clone(), digest }))
    }
}
