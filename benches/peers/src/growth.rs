//! How blobpack grows with the number of blobs.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use plotters::prelude::*;

use crate::child::anonymous_mebibytes;
use crate::contents::{Contents, shuffled};
use crate::engines::{Blobpack, Engine};
use crate::report::number;
use crate::works::{Run, median};

const START: usize = 10_000;
const BATCH: usize = 10_000;
const GETS: usize = 200_000;
const ROUNDS: u64 = 5;

/// What is plotted: a title, and a figure for each count.
struct Panel {
    title: &'static str,
    points: Vec<(f64, f64)>,
}

/// From ten thousand blobs of 256 bytes to the many of `run`, a table to stdout and a picture to `path`.
pub fn measure(run: &Run, path: &Path) -> Result<()> {
    let titles = ["ns a get", "ns a put, hashed and synced", "anonymous MiB", "bytes of index a blob", "ms to open"];
    let mut panels = titles.map(|title| Panel { title, points: Vec::new() });
    let counts = std::iter::successors(Some(START), |count| Some(count * 10)).take_while(|count| *count <= run.many);
    println!("| blobs | {} |\n|---:|{}", titles.join(" | "), "---:|".repeat(titles.len()));
    for count in counts {
        let figures = at(run, count)?;
        println!("| {count} | {} |", figures.map(number).join(" | "));
        for (panel, figure) in panels.iter_mut().zip(figures) {
            panel.points.push((count as f64, figure));
        }
    }
    draw(&panels, path)
}

fn at(run: &Run, count: usize) -> Result<[f64; 5]> {
    let home = run.home()?;
    let blobpack = Blobpack::open(home.path())?;
    let mut keys = Vec::with_capacity(count);
    let mut putting = 0.0;
    for first in (0..count).step_by(BATCH) {
        let contents = Contents::new(first, BATCH, 256);
        let blobs = contents.blobs();
        let begun = Instant::now();
        blobpack.put(&blobs)?;
        putting += begun.elapsed().as_secs_f64();
        keys.extend(contents.keys());
    }
    let key_bytes = (keys.capacity() * 32) as f64 / 1_048_576.0;
    let memory = anonymous_mebibytes()? - key_bytes;
    let index = blobpack.store.stats()?.index_bytes as f64 / count as f64;
    // Beside a checkpoint gets take longer.
    blobpack.store.checkpoint()?;
    run.settle()?;
    let mut gets = Vec::new();
    for round in 0..ROUNDS {
        let wanted = shuffled(&keys, GETS, round);
        let mut sum = 0;
        let begun = Instant::now();
        blobpack.get(&wanted, &mut |found| sum += found.map_or(0, |blob| u64::from(blob[0]) + u64::from(blob[255])))?;
        gets.push(begun.elapsed().as_secs_f64() * 1e9 / GETS as f64);
        std::hint::black_box(sum);
    }
    drop(blobpack);
    let mut opens = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let blobpack = Blobpack::open(home.path())?;
        opens.push(begun.elapsed().as_secs_f64() * 1e3);
        drop(blobpack);
    }
    Ok([median(gets), putting * 1e9 / count as f64, memory, index, median(opens)])
}

fn draw(panels: &[Panel], path: &Path) -> Result<()> {
    let root = SVGBackend::new(path, (900, 640)).into_drawing_area();
    root.fill(&WHITE)?;
    for (panel, area) in panels.iter().zip(root.split_evenly((2, 3))) {
        let most = panel.points.iter().map(|(_, figure)| *figure).fold(0.0, f64::max);
        let (first, last) =
            (panel.points.first().context("nothing was measured")?.0, panel.points.last().map_or(1.0, |p| p.0));
        let mut chart = ChartBuilder::on(&area)
            .caption(panel.title, ("sans-serif", 15))
            .margin(10)
            .x_label_area_size(28)
            .y_label_area_size(48)
            .build_cartesian_2d((first..last.max(first * 2.0)).log_scale(), 0.0..most * 1.15)?;
        chart.configure_mesh().x_labels(4).y_labels(6).light_line_style(TRANSPARENT).draw()?;
        chart.draw_series(LineSeries::new(panel.points.iter().copied(), BLUE.stroke_width(2)))?;
        chart.draw_series(panel.points.iter().map(|point| Circle::new(*point, 3, BLUE.filled())))?;
    }
    root.present()?;
    Ok(())
}
