//! Any archive as an image's source: a whole image that comes out and goes in again, or an error and nothing.

use blobpack::commit::Tuning;
use blobpack::image::{ExportOptions, ImportOptions, Location, Source, export_to, import};
use blobpack::medium::{Sim, SimDirectory};
use blobpack::{Algorithm, Digest, Name, Store};

const PACK: &str = "blobs.pack";
/// What the pack may become.
const FILE_BYTES_MAX: u64 = 24 << 20;
/// The rest of the input is the archive as it is, and not what one is made of.
pub const RAW: u8 = 1;
/// It is a Docker archive.
pub const DOCKER: u8 = 2;
/// Manifests that are missing may be.
pub const SPARSE: u8 = 4;
/// A made layout has at most so many blobs.
const BLOBS_MAX: usize = 24;

const MEDIA_TYPES: [&str; 6] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/x.unknown",
];

/// The first byte says what the rest is.
pub fn run(input: &[u8]) {
    let Some((&mode, rest)) = input.split_first() else { return };
    let archive = if mode & RAW != 0 { rest.to_vec() } else { layout(rest) };
    let scheme = if mode & DOCKER != 0 { "docker-archive:x" } else { "oci-archive:x" };
    let location: Location = scheme.parse().expect("it is a scheme and a path");
    let Ok(source) = Source::of_bytes(&location, archive) else { return };
    let store = store();
    let options = || ImportOptions::new().sparse(mode & SPARSE != 0);
    let Ok(imported) = import(&store, &source, options()) else {
        assert_eq!(store.stats().expect("it is sound").blobs, 0, "part of an image is there");
        return;
    };
    assert_eq!(store.stats().expect("it is sound").blobs, imported.blobs);
    assert_eq!(store.verify().expect("it is sound").damage, []);
    let counts = counts(&store);
    import(&store, &source, options()).expect("it went in before");
    assert_eq!(self::counts(&store), counts, "importing twice changed counts");
    out_and_in_again(&store, &imported.digest);
    for name in &imported.names {
        store.remove_name(name).expect("it was just given");
    }
    if imported.names.is_empty() {
        store.dereference(&imported.digest).expect("the caller holds it");
    }
    assert_eq!(store.stats().expect("it is sound").blobs, 0, "something keeps a part of the image");
}

fn store() -> Store<Sim> {
    let medium = SimDirectory::new(FILE_BYTES_MAX).create(PACK).expect("nothing is there");
    let tuning = Tuning { chunk_bytes: 64 << 10, ..Tuning::default() };
    Store::options().tuning(tuning).create_in(medium).expect("there is room").expect("nobody else makes one")
}

fn counts(store: &Store<Sim>) -> Vec<(Digest, u64, u64)> {
    let counts = store.descriptors().map(|blob| blob.map(|blob| (blob.digest, blob.ref_count, blob.link_count)));
    counts.collect::<Result<_, _>>().expect("it is sound")
}

/// What is an image by itself, whatever its descriptor said, comes out and goes in again.
fn out_and_in_again(store: &Store<Sim>, digest: &Digest) {
    let mut archive = Vec::new();
    let Ok(exported) = export_to(store, digest, &mut archive, ExportOptions::new()) else { return };
    let location: Location = "oci-archive:x".parse().expect("it is a scheme and a path");
    let source = Source::of_bytes(&location, archive).expect("blobpack wrote it");
    let second = self::store();
    let name: Name = "a".parse().expect("it is a name");
    let imported = import(&second, &source, ImportOptions::new().name(name).sparse(true)).expect("blobpack wrote it");
    assert_eq!((imported.digest, imported.blobs), (*digest, exported.blobs));
}

/// A layout of blobs that name one another, and lie where the input says so.
fn layout(mut input: &[u8]) -> Vec<u8> {
    let mut next = || input.split_off_first().copied().unwrap_or(0);
    let mut archive = Vec::new();
    let mut described: Vec<String> = Vec::new();
    while described.len() < BLOBS_MAX {
        let (what, choice) = (next(), next());
        if what == 0 {
            break;
        }
        let of = |list: u8| -> Vec<&str> {
            (0..described.len()).filter(|index| list >> (index % 8) & 1 != 0).map(|index| &*described[index]).collect()
        };
        let content = match what % 4 {
            0 => format!(r#"{{"manifests":[{}]}}"#, of(choice).join(",")),
            1 => {
                let config = described.get(usize::from(choice % 8)).map_or("null", String::as_str);
                format!(r#"{{"config":{config},"layers":[{}]}}"#, of(next()).join(","))
            }
            2 => "x".repeat(usize::from(choice) * 700),
            _ => String::from_utf8_lossy(&[choice, next(), next(), next()]).into_owned(),
        };
        let algorithm = Algorithm::ALL[usize::from(what / 4 % 3)];
        let lie = next();
        let mut digest = Digest::of(algorithm, content.as_bytes());
        if lie & 1 != 0 {
            digest = Digest::of(algorithm, b"another");
        }
        let media_type = MEDIA_TYPES[usize::from(lie >> 4) % MEDIA_TYPES.len()];
        let size = content.len() + usize::from(lie >> 1 & 1);
        described.push(format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#));
        if lie & 4 == 0 {
            let name = format!("blobs/{}", digest.to_string().replacen(':', "/", 1));
            append(&mut archive, &name, content.as_bytes());
        }
    }
    let root = described.last().map_or("", String::as_str);
    append(&mut archive, "index.json", format!(r#"{{"schemaVersion":2,"manifests":[{root}]}}"#).as_bytes());
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// A file of an archive; a long name as GNU tar writes it.
fn append(archive: &mut Vec<u8>, name: &str, content: &[u8]) {
    if name.len() > 100 {
        entry(archive, "long", b'L', name.as_bytes());
    }
    entry(archive, &name[..name.len().min(100)], b'0', content);
}

fn entry(archive: &mut Vec<u8>, name: &str, kind: u8, content: &[u8]) {
    let mut header = [0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    header[148..156].fill(b' ');
    header[156] = kind;
    header[257..263].copy_from_slice(b"ustar\0");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    archive.extend_from_slice(&header);
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(512), 0);
}
