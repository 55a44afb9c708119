//! Detached mounts and loop devices.

use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use bootc_fast_sys::loopdev::LoopFailure;
use bootc_fast_sys::mount::{self, MountFailure, Value};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::os_error;
use crate::verity::duplicate;

/// A parameter's value as Python gives it: text or a descriptor; None is a flag.
#[derive(FromPyObject)]
pub enum PyValue {
    /// A descriptor.
    Fd(RawFd),
    /// Text.
    Text(Vec<u8>),
}

enum Owned {
    Flag,
    Text(Vec<u8>),
    Fd(OwnedFd),
}

fn own(value: Option<PyValue>) -> PyResult<Owned> {
    Ok(match value {
        None => Owned::Flag,
        Some(PyValue::Text(text)) => Owned::Text(text),
        Some(PyValue::Fd(fd)) => Owned::Fd(duplicate(fd)?.into()),
    })
}

/// What a new mount is of: its source, else its type.
fn source<'v>(fstype: &'v [u8], values: &'v [(&[u8], Value<'_>)]) -> &'v [u8] {
    let source = values.iter().find_map(|(key, value)| match value {
        Value::Text(text) if *key == b"source" => Some(*text),
        _ => None,
    });
    source.unwrap_or(fstype)
}

/// Mounts a file system without attaching it; returns the mount's `O_PATH` descriptor.
#[pyfunction]
#[pyo3(signature = (fstype, parameters, *, read_only, is_system_root = false))]
pub fn mount_detached(
    py: Python<'_>,
    fstype: &[u8],
    parameters: Vec<(Vec<u8>, Option<PyValue>)>,
    read_only: bool,
    is_system_root: bool,
) -> PyResult<RawFd> {
    let owned =
        parameters.into_iter().map(|(key, value)| Ok((key, own(value)?))).collect::<PyResult<Vec<_>>>()?;
    let values: Vec<(&[u8], Value<'_>)> = owned
        .iter()
        .map(|(key, value)| {
            let value = match value {
                Owned::Flag => Value::Flag,
                Owned::Text(text) => Value::Text(text),
                Owned::Fd(fd) => Value::Fd(fd.as_fd()),
            };
            (key.as_slice(), value)
        })
        .collect();
    let fd = py.detach(|| mount::mount(fstype, &values, read_only, is_system_root)).map_err(
        |MountFailure { error, messages }| os_error::with_words(&error, &messages, source(fstype, &values)),
    )?;
    Ok(fd.into_raw_fd())
}

/// Makes the file system behind a mount read-only or writable; the flags of its mounts stay.
#[pyfunction]
#[pyo3(signature = (mount_fd, *, read_only))]
pub fn remount_file_system(py: Python<'_>, mount_fd: RawFd, read_only: bool) -> PyResult<()> {
    let mount = duplicate(mount_fd)?;
    py.detach(|| mount::remount(mount.as_fd(), read_only)).map_err(|MountFailure { error, messages }| {
        os_error::with_words(&error, &messages, &os_error::name_of(mount.as_raw_fd()))
    })
}

/// Clones the mount that holds a directory, rooted there; `read_only` sets, clears or (None) keeps that attribute.
#[pyfunction]
#[pyo3(signature = (dir_fd, *, recursive = false, read_only = None))]
pub fn clone_mount(
    py: Python<'_>,
    dir_fd: RawFd,
    recursive: bool,
    read_only: Option<bool>,
) -> PyResult<RawFd> {
    let dir = duplicate(dir_fd)?;
    let clone = py
        .detach(|| mount::clone_mount(dir.as_fd(), recursive, read_only))
        .map_err(|error| os_error::of_descriptor(&error, &dir))?;
    Ok(clone.into_raw_fd())
}

/// Attaches a detached mount at `path` under a directory; an empty path is the directory itself.
#[pyfunction]
#[pyo3(signature = (mount_fd, dir_fd, path))]
pub fn attach_mount(py: Python<'_>, mount_fd: RawFd, dir_fd: RawFd, path: &[u8]) -> PyResult<()> {
    let (mount, dir) = (duplicate(mount_fd)?, duplicate(dir_fd)?);
    py.detach(|| mount::attach(mount.as_fd(), dir.as_fd(), path)).map_err(|error| match path {
        [] => os_error::of_descriptor(&error, &dir),
        _ => os_error::of_path(&error, path),
    })
}

/// Takes a tree of mounts out of all propagation.
#[pyfunction]
pub fn isolate_mount(py: Python<'_>, mount_fd: RawFd) -> PyResult<()> {
    let mount = duplicate(mount_fd)?;
    py.detach(|| mount::isolate(mount.as_fd())).map_err(|error| os_error::of_descriptor(&error, &mount))
}

/// Calls a function in a new thread that has a mount namespace of its own; returns what it returns.
#[pyfunction]
pub fn call_with_private_mounts(py: Python<'_>, function: Py<PyAny>) -> PyResult<Py<PyAny>> {
    let call = move || Python::attach(move |py| function.call0(py));
    // The root's mount is what cannot be copied then.
    py.detach(|| bootc_fast_sys::namespace::with_private_mounts(call))
        .map_err(|error| os_error::of_path(&error, b"/"))?
}

/// Takes the mount whose root a directory is out of the tree; `EINVAL` where it is none.
#[pyfunction]
pub fn detach_mount(py: Python<'_>, dir_fd: RawFd) -> PyResult<()> {
    let dir = duplicate(dir_fd)?;
    py.detach(|| mount::detach(dir.as_fd())).map_err(|error| os_error::of_descriptor(&error, &dir))
}

/// Attaches a file to a loop device that frees itself; returns the device's descriptor and path.
#[pyfunction]
pub fn attach_loop(py: Python<'_>, fd: RawFd) -> PyResult<(RawFd, Py<PyBytes>)> {
    let file = duplicate(fd)?;
    let (device, path) = py
        .detach(|| bootc_fast_sys::loopdev::attach(file.as_fd()))
        .map_err(|LoopFailure { error, path }| os_error::of_path(&error, path.as_os_str().as_bytes()))?;
    Ok((device.into_raw_fd(), PyBytes::new(py, path.as_os_str().as_bytes()).unbind()))
}
