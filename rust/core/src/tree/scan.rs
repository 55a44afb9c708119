//! Scanning a live directory: one `statx` and one `listxattr` an inode, nothing opened but directories.
//!
//! Regular files, FIFOs and devices are never opened, symlinks never followed, mounts never crossed (spec core.md,
//! "Trees"). A mount point and all below it is absent from the tree and named in [`ScanReport::mounts`]; to see
//! what a mount hides, scan a non-recursive clone (`open_tree` with `OPEN_TREE_CLONE`) of the directory.
//!
//! In the end each directory is looked at once more (`settled.rs`). Where all are as they were, all names were there
//! at one time, and what was seen of a file was seen while the directories above it had the attributes of the tree.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use super::builder::{BuildError, TreeBuilder};
use super::inode::{self, Facts, MountKey};
use super::listing::{Entry, Lister, Listing, Part, Raced, Work, join};
use super::model::{Content, DiskState, FileType, Node, NodeId, Tree};
use super::scan_threads;
use super::settled::{Settled, find_changed};
use crate::cancel::{Cancel, Cancelled, Ticker};
use crate::limits::MAX_DEPTH;

/// Entries after which further threads are started: below, starting them costs more than they save.
const SERIAL_ENTRIES: usize = 4096;
/// Scans after which names that came or went meanwhile are no reason for another one: a program that makes and removes
/// files all the time would make it endless.
const SCANS_FOR_NAMES: usize = 2;
/// Scans after which something that is of another kind, or a directory that is closed to others, each time it is looked
/// at is an error.
const MAX_SCANS: usize = 16;

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
    /// It was another thing, or had other attributes, each time that it was looked at.
    #[error("{:?} keeps becoming something else while it is looked at", String::from_utf8_lossy(path))]
    Unsettled {
        /// Below the scanned directory.
        path: Vec<u8>,
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
    /// Of a name in the directory at a path; of the directory itself where the name is empty.
    fn of(dir: &[u8], name: &[u8], facts: &Facts) -> Option<Self> {
        let is_immutable = facts.is_immutable;
        let path = || if name.is_empty() { dir.to_vec() } else { join(dir, name) };
        (is_immutable || facts.is_append_only).then(|| Self { path: path(), is_immutable })
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
/// Names of one inode share a link group. Where anything changes meanwhile, all is looked at again; what then vanishes
/// is absent. With more than a few thousand entries several threads work, which changes node ids and nothing else.
/// `cancel` is told how many entries were found; how many there are shows in the end.
///
/// # Errors
/// [`ScanError`]; [`ScanError::Io`] with `ENOENT` where `/proc` is not mounted and there are entries.
pub fn scan(dir: BorrowedFd<'_>, cancel: &dyn Cancel) -> Result<Scan, ScanError> {
    // Who may not do that reads all but symlinks without a trace.
    let quiet = bootc_fast_sys::mount::clone_quietly(dir).ok();
    let dir = quiet.as_ref().map_or(dir, AsFd::as_fd);
    let mut path = Vec::new();
    for count in 1..=MAX_SCANS {
        let mut assembly = Assembly::start(dir)?;
        assembly.run(dir, cancel)?;
        match assembly.finish(dir, cancel)? {
            (scan, Settled::All) => return Ok(scan),
            (scan, Settled::AllButNames) if count >= SCANS_FOR_NAMES => return Ok(scan),
            (_, Settled::AllButNames) => (),
            (_, Settled::AllBut(changed)) => path = changed,
        }
    }
    Err(ScanError::Unsettled { path })
}

/// The tree being made, and what is left to look at.
#[derive(Debug)]
pub(super) struct Assembly {
    builder: TreeBuilder,
    report: ScanReport,
    pub(super) pending: Vec<Work>,
    pub(super) mount: MountKey,
    links: HashMap<(u64, u64), u32>,
    raced: HashMap<NodeId, Raced>,
    /// The directories as they were when their names were read.
    directories: Vec<(NodeId, DiskState)>,
}

impl Assembly {
    fn start(dir: BorrowedFd<'_>) -> Result<Self, ScanError> {
        let facts = inode::facts(dir, c"").map_err(|errno| ScanError::io(b"", errno))?;
        if FileType::from_mode(facts.stat.mode) != Some(FileType::Directory) {
            return Err(ScanError::io(b"", Errno::NOTDIR));
        }
        let whole = Work { node: NodeId::ROOT, path: Vec::new(), depth: 0, part: Part::Whole(None) };
        Ok(Self {
            builder: TreeBuilder::new(facts.stat, &[])?,
            report: ScanReport::default(),
            pending: vec![whole],
            mount: facts.mount,
            links: HashMap::new(),
            raced: HashMap::new(),
            directories: Vec::new(),
        })
    }

    fn run(&mut self, dir: BorrowedFd<'_>, cancel: &dyn Cancel) -> Result<(), ScanError> {
        let mut lister = Lister::new(self.mount);
        let mut ticker = Ticker::counting(cancel, 0);
        while let Some(work) = self.pending.pop() {
            let listing = lister.list(dir, work, &mut ticker)?;
            self.take(listing)?;
            ticker.set_done(self.found());
            if self.builder.len() > SERIAL_ENTRIES && !self.pending.is_empty() {
                return scan_threads::run(self, dir, cancel);
            }
        }
        Ok(ticker.finish()?)
    }

    /// Entries found so far.
    pub(super) fn found(&self) -> u64 {
        self.builder.len() as u64
    }

    /// Adds what a listing found to the tree and to what is left to look at.
    pub(super) fn take(&mut self, mut listing: Listing) -> Result<(), ScanError> {
        self.report.mounts.append(&mut listing.mounts);
        self.pending.append(&mut listing.more);
        if let Some(raced) = listing.raced.take() {
            self.raced.insert(listing.node, raced);
        }
        if let Some(own) = &listing.own {
            self.report.flagged.extend(Flagged::of(&listing.path, b"", &own.facts));
            self.builder.set_attributes(listing.node, own.facts.stat, &pairs(&listing, own))?;
            self.directories.push((listing.node, own.facts.disk));
        }
        for entry in &listing.entries {
            let name = listing.slice(&entry.name);
            let stat = entry.facts.stat;
            let kind = FileType::from_mode(stat.mode);
            if kind != Some(FileType::Directory) {
                self.report.flagged.extend(Flagged::of(&listing.path, name, &entry.facts));
            }
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
        let part = Part::Whole(listing.held.clone());
        self.pending.push(Work { node, path, depth, part });
        Ok(())
    }

    fn link_group(&mut self, entry: &Entry, kind: Option<FileType>) -> u32 {
        if entry.facts.stat.nlink < 2 || kind == Some(FileType::Directory) {
            return 0;
        }
        let next = u32::try_from(self.links.len()).unwrap_or(u32::MAX).saturating_add(1);
        *self.links.entry((entry.facts.device, entry.facts.disk.inode)).or_insert(next)
    }

    /// The tree, and whether what it says was there at one time.
    fn finish(mut self, dir: BorrowedFd<'_>, cancel: &dyn Cancel) -> Result<(Scan, Settled), ScanError> {
        self.report.mounts.sort_unstable();
        self.report.mounts.dedup();
        self.report.flagged.sort_unstable();
        let tree = self.builder.finish()?;
        let other_kind = self.raced.values().find_map(|raced| match raced {
            Raced::Kind(path) => Some(path.clone()),
            Raced::Gone => None,
        });
        let settled = match other_kind {
            Some(path) => Settled::AllBut(path),
            None => find_changed(&tree, &self.directories, &self.raced, dir, cancel)?,
        };
        let tree = if self.raced.is_empty() { tree } else { without(&tree, &self.raced)? };
        Ok((Scan { tree, report: self.report }, settled))
    }
}

fn pairs<'l>(listing: &'l Listing, entry: &Entry) -> Vec<(&'l [u8], &'l [u8])> {
    let ranges = listing.pairs.get(entry.xattrs.clone()).unwrap_or_default();
    ranges.iter().map(|(name, value)| (listing.slice(name), listing.slice(value))).collect()
}

/// The same tree without some subtrees.
fn without(tree: &Tree, gone: &HashMap<NodeId, Raced>) -> Result<Tree, BuildError> {
    let root = tree.root();
    let xattrs: Vec<_> = root.xattrs().map(|xattr| (xattr.name, xattr.value)).collect();
    let mut builder = TreeBuilder::new(*root.stat(), &xattrs)?;
    let mut pending = vec![(root, NodeId::ROOT)];
    while let Some((node, copy)) = pending.pop() {
        for child in node.children().filter(|child: &Node<'_>| !gone.contains_key(&child.id())) {
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
