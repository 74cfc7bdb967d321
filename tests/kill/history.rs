//! What the writers of this test do, step by step: a store's state after step n follows from n alone, so that whoever
//! looks at it can tell which step it is after, and whether all of that step is there.
//!
//! Step n stores image n: a manifest that links to layers of its own and to the base that it shares with its neighbours.
//! Its caller keeps one reference on the manifest until step n + [`WINDOW`] gives it up; the names [`LATEST`] and one of
//! [`SLOTS`] others hold more until they move on.

use blobpack::medium::Medium;
use blobpack::{Algorithm, Digest, Error, Name, Result, Store};

use crate::common::content;

/// So many images are there.
pub const WINDOW: u64 = 10;
pub const LATEST: &str = "latest";
/// So many other names.
const SLOTS: u64 = 4;
/// So many blobs are stored by the first step and stay.
pub const PERMANENT: u64 = 20;
/// So many images share a base.
const GROUP: u64 = 6;

fn of(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

fn slot(n: u64) -> Name {
    format!("slot/{}", n % SLOTS).parse().unwrap()
}

pub fn permanent(n: u64) -> Vec<u8> {
    content(0x5_0000_0000 + n, 30 + 7 * n as usize)
}

/// The parts of image n.
pub struct Image {
    pub manifest: Vec<u8>,
    pub layers: Vec<Vec<u8>>,
    pub base: Vec<u8>,
}

pub fn image(n: u64) -> Image {
    let length =
        |layer: u64| if n % 7 == 3 && layer == 0 { 70_000 } else { 50 + (n * 131 + layer * 977) as usize % 900 };
    Image {
        manifest: format!("image {n}").into_bytes(),
        layers: (0..n % 4).map(|layer| content(16 * n + layer, length(layer))).collect(),
        base: content(0x7_0000_0000 + n / GROUP, 400),
    }
}

/// The state after step n, for whoever looks while nothing changes.
struct State {
    blobs: u64,
    links: u64,
    names: u64,
}

/// The images that are there after step n.
fn alive(n: u64) -> std::ops::RangeInclusive<u64> {
    n.saturating_sub(WINDOW - 1).max(1)..=n
}

fn state(n: u64) -> State {
    if n == 0 {
        return State { blobs: 0, links: 0, names: 0 };
    }
    let mut bases: Vec<u64> = alive(n).map(|image| image / GROUP).collect();
    bases.dedup();
    let layers: u64 = alive(n).map(|image| image % 4).sum();
    let images = alive(n).count() as u64;
    State { blobs: PERMANENT + images + layers + bases.len() as u64, links: layers + images, names: 1 + SLOTS.min(n) }
}

/// How many references manifest `image` has after step n: the caller's, and the names'.
fn references(image: u64, n: u64) -> u64 {
    1 + u64::from(image == n) + u64::from(image + SLOTS > n)
}

/// Does step n.
pub fn step<M: Medium>(store: &Store<M>, n: u64) -> Result<()> {
    let image = image(n);
    let staged = image.layers.iter().filter(|layer| layer.len() > 50_000).map(|layer| {
        let mut writer = store.writer(Algorithm::Sha256)?;
        // The writer keeps its first error, and staging returns it.
        let _ = std::io::Write::write_all(&mut writer, layer);
        writer.stage()
    });
    let staged: Vec<_> = staged.collect::<Result<_>>()?;
    let mut batch = store.batch();
    if n == 1 {
        for number in 0..PERMANENT {
            batch.put(&permanent(number))?;
        }
    }
    let mut parts = Vec::new();
    for layer in staged {
        parts.push(batch.add(layer)?);
    }
    for layer in image.layers.iter().filter(|layer| layer.len() <= 50_000) {
        parts.push(batch.put(layer)?);
    }
    parts.push(batch.put(&image.base)?);
    let manifest = batch.put(&image.manifest)?;
    for part in &parts {
        batch.link(part, &manifest);
    }
    for name in [LATEST.parse().unwrap(), slot(n)] {
        batch.reference(&manifest);
        batch.set_name(&name, &manifest);
    }
    if n > WINDOW {
        batch.dereference(&of(&self::image(n - WINDOW).manifest));
    }
    batch.commit()?;
    // These change nothing that anybody could see.
    match n % 41 {
        11 | 30 => store.checkpoint(),
        20 => store.compact().map(drop),
        _ => Ok(()),
    }
}

/// The step that the store is after, as far as the one name tells.
pub fn latest<M: Medium>(store: &Store<M>) -> Result<u64> {
    let Some(digest) = store.find_name(&LATEST.parse().unwrap())? else { return Ok(0) };
    let blob = store.get(&digest)?;
    let text = std::str::from_utf8(&blob).unwrap();
    Ok(text.strip_prefix("image ").unwrap().parse().unwrap())
}

/// Looks at all that there is while nothing changes; returns the step that the store is after.
pub fn check_at_rest<M: Medium>(store: &Store<M>) -> u64 {
    let n = latest(store).unwrap();
    let expected = state(n);
    let stats = store.stats().unwrap();
    assert_eq!((stats.blobs, stats.links, stats.names), (expected.blobs, expected.links, expected.names), "step {n}");
    assert_eq!(store.list().map(Result::unwrap).count() as u64, expected.blobs, "step {n}");
    assert_eq!(store.names().unwrap().len() as u64, expected.names, "step {n}");
    if n == 0 {
        return 0;
    }
    for number in 0..PERMANENT {
        assert!(*store.get(&of(&permanent(number))).unwrap() == *permanent(number), "permanent {number}");
    }
    for number in alive(n) {
        let (image, manifest) = (image(number), of(&image(number).manifest));
        let found = store.get(&manifest).unwrap();
        assert!(*found == *image.manifest, "image {number} after step {n}");
        assert_eq!(found.ref_count(), references(number, n), "image {number} after step {n}");
        check_parts(store, number).unwrap();
        let others = alive(n).filter(|other| other / GROUP == number / GROUP);
        let mut keepers: Vec<Digest> = others.map(|other| of(&self::image(other).manifest)).collect();
        let mut found: Vec<Digest> = store.referrers(&of(&image.base)).unwrap().map(Result::unwrap).collect();
        keepers.sort_unstable();
        found.sort_unstable();
        assert!(keepers == found, "referrers of the base of image {number} after step {n}");
        assert_eq!(store.descriptor(&of(&image.base)).unwrap().ref_count, keepers.len() as u64);
    }
    for gone in [n.saturating_sub(WINDOW), n + 1] {
        assert!(!store.contains(&of(&image(gone).manifest)).unwrap(), "image {gone} after step {n}");
    }
    n
}

/// Whether an image that is there has its parts. An error, or a part that is not there, may mean that it went just now.
fn check_parts<M: Medium>(store: &Store<M>, number: u64) -> Result<()> {
    let image = image(number);
    let mut parts = Vec::new();
    for part in image.layers.iter().chain([&image.base]) {
        let blob = store.get(&of(part))?;
        assert!(*blob == **part, "a part of image {number} has other bytes");
        parts.push(of(part));
    }
    let mut found = store.links(&of(&image.manifest))?.collect::<Result<Vec<Digest>>>()?;
    parts.sort_unstable();
    found.sort_unstable();
    if parts == found { Ok(()) } else { Err(Error::NotFound { digest: of(&image.manifest) }) }
}

/// What a reader saw of a store that may be changing: `since` is the step that it saw before, which it may not fall
/// behind. Returns the step that it saw now.
pub fn look<M: Medium>(store: &Store<M>, since: u64, round: u64) -> u64 {
    let seen = loop {
        match latest(store) {
            Ok(n) => break n,
            // The image went between the name and the bytes: another has the name by now.
            Err(Error::NotFound { .. }) => {}
            Err(error) => panic!("after step {since}: {error}"),
        }
    };
    assert!(seen >= since, "after step {since} a reader saw step {seen}");
    if seen == 0 {
        return 0;
    }
    let reader = store.reader().unwrap();
    for number in (0..PERMANENT).skip((round % 3) as usize).step_by(3) {
        let expected = permanent(number);
        assert!(*reader.get(&of(&expected)).unwrap() == *expected, "permanent {number}");
    }
    if let Err(error) = check_image(store, seen) {
        // It may have gone meanwhile.
        let now = latest_or(store, seen);
        assert!(now >= seen + WINDOW, "image {seen} while step {now} was seen: {error}");
    }
    if round.is_multiple_of(8) {
        let listed: Vec<Digest> = store.list().map(Result::unwrap).collect();
        for number in 0..PERMANENT {
            let times = listed.iter().filter(|digest| **digest == of(&permanent(number))).count();
            assert_eq!(times, 1, "permanent {number} in a list");
        }
    }
    seen
}

fn latest_or<M: Medium>(store: &Store<M>, least: u64) -> u64 {
    latest(store).map_or(least, |n| n.max(least))
}

fn check_image<M: Medium>(store: &Store<M>, number: u64) -> Result<()> {
    check_parts(store, number)?;
    let manifest = of(&image(number).manifest);
    let keepers = store.referrers(&of(&image(number).base))?.collect::<Result<Vec<Digest>>>()?;
    let members = (number / GROUP * GROUP..).take(GROUP as usize).map(|other| of(&image(other).manifest));
    let members: Vec<Digest> = members.collect();
    assert!(keepers.iter().all(|keeper| members.contains(keeper)), "a wrong referrer of the base of image {number}");
    if keepers.contains(&manifest) { Ok(()) } else { Err(Error::NotFound { digest: manifest }) }
}
