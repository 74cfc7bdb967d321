//! Progress bars: on standard error, and only where that is a terminal.

use std::io::{self, IsTerminal};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over so many bytes.
pub fn bar(what: &'static str, total_bytes: u64) -> ProgressBar {
    styled(
        what,
        Some(total_bytes),
        "{msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left",
    )
}

/// A count of bytes whose end nobody knows.
pub fn spinner(what: &'static str) -> ProgressBar {
    let spinner = styled(what, None, "{spinner} {msg} {binary_bytes} {elapsed}");
    // Where no thread is to be had the one that ticks would panic.
    let threads_are_there = || thread::Builder::new().spawn(|| ()).is_ok_and(|thread| thread.join().is_ok());
    if !spinner.is_hidden() && threads_are_there() {
        spinner.enable_steady_tick(Duration::from_millis(200));
    }
    spinner
}

/// Follows a long operation of the library.
pub fn follow(bar: &ProgressBar, progress: &blobpack::Progress) {
    bar.set_length(progress.total);
    bar.set_position(progress.done);
}

fn styled(what: &'static str, total: Option<u64>, template: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.with_style(style.progress_chars("=> ")).with_message(what)
}
