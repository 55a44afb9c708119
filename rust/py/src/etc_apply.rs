//! Writing a merge result: operations listed and carried out.

use std::fs::File;
use std::os::fd::{AsFd, RawFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bootc_fast_core::cancel::{Cancel, Cancelled};
use bootc_fast_core::etc::apply::{
    Applied, ApplyError, Difference, Merged, Pass, Warning, apply_merge, compare,
};
use bootc_fast_core::etc::content::ContentError;
use bootc_fast_core::etc::ops::{Make, Operation};
use bootc_fast_core::tree::Tree;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::etc_plan::{ChangeRow, EtcPlan, Sources};
use crate::verity::duplicate;
use crate::{call, os_error};

pyo3::import_exception!(bootc_fast.errors, EtcConflictError);
pyo3::import_exception!(bootc_fast.errors, FileSystemError);
pyo3::import_exception!(bootc_fast.errors, InvalidStateError);
pyo3::import_exception!(bootc_fast.errors, UsageError);

/// Linux's number for "No space left on device".
const ENOSPC: i32 = 28;

/// Writings, each of a plan of its own, after which what is another thing each time is an error.
const MAX_PASSES: usize = 16;

/// Time between two calls of Python's `progress`.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(50);

/// `(action, path, size_bytes, entries, link_to, attributes)`, as `bootc_fast.types.EtcOperation` takes them.
pub type OperationRow =
    (&'static str, Py<PyBytes>, Option<u64>, Option<u64>, Option<Py<PyBytes>>, Vec<&'static str>);

/// What a writing did.
#[pyclass(frozen, get_all, module = "bootc_fast._core")]
#[derive(Debug)]
pub struct EtcApplied {
    operations: Vec<OperationRow>,
    bytes_copied: u64,
    warnings: Vec<ChangeRow>,
    compare_s: f64,
    apply_s: f64,
    sync_s: f64,
    /// What was written, where the sides had changed and were merged again.
    plan: Option<Py<EtcPlan>>,
}

/// Lists what would turn the directory into the merge result; changes nothing.
#[pyfunction]
#[pyo3(signature = (plan, dest_fd, *, progress = None, check = None))]
pub fn list_etc_operations(
    py: Python<'_>,
    plan: &EtcPlan,
    dest_fd: RawFd,
    progress: Option<Py<PyAny>>,
    check: Option<Py<PyAny>>,
) -> PyResult<Vec<OperationRow>> {
    let dir = duplicate(dest_fd)?;
    let result = &plan.merged().tree;
    let sources = plan.sources()?;
    let work = |cancel: &dyn Cancel| {
        with_contents(plan, &sources, |merged| compare(result, merged, dir.as_fd(), cancel))
    };
    let Difference { operations, before, .. } =
        call::detached_telling(py, check, progress, work, |py, error| apply_error(py, plan, &error))?;
    Ok(rows(py, &operations, result, &before))
}

fn with_contents<T>(plan: &EtcPlan, sources: &Sources, work: impl FnOnce(&Merged<'_>) -> T) -> T {
    let [pristine, current, new] = sources.inputs().map(|input| input.side());
    work(&Merged { result: plan.merged(), pristine: &pristine, current: &current, new: &new })
}

/// Turns the directory into the merge result and syncs its file system.
///
/// Where a file of the sides was replaced or changed since the scan, the sides are scanned and merged again, and the
/// result of that is written, up to [`MAX_PASSES`] times; a file that changed once more is then taken as it is.
/// `comparing(done, total)` is called now and then with entries found and files read of the directory,
/// `progress(done, total)` with operations; an exception of either ends the writing like one of `check`.
#[pyfunction]
#[pyo3(signature = (plan, dest_fd, *, comparing = None, progress = None, check = None))]
pub fn apply_etc(
    py: Python<'_>,
    plan: &EtcPlan,
    dest_fd: RawFd,
    comparing: Option<Py<PyAny>>,
    progress: Option<Py<PyAny>>,
    check: Option<Py<PyAny>>,
) -> PyResult<EtcApplied> {
    let mut writing = Writing { dir: duplicate(dest_fd)?, comparing, progress, check, done: 0 };
    let first = writing.write(py, plan, Pass::First)?;
    let mut is_stale = !first.stale.is_empty();
    let mut all = EtcApplied::new(py, plan, &first);
    let mut latest = None;
    for count in 2..=MAX_PASSES {
        if !is_stale {
            break;
        }
        let again = latest.as_ref().unwrap_or(plan).again(py, writing.check.as_ref())?;
        let pass = if count == MAX_PASSES { Pass::Last } else { Pass::Again };
        let applied = writing.write(py, &again, pass)?;
        is_stale = !applied.stale.is_empty();
        all.add(EtcApplied::new(py, &again, &applied));
        latest = Some(again);
    }
    all.plan = latest.map(|plan| Py::new(py, plan)).transpose()?;
    Ok(all)
}

/// One call of [`apply_etc`].
struct Writing {
    dir: File,
    comparing: Option<Py<PyAny>>,
    progress: Option<Py<PyAny>>,
    check: Option<Py<PyAny>>,
    /// Operations of passes before.
    done: usize,
}

impl Writing {
    fn write(&mut self, py: Python<'_>, plan: &EtcPlan, pass: Pass) -> PyResult<Applied> {
        let failed: Mutex<Option<PyErr>> = Mutex::new(None);
        let sources = plan.sources()?;
        let (progress, before, dir) = (self.progress.as_ref(), self.done, self.dir.as_fd());
        let work = |cancel: &dyn Cancel| {
            let mut told = Instant::now();
            let mut tell = |done: usize, total: usize| {
                let Some(progress) =
                    progress.filter(|_| done == total || told.elapsed() >= PROGRESS_INTERVAL)
                else {
                    return Ok(());
                };
                told = Instant::now();
                let numbers = (before.saturating_add(done), before.saturating_add(total));
                Python::attach(|py| progress.call1(py, numbers)).map(drop).map_err(|error| {
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    Cancelled
                })
            };
            with_contents(plan, &sources, |merged| apply_merge(merged, dir, pass, &mut tell, cancel))
        };
        let map = |py: Python<'_>, error| {
            let raised = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
            raised.unwrap_or_else(|| apply_error(py, plan, &error))
        };
        let [comparing, check] =
            [&self.comparing, &self.check].map(|asked| asked.as_ref().map(|asked| asked.clone_ref(py)));
        let applied = call::detached_telling(py, check, comparing, work, map)?;
        self.done = before.saturating_add(applied.operations.len());
        Ok(applied)
    }
}

impl EtcApplied {
    /// Of one pass.
    fn new(py: Python<'_>, plan: &EtcPlan, applied: &Applied) -> Self {
        let row = |one: &Warning| (PyBytes::new(py, one.path()).unbind(), one.text());
        Self {
            operations: rows(py, &applied.operations, &plan.merged().tree, &applied.before),
            bytes_copied: applied.bytes_copied,
            warnings: applied.warnings.iter().map(row).collect(),
            compare_s: applied.compare.as_secs_f64(),
            apply_s: applied.apply.as_secs_f64(),
            sync_s: applied.sync.as_secs_f64(),
            plan: None,
        }
    }

    /// Adds what a later pass did, which found anew whatever there was to warn of.
    fn add(&mut self, later: Self) {
        self.operations.extend(later.operations);
        self.warnings = later.warnings;
        self.bytes_copied = self.bytes_copied.saturating_add(later.bytes_copied);
        self.compare_s += later.compare_s;
        self.apply_s += later.apply_s;
        self.sync_s += later.sync_s;
    }
}

fn rows(py: Python<'_>, operations: &[Operation], result: &Tree, before: &Tree) -> Vec<OperationRow> {
    let bytes = |path: Vec<u8>| PyBytes::new(py, &path).unbind();
    let row = |operation: &Operation| {
        let path = bytes(operation.path(result, before));
        let plain = |name, path| (name, path, None, None, None, Vec::new());
        match *operation {
            Operation::Unlock(_) => plain("unlock", path),
            Operation::Remove { entries, .. } => ("remove", path, None, Some(entries), None, Vec::new()),
            Operation::Make { what: Make::Directory, .. } => plain("make-directory", path),
            Operation::Make { what: Make::File, node, .. } => {
                ("write-file", path, Some(result.node(node).stat().size_bytes), None, None, Vec::new())
            }
            Operation::Make { what: Make::Link { first }, .. } => {
                let first = bytes(result.node(first).path());
                ("link", path, None, None, Some(first), Vec::new())
            }
            Operation::Make { what: Make::Symlink, .. } => plain("make-symlink", path),
            Operation::Make { what: Make::Node, .. } => plain("make-node", path),
            Operation::SetAttributes { which, .. } => {
                ("set-attributes", path, None, None, None, which.names().collect())
            }
        }
    };
    operations.iter().map(row).collect()
}

/// The exception for an error of the core; the system's own error becomes its cause.
fn apply_error(py: Python<'_>, plan: &EtcPlan, error: &ApplyError) -> PyErr {
    let what = format!("write the merged /etc: {error}");
    let text = match error.io() {
        Some((cause, _)) => format!("{what}: {}", os_error::words(cause)),
        None => what,
    };
    let made = match error {
        ApplyError::Content { source: source @ ContentError::MissingObject { .. }, .. } => {
            InvalidStateError::new_err(format!("{text}: {source}"))
        }
        ApplyError::Content { source: source @ ContentError::NoDescriptor { .. }, .. } => {
            UsageError::new_err(format!("{text}: {source}"))
        }
        ApplyError::Tree(source) => FileSystemError::new_err(format!("{text}: {source}")),
        ApplyError::Conflicts { .. } => {
            plan.conflict_objects(py).map_or_else(|error| error, |all| EtcConflictError::new_err((text, all)))
        }
        _ => FileSystemError::new_err(text),
    };
    if let ApplyError::Room { path, .. } = error {
        made.set_cause(py, Some(os_error::of_path(&std::io::Error::from_raw_os_error(ENOSPC), path)));
    }
    if let Some((cause, path)) = error.io() {
        made.set_cause(py, Some(os_error::of_path(cause, path)));
    }
    made
}
