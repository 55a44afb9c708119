//! Whether everything that is to be written fits, before anything is.

use std::fs::File;
use std::os::fd::BorrowedFd;

use rustix::fs::{self, Mode, OFlags};
use rustix::io::retry_on_intr;
use rustix::process::geteuid;

use super::content::{ContentSource, Opened};
use super::error::ApplyError;
use crate::cancel::{Cancel, Ticker};
use crate::etc::ops::{Make, Operation};
use crate::tree::{FileType, Tree};

/// `st_blocks` counts these, whatever the file system's blocks are (`inode(7)`).
const STAT_BLOCK_BYTES: u64 = 512;

/// Refuses what cannot fit: the largest file is named, which is the one to look at.
///
/// Counted are the blocks that files have, not their holes; what is replaced or removed makes room; where the file
/// systems share blocks, nothing is needed. Metadata is not counted: what that lacks, the write itself shows.
///
/// # Errors
/// [`ApplyError::Room`], [`ApplyError::Cancelled`].
pub(super) fn check_room(
    result: &Tree,
    before: &Tree,
    source: &dyn ContentSource,
    operations: &[Operation],
    dir: BorrowedFd<'_>,
    cancel: &dyn Cancel,
) -> Result<(), ApplyError> {
    // Who cannot say how much is free is not asked again: the write itself finds out.
    let Ok(found) = retry_on_intr(|| fs::fstatvfs(dir)) else { return Ok(()) };
    // The reserve for root is root's.
    let blocks = if geteuid().is_root() { found.f_bfree } else { found.f_bavail };
    let free_bytes = blocks.saturating_mul(found.f_frsize).saturating_add(freed(before, operations));
    let files = || {
        operations.iter().filter_map(|operation| match operation {
            Operation::Make { what: Make::File, node, .. } => Some(result.node(*node)),
            _ => None,
        })
    };
    // Sizes say enough where even with all holes filled everything fits: nearly always.
    let sizes = files().fold(0u64, |sum, node| sum.saturating_add(node.stat().size_bytes));
    if sizes <= free_bytes {
        return Ok(());
    }
    let mut ticker = Ticker::new(cancel);
    let (mut needed_bytes, mut largest) = (0u64, None::<(u64, Vec<u8>)>);
    for node in files() {
        ticker.tick()?;
        // What cannot be opened is told when it is written.
        let Ok(Some(opened)) = source.open(node) else { continue };
        let bytes = match &opened {
            Opened::Bytes(bytes) => bytes.len() as u64,
            Opened::Object(file) | Opened::Live { file, .. } if shares(file, dir) => 0,
            Opened::Object(file) | Opened::Live { file, .. } => allocated(file),
        };
        needed_bytes = needed_bytes.saturating_add(bytes);
        if largest.as_ref().is_none_or(|(most, _)| *most < bytes) {
            largest = Some((bytes, node.path()));
        }
    }
    match largest {
        Some((file_bytes, path)) if needed_bytes > free_bytes => {
            Err(ApplyError::Room { path, file_bytes, needed_bytes, free_bytes })
        }
        _ => Ok(()),
    }
}

/// Room that removing and replacing makes, at most.
fn freed(before: &Tree, operations: &[Operation]) -> u64 {
    let mut sum = 0u64;
    for operation in operations {
        let (Operation::Remove { old, .. } | Operation::Make { old: Some(old), .. }) = operation else {
            continue;
        };
        let mut pending = vec![before.node(*old)];
        while let Some(node) = pending.pop() {
            pending.extend(node.children());
            if node.file_type() == FileType::Regular {
                sum = sum.saturating_add(node.stat().size_bytes);
            }
        }
    }
    sum
}

#[allow(clippy::unnecessary_cast)] // Its type differs between architectures.
fn allocated(file: &File) -> u64 {
    retry_on_intr(|| fs::fstat(file)).map_or(0, |stat| {
        let blocks = u64::try_from(stat.st_blocks as i64).unwrap_or_default();
        blocks.saturating_mul(STAT_BLOCK_BYTES).min(u64::try_from(stat.st_size).unwrap_or_default())
    })
}

/// Whether a copy in the destination would share the file's blocks; tried with a file that has no name.
fn shares(file: &File, dir: BorrowedFd<'_>) -> bool {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let Ok(probe) = retry_on_intr(|| fs::openat(dir, c".", flags, Mode::RUSR | Mode::WUSR)) else {
        return false;
    };
    retry_on_intr(|| fs::ioctl_ficlone(&probe, file)).is_ok()
}
