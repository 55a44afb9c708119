//! Trees of files, made by images, scans and the writer; immutable and shared between threads.

use std::os::fd::{AsFd, RawFd};
use std::sync::Arc;

use bootc_fast_core::cancel::Cancel;
use bootc_fast_core::erofs::{Image, Inode, ViewContent};
use bootc_fast_core::tree::{self, Content, Flagged, Node, Scan, ScanError, Stat};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::image::erofs_error;
use crate::verity::duplicate;
use crate::{call, os_error};

pyo3::import_exception!(bootc_fast.errors, FileSystemError);

/// A tree of files: what an image shows, or what a scanned directory held.
#[pyclass(frozen, module = "bootc_fast._core")]
#[derive(Debug)]
pub struct Tree {
    inner: Arc<tree::Tree>,
    mounts: Vec<Vec<u8>>,
    flagged: Vec<Flagged>,
}

impl Tree {
    /// Hands a tree to Python.
    pub fn new(inner: tree::Tree) -> Self {
        Self { inner: Arc::new(inner), mounts: Vec::new(), flagged: Vec::new() }
    }

    /// Mount points that a scan met: paths below the root that the tree knows nothing about.
    pub fn hidden_paths(&self) -> &[Vec<u8>] {
        &self.mounts
    }

    /// What a scan met that is immutable or append-only.
    pub fn flagged(&self) -> &[Flagged] {
        &self.flagged
    }

    /// The core's tree, shared.
    pub fn inner(&self) -> &Arc<tree::Tree> {
        &self.inner
    }
}

#[pymethods]
impl Tree {
    /// Scans a live directory; files are not opened, symlinks not followed, mounts not crossed.
    #[staticmethod]
    #[pyo3(signature = (dir_fd, *, progress = None, check = None))]
    pub fn scan(
        py: Python<'_>,
        dir_fd: RawFd,
        progress: Option<Py<PyAny>>,
        check: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let dir = duplicate(dir_fd)?;
        let work = |cancel: &dyn Cancel| tree::scan(dir.as_fd(), cancel);
        let Scan { tree, report } = call::detached_telling(py, check, progress, work, scan_error)?;
        Ok(Self { inner: Arc::new(tree), mounts: report.mounts, flagged: report.flagged })
    }

    /// Mount points that the scan met and left out, with everything below them; empty for an image.
    #[getter]
    fn mounts(&self, py: Python<'_>) -> Vec<Py<PyBytes>> {
        self.mounts.iter().map(|path| PyBytes::new(py, path).unbind()).collect()
    }

    fn __len__(&self) -> usize {
        self.inner.len()
    }

    /// Every node, a directory before its children, siblings in byte order of their names.
    fn entries(&self, py: Python<'_>) -> PyResult<Vec<TreeEntry>> {
        let mut entries = Vec::with_capacity(self.inner.len());
        let mut pending = vec![self.inner.root()];
        while let Some(node) = pending.pop() {
            entries.push(TreeEntry::new(py, &node)?);
            let first_child = pending.len();
            pending.extend(node.children());
            if let Some(children) = pending.get_mut(first_child..) {
                children.reverse();
            }
        }
        Ok(entries)
    }

    /// The entry at a path below the root; `None` where there is none.
    fn find(&self, py: Python<'_>, path: &[u8]) -> PyResult<Option<TreeEntry>> {
        self.inner.find(path).map(|node| TreeEntry::new(py, &node)).transpose()
    }
}

/// An `OSError` with the path as its file name, or the package's own error where no system call is to blame.
fn scan_error(_py: Python<'_>, error: ScanError) -> PyErr {
    match error {
        ScanError::Io { path, errno } => os_error::of_path(&errno.into(), &path),
        other => FileSystemError::new_err(other.to_string()),
    }
}

/// One file of a tree, with all attributes.
#[pyclass(frozen, get_all, module = "bootc_fast._core")]
#[derive(Debug)]
pub struct TreeEntry {
    path: Py<PyBytes>,
    mode: u32,
    uid: u32,
    gid: u32,
    nlink: u32,
    rdev: u64,
    size_bytes: u64,
    mtime_ns: i128,
    xattrs: Py<PyDict>,
    content: &'static str,
    data: Option<Py<PyBytes>>,
    target: Option<Py<PyBytes>>,
    digest: Option<String>,
    link_group: Option<u32>,
}

/// How Python sees a content: its kind, and the one of the three that goes with it.
type PyContent = (&'static str, Option<Py<PyBytes>>, Option<Py<PyBytes>>, Option<String>);

impl TreeEntry {
    /// Copies a node.
    pub fn new(py: Python<'_>, node: &Node<'_>) -> PyResult<Self> {
        let bytes = |data: &[u8]| Some(PyBytes::new(py, data).unbind());
        let content = match node.content() {
            Content::None => ("none", None, None, None),
            Content::Inline(data) => ("inline", bytes(data), None, None),
            Content::Target(target) => ("target", None, bytes(target), None),
            Content::Object(digest) => ("object", None, None, Some(digest.to_string())),
            Content::OnDisk => ("on-disk", None, None, None),
        };
        let xattrs = node.xattrs().map(|xattr| (xattr.name, xattr.value));
        Self::make(py, &node.path(), node.stat(), xattrs, content, node.link_group())
    }

    /// Copies what the kernel shows of an image's inode; content that is in the image stays there.
    pub fn of_image(py: Python<'_>, image: &Image, inode: &Inode, path: &[u8]) -> PyResult<Self> {
        let view = image.view(inode, path).map_err(|error| erofs_error(py, error))?;
        let content = match &view.content {
            ViewContent::None => ("none", None, None, None),
            ViewContent::Target(target) => ("target", None, Some(PyBytes::new(py, target).unbind()), None),
            ViewContent::Object(digest) => ("object", None, None, Some(digest.to_string())),
            ViewContent::InImage => ("image", None, None, None),
        };
        let is_linked = inode.stat.nlink > 1 && inode.file_type() != tree::FileType::Directory;
        let link_group = if is_linked { u32::try_from(inode.nid.0).ok() } else { None };
        let xattrs = view.xattrs.iter().map(|(name, value)| (name.as_slice(), *value));
        Self::make(py, path, &inode.stat, xattrs, content, link_group)
    }

    fn make<'a>(
        py: Python<'_>,
        path: &[u8],
        stat: &Stat,
        xattrs: impl Iterator<Item = (&'a [u8], &'a [u8])>,
        (content, data, target, digest): PyContent,
        link_group: Option<u32>,
    ) -> PyResult<Self> {
        let dict = PyDict::new(py);
        for (name, value) in xattrs {
            dict.set_item(PyBytes::new(py, name), PyBytes::new(py, value))?;
        }
        Ok(Self {
            path: PyBytes::new(py, path).unbind(),
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            nlink: stat.nlink,
            rdev: stat.rdev,
            size_bytes: stat.size_bytes,
            mtime_ns: i128::from(stat.mtime.secs) * 1_000_000_000 + i128::from(stat.mtime.nanos),
            xattrs: dict.unbind(),
            content,
            data,
            target,
            digest,
            link_group,
        })
    }
}

#[pymethods]
impl TreeEntry {
    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let path = self.path.bind(py).repr()?;
        Ok(format!("TreeEntry({path}, mode={:#o}, content={:?})", self.mode, self.content))
    }
}
