//! Images into the pack and out of it: what becomes of counts, links and names, and that nothing but the image itself is
//! taken in.
#![cfg(feature = "oci")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use blobpack::image::{ExportOptions, Fault, ImportOptions, Imported, Location, Source, export, export_to, import};
use blobpack::medium::{Medium, Sim};
use blobpack::{Algorithm, Digest, Error, Name, Store};
use proptest::prelude::*;
use serde_json::{Value, json};

mod common;
#[path = "common/images.rs"]
mod images;

use images::{
    CONFIG, DOCKER_CONFIG, INDEX, LAYER, Layout, MANIFEST, REF_NAME, Tar, blob_file, digest, docker, small_image,
};

fn store() -> Store<Sim> {
    common::simulated(64 << 20).1
}

fn source_of(layout: &Layout, reference: &str) -> blobpack::Result<Source> {
    Source::of_bytes(&format!("oci-archive:x{reference}").parse()?, layout.archive())
}

fn take<M: Medium>(store: &Store<M>, layout: &Layout) -> blobpack::Result<Imported> {
    import(store, &source_of(layout, "")?, ImportOptions::new())
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// All that a caller can see of a store.
fn state<M: Medium>(store: &Store<M>) -> Vec<(Digest, u64, u64, Vec<Digest>)> {
    let mut state: Vec<_> = store
        .descriptors()
        .map(|blob| {
            let blob = blob.unwrap();
            store.get(&blob.digest).unwrap().verify().unwrap();
            let mut links: Vec<Digest> = store.links(&blob.digest).unwrap().map(Result::unwrap).collect();
            links.sort();
            (blob.digest, blob.size, blob.ref_count, links)
        })
        .collect();
    state.sort();
    state
}

/// References = links to it + names + what callers hold.
fn held_by_callers<M: Medium>(store: &Store<M>) -> BTreeMap<Digest, u64> {
    let names = store.names().unwrap();
    let spare = |blob: blobpack::Descriptor| {
        let links = store.referrers(&blob.digest).unwrap().count() as u64;
        let named = names.iter().filter(|(_, digest)| *digest == blob.digest).count() as u64;
        (blob.digest, blob.ref_count.checked_sub(links + named).expect("no reference is held twice"))
    };
    store.descriptors().map(|blob| spare(blob.unwrap())).filter(|(_, spare)| *spare > 0).collect()
}

/// The error's part and fault.
fn fault<T>(result: blobpack::Result<T>) -> (String, Fault) {
    match result.map(drop).unwrap_err() {
        Error::Image(fault) => (fault.part, fault.fault),
        other => panic!("{other}"),
    }
}

/// Two platforms that share a layer; media types and digests of all sorts.
fn two_platforms() -> (Layout, Value) {
    let mut layout = Layout::new();
    let shared = layout.blob(LAYER, &common::content(1, 100_000));
    let zstd = layout.blob("application/vnd.oci.image.layer.v1.tar+zstd", &common::content(2, 500));
    let unknown = layout.blob("application/x.nobody.knows+json", br#"{"manifests":[{}],"layers":7}"#);
    let sha512 = layout.blob_by(Algorithm::Sha512, LAYER, &common::content(3, 70_000));
    let empty = layout.blob(LAYER, b"");
    let amd64 = layout.image("amd64", &[shared.clone(), zstd, empty.clone(), empty, shared.clone()]);
    let arm64 = layout.image("arm64", &[shared, unknown, sha512]);
    let inner = layout.index(&[amd64.clone(), arm64]);
    let root = layout.index(&[inner, amd64]);
    layout.root(root.clone(), Some("two:platforms"));
    (layout, root)
}

#[test]
fn an_image_becomes_links_under_one_name_and_goes_with_it() {
    let (layout, root) = two_platforms();
    let store = store();
    let imported = take(&store, &layout).unwrap();
    assert_eq!(imported.digest, digest(&root));
    assert_eq!(imported.media_type, INDEX);
    assert_eq!(imported.names, [name("two:platforms")]);
    let blobs: BTreeMap<_, _> = layout.files.iter().filter(|(name, _)| name.starts_with("blobs/")).collect();
    assert_eq!((imported.blobs, imported.stored_blobs), (blobs.len() as u64, blobs.len() as u64));
    assert_eq!(imported.bytes, blobs.values().map(|bytes| bytes.len() as u64).sum::<u64>());
    assert_eq!(imported.stored_bytes, imported.bytes);
    for (digest, ..) in state(&store) {
        assert_eq!(store.get(&digest).unwrap().as_bytes(), layout.files[&blob_file(&digest.to_string())]);
    }
    assert!(held_by_callers(&store).is_empty());
    assert_eq!(store.links(&imported.digest).unwrap().count(), 2);

    let before = state(&store);
    let again = take(&store, &layout).unwrap();
    assert_eq!((again.stored_blobs, again.stored_bytes, again.blobs), (0, 0, imported.blobs));
    assert_eq!(state(&store), before);

    store.remove_name(&imported.names[0]).unwrap();
    assert_eq!(store.stats().unwrap().blobs, 0);
}

#[test]
fn without_any_name_the_caller_has_one_reference_however_often_it_is_imported() {
    let (layout, image) = small_image();
    let mut nameless = layout.unlisted();
    nameless.root(image.clone(), None);
    let store = store();
    for _ in 0..3 {
        assert!(take(&store, &nameless).unwrap().names.is_empty());
        assert_eq!(held_by_callers(&store), BTreeMap::from([(digest(&image), 1)]));
    }
    // A name is one more who holds it.
    import(&store, &source_of(&nameless, "").unwrap(), ImportOptions::new().name(name("a"))).unwrap();
    assert_eq!(store.descriptor(&digest(&image)).unwrap().ref_count, 2);
    store.dereference(&digest(&image)).unwrap();
    store.remove_name(&name("a")).unwrap();
    assert_eq!(store.stats().unwrap().blobs, 0);
}

#[test]
fn a_name_that_was_asked_for_is_taken_and_one_of_the_source_is_not() {
    let (first, _) = small_image();
    let mut second = Layout::new();
    let other = second.image("other", &[]);
    second.root(other.clone(), Some("small:1"));
    let store = store();
    take(&store, &first).unwrap();
    let before = state(&store);
    let (part, refused) = fault(take(&store, &second));
    assert!(part == "small:1" && refused.to_string().contains("is the name of sha256:"), "{part}: {refused}");
    assert_eq!(state(&store), before);

    let source = source_of(&second, "").unwrap();
    let imported = import(&store, &source, ImportOptions::new().name(name("small:1"))).unwrap();
    assert_eq!(imported.removed_blobs, before.len() as u64);
    assert_eq!(store.name(&name("small:1")).unwrap(), digest(&other));
    assert_eq!(store.stats().unwrap().blobs, 2);
    assert!(held_by_callers(&store).is_empty());
}

#[test]
fn one_of_several_images_is_chosen_by_its_name_or_digest() {
    let mut layout = Layout::new();
    let [a, b] = ["a", "b"].map(|config| layout.image(config, &[]));
    layout.root(a.clone(), Some("docker.io/library/a:1"));
    layout.root(b.clone(), Some("b"));
    // The same image under a second name is no second image.
    layout.root(b.clone(), Some("c"));
    let (_, refused) = fault(source_of(&layout, ""));
    let refused = refused.to_string();
    assert!(
        refused.contains(r#"several images"#) && refused.contains(r#""docker.io/library/a:1", "b", "c""#),
        "{refused}"
    );
    for (reference, root, names) in [
        (":docker.io/library/a:1".to_owned(), &a, vec!["docker.io/library/a:1"]),
        (":c".to_owned(), &b, vec!["c"]),
        (format!(":{}", digest(&b)), &b, vec!["b", "c"]),
    ] {
        let source = source_of(&layout, &reference).unwrap();
        assert_eq!(
            (source.digest(), source.names()),
            (digest(root), &names.into_iter().map(String::from).collect::<Vec<_>>()[..])
        );
    }
    let (part, refused) = fault(source_of(&layout, ":d"));
    assert!(part == "d" && refused.to_string().contains("no such image"), "{part}: {refused}");

    let store = store();
    let imported = import(&store, &source_of(&layout, &format!(":{}", digest(&b))).unwrap(), ImportOptions::new());
    assert_eq!(imported.unwrap().names, [name("b"), name("c")]);
    assert_eq!(store.descriptor(&digest(&b)).unwrap().ref_count, 2);
    assert!(held_by_callers(&store).is_empty());
}

/// The error told to choose by the name that several have; the digests, which choose, it did not tell.
#[test]
fn images_of_one_name_are_told_apart_by_their_digests() {
    let mut layout = Layout::new();
    let [a, b, c] = ["a", "b", "c"].map(|config| layout.image(config, &[]));
    layout.root(a.clone(), Some("x")).root(b.clone(), Some("x")).root(c, Some("y"));
    let refuses = |layout: &Layout, reference: &str, listed: &str| {
        let refused = fault(source_of(layout, reference)).1.to_string();
        let listed = format!("name or digest after a colon; there are {}, {}{listed}", digest(&a), digest(&b));
        assert!(refused.ends_with(&listed), "{refused}");
    };
    refuses(&layout, "", ", \"y\"");
    // Only those that are meant: of many images the first few were told, whatever they were called.
    refuses(&layout, ":x", "");
    assert_eq!(source_of(&layout, &format!(":{}", digest(&b))).unwrap().names(), ["x"]);
}

/// One that could not be read made all others of its layout unreadable.
#[test]
fn a_digest_that_is_not_known_matters_to_its_own_image_alone() {
    let mut layout = Layout::new();
    let image = layout.image("a", &[]);
    let unknown = format!("blake3:{}", "a".repeat(64));
    layout.root(json!({"mediaType": MANIFEST, "digest": unknown, "size": 1}), Some("b"));
    layout.root(image.clone(), Some("a"));
    for reference in [":a".to_owned(), format!(":{}", digest(&image))] {
        assert_eq!(source_of(&layout, &reference).unwrap().digest(), digest(&image));
    }
    for reference in ["", ":b", &format!(":{unknown}")] {
        let (part, refused) = fault(source_of(&layout, reference));
        assert!(part == "index.json" && refused.to_string().contains("\"blake3\""), "{part}: {refused}");
    }
}

#[test]
fn what_containerd_calls_an_image_comes_before_its_tag() {
    let mut layout = Layout::new();
    let mut image = layout.image("a", &[]);
    image["annotations"] = json!({REF_NAME: "3.20", "io.containerd.image.name": "docker.io/library/alpine:3.20"});
    layout.root(image, None);
    for reference in ["", ":3.20", ":docker.io/library/alpine:3.20"] {
        assert_eq!(source_of(&layout, reference).unwrap().names(), ["docker.io/library/alpine:3.20"]);
    }
}

#[test]
fn what_is_stored_already_is_not_read_and_need_not_be_there() {
    let (mut layout, image) = small_image();
    let store = store();
    take(&store, &layout).unwrap();
    let blobs: Vec<String> = layout.files.keys().filter(|name| name.starts_with("blobs/")).cloned().collect();
    for blob in &blobs {
        layout.files.insert(blob.clone(), b"never read".to_vec());
    }
    let before = state(&store);
    assert_eq!(take(&store, &layout).unwrap().stored_blobs, 0);
    layout.files.retain(|name, _| !name.starts_with("blobs/"));
    assert_eq!(take(&store, &layout).unwrap().stored_blobs, 0);
    assert_eq!(state(&store), before);

    // Its size is compared all the same.
    let mut wrong = layout.unlisted();
    let mut descriptor = image.clone();
    descriptor["size"] = json!(7);
    wrong.root(descriptor, None);
    let (_, refused) = fault(take(&store, &wrong));
    assert!(matches!(refused, Fault::Size { expected: 7, .. }), "{refused}");
    assert_eq!(state(&store), before);
}

#[test]
fn a_subject_and_layers_that_are_elsewhere_may_be_absent() {
    let mut layout = Layout::new();
    let config = layout.blob("application/vnd.oci.empty.v1+json", b"{}");
    let absent = |media_type: &str, byte: &str| json!({"mediaType": media_type, "digest": format!("sha256:{}", byte.repeat(64)), "size": 9});
    let mut foreign = absent("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "a");
    foreign["urls"] = json!(["https://example.com/layer"]);
    let artifact = json!({"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "x/y", "config": config,
        "layers": [config, foreign], "subject": absent(MANIFEST, "b")});
    let root = layout.json(MANIFEST, &artifact);
    layout.root(root, Some("artifact"));
    let store = store();
    let imported = take(&store, &layout).unwrap();
    assert_eq!((imported.blobs, imported.missing.len()), (2, 1));
    let mut archive = Vec::new();
    let exported = export_to(&store, &imported.digest, &mut archive, ExportOptions::new()).unwrap();
    assert_eq!((exported.blobs, exported.missing), (2, imported.missing));
    // Without another place to have it from it is just a missing layer.
    foreign.as_object_mut().unwrap().remove("urls");
    let root = layout.json(MANIFEST, &json!({"config": config, "layers": [foreign]}));
    let mut layout = layout.unlisted();
    layout.root(root, None);
    assert!(matches!(fault(take(&store, &layout)), (part, Fault::Missing) if part.starts_with("blobs/sha256/aaaa")));
}

#[test]
fn an_index_may_lack_platforms_where_that_is_asked_for() {
    let mut layout = Layout::new();
    let [amd64, arm64] = ["amd64", "arm64"].map(|platform| layout.image(platform, &[]));
    let index = layout.index(&[amd64.clone(), arm64.clone()]);
    layout.root(index, None);
    layout.files.remove(&blob_file(arm64["digest"].as_str().unwrap()));
    let store = store();
    let (part, refused) = fault(take(&store, &layout));
    assert_eq!(part, blob_file(arm64["digest"].as_str().unwrap()));
    assert!(matches!(refused, Fault::Missing), "{refused}");
    assert_eq!(store.stats().unwrap().blobs, 0);

    let source = source_of(&layout, "").unwrap();
    let imported = import(&store, &source, ImportOptions::new().sparse(true)).unwrap();
    assert_eq!((imported.blobs, &*imported.missing), (3, &[digest(&arm64)][..]));
    let exported = export_to(&store, &imported.digest, &mut Vec::new(), ExportOptions::new()).unwrap();
    assert_eq!((exported.blobs, &*exported.missing), (3, &[digest(&arm64)][..]));

    layout.files.remove(&blob_file(amd64["digest"].as_str().unwrap()));
    let empty = common::simulated(16 << 20).1;
    let source = source_of(&layout, "").unwrap();
    assert!(matches!(fault(import(&empty, &source, ImportOptions::new().sparse(true))), (_, Fault::Missing)));
}

/// A layout that something is wrong with, and what the error says.
struct Bad {
    what: &'static str,
    layout: Layout,
    part: String,
    fault: &'static str,
}

fn bad_layouts() -> Vec<Bad> {
    let (good, image) = small_image();
    let manifest = blob_file(image["digest"].as_str().unwrap());
    let layer = blob_file(&Digest::of(Algorithm::Sha256, &common::content(1, 200_000)).to_string());
    let small = blob_file(&Digest::of(Algorithm::Sha256, &common::content(2, 3_000)).to_string());
    let mut all = Vec::new();
    let mut bad = |what, part: &str, fault, change: &dyn Fn(&mut Layout)| {
        let mut layout = good.clone();
        change(&mut layout);
        all.push(Bad { what, layout, part: part.into(), fault });
    };
    fn set(name: &str, bytes: impl AsRef<[u8]>) -> impl Fn(&mut Layout) {
        let (name, bytes) = (name.to_owned(), bytes.as_ref().to_vec());
        move |layout| drop(layout.files.insert(name.clone(), bytes.clone()))
    }
    fn remove(name: &str) -> impl Fn(&mut Layout) {
        let name = name.to_owned();
        move |layout| drop(layout.files.remove(&name))
    }
    // The one image has this for its root.
    fn root(media_type: &'static str, bytes: impl AsRef<[u8]>) -> impl Fn(&mut Layout) {
        let bytes = bytes.as_ref().to_vec();
        move |layout| {
            let mut other = layout.unlisted();
            let root = other.blob(media_type, &bytes);
            other.root(root, None);
            *layout = other;
        }
    }
    bad("no index.json", "index.json", "is missing", &remove("index.json"));
    bad("index.json is no JSON", "index.json", "not the JSON", &set("index.json", "{"));
    bad("index.json is another JSON", "index.json", "not the JSON", &set("index.json", "[]"));
    bad("index.json is too deep", "index.json", "too deep", &set("index.json", "[".repeat(100_000)));
    bad("index.json is too large", "index.json", "4194304 are the limit", &set("index.json", vec![b' '; 5 << 20]));
    bad("index.json has no list", "index.json", "missing field", &set("index.json", r#"{"schemaVersion":2}"#));
    bad("index.json has no version", "index.json", "missing field", &set("index.json", r#"{"manifests":[]}"#));
    bad("index.json is empty", "", "holds no image", &set("index.json", r#"{"schemaVersion":2,"manifests":[]}"#));
    bad("index.json is new", "", "holds no image", &set("index.json", r#"{"schemaVersion":2,"manifests":null}"#));
    bad("a version of the future", "oci-layout", "has version", &set("oci-layout", r#"{"imageLayoutVersion":"2.0"}"#));
    let root_of = |digest: &str, size: u64| {
        let manifests = [json!({"mediaType": MANIFEST, "digest": digest, "size": size})];
        set("index.json", json!({"schemaVersion": 2, "manifests": manifests}).to_string())
    };
    bad("a digest that is none", "index.json", "etc/passwd", &root_of("sha256:../../../etc/passwd", 1));
    bad("a digest that leads elsewhere", "index.json", "algorithm", &root_of("../blah:x", 1));
    bad("an unknown hash", "index.json", "not supported", &root_of("md5:d41d8cd98f00b204e9800998ecf8427e", 1));
    bad("no manifest", &manifest, "is missing", &remove(&manifest));
    bad("another manifest", &manifest, "should have sha256:", &|layout| {
        layout.files.get_mut(&manifest).unwrap()[20] ^= 1;
    });
    bad("no layer", &layer, "is missing", &remove(&layer));
    bad("a layer with another digest", &layer, "but its bytes have", &|layout| {
        layout.files.get_mut(&layer).unwrap()[100_000] ^= 1;
    });
    bad("a small layer with another digest", &small, "but its bytes have", &|layout| {
        layout.files.get_mut(&small).unwrap()[0] ^= 1;
    });
    bad("a layer that is too long", &layer, "should have 200000 bytes, but has 200001", &|layout| {
        layout.files.get_mut(&layer).unwrap().push(0);
    });
    bad("a layer that is too short", &layer, "should have 200000 bytes, but has 199999", &|layout| {
        layout.files.get_mut(&layer).unwrap().pop();
    });
    let of = |bytes: &[u8]| blob_file(&Digest::of(Algorithm::Sha256, bytes).to_string());
    bad("a manifest that is no JSON", &of(b"nonsense"), "not the JSON", &root(MANIFEST, "nonsense"));
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(1000), "]".repeat(1000));
    bad("a manifest too deep", &of(deep.as_bytes()), "too deep", &root(MANIFEST, &deep));
    let large = vec![b' '; (4 << 20) + 1];
    bad("a manifest too large", &of(&large), "4194304 are the limit", &root(MANIFEST, &large));
    let both = r#"{"manifests":[],"layers":[]}"#;
    bad("an index that is a manifest", &of(both.as_bytes()), "at once", &root(INDEX, both));
    let index = r#"{"manifests":[]}"#;
    bad("an index for a manifest", &of(index.as_bytes()), "another kind", &root(MANIFEST, index));
    let whole = &good.files[&manifest];
    for media_type in [
        "text/plain",
        CONFIG,
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "application/vnd.oci.image.manifest.v1+json;charset=utf-8",
        "APPLICATION/VND.OCI.IMAGE.MANIFEST.V1+JSON",
    ] {
        bad("a root of no manifest's media type", &manifest, media_type, &root(media_type, whole));
    }
    let mut nested = Layout::new();
    let mut descriptor = nested.index(&[]);
    for _ in 0..9 {
        descriptor = nested.index(&[descriptor]);
    }
    nested.root(descriptor, None);
    all.push(Bad { what: "indexes without an end", layout: nested, part: "blobs/".into(), fault: "too deep" });
    let mut double = Layout::new();
    let manifest = double.image("x", &[]);
    let mut leaf = manifest.clone();
    leaf["mediaType"] = json!("x/y");
    let root = double.index(&[manifest, leaf]);
    double.root(root, None);
    all.push(Bad { what: "two media types", layout: double, part: "blobs/".into(), fault: "different media types" });
    all
}

#[test]
fn a_bad_layout_is_refused_by_the_name_of_the_part_and_changes_nothing() {
    let store = store();
    let kept = store.put(b"what was there before").unwrap();
    let before = state(&store);
    for Bad { what, layout, part, fault: expected } in bad_layouts() {
        let (found, refused) = fault(take(&store, &layout));
        assert!(found.starts_with(&part) && (part.is_empty() == found.is_empty()), "{what}: {found}");
        assert!(refused.to_string().contains(expected), "{what}: {refused}");
        assert_eq!(state(&store), before, "{what}");
        assert_eq!(store.names().unwrap(), [], "{what}");
    }
    assert_eq!(store.descriptor(&kept.digest).unwrap().ref_count, 1);
    // Nothing of them is in the way of anything: no space is claimed, no writer open.
    store.compact().unwrap();
    assert_eq!(store.verify().unwrap().damage, []);
}

#[test]
fn names_that_are_none_are_refused_by_name_and_another_can_be_chosen() {
    for text in ["sha256:beef", &"n".repeat(2000)] {
        let mut layout = Layout::new();
        let image = layout.image("a", &[]);
        layout.root(image, Some(text));
        let (part, refused) = fault(take(&store(), &layout));
        let refused = refused.to_string();
        assert!(part.is_empty() && refused.contains(&text[..11]) && refused.contains("is not a name"), "{refused}");
        assert!(refused.ends_with("; choose a name for the image") && refused.len() < 200, "{refused}");
        let named = ImportOptions::new().name(name("a"));
        assert_eq!(import(&store(), &source_of(&layout, "").unwrap(), named).unwrap().names, [name("a")]);
    }
}

#[test]
fn a_diamond_of_indexes_costs_no_more_than_its_blobs() {
    let mut layout = Layout::new();
    let mut level = vec![layout.image("bottom", &[])];
    for depth in 0..7 {
        // Each of forty indexes lists all forty of the level below: 40^7 paths.
        level = (0..40)
            .map(|number| {
                let value =
                    json!({"schemaVersion": 2, "manifests": level, "annotations": {"x": format!("{depth}.{number}")}});
                layout.json(INDEX, &value)
            })
            .collect();
    }
    let root = layout.index(&level);
    layout.root(root, Some("diamond"));
    let store = Store::temporary().unwrap();
    let imported = take(&store, &layout).unwrap();
    assert_eq!(imported.blobs, 7 * 40 + 3);
    assert!(held_by_callers(&store).is_empty());
    let before = state(&store);
    take(&store, &layout).unwrap();
    assert_eq!(state(&store), before);
}

/// Each was compared with all before it: minutes for as many as one archive may name.
#[test]
fn absent_platforms_cost_no_more_each_when_they_are_many() {
    use rustix::time::{ClockId, clock_gettime};
    /// What an import needs of the processor, in seconds, where each of so many indexes lacks 20,000 platforms.
    fn seconds(indexes: u64) -> f64 {
        let mut layout = Layout::new();
        let there = layout.image("there", &[]);
        let lacking = |number: u64| -> Vec<Value> {
            let absent = |n| json!({"mediaType": "x/y", "digest": format!("sha256:{number:032x}{n:032x}"), "size": 1});
            std::iter::once(there.clone()).chain((0..20_000).map(absent)).collect()
        };
        let indexes: Vec<Value> = (0..indexes).map(|number| layout.index(&lacking(number))).collect();
        let root = layout.index(&indexes);
        layout.root(root, None);
        let (store, source) = (store(), source_of(&layout, "").unwrap());
        let used = || {
            let used = clock_gettime(ClockId::ThreadCPUTime);
            used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
        };
        let before = used();
        let imported = import(&store, &source, ImportOptions::new().sparse(true)).unwrap();
        assert_eq!(imported.missing.len(), indexes.len() * 20_000);
        used() - before
    }
    let (one, eight) = (seconds(1), seconds(8));
    assert!(eight < 24.0 * one, "{one} s for one index, {eight} s for eight");
}

/// Adds entries to an archive.
type Fill<'a> = &'a dyn for<'t> Fn(&'t mut Tar) -> &'t mut Tar;

fn refuses_archive(what: &str, archive: Vec<u8>, part: &str, expected: &str) {
    for scheme in ["oci-archive:x", "docker-archive:x"] {
        let (found, refused) = fault(Source::of_bytes(&scheme.parse().unwrap(), archive.clone()));
        assert!(found.contains(part) && refused.to_string().contains(expected), "{what}: {found}: {refused}");
    }
}

#[test]
fn an_archive_with_entries_that_have_no_place_in_it_is_refused_by_name() {
    use tar::EntryType;
    let hex = "a".repeat(64);
    let blob = format!("blobs/sha256/{hex}");
    let with = |fill: Fill| {
        let mut tar = Tar::default();
        tar.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        fill(&mut tar);
        tar.end()
    };
    let entry = |name: &str, kind, content: &[u8], link: &str| with(&|tar| tar.entry(name, kind, content, link));
    for (what, archive, part, expected) in [
        ("out of it", with(&|tar| tar.file("../x", b"")), "../x", "leads out"),
        ("out from below", with(&|tar| tar.file("blobs/../../x", b"")), "blobs/../../x", "leads out"),
        ("absolute", with(&|tar| tar.file("/etc/passwd", b"")), "/etc/passwd", "absolute"),
        ("an empty part", with(&|tar| tar.file("blobs//x", b"")), "blobs//x", "empty part"),
        ("no digest", with(&|tar| tar.file("blobs/sha256/abc", b"")), "blobs/sha256/abc", "no digest"),
        ("no known hash", with(&|tar| tar.file("blobs/md5/abc", b"")), "blobs/md5/abc", "no digest"),
        ("a foreign name", with(&|tar| tar.file("README", b"")), "README", "none of the entries"),
        ("twice", with(&|tar| tar.file(&blob, b"").file(&blob, b"")), &blob, "twice"),
        ("a link", entry(&blob, EntryType::Symlink, b"", "/etc/passwd"), &blob, "link"),
        ("a hard link", entry(&blob, EntryType::Link, b"", "/etc/passwd"), &blob, "link"),
        ("a pipe", entry(&blob, EntryType::Fifo, b"", ""), &blob, "neither a plain file"),
        ("a device", entry(&blob, EntryType::Char, b"", ""), &blob, "neither a plain file"),
        ("a sparse file", entry(&blob, EntryType::GNUSparse, b"", ""), &blob, "sparse"),
        ("a directory with bytes", entry("blobs", EntryType::Directory, b"x", ""), "blobs", "has content"),
        (
            "a pax sparse file",
            with(&|tar| tar.entry("x", EntryType::XHeader, &images::pax("GNU.sparse.major", "1"), "").file(&blob, b"")),
            "x",
            "sparse",
        ),
        (
            "a pax size beyond the end",
            with(&|tar| tar.entry("x", EntryType::XHeader, &images::pax("size", "99999999999"), "").file(&blob, b"")),
            &blob,
            "cut off inside",
        ),
        ("broken pax", entry("x", EntryType::XHeader, b"9 a=b\n", ""), "x", "malformed"),
        (
            "a global pax path",
            entry("x", EntryType::XGlobalHeader, &images::pax("path", "index.json"), ""),
            "x",
            "global",
        ),
        ("a name without an end", entry("x", EntryType::GNULongName, &vec![b'a'; 70_000], ""), "x", "are the limit"),
        (
            "a name that is not UTF-8",
            with(&|tar| {
                let mut header = images::header("x", EntryType::Regular, 0, "");
                header.as_old_mut().name[0] = 0xff;
                header.set_cksum();
                tar.raw(&header, b"")
            }),
            "",
            "UTF-8",
        ),
    ] {
        refuses_archive(what, archive, part, expected);
    }
}

#[test]
fn an_archive_that_is_cut_off_anywhere_is_refused() {
    let (layout, _) = small_image();
    let archive = layout.archive();
    assert!(Source::of_bytes(&"oci-archive:x".parse().unwrap(), archive.clone()).is_ok());
    // The two blocks of zeros at the end: one of them is enough.
    for length in (0..archive.len() - 512).step_by(509).chain([archive.len() - 513, archive.len() - 1024]) {
        let cut = archive[..length].to_vec();
        let (_, refused) = fault(Source::of_bytes(&"oci-archive:x".parse().unwrap(), cut));
        let refused = refused.to_string();
        assert!(refused.contains("cut off") || length < 512 && refused.contains("too short"), "{length}: {refused}");
    }
    for (what, bytes, expected) in [
        ("nothing", vec![], "too short"),
        ("a text", b"hello ".repeat(1000), "is not a tar archive"),
        ("gzip", [&[0x1f, 0x8b, 8][..], &[7; 1000]].concat(), "compressed with gzip"),
        ("zstd", [&[0x28, 0xb5, 0x2f, 0xfd][..], &[7; 1000]].concat(), "compressed with zstd"),
    ] {
        refuses_archive(what, bytes, "", expected);
    }
    let mut spoilt = Tar::default().file("oci-layout", b"{}").file("index.json", b"{}").end();
    spoilt[1024] ^= 1;
    refuses_archive("a spoilt header", spoilt, "", "checksum");
}

#[test]
fn long_names_are_read_as_gnu_and_pax_write_them() {
    let (layout, root) = two_platforms();
    let mut tar = Tar::default();
    tar.entry("./", tar::EntryType::Directory, b"", "").entry("./blobs/", tar::EntryType::Directory, b"", "");
    for (name, bytes) in &layout.files {
        // sha512 names don't fit into the header.
        tar.entry("x", tar::EntryType::XHeader, &images::pax("path", &format!("./{name}")), "").file("short", bytes);
    }
    let source = Source::of_bytes(&"oci-archive:x".parse().unwrap(), tar.end()).unwrap();
    assert_eq!(import(&store(), &source, ImportOptions::new()).unwrap().digest, digest(&root));
    assert_eq!(take(&store(), &layout).unwrap().digest, digest(&root));
}

/// The end of a line was taken for the end of a record, and an archive with such an attribute for a malformed one.
#[test]
fn a_pax_record_ends_where_its_length_says() {
    let (layout, root) = two_platforms();
    let mut tar = Tar::default();
    for (name, bytes) in &layout.files {
        let mut records = images::pax("SCHILY.xattr.user.note", "one line\n\n9 path=x\nanother");
        records.extend(images::pax("path", name));
        tar.entry("x", tar::EntryType::XHeader, &records, "").file("short", bytes);
    }
    let source = Source::of_bytes(&"oci-archive:x".parse().unwrap(), tar.end()).unwrap();
    assert_eq!(import(&store(), &source, ImportOptions::new()).unwrap().digest, digest(&root));
    for records in
        ["9 path=x", "99 path=x\n", "8 path=x\n", "9 pathxx\n", "1 path=x\n", "0 path=x\n", "\n", " =\n", "-9 a=b\n"]
    {
        let mut tar = Tar::default();
        tar.entry("x", tar::EntryType::XHeader, records.as_bytes(), "").file("index.json", b"{}");
        refuses_archive(records, tar.end(), "x", "pax records are malformed");
    }
}

fn docker_source(archive: Vec<u8>, reference: &str) -> blobpack::Result<Source> {
    Source::of_bytes(&format!("docker-archive:x{reference}").parse()?, archive)
}

#[test]
fn a_docker_archive_gets_a_manifest_of_its_own_which_is_always_the_same() {
    let layers = [common::content(1, 100_000), common::content(2, 10)];
    let (tar, diff_ids) = docker(&[&layers[0], &layers[1], &layers[0]], DOCKER_CONFIG);
    let store = store();
    let source = docker_source(tar.end(), "").unwrap();
    let imported = import(&store, &source, ImportOptions::new()).unwrap();
    assert_eq!((imported.names, imported.blobs, &*imported.media_type), (vec![name("a:1"), name("a:2")], 4, MANIFEST));
    let manifest: Value = serde_json::from_slice(&store.get(&imported.digest).unwrap()).unwrap();
    let named: Vec<&str> =
        manifest["layers"].as_array().unwrap().iter().map(|l| l["digest"].as_str().unwrap()).collect();
    assert_eq!(named, diff_ids);
    assert_eq!(manifest["config"]["mediaType"], CONFIG);
    assert_eq!(store.get(&diff_ids[0].parse().unwrap()).unwrap().as_bytes(), layers[0]);
    let golden = "sha256:1abfc12ee02d01b8329b2b1ef26211c11995d5bb006bb1941ac0c471ab852e93";
    assert_eq!(imported.digest.to_string(), golden);
    let one = docker_source(tar.end(), ":a:2").unwrap();
    assert_eq!((one.digest(), one.names()), (imported.digest, &["a:2".to_owned()][..]));
    let before = state(&store);
    import(&store, &one, ImportOptions::new()).unwrap();
    assert_eq!(state(&store), before);
}

#[test]
fn a_docker_archive_that_contradicts_itself_is_refused() {
    use tar::EntryType;
    let layer = common::content(1, 100);
    let id = Digest::of(Algorithm::Sha256, &layer).to_string();
    let config = DOCKER_CONFIG.replace("DIFF_IDS", &json!([id]).to_string());
    let hex = Digest::of(Algorithm::Sha256, config.as_bytes()).to_string()[7..].to_owned();
    let config_name = format!("{hex}.json");
    let archive = |config: &str, layers: &[&str], fill: Fill| {
        let mut tar = Tar::default();
        tar.file(&config_name, config.as_bytes());
        fill(&mut tar);
        let image = json!([{"Config": config_name, "RepoTags": null, "Layers": layers}]);
        tar.file("manifest.json", image.to_string().as_bytes()).end()
    };
    let whole = archive(&config, &["l.tar"], &|tar| tar.file("l.tar", &layer));
    assert!(import(&store(), &docker_source(whole, "").unwrap(), ImportOptions::new()).is_ok());
    let link = |target: &'static str| {
        archive(&config, &["x/layer.tar"], &move |tar| tar.entry("x/layer.tar", EntryType::Symlink, b"", target))
    };
    let mut no_manifest = Tar::default();
    no_manifest.file("repositories", b"{}");
    for (what, archive, part, expected) in [
        ("no manifest.json", no_manifest.end(), "manifest.json", "is missing"),
        (
            "another config",
            archive(&config.replace("amd64", "arm64"), &["l.tar"], &|tar| tar),
            &config_name,
            "should have",
        ),
        ("no layer", archive(&config, &["l.tar"], &|tar| tar), "l.tar", "is missing"),
        ("fewer layers", archive(&config, &[], &|tar| tar), &config_name, "names 1 layers, and manifest.json names 0"),
        ("another layer", archive(&config, &["l.tar"], &|tar| tar.file("l.tar", b"other")), "l.tar", "should have"),
        ("a link out", link("../../etc/passwd"), "x/layer.tar", "outside of the archive"),
        ("an absolute link", link("/etc/passwd"), "x/layer.tar", "outside of the archive"),
        ("a link to nothing", link("../y/layer.tar"), "x/layer.tar", "which is not there"),
        ("a link to itself", link("layer.tar"), "x/layer.tar", "without an end"),
    ] {
        let store = store();
        let (found, refused) = fault(docker_source(archive, "").and_then(|s| import(&store, &s, ImportOptions::new())));
        assert!(found == part && refused.to_string().contains(expected), "{what}: {found}: {refused}");
        assert_eq!(store.stats().unwrap().blobs, 0, "{what}");
    }
    let (part, refused) = fault(Source::of_bytes(&"oci-archive:x".parse::<Location>().unwrap(), {
        let mut tar = Tar::default();
        tar.file("manifest.json", b"[]").end()
    }));
    assert!(part == "index.json" && refused.to_string().contains("docker-archive"), "{refused}");
}

/// A list of 4 MiB names a configuration of 4 MiB a hundred thousand times: to read it each time took twenty minutes.
#[test]
fn a_configuration_is_not_read_without_an_end() {
    let config = DOCKER_CONFIG.replace("DIFF_IDS", "[]");
    let config = format!("{config}{}", " ".repeat((4 << 20) - config.len()));
    let of = |images| {
        let mut tar = Tar::default();
        let images = vec![json!({"Config": "c.json", "RepoTags": null, "Layers": []}); images];
        tar.file("c.json", config.as_bytes()).file("manifest.json", json!(images).to_string().as_bytes());
        docker_source(tar.end(), "")
    };
    of(16).unwrap();
    let (part, refused) = fault(of(17));
    assert!(part == "manifest.json" && refused.to_string().contains("67108864 bytes together"), "{part}: {refused}");
}

#[test]
fn an_archive_comes_out_the_same_each_time_and_goes_in_again() {
    let (layout, root) = two_platforms();
    let [first, second] = [store(), store()];
    take(&first, &layout).unwrap();
    let mut archives = [Vec::new(), Vec::new()];
    let options = || ExportOptions::new().reference("two:platforms");
    export_to(&first, &digest(&root), &mut archives[0], options()).unwrap();
    let source = Source::of_bytes(&"oci-archive:x".parse().unwrap(), archives[0].clone()).unwrap();
    let imported = import(&second, &source, ImportOptions::new()).unwrap();
    assert_eq!((imported.digest, imported.names), (digest(&root), vec![name("two:platforms")]));
    assert_eq!(state(&first), state(&second));
    export_to(&second, &digest(&root), &mut archives[1], options()).unwrap();
    assert!(archives[0] == archives[1]);
}

#[test]
fn what_is_no_image_is_not_exported() {
    let store = store();
    for (bytes, expected) in
        [(&b"a text"[..], "not an object"), (b"{}", "neither"), (&[b' '; (4 << 20) + 1], "no image")]
    {
        let blob = store.put(bytes).unwrap().digest;
        let (part, refused) = fault(export_to(&store, &blob, &mut Vec::new(), ExportOptions::new()));
        assert!(part == blob.to_string() && refused.to_string().contains(expected), "{part}: {refused}");
    }
    let (layout, image) = small_image();
    let manifest = &layout.files[&blob_file(image["digest"].as_str().unwrap())];
    store.put(manifest).unwrap();
    let error = export_to(&store, &digest(&image), &mut Vec::new(), ExportOptions::new()).unwrap_err();
    assert!(error.is_not_found(), "{error}");
    let target = "docker-archive:/nowhere".parse().unwrap();
    let (_, refused) = fault(export(&store, &digest(&image), &target, ExportOptions::new()));
    assert!(refused.to_string().contains("oci-archive"), "{refused}");
}

/// Images of a few layers, in indexes that share them.
fn any_layout() -> impl Strategy<Value = Layout> {
    let image = (0_u8..4, prop::collection::vec(0_u64..5, 0..4));
    (prop::collection::vec(image, 1..4), 0_u8..3, any::<bool>()).prop_map(|(images, wrap, named)| {
        let mut layout = Layout::new();
        let mut level: Vec<Value> = images
            .iter()
            .map(|(config, layers)| {
                let layers: Vec<Value> = layers
                    .iter()
                    .map(|&seed| layout.blob(LAYER, &common::content(seed, 40_000 * usize::try_from(seed).unwrap())))
                    .collect();
                layout.image(&config.to_string(), &layers)
            })
            .collect();
        for _ in 0..wrap {
            let all = layout.index(&level);
            level.push(all);
        }
        let root = if level.len() > 1 { layout.index(&level) } else { level.remove(0) };
        layout.root(root, named.then_some("own:name"));
        layout
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_imported_in_whatever_order_again_changes_no_counts(
        layouts in prop::collection::vec((any_layout(), prop::option::of(0_u8..3)), 1..5),
    ) {
        let store = store();
        for (layout, asked) in &layouts {
            let once = || {
                let mut options = ImportOptions::new();
                if let Some(number) = asked {
                    options = options.name(name(&format!("name:{number}")));
                }
                import(&store, &source_of(layout, "").unwrap(), options)
            };
            let before = state(&store);
            let Ok(imported) = once() else {
                // The source's own name is another image's.
                prop_assert_eq!(state(&store), before);
                continue;
            };
            let after = state(&store);
            let callers = held_by_callers(&store);
            prop_assert!(callers.values().all(|&spare| spare == 1));
            prop_assert!(imported.names.is_empty() == callers.contains_key(&imported.digest) || !imported.names.is_empty());
            prop_assert_eq!(once().unwrap().stored_blobs, 0);
            prop_assert_eq!(state(&store), after);
            prop_assert_eq!(held_by_callers(&store), callers);
        }
        for (digest, spare) in held_by_callers(&store) {
            for _ in 0..spare {
                store.dereference(&digest).unwrap();
            }
        }
        for (name, _) in store.names().unwrap() {
            store.remove_name(&name).unwrap();
        }
        prop_assert_eq!(store.stats().unwrap().blobs, 0);
    }
}
