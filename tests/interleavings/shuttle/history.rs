//! Whether what several threads saw is what some serial order would have shown (Herlihy and Wing, 1990): each operation
//! takes effect at one moment between its call and its return.

use std::collections::BTreeSet;

use crate::operation::{Operation, Outcome, State};

/// An operation that came to its end.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub operation: Operation,
    pub outcome: Outcome,
    /// Moments of call and return, in the order of the one schedule.
    pub called: u64,
    pub returned: u64,
}

/// Whether there is such an order. Tries all of them (Wing and Gong, 1993), but no pair of what is done and what the
/// store then holds twice.
pub fn is_linearizable(events: &[Event]) -> bool {
    assert!(events.len() <= 64, "what is done is a set of bits");
    let mut tried = BTreeSet::new();
    let mut work = vec![(0u64, State::default())];
    while let Some((done, state)) = work.pop() {
        let open = || (0..events.len()).filter(|number| done & 1 << number == 0);
        // Who was called after another one had returned comes after it.
        let Some(first_return) = open().map(|number| events[number].returned).min() else { return true };
        for number in open().filter(|&number| events[number].called < first_return) {
            let mut next = state.clone();
            if next.run(events[number].operation) == events[number].outcome {
                let done = done | 1 << number;
                if tried.insert((done, next.clone())) {
                    work.push((done, next));
                }
            }
        }
    }
    false
}

#[test]
fn an_order_that_no_serial_run_has_is_refused() {
    let event = |operation, outcome, called, returned| Event { operation, outcome, called, returned };
    let one = Outcome::Is { references: 1, links: 0 };
    let two = Outcome::Is { references: 2, links: 0 };
    let puts = [event(Operation::Put(0), one, 0, 3), event(Operation::Put(0), two, 1, 2)];
    assert!(is_linearizable(&puts));
    assert!(!is_linearizable(&[puts[0], event(Operation::Put(0), one, 1, 2)]), "a lost update");
    let look = |outcome, called| event(Operation::Look(0), outcome, called, called + 1);
    assert!(is_linearizable(&[puts[0], look(Outcome::NotFound, 1)]));
    assert!(!is_linearizable(&[puts[0], look(Outcome::NotFound, 4)]), "acknowledged, and not there");
    assert!(!is_linearizable(&[puts[0], look(one, 1), look(Outcome::NotFound, 5)]), "it went back");
}
