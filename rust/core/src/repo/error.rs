//! What can go wrong while a repository is written.

use rustix::io::Errno;

use crate::cancel::Cancelled;
use crate::erofs::WriteError;
use crate::tree::{BuildError, ScanError};

/// Why nothing, or not everything, was written. Objects that were are complete; none is ever torn.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepoError {
    /// A system call failed.
    #[error("cannot {what} {:?}: {errno}", String::from_utf8_lossy(path))]
    Io {
        /// What was being done.
        what: &'static str,
        /// To which file; relative to the repository or to what is taken in.
        path: Vec<u8>,
        /// The system call's.
        errno: Errno,
    },
    /// `meta.json` is not one that this program may write beside.
    #[error("meta.json of the repository: {what}")]
    Meta {
        /// What is wrong.
        what: &'static str,
    },
    /// A tar archive that ends early, or holds what no file system does.
    #[error("the archive, at {:?}: {what}", String::from_utf8_lossy(path))]
    Archive {
        /// Path of the entry, empty where none was read.
        path: Vec<u8>,
        /// What is wrong.
        what: String,
    },
    /// The directory cannot be scanned.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// What was found is no tree.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The tree does not fit into an image.
    #[error(transparent)]
    Image(#[from] WriteError),
    /// Nobody wants the result any more.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl RepoError {
    /// For `map_err`: what was being done, and to what.
    pub(super) fn io(what: &'static str, path: impl Into<Vec<u8>>) -> impl FnOnce(Errno) -> Self {
        let path = path.into();
        move |errno| Self::Io { what, path, errno }
    }

    /// The system call's error, if one is to blame.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Io { errno, .. } | Self::Scan(ScanError::Io { errno, .. }) => Some(*errno),
            _ => None,
        }
    }

    /// Whether the work was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(
            self,
            Self::Cancelled(_) | Self::Scan(ScanError::Cancelled(_)) | Self::Image(WriteError::Cancelled(_))
        )
    }
}
