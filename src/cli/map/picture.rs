//! The map as an SVG, and as an HTML page around it that shows the figures of a cell on hover.
//!
//! Rows run from the start of the file to its end, columns inside a row too. A column is as high as its row and is
//! divided among the kinds by their shares, so areas are bytes. Colours are those of Okabe and Ito (2008), which people
//! with any kind of colour vision tell apart; light and dark follow the reader's settings.

use std::fmt::Write;

use blobpack::{Cell, PartKind};

use super::{Scene, describe, listed, row_bytes, summary};
use crate::cli::output::{human, percent, round_offset};

/// Rows at most; a file of some size has more than half of them.
const ROWS: u64 = 32;
/// Columns a row: a power of two, so that a column is a round number of bytes.
const COLUMNS: usize = 256;
const COLUMN_WIDTH: f64 = 3.5;
const ROW_HEIGHT: f64 = 20.0;
const ROW_PITCH: f64 = 25.0;
const WIDTH: u32 = 1068;
const LEFT: u32 = 36;
const PLOT_LEFT: f64 = 124.0;
const PLOT_TOP: f64 = 286.0;
const PLOT_WIDTH: f64 = COLUMN_WIDTH * 256.0;

/// From the bottom of a column to its top. What is free is the row's ground.
const STACK: [PartKind; 7] = [
    PartKind::Live,
    PartKind::Dead,
    PartKind::Log,
    PartKind::Index,
    PartKind::Spare,
    PartKind::Header,
    PartKind::Unknown,
];

const STYLE: &str = "\
text{font-family:system-ui,-apple-system,'Segoe UI','Noto Sans','DejaVu Sans',sans-serif;fill:#1b2024}
.title{font-size:26px;font-weight:650}
.summary{font-size:15px;fill:#566069}
.name{font-size:14px;font-weight:600}
.figures{font-size:13px;font-variant-numeric:tabular-nums}
.what,.axis,.foot{font-size:12px;fill:#66707a;font-variant-numeric:tabular-nums}
.paper{fill:#fff}
.live{fill:#0072b2}
.dead{fill:#d55e00}
.log{fill:#cc79a7}
.index{fill:#009e73}
.spare{fill:#8fd3bd}
.header{fill:#3d464d}
.unknown{fill:#e8c61a}
.free{fill:#e9edf0}
.tick{stroke:#aab3bb}
@media(prefers-color-scheme:dark){
text{fill:#e8ecef}
.summary{fill:#a3adb6}
.what,.axis,.foot{fill:#929da7}
.paper{fill:#14181b}
.live{fill:#2f93d6}
.dead{fill:#e8762b}
.log{fill:#d990b9}
.index{fill:#12b286}
.spare{fill:#1d6350}
.header{fill:#a9b4bd}
.unknown{fill:#f0e442}
.free{fill:#272d32}
.tick{stroke:#56606a}
}
";

/// A map that is drawn.
struct Drawing<'a> {
    scene: &'a Scene<'a>,
    row_bytes: u64,
    cells: Vec<Cell>,
}

/// The picture alone.
pub fn svg(scene: &Scene<'_>) -> String {
    Drawing::new(scene).svg("xmlns=\"http://www.w3.org/2000/svg\" ")
}

/// A page that needs nothing from elsewhere.
pub fn html(scene: &Scene<'_>) -> String {
    let drawing = Drawing::new(scene);
    let names: Vec<&str> = PartKind::ALL.iter().map(|kind| kind.name()).collect();
    let head = serde_json::json!({
        "names": names, "cell": drawing.cell_bytes(), "file": scene.layout.file_bytes, "columns": COLUMNS,
        "left": PLOT_LEFT, "top": PLOT_TOP, "width": COLUMN_WIDTH, "height": ROW_HEIGHT, "pitch": ROW_PITCH,
    });
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{}</title>\n<style>\n{PAGE_STYLE}</style>\n\
         {}\n<div id=\"figures\" role=\"status\" hidden></div>\n<script>\nconst map = {head};\nmap.cells = {};\n\
         {SCRIPT}</script>\n</html>\n",
        escaped(&format!("{}: map", scene.name)),
        drawing.svg(""),
        drawing.data(),
    )
}

const PAGE_STYLE: &str = "\
:root{color-scheme:light dark}
body{margin:0;background:#fff}
svg{display:block;margin:0 auto;width:100%;max-width:1280px;height:auto}
#figures{position:fixed;pointer-events:none;padding:8px 11px;border-radius:7px;background:#1b2024;color:#fff;
font:13px/1.5 system-ui,'Noto Sans','DejaVu Sans',sans-serif;font-variant-numeric:tabular-nums;white-space:pre;
box-shadow:0 2px 10px #0005}
#cursor{fill:none;stroke:#000;stroke-width:1.5}
@media(prefers-color-scheme:dark){body{background:#14181b}#figures{background:#e8ecef;color:#14181b}
#cursor{stroke:#fff}}
";

const SCRIPT: &str = "\
const svg = document.querySelector('svg'), box = document.getElementById('figures');
const cursor = svg.appendChild(document.createElementNS(svg.namespaceURI, 'rect'));
cursor.id = 'cursor';
cursor.setAttribute('visibility', 'hidden');
const number = n => n.toLocaleString('en');
function show(event) {
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  const column = Math.floor((at.x - map.left) / map.width), row = Math.floor((at.y - map.top) / map.pitch);
  const inside = column >= 0 && column < map.columns && row >= 0 && at.y - map.top - row * map.pitch <= map.height;
  const cell = inside ? map.cells[row * map.columns + column] : undefined;
  box.hidden = cell === undefined;
  cursor.setAttribute('visibility', box.hidden ? 'hidden' : 'visible');
  if (box.hidden) return;
  const start = (row * map.columns + column) * map.cell, end = Math.min(start + map.cell, map.file);
  const pairs = Array.isArray(cell) ? cell : [cell, end - start];
  const lines = ['bytes ' + number(start) + ' to ' + number(end)];
  for (let n = 0; n < pairs.length; n += 2)
    lines.push((100 * pairs[n + 1] / (end - start)).toFixed(1).padStart(5) + ' %  ' + map.names[pairs[n]] + ': ' +
      number(pairs[n + 1]) + ' bytes');
  box.textContent = lines.join('\\n');
  box.style.left = Math.min(event.clientX + 14, innerWidth - box.offsetWidth - 8) + 'px';
  box.style.top = Math.min(event.clientY + 16, innerHeight - box.offsetHeight - 8) + 'px';
  const place = {x: map.left + column * map.width, y: map.top + row * map.pitch, width: map.width, height: map.height};
  for (const [name, value] of Object.entries(place)) cursor.setAttribute(name, value);
}
svg.addEventListener('pointermove', show);
svg.addEventListener('pointerdown', show);
svg.addEventListener('pointerleave', () => { box.hidden = true; cursor.setAttribute('visibility', 'hidden'); });
";

impl<'a> Drawing<'a> {
    fn new(scene: &'a Scene<'a>) -> Drawing<'a> {
        let row_bytes = row_bytes(scene.layout.file_bytes, ROWS);
        let cells = scene.layout.cells_of(row_bytes / COLUMNS as u64);
        Drawing { scene, row_bytes, cells }
    }

    fn cell_bytes(&self) -> u64 {
        self.row_bytes / COLUMNS as u64
    }

    fn svg(&self, namespace: &str) -> String {
        let rows = self.cells.len().div_ceil(COLUMNS);
        let bottom = row_top(rows);
        let height = bottom + 46.0;
        let (title, told) = (escaped(&self.scene.name), escaped(&summary(self.scene)));
        let mut text = format!(
            "<svg {namespace}viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\" \
             aria-label=\"Map of {title}: {told}\">\n<style>\n{STYLE}</style>\n\
             <rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\"/>\n\
             <text class=\"title\" x=\"{LEFT}\" y=\"58\">{title}</text>\n\
             <text class=\"summary\" x=\"{LEFT}\" y=\"86\">{told}</text>\n",
        );
        self.legend(&mut text);
        self.axes(&mut text, rows);
        self.rows(&mut text);
        line(
            &mut text,
            format_args!(
                "<text class=\"foot\" x=\"{PLOT_LEFT}\" y=\"{}\">Each row is {} of the file, each column {}. Inside a \
             column, heights are shares.</text>\n</svg>",
                bottom + 20.0,
                human(self.row_bytes),
                human(self.cell_bytes()),
            ),
        );
        text
    }

    /// A bar of the whole file, and what its colours mean.
    fn legend(&self, text: &mut String) {
        let layout = self.scene.layout;
        let full = f64::from(WIDTH - 2 * LEFT - 12);
        let (mut x, y) = (f64::from(LEFT), 110);
        for (kind, bytes) in listed(layout).filter(|&(_, bytes)| bytes > 0) {
            let width = share(bytes, layout.file_bytes) * full;
            let class = kind.name();
            line(
                text,
                format_args!("<rect class=\"{class}\" x=\"{x:.2}\" y=\"{y}\" width=\"{width:.2}\" height=\"14\"/>"),
            );
            x += width;
        }
        for (number, (kind, bytes)) in listed(layout).enumerate() {
            let (x, y) = (LEFT as usize + 250 * (number % 4), 150 + 48 * (number / 4));
            line(
                text,
                format_args!(
                    "<rect class=\"{class}\" x=\"{x}\" y=\"{}\" width=\"13\" height=\"13\" rx=\"3\"/>\
                 <text class=\"name\" x=\"{}\" y=\"{y}\">{class} <tspan class=\"figures\" font-weight=\"400\">{} · \
                 {}</tspan></text><text class=\"what\" x=\"{}\" y=\"{}\">{}</text>",
                    y - 11,
                    x + 21,
                    human(bytes),
                    escaped(&percent(bytes, layout.file_bytes)),
                    x + 21,
                    y + 17,
                    describe(kind),
                    class = kind.name(),
                ),
            );
        }
    }

    /// Offsets: of the rows at their left, inside a row above them.
    fn axes(&self, text: &mut String, rows: usize) {
        for quarter in 0..4_u32 {
            let x = PLOT_LEFT + PLOT_WIDTH / 4.0 * f64::from(quarter);
            let offset = round_offset(self.row_bytes / 4 * u64::from(quarter));
            line(
                text,
                format_args!(
                    "<path class=\"tick\" d=\"M{x} {}v-6\"/><text class=\"axis\" x=\"{x}\" y=\"{}\">+{offset}</text>",
                    PLOT_TOP - 4.0,
                    PLOT_TOP - 15.0,
                ),
            );
        }
        for row in 0..rows {
            let offset = round_offset(row as u64 * self.row_bytes);
            line(
                text,
                format_args!(
                    "<text class=\"axis\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{offset}</text>",
                    PLOT_LEFT - 12.0,
                    row_top(row) + 14.5,
                ),
            );
        }
    }

    fn rows(&self, text: &mut String) {
        text.push_str("<g shape-rendering=\"crispEdges\">\n");
        let mut ground = String::new();
        for (row, cells) in self.cells.chunks(COLUMNS).enumerate() {
            let width = COLUMN_WIDTH * to_f64(cells.len());
            let _ = write!(ground, "M{PLOT_LEFT} {}h{width}v{ROW_HEIGHT}h-{width}z", row_top(row));
        }
        line(text, format_args!("<path class=\"free\" d=\"{ground}\"/>"));
        for (number, kind) in STACK.into_iter().enumerate() {
            let mut path = String::new();
            for (row, cells) in self.cells.chunks(COLUMNS).enumerate() {
                let places: Vec<(u32, u32)> = cells.iter().map(|cell| stacked(cell, number)).collect();
                let mut column = 0;
                for run in places.chunk_by(|one, other| one == other) {
                    let (below, above) = (f64::from(run[0].0) / 10.0, f64::from(run[0].1) / 10.0);
                    if above > below {
                        let (x, width) = (PLOT_LEFT + COLUMN_WIDTH * to_f64(column), COLUMN_WIDTH * to_f64(run.len()));
                        let y = row_top(row) + ROW_HEIGHT - above;
                        let _ = write!(path, "M{x} {y:.1}h{width}v{:.1}h-{width}z", above - below);
                    }
                    column += run.len();
                }
            }
            if !path.is_empty() {
                line(text, format_args!("<path class=\"{}\" d=\"{path}\"/>", kind.name()));
            }
        }
        text.push_str("</g>\n");
    }

    /// The cells for the page's script: the number of a kind, or pairs of a kind and its bytes.
    fn data(&self) -> String {
        let kinds = |cell: &Cell| -> Vec<u64> {
            let there = |&(_, kind): &(usize, &PartKind)| cell.bytes(*kind) > 0;
            let pair = |(number, kind): (usize, &PartKind)| [number as u64, cell.bytes(*kind)];
            PartKind::ALL.iter().enumerate().filter(there).flat_map(pair).collect()
        };
        let cell = |cell: &Cell| match kinds(cell)[..] {
            [kind, _] => kind.to_string(),
            ref pairs => format!("{pairs:?}").replace(' ', ""),
        };
        format!("[{}]", self.cells.iter().map(cell).collect::<Vec<_>>().join(","))
    }
}

/// From where to where the kind with this number in the stack reaches in a column, in tenths of a pixel from below.
fn stacked(cell: &Cell, number: usize) -> (u32, u32) {
    let height = |kinds: &[PartKind]| {
        let bytes: u64 = kinds.iter().map(|&kind| cell.bytes(kind)).sum();
        tenths(share(bytes, cell.length) * ROW_HEIGHT)
    };
    (height(&STACK[..number]), height(&STACK[..=number]))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most the height of a row")]
fn tenths(pixels: f64) -> u32 {
    (pixels * 10.0).round() as u32
}

fn row_top(row: usize) -> f64 {
    PLOT_TOP + ROW_PITCH * to_f64(row)
}

#[allow(clippy::cast_precision_loss, reason = "numbers of rows and columns")]
fn to_f64(number: usize) -> f64 {
    number as f64
}

#[allow(clippy::cast_precision_loss, reason = "a share, for people")]
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    let _ = writeln!(text, "{line}");
}

/// As text and attributes of XML and HTML take it; control characters are allowed in neither.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            c if c.is_control() => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}
