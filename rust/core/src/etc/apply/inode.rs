//! Attributes of one inode of the destination: owner, then mode, then extended attributes, then mtime.
//!
//! That order is the kernel's: chown takes setuid, setgid and `security.capability` away, chmod rewrites the mask
//! of an access ACL, and every write renews the mtime.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::{Errno, retry_on_intr};

use super::error::{ApplyError, During, Warning};
use crate::etc::attributes::{self, Attributes, PERMISSIONS};
use crate::etc::ops::OWNER_ALL;
use crate::limits::MAX_XATTR_BYTES;
use crate::tree::{FileType, Node, Timestamp, Xattr, open_beneath};

/// An inode, opened for reading where its type and its mode allow, else an `O_PATH` descriptor.
#[derive(Debug)]
pub(super) struct Inode {
    fd: OwnedFd,
    is_path: bool,
}

impl Inode {
    /// What `O_CREAT` just gave us.
    pub(super) fn created(fd: OwnedFd) -> Self {
        Self { fd, is_path: false }
    }

    /// A descriptor of any kind that leads to the inode.
    pub(super) fn reached(fd: OwnedFd) -> Self {
        Self { fd, is_path: true }
    }

    /// Opens a name without following it. Devices and FIFOs are never opened, only reached.
    pub(super) fn open(dir: BorrowedFd<'_>, name: &[u8], kind: FileType) -> Result<Self, Errno> {
        let plain = match kind {
            FileType::Regular => Some(OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY),
            FileType::Directory => Some(OFlags::RDONLY | OFlags::DIRECTORY),
            _ => None,
        };
        if let Some(flags) = plain {
            match open_beneath(dir, name, flags) {
                Ok(fd) => return Ok(Self { fd, is_path: false }),
                Err(Errno::ACCESS | Errno::PERM) => (),
                Err(error) => return Err(error),
            }
        }
        let fd = open_beneath(dir, name, OFlags::PATH)?;
        Ok(Self { fd, is_path: true })
    }

    /// A name that leads to the inode itself, even where it is a symlink: calls that take an `O_PATH` descriptor
    /// for mode and attributes came with kernels 6.6 and 6.13 only.
    fn magic(&self) -> String {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd())
    }

    /// Open for reading where type and mode allow.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn stat(&self) -> Result<fs::Stat, Errno> {
        retry_on_intr(|| fs::fstat(&self.fd))
    }

    pub(super) fn chmod(&self, mode: u32) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(mode & PERMISSIONS);
        if self.is_path {
            return retry_on_intr(|| fs::chmodat(fs::CWD, self.magic(), mode, AtFlags::empty()));
        }
        retry_on_intr(|| fs::fchmod(&self.fd, mode))
    }

    fn chown(&self, uid: u32, gid: u32) -> Result<(), Errno> {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        retry_on_intr(|| fs::chownat(&self.fd, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH))
    }

    fn set_mtime(&self, mtime: Timestamp) -> Result<(), Errno> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() },
        };
        if self.is_path {
            return retry_on_intr(|| fs::utimensat(&self.fd, c"", &times, AtFlags::EMPTY_PATH));
        }
        retry_on_intr(|| fs::futimens(&self.fd, &times))
    }

    fn set_xattr(&self, xattr: &Xattr<'_>) -> Result<(), Errno> {
        let flags = XattrFlags::empty();
        if self.is_path {
            return retry_on_intr(|| fs::setxattr(self.magic(), xattr.name, xattr.value, flags));
        }
        retry_on_intr(|| fs::fsetxattr(&self.fd, xattr.name, xattr.value, flags))
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        if self.is_path {
            return retry_on_intr(|| fs::removexattr(self.magic(), name));
        }
        retry_on_intr(|| fs::fremovexattr(&self.fd, name))
    }

    fn list_xattrs(&self) -> Result<Vec<Vec<u8>>, Errno> {
        if self.is_path {
            return names_in(|list| retry_on_intr(|| fs::listxattr(self.magic(), &mut *list)));
        }
        list_xattrs(self.fd.as_fd())
    }
}

/// Names of the extended attributes of an open file; none where its file system has none.
pub(super) fn list_xattrs(fd: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    names_in(|list| retry_on_intr(|| fs::flistxattr(fd, &mut *list)))
}

fn names_in(list: impl FnOnce(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut buffer = vec![0u8; MAX_XATTR_BYTES];
    let len = match list(&mut buffer) {
        Ok(len) => len,
        Err(Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error),
    };
    let names = buffer.get(..len).unwrap_or_default();
    Ok(names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
}

/// Gives an inode the attributes of a node of the result.
///
/// `path` is for messages. Where the owner or the mode changes, what the kernel resets along with it is set again.
pub(super) fn set_attributes(
    inode: &Inode,
    wanted: Node<'_>,
    which: Attributes,
    path: &[u8],
    warnings: &mut Vec<Warning>,
) -> Result<(), ApplyError> {
    let stat = wanted.stat();
    let mut which = which;
    if which.has(Attributes::OWNER) {
        let now = inode.stat().during("look at", path)?;
        if (now.st_uid, now.st_gid) != (stat.uid, stat.gid) {
            inode.chown(stat.uid, stat.gid).during("set owner of", path)?;
        }
        which = which.with(Attributes::MODE);
    }
    if which.has(Attributes::MODE) {
        if wanted.file_type() != FileType::Symlink {
            inode.chmod(stat.mode).during("set mode of", path)?;
        }
        which = which.with(Attributes::XATTRS);
    }
    if which.has(Attributes::XATTRS) {
        set_xattrs(inode, wanted, path, warnings)?;
    }
    if which.has(Attributes::MTIME) {
        inode.set_mtime(stat.mtime).during("set mtime of", path)?;
    }
    Ok(())
}

fn set_xattrs(
    inode: &Inode,
    wanted: Node<'_>,
    path: &[u8],
    warnings: &mut Vec<Warning>,
) -> Result<(), ApplyError> {
    let mut touched = false;
    for name in inode.list_xattrs().during("list attributes of", path)? {
        if attributes::is_removed(&name) && wanted.xattr(&name).is_none() {
            touched = true;
            match retry_writable(inode, wanted, || inode.remove_xattr(&name)) {
                Ok(()) | Err(Errno::NODATA) => (),
                Err(error) => tolerate(error, &name, path, warnings).during("remove attribute of", path)?,
            }
        }
    }
    for xattr in wanted.xattrs().filter(|xattr| attributes::is_written(xattr.name)) {
        touched = true;
        if let Err(error) = retry_writable(inode, wanted, || inode.set_xattr(&xattr)) {
            tolerate(error, xattr.name, path, warnings).during("set attribute of", path)?;
        }
    }
    // An ACL carries the group's bits of the mode, and setting one may take setgid away.
    if touched && wanted.file_type() != FileType::Symlink {
        let now = inode.stat().during("look at", path)?;
        if (now.st_mode ^ wanted.stat().mode) & PERMISSIONS != 0 {
            inode.chmod(wanted.stat().mode).during("set mode of", path)?;
        }
    }
    Ok(())
}

/// An owner without privilege needs write permission to set `user.*` attributes; the mode is put right afterwards.
fn retry_writable(
    inode: &Inode,
    wanted: Node<'_>,
    change: impl Fn() -> Result<(), Errno>,
) -> Result<(), Errno> {
    match change() {
        Err(Errno::ACCESS) if wanted.file_type() != FileType::Symlink => {
            inode.chmod(OWNER_ALL)?;
            let result = change();
            inode.chmod(wanted.stat().mode)?;
            result
        }
        result => result,
    }
}

/// Turns the refusal of an attribute that needs support or privilege of its own into a warning.
fn tolerate(error: Errno, name: &[u8], path: &[u8], warnings: &mut Vec<Warning>) -> Result<(), Errno> {
    let is_security = name.starts_with(b"security.");
    let tolerable = match error {
        Errno::OPNOTSUPP => is_security,
        // Without CAP_SYS_ADMIN or CAP_SETFCAP: an ordinary user with a host in a directory.
        Errno::PERM => is_security || name.starts_with(b"trusted."),
        // A label that this kernel's policy does not know.
        Errno::INVAL | Errno::ACCESS => name == b"security.selinux",
        _ => false,
    };
    if !tolerable {
        return Err(error);
    }
    warnings.push(Warning::Xattr { path: path.to_vec(), name: name.to_vec(), error });
    Ok(())
}
