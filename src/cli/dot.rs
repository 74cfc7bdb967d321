//! Graphs in the language of graphviz (<https://graphviz.org/doc/info/lang.html>).

use blobpack::Kept;

use super::failure::Failure;
use super::output::{Output, human};
use super::tree::short;

/// A graph that is printed.
pub struct Dot<'o> {
    output: &'o mut Output,
}

impl Dot<'_> {
    /// Begins the graph.
    pub fn begin(output: &mut Output) -> Result<Dot<'_>, Failure> {
        output.line("digraph blobs {")?;
        output.line("  node [shape=box, style=\"rounded,filled\", fillcolor=\"#e9f2f8\", fontname=\"sans-serif\"];")?;
        Ok(Dot { output })
    }

    /// A blob, by a number of its own; one that others keep too is marked.
    pub fn blob(&mut self, number: usize, blob: &Kept, shared: bool) -> Result<(), Failure> {
        let colour = if shared { ", fillcolor=\"#fbe3d0\"" } else { "" };
        let label = format!("{}\\n{}", short(&blob.digest), human(blob.size));
        let tooltip = blob.digest;
        self.output.line(format_args!("  b{number} [label=\"{label}\", tooltip=\"{tooltip}\"{colour}];"))
    }

    /// A link from a blob to a blob.
    pub fn link(&mut self, from: usize, to: usize) -> Result<(), Failure> {
        self.output.line(format_args!("  b{from} -> b{to};"))
    }

    /// Whoever holds a blob without a link, under a text.
    pub fn holder(&mut self, number: usize, holder: usize, text: &str) -> Result<(), Failure> {
        let label = quoted(text);
        self.output
            .line(format_args!("  h{number}_{holder} [label={label}, shape=ellipse, fillcolor=\"#ffffff\"];"))?;
        self.output.line(format_args!("  h{number}_{holder} -> b{number};"))
    }

    /// Ends it.
    pub fn end(self) -> Result<(), Failure> {
        self.output.line("}")
    }
}

/// A text as a quoted string. In labels a backslash begins an escape, so it is doubled.
fn quoted(text: &str) -> String {
    let mut safe = String::with_capacity(text.len() + 2);
    safe.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => safe.extend(['\\', c]),
            c if c.is_control() => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe.push('"');
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_texts_end_where_they_should() {
        assert_eq!(quoted("a\"b\\"), "\"a\\\"b\\\\\"");
        assert_eq!(quoted("line\nend"), "\"line\u{fffd}end\"");
    }
}
