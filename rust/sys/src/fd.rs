//! Descriptors that come from outside Rust.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

/// Duplicates a descriptor that the caller names by number, with `O_CLOEXEC`.
///
/// # Errors
/// `EBADF` where it is not open.
pub fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::from(rustix::io::Errno::BADF));
    }
    // SAFETY: the borrow ends within this call, the number is not -1, and `dup` of a number that is not open
    // fails with EBADF without touching anything.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    Ok(rustix::io::fcntl_dupfd_cloexec(borrowed, 3)?)
}
