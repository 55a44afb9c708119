//! The three sides of a merge.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use bootc_fast_core::etc::plan::SideInput;
use bootc_fast_core::tree::{self, Flagged};
use pyo3::prelude::*;

use crate::held::Held;
use crate::tree::Tree;
use crate::verity::duplicate;

/// A tree, and where the contents of its files are.
#[derive(Debug)]
pub struct Place {
    tree: Py<Tree>,
    dir: Option<OwnedFd>,
    objects: Option<OwnedFd>,
}

impl Place {
    /// As the core's merge takes it.
    pub fn input(&self) -> SideInput<'_> {
        SideInput { tree: self.tree(), dir: self.dir.as_ref(), objects: self.objects.as_ref() }
    }

    /// What is there.
    pub fn tree(&self) -> &tree::Tree {
        self.tree.get().inner()
    }

    /// The same place as it is now; itself, where it is no directory that could change.
    pub fn scanned_again(this: &Arc<Self>, py: Python<'_>, check: Option<Py<PyAny>>) -> PyResult<Arc<Self>> {
        let Some(dir) = &this.dir else { return Ok(Arc::clone(this)) };
        let objects = this.objects.as_ref().map(OwnedFd::try_clone).transpose()?;
        let tree = Py::new(py, Tree::scan(py, dir.as_raw_fd(), None, check)?)?;
        Ok(Arc::new(Self { tree, dir: Some(dir.try_clone()?), objects }))
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

/// One side of a merge, until it is closed; plans made of it keep the place of their own.
#[pyclass(frozen, module = "bootc_fast._core")]
#[derive(Debug)]
pub struct Side {
    place: Held<Place>,
}

impl Side {
    /// The place, for a plan.
    ///
    /// # Errors
    /// `ValueError`: it is closed.
    pub fn place(&self) -> PyResult<Arc<Place>> {
        self.place.get()
    }
}

#[pymethods]
impl Side {
    /// Duplicates the descriptors; they stay open until this, and every plan made of it, is closed or collected.
    #[new]
    #[pyo3(signature = (tree, dir_fd = None, objects_fd = None))]
    fn new(tree: Py<Tree>, dir_fd: Option<RawFd>, objects_fd: Option<RawFd>) -> PyResult<Self> {
        let duplicate = |fd: Option<RawFd>| fd.map(duplicate).transpose().map(|file| file.map(OwnedFd::from));
        let place = Place { tree, dir: duplicate(dir_fd)?, objects: duplicate(objects_fd)? };
        Ok(Self { place: Held::new(Arc::new(place), "side of the merge") })
    }

    /// Lets the descriptors go.
    fn close(&self) {
        self.place.close();
    }
}
