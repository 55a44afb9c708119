//! One inode of a live directory: its attributes, symlink target and extended attributes, without opening it.

use std::ffi::{CStr, CString};
use std::io::Write as _;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use bootc_fast_sys::xattrat;
use rustix::fs::{
    AtFlags, Statx, StatxAttributes, StatxFlags, lgetxattr, llistxattr, makedev, readlinkat_raw, statx,
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
    /// `/proc/self/fd/<n>/`, then the name: the way to an inode's xattrs that does not open it, before Linux 6.13.
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

    /// Appends the extended attributes of a name in the directory that was entered last to `pairs`, their bytes to
    /// `out`; `.` is the directory itself.
    pub(super) fn xattrs(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        out: &mut Vec<u8>,
        pairs: &mut XattrRanges,
    ) -> Result<(), Errno> {
        let listed = if let Some(listed) = fill(&mut self.names, |names| xattrat::list(dir, name, names)) {
            listed
        } else {
            let path = self.path_of(name)?;
            let listed = fill(&mut self.names, |names| Some(llistxattr(&path, names)));
            self.path = path.into_bytes();
            listed.unwrap_or(Err(Errno::NOSYS))
        };
        match listed {
            Ok(0) | Err(Errno::NOTSUP) => Ok(()),
            Ok(len) => self.values(dir, name, len, out, pairs),
            Err(error) => Err(error),
        }
    }

    fn path_of(&mut self, name: &CStr) -> Result<CString, Errno> {
        self.path.truncate(self.prefix_len);
        self.path.extend_from_slice(name.to_bytes_with_nul());
        CString::from_vec_with_nul(std::mem::take(&mut self.path)).map_err(|_| Errno::NOENT)
    }

    fn values(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        listed: usize,
        out: &mut Vec<u8>,
        pairs: &mut XattrRanges,
    ) -> Result<(), Errno> {
        let path = self.path_of(name)?;
        let result = self.values_at(dir, name, &path, listed, out, pairs);
        self.path = path.into_bytes();
        result
    }

    fn values_at(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        path: &CStr,
        listed: usize,
        out: &mut Vec<u8>,
        pairs: &mut XattrRanges,
    ) -> Result<(), Errno> {
        for key in self.names.get(..listed).unwrap_or_default().split_inclusive(|byte| *byte == 0) {
            let Ok(key) = CStr::from_bytes_with_nul(key) else { continue };
            let read = fill(&mut self.value, |value| {
                xattrat::get(dir, name, key, value).or_else(|| Some(lgetxattr(path, key, value)))
            });
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
