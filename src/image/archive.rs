//! A tar archive as a table of what lies where in it. Nothing is ever unpacked.
//!
//! The headers are those of the `tar` crate; the walk over them is here, because it has to know what the crate's own
//! keeps to itself: where the archive was cut off, and how long a name or an extension may be before it is read into
//! memory. Old, ustar, GNU and pax archives are read, with their long names; sparse files are not.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use tar::{EntryType, Header};

use crate::error::Result;
use crate::fault::Fault;
use crate::image::files::Blame;

const BLOCK_BYTES: u64 = 512;
const ZEROS: [u8; 512] = [0; 512];
/// A long name, or the pax records of one entry, are no longer.
const EXTENSION_BYTES_MAX: u64 = 64 << 10;
/// No image has so many files; the table of an archive that has more is not built.
const ENTRIES_MAX: u64 = 100_000;

/// Bytes that can be read from any position.
pub trait ReadAt: Send + Sync {
    /// How many there are.
    fn length(&self) -> io::Result<u64>;
    /// Reads up to `buffer.len()` of them; 0 at the end.
    fn read_some(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;
}

impl ReadAt for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_some(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.read_at(buffer, at)
    }
}

/// For tests and fuzzers.
impl ReadAt for Vec<u8> {
    fn length(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_some(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let rest = usize::try_from(at).ok().and_then(|at| self.get(at..)).unwrap_or_default();
        (&*rest).read(buffer)
    }
}

/// Some of the bytes, as a stream.
pub struct Part<'a> {
    bytes: &'a dyn ReadAt,
    at: u64,
    left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.bytes.read_some(&mut buffer[..most], self.at)?;
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A plain file: where its bytes are.
    File {
        /// Their position in the archive.
        at: u64,
        /// How many they are.
        size: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink(String),
    /// A further name of another entry.
    Hardlink(String),
}

/// An archive that was walked through once.
pub struct Archive {
    bytes: Box<dyn ReadAt>,
    entries: BTreeMap<String, Entry>,
}

/// What extensions say of the entry that follows them.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Archive {
    /// Walks through the archive. `expected` says why an entry, by its name, can't be one of what is in such an
    /// archive.
    pub fn new(
        bytes: Box<dyn ReadAt>,
        blame: &Blame,
        expected: impl Fn(&str, &Entry) -> Result<(), &'static str>,
    ) -> Result<Archive> {
        let mut entries = BTreeMap::new();
        let mut walk = Walk { bytes: &*bytes, length: blame.io("read the length", bytes.length())?, at: 0, blame };
        while let Some((name, entry)) = walk.next()? {
            if entries.len() as u64 >= ENTRIES_MAX {
                return Err(blame.fault("", Fault::TooMany { what: "entries", limit: ENTRIES_MAX }));
            }
            let name = plain_name(&name).map_err(|reason| blame.refused(&String::from_utf8_lossy(&name), reason))?;
            if name.is_empty() && entry == Entry::Directory {
                continue;
            }
            expected(&name, &entry).map_err(|reason| blame.refused(&name, reason))?;
            if entries.contains_key(&name) && entry != Entry::Directory {
                return Err(blame.refused(&name, "is there twice"));
            }
            entries.insert(name, entry);
        }
        Ok(Archive { bytes, entries })
    }

    /// What is there under a name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// The bytes of a plain file.
    pub fn part(&self, at: u64, size: u64) -> Part<'_> {
        Part { bytes: &*self.bytes, at, left: size }
    }
}

/// A name as it is looked for: relative, without anything that leads elsewhere.
fn plain_name(name: &[u8]) -> Result<String, &'static str> {
    let name = str::from_utf8(name).map_err(|_| "the name is not UTF-8")?;
    if name.starts_with('/') {
        return Err("the name is absolute");
    }
    let mut name = name.strip_suffix('/').unwrap_or(name);
    while let Some(rest) = name.strip_prefix("./") {
        name = rest;
    }
    if matches!(name, "" | ".") {
        return Ok(String::new());
    }
    match name.split('/').find(|part| matches!(*part, "" | "." | "..")) {
        Some("..") => Err("the name leads out of the archive"),
        Some(_) => Err("the name has an empty part"),
        None => Ok(name.to_owned()),
    }
}

struct Walk<'a> {
    bytes: &'a dyn ReadAt,
    length: u64,
    at: u64,
    blame: &'a Blame,
}

impl Walk<'_> {
    /// The next entry with its name as it is written.
    fn next(&mut self) -> Result<Option<(Vec<u8>, Entry)>> {
        let mut extended = Extended::default();
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            let name = extended.path.clone().unwrap_or_else(|| header.path_bytes().into_owned());
            let shown = String::from_utf8_lossy(&name).into_owned();
            let refused = |reason: &str| self.blame.refused(&shown, reason);
            let own_size = header.entry_size().map_err(|_| refused("its size is no number"))?;
            let kind = header.entry_type();
            let size = if kind.is_file() { extended.size.unwrap_or(own_size) } else { own_size };
            let start = self.at;
            let end = size.checked_next_multiple_of(BLOCK_BYTES).and_then(|bytes| start.checked_add(bytes));
            let Some(end) = end.filter(|&end| end <= self.length) else {
                return Err(refused("the archive is cut off inside of it"));
            };
            self.at = end;
            let link = || -> Result<String> {
                let link = extended.link.clone().or_else(|| header.link_name_bytes().map(|name| name.into_owned()));
                let link = link.and_then(|link| String::from_utf8(link).ok());
                link.ok_or_else(|| refused("it links to no name that is UTF-8"))
            };
            let entry = match kind {
                EntryType::XHeader | EntryType::XGlobalHeader => {
                    let records = self.extension(start, size, &shown)?;
                    let global = kind == EntryType::XGlobalHeader;
                    pax(&records, global, &mut extended).map_err(|reason| self.blame.refused(&shown, reason))?;
                    continue;
                }
                EntryType::GNULongName => {
                    extended.path = Some(without_nul(self.extension(start, size, &shown)?));
                    continue;
                }
                EntryType::GNULongLink => {
                    extended.link = Some(without_nul(self.extension(start, size, &shown)?));
                    continue;
                }
                EntryType::Regular => Entry::File { at: start, size },
                EntryType::Directory => Entry::Directory,
                EntryType::Symlink => Entry::Symlink(link()?),
                EntryType::Link => Entry::Hardlink(link()?),
                EntryType::GNUSparse => return Err(refused("it is a sparse file")),
                _ => return Err(refused("it is neither a plain file, a directory nor a link")),
            };
            if !kind.is_file() && size != 0 {
                return Err(refused("it is no plain file, and has content"));
            }
            return Ok(Some((name, entry)));
        }
    }

    /// The next header; none at the mark that ends an archive.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut block = ZEROS;
        let read = read_exact(self.bytes, &mut block, self.at);
        match self.blame.io("read a header", read)? {
            read if read == block.len() => {}
            _ if self.at == 0 => return Err(self.blame.refused("", "is not a tar archive: it is too short")),
            _ => return Err(self.blame.refused("", "the archive is cut off: it has no end mark")),
        }
        if block == ZEROS {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block);
        let mut sealed = header.clone();
        sealed.set_cksum();
        if header.cksum().ok() != sealed.cksum().ok() {
            let reason = if self.at == 0 { not_tar(&block) } else { "a header's checksum is wrong".to_owned() };
            return Err(self.blame.refused("", &reason));
        }
        self.at += BLOCK_BYTES;
        Ok(Some(header.clone()))
    }

    fn extension(&self, at: u64, size: u64, name: &str) -> Result<Vec<u8>> {
        if size > EXTENSION_BYTES_MAX {
            return Err(self.blame.fault(name, Fault::TooLarge { size, limit: EXTENSION_BYTES_MAX }));
        }
        let mut bytes = Vec::new();
        let read = Part { bytes: self.bytes, at, left: size }.read_to_end(&mut bytes);
        self.blame.io("read an extension", read)?;
        Ok(bytes)
    }
}

/// Why the beginning of a file is not that of a tar archive.
fn not_tar(block: &[u8]) -> String {
    let packed = match block {
        [0x1f, 0x8b, ..] => "gzip",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz",
        _ => return "is not a tar archive".to_owned(),
    };
    format!("is not a tar archive: it is compressed with {packed}, so decompress it first")
}

fn read_exact(bytes: &dyn ReadAt, block: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < block.len() {
        match bytes.read_some(&mut block[done..], at + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

fn without_nul(mut name: Vec<u8>) -> Vec<u8> {
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    name.truncate(end);
    name
}

/// Takes in the records of a pax header.
fn pax(mut records: &[u8], global: bool, extended: &mut Extended) -> Result<(), &'static str> {
    while !records.is_empty() {
        let (key, value, rest) = pax_record(records).ok_or("its pax records are malformed")?;
        records = rest;
        match key {
            b"path" | b"linkpath" | b"size" if global => return Err("a global pax record renames or resizes"),
            b"path" => extended.path = Some(value.to_vec()),
            b"linkpath" => extended.link = Some(value.to_vec()),
            b"size" => {
                let size = str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                extended.size = Some(size.ok_or("its pax size is no number")?);
            }
            key if key.starts_with(b"GNU.sparse.") => return Err("it is a sparse file"),
            _ => {}
        }
    }
    Ok(())
}

/// Key and value of the first record, and what comes behind it. Its length says where it ends: an extended attribute or
/// a comment may have line feeds in it, which the crate's own iterator takes for the end of a record.
fn pax_record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().position(|&byte| byte == b' ')?;
    let length = str::from_utf8(&records[..space]).ok()?.parse().ok()?;
    let (record, rest) = records.split_at_checked(length)?;
    let text = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = text.iter().position(|&byte| byte == b'=')?;
    Some((&text[..equals], &text[equals + 1..], rest))
}
