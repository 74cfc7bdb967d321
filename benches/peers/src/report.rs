//! What was measured: as JSON, as a table with ratios, and as a picture.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use plotters::prelude::*;
use serde_json::{Value, json};

/// Whether a smaller figure is the better one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Lower,
    Higher,
}

/// One work, by blobpack and those beside it.
#[derive(Clone)]
pub struct Figure {
    pub unit: &'static str,
    pub better: Better,
    pub blobpack: f64,
    pub peers: BTreeMap<&'static str, f64>,
    pub floor: Option<f64>,
}

impl Figure {
    pub fn new(unit: &'static str, better: Better, blobpack: f64) -> Figure {
        Figure { unit, better, blobpack, peers: BTreeMap::new(), floor: None }
    }

    pub fn floor(mut self, floor: f64) -> Figure {
        self.floor = Some(floor);
        self
    }

    pub fn peers(mut self, peers: impl IntoIterator<Item = (&'static str, f64)>) -> Figure {
        self.peers.extend(peers);
        self
    }

    /// How many times better blobpack is than `other`.
    fn times(&self, other: f64) -> f64 {
        if self.better == Better::Lower { other / self.blobpack } else { self.blobpack / other }
    }
}

/// All figures, in the order in which they were measured.
#[derive(Default)]
pub struct Report(pub Vec<(&'static str, Figure)>);

impl Report {
    pub fn add(&mut self, work: &'static str, figure: Figure) {
        eprintln!("{work:<22}{:>12} {}", number(figure.blobpack), figure.unit);
        self.0.push((work, figure));
    }

    pub fn to_json(&self) -> Value {
        let entry = |(work, figure): &(&'static str, Figure)| {
            let better = if figure.better == Better::Lower { "lower" } else { "higher" };
            let mut value = json!({
                "unit": figure.unit, "better": better, "blobpack": figure.blobpack, "peers": figure.peers,
            });
            if let Some(floor) = figure.floor {
                value["floor"] = json!(floor);
            }
            ((*work).to_owned(), value)
        };
        Value::Object(self.0.iter().map(entry).collect())
    }

    /// A row a work: blobpack's figure, and how many times better it is than the floor and than each of the others.
    pub fn to_markdown(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for (_, figure) in &self.0 {
            names.extend(figure.peers.keys().filter(|name| !names.contains(name)).copied().collect::<Vec<_>>());
        }
        let mut text = String::from("| work | blobpack | floor |");
        names.iter().for_each(|name| text += &format!(" {name} |"));
        text += "\n|---|---:|---:|";
        names.iter().for_each(|_| text += "---:|");
        for (work, figure) in &self.0 {
            let times = |other: Option<f64>| other.map_or("–".to_owned(), |other| times_text(figure.times(other)));
            text += &format!("\n| `{work}` | {} {} | {} |", number(figure.blobpack), figure.unit, times(figure.floor));
            for name in &names {
                text += &format!(" {} |", times(figure.peers.get(name).copied()));
            }
        }
        text + "\n"
    }

    /// A row a work, on a logarithmic axis: how many times worse than blobpack each of the others is.
    pub fn to_svg(&self, path: &Path) -> Result<()> {
        let rows: Vec<_> = self.0.iter().filter(|(_, figure)| !figure.peers.is_empty()).collect();
        let mut names: Vec<&str> = rows.iter().flat_map(|(_, figure)| figure.peers.keys().copied()).collect();
        names.sort_unstable();
        names.dedup();
        let count = rows.len();
        let height = u32::try_from(120 + 30 * count).context("so many works fit no picture")?;
        let root = SVGBackend::new(path, (900, height)).into_drawing_area();
        root.fill(&WHITE)?;
        let all = rows.iter().flat_map(|(_, figure)| figure.peers.values().map(|other| figure.times(*other)));
        let (least, most) = all.fold((0.5_f64, 2.0_f64), |(least, most), times| (least.min(times), most.max(times)));
        let mut chart = ChartBuilder::on(&root)
            .caption("How many times better blobpack is", ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(32)
            .y_label_area_size(150)
            .build_cartesian_2d((least / 1.5..most * 8.0).log_scale(), 0.0..count as f64)?;
        let label = |y: &f64| {
            let row = (*y - 0.5).round();
            let at_middle = (*y - 0.5 - row).abs() < 0.01 && row >= 0.0;
            rows.iter().rev().nth(row as usize).filter(|_| at_middle).map_or(String::new(), |(work, _)| (*work).into())
        };
        chart
            .configure_mesh()
            .disable_y_mesh()
            .y_labels(2 * count + 1)
            .y_label_formatter(&label)
            .x_label_formatter(&|times| format!("{} ×", (times * 1e6).round() / 1e6))
            .draw()?;
        chart.draw_series([PathElement::new([(1.0, 0.0), (1.0, count as f64)], BLACK.stroke_width(2))])?;
        for (number, name) in names.iter().enumerate() {
            let colour = Palette99::pick(number).to_rgba();
            let points = rows.iter().rev().enumerate().filter_map(|(row, (_, figure))| {
                figure.peers.get(name).map(|other| (figure.times(*other), row as f64 + 0.5))
            });
            chart
                .draw_series(points.map(|point| Circle::new(point, 5, colour.filled())))?
                .label(*name)
                .legend(move |(x, y)| Circle::new((x + 8, y), 5, colour.filled()));
        }
        // The axis goes on to the right of the best, which is where the names have their place.
        chart.configure_series_labels().border_style(BLACK.mix(0.3)).background_style(WHITE.mix(0.9)).draw()?;
        root.present()?;
        Ok(())
    }
}

/// Three digits that count.
pub fn number(value: f64) -> String {
    let digits = if value >= 100.0 || value == 0.0 { 0 } else { (2.0 - value.abs().log10().floor()) as usize };
    format!("{value:.digits$}")
}

fn times_text(times: f64) -> String {
    format!("{} ×", number(times))
}
