//! The `blobpack` tool: parses the command line, calls the library, prints. See `blobpack --help`.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(message) = failure.message() {
                cli::output::complain(message);
            }
            failure.code()
        }
    }
}
