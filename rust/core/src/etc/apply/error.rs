//! What can go wrong while a merge is written, and what is only worth a warning.

use std::io;

use crate::cancel::Cancelled;
use crate::etc::content::ContentError;
use crate::text::Shown;

/// Why writing the result stopped; the next run goes on from what is there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// A system call failed.
    #[error("{step} {}", Shown(.path))]
    Io {
        /// What was being done, as in "write file".
        step: &'static str,
        /// Below the destination; empty for the destination itself.
        path: Vec<u8>,
        /// Why it failed.
        source: io::Error,
    },
    /// The content that a file of the result must have cannot be had.
    #[error("write file {}", Shown(.path))]
    Content {
        /// Below the destination.
        path: Vec<u8>,
        /// Why.
        source: ContentError,
    },
    /// The destination could not be looked at.
    #[error("look at the destination {}", Shown(.path))]
    Scan {
        /// Below the destination.
        path: Vec<u8>,
        /// Why it failed.
        source: io::Error,
    },
    /// The destination is too large or too deep.
    #[error("look at the destination")]
    Tree(#[from] crate::tree::BuildError),
    /// It was another thing each time that it was looked at; what is in the destination is complete but for that.
    #[error("{} keeps becoming something else while it is merged", Shown(.path))]
    Unsettled {
        /// Below the running /etc.
        path: Vec<u8>,
    },
    /// More is to be written than there is room for; nothing was written.
    #[error(
        "{} takes {} MiB: {} MiB are to be written, and {} MiB are free",
        Shown(.path), mebibytes(*.file_bytes), mebibytes(*.needed_bytes), .free_bytes >> 20
    )]
    Room {
        /// The largest of the files, below the destination.
        path: Vec<u8>,
        /// What it takes, in bytes; holes do not count.
        file_bytes: u64,
        /// What all files take.
        needed_bytes: u64,
        /// What is free, or becomes free.
        free_bytes: u64,
    },
    /// The merge has conflicts that no strategy settles; nothing was written.
    #[error("conflicts that no strategy settles: {count}")]
    Conflicts {
        /// At least 1.
        count: usize,
    },
    /// Nobody wants the result any more.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl ApplyError {
    /// The system's error, where there is one, and the path below the destination, or below the root of the tree
    /// that content was read from.
    #[must_use]
    pub fn io(&self) -> Option<(&io::Error, &[u8])> {
        match self {
            Self::Io { source, path, .. }
            | Self::Scan { source, path }
            | Self::Content { source: ContentError::Io { source, path }, .. } => Some((source, path)),
            Self::Content { .. }
            | Self::Tree(_)
            | Self::Room { .. }
            | Self::Unsettled { .. }
            | Self::Conflicts { .. }
            | Self::Cancelled(_) => None,
        }
    }
}

/// Rounded up, so that it is never 0.
fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// Adds what was being done, and to what, to the error of a system call.
pub(super) trait During<T> {
    fn during(self, step: &'static str, path: &[u8]) -> Result<T, ApplyError>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, step: &'static str, path: &[u8]) -> Result<T, ApplyError> {
        self.map_err(|error| ApplyError::Io { step, path: path.to_vec(), source: error.into() })
    }
}

/// Something that the result lacks, though nothing failed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// The destination's file system, or a lack of privilege, refuses a `security.*` or `trusted.*` attribute.
    Xattr {
        /// Below the destination.
        path: Vec<u8>,
        /// The attribute.
        name: Vec<u8>,
        /// Why.
        error: rustix::io::Errno,
    },
    /// A file of the running /etc was gone when it was to be read; it counts as deleted.
    Vanished {
        /// Below the destination.
        path: Vec<u8>,
    },
    /// A file of the running /etc kept changing; it is what the last look found, closed to whom one look denies it.
    Changed {
        /// Below the destination.
        path: Vec<u8>,
    },
    /// The destination's file system refuses another hard link; the name is a file of its own.
    NotLinked {
        /// Below the destination.
        path: Vec<u8>,
        /// Why.
        error: rustix::io::Errno,
    },
}

impl Warning {
    /// Below the destination.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        let (Self::Xattr { path, .. }
        | Self::Vanished { path }
        | Self::Changed { path }
        | Self::NotLinked { path, .. }) = self;
        path
    }

    /// What about the path, in words.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Xattr { name, error, .. } => format!("attribute {} not stored: {error}", Shown(name)),
            Self::Vanished { .. } => "vanished while it was read; counts as deleted".into(),
            Self::Changed { .. } => "changed again while it was merged; taken as it was found last".into(),
            Self::NotLinked { error, .. } => format!("not hard-linked but copied: {error}"),
        }
    }
}
