//! Looking at a whole pack while nothing changes, where that can be had.
//!
//! On a store that writes, commits wait meanwhile. A reader without a writer looks at an index of its own, which never
//! changes; so it does where the writer is dead. Beside a writer in another process nothing can be held: the look is
//! taken again a few times, until nothing was committed in between, and then says that it was not still. Damage is
//! believed there only when it stays: a batch that is half in the index looks like it.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::format::live;
use crate::medium::Medium;
use crate::pack::Shared;
use crate::superblock::Superblocks;
use crate::view::View;

/// How often a look is taken again beside a busy writer.
const ATTEMPTS: u32 = 4;
/// For so long damage is not believed there, and never after one look: until a large batch is in the index it looks so,
/// and nothing says that it is on its way. (In so long some three million images go into the index.)
const DOUBT: Duration = Duration::from_secs(1);

/// What a look at a pack has before it.
pub struct Sight<'a, M: Medium> {
    /// Index and file; the map is as long as the file.
    pub view: &'a View<M>,
    /// The checkpoints.
    pub superblocks: &'a Superblocks,
    /// Whether a writer in another process may be changing the index.
    pub is_moving: bool,
}

/// Lets `look` see the pack that is current. Says whether it changed meanwhile: then what was seen may belong to
/// different moments.
///
/// # Errors
/// Those of `look`; [`Error::Busy`] where a writer in another process changes the pack so fast that `look` fails.
pub fn stand_still<M: Medium, T>(
    shared: &Shared<M>,
    look: impl FnMut(&Sight<'_, M>) -> Result<T>,
) -> Result<(T, bool)> {
    stand_still_or(shared, DOUBT, look)
}

/// The same, with another measure of doubt.
fn stand_still_or<M: Medium, T>(
    shared: &Shared<M>,
    doubt: Duration,
    mut look: impl FnMut(&Sight<'_, M>) -> Result<T>,
) -> Result<(T, bool)> {
    let mut pack = shared.pack();
    while let Ok(writer) = pack.writer() {
        let mut seen = None;
        writer.pause_commits(false, |superblocks| {
            let view = pack.source().renew()?;
            seen = Some(look(&Sight { view: &view, superblocks, is_moving: false })?);
            Ok(false)
        })?;
        if let Some(seen) = seen {
            return Ok((seen, false));
        }
        // A compaction took this pack's place meanwhile, or does in a moment.
        std::thread::yield_now();
        pack = shared.pack();
    }
    let source = pack.source();
    let (mut moves, mut doubted): (u32, Option<Instant>) = (0, None);
    for attempt in 1.. {
        let view = source.current()?.clone();
        source.leave_dead_writer(&view)?;
        let view = source.renew()?;
        let is_moving = !view.is_private();
        let before = moment(&view);
        let superblocks = Superblocks::read(view.medium().as_ref())?;
        let seen = look(&Sight { view: &view, superblocks: &superblocks, is_moving });
        let moved = moment(&view) != before;
        moves += u32::from(moved);
        let is_doubtful = !moved && seen.as_ref().is_err_and(Error::is_damage);
        let stays = doubted.is_some_and(|since| since.elapsed() >= doubt);
        doubted = if is_doubtful { doubted.or_else(|| Some(Instant::now())) } else { None };
        match seen {
            Ok(seen) if !moved || moves >= ATTEMPTS => return Ok((seen, moved)),
            // A commit that was durable and not yet in the index when the look began moves nothing else.
            Err(error) if !is_moving && !moved => return Err(error),
            Err(error) if !moved && if is_doubtful { stays } else { attempt >= ATTEMPTS } => return Err(error),
            Err(_) if moves >= ATTEMPTS => break,
            _ => view.medium().pause(),
        }
    }
    Err(Error::Busy { path: source.medium().path().into() })
}

/// What changes with every commit, checkpoint and takeover.
fn moment<M: Medium>(view: &View<M>) -> [Option<u64>; 3] {
    [view.file_word(live::ACKNOWLEDGED), view.file_word(live::NOTICE), Some(view.live_raw())]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::commit::Durability;
    use crate::medium::SimDirectory;
    use crate::store::{How, Store};

    /// Half of a large batch is in the index, and nothing tells that from damage but that it passes.
    #[test]
    fn what_looks_like_damage_beside_a_writer_is_looked_at_again() {
        let directory = SimDirectory::new(64 << 20);
        let store = Store::options().create_in(directory.create("a.pack").unwrap()).unwrap().unwrap();
        let medium = directory.open("a.pack", false).unwrap();
        let reader = Store::options().read_only(true).open_in(medium, How::Open).unwrap().unwrap();
        let digest = store.put(b"a blob").unwrap().digest;
        let (long, none) = (Duration::from_secs(600), Duration::ZERO);
        let after = |looks: u32, doubt, store: Option<&Store<_>>| {
            let mut left = looks;
            let look = |sight: &Sight<'_, _>| {
                left = left.saturating_sub(1);
                // It is whole, and told, at the end of the last look but one.
                if let (1, Some(store)) = (left, store) {
                    store.reference(&digest).unwrap();
                }
                if left == 0 { Ok(()) } else { Err(sight.view.damaged(crate::format::Offset(1), "half of it")) }
            };
            stand_still_or(reader.shared(), doubt, look)
        };
        assert!(!after(3 * ATTEMPTS, long, Some(&store)).unwrap().1);
        assert!(!after(3 * ATTEMPTS, long, None).unwrap().1);
        assert!(!after(2, none, None).unwrap().1, "one look is never enough, however long it took");
        assert!(after(3, none, None).unwrap_err().is_damage());
        drop(store);
        assert!(after(2, long, None).unwrap_err().is_damage(), "without a writer nothing passes");
    }

    #[test]
    fn a_look_beside_a_writer_says_that_a_commit_came_in_between() {
        for durability in [Durability::PowerLoss, Durability::Process] {
            let directory = SimDirectory::new(64 << 20);
            let options = Store::options().durability(durability);
            let store = options.create_in(directory.create("a.pack").unwrap()).unwrap().unwrap();
            let digest = store.put(b"a blob").unwrap().digest;
            let medium = directory.open("a.pack", false).unwrap();
            let reader = Store::options().read_only(true).open_in(medium, How::Open).unwrap().unwrap();
            for commits in [true, false] {
                let look = |sight: &Sight<'_, _>| {
                    assert!(sight.is_moving);
                    if commits { store.reference(&digest).map(drop) } else { Ok(()) }
                };
                assert_eq!(stand_still(reader.shared(), look).unwrap().1, commits, "{durability:?}");
            }
        }
    }
}
