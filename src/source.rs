//! Where readers get their view, and how a read-only handle follows what other processes do.

use std::sync::{Arc, Weak};

use arc_swap::{ArcSwap, Guard};

use crate::error::{Error, Result};
use crate::format::{Identity, live};
use crate::index::probe::{Answer, Stop};
use crate::index::tag::Tagger;
use crate::medium::{AtPath, Medium};
use crate::recovery;
use crate::sync::{Mutex, MutexGuard};
use crate::view::View;

/// How often a question is asked again because the view was renewed in between.
const RENEWALS: usize = 1000;
/// What looks like damage is asked about so often while another process is writing.
const DOUBTS: u32 = 8;

/// The views of one handle on a pack.
pub struct Source<M: Medium> {
    view: ArcSwap<View<M>>,
    identity: Identity,
    tagger: Tagger,
    /// Of a read-only handle: one thread at a time attaches anew.
    follows: Option<Mutex<()>>,
    /// Earlier views that may still be held.
    old: Mutex<Vec<Weak<View<M>>>>,
}

impl<M: Medium> Source<M> {
    /// The writer's own source, which nobody overtakes.
    pub fn of_writer(view: View<M>, identity: Identity) -> Source<M> {
        Source {
            tagger: Tagger::new(&identity.secret),
            view: ArcSwap::from_pointee(view),
            identity,
            follows: None,
            old: Mutex::new(Vec::new()),
        }
    }

    /// A source that reads beside a writer, or recovers for itself where there is none.
    pub fn of_reader(medium: Arc<M>) -> Result<Source<M>> {
        let (view, identity) = recovery::attach(medium)?;
        Ok(Source { follows: Some(Mutex::new(())), ..Source::of_writer(view, identity) })
    }

    /// What never changes in the pack.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The pack's keyed hash.
    pub fn tagger(&self) -> &Tagger {
        &self.tagger
    }

    /// The file.
    pub fn medium(&self) -> Arc<M> {
        self.view.load().medium().clone()
    }

    /// The view as it is, whatever happened since.
    pub fn view(&self) -> Arc<View<M>> {
        self.view.load_full()
    }

    /// A view that is true now.
    #[inline]
    pub fn current(&self) -> Result<Guard<Arc<View<M>>>> {
        let view = self.view.load();
        if view.is_current() || self.follows.is_none() { Ok(view) } else { self.follow() }
    }

    /// A view whose map covers the file as it is now.
    pub fn renew(&self) -> Result<Arc<View<M>>> {
        let _one = self.follows.as_ref().map(|follows| follows.lock());
        loop {
            let before = self.view.load_full();
            let view = Arc::new(before.renewed()?);
            // Where that one is gone already, another thread has put its own in place.
            if self.replace_this(&before, view.clone()) {
                return Ok(view);
            }
        }
    }

    /// Shows readers an index of their own, after that in the file has become unreliable.
    pub fn fall_back_to(&self, view: View<M>) {
        self.replace(Arc::new(view));
    }

    /// Replaces the view, whichever it is. A [`Reader`](crate::Reader) may have the old one, or one before that, of an
    /// index that a dead or failed writer has left: it must not miss there what others find in the new one.
    fn replace(&self, view: Arc<View<M>>) {
        let mut old = self.old();
        let before = self.view.load_full();
        before.leave();
        old.iter().filter_map(Weak::upgrade).for_each(|view| view.leave());
        self.view.store(view);
        keep_in_mind(&mut old, &before);
    }

    /// Replaces `before`, and no other view: what was made of it would undo a fall-back meanwhile. Says whether it was
    /// still there.
    fn replace_this(&self, before: &Arc<View<M>>, view: Arc<View<M>>) -> bool {
        let mut old = self.old();
        let is_there = Arc::ptr_eq(&self.view.load(), before);
        if is_there {
            self.view.store(view);
            keep_in_mind(&mut old, before);
        }
        is_there
    }

    /// Who has this lock replaces the view, and nobody else.
    fn old(&self) -> MutexGuard<'_, Vec<Weak<View<M>>>> {
        self.old.lock().expect("no thread panics while it holds this lock")
    }

    /// The earlier views that somebody still holds.
    pub fn held_views(&self) -> Vec<Arc<View<M>>> {
        self.old().iter().filter_map(Weak::upgrade).collect()
    }

    /// Something was announced in the live page: another writer took over, or a compaction is about to put a new file
    /// in place.
    #[cold]
    fn follow(&self) -> Result<Guard<Arc<View<M>>>> {
        let _one = self.follows.as_ref().map(|follows| follows.lock());
        let view = self.view.load();
        if view.is_current() {
            return Ok(view);
        }
        let notice = view.file_word(live::NOTICE).unwrap_or(0);
        let medium = view.medium();
        if notice & live::SUPERSEDED != 0 {
            match medium.at_path().map_err(|e| Error::io("look at the path", medium.path(), e))? {
                AtPath::Other => {
                    let medium = medium.reopen(false).map_err(|e| Error::io("open", medium.path(), e))?;
                    return self.attach(Arc::new(medium));
                }
                // The compaction has not come to its end, or never will: the old file is the pack.
                AtPath::Same | AtPath::Missing if notice >> 1 == view.notice() >> 1 => return Ok(view),
                AtPath::Same | AtPath::Missing => {}
            }
        }
        self.attach(medium.clone())
    }

    fn attach(&self, medium: Arc<M>) -> Result<Guard<Arc<View<M>>>> {
        let (view, identity) = recovery::attach(medium)?;
        if identity.uuid != self.identity.uuid || identity.secret != self.identity.secret {
            return Err(Error::ForeignHandle { what: "the pack that is at the path now" });
        }
        self.replace(Arc::new(view));
        Ok(self.view.load())
    }

    /// Asks a view that is true now, and a longer or newer one where that one has no answer.
    #[inline]
    pub fn ask<T>(&self, question: impl Fn(&View<M>) -> Answer<T>) -> Result<T> {
        let (mut gave_up, mut doubts) = (false, 0);
        for _ in 0..RENEWALS {
            let view = self.current()?;
            let answer = question(&view);
            let overtaken = self.follows.is_some() && view.is_private() && view.is_overtaken();
            match answer {
                Ok(answer) if !overtaken => return Ok(answer),
                // The writer failed just now and has left the index as it was: there is another one to ask.
                Err(_) if self.follows.is_none() && view.is_private() != self.view.load().is_private() => {}
                Err(Stop::Failed(error)) if !overtaken => {
                    // What another process has left half made looks like damage, whether it is dead or waits for a
                    // processor.
                    doubts += 1;
                    if !self.leave_dead_writer(&view)? && (view.is_private() || doubts >= DOUBTS) {
                        return Err(error);
                    }
                }
                Err(Stop::Outgrown) => {
                    self.renew()?;
                }
                Err(Stop::Busy | Stop::Stuck(_)) if !overtaken && !gave_up && self.is_without_writer(&view)? => {
                    gave_up = true;
                    self.attach(view.medium().clone())?;
                }
                // It is not a dead writer's half-made change, but a damaged index.
                Err(Stop::Stuck(error)) if !overtaken => return Err(error),
                Err(Stop::Busy) if !overtaken => break,
                _ => {}
            }
        }
        Err(Error::Busy { path: self.medium().path().into() })
    }

    /// Whether the index that does not come to rest is that of a dead writer, which left it in the middle of a change:
    /// the log tells the rest.
    #[cold]
    fn is_without_writer(&self, view: &View<M>) -> Result<bool> {
        Ok(self.follows.is_some() && !has_writer(view.medium().as_ref())?)
    }

    /// Where this view is of an index whose writer is dead, takes one of the log instead: then there are no changes
    /// that were half made. Says whether it did.
    #[cold]
    pub fn leave_dead_writer(&self, view: &View<M>) -> Result<bool> {
        let leaves = !view.is_private() && self.is_without_writer(view)?;
        if leaves {
            self.attach(view.medium().clone())?;
        }
        Ok(leaves)
    }
}

fn keep_in_mind<M>(old: &mut Vec<Weak<View<M>>>, before: &Arc<View<M>>) {
    old.retain(|view| view.strong_count() > 0);
    old.push(Arc::downgrade(before));
}

/// Whether a writer looks after the index. One that is still recovering does not.
fn has_writer<M: Medium>(medium: &M) -> Result<bool> {
    let io = |e| Error::io("look at the lock", medium.path(), e);
    Ok(medium.is_locked().map_err(io)? && medium.is_ready().map_err(io)?)
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;
    use crate::format::{Offset, PAGE_BYTES};
    use crate::map::Map;
    use crate::medium::SimDirectory;

    /// A reader that was about to take a longer map put the index that a failed commit had left back in its place, for
    /// good.
    #[test]
    fn a_longer_map_replaces_the_view_that_it_was_made_of_and_no_other() {
        let medium = Arc::new(SimDirectory::new(1 << 20).create("pack").unwrap());
        let identity = Identity::new_zeroed();
        let view = || View::new(medium.clone(), &identity, 4).unwrap();
        let source = Source::of_writer(view(), identity);
        let before = source.view();
        let longer = Arc::new(before.renewed().unwrap());
        source.fall_back_to(view().with_overlay(Map::memory(PAGE_BYTES), Offset(PAGE_BYTES), Offset(PAGE_BYTES)));
        let private = source.view();
        assert!(private.is_private() && !source.replace_this(&before, longer.clone()));
        assert!(Arc::ptr_eq(&source.view(), &private));
        let renewed = source.renew().unwrap();
        assert!(renewed.is_private() && Arc::ptr_eq(&source.view(), &renewed));
        assert!(source.replace_this(&renewed, longer.clone()) && Arc::ptr_eq(&source.view(), &longer));
        let held = source.held_views();
        let expected = [before, private, renewed];
        assert!(held.len() == 3 && held.iter().zip(&expected).all(|(held, view)| Arc::ptr_eq(held, view)));
    }
}
