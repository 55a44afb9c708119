//! Planning the /etc merge.

use std::collections::BTreeMap;
use std::sync::Arc;

use bootc_fast_core::cancel::Cancel;
use bootc_fast_core::erofs;
use bootc_fast_core::etc::content::ContentError;
use bootc_fast_core::etc::plan::{PlanError, PlanInput, SideInput, plan};
use bootc_fast_core::etc::policy::{Policy, Preference, matches};
use bootc_fast_core::etc::result::{Change, Conflict, MergeResult, SideName, Strategy};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::etc_side::{Place, Side};
use crate::held::Held;
use crate::image::Image;
use crate::tree::TreeEntry;
use crate::{call, os_error};

pyo3::import_exception!(bootc_fast.errors, FileSystemError);
pyo3::import_exception!(bootc_fast.errors, InvalidStateError);
pyo3::import_exception!(bootc_fast.errors, UsageError);

/// Plans made of sides that change while they are read; the last one takes what it finds.
const MAX_PLANS: usize = 4;

/// A decided merge, with what is needed to write it: the three trees and their descriptors.
#[pyclass(frozen, module = "bootc_fast._core")]
#[derive(Debug)]
pub struct EtcPlan {
    merged: MergeResult,
    side_lengths: [usize; 3],
    policy: Arc<Policy>,
    sources: Held<Sources>,
}

/// What a merge is made from: what has descriptors.
#[derive(Debug)]
pub struct Sources {
    /// P, C and N.
    sides: [Arc<Place>; 3],
    /// The whole booted and the whole new image.
    images: [Option<Arc<erofs::Image>>; 2],
}

impl Sources {
    /// P, C and N as they were planned with.
    pub fn inputs(&self) -> [SideInput<'_>; 3] {
        self.sides.each_ref().map(|side| side.input())
    }

    /// The same as it is now.
    fn scanned_again(&self, py: Python<'_>, check: Option<&Py<PyAny>>) -> PyResult<Self> {
        let scan = |side| Place::scanned_again(side, py, check.map(|check| check.clone_ref(py)));
        let [pristine, current, new] = &self.sides;
        let sides = [scan(pristine)?, scan(current)?, scan(new)?];
        Ok(Self { sides, images: self.images.clone() })
    }
}

impl EtcPlan {
    /// Decides, and scans and decides again where a file was not what the scan saw when it was read.
    fn settle(
        py: Python<'_>,
        sources: Sources,
        policy: &Arc<Policy>,
        progress: Option<&Py<PyAny>>,
        check: Option<&Py<PyAny>>,
    ) -> PyResult<Self> {
        let mut plan = Self::decide(py, sources, Arc::clone(policy), progress, check, false)?;
        for count in 2..=MAX_PLANS {
            if !plan.merged.is_stale {
                break;
            }
            let sources = plan.sources()?.scanned_again(py, check)?;
            plan = Self::decide(py, sources, Arc::clone(policy), progress, check, count == MAX_PLANS)?;
        }
        Ok(plan)
    }

    fn decide(
        py: Python<'_>,
        sources: Sources,
        policy: Arc<Policy>,
        progress: Option<&Py<PyAny>>,
        check: Option<&Py<PyAny>>,
        is_last: bool,
    ) -> PyResult<Self> {
        let [pristine, current, new] = sources.inputs();
        let [pristine_image, new_image] = sources.images.each_ref().map(Option::as_deref);
        let [_, running, _] = &sources.sides;
        let input = PlanInput {
            pristine,
            current,
            new,
            hidden: running.hidden_paths(),
            flagged: running.flagged(),
            policy: &policy,
            is_last,
            pristine_image,
            new_image,
        };
        let work = |cancel: &dyn Cancel| plan(&input, cancel);
        let [progress, check] = [progress, check].map(|asked| asked.map(|asked| asked.clone_ref(py)));
        let merged = call::detached_telling(py, check, progress, work, |_, error| plan_error(error))?;
        let side_lengths = sources.inputs().map(|input| input.tree.len());
        Ok(Self { merged, side_lengths, policy, sources: Held::new(Arc::new(sources), "plan") })
    }

    /// The same merge of the sides as they are now.
    pub fn again(&self, py: Python<'_>, check: Option<&Py<PyAny>>) -> PyResult<Self> {
        let sources = self.sources()?.scanned_again(py, check)?;
        Self::settle(py, sources, &self.policy, None, check)
    }

    /// R and where its contents come from.
    pub fn merged(&self) -> &MergeResult {
        &self.merged
    }

    /// What it was made from, for one use.
    ///
    /// # Errors
    /// `ValueError`: the plan is closed.
    pub fn sources(&self) -> PyResult<Arc<Sources>> {
        self.sources.get()
    }
}

impl EtcPlan {
    /// The conflicts that forbid writing, as the tuple of `EtcConflict` that the exception carries.
    pub fn conflict_objects(&self, py: Python<'_>) -> PyResult<Py<PyTuple>> {
        let types = py.import("bootc_fast.types")?;
        let (conflict, strategy) = (types.getattr("EtcConflict")?, types.getattr("Strategy")?);
        let fatal = self.merged.report.fatal_conflicts();
        let objects = conflict_rows(py, fatal)
            .into_iter()
            .map(|(path, current, new, name, saved_as)| {
                conflict.call1((path, current, new, strategy.call1((name,))?, saved_as))
            })
            .collect::<PyResult<Vec<_>>>()?;
        Ok(PyTuple::new(py, objects)?.unbind())
    }
}

/// `(path, reason)`.
pub type ChangeRow = (Py<PyBytes>, String);
/// `(path, current, new, strategy, saved_as)`.
type ConflictRow = (Py<PyBytes>, String, String, &'static str, Option<Py<PyBytes>>);

fn rows(py: Python<'_>, changes: &[Change]) -> Vec<ChangeRow> {
    let row = |change: &Change| (PyBytes::new(py, &change.path).unbind(), change.reason.clone());
    changes.iter().map(row).collect()
}

fn conflict_rows<'c>(py: Python<'_>, conflicts: impl Iterator<Item = &'c Conflict>) -> Vec<ConflictRow> {
    let bytes = |path: &[u8]| PyBytes::new(py, path).unbind();
    let row = |conflict: &Conflict| {
        let saved_as = conflict.saved_as.as_deref().map(bytes);
        let strategy = conflict.strategy.name();
        (bytes(&conflict.path), conflict.current.clone(), conflict.new.clone(), strategy, saved_as)
    };
    conflicts.map(row).collect()
}

#[pymethods]
impl EtcPlan {
    /// Entries of R.
    fn __len__(&self) -> usize {
        self.merged.tree.len()
    }

    /// Entries of P, C and N.
    #[getter]
    fn side_lengths(&self) -> [usize; 3] {
        self.side_lengths
    }

    /// Lets the descriptors go: it can be read, and neither written nor its entries listed any more.
    fn close(&self) {
        self.sources.close();
    }

    /// R, for tests and dumps; every entry with the side and the path that its content comes from.
    fn entries(&self, py: Python<'_>) -> PyResult<Vec<(TreeEntry, &'static str, Py<PyBytes>)>> {
        let sources = self.sources()?;
        let [pristine, current, new] = &sources.sides;
        let mut found = Vec::with_capacity(self.merged.tree.len());
        let mut pending = vec![self.merged.tree.root()];
        while let Some(node) = pending.pop() {
            pending.extend(node.children());
            let Some(origin) = self.merged.origin(node.id()) else { continue };
            let (name, side) = match origin.side {
                SideName::Pristine => ("pristine", pristine),
                SideName::Current => ("current", current),
                SideName::New => ("new", new),
            };
            let path = PyBytes::new(py, &side.tree().node(origin.node).path()).unbind();
            found.push((TreeEntry::new(py, &node)?, name, path));
        }
        Ok(found)
    }

    /// How many entries of R each uid and each gid has.
    fn count_owners(&self) -> (BTreeMap<u32, usize>, BTreeMap<u32, usize>) {
        let (mut users, mut groups) = (BTreeMap::<u32, usize>::new(), BTreeMap::<u32, usize>::new());
        let mut pending = vec![self.merged.tree.root()];
        while let Some(node) = pending.pop() {
            pending.extend(node.children());
            for (counts, id) in [(&mut users, node.stat().uid), (&mut groups, node.stat().gid)] {
                let count = counts.entry(id).or_default();
                *count = count.saturating_add(1);
            }
        }
        (users, groups)
    }

    /// The side that the content of an entry of R comes from; `None` where R has no such entry.
    fn side_of(&self, path: &[u8]) -> Option<&'static str> {
        let origin = self.merged.origin(self.merged.tree.find(path)?.id())?;
        Some(match origin.side {
            SideName::Pristine => "pristine",
            SideName::Current => "current",
            SideName::New => "new",
        })
    }

    #[getter]
    fn kept(&self, py: Python<'_>) -> Vec<ChangeRow> {
        rows(py, &self.merged.report.kept)
    }

    #[getter]
    fn deleted(&self, py: Python<'_>) -> Vec<ChangeRow> {
        rows(py, &self.merged.report.deleted)
    }

    #[getter]
    fn image_changes_ignored(&self, py: Python<'_>) -> Vec<ChangeRow> {
        rows(py, &self.merged.report.image_changes_ignored)
    }

    #[getter]
    fn image_additions_kept(&self, py: Python<'_>) -> Vec<ChangeRow> {
        rows(py, &self.merged.report.image_additions_kept)
    }

    #[getter]
    fn dangling_links(&self, py: Python<'_>) -> Vec<ChangeRow> {
        rows(py, &self.merged.report.dangling_links)
    }

    #[getter]
    fn conflicts(&self, py: Python<'_>) -> Vec<ConflictRow> {
        conflict_rows(py, self.merged.report.conflicts.iter())
    }

    #[getter]
    fn warnings(&self, py: Python<'_>) -> Vec<ChangeRow> {
        let row = |path: &[u8], text: &str| (PyBytes::new(py, path).unbind(), text.to_owned());
        self.merged.report.warnings.iter().map(|one| row(one.path(), &one.text())).collect()
    }

    /// Those that forbid writing.
    #[getter]
    fn fatal_conflicts(&self, py: Python<'_>) -> Vec<ConflictRow> {
        conflict_rows(py, self.merged.report.fatal_conflicts())
    }
}

/// Decides the result of a merge; writes nothing.
#[pyfunction]
#[pyo3(signature = (
    pristine, current, new, *, rules = Vec::new(), default = "fail", preferences = Vec::new(),
    pristine_image = None, new_image = None, progress = None, check = None,
))]
#[allow(clippy::too_many_arguments)] // Keyword arguments of a Python function; a struct would have as many.
#[allow(clippy::needless_pass_by_value)] // PyO3 makes the arguments, and nobody else has them.
pub fn plan_etc(
    py: Python<'_>,
    pristine: Py<Side>,
    current: Py<Side>,
    new: Py<Side>,
    rules: Vec<(Vec<u8>, String)>,
    default: &str,
    preferences: Vec<(Vec<u8>, String)>,
    pristine_image: Option<Py<Image>>,
    new_image: Option<Py<Image>>,
    progress: Option<Py<PyAny>>,
    check: Option<Py<PyAny>>,
) -> PyResult<EtcPlan> {
    let preferences = preferences
        .into_iter()
        .map(|(pattern, name)| Ok((pattern, preference(&name)?)))
        .collect::<PyResult<Vec<_>>>()?;
    let policy = Policy::new(
        rules
            .into_iter()
            .map(|(pattern, name)| Ok((pattern, strategy(&name)?)))
            .collect::<PyResult<Vec<_>>>()?,
        strategy(default)?,
    );
    let policy = Arc::new(policy.with_preferences(preferences));
    let place = |side: Py<Side>| side.get().place();
    let image = |image: Option<Py<Image>>| image.map(|image| image.get().inner()).transpose();
    let sources = Sources {
        sides: [place(pristine)?, place(current)?, place(new)?],
        images: [image(pristine_image)?, image(new_image)?],
    };
    EtcPlan::settle(py, sources, &policy, progress.as_ref(), check.as_ref())
}

/// Whether a pattern of a merge policy matches a whole path below /etc.
#[pyfunction]
pub fn policy_pattern_matches(pattern: &[u8], path: &[u8]) -> bool {
    matches(pattern, path)
}

fn strategy(name: &str) -> PyResult<Strategy> {
    let error = || PyValueError::new_err(format!("strategy {name:?} is none of fail, current, new"));
    Strategy::from_name(name).ok_or_else(error)
}

fn preference(name: &str) -> PyResult<Preference> {
    let error =
        || PyValueError::new_err(format!("preference {name:?} is none of current, new, machine-made"));
    Preference::from_name(name).ok_or_else(error)
}

fn plan_error(error: PlanError) -> PyErr {
    let text = format!("plan the /etc merge: {error}");
    match error {
        PlanError::Content(ContentError::MissingObject { .. }) => InvalidStateError::new_err(text),
        PlanError::Content(ContentError::NoDescriptor { .. }) => UsageError::new_err(text),
        PlanError::Content(ContentError::Io { path, source }) => os_error::of_path(&source, &path),
        _ => FileSystemError::new_err(text),
    }
}
