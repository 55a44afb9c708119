//! The layout's sizes as lengths of things in memory.

use super::super::layout::{SLOT_BYTES, SUPERBLOCK_BYTES, SUPERBLOCK_OFFSET, chunk, dirent, inode, xattr};

#[allow(clippy::cast_possible_truncation)] // evaluated at compile time, of constants below 4096
const fn length(bytes: u64) -> usize {
    bytes as usize
}

/// log2 of composefs's only block size.
pub(super) const BLOCK_BITS: u8 = 12;
pub(super) const BLOCK: usize = 1 << BLOCK_BITS;
pub(super) const SLOT: usize = length(SLOT_BYTES);
pub(super) const SUPERBLOCK_START: usize = length(SUPERBLOCK_OFFSET);
pub(super) const INODES_START: usize = length(SUPERBLOCK_OFFSET + SUPERBLOCK_BYTES);
pub(super) const COMPACT_INODE: usize = length(inode::COMPACT_BYTES);
pub(super) const EXTENDED_INODE: usize = length(inode::EXTENDED_BYTES);
pub(super) const DIRENT: usize = length(dirent::BYTES);
pub(super) const XATTR_HEADER: usize = length(xattr::HEADER_BYTES);
pub(super) const XATTR_ENTRY: usize = length(xattr::ENTRY_BYTES);
pub(super) const XATTR_WORD: usize = length(xattr::WORD_BYTES);
pub(super) const CHUNK_ENTRY: usize = length(chunk::BLOCK_MAP_ENTRY_BYTES);
