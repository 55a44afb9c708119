//! How a directory's entries fall into blocks.

use super::super::layout::dirent::TYPE_DIRECTORY;
use super::units::{BLOCK, DIRENT};

/// A directory entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'t> {
    pub name: &'t [u8],
    /// Index of the inode, not yet its nid.
    pub inode: u32,
    /// `EROFS_FT_*`.
    pub file_type: u8,
}

impl Entry<'_> {
    fn size_bytes(&self) -> usize {
        DIRENT + self.name.len()
    }
}

/// Entries in byte order of their names, cut into blocks; a short last piece stays with the inode.
#[derive(Debug, Default)]
pub(super) struct DirBlocks<'t> {
    entries: Vec<Entry<'t>>,
    /// Where each full block ends in `entries`.
    ends: Vec<usize>,
    /// Bytes of the piece after the last block.
    pub tail_bytes: usize,
}

impl<'t> DirBlocks<'t> {
    /// Sorts and cuts.
    ///
    /// A last piece of more than half a block becomes a block: C mkcomposefs does not inline more.
    pub(super) fn new(mut entries: Vec<Entry<'t>>) -> Self {
        entries.sort_unstable_by_key(|entry| entry.name);
        let (mut ends, mut used) = (Vec::new(), 0);
        for (index, entry) in entries.iter().enumerate() {
            used += entry.size_bytes();
            if used > BLOCK {
                ends.push(index);
                used = entry.size_bytes();
            }
        }
        if used > BLOCK / 2 {
            ends.push(entries.len());
            used = 0;
        }
        Self { entries, ends, tail_bytes: used }
    }

    /// Subdirectories, `.` and `..` included: the link count.
    pub(super) fn link_count(&self) -> usize {
        self.entries.iter().filter(|entry| entry.file_type == TYPE_DIRECTORY).count()
    }

    /// Number of full blocks.
    pub(super) fn block_count(&self) -> usize {
        self.ends.len()
    }

    /// The entries of each full block.
    pub(super) fn blocks(&self) -> impl Iterator<Item = &[Entry<'t>]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| self.entries.get(start..*end).unwrap_or_default())
    }

    /// The entries of the last piece.
    pub(super) fn tail(&self) -> &[Entry<'t>] {
        let start = self.ends.last().copied().unwrap_or(0);
        self.entries.get(start..).unwrap_or_default()
    }
}
