//! The contents of a merge result: those of the sides it was merged from.

use std::os::fd::BorrowedFd;

use super::content::{ContentSource, Opened};
use super::error::ApplyError;
use super::{Applied, OnProgress, apply};
use crate::cancel::Cancel;
use crate::etc::content::{ContentError, Side, Source, is_unchanged};
use crate::etc::result::{MergeResult, SideName};
use crate::tree::{Node, NodeId};

/// Reads what a node of R holds from the side that it comes from, under that side's own path.
#[derive(Debug)]
pub struct Merged<'m> {
    /// What was decided.
    pub result: &'m MergeResult,
    /// C, with the directory that was scanned.
    pub current: &'m Side<'m>,
    /// N, with its directory or its objects.
    pub new: &'m Side<'m>,
    /// P: no result has contents of it, but an origin may name it.
    pub pristine: &'m Side<'m>,
}

impl ContentSource for Merged<'_> {
    fn open(&self, node: Node<'_>) -> Result<Option<Opened<'_>>, ContentError> {
        let Some(origin) = self.result.origin(node.id()) else { return Ok(None) };
        let side = match origin.side {
            SideName::Pristine => self.pristine,
            SideName::Current => self.current,
            SideName::New => self.new,
        };
        open_side(side, origin.node)
    }
}

/// Turns the directory into what a merge decided, as [`apply`] does.
///
/// [`Applied::stale`] are files of the sides that were replaced, changed or removed since the scan: merged again, by
/// a new plan, they get content and attributes of one look. `is_last`: there is no such plan any more, so what a
/// file is now is taken with its own attributes, no wider than planned; what is gone counts as deleted.
///
/// # Errors
/// [`ApplyError::Conflicts`] before anything is looked at or written; else as [`apply`].
pub fn apply_merge(
    merged: &Merged<'_>,
    dir: BorrowedFd<'_>,
    is_last: bool,
    progress: OnProgress<'_>,
    cancel: &dyn Cancel,
) -> Result<Applied, ApplyError> {
    let unsettled = merged.result.report.fatal_conflicts().count();
    if unsettled > 0 {
        return Err(ApplyError::Conflicts { count: unsettled });
    }
    apply(&merged.result.tree, merged, dir, is_last, progress, cancel)
}

fn open_side<'s>(side: &'s Side<'_>, id: NodeId) -> Result<Option<Opened<'s>>, ContentError> {
    let node = side.tree.node(id);
    Ok(side.open(node)?.map(|source| match source {
        Source::Bytes(bytes) => Opened::Bytes(bytes),
        Source::Object(file) => Opened::Object(file),
        Source::Live(file) => {
            // A tree that was made in another way than by a scan has nothing to compare with.
            let is_as_scanned = node.disk_state().is_none_or(|seen| is_unchanged(&file, node, seen));
            Opened::Live { file, is_as_scanned }
        }
    }))
}
