//! The same work over blobpack, a hash map in memory, and the stores that people use today.
//!
//! `cargo run --release` measures everything and prints a table with ratios; `--help` says what else there is. All that is
//! compared runs in one process and takes turns, so that a noisy machine is noisy to everyone.

use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

mod bars;
mod child;
mod contents;
mod engines;
mod growth;
mod report;
mod works;

use report::Report;
use works::{GROUPS, Run};

/// Those that make a file a blob, which takes minutes.
const FILE_A_BLOB: [&str; 2] = ["files", "cacache"];

/// Measures blobpack beside a hash map in memory and other stores.
#[derive(Parser)]
struct Arguments {
    /// Works to measure (all without any), by their names in the JSON; `--works` lists them
    works: Vec<String>,
    /// Lists the works
    #[arg(long = "works")]
    list: bool,
    /// A tenth of the blobs, none of the works on ten million, and without `--peers` none that keep a file a blob: under
    /// a minute
    #[arg(long)]
    quick: bool,
    /// Blobs of the works on a million
    #[arg(long, value_name = "COUNT")]
    blobs: Option<usize>,
    /// Blobs of the works on ten million
    #[arg(long, value_name = "COUNT")]
    many: Option<usize>,
    /// Only these beside blobpack
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    peers: Vec<String>,
    /// Touches nine tenths of the free memory first: a virtual machine gets it page by page, and whoever needs a page first waits
    #[arg(long)]
    touch_memory: bool,
    /// Where the stores are made
    #[arg(long, value_name = "DIRECTORY", default_value_os_t = std::env::temp_dir())]
    directory: PathBuf,
    /// Writes the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the ratios as a picture
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Measures how blobpack grows from ten thousand blobs to ten million, and writes that as a picture
    #[arg(long, value_name = "FILE")]
    growth: Option<PathBuf>,
    /// Compares the figures in a JSON file with the bars, and measures nothing
    #[arg(long, value_name = "FILE")]
    check_bars: Option<PathBuf>,
    /// What a process of its own does for one of the works
    #[arg(long, hide = true, num_args = 3)]
    child: Option<Vec<String>>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(child) = &arguments.child {
        return child::run(child);
    }
    if arguments.list {
        GROUPS.iter().flat_map(|group| group.works).for_each(|work| println!("{work}"));
        return Ok(());
    }
    if let Some(path) = &arguments.check_bars {
        return bars::check(&serde_json::from_reader(File::open(path).context(path.display().to_string())?)?);
    }
    let run = Run::new(&arguments)?;
    if arguments.touch_memory {
        touch_memory()?;
    }
    if let Some(path) = &arguments.growth {
        return growth::measure(&run, path);
    }
    let known = |work: &String| GROUPS.iter().any(|group| group.works.contains(&work.as_str()));
    if let Some(unknown) = arguments.works.iter().find(|work| !known(work)) {
        bail!("no work is called {unknown}: --works lists them");
    }
    let mut report = Report::default();
    for group in GROUPS {
        let asked = |work: &&str| arguments.works.is_empty() || arguments.works.iter().any(|asked| asked == work);
        if group.works.iter().any(asked) && !(run.quick && group.slow) {
            (group.measure)(&run, &mut report)?;
        }
    }
    print!("{}", report.to_markdown());
    if let Some(path) = &arguments.json {
        serde_json::to_writer_pretty(File::create(path)?, &report.to_json())?;
    }
    if let Some(path) = &arguments.svg {
        report.to_svg(path)?;
    }
    Ok(())
}

/// Writes to nine tenths of the memory that nobody uses.
fn touch_memory() -> Result<()> {
    let told = std::fs::read_to_string("/proc/meminfo")?;
    let free = told.lines().find_map(|line| line.strip_prefix("MemFree:")?.trim().strip_suffix(" kB"));
    let kibibytes: usize = free.context("the system does not say how much memory is free")?.trim().parse()?;
    drop(std::hint::black_box(vec![1_u8; kibibytes * 1024 / 10 * 9]));
    Ok(())
}

impl Run {
    fn new(arguments: &Arguments) -> Result<Run> {
        if let Some(unknown) =
            arguments.peers.iter().find(|name| engines::ALL.iter().all(|peer| peer.name != name.as_str()))
        {
            bail!("no store here is called {unknown}");
        }
        let blobs = arguments.blobs.unwrap_or(if arguments.quick { 100_000 } else { 1_000_000 });
        ensure!(blobs >= 1000, "the works take a thousand blobs at least");
        let wanted = |name: &str| match arguments.peers.as_slice() {
            [] => !(arguments.quick && FILE_A_BLOB.contains(&name)),
            asked => asked.iter().any(|asked| asked == name),
        };
        Ok(Run {
            quick: arguments.quick,
            blobs,
            many: arguments.many.unwrap_or(10_000_000),
            peers: engines::ALL.iter().copied().filter(|peer| peer.name == "blobpack" || wanted(peer.name)).collect(),
            directory: arguments.directory.clone(),
        })
    }
}
