//! Compiles the store over each medium together with the library. What is generic is compiled where its types become
//! known, so each program would compile the store anew, and so did the tests of this repository. In a build with little
//! optimisation the compiler takes what a library has compiled already, and that is what is named here. (With more it
//! compiles anew all the same, to optimise it together with what calls it.) Nobody calls these functions.

use crate::medium::{Disk, Medium, Sim};
use crate::{Batch, Blob, BlobWriter, Descriptors, List, OpenOptions, Reader, Store};

/// The store over files.
pub fn over_files() {
    compile::<Disk>();
}

/// The store over files in memory.
pub fn over_simulated_files() {
    compile::<Sim>();
}

/// Names the calls that have much below them.
fn compile<M: Medium>() {
    std::hint::black_box([
        OpenOptions::open_in::<M> as *const (),
        OpenOptions::create_in::<M> as *const (),
        Store::<M>::close as *const (),
        Store::<M>::get as *const (),
        Store::<M>::find as *const (),
        Store::<M>::contains as *const (),
        Store::<M>::descriptor as *const (),
        Store::<M>::resolve as *const (),
        Store::<M>::name as *const (),
        Store::<M>::find_name as *const (),
        Store::<M>::names as *const (),
        Store::<M>::links as *const (),
        Store::<M>::referrers as *const (),
        Store::<M>::put_with as *const (),
        Store::<M>::writer as *const (),
        Store::<M>::reference as *const (),
        Store::<M>::dereference as *const (),
        Store::<M>::link as *const (),
        Store::<M>::unlink as *const (),
        Store::<M>::set_name as *const (),
        Store::<M>::remove_name as *const (),
        Store::<M>::checkpoint as *const (),
        Store::<M>::compact_with as *const (),
        Store::<M>::verify_with as *const (),
        Store::<M>::layout as *const (),
        Store::<M>::compaction_estimate as *const (),
        Store::<M>::tree as *const (),
        Store::<M>::why as *const (),
        Store::<M>::usage as *const (),
        Store::<M>::stats as *const (),
        <List<M> as Iterator>::next as *const (),
        <Descriptors<M> as Iterator>::next as *const (),
        Batch::<M>::add as *const (),
        Batch::<M>::commit as *const (),
        Blob::<M>::range as *const (),
        Blob::<M>::verify as *const (),
        Blob::<M>::read_at as *const (),
        <BlobWriter<M> as std::io::Write>::write as *const (),
        BlobWriter::<M>::commit as *const (),
        Reader::<M>::get as *const (),
        Reader::<M>::get_many as *const (),
        Reader::<M>::refresh as *const (),
    ]);
}
