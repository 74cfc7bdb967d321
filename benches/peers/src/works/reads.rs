//! Random gets, of which the first and the last byte are read.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Run, check, median, timed};
use crate::contents::{Contents, mixed, shuffled};
use crate::engines::{Blobpack, Engine, Key, Peer, digest_of, in_digests, ram};
use crate::report::{Better, Figure, Report};

const ROUNDS: u64 = 7;
/// A store's turn of a round lasts about so long; faster stores get as many keys as the fastest.
const TURN: Duration = Duration::from_millis(250);
const GETS_MAX: usize = 1_000_000;
/// Stores are filled in batches of so many bytes.
const BATCH_BYTES: usize = 25_600_000;
const NANOSECONDS: f64 = 1e9;

/// Those beside which the largest work is measured.
const LARGE: &[&str] = &["blobpack", "lmdb"];

/// Gets blobs, and says how many bytes it looked at.
type Gets<'c> = Box<dyn Fn(&[Key]) -> Result<u64> + 'c>;

/// One that takes turns: its gets, and how many it makes in a turn.
struct Contestant<'c> {
    name: &'static str,
    gets: Gets<'c>,
    count: usize,
    /// Nanoseconds a get, by round.
    times: Vec<f64>,
}

impl<'c> Contestant<'c> {
    fn new(name: &'static str, gets: impl Fn(&[Key]) -> Result<u64> + 'c) -> Contestant<'c> {
        Contestant { name, gets: Box::new(gets), count: 0, times: Vec::new() }
    }

    fn of(name: &'static str, engine: &'c dyn Engine) -> Contestant<'c> {
        Contestant::new(name, move |keys| {
            let mut sum = 0;
            engine.get(keys, &mut |found| sum += found.map_or(0, ends))?;
            Ok(sum)
        })
    }

    fn turn(&self, keys: &[Key]) -> Result<(f64, u64)> {
        let begun = Instant::now();
        let sum = (self.gets)(keys)?;
        Ok((begun.elapsed().as_secs_f64() * NANOSECONDS / keys.len() as f64, sum))
    }
}

/// One more than the first and the last byte, so that a missing blob is seen in a sum.
fn ends(bytes: &[u8]) -> u64 {
    1 + u64::from(bytes[0]) + u64::from(bytes[bytes.len() - 1])
}

/// Lets all take turns; each answers with the same sum for the same keys.
fn take_turns(contestants: &mut [Contestant], mut keys: impl FnMut(u64, usize) -> Vec<Key>) -> Result<()> {
    for contestant in contestants.iter_mut() {
        let (nanoseconds, _) = contestant.turn(&keys(0, 2_000))?;
        contestant.count = ((TURN.as_secs_f64() * NANOSECONDS / nanoseconds) as usize).clamp(200, GETS_MAX);
    }
    for round in 0..=ROUNDS {
        let most = contestants.iter().map(|contestant| contestant.count).max().unwrap_or(0);
        let keys = keys(round, most);
        let mut sums = Vec::new();
        for contestant in contestants.iter_mut() {
            let (nanoseconds, sum) = contestant.turn(&keys[..contestant.count])?;
            // The first round warms up.
            if round > 0 {
                contestant.times.push(nanoseconds);
            }
            sums.push(sum);
        }
        // Slower ones had fewer of the keys: when all turns are over, the map in memory, which is the last, gets the same.
        let map = contestants.last().context("there are always the maps")?;
        for (contestant, sum) in contestants.iter().zip(sums) {
            let right = (map.gets)(&keys[..contestant.count])?;
            ensure!(sum == right, "{}: the sum of the bytes is {sum} and not {right}", contestant.name);
        }
    }
    Ok(())
}

/// blobpack's median, and the medians of the others; the two maps in memory count as their faster one.
fn figure(contestants: Vec<Contestant>) -> Figure {
    let mut figure = Figure::new("ns", Better::Lower, f64::NAN);
    for contestant in contestants {
        let time = median(contestant.times);
        match contestant.name {
            "blobpack" => figure.blobpack = time,
            name => {
                let now = figure.peers.entry(name).or_insert(time);
                *now = now.min(time);
            }
        }
    }
    figure
}

/// Stores all of these, in batches, and looks at some of them.
fn fill(engine: &dyn Engine, contents: &Contents, keys: &[Key]) -> Result<()> {
    for part in contents.blobs().chunks(BATCH_BYTES / contents.blob_bytes) {
        engine.put(part)?;
    }
    check(engine, contents, keys)
}

/// Random gets of all of these by each of `peers` and by the maps in memory.
fn compare(run: &Run, contents: &Contents, peers: &[Peer]) -> Result<Figure> {
    let keys = contents.keys();
    let stores: Vec<_> = peers.iter().map(|peer| run.open(peer)).collect::<Result<_>>()?;
    for store in &stores {
        fill(store.engine.as_ref(), contents, &keys)?;
    }
    run.settle()?;
    let maps = ram(&keys, &contents.bytes, contents.blob_bytes);
    let stores = stores.iter().map(|store| Contestant::of(store.name, store.engine.as_ref()));
    let mut contestants: Vec<_> = stores.chain(in_memory(&maps)).collect();
    // Stores that keep what was read in a cache of their own have nothing in it behind their puts, and the slower ones
    // would not come upon most of the keys in all their turns.
    contestants.iter().try_for_each(|contestant| (contestant.gets)(&keys).map(drop))?;
    take_turns(&mut contestants, |round, count| shuffled(&keys, count, round))?;
    Ok(figure(contestants))
}

fn in_memory<'c>(maps: &'c [Box<dyn Engine + 'c>]) -> impl Iterator<Item = Contestant<'c>> {
    maps.iter().map(|map| Contestant::of("ram-hash-map", map.as_ref()))
}

/// `get_256_1m`, and the other ways to ask blobpack for the same, beside the maps in memory.
pub fn small(run: &Run, report: &mut Report) -> Result<()> {
    let contents = Contents::new(0, run.blobs, 256);
    report.add("get_256_1m", compare(run, &contents, &run.peers)?);

    let keys = contents.keys();
    let home = run.home()?;
    let blobpack = Blobpack::open(home.path())?;
    fill(&blobpack, &contents, &keys)?;
    let maps = ram(&keys, &contents.bytes, contents.blob_bytes);
    let beside_maps = |contestant| std::iter::once(contestant).chain(in_memory(&maps)).collect::<Vec<_>>();
    let known = |round, count| shuffled(&keys, count, round);

    let reader = blobpack.store.reader()?;
    let mut contestants = beside_maps(Contestant::new("blobpack", |keys| {
        let mut sum = 0;
        in_digests(keys, |digests| {
            sum += reader.get_many(digests)?.iter().flatten().map(|blob| ends(blob)).sum::<u64>();
            Ok(())
        })?;
        Ok(sum)
    }));
    take_turns(&mut contestants, known)?;
    report.add("get_many_256_1m", figure(contestants));

    let mut contestants = beside_maps(Contestant::of("blobpack", &blobpack));
    take_turns(&mut contestants, |round, count| {
        shuffled(&keys, count, round).iter().map(|key| key.map(|byte| !byte)).collect()
    })?;
    report.add("miss_256_1m", figure(contestants));

    let mut contestants = beside_maps(Contestant::new("blobpack", |keys| {
        let mut sum = 0;
        in_digests(keys, |digests| {
            for digest in digests {
                sum += ends(&blobpack.store.get(digest)?);
            }
            Ok(())
        })?;
        Ok(sum)
    }));
    take_turns(&mut contestants, known)?;
    report.add("get_owned_256_1m", figure(contestants));

    report.add("get_2threads", two_threads(&blobpack, &keys)?);
    Ok(())
}

/// How many times the gets of one thread two make, each with a reader of its own.
fn two_threads(blobpack: &Blobpack, keys: &[Key]) -> Result<Figure> {
    let gets = |round: u64, begin: &Barrier| -> Result<f64> {
        let reader = blobpack.store.reader();
        let wanted: Vec<_> = shuffled(keys, GETS_MAX, round).iter().map(digest_of).collect();
        // What is looked up is in place before the clock is started.
        let mut sum = mixed(round);
        // Nobody measures while the other has not begun.
        begin.wait();
        let reader = reader?;
        let time = timed(|| {
            for digest in &wanted {
                sum = sum.wrapping_add(ends(&reader.get(digest)?));
            }
            Ok(())
        })?;
        std::hint::black_box(sum);
        Ok(wanted.len() as f64 / time.as_secs_f64())
    };
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let one = gets(round, &Barrier::new(1))?;
        let begin = Barrier::new(2);
        let both: Result<Vec<f64>> = std::thread::scope(|scope| {
            let other = scope.spawn(|| gets(100 + round, &begin));
            let this = gets(200 + round, &begin)?;
            Ok(vec![this, other.join().expect("a panic has been printed")?])
        });
        ratios.push(both?.iter().sum::<f64>() / one);
    }
    Ok(Figure::new("× one thread", Better::Higher, median(ratios)))
}

/// `get_4k_100k`.
pub fn pages(run: &Run, report: &mut Report) -> Result<()> {
    report.add("get_4k_100k", compare(run, &Contents::new(0, run.blobs / 10, 4096), &run.peers)?);
    Ok(())
}

/// `get_256_10m`: memory and LMDB alone. One store after the other, each by turns with the maps: the files of both and the
/// maps are more than 16 GiB.
pub fn many(run: &Run, report: &mut Report) -> Result<()> {
    let contents = Contents::new(0, run.many, 256);
    let mut peers = run.peers.iter().copied().filter(|peer| LARGE.contains(&peer.name));
    let blobpack = peers.next().context("blobpack is always measured")?;
    let mut figure = compare(run, &contents, &[blobpack])?;
    for peer in peers {
        let beside = compare(run, &contents, &[peer])?;
        figure.peers.extend(beside.peers.into_iter().filter(|(name, _)| *name == peer.name));
    }
    report.add("get_256_10m", figure);
    Ok(())
}
