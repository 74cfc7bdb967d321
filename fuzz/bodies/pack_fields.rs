//! Words of a sound pack changed to what hurts, all checksums made right again: the inside of every parser is reached.

use std::sync::LazyLock;

use blobpack::format::SPACE_AT;

use super::{image, pack_bytes};

/// An input has no more changes.
const CHANGES_MAX: usize = 24;
/// A change: what, where, and a value.
const CHANGE_BYTES: usize = 11;
/// Values that are likely to hurt.
const HURTFUL: [u64; 12] = [
    0,
    1,
    63,
    1 << 20,
    1 << 32,
    (1 << 46) - 1,
    1 << 46,
    64 << 40,
    i64::MAX as u64,
    u64::MAX - 63,
    u64::MAX - 1,
    u64::MAX,
];

/// A sound pack, and what in it can be changed.
struct Base {
    bytes: Vec<u8>,
    /// Words that are not zero, and those beside them; of payloads only the ends.
    words: Vec<usize>,
    /// Where frames and regions of the index begin.
    starts: Vec<usize>,
}

/// They are the same in every run, so that what was found once is found again.
static BASES: LazyLock<Vec<Base>> = LazyLock::new(|| {
    let seeds: [&[u8]; 4] = [
        include_bytes!("../corpus/pack_bytes/base_killed_small"),
        include_bytes!("../corpus/pack_bytes/base_closed_small"),
        include_bytes!("../corpus/pack_bytes/base_killed_large"),
        include_bytes!("../corpus/pack_bytes/base_closed_large"),
    ];
    seeds.map(|seed| Base::of(image::decode(seed))).into()
});

impl Base {
    fn of(bytes: Vec<u8>) -> Base {
        let (mut words, mut starts) = (Vec::new(), Vec::new());
        for at in (0..bytes.len()).step_by(8) {
            let is_frame = at % 64 == 0 && bytes[at..at + 8] == bytes[32..40];
            if at >= SPACE_AT.0 as usize && (is_frame || at % 4096 == 0) {
                starts.push(at);
            }
            let near = at.saturating_sub(8)..bytes.len().min(at + 16);
            // Inside of long runs of payload there is nothing to be found.
            let inside = starts.last().is_some_and(|start| at > start + 2048 && at % 1024 != 0);
            if bytes[near].iter().any(|&byte| byte != 0) && !inside {
                words.push(at);
            }
        }
        Base { bytes, words, starts }
    }
}

/// The first byte chooses the pack and what is done with it, the rest are changes.
#[allow(dead_code, reason = "the tests handle it in every way")]
pub fn run(input: &[u8]) {
    let Some((&head, changes)) = input.split_first() else { return };
    pack_bytes::one(changed(head, changes), head >> 2);
}

/// The pack that an input stands for, handled in every way.
#[allow(dead_code, reason = "the fuzzer chooses one way")]
pub fn run_in_every_way(input: &[u8]) {
    if let Some((&head, changes)) = input.split_first() {
        pack_bytes::every(changed(head, changes));
    }
}

/// A sound pack with these changes.
pub fn changed(head: u8, changes: &[u8]) -> Vec<u8> {
    let base = &BASES[usize::from(head) % BASES.len()];
    let mut bytes = base.bytes.clone();
    for change in changes.chunks_exact(CHANGE_BYTES).take(CHANGES_MAX) {
        let place = usize::from(u16::from_le_bytes([change[1], change[2]]));
        let value = u64::from_le_bytes(*change[3..].first_chunk().expect("a change has eight bytes of value"));
        let number = value as usize;
        let at = base.words[place % base.words.len()];
        let old = u64::from_le_bytes(*bytes[at..].first_chunk().expect("words lie inside"));
        let start = |n: usize| base.starts[n % base.starts.len()];
        let new = match change[0] % 10 {
            0 => value,
            1 => HURTFUL[number % HURTFUL.len()],
            2 => old.wrapping_add(value as i8 as u64),
            3 => old ^ 1 << (value % 64),
            4 => start(number) as u64,
            // An entry of the directory: a page, and a generation as it is.
            5 => (start(number) as u64 / 4096) << 24 | old & 0xff_ffff,
            6 => u64::from_le_bytes(*bytes[base.words[number % base.words.len()]..].first_chunk().expect("inside")),
            7 => old & !0xffff_ffff | value & 0xffff_ffff,
            8 => {
                let from = base.words[number % base.words.len()] & !63;
                bytes.copy_within(from..from + 64, at & !63);
                continue;
            }
            _ => {
                bytes.truncate((at + number % 8192).min(bytes.len()).max(SPACE_AT.0 as usize));
                bytes.resize(base.bytes.len(), 0);
                continue;
            }
        };
        bytes[at..at + 8].copy_from_slice(&new.to_le_bytes());
    }
    image::seal(&mut bytes);
    bytes
}
