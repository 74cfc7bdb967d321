//! The command line: a file a verb, each a clap `Args` struct with a `run`.
//!
//! Digests and data go to standard output, everything else to standard error. [`output`] knows what a closed pipe
//! means, [`failure`] which exit code an error has, [`pack`] how packs are opened and digests are read, [`progress`]
//! when a bar is shown.

mod compact;
mod completions;
mod copy;
mod dereference;
mod dot;
mod du;
mod export;
mod failure;
mod get;
mod import;
mod inspect;
mod link;
mod ls;
mod man;
mod map;
mod name;
mod names;
pub mod output;
mod pack;
mod place;
mod progress;
mod put;
mod rebuild;
mod reference;
mod stat;
mod target;
mod tree;
mod unlink;
mod unname;
mod verify;
mod why;

use std::io;

use clap::{Command, CommandFactory, FromArgMatches, Parser, Subcommand};

use failure::Failure;

/// The arguments of one call.
#[derive(Parser)]
#[command(name = "blobpack", version, about = ABOUT, after_help = AFTER_HELP, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

const ABOUT: &str = "Keeps immutable blobs, each under the digest of its bytes, in one file: the pack.";

const AFTER_HELP: &str = "\
A pack counts references. `put` and `ref` give you a reference on a blob, `deref` drops one, and `link` \
moves one of yours into another blob, which then keeps the first one alive, as `name` moves one into a \
name. A blob goes when its last reference goes, and what it links to may go with it. `compact` gives the space back.

PACK is a file, or a directory with a file blobs.pack in it. Only `put` and `import` create it.
DIGEST is sha256:, sha384: or sha512: and hex digits, lower case; the first 8 or more digits do where only \
one blob begins so. A NAME will do wherever a DIGEST is asked for.

Examples:
  blobpack put store.pack report.pdf photo.jpg
  blobpack ls store.pack
  blobpack get store.pack sha256:2cf24dba > report.pdf
  blobpack deref store.pack sha256:2cf24dba
  blobpack compact store.pack

Exit codes:
  0  done
  1  failed
  2  wrong usage: an unknown option, or an argument that is no digest and no name
  3  no such blob or name
  4  damage found in the pack
  5  locked by another process (see --wait)";

#[derive(Subcommand)]
enum Verb {
    Put(put::Put),
    Get(get::Get),
    Ls(ls::Ls),
    Stat(stat::Stat),
    Ref(reference::Reference),
    Deref(dereference::Dereference),
    Link(link::Link),
    Unlink(unlink::Unlink),
    Name(name::Name),
    Names(names::Names),
    Unname(unname::Unname),
    Verify(verify::Verify),
    Compact(compact::Compact),
    Rebuild(rebuild::Rebuild),
    Inspect(inspect::Inspect),
    Import(import::Import),
    Export(export::Export),
    Tree(tree::Tree),
    Why(why::Why),
    Du(du::Du),
    Map(map::Map),
    Completions(completions::Completions),
    Man(man::ManPages),
}

/// The whole command line: what completions and manual pages are made from.
fn command() -> Command {
    Arguments::command()
}

/// Parses the process's arguments and does what they ask for.
pub fn run() -> Result<(), Failure> {
    let matches = command().color(output::help_colours()).try_get_matches();
    let arguments = match matches.and_then(|matches| Arguments::from_arg_matches(&matches)) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version come this way too, with code 0. A closed pipe is not an error.
            return match (error.exit_code(), error.print()) {
                (0, Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
                    Err(Failure::new(format!("standard output: {error}")))
                }
                (0, _) => Ok(()),
                _ => Err(Failure::usage()),
            };
        }
    };
    match arguments.verb {
        Verb::Put(verb) => verb.run(),
        Verb::Get(verb) => verb.run(),
        Verb::Ls(verb) => verb.run(),
        Verb::Stat(verb) => verb.run(),
        Verb::Ref(verb) => verb.run(),
        Verb::Deref(verb) => verb.run(),
        Verb::Link(verb) => verb.run(),
        Verb::Unlink(verb) => verb.run(),
        Verb::Name(verb) => verb.run(),
        Verb::Names(verb) => verb.run(),
        Verb::Unname(verb) => verb.run(),
        Verb::Verify(verb) => verb.run(),
        Verb::Compact(verb) => verb.run(),
        Verb::Rebuild(verb) => verb.run(),
        Verb::Inspect(verb) => verb.run(),
        Verb::Import(verb) => verb.run(),
        Verb::Export(verb) => verb.run(),
        Verb::Tree(verb) => verb.run(),
        Verb::Why(verb) => verb.run(),
        Verb::Du(verb) => verb.run(),
        Verb::Map(verb) => verb.run(),
        Verb::Completions(verb) => verb.run(),
        Verb::Man(verb) => verb.run(),
    }
}
