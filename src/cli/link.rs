//! `blobpack link`: a blob keeps another one alive.

use clap::Args;

use super::failure::Failure;
use super::output::Output;
use super::pack::{Detail, Json, WritePack, close, long_line, resolve};

/// Link one blob to another, which it keeps alive from then on.
///
/// The link takes over one reference of yours on the blob that is linked to. To keep one for yourself, `ref` it first.
///
/// Counts: none change; a reference of yours becomes the link's. Where the two are linked already there is one
/// reference less on the blob that is linked to, for a link holds exactly one.
///
/// Costs: one commit with its sync. Where something links to the blob that is to hold the link, a search for a cycle
/// along the links first.
///
/// Never: takes a reference that another link or a name holds, closes a cycle, reads the bytes of a blob.
#[derive(Args)]
#[command(after_help = "\
Examples:
  layer=$(blobpack put store.pack layer.tar | cut -d' ' -f1)
  manifest=$(blobpack put store.pack manifest.json | cut -d' ' -f1)
  blobpack link store.pack --to $layer --from $manifest

Now `blobpack deref store.pack $manifest` removes both. Prints the blob that is linked to: digest, size, \
references, links.
--json prints it as one object: {\"digest\",\"size\",\"ref_count\",\"links\",\"referrers\"}.")]
pub struct Link {
    #[command(flatten)]
    pack: WritePack,
    /// The blob that is kept alive
    #[arg(long, value_name = "DIGEST")]
    to: String,
    /// The blob that keeps it alive
    #[arg(long, value_name = "DIGEST")]
    from: String,
    #[command(flatten)]
    format: Json,
}

impl Link {
    /// Makes the link.
    pub fn run(self) -> Result<(), Failure> {
        let store = self.pack.open()?;
        let (to, from) = (resolve(&store, &self.to)?, resolve(&store, &self.from)?);
        store.link(&to, &from)?;
        let mut output = Output::new();
        if self.format.json {
            output.json(&Detail::of(&store, &to)?)?;
        } else {
            output.line(long_line(&store.descriptor(&to)?))?;
        }
        output.flush()?;
        close(store);
        Ok(())
    }
}
