//! Where the records of a segment stand in it, and into how many segments they go.

use super::Table;
use crate::format::{DEPTH_MAX, PROBES_MAX, TAG_EMPTY, home_slot, to_usize};
use crate::index::room::{first_of_run, homes};
use crate::record::Words;

/// What a segment becomes: one or more segments of records placed in their slots.
pub(super) struct Part {
    pub(super) prefix: u64,
    pub(super) depth: u32,
    pub(super) slots: Vec<Words>,
}

impl Table {
    /// Puts records into slots. Where they don't fit (too many near one home), they are split, again and again if need
    /// be. `None` where even the deepest directory could not tell them apart.
    pub(super) fn place(&self, records: Vec<Words>, prefix: u64, depth: u32) -> Option<Vec<Part>> {
        let mut parts = Vec::new();
        let mut work = vec![(prefix, depth, records)];
        while let Some((prefix, depth, records)) = work.pop() {
            if depth > DEPTH_MAX {
                return None;
            }
            match self.fill(&records) {
                Some(slots) => parts.push(Part { prefix, depth, slots }),
                None => work.extend(halves(records, prefix, depth).map(|(half, records)| (half, depth + 1, records))),
            }
        }
        Some(parts)
    }

    /// Linear probing in the order of the homes, which keeps the longest probe as short as can be: what fits in any way
    /// fits so.
    fn fill(&self, records: &[Words]) -> Option<Vec<Words>> {
        let count = to_usize(u64::from(self.slots));
        if records.len() > count {
            return None;
        }
        let counts = homes(records.iter().map(|words| words[0]), self.slots);
        let first = to_usize(u64::from(first_of_run(&counts)));
        // Counted from this slot on, no run goes on from the last one to the first.
        let home = |words: &Words| {
            let slot = to_usize(u64::from(home_slot(words[0], self.slots)));
            if slot < first { slot + count - first } else { slot - first }
        };
        // A counting sort: where the records of each home begin among all of them.
        let mut starts = Vec::with_capacity(count);
        let mut before = 0;
        for here in counts[first..].iter().chain(&counts[..first]) {
            starts.push(before);
            before += to_usize(u64::from(*here));
        }
        let mut sorted = vec![0; records.len()];
        for (number, words) in records.iter().enumerate() {
            let place = &mut starts[home(words)];
            sorted[*place] = number;
            *place += 1;
        }
        let mut slots = vec![[TAG_EMPTY; 8]; count];
        let mut free = 0;
        for words in sorted.iter().map(|&number| &records[number]) {
            let at = free.max(home(words));
            if at - home(words) >= to_usize(u64::from(PROBES_MAX)) {
                return None;
            }
            slots[(at + first) % count] = *words;
            free = at + 1;
        }
        Some(slots)
    }
}

/// The records whose next bit after `depth` is 0, and those where it is 1, each with its prefix.
pub(super) fn halves(records: Vec<Words>, prefix: u64, depth: u32) -> [(u64, Vec<Words>); 2] {
    let bit = 1 << (63 - depth);
    let [mut low, mut high] = [(); 2].map(|()| Vec::with_capacity(records.len()));
    for words in records {
        if words[0] & bit == 0 { low.push(words) } else { high.push(words) }
    }
    [(prefix, low), (prefix | bit, high)]
}

#[cfg(test)]
mod tests;
