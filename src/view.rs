//! How bytes of a pack are looked at: a map of the file, perhaps with regions in memory behind it, and the length that
//! bounds both.
//!
//! A view checks every offset against the file's length as the system tells it, not against the map, which is longer
//! than the file. The length is asked again when an offset lies beyond the one known.

use std::io;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::{Frame, Identity, LiveWord, NAME_BYTES_MAX, Offset, PROBES_MAX, live, to_usize};
use crate::index::tag::Tagger;
use crate::log::name_in;
use crate::map::{Front, Map, Window};
use crate::medium::Medium;
use crate::name::Name;
use crate::sync::{AtomicU64, Ordering, Word};

/// So many slots of a segment, from a record's home on, the fast path looks at first. A search looks at as many.
pub const NEAR: u32 = 3;
const _: () = assert!(NEAR <= PROBES_MAX);

/// The regions of a reader that recovers for itself: offsets from `start` on lie in memory.
struct Overlay {
    map: Arc<Map>,
    start: u64,
}

/// A consistent way into one pack file. Shared by all readers of a handle; replaced as a whole when the file outgrows
/// its map, when another writer takes over, and when a compaction puts a new file in its place.
pub struct View<M> {
    medium: Arc<M>,
    map: Arc<Map>,
    overlay: Option<Overlay>,
    /// The file's length when it was last asked for. Only ever grows.
    length: AtomicU64,
    /// What the fast path looks at: nothing in a view that recovered for itself, or that was left.
    window: Window,
    marker: u64,
    tagger: Tagger,
    slots: u32,
    /// The last slot from which [`NEAR`] slots lie in the segment; 0 where it has fewer.
    last_near: u32,
    /// Where the live word is: in the file's live page, or in the overlay.
    live: Offset,
    /// The notice of the live page that this view was made under.
    notice: u64,
    /// What it is while this view is true.
    settled_notice: u64,
}

impl<M: Medium> View<M> {
    /// A view of the file as the live page describes it.
    pub fn new(medium: Arc<M>, identity: &Identity, slots: u32) -> Result<View<M>> {
        let length = medium.length().map_err(|e| Error::io("length", medium.path(), e))?;
        if length >= live::HOST.0 + 40 {
            // It is looked at through the map from here on, where an unreadable sector is a signal.
            let words = &mut [0; 64];
            medium.read_at(live::WORD, words).map_err(|e| Error::io("read the live page", medium.path(), e))?;
        }
        let map = medium.map(length).map_err(|e| Error::io("map", medium.path(), e))?;
        let mut view = View {
            medium,
            window: Window::of(map.clone(), length),
            map,
            overlay: None,
            length: AtomicU64::new(length),
            marker: identity.marker.get(),
            tagger: Tagger::new(&identity.secret),
            slots,
            last_near: slots.saturating_sub(NEAR),
            live: live::WORD,
            notice: 0,
            settled_notice: 0,
        };
        view.take_notice(view.file_word(live::NOTICE).unwrap_or(0));
        Ok(view)
    }

    /// The same view with regions in memory from `start` on, the live word at `live` among them.
    pub fn with_overlay(mut self, map: Arc<Map>, start: Offset, live: Offset) -> View<M> {
        self.overlay = Some(Overlay { map, start: start.0 });
        self.live = live;
        self.window = Window::of(self.map.clone(), 0);
        self
    }

    /// The same view with a map of the file as long as it is now, and the notice of now. A private index stays what it
    /// was recovered under: a later notice would make it pass for that writer's.
    pub fn renewed(&self) -> Result<View<M>> {
        let length = self.medium.length().map_err(|e| Error::io("length", self.medium.path(), e))?;
        let map = self.medium.map(length).map_err(|e| Error::io("map", self.medium.path(), e))?;
        let mut view = View {
            medium: self.medium.clone(),
            window: Window::of(map.clone(), if self.is_private() { 0 } else { length }),
            map,
            overlay: self.overlay.as_ref().map(|o| Overlay { map: o.map.clone(), start: o.start }),
            length: AtomicU64::new(length),
            marker: self.marker,
            tagger: self.tagger.clone(),
            slots: self.slots,
            last_near: self.last_near,
            live: self.live,
            notice: 0,
            settled_notice: 0,
        };
        let now = if self.is_private() { self.notice } else { view.file_word(live::NOTICE).unwrap_or(0) };
        view.take_notice(now);
        Ok(view)
    }

    fn take_notice(&mut self, notice: u64) {
        self.notice = notice;
        self.settled_notice = notice & !live::SUPERSEDED;
    }

    /// Whether both look through the same map.
    pub fn shares_map(&self, other: &View<M>) -> bool {
        Arc::ptr_eq(&self.map, &other.map)
    }

    /// The file that the view is of.
    pub fn medium(&self) -> &Arc<M> {
        &self.medium
    }

    /// The pack's frame marker.
    pub fn marker(&self) -> u64 {
        self.marker
    }

    /// The pack's keyed hash.
    pub fn tagger(&self) -> &Tagger {
        &self.tagger
    }

    /// Slots a segment.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// The last slot from which [`NEAR`] slots lie in the segment; 0 where it has fewer.
    #[inline]
    pub fn last_near(&self) -> u32 {
        self.last_near
    }

    /// Whether this view recovered for itself.
    pub fn is_private(&self) -> bool {
        self.overlay.is_some()
    }

    /// Whether what stands at `offset` is looked at in the file, and not in memory.
    pub fn is_in_file(&self, offset: Offset) -> bool {
        self.overlay.as_ref().is_none_or(|overlay| offset.0 < overlay.start)
    }

    /// An error that names damage at `offset`.
    pub fn damaged(&self, offset: Offset, what: impl Into<String>) -> Error {
        Error::damaged(self.medium.path(), offset.0, what)
    }

    /// Whether the live page still says what it said when this view was made.
    #[inline]
    pub fn is_current(&self) -> bool {
        self.file_word(live::NOTICE).is_none_or(|now| now == self.notice && now & live::SUPERSEDED == 0)
    }

    /// Whether another writer took over since this view was made. A compaction that was announced and never came does
    /// not count.
    #[inline]
    pub fn is_overtaken(&self) -> bool {
        self.file_word(live::NOTICE).is_some_and(|now| (now ^ self.notice) & !live::SUPERSEDED != 0)
    }

    /// The notice of the live page that this view was made under.
    pub fn notice(&self) -> u64 {
        self.notice
    }

    /// The raw live word.
    #[inline]
    pub fn live_raw(&self) -> u64 {
        self.words(self.live, 1).map_or(0, |word| u64::from_le(word[0].load(Ordering::Acquire)))
    }

    /// The live word.
    #[inline]
    pub fn live(&self) -> LiveWord {
        LiveWord::unpack(self.live_raw())
    }

    /// Where the live word is.
    pub fn live_at(&self) -> Offset {
        self.live
    }

    /// A word of the file itself, whatever the overlay.
    #[inline]
    pub fn file_word(&self, offset: Offset) -> Option<u64> {
        if !self.covers(offset, 8) {
            return None;
        }
        Some(u64::from_le(self.map.word(offset)?.load(Ordering::Acquire)))
    }

    /// The file as long as it was when last asked; nothing of it for a view that recovered for itself.
    #[inline]
    pub fn front(&self) -> Front<'_> {
        self.window.front()
    }

    /// Another view has taken this one's place, though the file may not say so: whoever still has this one is to look
    /// for that. The fast path finds nothing here any more.
    pub fn leave(&self) {
        self.window.close();
    }

    /// Whether it was left.
    pub fn is_left(&self) -> bool {
        !self.is_private() && self.window.is_closed()
    }

    /// What the notice is while this view is true.
    #[inline]
    pub fn settled_notice(&self) -> u64 {
        self.settled_notice
    }

    /// Mutable shared words: of the live page, a directory or a segment. `None` where the file or the map is too short.
    #[inline]
    pub fn words(&self, offset: Offset, count: usize) -> Option<&[Word]> {
        if let Some(overlay) = &self.overlay
            && offset.0 >= overlay.start
        {
            return overlay.map.words(Offset(offset.0 - overlay.start), count);
        }
        if !self.covers(offset, 8 * count as u64) {
            return None;
        }
        self.map.words(offset, count)
    }

    /// One mutable shared word.
    #[inline]
    pub fn word(&self, offset: Offset) -> Option<u64> {
        self.words(offset, 1).map(|word| u64::from_le(word[0].load(Ordering::Acquire)))
    }

    /// Committed bytes, which never change again. `None` where the file or the map is too short.
    #[inline]
    pub fn bytes(&self, offset: Offset, length: u64) -> Option<&[u8]> {
        if !self.covers(offset, length) {
            return None;
        }
        self.map.bytes(offset, length)
    }

    /// The header of a frame.
    pub fn frame(&self, offset: Offset) -> Option<Frame> {
        let bytes = self.bytes(offset, 128).or_else(|| self.bytes(offset, 64))?;
        Frame::parse(bytes, self.marker, offset)
    }

    /// The text of the name whose frame stands at `offset`; `None` where there is none, or it is damaged.
    pub fn name_in_frame(&self, offset: Offset) -> Option<Name> {
        let frame = self.frame(offset).filter(|frame| frame.length <= NAME_BYTES_MAX)?;
        name_in(&frame, self.bytes(frame.body(), frame.length)?)
    }

    /// Reads with a system call, so that an unreadable sector is an error and not a signal.
    pub fn read_at(&self, offset: Offset, buffer: &mut [u8]) -> io::Result<()> {
        self.medium.read_at(offset, buffer)
    }

    #[inline]
    fn covers(&self, offset: Offset, length: u64) -> bool {
        match offset.0.checked_add(length) {
            Some(end) => end <= self.length.load(Ordering::Relaxed) || self.covers_now(end),
            None => false,
        }
    }

    #[cold]
    fn covers_now(&self, end: u64) -> bool {
        let Ok(now) = self.medium.length() else { return false };
        self.length.fetch_max(now, Ordering::Relaxed);
        self.window.extend(now);
        end <= now
    }

    /// Whether the file is longer than the map, so that a longer map may show what this one does not.
    pub fn is_outgrown(&self) -> bool {
        self.outgrown(self.map.length() + 1)
    }

    /// Whether `end` lies inside the file but beyond the map, so that a longer map would help.
    pub fn outgrown(&self, end: u64) -> bool {
        end > self.map.length() && self.covers_now(end)
    }
}

/// Copies committed bytes that may be anywhere in the file.
pub fn read_vec<M: Medium>(medium: &M, offset: Offset, length: u64) -> io::Result<Vec<u8>> {
    let end = offset.checked_add(length).ok_or(io::ErrorKind::UnexpectedEof)?;
    if end.0 > medium.length()? {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut bytes = vec![0; to_usize(length)];
    medium.read_at(offset, &mut bytes)?;
    Ok(bytes)
}
