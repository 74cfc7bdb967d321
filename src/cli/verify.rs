//! `blobpack verify`: is everything what it should be?

use clap::Args;
use serde::Serialize;

use blobpack::{Error, Finding, LostName, Recovery, Result, Store, Verified};

use super::failure::Failure;
use super::output::{Output, count, note, size_note};
use super::pack::{Json, WritePack, close, note_dropped};
use super::progress;

/// Read every blob and compare digests, counts, links, names, and index with log.
///
/// Lists every damage, a line each, and exits with code 4 if there is any. Without --repair nothing is written, and
/// other processes may go on writing.
///
/// Counts: none change; --repair sets them to what the log says. A name whose text is damaged can only be removed: the
/// reference that it held is a caller's then, so that its blob stays.
///
/// Costs: every byte of every live blob is read and hashed, once. Memory grows with the number of records, not with the
/// sizes of the blobs.
///
/// Never: writes without --repair, stops at the first damage, makes up bytes that are lost.
#[derive(Args)]
#[command(after_help = "\
Examples:
  blobpack verify store.pack
  blobpack verify --repair store.pack
  blobpack verify --json store.pack | jq -r '.damage[].what'

--repair rebuilds an index that is damaged, or can't be read, from the log, and where the log itself is damaged \
keeps what stands before the damage. Each name that it has to remove is told. A file that was cut off is made whole \
again if all of its log is there; one that has lost commits, and is shorter than both of its checkpoints say, stays \
as it is. \
Then it verifies again: what is listed, and the exit code, are about the pack as it is afterwards. Take \
a copy of the file first; the bytes of a damaged blob can't be repaired, but `compact` can make a sound pack without it.
--json prints one object: {\"blobs\",\"bytes\",\
\"damage\":[{\"offset\",\"digest\",\"name\",\"what\",\"referrers\"}...]}, with \"partial\":true where counts and index \
were not compared.")]
pub struct Verify {
    #[command(flatten)]
    pack: WritePack,
    /// Repair what can be repaired
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    format: Json,
}

/// The JSON of a verification.
#[derive(Serialize, Default)]
struct Report {
    blobs: u64,
    bytes: u64,
    damage: Vec<Finding>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    partial: bool,
}

impl Verify {
    /// Verifies the pack.
    pub fn run(self) -> Result<(), Failure> {
        let report = if self.repair { self.repaired()? } else { self.checked()? };
        let mut output = Output::new();
        if self.format.json {
            output.json(&report)?;
        } else {
            for damage in &report.damage {
                output.line(damage)?;
            }
        }
        output.flush()?;
        if report.partial {
            let why = "another process is writing to the pack, or a part of the index can't be read";
            note(&format!("counts and index were not compared: {why}"));
        }
        let (blobs, bytes) = (count(report.blobs, "blob"), size_note(report.bytes));
        if report.damage.is_empty() {
            note(&format!("{blobs}, {bytes}: no damage"));
            return Ok(());
        }
        note(&format!("{blobs}, {bytes}: {} damaged", count(report.damage.len() as u64, "place")));
        Err(Failure::damage())
    }

    /// What a verification finds that writes nothing.
    fn checked(&self) -> Result<Report, Failure> {
        let opened = self.pack.options().read_only(true).open(&self.pack.path);
        Ok(opened.and_then(|store| check(&store)).map(Report::from).or_else(Report::of_damage)?)
    }

    /// Repairs, and tells what a verification finds afterwards.
    fn repaired(&self) -> Result<Report, Failure> {
        let options = self.pack.options();
        match options.open(&self.pack.path) {
            Ok(store) => {
                report_loss(&store.recovery());
                let found = Report::from(check(&store)?);
                close(store);
                if found.damage.is_empty() {
                    return Ok(found);
                }
                found.tell();
            }
            // Where it is the index that can't be read, the log has all of it.
            Err(error) if is_unreadable(&error) => note(&format!("found: {error}")),
            Err(error) => Report::of_damage(error)?.tell(),
        }
        let store = match options.rebuild(&self.pack.path) {
            Err(error) if error.is_damage() => {
                note(&format!("no index can be made anew: {error}"));
                self.cut()?
            }
            rebuilt => made_anew(rebuilt)?,
        };
        note_mended(&store.recovery());
        let report = Report::from(check(&store)?);
        close(store);
        Ok(report)
    }

    /// Cuts the log at its damage, and makes the index anew from what is left. Where commits before the last checkpoint
    /// are damaged that can't be done, but the index is there: from it a new log is made.
    fn cut(&self) -> Result<Store, Failure> {
        let options = self.pack.options();
        let store = options.repair(&self.pack.path)?;
        report_loss(&store.recovery());
        close(store);
        match options.rebuild(&self.pack.path) {
            Err(error) if error.is_damage() => {
                let store = options.open(&self.pack.path)?;
                match store.compact() {
                    // What is lost keeps it from being copied: the list at the end names all of that.
                    Err(error) if error.is_damage() => {
                        note(&format!(
                            "no new log could be made from the index: {error}; see `blobpack compact --help`"
                        ));
                    }
                    made => {
                        made?;
                        note("made a new log from the index");
                    }
                }
                Ok(store)
            }
            rebuilt => Ok(made_anew(rebuilt)?),
        }
    }
}

/// Verifies an open pack.
fn check(store: &Store) -> Result<Verified> {
    let bar = progress::bar("verifying", 0);
    let verified = store.verify_with(&mut |done| progress::follow(&bar, &done));
    bar.finish_and_clear();
    verified
}

/// Says what was acknowledged and is lost, and what was found behind the log's end and is taken to be incomplete.
fn report_loss(recovery: &Recovery) {
    if recovery.lost_commits > 0 {
        note(&format!("cut the log at the damage: {} lost", count(recovery.lost_commits, "commit")));
    }
    for digest in &recovery.lost_blobs {
        note(&format!("lost: {digest}"));
    }
    note_dropped(recovery);
    for digest in &recovery.dropped_blobs {
        note(&format!("dropped: {digest}"));
    }
}

/// Says what a rebuild has dropped and put right, and which names it has removed.
pub fn note_mended(recovery: &Recovery) {
    report_loss(recovery);
    for digest in &recovery.restored_blobs {
        note(&format!("restored the header of {digest}"));
    }
    for LostName { offset, digest, .. } in &recovery.lost_names {
        note(&format!(
            "offset {offset}: removed a name of {digest} whose text is damaged; its reference is a caller's now"
        ));
    }
}

fn made_anew(rebuilt: Result<Store>) -> Result<Store> {
    rebuilt.inspect(|_| note("made the index anew from the log"))
}

/// Whether a part of the index can't be read.
fn is_unreadable(error: &Error) -> bool {
    let Error::Io { operation: "read the index", source, .. } = error else { return false };
    source.raw_os_error() == Some(libc::EIO)
}

impl Report {
    fn tell(&self) {
        for damage in &self.damage {
            note(&format!("found: {damage}"));
        }
    }

    /// An error that names damage is a finding; another one stays an error.
    fn of_damage(error: Error) -> Result<Report> {
        match error {
            Error::Damaged(damage) => Ok(Report { damage: vec![Finding::from(*damage)], ..Report::default() }),
            error => Err(error),
        }
    }
}

impl From<Verified> for Report {
    fn from(verified: Verified) -> Report {
        let Verified { blobs, bytes, damage, partial, .. } = verified;
        Report { blobs, bytes, damage, partial }
    }
}
