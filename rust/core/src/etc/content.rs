//! The three sides of a merge, and whether two of their nodes hold the same bytes.
//!
//! Cheapest proof first: type, size, bytes held in the trees, digests from image metadata; only then is a file of a
//! live directory read, once for each algorithm, whatever it is compared with. Equal digests count as equal bytes;
//! nothing weaker does (spec etc-merge.md, "When are two things the same?").

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{OFlags, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;

use super::digests::DigestCache;
use crate::cancel::{Cancel, Cancelled};
use crate::tree::{Content, DiskState, FileType, Node, Timestamp, Tree, open_beneath, open_if_there};
use crate::verity::Digest;

/// Bytes compared at once.
const CHUNK_BYTES: u64 = 1 << 18;

/// Why content cannot be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// Reading failed, and not because the file vanished.
    #[error("cannot read {:?}: {source}", String::from_utf8_lossy(path))]
    Io {
        /// Below the root of its tree.
        path: Vec<u8>,
        /// The system call's.
        source: io::Error,
    },
    /// The repository lacks an object that an image names.
    #[error("object {digest} of {:?} is missing from the repository", String::from_utf8_lossy(path))]
    MissingObject {
        /// Below the root of its tree.
        path: Vec<u8>,
        /// Its fs-verity digest.
        digest: Digest,
    },
    /// The caller gave no descriptor to read this kind of content from.
    #[error("{:?} can only be read with the descriptor of its {what}", String::from_utf8_lossy(path))]
    NoDescriptor {
        /// Below the root of its tree.
        path: Vec<u8>,
        /// "directory" or "objects".
        what: &'static str,
    },
    /// Nobody wants the result any more.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// The content of a regular file, ready to be read.
#[derive(Debug)]
pub enum Source<'t> {
    /// All of it.
    Bytes(&'t [u8]),
    /// An object of a repository: it never changes.
    Object(File),
    /// A file of a live directory: it may change while it is read.
    Live(File),
}

/// One of the three trees with what is needed to read its files.
#[derive(Debug)]
pub struct Side<'a> {
    /// What is there.
    pub tree: &'a Tree,
    /// The directory that was scanned, for [`Content::OnDisk`].
    pub dir: Option<BorrowedFd<'a>>,
    /// `composefs/objects`, for [`Content::Object`].
    pub objects: Option<BorrowedFd<'a>>,
    /// What is not as the scan saw it is read all the same, where it is a file.
    is_lenient: bool,
    is_stale: AtomicBool,
    pub(super) digests: DigestCache,
}

impl<'a> Side<'a> {
    /// A side whose files have not been read yet.
    #[must_use]
    pub fn new(tree: &'a Tree, dir: Option<BorrowedFd<'a>>, objects: Option<BorrowedFd<'a>>) -> Self {
        let (is_stale, digests) = (AtomicBool::new(false), DigestCache::default());
        Self { tree, dir, objects, is_lenient: false, is_stale, digests }
    }

    /// The same side; `is_lenient`: what is not as the scan saw it counts as it is read.
    #[must_use]
    pub fn reading(self, is_lenient: bool) -> Self {
        Self { is_lenient, ..self }
    }

    /// Whether a file was not what the scan saw, when it was read: what was decided with that is worth nothing.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.is_stale.load(Ordering::Relaxed)
    }

    /// Whether there is nothing under the name of a node any more.
    #[must_use]
    pub fn is_gone(&self, node: Node<'_>) -> bool {
        self.dir.is_some_and(|dir| {
            let found = open_beneath(dir, &node.path(), OFlags::PATH);
            matches!(found, Err(Errno::NOENT | Errno::NOTDIR))
        })
    }

    /// Opens the content of a regular file; `None` where it vanished, or is no regular file any more.
    ///
    /// # Errors
    /// [`ContentError`].
    pub fn open<'t>(&self, node: Node<'t>) -> Result<Option<Source<'t>>, ContentError> {
        match node.content() {
            Content::Inline(data) => Ok(Some(Source::Bytes(data))),
            Content::Object(digest) => self.open_object(node, digest).map(Source::Object).map(Some),
            Content::OnDisk => Ok(self.open_live(node)?.map(|(file, _)| Source::Live(file))),
            Content::None | Content::Target(_) => Ok(None),
        }
    }

    fn open_object(&self, node: Node<'_>, digest: &Digest) -> Result<File, ContentError> {
        let objects =
            self.objects.ok_or_else(|| ContentError::NoDescriptor { path: node.path(), what: "objects" })?;
        let mut name = digest.to_string();
        name.insert(2, '/');
        match open_beneath(objects, name.as_bytes(), OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(fd) => Ok(File::from(fd)),
            Err(Errno::NOENT | Errno::NOTDIR) => {
                Err(ContentError::MissingObject { path: node.path(), digest: *digest })
            }
            Err(errno) => Err(failed(node, errno.into())),
        }
    }

    fn open_live(&self, node: Node<'_>) -> Result<Option<(File, State)>, ContentError> {
        let dir =
            self.dir.ok_or_else(|| ContentError::NoDescriptor { path: node.path(), what: "directory" })?;
        // NONBLOCK: a FIFO that took the file's place is noticed, not waited for.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let found = open_if_there(dir, &node.path(), flags).map_err(|errno| failed(node, errno.into()))?;
        let Some(file) = found.map(File::from) else { return Ok(None) };
        let state = State::of(&file).map_err(|errno| failed(node, errno.into()))?;
        Ok(state.is_regular.then_some((file, state)))
    }

    /// Runs `read` over the content (the bool: it is a live file with fs-verity); `None`: it is not what the scan saw.
    ///
    /// Where that does not matter ([`Side::reading`]), it is read once more where the file changed meanwhile; then
    /// it counts as it was read, and `None` means that there is no such file.
    pub(super) fn read_settled<T>(
        &self,
        node: Node<'_>,
        mut read: impl FnMut(&mut Source<'_>, bool) -> Result<T, ContentError>,
    ) -> Result<Option<T>, ContentError> {
        match self.read_once(node, &mut read)? {
            Some((first, true)) => Ok(Some(first)),
            _ if self.is_lenient => Ok(self.read_once(node, &mut read)?.map(|(second, _)| second)),
            _ => {
                self.is_stale.store(true, Ordering::Relaxed);
                Ok(None)
            }
        }
    }

    /// The bool: the file is what the scan saw, and did not change while it was read.
    fn read_once<T>(
        &self,
        node: Node<'_>,
        read: &mut impl FnMut(&mut Source<'_>, bool) -> Result<T, ContentError>,
    ) -> Result<Option<(T, bool)>, ContentError> {
        if node.content() != Content::OnDisk {
            let Some(mut source) = self.open(node)? else { return Ok(None) };
            return Ok(Some((read(&mut source, false)?, true)));
        }
        let Some((file, before)) = self.open_live(node)? else { return Ok(None) };
        if !self.is_lenient && node.disk_state().is_some_and(|seen| !before.is_of(node, seen)) {
            return Ok(None);
        }
        let mut source = Source::Live(file);
        let result = read(&mut source, before.disk.has_verity)?;
        let Source::Live(file) = &source else { return Ok(None) };
        let after = State::of(file).map_err(|errno| failed(node, errno.into()))?;
        Ok(Some((result, before == after)))
    }

    /// Up to `limit_bytes` and one byte of a file's content; `None` where it is not what the scan saw.
    ///
    /// # Errors
    /// [`ContentError`].
    pub fn read_head(&self, node: Node<'_>, limit_bytes: u64) -> Result<Option<Vec<u8>>, ContentError> {
        self.read_settled(node, |source, _| {
            let mut data = Vec::new();
            let most = limit_bytes.saturating_add(1);
            let read = source.reader().take(most).read_to_end(&mut data);
            read.map(|_| data).map_err(|error| failed(node, error))
        })
    }
}

/// Whether two nodes are of the same type with the same content, target or device number.
///
/// Directories, FIFOs and sockets of the same type are the same; attributes do not count here. A file that cannot be read
/// as what the scan saw ([`Side::is_stale`]) is not the same as any. At most two files are read, each at most twice.
///
/// # Errors
/// [`ContentError`].
pub fn same_content(
    first_side: &Side<'_>,
    first: Node<'_>,
    second_side: &Side<'_>,
    second: Node<'_>,
    cancel: &dyn Cancel,
) -> Result<bool, ContentError> {
    if first.file_type() != second.file_type() {
        return Ok(false);
    }
    match first.file_type() {
        FileType::Directory | FileType::Fifo | FileType::Socket => return Ok(true),
        FileType::Symlink => return Ok(first.content() == second.content()),
        FileType::CharDevice | FileType::BlockDevice => return Ok(first.stat().rdev == second.stat().rdev),
        FileType::Regular if first.stat().size_bytes != second.stat().size_bytes => return Ok(false),
        FileType::Regular => {}
    }
    match (first.content(), second.content()) {
        (Content::Inline(one), Content::Inline(two)) => Ok(one == two),
        (Content::Object(digest), _) | (_, Content::Object(digest)) => {
            by_digest(first_side, first, second_side, second, digest, cancel)
        }
        _ => by_bytes(first_side, first, second_side, second, cancel),
    }
}

fn by_digest(
    first_side: &Side<'_>,
    first: Node<'_>,
    second_side: &Side<'_>,
    second: Node<'_>,
    expected: &Digest,
    cancel: &dyn Cancel,
) -> Result<bool, ContentError> {
    let one = first_side.digest(first, expected, cancel)?;
    Ok(one.is_some() && one == second_side.digest(second, expected, cancel)?)
}

fn by_bytes(
    first_side: &Side<'_>,
    first: Node<'_>,
    second_side: &Side<'_>,
    second: Node<'_>,
    cancel: &dyn Cancel,
) -> Result<bool, ContentError> {
    let found = first_side.read_settled(first, |one, _| {
        let mut left = one.reader();
        second_side.read_settled(second, |two, _| equal_streams(&mut left, &mut two.reader(), first, cancel))
    })?;
    Ok(found.flatten() == Some(true))
}

fn equal_streams(
    left: &mut dyn Read,
    right: &mut dyn Read,
    node: Node<'_>,
    cancel: &dyn Cancel,
) -> Result<bool, ContentError> {
    let len = usize::try_from(node.stat().size_bytes.clamp(1, CHUNK_BYTES)).unwrap_or(1 << 18);
    let (mut one, mut two) = (vec![0u8; len], vec![0u8; len]);
    loop {
        let in_one = fill(left, &mut one).map_err(|error| failed(node, error))?;
        let in_two = fill(right, &mut two).map_err(|error| failed(node, error))?;
        if one.get(..in_one) != two.get(..in_two) {
            return Ok(false);
        }
        if in_one < len {
            return Ok(true);
        }
        cancel.check()?;
    }
}

fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0usize;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(count) => done = done.saturating_add(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

pub(super) fn failed(node: Node<'_>, source: io::Error) -> ContentError {
    ContentError::Io { path: node.path(), source }
}

impl Source<'_> {
    pub(super) fn reader(&mut self) -> Box<dyn Read + '_> {
        match self {
            Self::Bytes(data) => Box::new(*data),
            Self::Object(file) | Self::Live(file) => Box::new(file),
        }
    }
}

/// What changes when a file's content does.
#[derive(Debug, PartialEq, Eq)]
struct State {
    is_regular: bool,
    size_bytes: u64,
    mtime: Timestamp,
    disk: DiskState,
}

impl State {
    fn of(file: &File) -> Result<Self, Errno> {
        let flags = rustix::fs::AtFlags::EMPTY_PATH;
        let found = statx(file.as_fd(), c"", flags, StatxFlags::BASIC_STATS)?;
        Ok(Self {
            is_regular: FileType::from_mode(u32::from(found.stx_mode)) == Some(FileType::Regular),
            size_bytes: found.stx_size,
            mtime: Timestamp { secs: found.stx_mtime.tv_sec, nanos: found.stx_mtime.tv_nsec },
            disk: DiskState {
                inode: found.stx_ino,
                ctime: Timestamp { secs: found.stx_ctime.tv_sec, nanos: found.stx_ctime.tv_nsec },
                has_verity: found.stx_attributes.contains(StatxAttributes::VERITY),
            },
        })
    }

    /// Whether this is what a scan saw of a node.
    fn is_of(&self, node: Node<'_>, seen: &DiskState) -> bool {
        let stat = node.stat();
        self.is_regular
            && self.disk == *seen
            && (self.size_bytes, self.mtime) == (stat.size_bytes, stat.mtime)
    }
}

/// Whether an open file is what the scan saw, and did not change since.
pub(super) fn is_unchanged(file: &File, node: Node<'_>, seen: &DiskState) -> bool {
    State::of(file).is_ok_and(|now| now.is_of(node, seen))
}
