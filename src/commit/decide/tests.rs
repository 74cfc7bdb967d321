//! How frames are laid out.

use super::*;

#[test]
fn frames_that_lie_together_are_written_together() {
    let mut decided = Decided { done: Vec::new(), frames: Vec::new(), published: Vec::new() };
    let none = Offset::NONE;
    let at = Offset(1024);
    let mut tail = Tail { epoch: 1, chunk: none, chunk_end: 1 << 16, at, commit: none, commit_checksum: 0 };
    for (number, frame) in [(1, 0..128), (2, 128..192), (3, 256..320)] {
        decided.place(&frame, number, &mut tail);
    }
    assert_eq!(tail.at, Offset(1024 + 256));
    assert_eq!(decided.frames, [(at, 0..192), (Offset(1024 + 192), 256..320)]);
    let published: Vec<_> = decided.published.iter().map(|new| (new.id.0, new.checksum, new.synced)).collect();
    assert_eq!(published, [(1024, 1, false), (1152, 2, false), (1216, 3, false)]);
}
