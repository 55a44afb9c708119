//! Taking in a directory: a scan, then the contents.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{FileType as KernelType, OFlags, fstat};

use super::draft::{Draft, DraftContent, DraftNode, Inode, Slot};
use super::error::RepoError;
use super::object::read_short;
use super::writer::{IngestOptions, MAX_INLINE_BYTES, Repository};
use crate::cancel::{Cancel, Ticker};
use crate::tree::{Content, FileType, Node, Tree, open_if_there, scan};

struct Ingest<'a> {
    repository: &'a Repository,
    dir: BorrowedFd<'a>,
    options: &'a IngestOptions,
    cancel: &'a dyn Cancel,
    draft: Draft,
    /// Inodes that have several names.
    links: HashMap<u32, Inode>,
}

pub(super) fn ingest(
    repository: &Repository,
    dir: BorrowedFd<'_>,
    options: &IngestOptions,
    cancel: &dyn Cancel,
) -> Result<Tree, RepoError> {
    let scanned = scan(dir, cancel)?.tree;
    let draft = Draft::new(options.node(scanned.root(), DraftContent::None));
    let mut ingest = Ingest { repository, dir, options, cancel, draft, links: HashMap::new() };
    let mut ticker = Ticker::counting(cancel, scanned.len() as u64);
    let mut pending = vec![(scanned.root(), Vec::new(), Draft::ROOT)];
    while let Some((node, path, slot)) = pending.pop() {
        for child in node.children() {
            ticker.count(1);
            ticker.tick()?;
            let path = join(&path, child.name());
            if options.leaves_out(&path) {
                continue;
            }
            if let Some(below) = ingest.add(child, &path, slot)? {
                pending.push((child, path, below));
            }
        }
    }
    Ok(ingest.draft.finish()?)
}

impl Ingest<'_> {
    /// Adds a node; returns its name in the draft where it is a directory.
    fn add(&mut self, node: Node<'_>, path: &[u8], parent: Slot) -> Result<Option<Slot>, RepoError> {
        let known = node.link_group().and_then(|group| self.links.get(&group).copied());
        let inode = match known {
            Some(inode) => inode,
            None => match self.inode(node, path)? {
                Some(inode) => inode,
                // It vanished, as others may have before the scan.
                None => return Ok(None),
            },
        };
        if let Some(group) = node.link_group() {
            self.links.insert(group, inode);
        }
        let slot = self.draft.set(parent, node.name(), inode);
        Ok(node.is_dir().then_some(slot))
    }

    fn inode(&mut self, node: Node<'_>, path: &[u8]) -> Result<Option<Inode>, RepoError> {
        let (content, size_bytes) = match node.content() {
            Content::OnDisk => match self.content(path)? {
                Some(found) => found,
                None => return Ok(None),
            },
            Content::Target(target) => (DraftContent::Target(target.to_vec()), target.len() as u64),
            _ => (DraftContent::None, 0),
        };
        let mut made = self.options.node(node, content);
        made.stat.size_bytes = size_bytes;
        Ok(Some(self.draft.add_inode(made)))
    }

    /// Stores a regular file; `None` where there is none any more.
    fn content(&self, path: &[u8]) -> Result<Option<(DraftContent, u64)>, RepoError> {
        let Some(file) = self.open(path)? else { return Ok(None) };
        let mut ticker = Ticker::new(self.cancel);
        if let Some(short) =
            read_short(file.as_fd(), MAX_INLINE_BYTES).map_err(RepoError::io("read", path))?
        {
            let size = short.len() as u64;
            return Ok(Some((DraftContent::Inline(short), size)));
        }
        let (digest, size) = self.repository.store(file.as_fd(), path, &mut ticker)?;
        Ok(Some((DraftContent::Object(digest), size)))
    }

    fn open(&self, path: &[u8]) -> Result<Option<OwnedFd>, RepoError> {
        // NONBLOCK: a FIFO that took the file's place must not hold us up; it is no regular file below.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let found = open_if_there(self.dir, path, flags).map_err(RepoError::io("open", path))?;
        let Some(file) = found else { return Ok(None) };
        let found = fstat(&file).map_err(RepoError::io("look at", path))?;
        Ok((KernelType::from_raw_mode(found.st_mode) == KernelType::RegularFile).then_some(file))
    }
}

impl IngestOptions {
    fn node(&self, node: Node<'_>, content: DraftContent) -> DraftNode {
        let mut stat = *node.stat();
        if let Some((uid, gid)) = self.squash_owner {
            (stat.uid, stat.gid) = (uid, gid);
        }
        let xattrs = node.xattrs().map(|xattr| (xattr.name.to_vec(), xattr.value.to_vec())).collect();
        debug_assert!(stat.file_type() != FileType::Directory || content == DraftContent::None);
        DraftNode { stat, xattrs, content }
    }
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}
