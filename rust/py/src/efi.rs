//! What firmware judges: PE files, PKCS #7 signatures, certificates.

use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, PoisonError};

use bootc_fast_core::cancel::Cancel;
use bootc_fast_core::efi::{self, Asn1Error, GeneralName, HashAlgorithm, Part, PeError};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::verity::duplicate;
use crate::{call, os_error};

pyo3::import_exception!(bootc_fast.errors, BootEntryError);
pyo3::import_exception!(bootc_fast.errors, SignatureError);

/// Tag number and content.
type NameOut<'py> = (u8, Bound<'py, PyBytes>);
/// Name, offset, raw bytes, virtual address, virtual bytes, characteristics, whether it has relocations.
type SectionOut<'py> = (Bound<'py, PyBytes>, u32, u32, u32, u32, u32, bool);
/// Key id, issuer's issuer, issuer's serial number.
type AuthorityOut<'py> =
    (Option<Bound<'py, PyBytes>>, Option<Bound<'py, PyBytes>>, Option<Bound<'py, PyBytes>>);
/// Permitted, excluded, whether there are bounds.
type ConstraintsOut<'py> = (Vec<NameOut<'py>>, Vec<NameOut<'py>>, bool);

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

fn asn1_error(error: &Asn1Error) -> PyErr {
    SignatureError::new_err(error.to_string())
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

fn names_out<'py>(py: Python<'py>, names: &[GeneralName]) -> Vec<NameOut<'py>> {
    names.iter().map(|(kind, content)| (*kind, PyBytes::new(py, content))).collect()
}

/// A PE file whose headers have been read.
#[pyclass(frozen, module = "bootc_fast._core")]
#[derive(Debug)]
pub struct PeImage {
    /// None once it is closed; who reads meanwhile has it to the end.
    inner: Mutex<Option<Arc<efi::PeImage>>>,
    headers: efi::Headers,
    size: u64,
    name: Vec<u8>,
}

impl PeImage {
    fn new(image: efi::PeImage, name: Vec<u8>) -> Self {
        let (headers, size) = (image.headers().clone(), image.size());
        Self { inner: Mutex::new(Some(Arc::new(image))), headers, size, name }
    }

    fn image(&self) -> PyResult<Arc<efi::PeImage>> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.clone().ok_or_else(|| PyValueError::new_err("the PE file is closed"))
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
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).take();
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

/// One signer of a PKCS #7 signature.
#[pyclass(frozen, module = "bootc_fast._core")]
#[derive(Debug)]
pub struct SignerInfo {
    inner: efi::SignerInfo,
}

#[pymethods]
impl SignerInfo {
    #[getter]
    fn issuer<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.issuer)
    }

    #[getter]
    fn serial<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.serial)
    }

    #[getter]
    fn digest_algorithm(&self) -> &str {
        &self.inner.digest_algorithm
    }

    #[getter]
    fn signature_algorithm(&self) -> &str {
        &self.inner.signature_algorithm
    }

    #[getter]
    fn attributes<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.inner.attributes.as_ref().map(|data| PyBytes::new(py, data))
    }

    #[getter]
    fn message_digest<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.inner.message_digest.as_ref().map(|data| PyBytes::new(py, data))
    }

    #[getter]
    fn signature<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.signature)
    }
}

/// A PKCS #7 signature, decoded but not verified.
#[pyclass(frozen, module = "bootc_fast._core")]
#[derive(Debug)]
pub struct SignedData {
    inner: efi::SignedData,
}

#[pymethods]
impl SignedData {
    /// Decodes one; what follows it is not looked at.
    #[staticmethod]
    fn parse(data: &[u8]) -> PyResult<Self> {
        efi::SignedData::parse(data).map(|inner| Self { inner }).map_err(|error| asn1_error(&error))
    }

    #[getter]
    fn digest_algorithms(&self) -> Vec<String> {
        self.inner.digest_algorithms.clone()
    }

    #[getter]
    fn content_type(&self) -> &str {
        &self.inner.content_type
    }

    #[getter]
    fn content<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.content)
    }

    #[getter]
    fn certificates<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyBytes>> {
        self.inner.certificates.iter().map(|der| PyBytes::new(py, der)).collect()
    }

    #[getter]
    fn signers(&self) -> Vec<SignerInfo> {
        self.inner.signers.iter().map(|signer| SignerInfo { inner: signer.clone() }).collect()
    }
}

/// An X.509 certificate, decoded but not verified.
#[pyclass(frozen, eq, hash, module = "bootc_fast._core")]
#[derive(Debug)]
pub struct Certificate {
    inner: efi::Certificate,
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.inner.der == other.inner.der
    }
}

impl Eq for Certificate {}

impl std::hash::Hash for Certificate {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.inner.der.hash(state);
    }
}

#[pymethods]
impl Certificate {
    /// Decodes one; nothing may follow it.
    #[staticmethod]
    fn parse(data: &[u8]) -> PyResult<Self> {
        efi::Certificate::parse(data).map(|inner| Self { inner }).map_err(|error| asn1_error(&error))
    }

    #[getter]
    fn der<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.der)
    }

    #[getter]
    fn tbs<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.tbs)
    }

    #[getter]
    fn public_key<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.public_key)
    }

    #[getter]
    fn signature_algorithm(&self) -> &str {
        &self.inner.signature_algorithm
    }

    #[getter]
    fn signature_parameters<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.signature_parameters)
    }

    #[getter]
    fn is_algorithm_consistent(&self) -> bool {
        self.inner.is_algorithm_consistent
    }

    #[getter]
    fn signature<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.signature)
    }

    #[getter]
    fn serial<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.serial)
    }

    #[getter]
    fn issuer<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.issuer)
    }

    #[getter]
    fn subject<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.subject)
    }

    #[getter]
    fn subject_text(&self) -> &str {
        &self.inner.subject_text
    }

    #[getter]
    fn common_names(&self) -> Vec<String> {
        self.inner.common_names.clone()
    }

    #[getter]
    fn email_addresses(&self) -> Vec<String> {
        self.inner.email_addresses.clone()
    }

    #[getter]
    fn is_v1(&self) -> bool {
        self.inner.is_v1
    }

    #[getter]
    fn is_ca(&self) -> Option<bool> {
        self.inner.is_ca
    }

    #[getter]
    fn path_length(&self) -> Option<u64> {
        self.inner.path_length
    }

    #[getter]
    fn may_sign_certificates(&self) -> Option<bool> {
        self.inner.may_sign_certificates
    }

    #[getter]
    fn is_netscape_ca(&self) -> bool {
        self.inner.is_netscape_ca
    }

    #[getter]
    fn extended_usages(&self) -> Vec<String> {
        self.inner.extended_usages.clone()
    }

    #[getter]
    fn subject_key_id<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.inner.subject_key_id.as_ref().map(|id| PyBytes::new(py, id))
    }

    #[getter]
    fn authority_key<'py>(&self, py: Python<'py>) -> AuthorityOut<'py> {
        let out = |data: &Option<Vec<u8>>| data.as_ref().map(|data| PyBytes::new(py, data));
        let authority = &self.inner.authority_key;
        (out(&authority.key_id), out(&authority.issuer), out(&authority.serial))
    }

    #[getter]
    fn alternative_names<'py>(&self, py: Python<'py>) -> Vec<NameOut<'py>> {
        names_out(py, &self.inner.alternative_names)
    }

    #[getter]
    fn name_constraints<'py>(&self, py: Python<'py>) -> Option<ConstraintsOut<'py>> {
        let found = self.inner.name_constraints.as_ref()?;
        Some((names_out(py, &found.permitted), names_out(py, &found.excluded), found.has_bounds))
    }

    #[getter]
    fn is_proxy(&self) -> bool {
        self.inner.is_proxy
    }

    #[getter]
    fn unhandled_critical(&self) -> Vec<String> {
        self.inner.unhandled_critical.clone()
    }

    #[getter]
    fn malformed(&self) -> Vec<String> {
        self.inner.malformed.clone()
    }
}
