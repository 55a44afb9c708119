//! Scanning a live directory: one `statx` and one `listxattr` an inode, nothing opened but directories.
//!
//! Regular files, FIFOs and devices are never opened, symlinks never followed, mounts never crossed (spec core.md,
//! "Trees"). A mount point and all below it is absent from the tree and named in [`ScanReport::mounts`]; to see
//! what a mount hides, scan a non-recursive clone (`open_tree` with `OPEN_TREE_CLONE`) of the directory.

use std::collections::{HashMap, HashSet};
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::builder::{BuildError, TreeBuilder};
use super::inode::{self, Facts, MountKey};
use super::listing::{Entry, Lister, Listing, Part, Work, join};
use super::model::{Content, FileType, NodeId, Tree};
use super::scan_threads;
use crate::cancel::{Cancel, Cancelled, Ticker};
use crate::limits::MAX_DEPTH;

/// Entries after which further threads are started: below, starting them costs more than they save.
const SERIAL_ENTRIES: usize = 4096;

/// Why a directory cannot be scanned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// A system call failed, and not because the entry vanished.
    #[error("cannot scan {:?}: {errno}", String::from_utf8_lossy(path))]
    Io {
        /// Below the scanned directory; empty for itself.
        path: Vec<u8>,
        /// The system call's.
        errno: Errno,
    },
    /// Deeper than [`MAX_DEPTH`].
    #[error("{:?} lies deeper than {limit} directories", String::from_utf8_lossy(path))]
    Depth {
        /// Below the scanned directory.
        path: Vec<u8>,
        /// [`MAX_DEPTH`].
        limit: usize,
    },
    /// The tree is too large, or the file system yields names that none has.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Nobody wants the result any more.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl ScanError {
    pub(super) fn io(path: &[u8], errno: Errno) -> Self {
        Self::Io { path: path.to_vec(), errno }
    }
}

/// What the tree does not say.
#[derive(Debug, Default, Clone)]
pub struct ScanReport {
    /// Mount points met, in byte order; neither they nor anything below is in the tree.
    pub mounts: Vec<Vec<u8>>,
    /// What is immutable or append-only, in byte order; nothing but these attributes of `chattr(1)` is looked at.
    pub flagged: Vec<Flagged>,
}

/// An inode that the kernel keeps from being changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flagged {
    /// Below the scanned directory; empty for itself.
    pub path: Vec<u8>,
    /// `chattr +i`; else only `chattr +a`.
    pub is_immutable: bool,
}

impl Flagged {
    fn of(path: Vec<u8>, facts: &Facts) -> Option<Self> {
        let is_immutable = facts.is_immutable;
        (is_immutable || facts.is_append_only).then_some(Self { path, is_immutable })
    }
}

/// A scanned directory.
#[derive(Debug)]
pub struct Scan {
    /// Regular files are [`Content::OnDisk`].
    pub tree: Tree,
    /// What the tree does not say.
    pub report: ScanReport,
}

/// Scans the directory behind a descriptor; `dir` may be `O_PATH`, its offset is not touched.
///
/// Names of one inode share a link group. Entries that vanish meanwhile are looked for once more, then absent.
/// With more than a few thousand entries several threads work, which changes node ids and nothing else.
///
/// # Errors
/// [`ScanError`]; [`ScanError::Io`] with `ENOENT` where `/proc` is not mounted and there are entries.
pub fn scan(dir: BorrowedFd<'_>, cancel: &dyn Cancel) -> Result<Scan, ScanError> {
    let mut first = Assembly::start(dir)?;
    first.run(dir, cancel)?;
    if first.raced.is_empty() {
        return first.finish();
    }
    // A directory was replaced between its entry and its contents. What is there now is seen by looking again;
    // whatever plays this game twice counts as absent.
    let mut second = Assembly::start(dir)?;
    second.run(dir, cancel)?;
    second.finish()
}

/// The tree being made, and what is left to look at.
#[derive(Debug)]
pub(super) struct Assembly {
    builder: TreeBuilder,
    report: ScanReport,
    pub(super) pending: Vec<Work>,
    pub(super) mount: MountKey,
    links: HashMap<(u64, u64), u32>,
    raced: HashSet<NodeId>,
}

impl Assembly {
    fn start(dir: BorrowedFd<'_>) -> Result<Self, ScanError> {
        let mount = inode::facts(dir, c"").map_err(|errno| ScanError::io(b"", errno))?.mount;
        let root = Lister::new(mount).root(dir)?;
        let entry = root.entries.first().ok_or_else(|| ScanError::io(b"", Errno::IO))?;
        let builder = TreeBuilder::new(entry.facts.stat, &pairs(&root, entry))?;
        let flagged = Flagged::of(Vec::new(), &entry.facts).into_iter().collect();
        let whole = Work { node: NodeId::ROOT, path: Vec::new(), depth: 0, part: Part::Whole };
        Ok(Self {
            builder,
            report: ScanReport { flagged, ..ScanReport::default() },
            pending: vec![whole],
            mount,
            links: HashMap::new(),
            raced: HashSet::new(),
        })
    }

    fn run(&mut self, dir: BorrowedFd<'_>, cancel: &dyn Cancel) -> Result<(), ScanError> {
        let mut lister = Lister::new(self.mount);
        let mut ticker = Ticker::new(cancel);
        while let Some(work) = self.pending.pop() {
            let listing = lister.list(dir, work, &mut ticker)?;
            self.take(listing)?;
            if self.builder.len() > SERIAL_ENTRIES && !self.pending.is_empty() {
                return scan_threads::run(self, dir, cancel);
            }
        }
        Ok(())
    }

    /// Adds what a listing found to the tree and to what is left to look at.
    pub(super) fn take(&mut self, mut listing: Listing) -> Result<(), ScanError> {
        self.report.mounts.append(&mut listing.mounts);
        self.pending.append(&mut listing.more);
        if listing.raced {
            self.raced.insert(listing.node);
        }
        for entry in &listing.entries {
            let name = listing.slice(&entry.name);
            let stat = entry.facts.stat;
            if entry.facts.is_immutable || entry.facts.is_append_only {
                self.report.flagged.extend(Flagged::of(join(&listing.path, name), &entry.facts));
            }
            let kind = FileType::from_mode(stat.mode);
            let content = match kind {
                Some(FileType::Regular) => Content::OnDisk,
                Some(FileType::Symlink) => Content::Target(listing.slice(&entry.target)),
                _ => Content::None,
            };
            let mut stat = stat;
            if kind == Some(FileType::Symlink) {
                // Some file systems (of /proc's kind) say 0 here.
                stat.size_bytes = entry.target.len() as u64;
            }
            let group = self.link_group(entry, kind);
            let xattrs = pairs(&listing, entry);
            let node = self.builder.add(listing.node, name, stat, &xattrs, content, group)?;
            if kind == Some(FileType::Regular) {
                self.builder.set_disk_state(node, entry.facts.disk)?;
            } else if kind == Some(FileType::Directory) {
                self.descend(node, &listing, name)?;
            }
        }
        Ok(())
    }

    fn descend(&mut self, node: NodeId, listing: &Listing, name: &[u8]) -> Result<(), ScanError> {
        let path = join(&listing.path, name);
        let depth = listing.depth.saturating_add(1);
        if depth > MAX_DEPTH {
            return Err(ScanError::Depth { path, limit: MAX_DEPTH });
        }
        self.pending.push(Work { node, path, depth, part: Part::Whole });
        Ok(())
    }

    fn link_group(&mut self, entry: &Entry, kind: Option<FileType>) -> u32 {
        if entry.facts.stat.nlink < 2 || kind == Some(FileType::Directory) {
            return 0;
        }
        let next = u32::try_from(self.links.len()).unwrap_or(u32::MAX).saturating_add(1);
        *self.links.entry((entry.facts.device, entry.facts.disk.inode)).or_insert(next)
    }

    fn finish(mut self) -> Result<Scan, ScanError> {
        self.report.mounts.sort_unstable();
        self.report.flagged.sort_unstable();
        let tree = self.builder.finish()?;
        let tree = if self.raced.is_empty() { tree } else { without(&tree, &self.raced)? };
        Ok(Scan { tree, report: self.report })
    }
}

fn pairs<'l>(listing: &'l Listing, entry: &Entry) -> Vec<(&'l [u8], &'l [u8])> {
    let ranges = listing.pairs.get(entry.xattrs.clone()).unwrap_or_default();
    ranges.iter().map(|(name, value)| (listing.slice(name), listing.slice(value))).collect()
}

/// The same tree without some subtrees.
fn without(tree: &Tree, gone: &HashSet<NodeId>) -> Result<Tree, BuildError> {
    let root = tree.root();
    let xattrs: Vec<_> = root.xattrs().map(|xattr| (xattr.name, xattr.value)).collect();
    let mut builder = TreeBuilder::new(*root.stat(), &xattrs)?;
    let mut pending = vec![(root, NodeId::ROOT)];
    while let Some((node, copy)) = pending.pop() {
        for child in node.children().filter(|child| !gone.contains(&child.id())) {
            let xattrs: Vec<_> = child.xattrs().map(|xattr| (xattr.name, xattr.value)).collect();
            let group = child.link_group().unwrap_or(0);
            let id = builder.add(copy, child.name(), *child.stat(), &xattrs, child.content(), group)?;
            if let Some(seen) = child.disk_state() {
                builder.set_disk_state(id, *seen)?;
            }
            pending.push((child, id));
        }
    }
    builder.finish()
}
