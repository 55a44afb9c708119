//! Kernels that are started without the firmware.

use std::ffi::CString;
use std::os::fd::{AsFd, RawFd};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::os_error;
use crate::verity::duplicate;

/// Where the kernel says whether one is loaded: no other file stands for it.
const LOADED: &[u8] = b"/sys/kernel/kexec_loaded";

/// Loads the kernel that `systemctl kexec` starts.
#[pyfunction]
pub fn kexec_load(
    py: Python<'_>,
    kernel_fd: RawFd,
    initrd_fd: Option<RawFd>,
    command_line: Vec<u8>,
) -> PyResult<()> {
    let line = CString::new(command_line).map_err(|_| PyValueError::new_err("a NUL in the command line"))?;
    let kernel = duplicate(kernel_fd)?;
    let initrd = initrd_fd.map(duplicate).transpose()?;
    py.detach(|| {
        bootc_fast_sys::kexec::load(kernel.as_fd(), initrd.as_ref().map(AsFd::as_fd), line.as_c_str())
    })
    .map_err(|error| os_error::of_descriptor(&error, &kernel))
}

/// Drops the loaded kernel.
#[pyfunction]
pub fn kexec_unload(py: Python<'_>) -> PyResult<()> {
    py.detach(bootc_fast_sys::kexec::unload).map_err(|error| os_error::of_path(&error, LOADED))
}
