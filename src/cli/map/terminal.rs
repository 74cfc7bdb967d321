//! The map as rows of characters.

use std::io::{self, IsTerminal};

use blobpack::{Cell, Layout, PartKind};
use clap::builder::styling::{Ansi256Color, Style};

use super::{Scene, describe, listed, row_bytes, summary};
use crate::cli::failure::Failure;
use crate::cli::output::{Output, Paint, Size, percent, printable, round_offset};

/// Rows at most.
const ROWS: u64 = 16;
/// Columns before the cells: an offset and a space.
const AXIS: usize = 10;
/// As wide as this where nobody says how wide the terminal is.
const WIDTH: usize = 80;

/// How a kind is drawn: a letter without colour, a character and one of 256 colours with it. The characters differ too,
/// for those who don't see the colours.
const fn look(kind: PartKind) -> (char, char, u8) {
    match kind {
        PartKind::Header => ('H', '▇', 244),
        PartKind::Live => ('L', '█', 32),
        PartKind::Dead => ('x', '▒', 166),
        PartKind::Index => ('i', '▓', 36),
        PartKind::Spare => ('s', '░', 36),
        PartKind::Log => ('c', '▪', 175),
        PartKind::Free => ('.', '·', 244),
        _ => ('?', '?', 178),
    }
}

/// Prints summary, cells and legend.
pub fn draw(scene: &Scene<'_>, output: &mut Output) -> Result<(), Failure> {
    let colours = Paint::of(&io::stdout());
    let paint = |kind: PartKind, count: usize| {
        let (letter, block, colour) = look(kind);
        let shown = if colours.is_on() { block } else { letter };
        let style = Style::new().fg_color(Some(Ansi256Color(colour).into()));
        colours.paint(style, shown.to_string().repeat(count))
    };
    let layout = scene.layout;
    output.line(format_args!("{}: {}", printable(&scene.name), summary(scene)))?;
    output.line("")?;
    let per_row = cells_per_row();
    let row = row_bytes(layout.file_bytes, ROWS);
    let cells = kinds(&layout.cells_of(row / per_row as u64));
    for (number, row_cells) in cells.chunks(per_row).enumerate() {
        let drawn: String = row_cells.chunk_by(|one, other| one == other).map(|run| paint(run[0], run.len())).collect();
        let offset = round_offset(number as u64 * row);
        output.line(format_args!("{offset:>width$} {drawn}", width = AXIS - 1))?;
    }
    output.line("")?;
    legend(layout, &paint, output)?;
    output.line(format_args!("  each cell {:>14}", Size::on_stdout(row / per_row as u64)))
}

fn legend(layout: &Layout, paint: &dyn Fn(PartKind, usize) -> String, output: &mut Output) -> Result<(), Failure> {
    for (kind, bytes) in listed(layout) {
        output.line(format_args!(
            "  {} {:<8}{:>14}  {:>6}  {}",
            paint(kind, 1),
            kind.name(),
            Size::on_stdout(bytes),
            percent(bytes, layout.file_bytes),
            describe(kind)
        ))?;
    }
    Ok(())
}

/// The kind that each cell is drawn as: one that is in it, and the one that has had too few cells so far for its bytes.
/// So what is small shows too, and the cells of a kind are as many as its share of the file asks for.
fn kinds(cells: &[Cell]) -> Vec<PartKind> {
    let mut owed = [0_i128; PartKind::ALL.len()];
    let choose = |cell: &Cell| {
        for (number, kind) in PartKind::ALL.into_iter().enumerate() {
            owed[number] += i128::from(cell.bytes(kind));
        }
        let inside = (0..owed.len()).filter(|&number| cell.bytes(PartKind::ALL[number]) > 0);
        let chosen = inside.max_by_key(|&number| owed[number]).unwrap_or(0);
        owed[chosen] -= i128::from(cell.length);
        PartKind::ALL[chosen]
    };
    cells.iter().map(choose).collect()
}

/// A power of two, so that rows begin at round offsets.
fn cells_per_row() -> usize {
    let width = match terminal_size::terminal_size() {
        Some((terminal_size::Width(width), _)) if io::stdout().is_terminal() => usize::from(width),
        _ => WIDTH,
    };
    let room = width.saturating_sub(AXIS).clamp(8, 256);
    1 << room.ilog2()
}
