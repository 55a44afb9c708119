//! Mounts that are never attached to the tree: made, cloned and changed through descriptors.
//!
//! A detached mount lives as long as its descriptor, so the kernel drops it with the process.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_reconfigure, fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount,
    fsopen, fspick, move_mount, open_tree, unmount,
};

/// Longest message of a file system context; the kernel's ring of messages holds eight shorter ones.
const MAX_MESSAGE_BYTES: usize = 4096;

/// A value of a mount parameter.
#[derive(Debug)]
pub enum Value<'a> {
    /// The parameter's presence says it all, e.g. `ro`.
    Flag,
    /// Text, e.g. a device's path.
    Text(&'a [u8]),
    /// A directory or file, for parameters such as overlay's `lowerdir+`.
    Fd(BorrowedFd<'a>),
}

/// Why a mount failed.
#[derive(Debug)]
pub struct MountFailure {
    /// What the system call said.
    pub error: io::Error,
    /// The kernel's own words about it, empty where it has none.
    pub messages: String,
}

impl From<Errno> for MountFailure {
    fn from(errno: Errno) -> Self {
        Self { error: errno.into(), messages: String::new() }
    }
}

/// Reads what the file system said while it was configured; each message starts with `e `, `w ` or `i `.
fn read_messages(context: BorrowedFd<'_>) -> String {
    let mut messages = Vec::new();
    let mut buffer = vec![0; MAX_MESSAGE_BYTES];
    while let Ok(length) = rustix::io::read(context, buffer.as_mut_slice()) {
        let Some(text) = buffer.get(..length).filter(|text| !text.is_empty()) else { break };
        let text = String::from_utf8_lossy(text);
        messages.push(text.get(2..).unwrap_or_default().trim_end().to_owned());
    }
    messages.join("; ")
}

fn set_parameter(context: BorrowedFd<'_>, key: &[u8], value: &Value<'_>) -> rustix::io::Result<()> {
    match value {
        Value::Flag => fsconfig_set_flag(context, key),
        Value::Text(text) => fsconfig_set_string(context, key, *text),
        Value::Fd(fd) => fsconfig_set_fd(context, key, fd),
    }
}

/// Mounts a file system without attaching it.
///
/// Set-user-id programs and devices in it have no effect, unless a system is to run from it (`is_system_root`).
///
/// A device that is mounted already shares its file system, whose read-only state then must be the asked-for one
/// (`EBUSY` else); `read_only` makes this mount read-only whatever the file system is.
///
/// # Errors
/// Those of `fsopen(2)`, `fsconfig(2)`, `fsmount(2)`, with the kernel's messages.
pub fn mount(
    fstype: &[u8],
    parameters: &[(&[u8], Value<'_>)],
    read_only: bool,
    is_system_root: bool,
) -> Result<OwnedFd, MountFailure> {
    let context = fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC)?;
    let fail = |errno: Errno| MountFailure { error: errno.into(), messages: read_messages(context.as_fd()) };
    for (key, value) in parameters {
        set_parameter(context.as_fd(), key, value).map_err(fail)?;
    }
    fsconfig_create(&context).map_err(fail)?;
    let mut attributes = MountAttrFlags::empty();
    attributes.set(MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV, !is_system_root);
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, read_only);
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(fail)
}

/// Makes the file system behind a mount read-only or writable; flags of the mounts of it stay.
///
/// # Errors
/// `EBUSY` where a file is open for writing; `EROFS` where the device is read-only.
pub fn remount(mount: BorrowedFd<'_>, read_only: bool) -> Result<(), MountFailure> {
    let context = fspick(mount, "", FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC)?;
    let fail = |errno: Errno| MountFailure { error: errno.into(), messages: read_messages(context.as_fd()) };
    fsconfig_set_flag(&context, if read_only { "ro" } else { "rw" }).map_err(fail)?;
    fsconfig_reconfigure(&context).map_err(fail)
}

/// Clones the mount that holds a directory, rooted there, without attaching it.
///
/// Without `recursive` the clone shows what lies under other mounts. `read_only` sets or clears that attribute of
/// the clone, of all its mounts with `recursive`; `None` keeps it.
///
/// # Errors
/// Those of `open_tree(2)` and `mount_setattr(2)`.
pub fn clone_mount(dir: BorrowedFd<'_>, recursive: bool, read_only: Option<bool>) -> io::Result<OwnedFd> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    let clone = open_tree(dir, "", flags)?;
    if let Some(read_only) = read_only {
        set_read_only(clone.as_fd(), recursive, read_only)?;
    }
    Ok(clone)
}

/// Clones what is mounted at and below a directory so that reading through it changes no access time.
///
/// Nothing else does that for a symlink's target, which `O_NOATIME` has no way to.
///
/// # Errors
/// Those of `open_tree(2)` and `mount_setattr(2)`: `EPERM` without `CAP_SYS_ADMIN`, `EINVAL` for what is not in this mount
/// namespace.
pub fn clone_quietly(dir: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let clone = clone_mount(dir, true, None)?;
    let (set, clear) = (MountAttrFlags::MOUNT_ATTR_NOATIME, MountAttrFlags::MOUNT_ATTR__ATIME);
    set_attributes(clone.as_fd(), false, set, clear, libc::MS_PRIVATE)?;
    Ok(clone)
}

fn set_read_only(mount: BorrowedFd<'_>, recursive: bool, read_only: bool) -> io::Result<()> {
    let (one, none) = (MountAttrFlags::MOUNT_ATTR_RDONLY, MountAttrFlags::empty());
    let (set, clear) = if read_only { (one, none) } else { (none, one) };
    set_attributes(mount, recursive, set, clear, 0)
}

/// Takes a tree of mounts out of all propagation: what is mounted or unmounted elsewhere never appears in it.
///
/// # Errors
/// Those of `mount_setattr(2)`.
pub fn isolate(mount: BorrowedFd<'_>) -> io::Result<()> {
    set_attributes(mount, true, MountAttrFlags::empty(), MountAttrFlags::empty(), libc::MS_PRIVATE)
}

/// `propagation`: `MS_PRIVATE` and the like; 0 keeps it.
fn set_attributes(
    mount: BorrowedFd<'_>,
    recursive: bool,
    set: MountAttrFlags,
    clear: MountAttrFlags,
    propagation: u64,
) -> io::Result<()> {
    let (attr_set, attr_clr) = (u64::from(set.bits()), u64::from(clear.bits()));
    let attributes = libc::mount_attr { attr_set, attr_clr, propagation, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the descriptor is open, the path is an empty C string, and the kernel reads exactly the given size
    // of a structure that outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(&attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes the topmost mount at a directory out of the tree, with all that is mounted below it.
///
/// # Errors
/// `EINVAL` where the directory is no mount's root; others of `umount2(2)`.
pub fn detach(dir: BorrowedFd<'_>) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
    Ok(unmount(path.as_str(), UnmountFlags::DETACH)?)
}

/// Attaches a detached mount at `path` under `dir`.
///
/// # Errors
/// Those of `move_mount(2)`.
pub fn attach(mount: BorrowedFd<'_>, dir: BorrowedFd<'_>, path: &[u8]) -> io::Result<()> {
    let mut flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    flags.set(MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH, path.is_empty());
    Ok(move_mount(mount, "", dir, path, flags)?)
}
