//! What a verification without a writer of its own makes of what other handles do.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::medium::{Sim, SimDirectory};
use crate::store::{How, Store};

fn written() -> (SimDirectory, Store<Sim>) {
    let directory = SimDirectory::new(64 << 20);
    let store = Store::options().create_in(directory.create("a.pack").unwrap()).unwrap().unwrap();
    (directory, store)
}

fn read_only(directory: &SimDirectory) -> Store<Sim> {
    let medium = directory.open("a.pack", false).unwrap();
    Store::options().read_only(true).open_in(medium, How::Open).unwrap().unwrap()
}

/// It went on to say that a writer was at work, and compared neither index nor counts.
#[test]
fn a_handle_that_was_opened_beside_a_writer_verifies_all_once_that_one_is_gone() {
    let (directory, store) = written();
    store.put(b"a blob").unwrap();
    let reader = read_only(&directory);
    assert!(reader.verify().unwrap().partial);
    store.close().unwrap();
    let verified = reader.verify().unwrap();
    assert_eq!((verified.blobs, verified.partial, verified.damage), (1, false, Vec::new()));
}
