//! Names: which blob has one, and all that there are; and what becomes of those whose texts are damaged.

use std::sync::Arc;

use crate::batch::{Operation, Operations};
use crate::commit::Writer;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::Offset;
use crate::index::probe::Answer;
use crate::log::read_name;
use crate::medium::Medium;
use crate::name::Name;
use crate::pack::Pack;
use crate::record::{NameRecord, Neighbour, Record};
use crate::recovery::LostName;
use crate::source::Source;
use crate::view::View;

/// The blob that has a name.
pub(crate) fn find<M: Medium>(source: &Source<M>, name: &Name) -> Result<Option<Digest>> {
    source.ask(|view| match view.name_record(name)? {
        Some(record) => view.digest_at(record.target).map(Some),
        None => Ok(None),
    })
}

/// All names, sorted.
pub(crate) fn all<M: Medium>(pack: &Arc<Pack<M>>) -> Result<Vec<(Name, Digest)>> {
    let source = pack.source();
    let mut names = match (source.ask(|view| read(view, false)), pack.writer()) {
        // The ring did not come to rest: under this writer's hands, or because it is damaged.
        (Err(Error::Busy { .. }), Ok(writer)) => writer.at_rest(|| source.ask(|view| read(view, true))),
        (read, _) => read,
    }?;
    names.sort_unstable();
    Ok(names)
}

fn read<M: Medium>(view: &View<M>, at_rest: bool) -> Answer<Vec<(Name, Digest)>> {
    let names = view.names(at_rest)?;
    names.into_iter().map(|(name, target)| Ok((name, view.digest_at(target)?))).collect()
}

/// Removes the names whose frames do not hold the texts that their records speak of, by their records alone; the
/// references that they held become callers'. What can't be removed, because more is damaged, stays for a verification
/// to find. A frame that can't be read at all is an error: another attempt, or a copy of the file, may have it.
pub(crate) fn release_damaged<M: Medium>(source: &Source<M>, writer: &Writer<M>) -> Result<Vec<LostName>> {
    // The walk over all records takes as long as much of a rebuild, and most packs have no names.
    if writer.totals().0.names == 0 {
        return Ok(Vec::new());
    }
    let mut damaged = Vec::new();
    let mut next = Some(0);
    while let Some(tag) = next {
        let (records, after) = source.ask(|view| view.records_from(tag))?;
        for record in records {
            if let Record::Name(name) = record
                && name.id != Offset::NONE
                && !is_sound(source, &name)?
                && let Ok(digest) = source.ask(|view| view.digest_at(name.target))
            {
                damaged.push((name.place(), LostName { offset: name.id.0, digest }));
            }
        }
        next = after;
    }
    let release = |names: &[(Neighbour, LostName)]| {
        let list: Vec<_> = names.iter().map(|(place, _)| Operation::ReleaseName(*place)).collect();
        writer.commit(Operations { list: list.into(), ..Operations::default() }).map(drop)
    };
    match release(&damaged) {
        Ok(()) => return Ok(damaged.into_iter().map(|(_, lost)| lost).collect()),
        // One that can't be removed must not keep the others.
        Err(error) if error.is_damage() => {}
        Err(error) => return Err(error),
    }
    let mut lost = Vec::new();
    for one in damaged {
        match release(&[one]) {
            Ok(()) => lost.push(one.1),
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(lost)
}

/// Whether the text of a name is there, read with system calls.
fn is_sound<M: Medium>(source: &Source<M>, name: &NameRecord) -> Result<bool> {
    let (medium, marker) = (source.medium(), source.identity().marker.get());
    let end = medium.length().map_err(|e| Error::io("length", medium.path(), e))?;
    let text = read_name(medium.as_ref(), marker, name.id, end)?;
    Ok(text.is_some_and(|text| source.tagger().of_name(text.as_str()) == name.tag))
}
