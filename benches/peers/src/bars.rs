//! The bars that blobpack has set itself, checked against measured figures.

use anyhow::{Result, bail};
use serde_json::Value;

/// How many times better than something a figure has to be.
enum Than {
    /// The map in memory.
    Map,
    Lmdb,
    FastestPeer,
    Floor,
    /// The figure itself against a number in its unit.
    Number,
    /// Another work's figure.
    Work(&'static str),
}

/// One bar: the ratio of blobpack's figure to that of something, and where it has to lie.
struct Bar {
    work: &'static str,
    than: Than,
    /// At most, where less is better, else at least.
    limit: f64,
}

const fn bar(work: &'static str, than: Than, limit: f64) -> Bar {
    Bar { work, than, limit }
}

/// Each line is one bar or, with several, those of which one is enough.
const BARS: &[&[Bar]] = &[
    &[bar("get_256_1m", Than::Map, 0.75)],
    &[bar("get_256_1m", Than::Lmdb, 0.1)],
    &[bar("get_256_10m", Than::Map, 0.8)],
    &[bar("get_256_10m", Than::Lmdb, 0.125)],
    &[bar("get_4k_100k", Than::Map, 0.8)],
    &[bar("get_4k_100k", Than::Lmdb, 0.125)],
    &[bar("miss_256_1m", Than::Map, 1.0)],
    &[bar("get_owned_256_1m", Than::Map, 1.3)],
    &[bar("get_2threads", Than::Number, 1.9)],
    &[bar("put_256", Than::FastestPeer, 4.0)],
    &[bar("put_256", Than::Floor, 0.6)],
    &[bar("put_4k", Than::FastestPeer, 2.0), bar("put_4k", Than::Floor, 0.9)],
    &[bar("put_1m", Than::FastestPeer, 2.0), bar("put_1m", Than::Floor, 0.9)],
    &[bar("put_64m", Than::FastestPeer, 2.0), bar("put_64m", Than::Floor, 0.9)],
    &[bar("durable_1", Than::Floor, 0.9)],
    &[bar("durable_8", Than::Work("durable_1"), 4.0)],
    &[bar("durable_ops", Than::Floor, 0.9)],
    &[bar("remove", Than::FastestPeer, 2.0)],
    &[bar("open_1m", Than::Number, 1.0)],
    &[bar("open_10m", Than::Number, 1.0)],
    &[bar("recover_1m", Than::Floor, 0.0)],
    &[bar("rebuild_1m", Than::Floor, 2.0)],
    &[bar("compact", Than::Floor, 0.8)],
    &[bar("verify", Than::Floor, 0.9)],
    &[bar("put_tail", Than::Number, 5.0)],
    &[bar("rss_anon", Than::Number, 64.0)],
    &[bar("overhead_bytes", Than::Number, 240.0)],
    &[bar("overhead_bytes_before", Than::Number, 420.0)],
];

/// Recovery may take so many milliseconds beyond its floor.
const RECOVERY_BEYOND: f64 = 500.0;

/// Prints a line a bar; an error if one is missed.
pub fn check(figures: &Value) -> Result<()> {
    let (mut measured, mut missed) = (0, 0);
    for bars in BARS {
        let mut met = false;
        let mut text = Vec::new();
        for bar in *bars {
            let Some(figure) = figures.get(bar.work) else { continue };
            let Some((value, limit, what)) = bar.judge(figure, figures) else { continue };
            let lower = figure["better"] == "lower";
            met |= if lower { value <= limit } else { value >= limit };
            text.push(format!("{value:.2} {what}, to be {} {limit}", if lower { "≤" } else { "≥" }));
        }
        if text.is_empty() {
            println!("not measured  {}", bars[0].work);
            continue;
        }
        measured += 1;
        missed += usize::from(!met);
        println!("{:<12}  {:<22} {}", if met { "met" } else { "missed" }, bars[0].work, text.join("; or "));
    }
    if measured == 0 {
        bail!("none of the {} bars was measured", BARS.len());
    }
    if missed > 0 {
        bail!("{missed} of {} bars are missed", BARS.len());
    }
    Ok(())
}

impl Bar {
    /// The figure or ratio, its limit, and what it is; `None` where what it has to be better than was not measured.
    fn judge(&self, figure: &Value, all: &Value) -> Option<(f64, f64, String)> {
        let mine = figure["blobpack"].as_f64()?;
        let peers = || figure["peers"].as_object().into_iter().flatten().filter(|(name, _)| *name != "ram-hash-map");
        let (other, what) = match self.than {
            Than::Number => (1.0, figure["unit"].as_str().unwrap_or("").to_owned()),
            Than::Map => (figure["peers"]["ram-hash-map"].as_f64()?, "of the map in memory".into()),
            Than::Lmdb => (figure["peers"]["lmdb"].as_f64()?, "of LMDB".into()),
            Than::Floor if self.work == "recover_1m" => {
                return Some((mine - figure["floor"].as_f64()?, RECOVERY_BEYOND, "ms beyond the floor".into()));
            }
            Than::Floor => (figure["floor"].as_f64()?, "of the floor".into()),
            Than::Work(work) => (all[work]["blobpack"].as_f64()?, format!("of {work}")),
            Than::FastestPeer => {
                let fastest = peers().filter_map(|(name, value)| Some((name, value.as_f64()?)));
                let (name, value) = fastest.max_by(|a, b| a.1.total_cmp(&b.1))?;
                (value, format!("of {name}"))
            }
        };
        Some((mine / other, self.limit, what))
    }
}
