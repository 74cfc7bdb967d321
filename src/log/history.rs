//! The log from its end to its beginning: the chain of commits.

use super::{Commit, Tail};
use crate::error::{Error, Result};
use crate::format::{Counters, Offset};
use crate::medium::Medium;

/// All commits of a log.
#[derive(Default)]
pub struct History {
    /// Where their frames stand, oldest first.
    pub commits: Vec<Offset>,
    /// How many groups they are.
    pub groups: u64,
    /// How many images they hold.
    pub images: u64,
    /// After the newest; `None` where there is no commit.
    pub counters: Option<Counters>,
}

/// All commit frames from the newest back to the pack's first. Each is checked against what the one after it says of
/// it. Their offsets only fall, so the walk ends, and none reaches into the next one, so that no byte is read twice.
pub fn history<M: Medium>(medium: &M, marker: u64, tail: &Tail, file_bytes: u64) -> Result<History> {
    let mut history = History::default();
    let (mut at, mut checksum, mut end) = (tail.commit, tail.commit_checksum, file_bytes);
    while at != Offset::NONE {
        let damaged = |what: &str| Error::damaged(medium.path(), at.0, what);
        let commit = Commit::read(medium, marker, at, end)?.ok_or_else(|| damaged("a commit of the log is damaged"))?;
        if commit.frame.checksum != checksum {
            return Err(damaged("a commit is not the one that the next commit builds on"));
        }
        history.commits.push(at);
        history.groups += u64::from(commit.is_last());
        history.images += commit.body.images.get();
        history.counters = history.counters.or(Some(commit.body.counters));
        let before = Offset(commit.detail.previous.get());
        if before >= at {
            return Err(damaged("commits are linked in a circle"));
        }
        (at, checksum, end) = (before, commit.detail.previous_checksum.get(), at.0);
    }
    history.commits.reverse();
    Ok(history)
}
