//! The `OSError` that Python's own calls would raise: of the subclass that fits, with `errno`, `strerror` and a file
//! name as bytes.
//!
//! The conversion of `pyo3` from `std::io::Error` keeps only the text, so `?` on one must not meet a `PyResult`:
//! `tests/unit/core/test_errors.py` fails every function once.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::ffi::OsStringExt;

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// linux/errno.h
const EIO: i32 = 5;
/// linux/errno.h
const EINVAL: i32 = 22;

/// An error of a call on a path; an empty one is the directory itself that the path is in.
pub fn of_path(error: &io::Error, path: &[u8]) -> PyErr {
    let path = if path.is_empty() { b"." } else { path };
    let (number, words) = number_and_words(error);
    Python::attach(|py| PyOSError::new_err((number, words, PyBytes::new(py, path).unbind())))
}

/// An error of a call on a descriptor: the kernel knows which file that is.
pub fn of_descriptor(error: &io::Error, fd: &impl AsFd) -> PyErr {
    of_raw(error, fd.as_fd().as_raw_fd())
}

/// The same for a number that may be no open descriptor: then its place in `/proc` is all that can be said of it.
pub fn of_raw(error: &io::Error, fd: RawFd) -> PyErr {
    of_path(error, &name_of(fd))
}

/// The path that the kernel knows a descriptor by.
pub fn name_of(fd: RawFd) -> Vec<u8> {
    let place = format!("/proc/self/fd/{fd}");
    std::fs::read_link(&place).map_or(place.into_bytes(), |path| path.into_os_string().into_vec())
}

/// The same with other words than the system's, where the kernel gave some.
pub fn with_words(error: &io::Error, words: &str, path: &[u8]) -> PyErr {
    let (number, system) = number_and_words(error);
    let words = if words.is_empty() { system } else { words.to_owned() };
    Python::attach(|py| PyOSError::new_err((number, words, PyBytes::new(py, path).unbind())))
}

/// The system's words, without Rust's "(os error 28)".
pub fn words(error: &io::Error) -> String {
    number_and_words(error).1
}

/// What the standard library made up itself has no number: an end that came too early is a failed reading.
fn number_and_words(error: &io::Error) -> (i32, String) {
    let text = error.to_string();
    match error.raw_os_error() {
        Some(number) => {
            let suffix = format!(" (os error {number})");
            (number, text.strip_suffix(&suffix).unwrap_or(&text).to_owned())
        }
        None if error.kind() == ErrorKind::InvalidInput => (EINVAL, text),
        None => (EIO, text),
    }
}
