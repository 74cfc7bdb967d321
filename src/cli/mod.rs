//! The command line: a file a verb, each a clap `Args` struct with a `run`.
//!
//! Digests and data go to standard output, everything else to standard error. [`output`] knows what a closed pipe
//! means, [`failure`] which exit code an error has, [`pack`] how packs are opened and digests are read, [`progress`]
//! when a bar is shown.

mod compact;
mod copy;
mod dereference;
mod failure;
mod get;
mod inspect;
mod link;
mod ls;
pub mod output;
mod pack;
mod progress;
mod put;
mod rebuild;
mod reference;
mod stat;
mod unlink;
mod verify;

use clap::{Parser, Subcommand};

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
moves one of yours into another blob, which then keeps the first one alive. A blob goes when its last \
reference goes, and what it links to may go with it. `compact` gives the space back.

PACK is a file, or a directory with a file blobs.pack in it. Only `put` creates it.
DIGEST is sha256:, sha384: or sha512: and hex digits, lower case; the first 8 or more digits do where only \
one blob begins so.

Examples:
  blobpack put store.pack report.pdf photo.jpg
  blobpack ls store.pack
  blobpack get store.pack sha256:2cf24dba > report.pdf
  blobpack deref store.pack sha256:2cf24dba
  blobpack compact store.pack

Exit codes:
  0  done
  1  failed
  2  wrong usage: an unknown option, or an argument that is no digest
  3  no such blob
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
    Verify(verify::Verify),
    Compact(compact::Compact),
    Rebuild(rebuild::Rebuild),
    Inspect(inspect::Inspect),
}

/// Parses the process's arguments and does what they ask for.
pub fn run() -> Result<(), Failure> {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version come this way too, with code 0. A closed pipe is not an error.
            let _ = error.print();
            return match error.exit_code() {
                0 => Ok(()),
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
        Verb::Verify(verb) => verb.run(),
        Verb::Compact(verb) => verb.run(),
        Verb::Rebuild(verb) => verb.run(),
        Verb::Inspect(verb) => verb.run(),
    }
}
