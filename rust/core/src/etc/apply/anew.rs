//! A second look at a file that was replaced or changed again and again while it was merged: everything from one
//! open descriptor, and no more access than this look and the plan's both grant.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{self, OFlags, fgetxattr};
use rustix::io::{Errno, retry_on_intr};

use super::content::Version;
use super::inode::list_xattrs;
use crate::etc::acl::{self, Classes};
use crate::etc::attributes::PERMISSIONS;
use crate::limits::MAX_XATTR_BYTES;
use crate::tree::{BuildError, Content, Node, NodeId, Stat, Timestamp, Tree, TreeBuilder, open_if_there};

/// `S_ISUID` and `S_ISGID`.
const SET_ID: u32 = 0o6000;
/// Raises privilege as setuid does.
const CAPABILITY: &[u8] = b"security.capability";

/// A tree whose only child has the attributes that the file gets.
#[derive(Debug)]
pub(super) struct Look(Tree);

impl Look {
    /// Takes owner, times and attributes of an open file; `planned`: the node of the result that it becomes.
    pub(super) fn at(file: &File, planned: Node<'_>) -> Result<Self, Errno> {
        let (stat, xattrs) = (stat_of(file)?, xattrs_of(file)?);
        Self::within(stat, xattrs, planned).map_err(|_| Errno::OVERFLOW)
    }

    /// As [`super::inode::set_attributes`] takes it.
    pub(super) fn node(&self) -> Option<Node<'_>> {
        self.0.root().children().next()
    }

    fn within(mut stat: Stat, mut xattrs: Xattrs, planned: Node<'_>) -> Result<Self, BuildError> {
        let limit = planned.stat();
        let acl = |found: &[(Vec<u8>, Vec<u8>)]| {
            found.iter().find(|(name, _)| name == acl::ACCESS).map(|(_, value)| value.clone())
        };
        let now = Classes::of(stat.mode & PERMISSIONS, stat.gid, acl(&xattrs).as_deref());
        let most = Classes::of(limit.mode & PERMISSIONS, limit.gid, planned.xattr(acl::ACCESS));
        let is_owner_same = (stat.uid, stat.gid) == (limit.uid, limit.gid);
        let set_id = if is_owner_same { stat.mode & limit.mode & SET_ID } else { 0 };
        let special = stat.mode & 0o1000 | set_id;
        xattrs.retain(|(name, value)| {
            let is_raising = name == CAPABILITY && planned.xattr(CAPABILITY) != Some(value);
            name != acl::ACCESS && !is_raising
        });
        let bits = if let (Some(mut now), Some(most)) = (now, most) {
            now.intersect(&most, stat.uid == limit.uid);
            xattrs.extend(now.to_acl().map(|value| (acl::ACCESS.to_vec(), value)));
            now.mode()
        } else {
            // No kernel takes such an ACL: nobody but the owner gets anything.
            stat.mode & 0o700
        };
        stat.mode = stat.mode & !PERMISSIONS | special | bits;
        let root = Stat { mode: 0o040_700, size_bytes: 0, rdev: 0, ..stat };
        let mut builder = TreeBuilder::new(root, &[])?;
        let mut borrowed: Vec<_> =
            xattrs.iter().map(|(name, value)| (name.as_slice(), value.as_slice())).collect();
        borrowed.sort_unstable();
        builder.add(crate::tree::NodeId::ROOT, b"file", stat, &borrowed, Content::OnDisk, 0)?;
        Ok(Self(builder.finish()?))
    }
}

/// The directories above a file, open while it is read: each was found in the one above it and has the owner, mode and
/// ACL that were planned with. Whatever is exchanged under their names meanwhile, the file is from these.
#[derive(Debug)]
pub struct Way {
    above: Vec<(File, Version)>,
}

impl Way {
    /// Opens the way to a node of a side; `None`: a directory is gone, or is not as it was planned with.
    ///
    /// # Errors
    /// Other errors of the system.
    pub(super) fn open(root: BorrowedFd<'_>, node: Node<'_>) -> io::Result<Option<Self>> {
        let mut nodes = Vec::new();
        let mut at = node;
        while at.id() != NodeId::ROOT {
            at = at.parent();
            nodes.push(at);
        }
        let mut above: Vec<(File, Version)> = Vec::with_capacity(nodes.len());
        for node in nodes.into_iter().rev() {
            let from = above.last().map_or(root, |(dir, _)| dir.as_fd());
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let Some(dir) = open_if_there(from, node.name(), flags)?.map(File::from) else {
                return Ok(None);
            };
            let version = Version::of(&dir)?;
            if !has_attributes(&dir, node)? {
                return Ok(None);
            }
            above.push((dir, version));
        }
        Ok(Some(Self { above }))
    }

    /// Opens the regular file of a node at the end of the way; `None`: there is none.
    ///
    /// # Errors
    /// Other errors of the system.
    pub(super) fn file(&self, node: Node<'_>) -> io::Result<Option<File>> {
        let Some((dir, _)) = self.above.last() else { return Ok(None) };
        // NONBLOCK: a FIFO that took the file's place is noticed, not waited for.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let Some(file) = open_if_there(dir.as_fd(), node.name(), flags)?.map(File::from) else {
            return Ok(None);
        };
        Ok(file.metadata()?.is_file().then_some(file))
    }

    /// Whether the directories have the attributes that they were opened with; `node`: the one that they lead to.
    ///
    /// Nobody can set a change time: where that is the same, no attribute was another one even for a moment. Where names
    /// came or went meanwhile, the attributes themselves have to do: where files are replaced all the time there is no
    /// moment in which names stay.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn has_its_attributes(&self, node: Node<'_>) -> io::Result<bool> {
        let mut at = node;
        for (dir, version) in self.above.iter().rev() {
            at = at.parent();
            let now = Version::of(dir)?;
            if now != *version && !(now.has_other_names(version) && has_attributes(dir, at)?) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn has_attributes(dir: &File, node: Node<'_>) -> io::Result<bool> {
    let (now, seen) = (stat_of(dir)?, node.stat());
    let xattrs = xattrs_of(dir)?;
    let acl = xattrs.iter().find(|(name, _)| name == acl::ACCESS).map(|(_, value)| value.as_slice());
    Ok((now.mode, now.uid, now.gid) == (seen.mode, seen.uid, seen.gid) && acl == node.xattr(acl::ACCESS))
}

#[allow(clippy::unnecessary_cast, clippy::cast_possible_wrap)] // Their types differ between architectures.
fn stat_of(file: &File) -> Result<Stat, Errno> {
    let stat = retry_on_intr(|| fs::fstat(file))?;
    Ok(Stat {
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        nlink: 1,
        rdev: 0,
        size_bytes: u64::try_from(stat.st_size).unwrap_or_default(),
        mtime: Timestamp {
            secs: stat.st_mtime as i64,
            nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
        },
    })
}

/// Names and values.
type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

fn xattrs_of(file: &File) -> Result<Xattrs, Errno> {
    let mut found = Vec::new();
    let mut buffer = vec![0u8; MAX_XATTR_BYTES];
    for name in list_xattrs(file.as_fd())? {
        match retry_on_intr(|| fgetxattr(file, name.as_slice(), &mut buffer[..])) {
            Ok(len) => found.push((name, buffer.get(..len).unwrap_or_default().to_vec())),
            // Removed since it was listed.
            Err(Errno::NODATA | Errno::NOTSUP) => (),
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}
