//! The unit of a scan: some names of one directory, each looked at once, or once more where it vanished meanwhile.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{OFlags, RawDir};
use rustix::io::Errno;

use super::beneath::open_beneath;
use super::inode::{self, Facts, MountKey, Reader, XattrRanges, append};
use super::model::{FileType, NodeId};
use super::scan::ScanError;
use crate::cancel::Ticker;

/// Bytes asked of `getdents64` at once: about 1,500 names.
const DIRENT_BUFFER_BYTES: usize = 1 << 16;
/// Names of one unit of work. Larger directories are split, so that several threads can share one.
const NAMES_PER_WORK: usize = 512;

/// A directory, or some names of one, to be looked at.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) node: NodeId,
    pub(super) path: Vec<u8>,
    pub(super) depth: usize,
    pub(super) part: Part,
}

#[derive(Debug)]
pub(super) enum Part {
    Whole,
    Names { dir: Arc<OwnedFd>, names: Vec<CString> },
}

/// One directory entry; ranges are of [`Listing::bytes`], and of [`Listing::pairs`].
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) facts: Facts,
    pub(super) name: Range<usize>,
    pub(super) target: Range<usize>,
    pub(super) xattrs: Range<usize>,
}

/// What came of one [`Work`].
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) node: NodeId,
    pub(super) path: Vec<u8>,
    pub(super) depth: usize,
    pub(super) entries: Vec<Entry>,
    pub(super) bytes: Vec<u8>,
    pub(super) pairs: XattrRanges,
    pub(super) mounts: Vec<Vec<u8>>,
    /// The directory was no longer there, or no longer a directory, when it was to be opened.
    pub(super) raced: bool,
    /// The rest of a large directory.
    pub(super) more: Vec<Work>,
}

/// A thread's buffers.
#[derive(Debug)]
pub(super) struct Lister {
    reader: Reader,
    dirents: Vec<MaybeUninit<u8>>,
    mount: MountKey,
}

impl Lister {
    pub(super) fn new(mount: MountKey) -> Self {
        Self { reader: Reader::new(), dirents: vec![MaybeUninit::uninit(); DIRENT_BUFFER_BYTES], mount }
    }

    /// Attributes of the scanned directory itself, as an entry with an empty name.
    pub(super) fn root(&mut self, dir: BorrowedFd<'_>) -> Result<Listing, ScanError> {
        let mut listing = Listing::empty(NodeId::ROOT, Vec::new(), 0);
        self.reader.enter(dir);
        let facts = inode::facts(dir, c"").map_err(|errno| ScanError::io(b"", errno))?;
        let read = self.reader.xattrs(dir, c".", &mut listing.bytes, &mut listing.pairs);
        read.map_err(|errno| ScanError::io(b"", errno))?;
        listing.entries.push(Entry { facts, name: 0..0, target: 0..0, xattrs: 0..listing.pairs.len() });
        Ok(listing)
    }

    pub(super) fn list(
        &mut self,
        root: BorrowedFd<'_>,
        work: Work,
        ticker: &mut Ticker<'_>,
    ) -> Result<Listing, ScanError> {
        let mut listing = Listing::empty(work.node, work.path, work.depth);
        let (dir, names) = match work.part {
            Part::Names { dir, names } => (dir, names),
            Part::Whole => match open_beneath(root, &listing.path, OFlags::RDONLY | OFlags::DIRECTORY) {
                Ok(dir) => {
                    let dir = Arc::new(dir);
                    let names = self.names(dir.as_fd(), &mut listing, ticker)?;
                    (Arc::clone(&dir), split(&dir, names, &mut listing))
                }
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => {
                    listing.raced = true;
                    return Ok(listing);
                }
                Err(errno) => return Err(ScanError::io(&listing.path, errno)),
            },
        };
        self.reader.enter(dir.as_fd());
        for name in &names {
            ticker.tick()?;
            self.entry(dir.as_fd(), name, &mut listing)?;
        }
        Ok(listing)
    }

    fn names(
        &mut self,
        dir: BorrowedFd<'_>,
        listing: &mut Listing,
        ticker: &mut Ticker<'_>,
    ) -> Result<Vec<CString>, ScanError> {
        let mut names = Vec::new();
        let mut entries = RawDir::new(dir, &mut self.dirents);
        while let Some(entry) = entries.next() {
            ticker.tick()?;
            match entry {
                Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
                Ok(entry) => names.push(entry.file_name().to_owned()),
                Err(Errno::INTR) => {}
                // The directory was removed while it was open; what was read of it is gone too.
                Err(Errno::NOENT) => {
                    listing.raced = true;
                    return Ok(Vec::new());
                }
                Err(errno) => return Err(ScanError::io(&listing.path, errno)),
            }
        }
        // A name that is removed and made again meanwhile may be listed twice.
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// Looks at one name, and once more where it changed between two calls; then it counts as absent.
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CStr, listing: &mut Listing) -> Result<(), ScanError> {
        for _attempt in 0..2 {
            let marks = (listing.bytes.len(), listing.pairs.len());
            match self.try_entry(dir, name, listing) {
                Ok(()) => return Ok(()),
                Err(Errno::NOENT | Errno::INVAL) => {
                    listing.bytes.truncate(marks.0);
                    listing.pairs.truncate(marks.1);
                }
                Err(errno) => return Err(ScanError::io(&join(&listing.path, name.to_bytes()), errno)),
            }
        }
        Ok(())
    }

    fn try_entry(&mut self, dir: BorrowedFd<'_>, name: &CStr, listing: &mut Listing) -> Result<(), Errno> {
        let facts = inode::facts(dir, name)?;
        if facts.mount != self.mount {
            listing.mounts.push(join(&listing.path, name.to_bytes()));
            return Ok(());
        }
        let first_pair = listing.pairs.len();
        let name_range = append(&mut listing.bytes, name.to_bytes());
        let start = listing.bytes.len();
        if facts.stat.file_type() == FileType::Symlink {
            self.reader.target(dir, name, &mut listing.bytes)?;
        }
        let target = start..listing.bytes.len();
        self.reader.xattrs(dir, name, &mut listing.bytes, &mut listing.pairs)?;
        let xattrs = first_pair..listing.pairs.len();
        listing.entries.push(Entry { facts, name: name_range, target, xattrs });
        Ok(())
    }
}

impl Listing {
    fn empty(node: NodeId, path: Vec<u8>, depth: usize) -> Self {
        Self {
            node,
            path,
            depth,
            entries: Vec::new(),
            bytes: Vec::new(),
            pairs: Vec::new(),
            mounts: Vec::new(),
            raced: false,
            more: Vec::new(),
        }
    }

    pub(super) fn slice(&self, range: &Range<usize>) -> &[u8] {
        self.bytes.get(range.clone()).unwrap_or_default()
    }
}

/// Keeps the first names for this unit of work and makes units of the others.
fn split(dir: &Arc<OwnedFd>, mut names: Vec<CString>, listing: &mut Listing) -> Vec<CString> {
    if names.len() <= NAMES_PER_WORK.saturating_mul(2) {
        return names;
    }
    while names.len() > NAMES_PER_WORK {
        let names = names.split_off(names.len().saturating_sub(NAMES_PER_WORK));
        listing.more.push(Work {
            node: listing.node,
            path: listing.path.clone(),
            depth: listing.depth,
            part: Part::Names { dir: Arc::clone(dir), names },
        });
    }
    names
}

pub(super) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(dir.len().saturating_add(name.len()).saturating_add(1));
    path.extend_from_slice(dir);
    if !dir.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}
