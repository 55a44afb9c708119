//! The three sides of a merge.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use bootc_fast_core::etc::plan::SideInput;
use bootc_fast_core::tree::{self, Flagged};
use pyo3::prelude::*;

use crate::tree::Tree;
use crate::verity::duplicate;

/// One side of a merge: a tree, and where the contents of its files are.
#[pyclass(frozen, module = "bootc_fast._core")]
#[derive(Debug)]
pub struct Side {
    tree: Py<Tree>,
    dir: Option<OwnedFd>,
    objects: Option<OwnedFd>,
}

impl Side {
    /// As the core's merge takes it.
    pub fn input(&self) -> SideInput<'_> {
        SideInput { tree: self.tree(), dir: self.dir.as_ref(), objects: self.objects.as_ref() }
    }

    /// What is there.
    pub fn tree(&self) -> &tree::Tree {
        self.tree.get().inner()
    }

    /// The same place as it is now; itself, where it is no directory that could change.
    pub fn scanned_again(this: &Py<Self>, py: Python<'_>, check: Option<Py<PyAny>>) -> PyResult<Py<Self>> {
        let Some(dir) = &this.get().dir else { return Ok(this.clone_ref(py)) };
        let objects = this.get().objects.as_ref().map(OwnedFd::try_clone).transpose()?;
        let tree = Py::new(py, Tree::scan(py, dir.as_raw_fd(), check)?)?;
        Py::new(py, Self { tree, dir: Some(dir.try_clone()?), objects })
    }

    /// Mount points that the scan of the tree met and left out.
    pub fn hidden_paths(&self) -> &[Vec<u8>] {
        self.tree.get().hidden_paths()
    }

    /// What the scan of the tree met that is immutable or append-only.
    pub fn flagged(&self) -> &[Flagged] {
        self.tree.get().flagged()
    }
}

#[pymethods]
impl Side {
    /// Duplicates the descriptors; they stay open as long as this, or a plan made of it, lives.
    #[new]
    #[pyo3(signature = (tree, dir_fd = None, objects_fd = None))]
    fn new(tree: Py<Tree>, dir_fd: Option<RawFd>, objects_fd: Option<RawFd>) -> PyResult<Self> {
        let duplicate = |fd: Option<RawFd>| fd.map(duplicate).transpose().map(|file| file.map(OwnedFd::from));
        Ok(Self { tree, dir: duplicate(dir_fd)?, objects: duplicate(objects_fd)? })
    }
}
