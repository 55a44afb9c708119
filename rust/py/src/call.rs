//! Running core code without the interpreter lock, and polling Python's `check` callable from it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ThreadId};

use bootc_fast_core::cancel::{Cancel, Cancelled};
use pyo3::prelude::*;

/// A [`Cancel`] that asks a Python callable, on the thread that made the call only.
///
/// `anyio.from_thread.check_cancelled` looks at thread-local state, so a worker thread that the core started
/// cannot ask it; such a thread sees the answer that the calling thread got.
#[derive(Debug)]
pub struct PyCancel {
    check: Option<Py<PyAny>>,
    progress: Option<Py<PyAny>>,
    origin: ThreadId,
    cancelled: AtomicBool,
    raised: Mutex<Option<PyErr>>,
}

impl PyCancel {
    /// `None` never cancels.
    pub fn new(check: Option<Py<PyAny>>, progress: Option<Py<PyAny>>) -> Self {
        Self {
            check,
            progress,
            origin: thread::current().id(),
            cancelled: AtomicBool::new(false),
            raised: Mutex::new(None),
        }
    }

    fn stop(&self, raised: PyErr) {
        if let Ok(mut slot) = self.raised.lock() {
            *slot = Some(raised);
        }
        self.cancelled.store(true, Ordering::Release);
    }

    /// The exception that `check` or `progress` raised, once.
    pub fn take_raised(&self) -> Option<PyErr> {
        self.raised.lock().ok().and_then(|mut slot| slot.take())
    }
}

impl Cancel for PyCancel {
    fn check(&self) -> Result<(), Cancelled> {
        if self.cancelled.load(Ordering::Acquire) {
            return Err(Cancelled);
        }
        let Some(check) = &self.check else { return Ok(()) };
        if thread::current().id() != self.origin {
            return Ok(());
        }
        Python::attach(|py| check.call0(py)).map(drop).map_err(|raised| {
            self.stop(raised);
            Cancelled
        })
    }

    fn progress(&self, done: u64, total: u64) {
        let Some(progress) = &self.progress else { return };
        if thread::current().id() != self.origin {
            return;
        }
        if let Err(raised) = Python::attach(|py| progress.call1(py, (done, total))) {
            self.stop(raised);
        }
    }
}

/// Calls `work` without the interpreter lock; if `check` raised, its exception wins over `work`'s own error.
///
/// # Errors
/// The exception of `check`, else what `map` makes of the core's error.
pub fn detached<T, E>(
    py: Python<'_>,
    check: Option<Py<PyAny>>,
    work: impl FnOnce(&dyn Cancel) -> Result<T, E> + Send,
    map: impl FnOnce(Python<'_>, E) -> PyErr,
) -> PyResult<T>
where
    T: Send,
    E: Send,
{
    detached_telling(py, check, None, work, map)
}

/// Like [`detached`], and calls `progress(done, total)` with what the work tells of itself.
///
/// # Errors
/// As [`detached`]; an exception of `progress` ends the work like one of `check`.
pub fn detached_telling<T, E>(
    py: Python<'_>,
    check: Option<Py<PyAny>>,
    progress: Option<Py<PyAny>>,
    work: impl FnOnce(&dyn Cancel) -> Result<T, E> + Send,
    map: impl FnOnce(Python<'_>, E) -> PyErr,
) -> PyResult<T>
where
    T: Send,
    E: Send,
{
    let cancel = PyCancel::new(check, progress);
    let result = py.detach(|| work(&cancel));
    result.map_err(|error| cancel.take_raised().unwrap_or_else(|| map(py, error)))
}
