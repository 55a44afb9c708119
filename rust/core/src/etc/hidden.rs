//! Paths of the running /etc that a mount hides.

use std::collections::HashSet;

/// The mount points that a scan met, below /etc.
#[derive(Debug, Default)]
pub(super) struct Hidden<'a> {
    paths: HashSet<&'a [u8]>,
}

impl<'a> Hidden<'a> {
    pub(super) fn new(paths: &'a [Vec<u8>]) -> Self {
        Self { paths: paths.iter().map(Vec::as_slice).collect() }
    }

    pub(super) fn has(&self, path: &[u8]) -> bool {
        !self.paths.is_empty() && self.paths.contains(path)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &'a [u8]> {
        self.paths.iter().copied()
    }
}
