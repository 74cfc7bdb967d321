//! Works that need a process of their own: one that is killed, and one whose memory is measured.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Signal, getpid, kill_process};

use crate::contents::{Contents, shuffled};
use crate::engines::{Blobpack, Engine};
use crate::works::KILLED_BLOB_BYTES;

const BATCH: usize = 10_000;

/// Runs this program again for one of these works, and gives what it prints.
pub fn start(work: &str, home: &Path, count: usize) -> Result<String> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--child", work]).arg(home).arg(count.to_string());
    let output = command.output()?;
    let died = !output.status.success();
    ensure!(died == (work == "fill-and-die"), "{work}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// What the child does.
pub fn run(arguments: &[String]) -> Result<()> {
    let [work, home, count] = arguments else { bail!("a child takes three arguments") };
    let (home, count) = (Path::new(home), count.parse()?);
    match work.as_str() {
        "fill-and-die" => {
            let store = Blobpack::open(home)?;
            for first in (0..count).step_by(BATCH) {
                store.put(&Contents::new(first, BATCH.min(count - first), KILLED_BLOB_BYTES).blobs())?;
            }
            Ok(kill_process(getpid(), Signal::KILL)?)
        }
        "put" => report_memory(|| {
            let store = Blobpack::open(home)?;
            (0..count).step_by(BATCH).try_for_each(|first| store.put(&Contents::new(first, BATCH, 256).blobs()))
        }),
        "get" => report_memory(|| {
            let store = Blobpack::open(home)?;
            for first in (0..count).step_by(BATCH) {
                let keys = shuffled(&Contents::new(first, BATCH, 256).keys(), BATCH, 0);
                let mut sum = 0;
                store.get(&keys, &mut |found| {
                    sum += found.map_or(0, |blob| u64::from(blob[0]) + u64::from(blob[255]))
                })?;
                std::hint::black_box(sum);
            }
            Ok(())
        }),
        _ => bail!("no child does {work}"),
    }
}

/// Prints the most anonymous memory that was seen during the work, in MiB.
fn report_memory(work: impl FnOnce() -> Result<()>) -> Result<()> {
    let done = AtomicBool::new(false);
    let most = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = 0.0_f64;
            while !done.load(Ordering::Relaxed) {
                most = most.max(anonymous_mebibytes()?);
                std::thread::sleep(Duration::from_millis(5));
            }
            anyhow::Ok(most)
        });
        let worked = work();
        done.store(true, Ordering::Relaxed);
        let most = watch.join().expect("a panic has been printed");
        worked.and(most)
    })?;
    println!("{most}");
    Ok(())
}

/// `RssAnon` of this process now.
pub fn anonymous_mebibytes() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("the kernel tells no RssAnon")?;
    let kibibytes: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kibibytes / 1024.0)
}
