//! PE files, as firmware reads and hashes them.

use std::os::fd::RawFd;
use std::sync::Arc;

use bootc_fast_core::cancel::Cancel;
use bootc_fast_core::efi::{self, HashAlgorithm, Part, PeError};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::held::Held;
use crate::verity::duplicate;
use crate::{call, os_error};

pyo3::import_exception!(bootc_fast.errors, BootEntryError);

/// Name, offset, raw bytes, virtual address, virtual bytes, characteristics, whether it has relocations.
type SectionOut<'py> = (Bound<'py, PyBytes>, u32, u32, u32, u32, u32, bool);

/// `name`: the file's, as the kernel knows its descriptor by; empty for bytes.
fn pe_error(error: PeError, name: &[u8]) -> PyErr {
    match error {
        PeError::Io { offset, source } => match source.raw_os_error() {
            Some(_) => os_error::of_path(&source, name),
            None => BootEntryError::new_err(format!("reading a PE file: it ends before offset {offset:#x}")),
        },
        PeError::Cancelled(_) => PyRuntimeError::new_err(error.to_string()),
        other => BootEntryError::new_err(format!("reading a PE file: {other}")),
    }
}

fn algorithm_of(name: &str) -> PyResult<HashAlgorithm> {
    match name {
        "sha1" => Ok(HashAlgorithm::Sha1),
        "sha256" => Ok(HashAlgorithm::Sha256),
        "sha384" => Ok(HashAlgorithm::Sha384),
        "sha512" => Ok(HashAlgorithm::Sha512),
        other => Err(PyValueError::new_err(format!("no firmware hashes a PE file with {other:?}"))),
    }
}

/// A PE file whose headers have been read.
#[pyclass(frozen, module = "bootc_fast._core")]
#[derive(Debug)]
pub struct PeImage {
    inner: Held<efi::PeImage>,
    headers: efi::Headers,
    size: u64,
    name: Vec<u8>,
}

impl PeImage {
    fn new(image: efi::PeImage, name: Vec<u8>) -> Self {
        let (headers, size) = (image.headers().clone(), image.size());
        Self { inner: Held::new(Arc::new(image), "PE file"), headers, size, name }
    }

    fn image(&self) -> PyResult<Arc<efi::PeImage>> {
        self.inner.get()
    }
}

#[pymethods]
impl PeImage {
    /// Reads the headers; the descriptor may be closed afterwards.
    #[staticmethod]
    fn open(py: Python<'_>, fd: RawFd) -> PyResult<Self> {
        let file = duplicate(fd)?;
        let name = os_error::name_of(fd);
        let image = py.detach(|| efi::PeImage::open(file)).map_err(|error| pe_error(error, &name))?;
        Ok(Self::new(image, name))
    }

    /// Takes a file's content.
    #[staticmethod]
    fn from_bytes(data: &[u8]) -> PyResult<Self> {
        let image = efi::PeImage::from_bytes(data.to_vec()).map_err(|error| pe_error(error, b""))?;
        Ok(Self::new(image, Vec::new()))
    }

    /// Lets the file go; its headers stay.
    fn close(&self) {
        self.inner.close();
    }

    /// Reads a part of the file.
    fn read<'py>(&self, py: Python<'py>, offset: u64, length: usize) -> PyResult<Bound<'py, PyBytes>> {
        let image = self.image()?;
        let data = py.detach(|| image.read(offset, length)).map_err(|error| pe_error(error, &self.name))?;
        Ok(PyBytes::new(py, &data))
    }

    /// Hashes parts of the file, and zeros where a part has no offset, in one pass for all algorithms.
    #[pyo3(signature = (parts, algorithms, *, check = None))]
    #[allow(clippy::needless_pass_by_value)] // PyO3 extracts owned values
    fn hash<'py>(
        &self,
        py: Python<'py>,
        parts: Vec<(Option<u64>, u64)>,
        algorithms: Vec<String>,
        check: Option<Py<PyAny>>,
    ) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let algorithms =
            algorithms.iter().map(|name| algorithm_of(name)).collect::<PyResult<Vec<HashAlgorithm>>>()?;
        let parts: Vec<Part> = parts
            .iter()
            .map(|(offset, len)| offset.map_or(Part::Zeros(*len), |offset| Part::File { offset, len: *len }))
            .collect();
        let image = self.image()?;
        let work = |cancel: &dyn Cancel| image.hash(&parts, &algorithms, cancel);
        let digests = call::detached(py, check, work, |_, error| pe_error(error, &self.name))?;
        Ok(digests.iter().map(|digest| PyBytes::new(py, digest)).collect())
    }

    /// Length of the file when it was opened.
    #[getter]
    fn size_bytes(&self) -> u64 {
        self.size
    }

    #[getter]
    fn header_offset(&self) -> u64 {
        self.headers.header_offset
    }

    #[getter]
    fn is_64(&self) -> bool {
        self.headers.is_64
    }

    #[getter]
    fn characteristics(&self) -> u16 {
        self.headers.characteristics
    }

    #[getter]
    fn dll_characteristics(&self) -> u16 {
        self.headers.dll_characteristics
    }

    #[getter]
    fn optional_bytes(&self) -> u16 {
        self.headers.optional_bytes
    }

    #[getter]
    fn directory_count(&self) -> u32 {
        self.headers.directory_count
    }

    #[getter]
    fn headers_bytes(&self) -> u32 {
        self.headers.headers_bytes
    }

    #[getter]
    fn image_bytes(&self) -> u32 {
        self.headers.image_bytes
    }

    #[getter]
    fn file_alignment(&self) -> u32 {
        self.headers.file_alignment
    }

    #[getter]
    fn checksum_offset(&self) -> u64 {
        self.headers.checksum_offset
    }

    #[getter]
    fn security_offset(&self) -> Option<u64> {
        self.headers.security_offset
    }

    #[getter]
    fn signatures_offset(&self) -> u32 {
        self.headers.signatures_offset
    }

    #[getter]
    fn signatures_bytes(&self) -> u32 {
        self.headers.signatures_bytes
    }

    #[getter]
    fn sections<'py>(&self, py: Python<'py>) -> Vec<SectionOut<'py>> {
        let sections = self.headers.sections.iter();
        sections
            .map(|one| {
                let name = PyBytes::new(py, &one.name);
                let (address, bytes) = (one.virtual_address, one.virtual_bytes);
                (name, one.offset, one.raw_bytes, address, bytes, one.characteristics, one.has_relocations)
            })
            .collect()
    }
}
