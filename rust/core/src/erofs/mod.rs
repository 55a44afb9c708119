//! EROFS images: reading what composefs and mkfs.erofs write, and writing the composefs V1 layout.
#![deny(clippy::arithmetic_side_effects)]

mod bytes;
mod crc32c;
mod data;
mod dir;
mod dump;
mod error;
mod image;
mod inode;
pub mod layout;
mod superblock;
mod to_tree;
mod verify;
mod view;
mod walk;
mod write;
mod xattr;
mod xattr_name;

pub use bytes::Bytes;
pub use data::Extent;
pub use dir::DirEntry;
pub use error::ErofsError;
pub use image::{Image, Reader};
pub use inode::{Inode, Nid};
pub use superblock::Superblock;
pub use verify::Contents;
pub use view::{View, ViewContent, ViewXattr};
pub use walk::Walk;
pub use write::{WriteError, to_image};
pub use xattr::{XattrRef, Xattrs};

/// The forms of composefs images, as the header numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ComposefsVersion {
    /// C mkcomposefs: compact and extended inodes, breadth-first, whiteout stubs in the root.
    V0,
    /// The same layout; the number says that a user's whiteouts may be in it.
    V1,
    /// Older composefs-rs: extended inodes, depth-first, no stubs, whiteouts as they are.
    V2,
}

impl ComposefsVersion {
    /// From the header's number.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::V0),
            1 => Some(Self::V1),
            2 => Some(Self::V2),
            _ => None,
        }
    }

    /// The header's number.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::V0 => 0,
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }
}
