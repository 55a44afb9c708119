//! Bytes of files: from wherever the result takes them into the destination, and compared with what is there.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{self, OFlags};
use rustix::io::retry_on_intr;

use super::anew::{Look, Way};
use super::copy::{copy, next_data, write_all};
use super::destination::{Destination, split_name};
use crate::cancel::{Cancel, Cancelled};
use crate::etc::content::{ContentError, Side};
use crate::etc::ops::SameContent;
use crate::tree::{Content, Node, open_beneath};

/// Looks at a file whose directories, or which itself, change from one moment to the next.
const MAX_LOOKS: usize = 16;
/// Bytes compared at once.
const BUFFER_BYTES: usize = 128 << 10;

/// Content of a regular file of the result.
#[derive(Debug)]
pub enum Opened<'s> {
    /// All of it.
    Bytes(&'s [u8]),
    /// To be read from the start; never changes.
    Object(File),
    /// In a directory that somebody may be writing to: it may vanish, or change while it is read.
    Live {
        /// Open for reading.
        file: File,
        /// It is what the scan saw: the attributes that were planned with belong to this content.
        is_as_scanned: bool,
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

    /// Whether there is nothing under the name that the content of a node was under; of one that cannot be opened.
    fn is_gone(&self, node: Node<'_>) -> bool;

    /// Opens the directories above the content of a node of a live directory, all of which have the owner, mode and ACL
    /// that was planned with; `Ok(None)`: not at this moment, or it is in no live directory.
    ///
    /// What was put into a directory may be as open as it is because the directory is closed.
    ///
    /// # Errors
    /// The system's, but for those that say that there is no such directory.
    fn open_way(&self, node: Node<'_>) -> io::Result<Option<(Way, Node<'_>)>>;
}

/// How the writing of a file's content ended.
#[derive(Debug)]
pub(super) enum Written {
    /// So many bytes, of what was planned with.
    Bytes(u64),
    /// The source is not, or no longer, what was planned with; nothing that counts was written.
    Stale,
    /// It is another one or kept changing: so many bytes of it, and the attributes to go with them.
    Anew { bytes: u64, look: Look },
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

/// Writes the content of `node` to `out`, which is empty, if it is what was planned with.
pub(super) fn write_content(
    source: &dyn ContentSource,
    node: Node<'_>,
    out: BorrowedFd<'_>,
    cancel: &dyn Cancel,
) -> Result<Written, CopyError> {
    match source.open(node).map_err(CopyError::Open)? {
        None | Some(Opened::Live { is_as_scanned: false, .. }) => Ok(Written::Stale),
        Some(Opened::Bytes(bytes)) => {
            write_all(out, bytes, 0).map_err(CopyError::Write)?;
            Ok(Written::Bytes(bytes.len() as u64))
        }
        Some(Opened::Object(file)) => {
            let size_bytes = Version::of(&file).map_err(CopyError::Read)?.size_bytes;
            copy(&file, out, size_bytes, cancel).map(Written::Bytes)
        }
        Some(Opened::Live { file, .. }) => {
            let before = Version::of(&file).map_err(CopyError::Read)?;
            let copied = copy(&file, out, before.size_bytes, cancel)?;
            let is_settled =
                before == Version::of(&file).map_err(CopyError::Read)? && copied == before.size_bytes;
            Ok(if is_settled { Written::Bytes(copied) } else { Written::Stale })
        }
    }
}

/// Writes whatever a live file is now to `out`, with attributes from the same descriptor; where it changes during the
/// second reading, too, it counts as it was read. Not where the directories above it are others than were planned with,
/// before or after: those are the plan's, and what is in them may be as open as it is because they are closed.
pub(super) fn write_anew(
    source: &dyn ContentSource,
    node: Node<'_>,
    out: BorrowedFd<'_>,
    cancel: &dyn Cancel,
) -> Result<Written, CopyError> {
    let mut changes = 0;
    for _ in 0..MAX_LOOKS {
        cancel.check()?;
        let Some((way, found)) = source.open_way(node).map_err(CopyError::Read)? else { continue };
        let Some(file) = way.file(found).map_err(CopyError::Read)? else { break };
        retry_on_intr(|| fs::ftruncate(out, 0)).map_err(|error| CopyError::Write(error.into()))?;
        let before = Version::of(&file).map_err(CopyError::Read)?;
        let look = Look::at(&file, node).map_err(|error| CopyError::Read(error.into()))?;
        let bytes = copy(&file, out, before.size_bytes, cancel)?;
        let is_settled = before == Version::of(&file).map_err(CopyError::Read)?;
        changes += usize::from(!is_settled);
        if (is_settled || changes > 1) && way.has_its_attributes(found).map_err(CopyError::Read)? {
            return Ok(Written::Anew { bytes, look });
        }
    }
    Ok(Written::Stale)
}

/// What tells one state of a file, or of a directory, from the next.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Version {
    size_bytes: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Version {
    /// Whether names came or went in a directory from the other one to this one.
    pub(super) fn has_other_names(&self, other: &Self) -> bool {
        self.mtime != other.mtime
    }

    #[allow(clippy::unnecessary_cast, clippy::cast_possible_wrap)] // Their types differ between architectures.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let stat = retry_on_intr(|| fs::fstat(file))?;
        Ok(Self {
            size_bytes: u64::try_from(stat.st_size).unwrap_or_default(),
            mtime: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            ctime: (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        })
    }
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
        let there = File::from(fd);
        let size_bytes = wanted.stat().size_bytes;
        let same = match &opened {
            Opened::Bytes(bytes) => holds(&there, bytes),
            Opened::Object(file) => self.same_files(file, &there, size_bytes)?,
            // What came in its place is compared, and written, as what it is: by the plan that is made of it.
            Opened::Live { is_as_scanned: false, .. } => false,
            Opened::Live { file, .. } => {
                let before = Version::of(file).ok();
                self.same_files(file, &there, size_bytes)?
                    && before.is_some()
                    && before == Version::of(file).ok()
            }
        };
        Ok(same)
    }
}

impl Comparer<'_> {
    /// Whether both have the same first bytes; what is a hole in both is not read.
    fn same_files(&mut self, one: &File, two: &File, size_bytes: u64) -> Result<bool, Cancelled> {
        let (left, right) = &mut self.buffers;
        left.resize(BUFFER_BYTES, 0);
        right.resize(BUFFER_BYTES, 0);
        let mut at = 0u64;
        loop {
            let (Ok((in_one, _)), Ok((in_two, _))) =
                (next_data(one, at, size_bytes), next_data(two, at, size_bytes))
            else {
                return Ok(false);
            };
            at = in_one.min(in_two);
            if at >= size_bytes {
                return Ok(true);
            }
            let (Ok(count), Ok(other)) = (read_at(one, left, at), read_at(two, right, at)) else {
                return Ok(false);
            };
            if count == 0 || left.get(..count) != right.get(..other) {
                return Ok(false);
            }
            at = at.saturating_add(count as u64);
            self.cancel.check()?;
        }
    }
}

/// Whether this is all that a file has.
fn holds(file: &File, bytes: &[u8]) -> bool {
    let mut found = vec![0u8; bytes.len().saturating_add(1)];
    read_at(file, &mut found, 0).is_ok_and(|count| found.get(..count) == Some(bytes))
}

/// Fills the buffer from `start` on, but for the end of the file.
fn read_at(file: &File, buffer: &mut [u8], start: u64) -> io::Result<usize> {
    let mut done = 0usize;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match retry_on_intr(|| rustix::io::pread(file, &mut *rest, start.saturating_add(done as u64)))? {
            0 => break,
            count => done = done.saturating_add(count),
        }
    }
    Ok(done)
}
