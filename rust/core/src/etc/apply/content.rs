//! Bytes of files: from wherever the result takes them into the destination, and compared with what is there.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use rustix::fs::{self, OFlags};
use rustix::io::{Errno, retry_on_intr};

use super::destination::{Destination, split_name};
use crate::cancel::{Cancel, Cancelled};
use crate::etc::content::{ContentError, Side};
use crate::etc::ops::SameContent;
use crate::tree::{Content, Node, open_beneath};

/// Bytes moved between two looks at the canceller: a few milliseconds' worth.
const CHUNK_BYTES: usize = 4 << 20;
/// Bytes read at once where the kernel cannot copy by itself.
const BUFFER_BYTES: usize = 128 << 10;

/// Content of a regular file of the result.
#[derive(Debug)]
pub enum Opened<'s> {
    /// All of it.
    Bytes(&'s [u8]),
    /// To be read from the start.
    File {
        /// Open for reading.
        file: File,
        /// In a directory that somebody may be writing to: it may vanish, or change while it is read.
        is_live: bool,
    },
}

/// Where the contents of the result come from: object stores, images and live directories.
pub trait ContentSource {
    /// Opens the content of a regular file of the result.
    ///
    /// `Ok(None)`: a file of a live directory that is no longer there.
    ///
    /// # Errors
    /// [`ContentError`]; an object that is missing is one.
    fn open(&self, node: Node<'_>) -> Result<Option<Opened<'_>>, ContentError>;
}

/// How the writing of a file's content ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// So many bytes.
    Bytes(u64),
    /// The source changed during both readings; so many bytes, as the second one found them.
    Changing(u64),
    /// There is no source any more.
    Vanished,
}

/// Why content did not get into the destination.
#[derive(Debug)]
pub(super) enum CopyError {
    Open(ContentError),
    Read(io::Error),
    Write(io::Error),
    Cancelled,
}

impl From<Cancelled> for CopyError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// Writes the content of `node` to `out`, which is empty. What vanishes or changes meanwhile is read again, once.
pub(super) fn write_content(
    source: &dyn ContentSource,
    node: Node<'_>,
    out: BorrowedFd<'_>,
    cancel: &dyn Cancel,
) -> Result<Written, CopyError> {
    let first = write_once(source, node, out, cancel)?;
    if matches!(first, Written::Bytes(_)) {
        return Ok(first);
    }
    retry_on_intr(|| fs::ftruncate(out, 0)).map_err(|error| CopyError::Write(error.into()))?;
    write_once(source, node, out, cancel)
}

fn write_once(
    source: &dyn ContentSource,
    node: Node<'_>,
    out: BorrowedFd<'_>,
    cancel: &dyn Cancel,
) -> Result<Written, CopyError> {
    match source.open(node).map_err(CopyError::Open)? {
        None => Ok(Written::Vanished),
        Some(Opened::Bytes(bytes)) => {
            write_all(out, bytes, 0).map_err(CopyError::Write)?;
            Ok(Written::Bytes(bytes.len() as u64))
        }
        Some(Opened::File { file, is_live }) => {
            let before = version(&file)?;
            let copied = copy(&file, out, before.size_bytes, cancel)?;
            let settled = !is_live || (before == version(&file)? && copied == before.size_bytes);
            Ok(if settled { Written::Bytes(copied) } else { Written::Changing(copied) })
        }
    }
}

/// What tells one state of a file from the next.
#[derive(PartialEq, Eq)]
struct Version {
    size_bytes: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

#[allow(clippy::unnecessary_cast, clippy::cast_possible_wrap)] // Their types differ between architectures.
fn version(file: &File) -> Result<Version, CopyError> {
    let stat = retry_on_intr(|| fs::fstat(file)).map_err(|error| CopyError::Read(error.into()))?;
    Ok(Version {
        size_bytes: u64::try_from(stat.st_size).unwrap_or_default(),
        mtime: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
        ctime: (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
    })
}

/// Shares or copies everything in `file`: reflink, else in the kernel, else through this process.
fn copy(file: &File, out: BorrowedFd<'_>, size_bytes: u64, cancel: &dyn Cancel) -> Result<u64, CopyError> {
    if size_bytes > 0 {
        match retry_on_intr(|| fs::ioctl_ficlone(out, file)) {
            Ok(()) => return file_size(out),
            Err(error) if is_unsupported(error) => (),
            Err(error) => return Err(CopyError::Write(error.into())),
        }
    }
    let mut done = 0u64;
    loop {
        if done > 0 {
            cancel.check()?;
        }
        let (mut from, mut to) = (done, done);
        let step = fs::copy_file_range(file, Some(&mut from), out, Some(&mut to), CHUNK_BYTES);
        match step {
            Ok(0) => break,
            Ok(count) => done = done.saturating_add(count as u64),
            Err(Errno::INTR) => (),
            Err(error) if is_unsupported(error) => break,
            Err(error) => return Err(CopyError::Write(error.into())),
        }
    }
    // Some file systems answer 0 for files that do have content; reading to the end is the proof.
    copy_by_reading(file, out, done, cancel)
}

fn copy_by_reading(
    file: &File,
    out: BorrowedFd<'_>,
    start: u64,
    cancel: &dyn Cancel,
) -> Result<u64, CopyError> {
    let mut buffer = Vec::new();
    let mut done = start;
    loop {
        if done > start {
            cancel.check()?;
        }
        // One byte more than nothing is enough to see the end; the rest of the buffer only where there is more.
        buffer.resize(if buffer.is_empty() { 512 } else { BUFFER_BYTES }, 0u8);
        let count = retry_on_intr(|| rustix::io::pread(file, &mut buffer[..], done))
            .map_err(|error| CopyError::Read(error.into()))?;
        if count == 0 {
            return Ok(done);
        }
        write_all(out, buffer.get(..count).unwrap_or_default(), done).map_err(CopyError::Write)?;
        done = done.saturating_add(count as u64);
    }
}

fn write_all(out: BorrowedFd<'_>, bytes: &[u8], start: u64) -> io::Result<()> {
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
fn is_unsupported(error: Errno) -> bool {
    use rustix::io::Errno as E;
    // EPERM: a seccomp filter, or a file with fs-verity or an immutable flag where a clone is refused.
    matches!(error, E::OPNOTSUPP | E::XDEV | E::INVAL | E::NOTTY | E::NOSYS | E::PERM | E::TXTBSY)
}

/// Compares the destination's files, by digest or byte by byte, with where the result takes its contents from.
pub(super) struct Comparer<'c> {
    pub(super) source: &'c dyn ContentSource,
    /// The destination as it was found.
    pub(super) there: &'c Side<'c>,
    pub(super) destination: &'c mut Destination,
    pub(super) cancel: &'c dyn Cancel,
    pub(super) buffers: (Vec<u8>, Vec<u8>),
}

impl SameContent for Comparer<'_> {
    fn same(&mut self, wanted: Node<'_>, found: Node<'_>) -> Result<bool, Cancelled> {
        if let Content::Object(expected) = wanted.content() {
            return match self.there.digest(found, expected, self.cancel) {
                Ok(digest) => Ok(digest.as_ref() == Some(expected)),
                Err(ContentError::Cancelled(cancelled)) => Err(cancelled),
                Err(_) => Ok(false),
            };
        }
        let Ok(Some(opened)) = self.source.open(wanted) else { return Ok(false) };
        let path = found.path();
        let (parent, name) = split_name(&path);
        let Ok(dir) = self.destination.directory(parent) else { return Ok(false) };
        let Ok(fd) = open_beneath(dir, name, OFlags::RDONLY | OFlags::NONBLOCK) else { return Ok(false) };
        let mut there = File::from(fd);
        let (left, right) = &mut self.buffers;
        left.resize(BUFFER_BYTES, 0);
        right.resize(BUFFER_BYTES, 0);
        let mut wanted = match opened {
            Opened::Bytes(bytes) => Either::Bytes(bytes),
            Opened::File { file, .. } => Either::File(file),
        };
        loop {
            let (Ok(one), Ok(two)) = (fill(&mut wanted, left), fill(&mut there, right)) else {
                return Ok(false);
            };
            if left.get(..one) != right.get(..two) {
                return Ok(false);
            }
            if one < BUFFER_BYTES {
                return Ok(true);
            }
            self.cancel.check()?;
        }
    }
}

enum Either<'b> {
    Bytes(&'b [u8]),
    File(File),
}

impl Read for Either<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Bytes(bytes) => bytes.read(buffer),
            Self::File(file) => file.read(buffer),
        }
    }
}

fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0usize;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(count) => done = done.saturating_add(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
