//! The destination, reached by descriptors only: no symlink followed, no mount crossed, nothing above it touched.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::error::{ApplyError, During};
use super::inode::Inode;
use crate::tree::{FileType, open_beneath};

/// How a directory is held: enough to look up names in it, without permission to read it.
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);
/// A file that is to be made is looked up again this often where a rename elsewhere disturbed it (`EAGAIN`).
const LOOKUP_RETRIES: usize = 64;

/// A directory that becomes the result.
#[derive(Debug)]
pub(super) struct Destination {
    root: OwnedFd,
    /// The directory used last, with its path: neighbours in the list of operations share it.
    last: Option<(Vec<u8>, OwnedFd)>,
}

impl Destination {
    pub(super) fn open(dir: BorrowedFd<'_>) -> Result<Self, ApplyError> {
        // Not "." opened anew: that needs search permission, which the owner of a closed directory does not have.
        let root = rustix::io::fcntl_dupfd_cloexec(dir, 3).during("open", b"")?;
        Ok(Self { root, last: None })
    }

    /// The directory at `path`, as an `O_PATH` descriptor.
    pub(super) fn directory(&mut self, path: &[u8]) -> Result<BorrowedFd<'_>, ApplyError> {
        if path.is_empty() {
            return Ok(self.root.as_fd());
        }
        if self.last.as_ref().is_none_or(|(known, _)| known != path) {
            let fd = open_beneath(self.root.as_fd(), path, DIRECTORY).during("open directory", path)?;
            self.last = Some((path.to_vec(), fd));
        }
        Ok(self.last.as_ref().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd()))
    }

    /// The inode under a path that is expected to be of a type; of the empty path, the destination itself.
    pub(super) fn inode(&mut self, path: &[u8], kind: FileType) -> Result<Inode, ApplyError> {
        if path.is_empty() {
            let root = rustix::io::fcntl_dupfd_cloexec(&self.root, 3).during("open", path)?;
            return Ok(Inode::reached(root));
        }
        let (parent, name) = split_name(path);
        let dir = self.directory(parent)?;
        let inode = Inode::open(dir, name, kind).during("open", path)?;
        let found = FileType::from_mode(inode.stat().during("look at", path)?.st_mode);
        if found != Some(kind) {
            // Somebody replaced it since the scan; what it is now must not be touched.
            return Err(Errno::STALE).during("open", path);
        }
        Ok(inode)
    }

    /// To be called when a directory was renamed or removed: the one used last may be another now.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }
}

/// Makes a regular file that only its owner may touch.
pub(super) fn create_beneath(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let mut result = Err(Errno::AGAIN);
    for _ in 0..LOOKUP_RETRIES {
        result = openat2(dir, name, flags, Mode::RUSR | Mode::WUSR, resolve);
        if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
    }
    result
}

/// Directory and name of a path; of a name alone, the root and the name.
pub(super) fn split_name(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/').and_then(|cut| path.split_at_checked(cut)) {
        Some((parent, name)) => (parent, name.get(1..).unwrap_or_default()),
        None => (b"", path),
    }
}

/// The path of a name in a directory.
pub(super) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, name].join(&b'/') }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_split_before_its_last_name() {
        assert_eq!(split_name(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split_name(b"c"), (&b""[..], &b"c"[..]));
        assert_eq!(join(b"", b"c"), b"c");
        assert_eq!(join(b"a/b", b"c"), b"a/b/c");
    }
}
