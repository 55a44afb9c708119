//! One inode of a live directory: its attributes, symlink target and extended attributes.
//!
//! Of a directory and of a symlink, FIFO or device all is taken from one descriptor. Of a regular file, attributes and
//! extended attributes are two calls under its name, and nothing is opened: whoever reads its content afterwards compares
//! inode and times with the first of them ([`DiskState`]).

use std::ffi::{CStr, CString};
use std::io::Write as _;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use bootc_fast_sys::xattrat;
use rustix::fs::{
    AtFlags, Statx, StatxAttributes, StatxFlags, fgetxattr, flistxattr, getxattr, lgetxattr, listxattr,
    llistxattr, makedev, readlinkat_raw, statx,
};
use rustix::io::Errno;

use super::model::{DiskState, FileType, Stat, Timestamp};

/// `XATTR_LIST_MAX` and `XATTR_SIZE_MAX` of Linux: what a list of names or a value can grow to.
const MAX_XATTR_CALL_BYTES: usize = 65536;

/// What identifies a mount: its id, or its device on kernels before 5.8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MountKey {
    Id(u64),
    Device(u64),
}

/// What `statx` said, in this crate's terms.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    pub(super) stat: Stat,
    pub(super) mount: MountKey,
    pub(super) device: u64,
    pub(super) disk: DiskState,
    pub(super) is_immutable: bool,
    pub(super) is_append_only: bool,
}

/// Asks for one inode: `name` in `dir`, or `dir` itself where the name is empty.
pub(super) fn facts(dir: BorrowedFd<'_>, name: &CStr) -> Result<Facts, Errno> {
    // NO_AUTOMOUNT: at shutdown nobody answers an automount, and the call would hang.
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::EMPTY_PATH;
    let found = statx(dir, name, flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)?;
    Ok(to_facts(&found))
}

fn to_facts(found: &Statx) -> Facts {
    let mode = u32::from(found.stx_mode);
    let kind = FileType::from_mode(mode);
    let device = makedev(found.stx_dev_major, found.stx_dev_minor);
    let is_device = matches!(kind, Some(FileType::CharDevice | FileType::BlockDevice));
    let is_sized = matches!(kind, Some(FileType::Regular | FileType::Symlink));
    let has_id = found.stx_mask & StatxFlags::MNT_ID.bits() != 0;
    Facts {
        stat: Stat {
            mode,
            uid: found.stx_uid,
            gid: found.stx_gid,
            nlink: found.stx_nlink,
            rdev: if is_device { makedev(found.stx_rdev_major, found.stx_rdev_minor) } else { 0 },
            size_bytes: if is_sized { found.stx_size } else { 0 },
            mtime: Timestamp { secs: found.stx_mtime.tv_sec, nanos: found.stx_mtime.tv_nsec },
        },
        mount: if has_id { MountKey::Id(found.stx_mnt_id) } else { MountKey::Device(device) },
        device,
        disk: DiskState {
            inode: found.stx_ino,
            ctime: Timestamp { secs: found.stx_ctime.tv_sec, nanos: found.stx_ctime.tv_nsec },
            has_verity: found.stx_attributes.contains(StatxAttributes::VERITY),
        },
        is_immutable: found.stx_attributes.contains(StatxAttributes::IMMUTABLE),
        is_append_only: found.stx_attributes.contains(StatxAttributes::APPEND),
    }
}

/// Reads targets and extended attributes into buffers that live as long as a scan.
#[derive(Debug)]
pub(super) struct Reader {
    /// Room for a path below `/proc/self/fd`.
    path: Vec<u8>,
    names: Vec<u8>,
    value: Vec<u8>,
}

/// Extended attributes as ranges of one buffer: names and values.
pub(super) type XattrRanges = Vec<(Range<usize>, Range<usize>)>;

/// How an inode's extended attributes are reached.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way<'w> {
    /// By a name in a directory, which is not followed and not opened.
    Name(BorrowedFd<'w>, &'w CStr),
    /// By a descriptor that is open for reading.
    Open(BorrowedFd<'w>),
    /// By an `O_PATH` descriptor.
    Reached(BorrowedFd<'w>),
}

impl Way<'_> {
    /// A path for the calls that take no descriptor of this kind; empty where there are such calls.
    ///
    /// What `/proc/self/fd/<n>` names is the inode itself, also where that is a symlink (`proc_pid_fd(5)`).
    fn path(self, mut buffer: Vec<u8>) -> Result<CString, Errno> {
        buffer.clear();
        // Writing to a Vec cannot fail.
        let _ = match self {
            Self::Open(_) => Ok(()),
            Self::Reached(fd) => write!(buffer, "/proc/self/fd/{}", fd.as_raw_fd()),
            Self::Name(dir, name) => {
                let written = write!(buffer, "/proc/self/fd/{}/", dir.as_raw_fd());
                buffer.extend_from_slice(name.to_bytes());
                written
            }
        };
        CString::new(buffer).map_err(|_| Errno::NOENT)
    }

    fn list(self, path: &CStr, names: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Name(..) => llistxattr(path, names),
            Self::Open(fd) => flistxattr(fd, names),
            Self::Reached(_) => listxattr(path, names),
        }
    }

    fn get(self, path: &CStr, key: &CStr, value: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Name(dir, name) => {
                xattrat::get(dir, name, key, value).unwrap_or_else(|| lgetxattr(path, key, value))
            }
            Self::Open(fd) => fgetxattr(fd, key, value),
            Self::Reached(_) => getxattr(path, key, value),
        }
    }
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { path: Vec::new(), names: vec![0; 1024], value: vec![0; 1024] }
    }

    /// Appends the target of a symlink, which an `O_PATH` descriptor leads to, to `out`.
    pub(super) fn target(&mut self, link: BorrowedFd<'_>, out: &mut Vec<u8>) -> Result<(), Errno> {
        self.value.resize(self.value.len().max(4096), 0);
        let len = readlinkat_raw(link, c"", self.value.as_mut_slice())?;
        out.extend_from_slice(self.value.get(..len).unwrap_or_default());
        Ok(())
    }

    /// Appends extended attributes to `pairs`, and their bytes to `out`.
    pub(super) fn xattrs(
        &mut self,
        way: Way<'_>,
        out: &mut Vec<u8>,
        pairs: &mut XattrRanges,
    ) -> Result<(), Errno> {
        let listed = match way {
            Way::Name(dir, name) => fill(&mut self.names, |names| xattrat::list(dir, name, names)),
            Way::Open(_) | Way::Reached(_) => None,
        };
        if matches!(listed, Some(Ok(0) | Err(Errno::NOTSUP))) {
            return Ok(());
        }
        let path = way.path(std::mem::take(&mut self.path))?;
        let result = self.xattrs_at(way, &path, listed, out, pairs);
        self.path = path.into_bytes();
        result
    }

    /// `listed`: what the list of names came to, where there is one already.
    fn xattrs_at(
        &mut self,
        way: Way<'_>,
        path: &CStr,
        listed: Option<Result<usize, Errno>>,
        out: &mut Vec<u8>,
        pairs: &mut XattrRanges,
    ) -> Result<(), Errno> {
        let listed = listed.or_else(|| fill(&mut self.names, |names| Some(way.list(path, names))));
        let listed = match listed.unwrap_or(Err(Errno::NOSYS)) {
            Err(Errno::NOTSUP) => 0,
            listed => listed?,
        };
        for key in self.names.get(..listed).unwrap_or_default().split_inclusive(|byte| *byte == 0) {
            let Ok(key) = CStr::from_bytes_with_nul(key) else { continue };
            let read = fill(&mut self.value, |value| Some(way.get(path, key, value)));
            let len = match read.unwrap_or(Err(Errno::NODATA)) {
                Ok(len) => len,
                // Removed since it was listed, or a handler that lists what it does not have.
                Err(Errno::NODATA | Errno::NOTSUP) => continue,
                Err(error) => return Err(error),
            };
            let key = append(out, key.to_bytes());
            pairs.push((key, append(out, self.value.get(..len).unwrap_or_default())));
        }
        Ok(())
    }
}

pub(super) fn append(out: &mut Vec<u8>, data: &[u8]) -> Range<usize> {
    let start = out.len();
    out.extend_from_slice(data);
    start..out.len()
}

/// Calls with a larger buffer once the kernel says that this one is too small; `None` where `call` says so.
fn fill(
    buffer: &mut Vec<u8>,
    call: impl Fn(&mut [u8]) -> Option<Result<usize, Errno>>,
) -> Option<Result<usize, Errno>> {
    match call(buffer.as_mut_slice()) {
        Some(Err(Errno::RANGE)) if buffer.len() < MAX_XATTR_CALL_BYTES => {
            buffer.resize(MAX_XATTR_CALL_BYTES, 0);
            call(buffer.as_mut_slice())
        }
        other => other,
    }
}
