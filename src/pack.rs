//! An open pack, and what all handles on it share: which pack is current (a compaction replaces it), and the commits to
//! it.

use std::path::PathBuf;
use std::sync::{self, Arc, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::arena::{Arena, Spare};
use crate::batch::{Operation, Operations};
use crate::commit::{Done, Settings, Start, Writer};
use crate::error::{Error, Result};
use crate::medium::Medium;
use crate::mend;
use crate::names;
use crate::record::Descriptor;
use crate::recovery::Recovery;
use crate::source::Source;
use crate::sync::{Mutex, yield_now};
use crate::view::View;
use crate::writer::Staged;

/// Commits wait for a checkpoint once so many times as much came in since it began as one is due after.
const OVERDUE: u64 = 2;
/// How long a commit is held up before that.
const PAUSE: Duration = Duration::from_millis(2);

/// One open pack file.
pub struct Pack<M: Medium> {
    source: Arc<Source<M>>,
    writer: Option<Writer<M>>,
    recovery: Recovery,
}

impl<M: Medium> Drop for Pack<M> {
    /// Blobs that are still held keep the file, but not the lock. Writers and staged blobs, which may yet give space
    /// back, keep the pack and with it the lock.
    fn drop(&mut self) {
        if let Some(writer) = &self.writer {
            writer.medium().unlock();
        }
    }
}

impl<M: Medium> Pack<M> {
    /// A pack to read, beside whoever writes it.
    pub(crate) fn reading(medium: Arc<M>) -> Result<Pack<M>> {
        Ok(Pack { source: Arc::new(Source::of_reader(medium)?), writer: None, recovery: Recovery::default() })
    }

    /// A pack to write, around what a recovery, a creation or a compaction has left.
    pub(crate) fn writing(view: View<M>, start: Start, recovery: Recovery, settings: Settings) -> Pack<M> {
        let source = Arc::new(Source::of_writer(view, start.superblocks.identity));
        Pack { writer: Some(Writer::new(source.clone(), start, settings)), source, recovery }
    }

    /// Puts right what can be beside the index, and removes the names whose texts are damaged, so that all else that
    /// has to do with names works again.
    pub(crate) fn mend(&mut self) -> Result<()> {
        self.recovery.restored_blobs = mend::restore_headers(&self.source)?;
        self.recovery.lost_names = names::release_damaged(&self.source, self.writer()?)?;
        Ok(())
    }

    /// What opening it found.
    pub(crate) fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// The writing half.
    pub(crate) fn writer(&self) -> Result<&Writer<M>> {
        self.writer.as_ref().ok_or_else(|| Error::ReadOnly { path: self.source.medium().path().into() })
    }

    pub(crate) fn source(&self) -> &Arc<Source<M>> {
        &self.source
    }

    pub(crate) fn marker(&self) -> u64 {
        self.source.identity().marker.get()
    }
}

/// What all handles of a store share.
pub struct Shared<M: Medium> {
    pack: ArcSwap<Pack<M>>,
    settings: Settings,
    /// Memory that the last large batch has left for the next.
    spare: (Arc<Spare<Operation>>, Arc<Spare<u8>>),
    /// Views of files before a compaction that readers may still hold: for statistics.
    old: Mutex<Vec<Weak<View<M>>>>,
    /// The last checkpoint that had a thread of its own. Taken before any lock of a writer, and never by a model
    /// checker: these have no such threads.
    background: sync::Mutex<Option<JoinHandle<()>>>,
    /// Dropped after the pack: nobody has to wait for it to have the file's lock.
    closing: Closing,
    /// Of a temporary store; removed with it.
    _directory: Option<TemporaryDirectory>,
}

impl<M: Medium> Shared<M> {
    pub(crate) fn new(pack: Pack<M>, settings: Settings) -> Shared<M> {
        Shared {
            pack: ArcSwap::from_pointee(pack),
            settings,
            spare: Default::default(),
            old: Mutex::new(Vec::new()),
            background: sync::Mutex::new(None),
            closing: Closing::default(),
            _directory: None,
        }
    }

    /// Gives a new store, which nobody else has yet, a directory to take with it.
    pub(crate) fn with_directory(mut self, directory: TemporaryDirectory) -> Shared<M> {
        self._directory = Some(directory);
        self
    }

    /// No operations yet, in the memory that is kept for a batch.
    pub(crate) fn operations(&self) -> Operations {
        let (list, arena) = self.spare.clone();
        Operations { list: Arena::from_spare(list), arena: Arena::from_spare(arena) }
    }

    pub(crate) fn pack(&self) -> Arc<Pack<M>> {
        self.pack.load_full()
    }

    pub(crate) fn source(&self) -> Arc<Source<M>> {
        self.pack.load().source.clone()
    }

    /// Looks at the source without counting as one who has it, which others would wait for.
    #[inline]
    pub(crate) fn with_source<T>(&self, look: impl FnOnce(&Source<M>) -> T) -> T {
        look(&self.pack.load().source)
    }

    /// How its writers are set up.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The views of files before a compaction that somebody still holds.
    pub(crate) fn held_views(&self) -> Vec<Arc<View<M>>> {
        self.old.lock().map(|old| old.iter().filter_map(Weak::upgrade).collect()).unwrap_or_default()
    }

    /// Puts a compacted pack in place.
    pub(crate) fn replace(&self, pack: Pack<M>) {
        let old = self.pack.swap(Arc::new(pack));
        let medium = old.source.medium().clone();
        medium.unlock();
        let mut views = old.source.held_views();
        views.push(old.source.view());
        drop(old);
        {
            let mut held = self.old.lock().expect("nothing panics under this lock");
            held.retain(|view| view.strong_count() > 0);
            held.extend(views.iter().map(Arc::downgrade));
        }
        drop(views);
        self.let_go(medium);
    }

    /// Closes a file that no name leads to any more. The system then gives back its pages and its blocks, which may
    /// take as long as half of the compaction did: nobody waits for that.
    fn let_go(&self, medium: Arc<M>) {
        if !medium.closes_slowly() {
            return;
        }
        // Where there can be no thread this closes it here.
        let thread = thread::Builder::new().name("blobpack close".into()).spawn(move || drop(medium)).ok();
        let before = std::mem::replace(&mut *self.closing.0.lock().unwrap_or_else(PoisonError::into_inner), thread);
        end(before);
    }

    /// Waits until the file before the last compaction is closed.
    pub(crate) fn end_closing(&self) {
        end(self.closing.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Commits to the pack that is current, going along with a compaction in between.
    pub(crate) fn commit(&self, mut operations: Operations) -> Result<(Arc<Pack<M>>, Vec<Done>)> {
        loop {
            let pack = self.pack();
            match pack.writer()?.commit(operations)? {
                Ok(done) => {
                    self.checkpoint_if_due(&pack);
                    return Ok((pack, done));
                }
                // A compaction took this pack's place between the two lines, or does in a moment.
                Err(back) => operations = back,
            }
            yield_now();
        }
    }

    /// Makes a checkpoint where one is due. The batch that made it due is done, whatever comes of this: what goes wrong
    /// poisons the writer, and the next batch is told.
    ///
    /// Nobody waits for its end. Where the next one is due before that, each commit is held up for a moment, so that
    /// the disk can follow; where that does not do, all wait.
    fn checkpoint_if_due(&self, pack: &Arc<Pack<M>>) {
        let Some(writer) = pack.writer.as_ref().filter(|writer| writer.is_checkpoint_due(1)) else { return };
        if !writer.medium().has_background() {
            let _ = writer.checkpoint_beside_commits();
            return;
        }
        let mut background = self.background.lock().unwrap_or_else(PoisonError::into_inner);
        // Another one may have seen to it while this one waited for the lock.
        if !writer.is_checkpoint_due(1) {
            return;
        }
        let is_running = background.as_ref().is_some_and(|thread| !thread.is_finished());
        if is_running && !writer.is_checkpoint_due(OVERDUE) {
            drop(background);
            thread::sleep(PAUSE);
            return;
        }
        end(background.take());
        writer.count_anew();
        let own = pack.clone();
        let work = move || {
            let _ = own.writer().and_then(Writer::checkpoint_beside_commits);
        };
        match thread::Builder::new().name("blobpack checkpoint".into()).spawn(work) {
            Ok(thread) => *background = Some(thread),
            Err(_) => {
                let _ = writer.checkpoint();
            }
        }
    }

    pub(crate) fn commit_staged(&self, staged: Staged<M>) -> Result<Descriptor> {
        let mut operations = Operations::default();
        let guard = staged.add_to(&mut operations)?;
        let (_, done) = self.commit(operations)?;
        drop(guard);
        described(done)
    }
}

/// The thread that closes the file before the last compaction, and so gives back what it held.
#[derive(Default)]
struct Closing(sync::Mutex<Option<JoinHandle<()>>>);

impl Drop for Closing {
    fn drop(&mut self) {
        end(self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// Waits for the end of a thread, whose work has told what went wrong.
fn end(thread: Option<JoinHandle<()>>) {
    if let Some(thread) = thread {
        let _ = thread.join();
    }
}

/// The descriptor of the one blob that a commit was about.
pub(crate) fn described(done: Vec<Done>) -> Result<Descriptor> {
    match done.into_iter().next() {
        Some(Done::Blob(descriptor)) => Ok(descriptor),
        _ => unreachable!("storing a blob, or a reference on it, describes it"),
    }
}

impl<M: Medium> Drop for Shared<M> {
    /// Checkpoints, so that the next open has nothing to replay. Nothing is lost if it can't.
    fn drop(&mut self) {
        if let Some(writer) = &self.pack.load().writer {
            let _ = writer.checkpoint();
        }
        // It has the pack, and with that the file's lock.
        end(self.background.get_mut().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// A directory that is removed with its contents when this is dropped.
pub struct TemporaryDirectory(pub PathBuf);

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        // It is in the system's directory for such things, which is cleaned in the end.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
