//! The contents of a merge result: those of the sides it was merged from.

use std::os::fd::BorrowedFd;

use super::content::{ContentSource, Opened};
use super::error::ApplyError;
use super::{Applied, OnProgress, apply};
use crate::cancel::Cancel;
use crate::etc::content::{ContentError, Side, Source};
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
/// # Errors
/// [`ApplyError::Conflicts`] before anything is looked at or written; else as [`apply`].
pub fn apply_merge(
    merged: &Merged<'_>,
    dir: BorrowedFd<'_>,
    progress: OnProgress<'_>,
    cancel: &dyn Cancel,
) -> Result<Applied, ApplyError> {
    let unsettled = merged.result.report.fatal_conflicts().count();
    if unsettled > 0 {
        return Err(ApplyError::Conflicts { count: unsettled });
    }
    apply(&merged.result.tree, merged, dir, progress, cancel)
}

fn open_side<'s>(side: &'s Side<'_>, id: NodeId) -> Result<Option<Opened<'s>>, ContentError> {
    Ok(side.open(side.tree.node(id))?.map(|source| match source {
        Source::Bytes(bytes) => Opened::Bytes(bytes),
        Source::Object(file) => Opened::File { file, is_live: false },
        Source::Live(file) => Opened::File { file, is_live: true },
    }))
}
