//! What can be wrong with an image.

use crate::cancel::Cancelled;
use crate::tree::BuildError;

/// Why an image cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ErofsError {
    /// Something points outside the image, or the image is cut off.
    #[error("{what} needs {len} bytes at offset {offset:#x}, the image has {image_len:#x}")]
    OutOfBounds {
        /// What was to be read.
        what: &'static str,
        /// Where, in bytes from the start of the image; saturated if the sum overflows.
        offset: u64,
        /// How much.
        len: u64,
        /// Size of the image in bytes.
        image_len: u64,
    },
    /// A part of the file cannot be read: a bad sector, or the file was cut off while it was in use.
    #[error("the image cannot be read at offset {offset:#x}: {source}")]
    Unreadable {
        /// In bytes from the start of the image.
        offset: u64,
        /// The system call's.
        source: std::io::Error,
        /// The path that the kernel knows the image by.
        path: Vec<u8>,
    },
    /// The file ends before the image does, by its superblock.
    #[error("the image is cut off at offset {len:#x}, it should have {expected:#x} bytes")]
    CutOff {
        /// Size of the file in bytes.
        len: u64,
        /// What the superblock says.
        expected: u64,
    },
    /// A field has a value that it must not have.
    #[error("{what} is {found:#x} at offset {offset:#x}")]
    BadValue {
        /// Which field, and what is wrong with it.
        what: &'static str,
        /// Where the structure starts.
        offset: u64,
        /// As found.
        found: u64,
    },
    /// The superblock is not the one that was written.
    #[error("the superblock's checksum is {found:#010x}, not {expected:#010x}")]
    Checksum {
        /// In the superblock.
        expected: u32,
        /// Computed.
        found: u32,
    },
    /// A feature of EROFS that this reader does not know; the kernel may mount the image.
    #[error("unsupported EROFS feature: {feature} ({value:#x})")]
    Unsupported {
        /// Its name.
        feature: &'static str,
        /// The bits or the value that ask for it.
        value: u64,
    },
    /// A name that no file can have.
    #[error("{name:?} in the directory at offset {offset:#x} is no file name")]
    BadName {
        /// As found, lossily decoded.
        name: String,
        /// Where the directory's inode is.
        offset: u64,
    },
    /// A name that is not greater than the one before it: a duplicate, or a directory that was not sorted.
    #[error("{name:?} in the directory at offset {offset:#x} is a duplicate or out of order")]
    UnsortedName {
        /// As found, lossily decoded.
        name: String,
        /// Where the directory's inode is.
        offset: u64,
    },
    /// `.` or `..` is not what it says.
    #[error("{name:?} of the directory at offset {offset:#x} is inode {found}, not {expected}")]
    BadSelfReference {
        /// `.` or `..`.
        name: &'static str,
        /// Where the directory's inode is.
        offset: u64,
        /// Inode number that it must have.
        expected: u64,
        /// As found.
        found: u64,
    },
    /// A directory that is reached twice: a cycle, or two names.
    #[error("the directory at offset {offset:#x} is reached a second time, as {path:?}")]
    DirectoryLoop {
        /// Where its inode is.
        offset: u64,
        /// The second path, lossily decoded.
        path: String,
    },
    /// An inode that has more or fewer names than it says.
    #[error("the inode at offset {offset:#x} has {found} links, not {expected}")]
    BadLinkCount {
        /// Where it is.
        offset: u64,
        /// As stored.
        expected: u32,
        /// As counted.
        found: u32,
    },
    /// The overlay attributes of a composefs file contradict each other or name no object.
    #[error("{path:?}: {what}")]
    BadObject {
        /// Path in the image, lossily decoded.
        path: String,
        /// What is wrong.
        what: &'static str,
    },
    /// A limit of [`crate::limits`].
    #[error("{found} exceeds the limit {name} = {limit}")]
    Limit {
        /// Name of the constant.
        name: &'static str,
        /// Its value.
        limit: u64,
        /// What the image asks for, at least.
        found: u64,
    },
    /// A path that is not there.
    #[error("{:?} is not in the image", String::from_utf8_lossy(path))]
    NotFound {
        /// As asked for.
        path: Vec<u8>,
    },
    /// A path through something that is no directory, or a directory was asked for.
    #[error("{:?} is not a directory", String::from_utf8_lossy(path))]
    NotADirectory {
        /// As asked for.
        path: Vec<u8>,
    },
    /// Content was asked of something that has none in the image.
    #[error("{path:?} is not a regular file with its content in the image")]
    NotAFile {
        /// As asked for, lossily decoded.
        path: String,
    },
    /// The tree does not fit.
    #[error(transparent)]
    Tree(#[from] BuildError),
    /// The image cannot be mapped or output cannot be written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Nobody wants the result any more.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl ErofsError {
    /// Byte offset that is to blame, if one is.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        match self {
            Self::OutOfBounds { offset, .. }
            | Self::Unreadable { offset, .. }
            | Self::CutOff { len: offset, .. }
            | Self::BadValue { offset, .. }
            | Self::BadName { offset, .. }
            | Self::UnsortedName { offset, .. }
            | Self::BadSelfReference { offset, .. }
            | Self::BadLinkCount { offset, .. }
            | Self::DirectoryLoop { offset, .. } => Some(*offset),
            Self::Checksum { .. } => Some(super::layout::SUPERBLOCK_OFFSET),
            _ => None,
        }
    }
}
