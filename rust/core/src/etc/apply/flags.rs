//! File attributes of `chattr` that keep even root from replacing what has them.

use std::collections::HashSet;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use super::destination::{Destination, split_name};
use super::error::{ApplyError, During};
use crate::etc::ops::Operation;
use crate::tree::{FileType, Flagged, Tree};

/// Takes `i` and `a` from everything that the operations change; what they leave alone keeps them.
///
/// # Errors
/// [`ApplyError::Io`], without `CAP_LINUX_IMMUTABLE` for one.
///
/// Source: `ioctl_iflags(2)`: an immutable directory admits no new and no removed names.
pub(super) fn clear_flags(
    flagged: &[Flagged],
    operations: &[Operation],
    result: &Tree,
    before: &Tree,
    destination: &mut Destination,
) -> Result<(), ApplyError> {
    if flagged.is_empty() {
        return Ok(());
    }
    let touched = Touched::by(operations, result, before);
    for found in flagged.iter().filter(|found| touched.has(&found.path)) {
        let kind = before.find(&found.path).map_or(FileType::Regular, |node| node.file_type());
        let inode = destination.inode(&found.path, kind)?;
        let step = "take immutable and append-only (chattr -i -a) from";
        let flags = ioctl_getflags(inode.fd()).during(step, &found.path)?;
        let left = flags.difference(IFlags::IMMUTABLE | IFlags::APPEND);
        ioctl_setflags(inode.fd(), left).during(step, &found.path)?;
    }
    Ok(())
}

struct Touched {
    /// Entries that change, and directories whose names change.
    paths: HashSet<Vec<u8>>,
    /// What goes, with all below it.
    removed: HashSet<Vec<u8>>,
}

impl Touched {
    fn by(operations: &[Operation], result: &Tree, before: &Tree) -> Self {
        let (mut paths, mut removed) = (HashSet::new(), HashSet::new());
        for operation in operations {
            let path = operation.path(result, before);
            if matches!(operation, Operation::Remove { .. } | Operation::Make { .. }) {
                paths.insert(split_name(&path).0.to_vec());
                removed.insert(path.clone());
            }
            paths.insert(path);
        }
        Self { paths, removed }
    }

    fn has(&self, path: &[u8]) -> bool {
        let mut above = path;
        while !above.is_empty() {
            if self.removed.contains(above) {
                return true;
            }
            above = split_name(above).0;
        }
        self.paths.contains(path)
    }
}
