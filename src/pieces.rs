//! A list that grows without moving what is in it.
//!
//! A vector that doubles copies all that it holds into memory that nobody has touched yet: of some megabytes a put
//! would wait for milliseconds. For lists that grow with a checkpoint's work, and are handed on as a whole.

use std::collections::VecDeque;

/// So many items lie together at most.
const PIECE: usize = if cfg!(test) { 4 } else { 1024 };

/// See the module.
#[derive(Clone, Debug)]
pub struct Pieces<T>(VecDeque<Vec<T>>);

impl<T> Default for Pieces<T> {
    fn default() -> Pieces<T> {
        Pieces(VecDeque::new())
    }
}

impl<T> Pieces<T> {
    /// Adds an item.
    pub fn push(&mut self, item: T) {
        match self.0.back_mut() {
            Some(piece) if piece.len() < PIECE => piece.push(item),
            _ => self.0.push_back(vec![item]),
        }
    }

    /// Takes all from another list; items stay where they are.
    pub fn append(&mut self, mut other: Pieces<T>) {
        self.0.append(&mut other.0);
    }

    /// Some of the items, and they are taken out; none where there are none left.
    pub fn take_piece(&mut self) -> Vec<T> {
        self.0.pop_front().unwrap_or_default()
    }
}

impl<T> IntoIterator for Pieces<T> {
    type Item = T;
    type IntoIter = std::iter::Flatten<std::collections::vec_deque::IntoIter<Vec<T>>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::Pieces;
    use crate::format::to_usize;

    #[test]
    fn all_items_come_out_in_the_order_in_which_they_came() {
        for (first, second) in [(0, 0), (0, 3), (1, 0), (4, 4), (9, 2), (8, 9)] {
            let list = |items: std::ops::Range<u32>| {
                let mut list = Pieces::default();
                items.for_each(|item| list.push(item));
                list
            };
            let mut all = list(0..first);
            all.append(list(first..first + second));
            // A clone grows as the original does.
            let mut cloned = all.clone();
            cloned.push(first + second);
            assert_eq!(cloned.into_iter().collect::<Vec<u32>>(), (0..=first + second).collect::<Vec<u32>>());
            let piece = all.take_piece();
            let longest = if first == 0 { second } else { first }.min(4);
            assert_eq!(piece.len(), to_usize(longest.into()), "pieces are filled");
            assert_eq!([piece, all.into_iter().collect()].concat(), (0..first + second).collect::<Vec<u32>>());
        }
    }
}
