//! Whether the directories of a scanned tree are, in the end, what they were when they were scanned.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::beneath::open_beneath;
use super::inode::{self, Facts, Reader, Way, XattrRanges};
use super::listing::Raced;
use super::model::{DiskState, Node, NodeId, Tree};
use super::scan::ScanError;
use crate::cancel::{Cancel, Ticker};

/// Longest path that is looked up in one piece.
const MAX_CALL_BYTES: usize = 3800;

/// What was the same all the while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Settled {
    /// All directories, and so all names.
    All,
    /// Names came or went; no directory has another owner, mode, or extended attribute.
    AllButNames,
    /// The directory at this path is another one, or open to others than it was.
    AllBut(Vec<u8>),
}

/// Looks at all directories of a scanned tree again.
///
/// What lies below a directory may be as open as it is because the directory is closed: whoever merges must not have
/// the one from before, and the other from after, a change.
///
/// # Errors
/// [`ScanError::Io`], [`ScanError::Cancelled`].
pub(super) fn find_changed(
    tree: &Tree,
    directories: &[(NodeId, DiskState)],
    raced: &HashMap<NodeId, Raced>,
    root: BorrowedFd<'_>,
    cancel: &dyn Cancel,
) -> Result<Settled, ScanError> {
    let mut settled = if raced.is_empty() { Settled::All } else { Settled::AllButNames };
    let mut ticker = Ticker::new(cancel);
    for (id, seen) in directories.iter().filter(|(id, _)| !raced.contains_key(id)) {
        ticker.tick()?;
        let node = tree.node(*id);
        let path = node.path();
        match look(root, &path) {
            Ok(now) if now.disk == *seen => (),
            // Another one may be as open as the first was, and the first, wherever it is now, closed.
            Ok(now) if now.disk.inode != seen.inode => return Ok(Settled::AllBut(path)),
            Ok(_) => match has_same_attributes(node, root, &path) {
                Ok(true) => settled = Settled::AllButNames,
                Ok(false) => return Ok(Settled::AllBut(path)),
                Err(errno) if is_replaced(errno) => return Ok(Settled::AllBut(path)),
                Err(errno) => return Err(ScanError::io(&path, errno)),
            },
            Err(Errno::NOENT) => settled = Settled::AllButNames,
            Err(errno) if is_replaced(errno) => return Ok(Settled::AllBut(path)),
            Err(errno) => return Err(ScanError::io(&path, errno)),
        }
    }
    Ok(settled)
}

fn look(root: BorrowedFd<'_>, path: &[u8]) -> Result<Facts, Errno> {
    if path.len() <= MAX_CALL_BYTES {
        let path = CString::new(path).map_err(|_| Errno::NOENT)?;
        return inode::facts(root, &path);
    }
    inode::facts(open_beneath(root, path, OFlags::PATH | OFlags::DIRECTORY)?.as_fd(), c"")
}

/// Whether the directory at a path has the owner, mode and extended attributes of a node.
fn has_same_attributes(node: Node<'_>, root: BorrowedFd<'_>, path: &[u8]) -> Result<bool, Errno> {
    let dir = open_beneath(root, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let (now, seen) = (inode::facts(dir.as_fd(), c"")?.stat, node.stat());
    let (mut bytes, mut pairs) = (Vec::new(), XattrRanges::new());
    Reader::new().xattrs(Way::Open(dir.as_fd()), &mut bytes, &mut pairs)?;
    let slice = |range: &std::ops::Range<usize>| bytes.get(range.clone()).unwrap_or_default();
    let mut found: Vec<_> = pairs.iter().map(|(name, value)| (slice(name), slice(value))).collect();
    found.sort_unstable();
    let wanted = node.xattrs().map(|xattr| (xattr.name, xattr.value));
    Ok((now.mode, now.uid, now.gid) == (seen.mode, seen.uid, seen.gid) && found.into_iter().eq(wanted))
}

/// Errors of a lookup where something else took a directory's place.
fn is_replaced(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV)
}
