//! Bytes from one file into another: shared where the file systems can, holes left holes, never more than was seen.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{self, SeekFrom};
use rustix::io::{Errno, retry_on_intr};

use super::content::CopyError;
use crate::cancel::Cancel;

/// Bytes moved between two looks at the canceller: a few milliseconds' worth.
const CHUNK_BYTES: u64 = 4 << 20;
/// Bytes read at once where the kernel cannot copy by itself.
const BUFFER_BYTES: u64 = 128 << 10;

/// Read of a file whose size says 0: those of procfs and sysfs have content all the same.
const UNSIZED_BYTES: u64 = 1 << 20;

/// Copies the first `size_bytes` of `file` into `out`, which is empty; returns how many there were.
///
/// Reflink, else in the kernel, else through this process. A file that grows meanwhile is not followed: a log that
/// is written as fast as it is read would never end.
pub(super) fn copy(
    file: &File,
    out: BorrowedFd<'_>,
    size_bytes: u64,
    cancel: &dyn Cancel,
) -> Result<u64, CopyError> {
    if size_bytes == 0 {
        return copy_by_reading(file, out, 0, UNSIZED_BYTES, cancel);
    }
    match retry_on_intr(|| fs::ioctl_ficlone(out, file)) {
        Ok(()) => return file_size(out),
        Err(error) if is_unsupported(error) => (),
        Err(error) => return Err(CopyError::Write(error.into())),
    }
    let mut by_kernel = true;
    let mut at = 0u64;
    while at < size_bytes {
        let (start, end) = next_data(file, at, size_bytes).map_err(|error| CopyError::Read(error.into()))?;
        let done = copy_range(file, out, start, end, &mut by_kernel, cancel)?;
        if done < end {
            // It was cut off meanwhile.
            return Ok(done);
        }
        at = end;
        cancel.check()?;
    }
    if file_size(out)? < size_bytes {
        // A hole at the end.
        retry_on_intr(|| fs::ftruncate(out, size_bytes)).map_err(|error| CopyError::Write(error.into()))?;
    }
    Ok(size_bytes)
}

/// The next range of `file` that is no hole, from `at` on and below `end`: `(start, end)`; both are `end` where only
/// a hole is left.
///
/// A file system that does not know its holes says that all is data (`lseek(2)`).
pub(super) fn next_data(file: &File, at: u64, end: u64) -> Result<(u64, u64), Errno> {
    let start = match retry_on_intr(|| fs::seek(file, SeekFrom::Data(at))) {
        Ok(start) => start.min(end),
        Err(Errno::NXIO) => return Ok((end, end)),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok((at, end)),
        Err(error) => return Err(error),
    };
    match retry_on_intr(|| fs::seek(file, SeekFrom::Hole(start))) {
        Ok(hole) => Ok((start, hole.min(end))),
        Err(Errno::NXIO | Errno::INVAL | Errno::OPNOTSUPP) => Ok((start, end)),
        Err(error) => Err(error),
    }
}

/// Copies from `start` to `end`; returns how far it came.
fn copy_range(
    file: &File,
    out: BorrowedFd<'_>,
    start: u64,
    end: u64,
    by_kernel: &mut bool,
    cancel: &dyn Cancel,
) -> Result<u64, CopyError> {
    let mut done = start;
    while *by_kernel && done < end {
        if done > start {
            cancel.check()?;
        }
        let (mut from, mut to) = (done, done);
        let len = usize::try_from(CHUNK_BYTES.min(end.saturating_sub(done))).unwrap_or(1 << 22);
        match fs::copy_file_range(file, Some(&mut from), out, Some(&mut to), len) {
            // Some file systems answer 0 for files that do have content; reading to the end is the proof.
            Ok(0) => break,
            Ok(count) => done = done.saturating_add(count as u64),
            Err(Errno::INTR) => (),
            Err(error) if is_unsupported(error) => *by_kernel = false,
            Err(error) => return Err(CopyError::Write(error.into())),
        }
    }
    copy_by_reading(file, out, done, end, cancel)
}

fn copy_by_reading(
    file: &File,
    out: BorrowedFd<'_>,
    start: u64,
    end: u64,
    cancel: &dyn Cancel,
) -> Result<u64, CopyError> {
    let mut buffer = Vec::new();
    let mut done = start;
    while done < end {
        if done > start {
            cancel.check()?;
        }
        let len = usize::try_from(BUFFER_BYTES.min(end.saturating_sub(done))).unwrap_or(1 << 17);
        buffer.resize(len, 0u8);
        let count = retry_on_intr(|| rustix::io::pread(file, &mut buffer[..], done))
            .map_err(|error| CopyError::Read(error.into()))?;
        if count == 0 {
            break;
        }
        write_all(out, buffer.get(..count).unwrap_or_default(), done).map_err(CopyError::Write)?;
        done = done.saturating_add(count as u64);
    }
    Ok(done)
}

pub(super) fn write_all(out: BorrowedFd<'_>, bytes: &[u8], start: u64) -> io::Result<()> {
    let (mut rest, mut at) = (bytes, start);
    while !rest.is_empty() {
        let count = retry_on_intr(|| rustix::io::pwrite(out, rest, at))?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        rest = rest.get(count..).unwrap_or_default();
        at = at.saturating_add(count as u64);
    }
    Ok(())
}

fn file_size(out: BorrowedFd<'_>) -> Result<u64, CopyError> {
    let stat = retry_on_intr(|| fs::fstat(out)).map_err(|error| CopyError::Write(error.into()))?;
    Ok(u64::try_from(stat.st_size).unwrap_or_default())
}

/// Errors that say "not here, not this way" rather than "it failed" (`ioctl_ficlone(2)`, `copy_file_range(2)`).
pub(super) fn is_unsupported(error: Errno) -> bool {
    use rustix::io::Errno as E;
    // EPERM: a seccomp filter, or a file with fs-verity or an immutable flag where a clone is refused.
    matches!(error, E::OPNOTSUPP | E::XDEV | E::INVAL | E::NOTTY | E::NOSYS | E::PERM | E::TXTBSY)
}
