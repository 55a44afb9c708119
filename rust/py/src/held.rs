//! What a Python object holds until it is closed: descriptors go back at once, not when the collector comes by.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Something with descriptors. Who uses it when it is closed has it to the end of that use.
pub struct Held<T> {
    inner: Mutex<Option<Arc<T>>>,
    what: &'static str,
}

impl<T> fmt::Debug for Held<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Held").field("what", &self.what).finish_non_exhaustive()
    }
}

impl<T> Held<T> {
    /// `what`: its name in the error of [`Held::get`].
    pub fn new(inner: Arc<T>, what: &'static str) -> Self {
        Self { inner: Mutex::new(Some(inner)), what }
    }

    /// The thing, for one use.
    ///
    /// # Errors
    /// `ValueError`: it is closed.
    pub fn get(&self) -> PyResult<Arc<T>> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.clone().ok_or_else(|| PyValueError::new_err(format!("the {} is closed", self.what)))
    }

    /// Lets it go; more than once does nothing.
    pub fn close(&self) {
        // Dropped after the lock is released.
        let _inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
