//! The index: the newest image of every record, in an extendible hash table inside the pack (see [`crate::format`]).
//!
//! [`probe`] reads it without locks, beside a writer in this or another process, [`home`] likewise in few instructions;
//! [`ring`] reads all names, [`segments`] everything. [`table`] is that writer, [`room`] says what it may need.
//! [`tag`] is the keyed hash of all.
//!
//! # The protocol between them
//!
//! * A reader loads the live word, the directory's entry, then the slots, each with acquire ordering; the writer makes
//!   each store with release ordering, so a reader that saw a store sees all that were made before it.
//! * Within one life of a segment no record moves. A new record's tag is stored last.
//! * A segment or directory that a checkpoint froze is never stored into again. Its first change copies it into a free
//!   region, and the entry (or the live word) is swung to the copy.
//! * A region is used again only after its generation was counted up; the directory's entries carry the generation. The
//!   live word carries a count of switches. So a reader that finds nothing compares both with what it read before: if
//!   neither moved, all that it read belonged to one life, and nothing was there.
//!
//! `tests/interleavings` runs both sides under loom, and shows what fails without each of these orderings.

pub mod home;
pub mod probe;
pub mod ring;
pub mod room;
pub mod segments;
pub mod table;
pub mod tag;

#[cfg(test)]
mod lookup_tests;
#[cfg(test)]
mod tests;
