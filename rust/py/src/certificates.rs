//! PKCS #7 signatures and X.509 certificates, decoded for Python; nothing is verified here.

use bootc_fast_core::efi::{self, Asn1Error, GeneralName};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

pyo3::import_exception!(bootc_fast.errors, SignatureError);

/// Tag number and content.
type NameOut<'py> = (u8, Bound<'py, PyBytes>);
/// Key id, issuer's issuer, issuer's serial number.
type AuthorityOut<'py> =
    (Option<Bound<'py, PyBytes>>, Option<Bound<'py, PyBytes>>, Option<Bound<'py, PyBytes>>);
/// Permitted, excluded, whether there are bounds.
type ConstraintsOut<'py> = (Vec<NameOut<'py>>, Vec<NameOut<'py>>, bool);

fn asn1_error(error: &Asn1Error) -> PyErr {
    SignatureError::new_err(error.to_string())
}

fn names_out<'py>(py: Python<'py>, names: &[GeneralName]) -> Vec<NameOut<'py>> {
    names.iter().map(|(kind, content)| (*kind, PyBytes::new(py, content))).collect()
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
