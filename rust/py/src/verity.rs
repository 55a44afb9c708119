//! fs-verity digests.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use bootc_fast_core::cancel::{Cancel, Cancelled};
use bootc_fast_core::verity::{self, Algorithm, Digest, Params, default_threads, digest_file};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;

use crate::{call, os_error};

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
    bootc_fast_sys::fd::duplicate(fd).map(File::from).map_err(|error| os_error::of_raw(&error, fd))
}

/// Extracts what the three functions below have in common.
fn params_of(algorithm: &str, block_bytes: u32, salt: Option<&[u8]>) -> PyResult<Params> {
    Params::new(algorithm_of(algorithm)?, block_bytes, salt.unwrap_or_default())
        .map_err(|error| PyValueError::new_err(error.to_string()))
}

/// Computes the digest of everything from the descriptor's position on, in lower-case hex.
///
/// `threads` 0 stands for as many as a large file is worth on this machine.
#[pyfunction]
#[pyo3(signature = (fd, *, algorithm = "sha512", block_bytes = 4096, salt = None, threads = 0, progress = None, check = None))]
#[allow(clippy::too_many_arguments)] // keywords, in Python
pub fn digest_fd(
    py: Python<'_>,
    fd: RawFd,
    algorithm: &str,
    block_bytes: u32,
    salt: Option<&[u8]>,
    threads: usize,
    progress: Option<Py<PyAny>>,
    check: Option<Py<PyAny>>,
) -> PyResult<String> {
    let params = params_of(algorithm, block_bytes, salt)?;
    let mut file = duplicate(fd)?;
    let number = file.as_raw_fd();
    let threads = if threads == 0 { default_threads() } else { threads };
    let work = |cancel: &dyn Cancel| digest_file(&params, &mut file, threads, cancel);
    let map = |_: Python<'_>, error: io::Error| os_error::of_raw(&error, number);
    let digest = call::detached_telling(py, check, progress, work, map)?;
    Ok(digest.to_string())
}

/// Computes the digests of contents in memory, in order, in lower-case hex.
#[pyfunction]
#[pyo3(signature = (contents, *, algorithm = "sha512", block_bytes = 4096, salt = None, check = None))]
#[allow(clippy::needless_pass_by_value)] // PyO3 extracts owned values
pub fn digest_many(
    py: Python<'_>,
    contents: Vec<PyBackedBytes>,
    algorithm: &str,
    block_bytes: u32,
    salt: Option<&[u8]>,
    check: Option<Py<PyAny>>,
) -> PyResult<Vec<String>> {
    let params = params_of(algorithm, block_bytes, salt)?;
    let slices: Vec<&[u8]> = contents.iter().map(|content| &**content).collect();
    let work = |cancel: &dyn Cancel| verity::digest_many(&params, &slices, cancel);
    let digests =
        call::detached(py, check, work, |_, error: Cancelled| PyRuntimeError::new_err(error.to_string()))?;
    Ok(digests.iter().map(Digest::to_string).collect())
}

/// The kernel's digest of a file with fs-verity, in lower-case hex; `None` where it has none.
#[pyfunction]
pub fn measure_fd(fd: RawFd) -> PyResult<Option<String>> {
    let file = duplicate(fd)?;
    let measured = bootc_fast_sys::verity::measure(file.as_fd())
        .map_err(|error| os_error::of_descriptor(&error, &file))?;
    let Some((number, bytes)) = measured else { return Ok(None) };
    let known = u8::try_from(number).ok().and_then(Algorithm::from_kernel_id);
    Ok(known.and_then(|algorithm| Digest::from_bytes(algorithm, &bytes)).map(|digest| digest.to_string()))
}
