//! Media that do not what they are asked, each of which breaks a promise. For every one of them the suite has to find
//! what it loses.

use blobpack::format::{Offset, PAGE_BYTES, SPACE_AT, SUPERBLOCKS_AT, live};
use blobpack::medium::{Action, Step};

use super::scenarios::{self, SCENARIOS};
use super::sequences::Prepared;

/// One way to be a bad medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    CommitNotSynced,
    CommitHalfSynced,
    CommitDelayed,
    WriteCutShort,
    SuperblockNotSynced,
    SuperblockBeforeRegions,
    SuperblockOverNewest,
    RangedSyncDropped,
    RangedSyncEndsEarly,
    RangedSyncBeginsLate,
    WholeSyncDropped,
    NameNotSynced,
    DirectoryNotSyncedAtOpen,
    RenameNotAtomic,
    StoresLost,
    TagFirst,
    SegmentAfterEntry,
    PunchTooWide,
    AllocateNothing,
    PathAlwaysSame,
    DataNotFound,
    LockAlwaysGranted,
    LockNeverSeen,
    ReadyAtOnce,
    SupersededNotStored,
    NoticeNotStored,
    AcknowledgedTailTooFar,
}

/// All of them, with the promise that each breaks.
const VIOLATIONS: [(Violation, &str); 27] = [
    (Violation::CommitNotSynced, "a commit is durable before it is acknowledged"),
    (Violation::CommitHalfSynced, "all sectors of a commit are durable before it is acknowledged"),
    (Violation::CommitDelayed, "a commit is written before it is acknowledged"),
    (Violation::WriteCutShort, "a write that succeeds has written all"),
    (Violation::SuperblockNotSynced, "regions are used again only once a durable superblock names them no more"),
    (Violation::SuperblockBeforeRegions, "the index of a checkpoint is durable before its superblock"),
    (Violation::SuperblockOverNewest, "the newest superblock is never overwritten"),
    (Violation::RangedSyncDropped, "a ranged sync makes its range durable"),
    (Violation::RangedSyncEndsEarly, "a ranged sync reaches to the end of its range"),
    (Violation::RangedSyncBeginsLate, "a ranged sync begins at the start of its range"),
    (Violation::WholeSyncDropped, "a new file is durable before it gets its name"),
    (Violation::NameNotSynced, "the name of a new file is durable before anything in it is acknowledged"),
    (
        Violation::DirectoryNotSyncedAtOpen,
        "a name that another process left is durable before anything is acknowledged",
    ),
    (Violation::RenameNotAtomic, "there is a pack under the name at every moment"),
    (Violation::StoresLost, "what was stored into the index is there"),
    (Violation::TagFirst, "the tag of a record is stored last"),
    (Violation::SegmentAfterEntry, "a segment is whole before the directory leads to it"),
    (Violation::PunchTooWide, "only what nobody needs is given back"),
    (Violation::AllocateNothing, "space is had before anything is stored into it"),
    (Violation::PathAlwaysSame, "a file that was replaced is not written to"),
    (Violation::DataNotFound, "what damage has cut off is found"),
    (Violation::LockAlwaysGranted, "there is one writer"),
    (Violation::LockNeverSeen, "a reader beside a writer sees every commit"),
    (Violation::ReadyAtOnce, "a reader is not shown what a dead writer left while the next one recovers"),
    (Violation::SupersededNotStored, "readers follow a compaction"),
    (Violation::NoticeNotStored, "readers follow the next writer"),
    (Violation::AcknowledgedTailTooFar, "the live page vouches only for what was acknowledged"),
];

fn is_superblock(offset: Offset) -> bool {
    SUPERBLOCKS_AT.contains(&offset)
}

impl Violation {
    /// What is done in place of a step. What is held back comes with a later one.
    pub fn instead_of(self, step: Step, held_back: &mut Vec<Step>) -> Vec<Step> {
        let file = step.file;
        let with = |action| Step { file, action };
        match (self, step.action) {
            (Violation::CommitNotSynced, Action::Write { offset, bytes, .. }) if offset >= SPACE_AT => {
                vec![with(Action::Write { offset, bytes, durable: false })]
            }
            (Violation::SuperblockNotSynced, Action::Write { offset, bytes, .. }) if is_superblock(offset) => {
                vec![with(Action::Write { offset, bytes, durable: false })]
            }
            (Violation::CommitHalfSynced, Action::Write { offset, bytes, durable: true }) => {
                let length = 512.min(bytes.len() as u64);
                vec![with(Action::Write { offset, bytes, durable: false }), with(Action::SyncRange { offset, length })]
            }
            (Violation::CommitDelayed, Action::Write { offset, bytes, durable: true }) if offset >= SPACE_AT => {
                let late = held_back.pop();
                held_back.push(with(Action::Write { offset, bytes, durable: true }));
                late.into_iter().collect()
            }
            (Violation::WriteCutShort, Action::Write { offset, mut bytes, durable }) if bytes.len() > 1024 => {
                bytes.truncate(bytes.len() - 64);
                vec![with(Action::Write { offset, bytes, durable })]
            }
            (Violation::SuperblockBeforeRegions, action @ Action::SyncRange { .. }) => {
                held_back.push(with(action));
                Vec::new()
            }
            (Violation::SuperblockBeforeRegions, action @ Action::Write { offset, .. }) if is_superblock(offset) => {
                std::iter::once(with(action)).chain(held_back.drain(..)).collect()
            }
            (Violation::SuperblockOverNewest, Action::Write { offset, bytes, durable: true })
                if is_superblock(offset) =>
            {
                vec![with(Action::Write { offset: SUPERBLOCKS_AT[0], bytes, durable: true })]
            }
            (Violation::RangedSyncDropped, Action::SyncRange { .. })
            | (Violation::WholeSyncDropped, Action::SyncAll)
            | (Violation::AllocateNothing, Action::Allocate { .. }) => Vec::new(),
            (Violation::RangedSyncEndsEarly, Action::SyncRange { offset, length }) => {
                vec![with(Action::SyncRange { offset, length: length.saturating_sub(PAGE_BYTES) })]
            }
            (Violation::RangedSyncBeginsLate, Action::SyncRange { offset, length }) => {
                let length = length.saturating_sub(PAGE_BYTES);
                vec![with(Action::SyncRange { offset: Offset(offset.0 + PAGE_BYTES), length })]
            }
            (Violation::RenameNotAtomic, Action::Publish { name, replace: true }) => vec![
                with(Action::Remove { name: name.clone() }),
                with(Action::SyncDirectory),
                with(Action::Publish { name, replace: true }),
            ],
            (Violation::StoresLost, Action::Store { words, .. }) if words.len() == 8 => Vec::new(),
            (Violation::TagFirst, Action::Store { offset, words }) if words.len() == 8 => {
                let rest = words[1..].to_vec();
                vec![
                    with(Action::Store { offset, words: vec![words[0]] }),
                    with(Action::Store { offset: Offset(offset.0 + 8), words: rest }),
                ]
            }
            (Violation::SegmentAfterEntry, action @ Action::Store { .. }) => match action {
                Action::Store { ref words, .. } if words.len() > 8 => {
                    held_back.push(with(action));
                    Vec::new()
                }
                action => std::iter::once(with(action)).chain(held_back.drain(..)).collect(),
            },
            (Violation::PunchTooWide, Action::Punch { offset, length }) => {
                let start = offset.0 & !0xffff;
                vec![with(Action::Punch { offset: Offset(start), length: offset.0 + length - start })]
            }
            (Violation::SupersededNotStored, Action::Store { offset: live::NOTICE, words })
                if words[0] & live::SUPERSEDED != 0 =>
            {
                Vec::new()
            }
            (Violation::NoticeNotStored, Action::Store { offset: live::NOTICE, .. }) => Vec::new(),
            (Violation::AcknowledgedTailTooFar, Action::Store { offset: live::ACKNOWLEDGED, words }) => {
                vec![with(Action::Store { offset: live::ACKNOWLEDGED, words: vec![words[0] + PAGE_BYTES] })]
            }
            (_, action) => vec![with(action)],
        }
    }
}

#[test]
fn a_medium_that_keeps_no_promise_is_found_out_whichever_it_is() {
    let prepared = Prepared::new(7);
    let find = |violation| {
        let found = SCENARIOS.iter().map(|(name, scenario)| (name, scenarios::check(*scenario, &prepared, violation)));
        found.filter_map(|(name, result)| result.err().map(|error| format!("{name}: {error}"))).next()
    };
    assert_eq!(find(None), None, "a good medium is not blamed");
    let mut missed = Vec::new();
    for (violation, promise) in VIOLATIONS {
        match find(Some(violation)) {
            Some(error) => eprintln!("{violation:?} ({promise}): {}", error.lines().next().unwrap_or_default()),
            None => missed.push(violation),
        }
    }
    assert!(missed.is_empty(), "nothing finds {missed:?}");
}

/// The short ones, which are fast enough for the suite that mutants have to get past.
#[test]
fn a_good_medium_is_not_blamed_by_the_short_runs() {
    let prepared = Prepared::new(8);
    for (name, scenario) in &SCENARIOS[..7] {
        assert_eq!(scenarios::check(*scenario, &prepared, None), Ok(()), "{name}");
    }
}
