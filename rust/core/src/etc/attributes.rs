//! Which attributes of an inode a merge writes, and which of them differ.

use std::fmt;

use crate::tree::{FileType, Node, Xattr};

/// A set of attributes of one inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes(u8);

impl Attributes {
    /// `uid` and `gid`.
    pub const OWNER: Self = Self(1);
    /// Permission bits.
    pub const MODE: Self = Self(2);
    /// Extended attributes.
    pub const XATTRS: Self = Self(4);
    /// Time of last modification.
    pub const MTIME: Self = Self(8);
    /// All of them.
    pub const ALL: Self = Self(15);

    const NAMES: [(Self, &'static str); 4] =
        [(Self::OWNER, "owner"), (Self::MODE, "mode"), (Self::XATTRS, "xattrs"), (Self::MTIME, "mtime")];

    /// Both sets.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in here.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Their names, in the order in which they are written.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(one, _)| self.has(*one)).map(|(_, name)| name)
    }

    /// What has to be written so that `found` gets the attributes of `wanted`.
    #[must_use]
    pub fn difference(wanted: Node<'_>, found: Node<'_>) -> Self {
        let (stat, old) = (wanted.stat(), found.stat());
        let mut set = Self::default();
        if (stat.uid, stat.gid) != (old.uid, old.gid) {
            set = set.with(Self::OWNER);
        }
        // A symlink's mode cannot be set and means nothing.
        if stat.file_type() != FileType::Symlink && (stat.mode ^ old.mode) & PERMISSIONS != 0 {
            set = set.with(Self::MODE);
        }
        if !same_xattrs(wanted, found) {
            set = set.with(Self::XATTRS);
        }
        if stat.mtime != old.mtime {
            set = set.with(Self::MTIME);
        }
        set
    }
}

impl fmt::Display for Attributes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.names().collect();
        formatter.write_str(&names.join(", "))
    }
}

/// Permission bits with setuid, setgid and sticky.
pub(super) const PERMISSIONS: u32 = 0o7777;

/// Whether a merge ever writes this attribute.
///
/// The overlay's own are not part of any tree, and `security.evm` is a seal over one inode on one file system.
pub(super) fn is_written(name: &[u8]) -> bool {
    !name.starts_with(b"trusted.overlay.") && name != b"security.evm"
}

/// Whether an attribute that the result does not have is taken away from an inode that has it.
///
/// The kernel puts a label and a measurement on new inodes by itself and may refuse to take them off again; an
/// image built without labels would otherwise unlabel the whole /etc.
pub(super) fn is_removed(name: &[u8]) -> bool {
    is_written(name) && name != b"security.selinux" && name != b"security.ima"
}

fn same_xattrs(wanted: Node<'_>, found: Node<'_>) -> bool {
    let there = |xattr: &Xattr<'_>| found.xattr(xattr.name) == Some(xattr.value);
    let extra = |xattr: Xattr<'_>| is_removed(xattr.name) && wanted.xattr(xattr.name).is_none();
    wanted.xattrs().filter(|xattr| is_written(xattr.name)).all(|xattr| there(&xattr))
        && !found.xattrs().any(extra)
}
