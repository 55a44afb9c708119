//! EROFS images.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use bootc_fast_core::cancel::Cancel;
use bootc_fast_core::erofs::{self, ErofsError, Inode, Reader, Superblock, Walk};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::held::Held;
use crate::tree::{Tree, TreeEntry};
use crate::verity::duplicate;
use crate::{call, os_error};

pyo3::import_exception!(bootc_fast.errors, ImageFormatError);
pyo3::import_exception!(bootc_fast.errors, ImageReadError);
pyo3::import_exception!(bootc_fast.errors, LimitExceededError);
pyo3::import_exception!(bootc_fast.errors, UsageError);

/// The path of the whole image.
const ROOT: &[u8] = b"";
/// Bytes collected before a dump is written out.
const BUFFER_BYTES: usize = 1 << 18;

/// The core's error as Python's, of a call that reads and writes nothing but the image.
pub fn erofs_error(py: Python<'_>, error: ErofsError) -> PyErr {
    map_error(py, error, -1)
}

/// The core's error as Python's; `fd` is what the image is opened from, or what is written to.
fn map_error(py: Python<'_>, error: ErofsError, fd: RawFd) -> PyErr {
    const ENOENT: i32 = 2;
    const ENOTDIR: i32 = 20;
    let system = std::io::Error::from_raw_os_error;
    let message = error.to_string();
    match error {
        ErofsError::Io(error) => os_error::of_raw(&error, fd),
        ErofsError::Limit { name, limit, .. } => LimitExceededError::new_err((message, name, limit)),
        ErofsError::NotFound { path } => os_error::of_path(&system(ENOENT), &path),
        ErofsError::NotADirectory { path } => os_error::of_path(&system(ENOTDIR), &path),
        ErofsError::NotAFile { .. } => UsageError::new_err(message),
        // `detached` raises what `check` raised instead; this is for a cancellation that no `check` asked for.
        ErofsError::Cancelled(_) => PyRuntimeError::new_err(message),
        ErofsError::CutOff { len, .. } => {
            ImageReadError::new_err((message, i64::try_from(len).unwrap_or(-1)))
        }
        ErofsError::Unreadable { offset, source, path } => {
            let at = i64::try_from(offset).unwrap_or(-1);
            let words = os_error::words(&source);
            let text = format!("the image cannot be read at offset {offset:#x}: {words}");
            let made = ImageReadError::new_err((text, at));
            made.set_cause(py, Some(os_error::of_path(&source, &path)));
            made
        }
        other => {
            let offset = other.offset().and_then(|offset| i64::try_from(offset).ok()).unwrap_or(-1);
            ImageFormatError::new_err((message, offset))
        }
    }
}

/// An opened EROFS image.
#[pyclass(frozen, module = "bootc_fast._core")]
#[derive(Debug)]
pub struct Image {
    inner: Held<erofs::Image>,
    superblock: Superblock,
    size: u64,
}

impl Image {
    /// The core's image.
    ///
    /// # Errors
    /// `ValueError`: it is closed.
    pub fn inner(&self) -> PyResult<Arc<erofs::Image>> {
        self.inner.get()
    }
}

#[pymethods]
impl Image {
    /// Reads the superblock; the descriptor may be closed afterwards.
    #[staticmethod]
    fn open(py: Python<'_>, fd: RawFd) -> PyResult<Self> {
        let file = duplicate(fd)?;
        let image = py
            .detach(|| erofs::Image::open(&file))
            .map_err(|error| map_error(py, error, file.as_raw_fd()))?;
        let (superblock, size) = (image.superblock().clone(), image.bytes().len());
        Ok(Self { inner: Held::new(Arc::new(image), "image"), superblock, size })
    }

    /// Lets the file go; what the superblock says stays.
    fn close(&self) {
        self.inner.close();
    }

    fn __enter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    #[pyo3(signature = (*_error))]
    fn __exit__(&self, _error: &Bound<'_, PyTuple>) {
        self.inner.close();
    }

    /// What the kernel shows below a directory; contents that are in the image are copied.
    #[pyo3(signature = (subdir = ROOT, *, check = None), text_signature = "($self, subdir=b'', *, check=None)")]
    fn tree(&self, py: Python<'_>, subdir: &[u8], check: Option<Py<PyAny>>) -> PyResult<Tree> {
        let image = self.inner()?;
        let work = |cancel: &dyn Cancel| image.tree(subdir, cancel);
        call::detached(py, check, work, erofs_error).map(Tree::new)
    }

    /// The entry at a path, as the kernel shows it; `None` where there is none.
    fn lookup(&self, py: Python<'_>, path: &[u8]) -> PyResult<Option<TreeEntry>> {
        let image = self.inner()?;
        match py.detach(|| image.find(path)) {
            Ok(inode) => TreeEntry::of_image(py, &image, &inode, path).map(Some),
            Err(ErofsError::NotFound { .. } | ErofsError::NotADirectory { .. }) => Ok(None),
            Err(error) => Err(erofs_error(py, error)),
        }
    }

    /// Iterates over what the kernel shows at and below a path.
    #[pyo3(signature = (path = ROOT, *, recursive = true), text_signature = "($self, path=b'', *, recursive=True)")]
    fn walk(&self, py: Python<'_>, path: &[u8], recursive: bool) -> PyResult<ImageWalk> {
        let image = self.inner()?;
        let make = || {
            image.find(path)?;
            Ok((Walk::new(&image, path)?, image.reader()?))
        };
        let (walk, reader) = make().map_err(|error| erofs_error(py, error))?;
        Ok(ImageWalk { reader, walk, recursive })
    }

    /// Writes the composefs dump of the image.
    #[pyo3(signature = (out_fd, *, progress = None, check = None))]
    fn dump(
        &self,
        py: Python<'_>,
        out_fd: RawFd,
        progress: Option<Py<PyAny>>,
        check: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let image = self.inner()?;
        let out = duplicate(out_fd)?;
        let number = out.as_raw_fd();
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, out);
        let work = |cancel: &dyn Cancel| {
            let result = image.dump(&mut out, cancel);
            // What comes before an error is still wanted, and what is not written now would be lost silently.
            let flushed = out.flush().map_err(ErofsError::from);
            result.and(flushed)
        };
        call::detached_telling(py, check, progress, work, |py, error| map_error(py, error, number))
    }

    /// Writes a regular file's content that is in the image.
    #[pyo3(signature = (path, out_fd, *, check = None))]
    fn copy_file(
        &self,
        py: Python<'_>,
        path: &[u8],
        out_fd: RawFd,
        check: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let image = self.inner()?;
        let mut out: File = duplicate(out_fd)?;
        let number = out.as_raw_fd();
        let work = |cancel: &dyn Cancel| image.copy_file(path, &mut out, cancel);
        call::detached(py, check, work, |py, error| map_error(py, error, number))
    }

    /// Reads everything; returns the number of entries, and the objects needed with their sizes.
    #[pyo3(signature = (*, progress = None, check = None))]
    fn verify(
        &self,
        py: Python<'_>,
        progress: Option<Py<PyAny>>,
        check: Option<Py<PyAny>>,
    ) -> PyResult<(u64, Vec<(String, u64)>)> {
        let image = self.inner()?;
        let work = |cancel: &dyn Cancel| image.verify(cancel);
        let contents = call::detached_telling(py, check, progress, work, erofs_error)?;
        let objects = contents.objects.iter().map(|(digest, size)| (digest.to_string(), *size)).collect();
        Ok((contents.entries, objects))
    }

    /// 0, 1, 2; `None` if it is no composefs image.
    #[getter]
    fn composefs_version(&self) -> Option<u32> {
        self.superblock.composefs.map(erofs::ComposefsVersion::number)
    }

    #[getter]
    fn block_bytes(&self) -> u64 {
        self.superblock.block_bytes()
    }

    #[getter]
    fn inode_count(&self) -> u64 {
        self.superblock.inode_count
    }

    #[getter]
    fn size_bytes(&self) -> u64 {
        self.size
    }

    #[getter]
    fn feature_compat(&self) -> u32 {
        self.superblock.feature_compat
    }

    #[getter]
    fn feature_incompat(&self) -> u32 {
        self.superblock.feature_incompat
    }

    #[getter]
    fn uuid<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.superblock.uuid)
    }
}

/// Iterator over an image's entries, a directory before its children.
#[pyclass(module = "bootc_fast._core")]
#[derive(Debug)]
pub struct ImageWalk {
    reader: Reader,
    walk: Walk,
    recursive: bool,
}

impl ImageWalk {
    fn step(&mut self) -> Result<Option<Inode>, ErofsError> {
        loop {
            let image = self.reader.image()?;
            let Some(inode) = self.walk.next(image)? else { return Ok(None) };
            if !self.recursive && self.walk.depth() > 0 {
                self.walk.skip_children();
            }
            if !image.is_hidden(&inode) {
                return Ok(Some(inode));
            }
        }
    }
}

#[pymethods]
impl ImageWalk {
    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__(&mut self, py: Python<'_>) -> PyResult<Option<TreeEntry>> {
        match self.step().map_err(|error| erofs_error(py, error))? {
            Some(inode) => {
                let image = self.reader.image().map_err(|error| erofs_error(py, error))?;
                TreeEntry::of_image(py, image, &inode, self.walk.path()).map(Some)
            }
            None => Ok(None),
        }
    }
}
