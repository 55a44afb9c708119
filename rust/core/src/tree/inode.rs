//! One inode of a live directory: its attributes, symlink target and extended attributes, without opening it.

use std::ffi::{CStr, CString};
use std::io::Write as _;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, Statx, StatxFlags, lgetxattr, llistxattr, makedev, readlinkat_raw, statx};
use rustix::io::Errno;

use super::model::{FileType, Stat, Timestamp};

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
    pub(super) inode: u64,
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
        inode: found.stx_ino,
    }
}

/// Reads targets and extended attributes into buffers that live as long as a scan.
#[derive(Debug)]
pub(super) struct Reader {
    /// `/proc/self/fd/<n>/`, then the name: a way to an inode's xattrs that does not open it.
    path: Vec<u8>,
    prefix_len: usize,
    names: Vec<u8>,
    value: Vec<u8>,
}

/// Extended attributes as ranges of one buffer: names and values.
pub(super) type XattrRanges = Vec<(Range<usize>, Range<usize>)>;

impl Reader {
    pub(super) fn new() -> Self {
        Self { path: Vec::new(), prefix_len: 0, names: vec![0; 1024], value: vec![0; 1024] }
    }

    /// All later names are those of this directory.
    pub(super) fn enter(&mut self, dir: BorrowedFd<'_>) {
        self.path.clear();
        // Writing to a Vec cannot fail.
        let _ = write!(self.path, "/proc/self/fd/{}/", dir.as_raw_fd());
        self.prefix_len = self.path.len();
    }

    /// Appends the target of a symlink to `out`.
    pub(super) fn target(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        out: &mut Vec<u8>,
    ) -> Result<(), Errno> {
        self.value.resize(self.value.len().max(4096), 0);
        let len = readlinkat_raw(dir, name, self.value.as_mut_slice())?;
        out.extend_from_slice(self.value.get(..len).unwrap_or_default());
        Ok(())
    }

    /// Appends the extended attributes of a name to `pairs`, their bytes to `out`; `.` is the directory itself.
    pub(super) fn xattrs(
        &mut self,
        name: &CStr,
        out: &mut Vec<u8>,
        pairs: &mut XattrRanges,
    ) -> Result<(), Errno> {
        self.path.truncate(self.prefix_len);
        self.path.extend_from_slice(name.to_bytes_with_nul());
        let path = CString::from_vec_with_nul(std::mem::take(&mut self.path)).map_err(|_| Errno::NOENT)?;
        let result = self.xattrs_at(&path, out, pairs);
        self.path = path.into_bytes();
        result
    }

    fn xattrs_at(&mut self, path: &CStr, out: &mut Vec<u8>, pairs: &mut XattrRanges) -> Result<(), Errno> {
        let listed = match fill(&mut self.names, |names| llistxattr(path, names)) {
            Ok(len) => len,
            Err(Errno::NOTSUP) => 0,
            Err(error) => return Err(error),
        };
        for name in self.names.get(..listed).unwrap_or_default().split_inclusive(|byte| *byte == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
            let len = match fill(&mut self.value, |value| lgetxattr(path, name, value)) {
                Ok(len) => len,
                // Removed since it was listed, or a handler that lists what it does not have.
                Err(Errno::NODATA | Errno::NOTSUP) => continue,
                Err(error) => return Err(error),
            };
            let key = append(out, name.to_bytes());
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

/// Calls with a larger buffer once the kernel says that this one is too small.
fn fill(buffer: &mut Vec<u8>, call: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<usize, Errno> {
    match call(buffer.as_mut_slice()) {
        Err(Errno::RANGE) if buffer.len() < MAX_XATTR_CALL_BYTES => {
            buffer.resize(MAX_XATTR_CALL_BYTES, 0);
            call(buffer.as_mut_slice())
        }
        other => other,
    }
}
