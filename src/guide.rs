//! How to use blobpack: what references are and who owns them, what each verb of the tool does, and three programs to
//! begin with. This module holds no code.
//!
//! # References, in five sentences
//!
//! A blob has a count of references, and goes with the last one. `put` and `ref` give *you* one, `deref` drops one of
//! yours. `link` moves one of yours into another blob, which then keeps the first one alive; nobody can drop it but by
//! `unlink`, or by removing the blob that holds it. `name` moves one of yours into a name, where it stays until the
//! name is given to another blob or removed. So always: references = yours + links to it + names of it, and what none
//! of these keeps is gone.
//!
//! Removing is cheap and gives no space back; [compaction](crate::Store::compact) does.
//!
//! # Chapters
//!
//! * [`verbs`]: the tool, verb by verb: what each does to counts, what it costs, what it never does.
//! * [`image_store`]: images that share layers, in thirty lines.
//! * [`build_cache`]: results of builds, evicted by dereference.
//! * `serving`, with the feature `bytes`: ranges of blobs from an async server, without a copy.

pub mod verbs {
    //! The tool, verb by verb. `blobpack VERB --help` says the same, and so do the manual pages that `blobpack man`
    //! makes.
    //!
    //! Five things are the same for all verbs:
    //!
    //! * Who reads does not wait: reading verbs work beside a writer, and see every commit once it is durable. One
    //!   process writes at a time; others exit with code 5, or wait with `--wait SECS`.
    //! * What a verb says that it did is durable: it survives the end of the process and a power cut. What fails has
    //!   changed nothing, but for `put`, which stores all files that it can read, and but for an error of standard
    //!   output, which comes when the work is done.
    //! * A verb that writes looks for what an earlier one has left, and ends with a checkpoint: some ten syncs of a few
    //!   KiB besides that of its commit. So many files in one `put` are much faster than each in one of its own.
    //! * A whole digest and a name are found at once. The first digits of a digest are looked for among all blobs: the
    //!   index is walked.
    //! * On a terminal sizes are rounded (`1.46 MiB`) and errors coloured. In a pipe, in a file and with `--json` sizes
    //!   are exact numbers of bytes, and nothing is coloured. `NO_COLOR` turns colours off on a terminal too.
    #![doc = include_str!("guide/verbs.md")]
}

pub mod image_store {
    //! Images that share layers.
    #![doc = include_str!("guide/image_store.md")]
}

pub mod build_cache {
    //! Results of builds, evicted by dereference.
    #![doc = include_str!("guide/build_cache.md")]
}

#[cfg(feature = "bytes")]
pub mod serving {
    //! Ranges of blobs from an async server, without a copy.
    #![doc = include_str!("guide/serving.md")]
}
