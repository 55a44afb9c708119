//! fs-verity digests.

use std::fs::File;
use std::io;
use std::os::fd::RawFd;

use bootc_fast_core::verity::{Algorithm, Params, digest_reader};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::call;

/// Maps the name in Python to the algorithm.
pub fn algorithm_of(name: &str) -> PyResult<Algorithm> {
    match name {
        "sha256" => Ok(Algorithm::Sha256),
        "sha512" => Ok(Algorithm::Sha512),
        other => Err(PyValueError::new_err(format!("algorithm {other:?} is neither sha256 nor sha512"))),
    }
}

/// A duplicate of the caller's descriptor: the call may outlive the Python object that owns it.
pub fn duplicate(fd: RawFd) -> PyResult<File> {
    if fd < 0 {
        return Err(PyValueError::new_err("a descriptor is not negative"));
    }
    bootc_fast_sys::fd::duplicate(fd).map(File::from).map_err(|error| call::os_error(&error))
}

/// Computes the digest of everything from the descriptor's position on, in lower-case hex.
#[pyfunction]
#[pyo3(signature = (fd, *, algorithm = "sha512", block_bytes = 4096, salt = None, check = None))]
pub fn digest_fd(
    py: Python<'_>,
    fd: RawFd,
    algorithm: &str,
    block_bytes: u32,
    salt: Option<&[u8]>,
    check: Option<Py<PyAny>>,
) -> PyResult<String> {
    let params = Params::new(algorithm_of(algorithm)?, block_bytes, salt.unwrap_or_default())
        .map_err(|error| PyValueError::new_err(error.to_string()))?;
    let mut file = duplicate(fd)?;
    let work = |cancel: &dyn bootc_fast_core::cancel::Cancel| digest_reader(&params, &mut file, cancel);
    let digest = call::detached(py, check, work, |_, error: io::Error| call::os_error(&error))?;
    Ok(digest.to_string())
}
