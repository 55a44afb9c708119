//! Files reached without leaving a directory.

use std::os::fd::{AsFd, IntoRawFd, RawFd};

use pyo3::prelude::*;

use crate::os_error;
use crate::verity::duplicate;

/// Opens `path` with `dir_fd` as its root: no symlink and no `..` leads out of it.
#[pyfunction]
#[pyo3(signature = (dir_fd, path, flags, mode = 0))]
pub fn open_in_root(py: Python<'_>, dir_fd: RawFd, path: &[u8], flags: u32, mode: u32) -> PyResult<RawFd> {
    let root = duplicate(dir_fd)?;
    let fd = py
        .detach(|| bootc_fast_sys::resolve::open_in_root(root.as_fd(), path, flags, mode))
        .map_err(|error| os_error::of_path(&error, path))?;
    Ok(fd.into_raw_fd())
}
