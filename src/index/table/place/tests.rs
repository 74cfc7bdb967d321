#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use super::*;
use crate::format::{LiveWord, Offset};
use proptest::prelude::*;

fn table(slots: u32) -> Table {
    Table::new(slots, LiveWord { directory: Offset::NONE, depth: 0, switches: 0 }, 0, 0)
}

/// A tag whose search begins at this slot, and that no other `number` has.
fn tag(home: u32, slots: u32, number: usize) -> u64 {
    let low = (u64::from(home) << 32).div_ceil(u64::from(slots)) as u32;
    assert_eq!(home_slot(u64::from(low), slots), home);
    (number as u64 + 1) << 32 | u64::from(low)
}

/// How far from home linear probing puts the farthest of these, where those of the slots from `first` on come first.
fn farthest(homes: &[u32], slots: u32, first: u32) -> u32 {
    let mut order = homes.to_vec();
    order.sort_by_key(|home| (home + slots - first) % slots);
    let mut taken = vec![false; slots as usize];
    let mut farthest = 0;
    for home in order {
        let probe = (0..slots).find(|probe| !taken[((home + probe) % slots) as usize]).unwrap();
        taken[((home + probe) % slots) as usize] = true;
        farthest = farthest.max(probe);
    }
    farthest
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 8 } else { 2000 }, ..ProptestConfig::default() })]

    #[test]
    fn records_stand_where_they_are_looked_for_or_fit_in_no_order(
        slots in prop_oneof![Just(2_u32), Just(4), Just(20), Just(63)],
        crowd in 1..64_u32,
        start in 0..64_u32,
        picks in prop::collection::vec(0..64_u32, 0..66),
    ) {
        let homes: Vec<u32> = picks.iter().map(|pick| (start + pick % crowd) % slots).collect();
        let tags: Vec<u64> = homes.iter().enumerate().map(|(number, home)| tag(*home, slots, number)).collect();
        let records: Vec<Words> = tags.iter().map(|&tag| [tag, 1, 2, 3, 4, 5, 6, 7]).collect();
        let filled = table(slots).fill(&records);
        let fits = homes.len() <= slots as usize
            && (0..slots).any(|first| farthest(&homes, slots, first) < PROBES_MAX);
        prop_assert_eq!(filled.is_some(), fits);
        let Some(filled) = filled else { return Ok(()) };
        prop_assert_eq!(filled.len(), slots as usize);
        prop_assert_eq!(filled.iter().filter(|words| words[0] != TAG_EMPTY).count(), records.len());
        for (record, home) in records.iter().zip(&homes) {
            let found = (0..PROBES_MAX.min(slots))
                .map(|probe| filled[((home + probe) % slots) as usize])
                .take_while(|words| words[0] != TAG_EMPTY)
                .find(|words| words[0] == record[0]);
            prop_assert_eq!(found, Some(*record));
        }
    }

    #[test]
    fn halves_have_the_records_that_their_prefixes_say(
        depth in 0..8_u32,
        prefix in any::<u64>(),
        lows in prop::collection::vec(any::<u64>(), 0..64),
    ) {
        let prefix = if depth == 0 { 0 } else { prefix >> (64 - depth) << (64 - depth) };
        let records: Vec<Words> = lows.iter().map(|low| [prefix | low >> depth, 1, 2, 3, 4, 5, 6, 7]).collect();
        let [(low, below), (high, above)] = halves(records.clone(), prefix, depth);
        prop_assert_eq!((low, high), (prefix, prefix | 1 << (63 - depth)));
        prop_assert!(below.iter().all(|words| words[0] < high) && above.iter().all(|words| words[0] >= high));
        let mut both = [below, above].concat();
        let mut all = records;
        both.sort_unstable();
        all.sort_unstable();
        prop_assert_eq!(both, all);
    }
}
