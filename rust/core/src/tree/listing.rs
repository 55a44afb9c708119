//! The unit of a scan: some names of one directory, and the directory itself where they are its first.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, RawDir, openat};
use rustix::io::Errno;

use super::beneath::open_beneath;
use super::inode::{self, Facts, MountKey, Reader, Way, XattrRanges, append};
use super::model::{FileType, NodeId};
use super::scan::ScanError;
use crate::cancel::Ticker;

/// Bytes asked of `getdents64` at once: about 1,500 names.
const DIRENT_BUFFER_BYTES: usize = 1 << 16;
/// Names of one unit of work. Larger directories are split, so that several threads can share one.
const NAMES_PER_WORK: usize = 512;
/// Looks at an inode that is another one, or has other attributes, from one system call to the next.
const MAX_LOOKS: usize = 16;

/// Down to this depth a directory is opened by its name in the one above, which is held open until then: what is found in
/// it was in that one, whatever is moved meanwhile. Held are that many descriptors for each thread at most.
const MAX_HELD_DEPTH: usize = 64;

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
    /// All of it; with the directory above, unless that is too far down, or the root.
    Whole(Option<Arc<OwnedFd>>),
    Names {
        dir: Arc<OwnedFd>,
        names: Vec<CString>,
    },
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
    /// To open directories in it by.
    pub(super) held: Option<Arc<OwnedFd>>,
    /// The directory itself, with an empty name; of the first of its units only.
    pub(super) own: Option<Entry>,
    pub(super) entries: Vec<Entry>,
    pub(super) bytes: Vec<u8>,
    pub(super) pairs: XattrRanges,
    pub(super) mounts: Vec<Vec<u8>>,
    /// The directory, or one of its names, could not be looked at.
    pub(super) raced: Option<Raced>,
    /// The rest of a large directory.
    pub(super) more: Vec<Work>,
}

/// Why something that was listed is not in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Raced {
    /// The directory was gone when it was to be opened.
    Gone,
    /// At this path there was one kind of thing, then another.
    Kind(Vec<u8>),
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

    pub(super) fn list(
        &mut self,
        root: BorrowedFd<'_>,
        work: Work,
        ticker: &mut Ticker<'_>,
    ) -> Result<Listing, ScanError> {
        let mut listing = Listing::empty(work.node, work.path, work.depth);
        let (dir, names) = match work.part {
            Part::Names { dir, names } => (dir, names),
            Part::Whole(above) => match open(root, above.as_deref(), &listing.path) {
                Ok(dir) => {
                    let dir = Arc::new(dir);
                    self.own(dir.as_fd(), &mut listing)
                        .map_err(|errno| ScanError::io(&listing.path, errno))?;
                    let names = self.names(dir.as_fd(), &mut listing, ticker)?;
                    (Arc::clone(&dir), split(&dir, names, &mut listing))
                }
                Err(Errno::NOENT) => {
                    listing.raced = Some(Raced::Gone);
                    return Ok(listing);
                }
                Err(Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => {
                    listing.raced = Some(Raced::Kind(listing.path.clone()));
                    return Ok(listing);
                }
                Err(errno) => return Err(ScanError::io(&listing.path, errno)),
            },
        };
        for name in &names {
            ticker.tick()?;
            self.entry(dir.as_fd(), name, &mut listing)?;
        }
        let has_directories =
            listing.entries.iter().any(|entry| entry.facts.stat.file_type() == FileType::Directory);
        listing.held = (has_directories && listing.depth < MAX_HELD_DEPTH).then_some(dir);
        Ok(listing)
    }

    /// Attributes of an open directory, none of which changed between the first and the last call.
    fn own(&mut self, dir: BorrowedFd<'_>, listing: &mut Listing) -> Result<(), Errno> {
        let mut facts = inode::facts(dir, c"")?;
        for _ in 0..MAX_LOOKS {
            listing.bytes.clear();
            listing.pairs.clear();
            self.reader.xattrs(Way::Open(dir), &mut listing.bytes, &mut listing.pairs)?;
            let now = inode::facts(dir, c"")?;
            let is_settled = now.disk == facts.disk;
            facts = now;
            if is_settled {
                break;
            }
        }
        listing.own = Some(Entry { facts, name: 0..0, target: 0..0, xattrs: 0..listing.pairs.len() });
        Ok(())
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
                    listing.raced = Some(Raced::Gone);
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

    /// Looks at one name, and again where it is another thing from one call to the next; what is gone is absent.
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CStr, listing: &mut Listing) -> Result<(), ScanError> {
        let marks = (listing.bytes.len(), listing.pairs.len());
        let mut gone = 0;
        for _ in 0..MAX_LOOKS {
            match self.try_entry(dir, name, listing) {
                Ok(()) => return Ok(()),
                Err(errno @ (Errno::NOENT | Errno::INVAL | Errno::STALE)) => {
                    listing.bytes.truncate(marks.0);
                    listing.pairs.truncate(marks.1);
                    // Whether it was moved to a name that was not listed, the directory's own times tell in the end.
                    gone = usize::from(errno == Errno::NOENT).saturating_add(gone);
                    if gone == 2 {
                        return Ok(());
                    }
                }
                Err(errno) => return Err(ScanError::io(&join(&listing.path, name.to_bytes()), errno)),
            }
        }
        listing.raced = Some(Raced::Kind(join(&listing.path, name.to_bytes())));
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
        let mut target = start..start;
        let facts = match facts.stat.file_type() {
            FileType::Regular => {
                self.reader.xattrs(Way::Name(dir, name), &mut listing.bytes, &mut listing.pairs)?;
                facts
            }
            // Its attributes are those of the descriptor that its names are read from.
            FileType::Directory => facts,
            _ => {
                let (facts, target_len) = self.reached(dir, name, listing)?;
                target = start..start.saturating_add(target_len);
                facts
            }
        };
        let xattrs = first_pair..listing.pairs.len();
        listing.entries.push(Entry { facts, name: name_range, target, xattrs });
        Ok(())
    }

    /// What is no file and no directory, all from one descriptor; returns the length of a symlink's target as well.
    ///
    /// # Errors
    /// `ESTALE`: it is a file or a directory now.
    fn reached(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        listing: &mut Listing,
    ) -> Result<(Facts, usize), Errno> {
        let fd = openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let facts = inode::facts(fd.as_fd(), c"")?;
        let kind = facts.stat.file_type();
        if matches!(kind, FileType::Regular | FileType::Directory) || facts.mount != self.mount {
            return Err(Errno::STALE);
        }
        let start = listing.bytes.len();
        if kind == FileType::Symlink {
            self.reader.target(fd.as_fd(), &mut listing.bytes)?;
        }
        let target_len = listing.bytes.len().saturating_sub(start);
        self.reader.xattrs(Way::Reached(fd.as_fd()), &mut listing.bytes, &mut listing.pairs)?;
        Ok((facts, target_len))
    }
}

/// Opens a directory to be read: by its name in the one above, where that is held, else by its path.
fn open(root: BorrowedFd<'_>, above: Option<&OwnedFd>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    match above {
        None => open_beneath(root, path, flags),
        Some(above) => {
            let at = path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at.saturating_add(1));
            open_beneath(above.as_fd(), path.get(at..).unwrap_or_default(), flags)
        }
    }
}

impl Listing {
    fn empty(node: NodeId, path: Vec<u8>, depth: usize) -> Self {
        Self {
            node,
            path,
            depth,
            held: None,
            own: None,
            entries: Vec::new(),
            bytes: Vec::new(),
            pairs: Vec::new(),
            mounts: Vec::new(),
            raced: None,
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
