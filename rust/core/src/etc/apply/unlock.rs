//! Opening directories that their owner cannot enter, so that the destination can be looked at.

use std::os::fd::BorrowedFd;

use rustix::fs::{Dir, FileType as DirentType, OFlags};
use rustix::process::geteuid;

use super::destination::{Destination, join};
use super::error::{ApplyError, During};
use crate::cancel::{Cancel, Ticker};
use crate::etc::ops::OWNER_ALL;
use crate::tree::{FileType, open_beneath};

/// Gives the owner `rwx` on every directory of the destination that is the caller's; the modes of the result come
/// back when it is written.
pub(super) fn unlock_directories(dir: BorrowedFd<'_>, cancel: &dyn Cancel) -> Result<(), ApplyError> {
    let mut destination = Destination::open(dir)?;
    let mut ticker = Ticker::new(cancel);
    let mut stack = vec![Vec::new()];
    while let Some(path) = stack.pop() {
        ticker.tick()?;
        let inode = destination.inode(&path, FileType::Directory)?;
        let stat = inode.stat().during("look at", &path)?;
        if stat.st_mode & OWNER_ALL != OWNER_ALL && stat.st_uid == geteuid().as_raw() {
            inode.chmod(stat.st_mode | OWNER_ALL).during("set mode of", &path)?;
        }
        let at = destination.directory(&path)?;
        let readable = open_beneath(at, b"", OFlags::RDONLY | OFlags::DIRECTORY).during("open", &path)?;
        for entry in Dir::new(readable).during("read directory", &path)? {
            let entry = entry.during("read directory", &path)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." && is_directory(at, name, entry.file_type()) {
                stack.push(join(&path, name));
            }
        }
    }
    Ok(())
}

fn is_directory(dir: BorrowedFd<'_>, name: &[u8], kind: DirentType) -> bool {
    match kind {
        // Some file systems do not tell; a mount point or a symlink is not opened.
        DirentType::Unknown | DirentType::Directory => {
            open_beneath(dir, name, OFlags::PATH | OFlags::DIRECTORY).is_ok()
        }
        _ => false,
    }
}
