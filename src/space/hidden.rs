//! The space of an index whose changes are not shown before their end, and may be forgotten.

use super::Space;

impl Space {
    /// The index is hidden: all its segments are copied when they are next touched.
    pub fn hide(&mut self) {
        self.fresh_segments = 0;
        self.has_directory = false;
    }

    /// The changes of the index since `before` were forgotten. What was allocated stays where it is: others may have
    /// allocated behind it, and the next open finds it.
    pub fn roll_back(&mut self, before: Space) {
        let Space { segments, released, directories, retired, promised, live_segments, owns_directory, .. } = before;
        (self.segments, self.released) = (segments, released);
        (self.directories, self.retired) = (directories, retired);
        (self.promised, self.live_segments, self.owns_directory) = (promised, live_segments, owns_directory);
        self.hide();
    }

    /// The most segments that so many images can take where the index does not grow: each may copy a frozen one.
    #[must_use]
    pub fn copies_needed(&self, images: u64) -> u64 {
        images.min(self.live_segments.saturating_sub(self.fresh_segments)) + 4
    }
}
