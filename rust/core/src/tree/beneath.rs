//! Opening things below a directory: no symlink, no mount and no `..` is ever followed.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bootc_fast_sys::resolve::quietly;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

/// Longest path given to the kernel at once: `PATH_MAX` less the terminating NUL and room for one more name.
const MAX_CALL_BYTES: usize = 3800;
/// Lookups that a race may spoil; `openat2(2)` asks for a retry and for a bound.
const MAX_ATTEMPTS: u32 = 1000;

/// Opens `path` (relative, without a leading slash; empty: the directory itself) below `root`.
///
/// Symlinks anywhere, mount points and names that lead out are errors (`ELOOP`, `EXDEV`). A path longer than
/// `PATH_MAX` is walked in pieces. `flags` get `O_CLOEXEC | O_NOFOLLOW`; reading leaves access times alone
/// ([`quietly`]).
///
/// # Errors
/// The system call's. `ENOENT` also where a name holds a NUL, which no file has.
pub fn open_beneath(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut rest = path;
    let mut base: Option<OwnedFd> = None;
    while let Some((head, tail)) = cut(rest) {
        let from = base.as_ref().map_or(root, AsFd::as_fd);
        base = Some(open_once(from, head, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC)?);
        rest = tail;
    }
    let from = base.as_ref().map_or(root, AsFd::as_fd);
    quietly(flags, |flags| open_once(from, rest, flags))
}

/// As [`open_beneath`], of what was there a moment ago; `None`: it is gone, or something else has its name.
///
/// # Errors
/// Other errors of the system call.
pub fn open_if_there(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<Option<OwnedFd>, Errno> {
    match open_beneath(root, path, flags) {
        Ok(fd) => Ok(Some(fd)),
        // NXIO: a socket or an orphaned device; LOOP, XDEV: a symlink or a mount is there now.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NXIO | Errno::NODEV) => {
            Ok(None)
        }
        Err(errno) => Err(errno),
    }
}

/// Splits a path that is too long for one call at the last slash that fits.
fn cut(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= MAX_CALL_BYTES {
        return None;
    }
    let at = path.get(..MAX_CALL_BYTES)?.iter().rposition(|byte| *byte == b'/')?;
    Some((path.get(..at)?, path.get(at.saturating_add(1)..)?))
}

fn open_once(base: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    if path.is_empty() {
        return openat(base, c".", flags, Mode::empty());
    }
    let path = CString::new(path).map_err(|_| Errno::NOENT)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let mut attempts_left = MAX_ATTEMPTS;
    loop {
        match openat2(base, path.as_c_str(), flags, Mode::empty(), resolve) {
            Err(Errno::INTR) => {}
            // A rename or mount raced with the lookup and the kernel could not tell whether it stayed beneath; or,
            // with O_NONBLOCK, somebody holds a lease on the file and is asked to give it up.
            Err(Errno::AGAIN) if attempts_left > 0 => attempts_left = attempts_left.saturating_sub(1),
            other => return other,
        }
    }
}
