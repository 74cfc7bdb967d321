//! `blobpack man`: the help as manual pages.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::failure::Failure;
use super::output::{Output, note};

/// Print a manual page, or write all of them to a directory.
///
/// They say what --help says, as pages for man(1): blobpack(1) for the tool, blobpack-put(1) and so on for the verbs.
///
/// Counts: none; no pack is opened.
///
/// Costs: nothing to speak of.
///
/// Never: writes anywhere but to standard output, or with --output to files of those names in that directory, which
/// are replaced.
#[derive(Args)]
#[command(after_help = "\
Examples:
  blobpack man put > blobpack-put.1
  blobpack man --output .

`man -l blobpack-put.1` shows a page; for `man blobpack-put` it belongs in ~/.local/share/man/man1.")]
pub struct ManPages {
    /// The verb whose page is printed; the tool's own without one
    #[arg(value_name = "VERB", conflicts_with = "output")]
    verb: Option<String>,
    /// Write the pages of the tool and of all verbs to this directory, which is created where it is missing
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
}

impl ManPages {
    /// Prints the page, or writes the pages.
    pub fn run(self) -> Result<(), Failure> {
        let mut tool = super::command().disable_help_subcommand(true);
        tool.build();
        if let Some(directory) = &self.output {
            let pages = write_all(&tool, directory)?;
            note(&format!("{pages} pages in {}", directory.display()));
            return Ok(());
        }
        let command = match &self.verb {
            None => &tool,
            Some(verb) => match tool.find_subcommand(verb) {
                Some(command) => command,
                None => return Err(Failure::wrong_usage(format!("{verb:?} is no verb"))),
            },
        };
        let page = page(command).map_err(|error| Failure::new(error.to_string()))?;
        let mut output = Output::new();
        output.bytes(&page)?;
        output.flush()
    }
}

/// Writes the pages of the tool and of its verbs; how many those are.
fn write_all(tool: &Command, directory: &Path) -> Result<usize, Failure> {
    let failed = |path: &Path, error: io::Error| Failure::new(format!("{}: {error}", path.display()));
    fs::create_dir_all(directory).map_err(|error| failed(directory, error))?;
    let commands = std::iter::once(tool).chain(tool.get_subcommands());
    let mut pages = 0;
    for command in commands {
        let path = directory.join(Man::new(command.clone()).get_filename());
        page(command).and_then(|page| fs::write(&path, page)).map_err(|error| failed(&path, error))?;
        pages += 1;
    }
    Ok(pages)
}

/// A page: the generator's sections, and what stands below the options in the help, which it would run together.
fn page(command: &Command) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let version = format!("blobpack {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).source(version).manual("blobpack");
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }
    if let Some(rest) = command.get_after_help() {
        rest_of_help(&rest.to_string()).to_writer(&mut text)?;
    }
    Ok(text)
}

/// `Examples:` and the like become headings, indented lines keep their ends, all else is filled, as notes.
fn rest_of_help(text: &str) -> Roff {
    let mut roff = Roff::new();
    let (mut verbatim, mut notes) = (false, false);
    for line in text.lines() {
        let indented = line.starts_with("  ");
        if indented != verbatim {
            roff.control(if indented { "nf" } else { "fi" }, []);
            verbatim = indented;
        }
        if line.is_empty() {
            roff.control("PP", []);
        } else if indented {
            roff.text([roman(line.trim_start())]);
        } else if let Some(heading) = line.strip_suffix(':') {
            roff.control("SH", [heading.to_uppercase().as_str()]);
            notes = false;
        } else {
            if notes {
                roff.control("br", []);
            } else {
                roff.control("SH", ["NOTES"]);
                notes = true;
            }
            roff.text([roman(line)]);
        }
    }
    if verbatim {
        roff.control("fi", []);
    }
    roff
}
