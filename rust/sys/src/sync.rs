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

/// Says whether the descriptor is on a FAT file system, which has no journal.
///
/// # Errors
/// As `fstatfs(2)`.
pub fn is_fat(fd: BorrowedFd<'_>) -> io::Result<bool> {
    /// `MSDOS_SUPER_MAGIC` of `linux/magic.h`.
    const MSDOS_SUPER_MAGIC: u64 = 0x4d44;
    let found = rustix::io::retry_on_intr(|| rustix::fs::fstatfs(fd))?;
    // The field's type differs between architectures; the magic number is positive in each.
    Ok(u64::try_from(found.f_type).is_ok_and(|magic| magic == MSDOS_SUPER_MAGIC))
}
