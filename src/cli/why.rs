//! `blobpack why`: what keeps a blob alive.

use clap::Args;
use serde::Serialize;

use blobpack::{Chain, Digest, Holder, Name};

use super::dot::Dot;
use super::failure::Failure;
use super::output::{Output, count, note};
use super::pack::{ReadPack, resolve};
use super::tree::{Form, short};

/// Show every chain of links that keeps a blob alive.
///
/// A chain begins with a name, or with references that callers hold, and ends with the blob. There may be very many
/// chains: --limit says how many are printed, and a last line how many more there are. --dot draws all of them as one
/// graph.
///
/// Counts: none change.
///
/// Costs: two lookups for each blob from which a path leads here, and one for each link on the way and each name of the
/// pack; some 300 bytes of memory each.
///
/// Never: reads the bytes of a blob, writes to the pack or waits for who does.
#[derive(Args)]
#[command(after_help = "\
Examples:
  blobpack why store.pack sha256:2cf24dba
  blobpack why --limit 1000 store.pack sha256:2cf24dba
  blobpack why --dot store.pack sha256:2cf24dba | dot -Tsvg > why.svg
  blobpack why --json store.pack sha256:2cf24dba | jq -r '.blobs[0] // empty'

--json prints an object a chain: {\"name\" or \"references\",\"blobs\":[...]}, and at last {\"chains\",\"more\"}, \
where more are those that were not printed.")]
pub struct Why {
    #[command(flatten)]
    pack: ReadPack,
    /// The blob, by its digest or the first digits of it, or by its name
    digest: String,
    /// Print at most so many chains
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    limit: usize,
    #[command(flatten)]
    form: Form,
}

/// The JSON of a chain.
#[derive(Serialize)]
struct Line<'w> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'w Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    references: Option<u32>,
    blobs: Vec<Digest>,
}

/// The JSON at the end.
#[derive(Serialize)]
struct Rest {
    chains: u128,
    more: u128,
}

impl Why {
    /// Shows the chains.
    pub fn run(self) -> Result<(), Failure> {
        let store = self.pack.open()?;
        let why = store.why(&resolve(&store, &self.digest)?)?;
        let mut output = Output::new();
        if self.form.dot {
            dot(&why, &mut output)?;
        } else {
            self.print(&why, &mut output)?;
        }
        output.flush()?;
        if why.moving {
            note("a writer was at work meanwhile: the chains are those of about now");
        }
        Ok(())
    }

    fn print(&self, why: &blobpack::Why, output: &mut Output) -> Result<(), Failure> {
        for chain in why.chains().take(self.limit) {
            if self.form.json {
                output.json(&line(&chain))?;
            } else {
                let blobs: Vec<String> = chain.blobs.iter().map(|blob| short(&blob.digest)).collect();
                output.line(format_args!("{} → {}", describe(chain.holder), blobs.join(" → ")))?;
            }
            if output.is_closed() {
                return Ok(());
            }
        }
        let more = why.count().saturating_sub(self.limit as u128);
        if self.form.json {
            return output.json(&Rest { chains: why.count(), more });
        }
        match more {
            0 => Ok(()),
            // The count is saturated: there may be more.
            _ if why.count() == u128::MAX => output.line("and more than 10^38 chains more (see --limit, --dot)"),
            1 => output.line("and 1 chain more (see --limit, --dot)"),
            more => output.line(format_args!("and {more} chains more (see --limit, --dot)")),
        }
    }
}

fn line<'w>(chain: &Chain<'w>) -> Line<'w> {
    let (name, references) = match chain.holder {
        Holder::Name(name) => (Some(name), None),
        Holder::Callers(references) => (None, Some(*references)),
        _ => (None, None),
    };
    Line { name, references, blobs: chain.blobs.iter().map(|blob| blob.digest).collect() }
}

fn describe(holder: &Holder) -> String {
    match holder {
        Holder::Name(name) => name.to_string(),
        Holder::Callers(references) => format!("({})", count((*references).into(), "reference")),
        _ => "(unknown)".to_owned(),
    }
}

fn dot(why: &blobpack::Why, output: &mut Output) -> Result<(), Failure> {
    let mut dot = Dot::begin(output)?;
    for (number, blob) in why.blobs().iter().enumerate() {
        dot.blob(number, blob, number == 0)?;
        for (holder, told) in why.holders(number).iter().enumerate() {
            dot.holder(number, holder, &describe(told))?;
        }
    }
    for (from, to) in why.links() {
        dot.link(from, to)?;
    }
    dot.end()
}
