//! Making a directory exactly the result of a merge (spec etc-merge.md, "Writing R").

mod anew;
mod content;
mod copy;
mod destination;
mod error;
mod flags;
mod inode;
mod merged;
mod place;
mod room;
mod run;
mod unlock;

use std::collections::HashSet;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, syncfs};
use rustix::io::{Errno, retry_on_intr};

pub use anew::Way;
pub use content::{ContentSource, Opened};
pub use error::{ApplyError, Warning};
pub use merged::{Merged, apply_merge};

use super::content::{ContentError, Side};
use super::ops::{Operation, list_operations};
use super::prefetch::prefetch_against;
use crate::cancel::{Cancel, Cancelled, Ticker};
use crate::tree::{self, Flagged, ScanError, Tree, open_beneath};
use content::Comparer;
use destination::Destination;
use error::During;
use run::Runner;

/// What has to be done to a destination, and the destination as it was found.
#[derive(Debug)]
pub struct Difference {
    /// In the order in which they are carried out.
    pub operations: Vec<Operation>,
    /// The destination.
    pub before: Tree,
    /// What in the destination is immutable or append-only.
    pub flagged: Vec<Flagged>,
}

/// What the writing of a result did.
#[derive(Debug)]
pub struct Applied {
    /// Operations carried out; none where the destination was the result already.
    pub operations: Vec<Operation>,
    /// Files whose source was not what was planned with, below the destination: what is there stays as it is.
    pub stale: Vec<Vec<u8>>,
    /// The destination as it was, which operations refer to.
    pub before: Tree,
    /// Content written, in bytes; shared blocks count too.
    pub bytes_copied: u64,
    /// What the result lacks though nothing failed.
    pub warnings: Vec<Warning>,
    /// Time for looking at the destination and comparing.
    pub compare: Duration,
    /// Time for the operations.
    pub apply: Duration,
    /// Time for `syncfs`.
    pub sync: Duration,
}

/// Which writing of a merge this is: after each but the last, what was not as it was planned with is planned again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// What is not as it was planned with is left for a new plan.
    First,
    /// A file that is not is taken as it is, with its own attributes, no wider than planned; what is no file any more is
    /// left for a new plan.
    Again,
    /// There is no other plan: what is gone counts as deleted, what is no file any more is an error.
    Last,
}

/// Told before every operation and at the end how many of how many are done; may end the call.
pub type OnProgress<'p> = &'p mut dyn FnMut(usize, usize) -> Result<(), Cancelled>;

/// Finds out what turns the directory into the result; changes nothing.
///
/// Every regular file that could stay is read and compared, since nobody knows who wrote it: with the digest where
/// the result takes it from the repository, which reads one file and not two, else byte by byte.
///
/// # Errors
/// [`ApplyError::Scan`], [`ApplyError::Tree`], [`ApplyError::Room`], [`ApplyError::Cancelled`].
pub fn compare(
    result: &Tree,
    source: &dyn ContentSource,
    dir: BorrowedFd<'_>,
    cancel: &dyn Cancel,
) -> Result<Difference, ApplyError> {
    let tree::Scan { tree: before, report } = tree::scan(dir, cancel).map_err(scan_error)?;
    if let Some(path) = report.mounts.into_iter().next() {
        // What lies below is out of reach, so the directory could not become exactly the result.
        return Err(ApplyError::Scan { path, source: Errno::XDEV.into() });
    }
    let mut destination = Destination::open(dir)?;
    let there = Side::new(&before, Some(dir), None);
    // What cannot be read now is no reason to fail: it is asked for again, and then counts as different.
    if let Err(ContentError::Cancelled(cancelled)) = prefetch_against(result, &there, cancel) {
        return Err(cancelled.into());
    }
    let mut comparer = Comparer {
        source,
        there: &there,
        destination: &mut destination,
        cancel,
        buffers: (Vec::new(), Vec::new()),
    };
    let operations = list_operations(result, &before, &mut comparer, cancel)?;
    room::check_room(result, &before, source, &operations, dir, cancel)?;
    Ok(Difference { operations, before, flagged: report.flagged })
}

/// Turns the directory into a tree, whoever made that, and syncs its file system; a merge's goes through
/// [`apply_merge`].
///
/// After an error, a cancellation or a crash the directory holds some of the result and some of what was there;
/// every file in it is complete, and the next call completes it.
///
/// # Errors
/// [`ApplyError`].
pub fn apply(
    result: &Tree,
    source: &dyn ContentSource,
    dir: BorrowedFd<'_>,
    pass: Pass,
    progress: OnProgress<'_>,
    cancel: &dyn Cancel,
) -> Result<Applied, ApplyError> {
    let start = Instant::now();
    let Difference { mut operations, before, flagged } = compare_unlocking(result, source, dir, cancel)?;
    let compared = Instant::now();
    let mut destination = Destination::open(dir)?;
    flags::clear_flags(&flagged, &operations, result, &before, &mut destination)?;
    let mut runner = Runner {
        result,
        before: &before,
        source,
        destination,
        cancel,
        bytes_copied: 0,
        warnings: Vec::new(),
        pass,
        missing: HashSet::new(),
        stale: Vec::new(),
    };
    let mut ticker = Ticker::new(cancel);
    for (done, operation) in operations.iter().enumerate() {
        progress(done, operations.len())?;
        ticker.tick()?;
        runner.run(operation)?;
    }
    progress(operations.len(), operations.len())?;
    let applied = Instant::now();
    sync(dir)?;
    let Runner { bytes_copied, warnings, stale, .. } = runner;
    operations.retain(|operation| !matches!(operation, Operation::Make { node, .. } if stale.contains(node)));
    let mut stale: Vec<_> = stale.into_iter().map(|node| result.node(node).path()).collect();
    stale.sort_unstable();
    Ok(Applied {
        operations,
        stale,
        before,
        bytes_copied,
        warnings,
        compare: compared.duration_since(start),
        apply: applied.duration_since(compared),
        sync: applied.elapsed(),
    })
}

/// An owner without privilege may have left directories that not even they can enter: those are opened first.
fn compare_unlocking(
    result: &Tree,
    source: &dyn ContentSource,
    dir: BorrowedFd<'_>,
    cancel: &dyn Cancel,
) -> Result<Difference, ApplyError> {
    match compare(result, source, dir, cancel) {
        Err(ApplyError::Scan { source: error, .. })
            if error.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            unlock::unlock_directories(dir, cancel)?;
            compare(result, source, dir, cancel)
        }
        other => other,
    }
}

/// Everything written before is on disk when this returns well.
fn sync(dir: BorrowedFd<'_>) -> Result<(), ApplyError> {
    let fd = match open_beneath(dir, b"", OFlags::RDONLY | OFlags::DIRECTORY) {
        // The result's own root may be closed to its owner by now; the caller's descriptor will do, unless O_PATH.
        Err(Errno::ACCESS) => return retry_on_intr(|| syncfs(dir)).during("sync the file system of", b""),
        opened => opened.during("open", b"")?,
    };
    retry_on_intr(|| syncfs(&fd)).during("sync the file system of", b"")
}

fn scan_error(error: ScanError) -> ApplyError {
    match error {
        ScanError::Io { path, errno } => ApplyError::Scan { path, source: errno.into() },
        ScanError::Unsettled { path } => ApplyError::Unsettled { path },
        ScanError::Depth { path, .. } => ApplyError::Scan { path, source: Errno::NAMETOOLONG.into() },
        ScanError::Build(error) => error.into(),
        ScanError::Cancelled(error) => error.into(),
    }
}
