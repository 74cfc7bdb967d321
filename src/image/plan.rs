//! The walk from an image's root over everything that it names.

use std::collections::{HashMap, HashSet};

use crate::digest::Digest;
use crate::error::{Error, Result, shortened};
use crate::fault::Fault;
use crate::image::manifest::{Kind, MANIFEST_BYTES_MAX, Reference, references};

/// An index may be in an index, and so on, so many levels down. Two are in use.
pub const LEVELS_MAX: usize = 8;

/// Where the blobs of an image are.
pub trait Blobs {
    /// A blob's size in bytes; none where it is absent.
    fn size(&self, digest: &Digest) -> Result<Option<u64>>;
    /// The bytes of a blob that is there, compared with its digest. They are at most [`MANIFEST_BYTES_MAX`].
    fn bytes(&self, digest: &Digest) -> Result<Vec<u8>>;
    /// The error that says what is wrong with a blob.
    fn fault(&self, digest: &Digest, fault: Fault) -> Error;
    /// The error that says that a blob is needed and absent.
    fn missing(&self, digest: &Digest) -> Error;
}

/// One blob of an image.
#[derive(Debug)]
pub struct Node {
    /// What it is.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What it names, each once.
    pub children: Vec<Digest>,
    kind: Option<Kind>,
    level: usize,
}

/// All blobs of an image.
#[derive(Debug)]
pub struct Plan {
    /// Each once; the root first, and each first reached from one before it.
    pub nodes: Vec<Node>,
    /// What is named and absent, and may be.
    pub missing: Vec<Digest>,
}

impl Plan {
    /// Walks from the root, which has to be a manifest or an index. Where `sparse`, manifests that an index names may
    /// be absent, but not all of one index.
    ///
    /// Breadth first, so that no depth costs stack. Each manifest is read once, so that no diamond of indexes costs
    /// more than its blobs.
    pub fn new(root: &Reference, blobs: &impl Blobs, sparse: bool) -> Result<Plan> {
        if Kind::of(&root.media_type).is_none() {
            // As a leaf it would be there without all that it names.
            let reason = format!("is no manifest or index: its media type is {:?}", shortened(&root.media_type));
            return Err(blobs.fault(&root.digest, Fault::Refused { reason }));
        }
        let mut walk = Walk {
            blobs,
            sparse,
            positions: HashMap::new(),
            nodes: Vec::new(),
            absent: HashSet::new(),
            missing: Vec::new(),
        };
        if !walk.visit(root, false, 0)? {
            return Err(blobs.missing(&root.digest));
        }
        let mut at = 0;
        while at < walk.nodes.len() {
            walk.descend(at)?;
            at += 1;
        }
        Ok(Plan { nodes: walk.nodes, missing: walk.missing })
    }

    /// The blobs, each after those that it was the first to name.
    pub fn bottom_up(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().rev()
    }

    /// The bytes of all blobs.
    pub fn bytes(&self) -> u64 {
        self.nodes.iter().fold(0, |sum, node| sum.saturating_add(node.size))
    }
}

struct Walk<'b, B> {
    blobs: &'b B,
    sparse: bool,
    positions: HashMap<Digest, usize>,
    nodes: Vec<Node>,
    /// The same as `missing`, to ask whether one is among them: there may be very many.
    absent: HashSet<Digest>,
    missing: Vec<Digest>,
}

impl<B: Blobs> Walk<'_, B> {
    /// Takes in what a descriptor describes: whether it is there.
    fn visit(&mut self, reference: &Reference, optional: bool, level: usize) -> Result<bool> {
        let Reference { digest, size, media_type, .. } = reference;
        let kind = Kind::of(media_type);
        let Some(found) = self.blobs.size(digest)? else {
            if !optional && !reference.optional {
                return Err(self.blobs.missing(digest));
            }
            if self.absent.insert(*digest) {
                self.missing.push(*digest);
            }
            return Ok(false);
        };
        if found != *size {
            return Err(self.blobs.fault(digest, Fault::Size { expected: *size, found }));
        }
        if kind.is_some() && level > LEVELS_MAX {
            return Err(self.blobs.fault(digest, Fault::TooDeep { limit: LEVELS_MAX }));
        }
        let Some(&at) = self.positions.get(digest) else {
            self.positions.insert(*digest, self.nodes.len());
            self.nodes.push(Node { digest: *digest, size: *size, children: Vec::new(), kind, level });
            return Ok(true);
        };
        if self.nodes[at].kind != kind {
            // What one reader takes for a leaf another one would follow.
            let reason = "is named with different media types".to_owned();
            return Err(self.blobs.fault(digest, Fault::Refused { reason }));
        }
        Ok(true)
    }

    /// Reads a manifest and visits what it names.
    fn descend(&mut self, at: usize) -> Result<()> {
        let Node { digest, size, kind, level, .. } = self.nodes[at];
        let Some(kind) = kind else { return Ok(()) };
        if size > MANIFEST_BYTES_MAX {
            return Err(self.blobs.fault(&digest, Fault::TooLarge { size, limit: MANIFEST_BYTES_MAX }));
        }
        let bytes = self.blobs.bytes(&digest)?;
        let named = references(kind, &bytes).map_err(|fault| self.blobs.fault(&digest, fault))?;
        let optional = self.sparse && kind == Kind::Index;
        let mut children = Vec::new();
        for reference in &named {
            if self.visit(reference, optional, level + 1)? {
                children.push(reference.digest);
            }
        }
        if let (true, [first, ..]) = (children.is_empty(), &*named)
            && kind == Kind::Index
        {
            return Err(self.blobs.missing(&first.digest));
        }
        let mut seen = HashSet::new();
        children.retain(|child| seen.insert(*child));
        self.nodes[at].children = children;
        Ok(())
    }
}
