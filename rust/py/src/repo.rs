//! Writing composefs repositories.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};

use bootc_fast_core::cancel::Cancel;
use bootc_fast_core::repo::{IngestOptions, RepoError, Repository};
use bootc_fast_core::tree::{BuildError, Content, NodeId, ScanError, Stat, Timestamp, TreeBuilder};
use bootc_fast_core::verity::Digest;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::tree::Tree;
use crate::verity::{algorithm_of, duplicate};
use crate::{call, os_error};

pyo3::import_exception!(bootc_fast.errors, FileSystemError);
pyo3::import_exception!(bootc_fast.errors, InvalidStateError);

fn to_python(error: &RepoError) -> PyErr {
    match error {
        RepoError::Io { path, errno, .. } | RepoError::Scan(ScanError::Io { path, errno }) => {
            os_error::of_path(&(*errno).into(), path)
        }
        RepoError::Build(_) => PyValueError::new_err(error.to_string()),
        RepoError::Meta { .. } => InvalidStateError::new_err(error.to_string()),
        _ => FileSystemError::new_err(error.to_string()),
    }
}

/// The same where an empty path is the file that was given by its descriptor.
fn given_file(error: &RepoError, fd: RawFd) -> PyErr {
    match error {
        RepoError::Io { path, errno, .. } if path.is_empty() => os_error::of_raw(&(*errno).into(), fd),
        other => to_python(other),
    }
}

/// A composefs repository that objects and images are added to.
#[pyclass(frozen, module = "bootc_fast._core")]
#[derive(Debug)]
pub struct RepositoryWriter {
    inner: Repository,
}

impl RepositoryWriter {
    fn run<T: Send>(
        &self,
        py: Python<'_>,
        check: Option<Py<PyAny>>,
        progress: Option<Py<PyAny>>,
        work: impl FnOnce(&Repository, &dyn Cancel) -> Result<T, RepoError> + Send,
    ) -> PyResult<T> {
        call::detached_telling(
            py,
            check,
            progress,
            |cancel| work(&self.inner, cancel),
            |_, error| to_python(&error),
        )
    }
}

#[pymethods]
impl RepositoryWriter {
    #[new]
    #[pyo3(signature = (repo_fd, *, algorithm = "sha512", durable = false))]
    fn new(py: Python<'_>, repo_fd: RawFd, algorithm: &str, durable: bool) -> PyResult<Self> {
        let algorithm = algorithm_of(algorithm)?;
        let root = duplicate(repo_fd)?;
        let opened = py.detach(|| Repository::open(root.as_fd(), algorithm, durable));
        opened.map(|inner| Self { inner }).map_err(|error| to_python(&error))
    }

    /// Stores the files of a directory tree.
    #[pyo3(signature = (dir_fd, *, squash_owner = None, exclude = Vec::new(), progress = None, check = None))]
    fn ingest_directory(
        &self,
        py: Python<'_>,
        dir_fd: RawFd,
        squash_owner: Option<(u32, u32)>,
        exclude: Vec<Vec<u8>>,
        progress: Option<Py<PyAny>>,
        check: Option<Py<PyAny>>,
    ) -> PyResult<Tree> {
        let dir = duplicate(dir_fd)?;
        let options = IngestOptions { squash_owner, exclude };
        self.run(py, check, progress, |inner, cancel| inner.ingest_directory(dir.as_fd(), &options, cancel))
            .map(Tree::new)
    }

    /// Stores the files of a tar archive, read from the descriptor's position.
    #[pyo3(signature = (fd, *, squash_owner = None, exclude = Vec::new(), progress = None, check = None))]
    fn ingest_tar(
        &self,
        py: Python<'_>,
        fd: RawFd,
        squash_owner: Option<(u32, u32)>,
        exclude: Vec<Vec<u8>>,
        progress: Option<Py<PyAny>>,
        check: Option<Py<PyAny>>,
    ) -> PyResult<Tree> {
        let mut archive = duplicate(fd)?;
        let options = IngestOptions { squash_owner, exclude };
        let number = archive.as_raw_fd();
        let work = |cancel: &dyn Cancel| self.inner.ingest_tar(&mut archive, &options, cancel);
        call::detached_telling(py, check, progress, work, |_, error| given_file(&error, number))
            .map(Tree::new)
    }

    /// Stores one file, whole.
    #[pyo3(signature = (fd, *, check = None))]
    fn add_object(&self, py: Python<'_>, fd: RawFd, check: Option<Py<PyAny>>) -> PyResult<String> {
        let file = duplicate(fd)?;
        let work = |cancel: &dyn Cancel| self.inner.add_object(file.as_fd(), cancel);
        let digest = call::detached(py, check, work, |_, error| given_file(&error, file.as_raw_fd()))?;
        Ok(digest.to_string())
    }

    /// Writes the image of a tree, and its name in `images`.
    #[pyo3(signature = (tree, *, progress = None, check = None))]
    fn write_image(
        &self,
        py: Python<'_>,
        tree: &Bound<'_, Tree>,
        progress: Option<Py<PyAny>>,
        check: Option<Py<PyAny>>,
    ) -> PyResult<String> {
        let tree = tree.get().inner().clone();
        let digest = self.run(py, check, progress, |inner, cancel| inner.write_image(&tree, cancel))?;
        Ok(digest.to_string())
    }
}

/// What [`build_tree`] asks of an entry; a `TreeEntry` has it all.
#[derive(Debug, FromPyObject)]
struct Given {
    path: Vec<u8>,
    mode: u32,
    uid: u32,
    gid: u32,
    nlink: u32,
    rdev: u64,
    size_bytes: u64,
    mtime_ns: i128,
    xattrs: HashMap<Vec<u8>, Vec<u8>>,
    content: String,
    data: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    digest: Option<String>,
    link_group: Option<u32>,
}

impl Given {
    fn stat(&self) -> PyResult<Stat> {
        const SECOND: i128 = 1_000_000_000;
        let secs = i64::try_from(self.mtime_ns.div_euclid(SECOND))
            .map_err(|_| PyValueError::new_err("mtime_ns is out of range"))?;
        let nanos = u32::try_from(self.mtime_ns.rem_euclid(SECOND)).unwrap_or_default();
        let (mode, uid, gid, nlink, rdev, size_bytes) =
            (self.mode, self.uid, self.gid, self.nlink, self.rdev, self.size_bytes);
        Ok(Stat { mode, uid, gid, nlink, rdev, size_bytes, mtime: Timestamp { secs, nanos } })
    }

    fn digest(&self) -> PyResult<Option<Digest>> {
        let parse =
            |text: &String| Digest::from_hex(text).map_err(|error| PyValueError::new_err(error.to_string()));
        self.digest.as_ref().map(parse).transpose()
    }

    fn content<'c>(&'c self, digest: Option<&'c Digest>) -> PyResult<Content<'c>> {
        match (self.content.as_str(), &self.data, &self.target, digest) {
            ("none", ..) => Ok(Content::None),
            ("on-disk", ..) => Ok(Content::OnDisk),
            ("inline", Some(data), ..) => Ok(Content::Inline(data)),
            ("target", _, Some(target), _) => Ok(Content::Target(target)),
            ("object", _, _, Some(digest)) => Ok(Content::Object(digest)),
            (other, ..) => {
                Err(PyValueError::new_err(format!("content {other:?} is unknown or has no value")))
            }
        }
    }

    fn pairs(&self) -> Vec<(&[u8], &[u8])> {
        self.xattrs.iter().map(|(name, value)| (name.as_slice(), value.as_slice())).collect()
    }
}

/// Makes a tree of entries, the root first, directories before what is in them.
#[pyfunction]
pub fn build_tree(entries: &Bound<'_, PyAny>) -> PyResult<Tree> {
    let wrong = |error: BuildError| PyValueError::new_err(error.to_string());
    let mut builder: Option<TreeBuilder> = None;
    let mut directories = HashMap::from([(Vec::new(), NodeId::ROOT)]);
    for entry in entries.try_iter()? {
        let entry: Given = entry?.extract()?;
        let stat = entry.stat()?;
        let Some(builder) = builder.as_mut() else {
            if !entry.path.is_empty() {
                return Err(PyValueError::new_err("the first entry is not the root"));
            }
            builder = Some(TreeBuilder::new(stat, &entry.pairs()).map_err(wrong)?);
            continue;
        };
        let digest = entry.digest()?;
        let content = entry.content(digest.as_ref())?;
        let slash = entry.path.iter().rposition(|byte| *byte == b'/');
        let (parent, name) = match slash {
            Some(at) => (entry.path.get(..at), entry.path.get(at.saturating_add(1)..)),
            None => (Some(&[][..]), Some(entry.path.as_slice())),
        };
        let parent = parent.and_then(|path| directories.get(path)).copied();
        let parent = parent.ok_or_else(|| PyValueError::new_err("an entry comes before its directory"))?;
        let (name, group) = (name.unwrap_or_default(), entry.link_group.unwrap_or(0));
        let id = builder.add(parent, name, stat, &entry.pairs(), content, group).map_err(wrong)?;
        directories.insert(entry.path, id);
    }
    let builder = builder.ok_or_else(|| PyValueError::new_err("a tree has a root"))?;
    builder.finish().map(Tree::new).map_err(wrong)
}
