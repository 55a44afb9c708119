//! From a [`Tree`] to an image in the composefs V1 layout, byte for byte as C mkcomposefs (`--min-version=1`)
//! and the composefs crate write it: one digest per tree, whoever made the image.
//!
//! Four steps, each a module: `collect` lists the inodes breadth first, `xattrs` finds what they share, `place`
//! gives everything its offset, `emit` writes. Source: libcomposefs 1.0.8, `lcfs-writer-erofs.c`; composefs-rs,
//! `doc/erofs.md`.
// Sizes are sums of lengths of what is in memory; none of them can come near the end of 64 bits.
#![allow(clippy::arithmetic_side_effects)]

mod collect;
mod dirs;
mod emit;
mod error;
mod place;
#[cfg(test)]
mod tests;
mod units;
mod xattrs;

pub use error::WriteError;

use crate::cancel::Cancel;
use crate::tree::Tree;

/// Writes the image of a tree: the same tree gives the same bytes.
///
/// Regular files with [`crate::tree::Content::Object`] become null chunks with overlay attributes that name the
/// object. Link counts are those of the tree. The times are kept to the nanosecond; those that equal the earliest
/// one are kept in the superblock.
///
/// Memory: the image, plus about 300 bytes an inode.
///
/// # Errors
/// [`WriteError`].
pub fn to_image(tree: &Tree, cancel: &dyn Cancel) -> Result<Vec<u8>, WriteError> {
    let mut inodes = collect::collect(tree, cancel)?;
    let has_acl = inodes.xattrs.iter().any(xattrs::InodeXattrs::has_acl);
    let shared = xattrs::share(&mut inodes.xattrs);
    // As unsigned numbers, like C mkcomposefs: a time before 1970 counts as later than all others.
    let times = inodes.inodes.iter().map(|inode| inode.mtime);
    let epoch = times.min_by_key(|mtime| (mtime.secs.cast_unsigned(), mtime.nanos)).unwrap_or_default();
    let places = place::place(&inodes, &shared, epoch, cancel)?;
    emit::Image { inodes: &inodes, shared: &shared, places: &places, epoch, has_acl }.emit(cancel)
}
