//! What lies between the claims, frame by frame.

use super::claims::{Claim, Claims};
use super::{Part, PartKind, Parts, page_of};
use crate::error::{Error, Result};
use crate::format::{FRAME_ALIGN, Frame, Kind, LARGE_BYTES, Offset, PAGE_BYTES, RunDetail, align_up, to_u64, to_usize};
use crate::log::read_name;
use crate::medium::Medium;
use crate::still::Sight;
use crate::view::View;

/// Bytes looked through at a time.
const PIECE_BYTES: u64 = 64 << 10;
/// What is empty is told in units of this.
const UNIT: usize = 64;

/// One way through the file, from its start to its end.
pub(super) struct Sweep<'a, M: Medium> {
    view: &'a View<M>,
    file_bytes: u64,
    claims: &'a Claims,
    /// Whether a blob or a name may have got its record since the claims were gathered.
    is_moving: bool,
    parts: Parts,
    /// What a blob with pages of its own leaves empty up to here, in its last page, belongs to it.
    slack: (PartKind, u64),
    /// The end of the index run that the sweep is in.
    run_end: u64,
    piece: Vec<u8>,
    piece_at: u64,
}

impl<'a, M: Medium> Sweep<'a, M> {
    pub(super) fn new(sight: &Sight<'a, M>, file_bytes: u64, claims: &'a Claims) -> Sweep<'a, M> {
        Sweep {
            view: sight.view,
            file_bytes,
            claims,
            is_moving: sight.is_moving,
            parts: Parts::default(),
            slack: (PartKind::Free, 0),
            run_end: 0,
            piece: Vec::new(),
            piece_at: 0,
        }
    }

    pub(super) fn finish(self) -> Vec<Part> {
        self.parts.list
    }

    /// Takes a claim, up to the start of the next where they overlap.
    pub(super) fn claim(&mut self, claim: &Claim, next: u64) {
        let end = claim.end.min(next.max(self.parts.end));
        self.parts.push(claim.kind, end);
        if claim.is_large {
            self.slack = (claim.kind, align_up(claim.end, PAGE_BYTES));
        }
    }

    /// Looks through what lies before `to`. `lead` is the kind of a blob there that has pages of its own.
    pub(super) fn gap(&mut self, to: u64, lead: Option<PartKind>) -> Result<()> {
        loop {
            let run_end = self.run_end.min(to);
            self.parts.push(PartKind::Spare, run_end);
            let at = self.parts.end;
            if at >= to {
                return Ok(());
            }
            let Some(found) = self.next_data(at, to)? else {
                self.blank(to, lead);
                return Ok(());
            };
            match self.frame_at(found, to)? {
                Some(frame) => self.frame(&frame, to)?,
                None => {
                    self.blank(found, None);
                    self.parts.push(PartKind::Unknown, to.min(found + FRAME_ALIGN));
                }
            }
        }
    }

    /// Nothing but zeros up to `to`, where what comes next may have pages of its own.
    fn blank(&mut self, to: u64, lead: Option<PartKind>) {
        let (kind, until) = self.slack;
        self.parts.push(kind, until.min(to));
        match lead {
            Some(kind) => {
                self.parts.push(PartKind::Free, page_of(to));
                self.parts.push(kind, to);
            }
            None => self.parts.push(PartKind::Free, to),
        }
    }

    fn frame(&mut self, frame: &Frame, to: u64) -> Result<()> {
        let (at, end) = (frame.offset.0, frame.end().0);
        let kind = match frame.kind {
            Kind::Blob => self.kind_of(frame)?,
            Kind::Name => self.kind_of_name(frame)?,
            Kind::Commit | Kind::Chunk | Kind::Jump => PartKind::Log,
            Kind::Link | Kind::Padding => PartKind::Unknown,
            Kind::Run => {
                self.blank(at, None);
                let run: RunDetail = frame.detail();
                let regions = run.region_bytes.get().checked_mul(run.regions.get());
                let run_end = regions.and_then(|bytes| bytes.checked_add(at + PAGE_BYTES)).unwrap_or(0);
                self.parts.push(PartKind::Index, to.min(at + PAGE_BYTES));
                if run_end <= self.file_bytes {
                    self.run_end = run_end;
                }
                return Ok(());
            }
        };
        let is_large = frame.kind == Kind::Blob && frame.length >= LARGE_BYTES;
        self.blank(at, is_large.then_some(kind));
        self.parts.push(kind, end);
        if is_large {
            self.slack = (kind, align_up(end, PAGE_BYTES));
        }
        Ok(())
    }

    /// Of a blob that no record was found of.
    fn kind_of(&self, frame: &Frame) -> Result<PartKind> {
        let Some(digest) = frame.digest else { return Ok(PartKind::Unknown) };
        let tag = self.view.tagger().of_blob(&digest);
        if self.is_lost(tag) {
            return Ok(PartKind::Unknown);
        }
        if self.is_moving {
            let found = self.view.find_blob(&digest).map_err(|stop| stop.into_error(self.view))?;
            if found.is_some_and(|found| found.id == frame.offset) {
                return Ok(PartKind::Live);
            }
        }
        Ok(PartKind::Dead)
    }

    fn kind_of_name(&self, frame: &Frame) -> Result<PartKind> {
        let (view, id) = (self.view, frame.offset);
        if self.claims.names.binary_search(&id).is_ok() {
            return Ok(PartKind::Live);
        }
        let Some(name) = read_name(view.medium().as_ref(), view.marker(), id, self.file_bytes)? else {
            return Ok(PartKind::Unknown);
        };
        if self.is_lost(view.tagger().of_name(name.as_str())) {
            return Ok(PartKind::Unknown);
        }
        if self.is_moving {
            let found = view.name_record(&name).map_err(|stop| stop.into_error(view))?;
            if found.is_some_and(|found| found.id == id) {
                return Ok(PartKind::Live);
            }
        }
        Ok(PartKind::Dead)
    }

    /// Whether the record with this tag, if there is one, can't be read.
    fn is_lost(&self, tag: u64) -> bool {
        self.claims.lost.iter().any(|&(first, last)| (first..=last).contains(&tag))
    }

    /// The whole frame that stands at `at` and ends before `to`, if there is one.
    fn frame_at(&mut self, at: u64, to: u64) -> Result<Option<Frame>> {
        let marker = self.view.marker();
        let head = self.bytes(at, 128)?;
        let frame = if head.len() >= UNIT { Frame::parse(head, marker, Offset(at)) } else { None };
        Ok(frame.filter(|frame| frame.end().0 <= to))
    }

    /// The first unit from `at` on, and before `to`, that does not read as zeros.
    fn next_data(&mut self, mut at: u64, to: u64) -> Result<Option<u64>> {
        while at < to {
            let bytes = self.bytes(at, 1)?;
            let inside = &bytes[..bytes.len().min(to_usize(to - at))];
            if let Some(unit) = inside.chunks(UNIT).position(|unit| unit.iter().any(|&byte| byte != 0)) {
                return Ok(Some(at + to_u64(unit * UNIT)));
            }
            at += to_u64(inside.len());
            // Holes read as zeros; they may be terabytes.
            let medium = self.view.medium();
            let data = medium.data_after(Offset(at)).map_err(|e| Error::io("look for data", medium.path(), e))?;
            at = at.max(data.map_or(to, |data| data.0 & !(FRAME_ALIGN - 1)));
        }
        Ok(None)
    }

    /// The bytes from `at` to the end of the piece, at least `least` of them or what is left of the file. Those of a
    /// bad sector are no zeros and no frame.
    fn bytes(&mut self, at: u64, least: u64) -> Result<&[u8]> {
        let least = least.min(self.file_bytes - at);
        let piece_end = self.piece_at + to_u64(self.piece.len());
        if at < self.piece_at || at + least > piece_end {
            let length = PIECE_BYTES.min(self.file_bytes - at);
            self.piece.resize(to_usize(length), 0);
            let medium = self.view.medium();
            match medium.read_at(Offset(at), &mut self.piece) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::EIO) => self.piece.fill(0xff),
                Err(error) => return Err(Error::io("read", medium.path(), error)),
            }
            self.piece_at = at;
        }
        Ok(&self.piece[to_usize(at - self.piece_at)..])
    }
}
