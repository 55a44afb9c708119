//! The contents of a merge result: those of the sides it was merged from.

use std::io;
use std::os::fd::BorrowedFd;

use super::anew::Way;
use super::content::{ContentSource, Opened};
use super::error::ApplyError;
use super::{Applied, OnProgress, Pass, apply};
use crate::cancel::Cancel;
use crate::etc::content::{ContentError, Side, Source, is_unchanged};
use crate::etc::result::{MergeResult, SideName};
use crate::tree::Node;

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

impl<'m> Merged<'m> {
    /// The side that the content of a node of R is from, and its node there.
    fn origin(&self, node: Node<'_>) -> Option<(&'m Side<'m>, Node<'m>)> {
        let origin = self.result.origin(node.id())?;
        let side = match origin.side {
            SideName::Pristine => self.pristine,
            SideName::Current => self.current,
            SideName::New => self.new,
        };
        Some((side, side.tree.node(origin.node)))
    }
}

impl ContentSource for Merged<'_> {
    fn open(&self, node: Node<'_>) -> Result<Option<Opened<'_>>, ContentError> {
        self.origin(node).map_or(Ok(None), |(side, node)| open_side(side, node))
    }

    fn is_gone(&self, node: Node<'_>) -> bool {
        self.origin(node).is_none_or(|(side, node)| side.is_gone(node))
    }

    fn open_way(&self, node: Node<'_>) -> io::Result<Option<(Way, Node<'_>)>> {
        let Some((side, node)) = self.origin(node) else { return Ok(None) };
        let Some(dir) = side.dir else { return Ok(None) };
        Ok(Way::open(dir, node)?.map(|way| (way, node)))
    }
}

/// Turns the directory into what a merge decided, as [`apply`] does.
///
/// [`Applied::stale`] are files of the sides that were replaced, changed or removed since the scan: merged again, by
/// a new plan, they get content and attributes of one look.
///
/// # Errors
/// [`ApplyError::Conflicts`] before anything is looked at or written; else as [`apply`].
pub fn apply_merge(
    merged: &Merged<'_>,
    dir: BorrowedFd<'_>,
    pass: Pass,
    progress: OnProgress<'_>,
    cancel: &dyn Cancel,
) -> Result<Applied, ApplyError> {
    let unsettled = merged.result.report.fatal_conflicts().count();
    if unsettled > 0 {
        return Err(ApplyError::Conflicts { count: unsettled });
    }
    apply(&merged.result.tree, merged, dir, pass, progress, cancel)
}

fn open_side<'s>(side: &'s Side<'_>, node: Node<'s>) -> Result<Option<Opened<'s>>, ContentError> {
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
