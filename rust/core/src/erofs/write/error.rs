//! What a tree may hold that an image cannot.

use crate::cancel::Cancelled;

/// Why a tree cannot become an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// A scanned directory whose files were not stored as objects first.
    #[error("the content of {path:?} is not in the tree: ingest it first")]
    NotIngested {
        /// Path below the root, lossily decoded.
        path: String,
    },
    /// The content is not one that this type of file has.
    #[error("{path:?} has content that its type cannot have")]
    Content {
        /// Path below the root, lossily decoded.
        path: String,
    },
    /// A device number of more than 12 + 20 bits, which the kernel has no form for.
    #[error("{path:?} has device number {rdev:#x}, more than 32 bits")]
    Device {
        /// Path below the root, lossily decoded.
        path: String,
        /// As given.
        rdev: u64,
    },
    /// Longer than a field of the format allows.
    #[error("{what} of {path:?} has {len} bytes, the format allows {limit}")]
    TooLong {
        /// Which field.
        what: &'static str,
        /// Path below the root, lossily decoded.
        path: String,
        /// As given.
        len: u64,
        /// The largest that fits.
        limit: u64,
    },
    /// More than 2^32 blocks of 4096 bytes, or 2^32 inodes.
    #[error("the image would have more than 2^32 blocks or inodes")]
    TooLarge,
    /// Cancelled while building; nothing was written.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}
