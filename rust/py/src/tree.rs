//! Trees of files, made by images, scans and the writer; immutable and shared between threads.

use std::sync::Arc;

use bootc_fast_core::tree::{self, Content, Node};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

/// A tree of files: what an image shows, or what a scanned directory held.
#[pyclass(frozen, module = "bootc_fast._core")]
#[derive(Debug)]
pub struct Tree {
    inner: Arc<tree::Tree>,
}

impl Tree {
    /// Hands a tree to Python.
    pub fn new(inner: tree::Tree) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// The core's tree, shared.
    pub fn inner(&self) -> &Arc<tree::Tree> {
        &self.inner
    }
}

#[pymethods]
impl Tree {
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

impl TreeEntry {
    /// Copies a node.
    pub fn new(py: Python<'_>, node: &Node<'_>) -> PyResult<Self> {
        let stat = node.stat();
        let xattrs = PyDict::new(py);
        for xattr in node.xattrs() {
            xattrs.set_item(PyBytes::new(py, xattr.name), PyBytes::new(py, xattr.value))?;
        }
        let bytes = |data: &[u8]| Some(PyBytes::new(py, data).unbind());
        let (content, data, target, digest) = match node.content() {
            Content::None => ("none", None, None, None),
            Content::Inline(data) => ("inline", bytes(data), None, None),
            Content::Target(target) => ("target", None, bytes(target), None),
            Content::Object(digest) => ("object", None, None, Some(digest.to_string())),
            Content::OnDisk => ("on-disk", None, None, None),
        };
        Ok(Self {
            path: PyBytes::new(py, &node.path()).unbind(),
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            nlink: stat.nlink,
            rdev: stat.rdev,
            size_bytes: stat.size_bytes,
            mtime_ns: i128::from(stat.mtime.secs) * 1_000_000_000 + i128::from(stat.mtime.nanos),
            xattrs: xattrs.unbind(),
            content,
            data,
            target,
            digest,
            link_group: node.link_group(),
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
