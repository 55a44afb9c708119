//! Flushing.

use std::io;
use std::os::fd::BorrowedFd;

/// Writes everything that is dirty on the descriptor's file system, `syncfs(2)`.
///
/// On vfat this sends no cache flush to the disk; an `fsync` of any file or directory there does.
///
/// # Errors
/// As `syncfs(2)`; a write-back error since the descriptor was opened is among them.
pub fn sync_filesystem(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::io::retry_on_intr(|| rustix::fs::syncfs(fd))?)
}
