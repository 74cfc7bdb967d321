//! `blobpack completions`: what a shell needs to complete the tool's command lines.

use clap::Args;
use clap_complete::Shell;

use super::failure::Failure;
use super::output::Output;

/// Print the completions of a shell: verbs and options with what they do, and file names.
///
/// Counts: none; no pack is opened.
///
/// Costs: nothing to speak of.
///
/// Never: writes to a file or changes a shell's settings; the output goes where you send it.
#[derive(Args)]
#[command(after_help = "\
Examples:
  blobpack completions bash > blobpack.bash
  blobpack completions zsh > _blobpack
  blobpack completions fish > blobpack.fish

Where a shell looks for them: bash in ~/.local/share/bash-completion/completions/blobpack, zsh in a directory of \
$fpath under the name _blobpack, fish in ~/.config/fish/completions/blobpack.fish.")]
pub struct Completions {
    /// The shell: bash, zsh or fish
    #[arg(value_name = "SHELL", value_parser = shell)]
    shell: Shell,
}

/// The shells whose completions are tested. The crate knows more, which nobody has tried here.
fn shell(name: &str) -> Result<Shell, &'static str> {
    match name {
        "bash" => Ok(Shell::Bash),
        "zsh" => Ok(Shell::Zsh),
        "fish" => Ok(Shell::Fish),
        _ => Err("bash, zsh and fish are supported"),
    }
}

impl Completions {
    /// Prints the script.
    pub fn run(self) -> Result<(), Failure> {
        // The generator ends the process where a write fails, so it writes to memory.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::command(), "blobpack", &mut script);
        let mut output = Output::new();
        output.bytes(&script)?;
        output.flush()
    }
}
