//! Step 1: where the log ends, and whether that is its true end. Nothing is written.

use std::collections::{BTreeMap, BTreeSet};

use byteorder::{ByteOrder, LittleEndian};
use zerocopy::{FromZeros, IntoBytes};

use super::{PIECE_BYTES, Recovery, host_words, length, read_commit};
use crate::digest::Digest;
use crate::error::{Damage, Error, Result};
use crate::format::{
    CHUNK_ALIGN, Counters, FRAME_ALIGN, FrameHeader, JumpDetail, Kind, NAME_BYTES_MAX, Offset, SPACE_AT, align_up,
    live, to_usize,
};
use crate::log::{self, Commit, Group, Passed, Tail, read_chunk};
use crate::medium::Medium;
use crate::record::CountersNow;
use crate::space::Space;
use crate::superblock::Superblocks;

/// What follows the log's end is looked through in pieces of this size: mostly nothing does.
const LOOK_BYTES: u64 = 4 << 10;

/// What a look at the log found.
pub(super) struct Scan {
    pub(super) marker: u64,
    pub(super) groups: Vec<Group>,
    pub(super) chunks: Vec<Passed>,
    pub(super) from: Tail,
    pub(super) tail: Tail,
    pub(super) report: Recovery,
    /// Whether something stands behind the tail: what is written next goes elsewhere.
    pub(super) residue: bool,
    /// Whether acknowledged commits are among it.
    pub(super) cut: bool,
}

impl Scan {
    pub(super) fn run<M: Medium>(medium: &M, superblocks: &Superblocks, repair: bool) -> Result<Scan> {
        let newest = &superblocks.newest;
        let marker = superblocks.identity.marker.get();
        let file_bytes = length(medium)?;
        let from = Tail::of(newest);
        let mut groups: Vec<Group> = Vec::new();
        let (_, chunks) = log::walk(medium, marker, from, file_bytes, |group| {
            groups.push(group);
            Ok(())
        })?;
        let mut scan =
            Scan { marker, groups, chunks, from, tail: from, report: Recovery::default(), residue: false, cut: false };
        scan.cut_at_torn_payload(medium, file_bytes)?;
        scan.tail = scan.groups.last().map_or(from, |group| group.tail);
        let tail = scan.tail;
        // A checkpoint is written once all that it names is durable, the file's length too.
        let cut_off = superblocks.cut_off.filter(|newer| newer.tail.get() > tail.at.0);
        let what = "the file was cut off: its newest checkpoint is longer";
        let mut damage = cut_off.map(|_| (Offset(file_bytes), what));
        scan.chunks.retain(|passed| passed.chunk.offset <= tail.chunk);
        let sequence = newest.sequence.get();
        if let Some(group) = scan.groups.iter().find(|group| group.sequence > sequence + 1) {
            damage = damage.or(Some((group.commits[0], "this commit builds on a superblock that is not there")));
        }
        scan.report.lost_superblock = scan.groups.iter().any(|group| group.sequence == sequence + 1);
        let evidence = scan.look_for_evidence(medium, newest.end.get(), file_bytes)?;
        damage = damage.or(evidence);
        if let Some(newer) = cut_off {
            let lost = newer.counters.commits.get().saturating_sub(scan.counters(&newest.counters).commits);
            scan.report.lost_commits = scan.report.lost_commits.max(lost);
        }
        if damage.is_none() && !repair {
            damage = scan.check_live_page(medium)?;
        }
        match damage {
            Some((at, what)) if !repair => Err(Error::Damaged(Box::new(Damage {
                path: medium.path().into(),
                offset: at.0,
                what: what.into(),
                remedy: Some("`blobpack verify --repair` keeps what comes before"),
            }))),
            _ => {
                scan.cut = damage.is_some();
                scan.report.replayed_commits = scan.groups.len() as u64;
                scan.report.replayed_images = scan.groups.iter().map(|group| group.images).sum();
                Ok(scan)
            }
        }
    }

    /// The commits to replay.
    pub(super) fn commits(&self) -> impl Iterator<Item = Offset> {
        self.groups.iter().flat_map(|group| group.commits.iter().copied())
    }

    /// Commits below are durable: a later one says so, or the checkpoint.
    pub(super) fn vouched(&self) -> Offset {
        self.groups.iter().map(|group| group.durable_upto).fold(self.from.at, Offset::max)
    }

    pub(super) fn counters(&self, before: &Counters) -> CountersNow {
        self.groups.last().map_or(*before, |group| group.counters).into()
    }

    /// Where something stands behind the log's end, or its last chunk does not lie inside the file any more (a power
    /// cut takes back the length of what was allocated and not written yet), the log goes on in a new chunk behind all
    /// that there is. Says whether it does. On a full disk it goes on where it ends, if nothing there was acknowledged.
    pub(super) fn go_on<M: Medium>(
        &self,
        medium: &M,
        space: &mut Space,
        tail: &mut Tail,
        file_bytes: u64,
    ) -> Result<bool> {
        let is_cut_short = tail.chunk_end > file_bytes;
        if !self.residue && !is_cut_short {
            return Ok(false);
        }
        let chunk = match space.allocate(medium, CHUNK_ALIGN, CHUNK_ALIGN) {
            Ok(chunk) => chunk,
            Err(Error::NoSpace { .. } | Error::LimitReached { .. }) if !self.cut && !is_cut_short => return Ok(false),
            Err(error) => return Err(error),
        };
        let head = tail.begin_chunk(self.marker, chunk);
        medium
            .write_at(chunk.offset, &[head.as_bytes()], true)
            .map_err(|e| Error::io("begin a chunk of the log", medium.path(), e))?;
        Ok(true)
    }

    /// One sync may persist a commit without its blobs: the first group that no later commit vouches for and whose
    /// payloads fail their checksums is the end of the log. Payloads are read up to the file's length in all: each is
    /// published once, and they do not overlap. Those that do are forged.
    fn cut_at_torn_payload<M: Medium>(&mut self, medium: &M, file_bytes: u64) -> Result<()> {
        let vouched = self.vouched();
        let mut keep = self.groups.len();
        let mut budget = file_bytes;
        'groups: for (number, group) in self.groups.iter().enumerate() {
            for &at in group.commits.iter().filter(|&&at| at >= vouched) {
                let commit = read_commit(medium, self.marker, at, file_bytes)?;
                for blob in commit.published().filter(|blob| !blob.synced) {
                    if payload_checksum(medium, self.marker, blob.id, file_bytes, &mut budget)? != Some(blob.checksum) {
                        keep = number;
                        break 'groups;
                    }
                }
            }
        }
        // What is cut off is found again, and counted, where the evidence is looked at.
        self.groups.truncate(keep);
        Ok(())
    }

    /// Looks behind the log's end for commits that say that more was durable: in the rest of the chunk, at each
    /// position where a chunk can stand, and where a jump leads that was found so. Nothing found here is ever replayed.
    fn look_for_evidence<M: Medium>(
        &mut self,
        medium: &M,
        end: u64,
        file_bytes: u64,
    ) -> Result<Option<(Offset, &'static str)>> {
        let rest = self.tail.chunk_end.min(file_bytes).saturating_sub(self.tail.at.0);
        let head = self.head_behind(medium, rest)?;
        let is_blank = head.as_bytes().iter().all(|byte| *byte == 0);
        let mut places = BTreeMap::from([(self.tail.at.0, self.tail.at.0 + rest)]);
        // A chunk that a commit had been given when the checkpoint was made, and that no commit had reached, lies
        // before the checkpoint's end. Only a jump leads to it, and that leaves something at the tail.
        let from = if is_blank { end } else { end.min(self.tail.chunk_end) };
        let mut at = align_up(from, CHUNK_ALIGN).max(SPACE_AT.0);
        let replayed: Vec<Offset> = self.chunks.iter().map(|passed| passed.chunk.offset).collect();
        let io = |e| Error::io("look for data", medium.path(), e);
        while let Some(data) = if at < file_bytes { medium.data_after(Offset(at)).map_err(io)? } else { None } {
            at = data.0 & !(CHUNK_ALIGN - 1);
            let chunk = read_chunk(medium, self.marker, Offset(at), file_bytes)?;
            if let Some(chunk) = chunk
                && replayed.binary_search(&Offset(at)).is_err()
            {
                places.insert(at, at.saturating_add(chunk.length.get()).min(file_bytes));
            }
            at += CHUNK_ALIGN;
        }
        let mut found = Behind::default();
        // Chunks that overlap can only be forged; each byte is looked at once all the same.
        let mut seen = 0;
        while let Some((start, end)) = places.pop_first() {
            let targets = found.look(medium, self.marker, Offset(start.max(seen)), end)?;
            seen = seen.max(end);
            for target in targets.into_iter().filter(|target| (seen..file_bytes).contains(target)) {
                // A jump is durable only with the frame of the chunk that it leads to: if that can't be read it is
                // damaged, or it belongs to the newest commit and was never written.
                let next = places.range(target..).next().map_or(file_bytes, |(next, _)| *next);
                places.entry(target).or_insert(next);
            }
        }
        // What a repair has cut off in place stays where it is; the epoch tells it from what came later.
        found.commits.retain(|commit| commit.detail.epoch.get() >= self.tail.epoch);
        // A torn write may have lost its first sector, and have the next ones.
        let has_frames = !found.commits.is_empty() || !found.blobs.is_empty();
        let looks_like_a_frame = head.marker.get() == self.marker || head.offset.get() == self.tail.at.0 || has_frames;
        self.residue = !is_blank || has_frames;
        self.tell(medium, &found, looks_like_a_frame, file_bytes)
    }

    /// Reports what was found behind the log's end. What a commit there says was durable was acknowledged.
    fn tell<M: Medium>(
        &mut self,
        medium: &M,
        found: &Behind,
        looks_like_a_frame: bool,
        file_bytes: u64,
    ) -> Result<Option<(Offset, &'static str)>> {
        let vouched = found.commits.iter().map(|commit| commit.body.durable_upto.get()).max().unwrap_or(0);
        let damage = vouched > self.tail.at.0;
        let is_lost = |at: Offset| damage && at.0 < vouched;
        let (mut lost, mut dropped) = (BTreeSet::new(), BTreeSet::new());
        let mut put = |at: Offset, digest| if is_lost(at) { lost.insert(digest) } else { dropped.insert(digest) };
        for (at, digest) in &found.blobs {
            put(*at, *digest);
        }
        for commit in &found.commits {
            let counted = u64::from(commit.is_last());
            let count = if is_lost(commit.frame.offset) {
                &mut self.report.lost_commits
            } else {
                &mut self.report.dropped_commits
            };
            *count += counted;
            for blob in commit.published() {
                let frame = log::read_frame(medium, self.marker, blob.id, file_bytes)?;
                if let Some(digest) = frame.and_then(|frame| frame.digest) {
                    put(commit.frame.offset, digest);
                }
            }
        }
        if found.commits.is_empty() && looks_like_a_frame {
            // A commit that was torn, or is damaged beyond recognition.
            self.report.dropped_commits = 1;
        }
        if damage {
            // Where the log breaks off stands a commit that is damaged beyond recognition, if none was counted.
            self.report.lost_commits = self.report.lost_commits.max(1);
        }
        dropped.retain(|digest| !lost.contains(digest));
        self.report.lost_blobs = lost.into_iter().collect();
        self.report.dropped_blobs = dropped.into_iter().collect();
        Ok(damage.then_some((self.tail.at, "the log breaks off here, but later commits are there")))
    }

    /// The bytes where the next frame would begin.
    fn head_behind<M: Medium>(&self, medium: &M, rest: u64) -> Result<FrameHeader> {
        let mut head = FrameHeader::new_zeroed();
        let bytes = &mut head.as_mut_bytes()[..to_usize(rest.min(64))];
        if bytes.is_empty() {
            return Ok(head);
        }
        medium.read_at(self.tail.at, bytes).map_err(|e| Error::io("look behind the log", medium.path(), e))?;
        Ok(head)
    }

    /// The newest commit is vouched for by no later one, and without syncs none is since the last checkpoint. While the
    /// machine runs, the live page's acknowledged tail does it.
    fn check_live_page<M: Medium>(&self, medium: &M) -> Result<Option<(Offset, &'static str)>> {
        let mut words = [0; 48];
        if length(medium)? < live::HOST.0 + 40 {
            return Ok(None);
        }
        let io = |e| Error::io("read the live page", medium.path(), e);
        medium.read_at(live::ACKNOWLEDGED, &mut words).map_err(io)?;
        let words: Vec<u64> = words.chunks_exact(8).map(LittleEndian::read_u64).collect();
        let host = host_words(medium)?;
        let lost = host[..2] != [0, 0] && words[1..] == host && words[0] > self.tail.at.0;
        Ok(lost.then_some((self.tail.at, "the log breaks off here, but more was acknowledged")))
    }
}

/// Frames behind the log's end.
#[derive(Default)]
pub(super) struct Behind {
    commits: Vec<Commit>,
    blobs: Vec<(Offset, Digest)>,
}

impl Behind {
    /// Takes in all valid frames of commits and blobs between two positions, none of the commits inside another one;
    /// returns where the jumps lead. Bodies are read up to twice the range's length in all: in a log they do not
    /// overlap, and those that do are forged.
    fn look<M: Medium>(&mut self, medium: &M, marker: u64, from: Offset, to: u64) -> Result<Vec<u64>> {
        let mut targets = Vec::new();
        let mut at = from.align_up(FRAME_ALIGN).0;
        let io = |e| Error::io("look for commits", medium.path(), e);
        let mut whole = vec![0; to_usize(LOOK_BYTES)];
        let mut budget = 2 * to.saturating_sub(at);
        let mut behind = Offset::NONE;
        // Holes hold nothing; a forged chunk could claim terabytes of them.
        while let Some(data) = medium.data_after(Offset(at)).map_err(io)?.filter(|data| data.0 + 64 <= to) {
            at = data.0 & !(FRAME_ALIGN - 1);
            let piece = &mut whole[..to_usize(LOOK_BYTES.min(to - at) & !63)];
            medium.read_at(Offset(at), piece).map_err(io)?;
            for number in (0..piece.len()).step_by(64) {
                let here = Offset(at + number as u64);
                if here < behind || piece[number..number + 8] != marker.to_le_bytes() {
                    continue;
                }
                let Some(frame) = log::read_frame(medium, marker, here, to)? else { continue };
                match (frame.kind, frame.digest) {
                    (Kind::Blob, Some(digest)) => self.blobs.push((here, digest)),
                    (Kind::Jump, _) => targets.push(frame.detail::<JumpDetail>().target.get() & !(CHUNK_ALIGN - 1)),
                    (Kind::Commit, _) if frame.length <= budget => {
                        budget -= frame.length;
                        if let Some(commit) = Commit::read(medium, marker, here, to)? {
                            behind = commit.frame.end();
                            self.commits.push(commit);
                        }
                    }
                    _ => {}
                }
            }
            at += piece.len() as u64;
        }
        Ok(targets)
    }
}

/// The CRC-32 over payload and header of the blob or name frame at `at`; `None` where there is none, or it has more
/// bytes than the budget, from which they are taken.
fn payload_checksum<M: Medium>(
    medium: &M,
    marker: u64,
    at: Offset,
    file_bytes: u64,
    budget: &mut u64,
) -> Result<Option<u32>> {
    let Some(frame) = log::read_frame(medium, marker, at, file_bytes)? else { return Ok(None) };
    let whole = match frame.kind {
        Kind::Blob => true,
        Kind::Name => frame.length <= NAME_BYTES_MAX,
        _ => false,
    };
    if !whole || frame.body().0 + frame.length > file_bytes {
        return Ok(None);
    }
    let Some(left) = budget.checked_sub(frame.header_bytes + frame.length) else { return Ok(None) };
    *budget = left;
    let mut crc = crc32fast::Hasher::new();
    let mut piece = vec![0; to_usize(PIECE_BYTES.min(frame.length))];
    let (mut from, end) = (frame.body().0, frame.body().0 + frame.length);
    let io = |e| Error::io("read a payload", medium.path(), e);
    while from < end {
        let part = &mut piece[..to_usize(PIECE_BYTES.min(end - from))];
        medium.read_at(Offset(from), part).map_err(io)?;
        crc.update(part);
        from += part.len() as u64;
    }
    let mut header = [0; 128];
    let header = &mut header[..to_usize(frame.header_bytes)];
    medium.read_at(at, header).map_err(io)?;
    crc.update(header);
    Ok(Some(crc.finalize()))
}

#[cfg(test)]
mod tests;
