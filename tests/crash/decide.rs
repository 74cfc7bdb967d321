//! What an image holds: decided for each sector, length and name.

use super::model::Random;

/// How much of what was not synced a drawn image keeps.
#[derive(Clone, Copy, Debug)]
pub enum Mood {
    Old,
    New,
    Any,
    MostlyOld,
    MostlyNew,
}

pub const MOODS: [Mood; 5] = [Mood::Old, Mood::MostlyOld, Mood::Any, Mood::MostlyNew, Mood::New];

/// Which decisions go through all their possibilities, and which are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exhaustive {
    All,
    /// Those about what the last step changed.
    OfLastStep,
    None,
}

/// Decides what an image holds; goes through all possibilities, like the wheels of a counter, or draws.
pub struct Decider<'r> {
    pub random: &'r mut Random,
    pub mood: Mood,
    exhaustive: Exhaustive,
    /// What was chosen, and of how many.
    wheels: Vec<(usize, usize)>,
    at: usize,
}

impl<'r> Decider<'r> {
    pub fn new(random: &'r mut Random, exhaustive: Exhaustive) -> Decider<'r> {
        Decider { random, mood: Mood::Any, exhaustive, wheels: Vec::new(), at: 0 }
    }

    /// Chooses a number below `count`: 0 is the oldest.
    pub fn one_of(&mut self, count: usize, of_last_step: bool) -> usize {
        let last = count - 1;
        if last == 0 {
            return 0;
        }
        if self.exhaustive == Exhaustive::All || self.exhaustive == Exhaustive::OfLastStep && of_last_step {
            if self.at == self.wheels.len() {
                self.wheels.push((0, count));
            }
            self.at += 1;
            return self.wheels[self.at - 1].0;
        }
        let seldom = self.random.below(8) == 0;
        match self.mood {
            Mood::Old => 0,
            Mood::New => last,
            Mood::MostlyOld if !seldom => 0,
            Mood::MostlyNew if !seldom => last,
            Mood::Any | Mood::MostlyOld | Mood::MostlyNew => self.random.below(count),
        }
    }

    /// Turns the wheels by one; `false` once all positions were had.
    pub fn turn(&mut self) -> bool {
        self.at = 0;
        while let Some((chosen, count)) = self.wheels.pop() {
            if chosen + 1 < count {
                self.wheels.push((chosen + 1, count));
                return true;
            }
        }
        false
    }
}
