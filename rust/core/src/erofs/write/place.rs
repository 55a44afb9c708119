//! Where everything goes: header, superblock, inodes with attributes and inline data, the shared attributes,
//! then whole blocks of directories and data.

use super::super::layout::chunk;
use super::super::layout::inode::{LAYOUT_CHUNKED, LAYOUT_INLINE, LAYOUT_PLAIN};
use super::collect::{Body, Inode, Inodes};
use super::error::WriteError;
use super::units::{BLOCK, BLOCK_BITS, CHUNK_ENTRY, COMPACT_INODE, EXTENDED_INODE, INODES_START, SLOT};
use super::xattrs::Xattr;
use crate::cancel::{Cancel, Ticker};
use crate::tree::Timestamp;

/// The form of one inode, all that its size and place depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub compact: bool,
    /// `EROFS_INODE_*`, as in bits 1 to 3 of `i_format`.
    pub data_layout: u16,
    pub size_bytes: u64,
    pub xattr_bytes: usize,
    /// Bytes right behind the inode and its attributes.
    pub tail_bytes: usize,
    /// Whole blocks of directory entries or data.
    pub blocks: usize,
}

impl Shape {
    pub(super) fn head_bytes(&self) -> usize {
        self.xattr_bytes + if self.compact { COMPACT_INODE } else { EXTENDED_INODE }
    }
}

/// Byte offsets of everything.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub shapes: Vec<Shape>,
    pub inodes: Vec<usize>,
    /// End of the inodes; the shared attributes follow.
    pub inodes_end: usize,
    pub shared: Vec<usize>,
    /// Where the blocks of each inode start; of one without blocks, where they would.
    pub blocks: Vec<usize>,
    pub end: usize,
}

/// Places the inodes, in their order.
pub(super) fn place(
    inodes: &Inodes<'_>,
    shared: &[Xattr<'_>],
    epoch: Timestamp,
    cancel: &dyn Cancel,
) -> Result<Places, WriteError> {
    let mut ticker = Ticker::new(cancel);
    let mut places = Places::default();
    let mut at = INODES_START;
    for (inode, xattrs) in inodes.inodes.iter().zip(&inodes.xattrs) {
        ticker.tick()?;
        let shape = shape_of(inode, xattrs.size_bytes(), epoch)?;
        at = start_of(inode, &shape, at.next_multiple_of(SLOT));
        places.inodes.push(at);
        at += shape.head_bytes() + shape.tail_bytes;
        places.shapes.push(shape);
    }
    places.inodes_end = at.next_multiple_of(SLOT);
    at = places.inodes_end;
    for xattr in shared {
        places.shared.push(at);
        at += xattr.size_bytes();
    }
    at = at.next_multiple_of(BLOCK);
    for shape in &places.shapes {
        places.blocks.push(at);
        at += shape.blocks * BLOCK;
    }
    places.end = at;
    u32::try_from(at / BLOCK).map_err(|_| WriteError::TooLarge)?;
    Ok(places)
}

fn shape_of(inode: &Inode<'_>, xattr_bytes: usize, epoch: Timestamp) -> Result<Shape, WriteError> {
    let (data_layout, size_bytes, tail_bytes, blocks) = match &inode.body {
        Body::Directory(dir) => {
            let (blocks, tail) = (dir.block_count(), dir.tail_bytes);
            (flat(tail), (blocks * BLOCK + tail) as u64, tail, blocks)
        }
        Body::Inline(data) => {
            let (blocks, tail) = split_inline(data.len());
            (flat(tail), data.len() as u64, tail, blocks)
        }
        Body::Target(target) => (LAYOUT_INLINE, target.len() as u64, target.len(), 0),
        Body::Object(size) => (LAYOUT_CHUNKED, *size, chunk_count(*size) * CHUNK_ENTRY, 0),
        Body::Special(_) => (LAYOUT_PLAIN, 0, 0, 0),
    };
    let compact = fits_compact(inode, size_bytes, epoch);
    let mut shape = Shape { compact, data_layout, size_bytes, xattr_bytes, tail_bytes, blocks };
    // A target that does not fit into a block with its inode gets a block of its own: Linux before 6.12 takes
    // one that crosses for corruption.
    if matches!(inode.body, Body::Target(_)) && shape.head_bytes() + tail_bytes >= BLOCK {
        shape = Shape { data_layout: LAYOUT_PLAIN, tail_bytes: 0, blocks: 1, ..shape };
    }
    // C mkcomposefs writes wrong chunk maps beyond one block; files of 8 PiB do not exist.
    if matches!(inode.body, Body::Object(_)) && tail_bytes + xattr_bytes % SLOT > BLOCK {
        return Err(WriteError::TooLarge);
    }
    Ok(shape)
}

fn flat(tail_bytes: usize) -> u16 {
    if tail_bytes == 0 { LAYOUT_PLAIN } else { LAYOUT_INLINE }
}

/// Whole blocks, and bytes behind the inode: at most half a block, as C mkcomposefs has it.
fn split_inline(len: usize) -> (usize, usize) {
    match (len / BLOCK, len % BLOCK) {
        (blocks, tail) if tail > BLOCK / 2 => (blocks + 1, 0),
        split => split,
    }
}

/// A compact inode has 16-bit owners and link count, a 32-bit size and the superblock's time.
fn fits_compact(inode: &Inode<'_>, size_bytes: u64, epoch: Timestamp) -> bool {
    let small = |value: u32| u16::try_from(value).is_ok();
    inode.mtime == epoch
        && small(inode.nlink)
        && small(inode.uid)
        && small(inode.gid)
        && u32::try_from(size_bytes).is_ok()
}

/// Chunk size of an object as a power of two: one chunk where that is possible.
pub(super) fn chunk_bits(size_bytes: u64) -> u32 {
    let bits = u64::BITS - size_bytes.saturating_sub(1).leading_zeros();
    let smallest = u32::from(BLOCK_BITS);
    bits.clamp(smallest, smallest + chunk::FORMAT_BITS_MASK)
}

fn chunk_count(size_bytes: u64) -> usize {
    usize::try_from(size_bytes.div_ceil(1 << chunk_bits(size_bytes))).unwrap_or(usize::MAX / BLOCK)
}

/// The first place from `at` on where the inode may start: nothing behind it may cross a block it need not.
fn start_of(inode: &Inode<'_>, shape: &Shape, at: usize) -> usize {
    let next_block = at.next_multiple_of(BLOCK);
    if let Body::Target(target) = inode.body {
        // The whole inode moves, whether or not its target then went to a block of its own.
        let end = at % BLOCK + shape.head_bytes() + target.len();
        return if end > BLOCK { next_block } else { at };
    }
    // Only the inline data must not cross: it moves into the next block, the inode as little as possible.
    let tail_at = at + shape.head_bytes();
    let room = tail_at.next_multiple_of(BLOCK) - tail_at;
    if room > 0 && room < shape.tail_bytes { at + room.next_multiple_of(SLOT) } else { at }
}
