//! What boot entries need from outside the standard library: flushing a file system, telling FAT.

use std::os::fd::{AsFd, RawFd};

use pyo3::prelude::*;

use crate::os_error;
use crate::verity::duplicate;

/// Writes everything that is dirty on the descriptor's file system (`syncfs`).
#[pyfunction]
pub fn sync_filesystem(py: Python<'_>, fd: RawFd) -> PyResult<()> {
    let file = duplicate(fd)?;
    py.detach(|| bootc_fast_sys::sync::sync_filesystem(file.as_fd()))
        .map_err(|error| os_error::of_descriptor(&error, &file))
}

/// Says whether the descriptor is on a FAT file system.
#[pyfunction]
pub fn is_fat(fd: RawFd) -> PyResult<bool> {
    let file = duplicate(fd)?;
    bootc_fast_sys::sync::is_fat(file.as_fd()).map_err(|error| os_error::of_descriptor(&error, &file))
}
