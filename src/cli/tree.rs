//! `blobpack tree`: what a blob keeps.

use std::io;

use clap::Args;
use clap::builder::styling::{AnsiColor, Style};
use serde::Serialize;

use blobpack::{Digest, Kept, TreeLine};

use super::dot::Dot;
use super::failure::Failure;
use super::output::{Output, Paint, Size, count, note};
use super::pack::{ReadPack, resolve};

/// Levels that are drawn as such; deeper ones are given as a number.
const LEVELS: usize = 24;
const DIM: Style = Style::new().dimmed();
const SHARED: Style = AnsiColor::Yellow.on_default();

/// Draw what a blob links to, and what that links to, as a tree.
///
/// What a blob links to is drawn where it comes first; after that it is marked "seen above". Shared are blobs that
/// something outside of the tree keeps too: a name, a reference, another blob. Unique are the others: they go when the
/// blob at the top goes.
///
/// Counts: none change.
///
/// Costs: two lookups a blob and one a link, however many paths there are; some 300 bytes of memory a blob.
///
/// Never: reads the bytes of a blob, writes to the pack or waits for who does.
#[derive(Args)]
#[command(after_help = "\
Examples:
  blobpack tree store.pack sha256:9f86d081
  blobpack tree --dot store.pack sha256:9f86d081 | dot -Tsvg > tree.svg
  blobpack tree --json store.pack sha256:9f86d081 | jq -r 'select(.shared).digest'

Digests are cut to 16 digits, which are enough for every verb.
--json prints an object a line of the tree: {\"depth\",\"digest\",\"size\",\"ref_count\",\"link_count\",\"shared\",\
\"repeated\"}. --dot prints a graph for graphviz, each blob once.")]
pub struct Tree {
    #[command(flatten)]
    pack: ReadPack,
    /// The blob at the top, by its digest or the first digits of it, or by its name
    digest: String,
    #[command(flatten)]
    form: Form,
}

/// How a graph is printed.
#[derive(Args)]
pub struct Form {
    /// Print JSON
    #[arg(long, conflicts_with = "dot")]
    pub json: bool,
    /// Print a graph in the language of graphviz
    #[arg(long)]
    pub dot: bool,
}

/// The JSON of a line.
#[derive(Serialize)]
struct Line {
    depth: usize,
    digest: Digest,
    size: u64,
    ref_count: u64,
    link_count: u64,
    shared: bool,
    repeated: bool,
}

impl Tree {
    /// Draws the tree.
    pub fn run(self) -> Result<(), Failure> {
        let store = self.pack.open()?;
        let tree = store.tree(&resolve(&store, &self.digest)?)?;
        let mut output = Output::new();
        if self.form.dot {
            dot(&tree, &mut output)?;
        } else if self.form.json {
            for TreeLine { depth, blob, is_repeated: repeated, .. } in tree.lines() {
                let Kept { digest, size, ref_count, link_count, shared, .. } = *blob;
                output.json(&Line { depth, digest, size, ref_count, link_count, shared, repeated })?;
                if output.is_closed() {
                    break;
                }
            }
        } else {
            draw(&tree, &mut output)?;
        }
        output.flush()?;
        if tree.moving {
            note("a writer was at work meanwhile: the tree is that of about now");
        }
        Ok(())
    }
}

fn draw(tree: &blobpack::Tree, output: &mut Output) -> Result<(), Failure> {
    let paint = Paint::of(&io::stdout());
    // Of the line above at each level, whether it was the last there.
    let mut ended: Vec<bool> = Vec::new();
    for line in tree.lines() {
        ended.truncate(line.depth);
        ended.push(line.is_last);
        let lines = paint.paint(DIM, indentation(&ended));
        let size = paint.paint(DIM, Size::on_stdout(line.blob.size));
        let shared = if line.blob.shared { paint.paint(SHARED, "  shared") } else { String::new() };
        let repeated = if line.is_repeated { paint.paint(DIM, "  seen above") } else { String::new() };
        output.line(format_args!("{lines}{}  {size}{shared}{repeated}", short(&line.blob.digest)))?;
        if output.is_closed() {
            return Ok(());
        }
    }
    output.line("")?;
    for (name, amount) in [("unique", tree.unique), ("shared", tree.shared)] {
        let blobs = count(amount.blobs, "blob");
        output.line(format_args!("{name}  {blobs:>14}  {:>14}", Size::on_stdout(amount.bytes)))?;
    }
    Ok(())
}

/// The lines before a blob. A tree may be a million levels deep: of many only the last are drawn.
fn indentation(ended: &[bool]) -> String {
    let Some((own, above)) = ended.split_last().filter(|(_, above)| !above.is_empty()) else { return String::new() };
    let hidden = (above.len() - 1).saturating_sub(LEVELS);
    let mut text = if hidden > 0 { format!("({hidden} levels) ") } else { String::new() };
    text.extend(above[1 + hidden..].iter().map(|&ended| if ended { "    " } else { "│   " }));
    text.push_str(if *own { "└── " } else { "├── " });
    text
}

/// A digest as far as people read it.
pub fn short(digest: &Digest) -> String {
    let text = digest.to_string();
    let end = text.find(':').map_or(text.len(), |colon| (colon + 17).min(text.len()));
    text[..end].to_owned()
}

fn dot(tree: &blobpack::Tree, output: &mut Output) -> Result<(), Failure> {
    let mut dot = Dot::begin(output)?;
    for (number, blob) in tree.blobs().iter().enumerate() {
        dot.blob(number, blob, blob.shared)?;
    }
    for (from, to) in tree.links() {
        dot.link(from, to)?;
    }
    dot.end()
}
