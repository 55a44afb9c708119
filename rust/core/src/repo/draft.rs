//! A tree that is still being changed: what an archive's later entries do to its earlier ones.

use std::collections::BTreeMap;

use crate::limits::MAX_TREE_NODES;
use crate::tree::{BuildError, Content, FileType, NodeId, Stat, Timestamp, Tree, TreeBuilder};
use crate::verity::Digest;

/// Content of a [`DraftNode`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DraftContent {
    /// Directories, devices, FIFOs, sockets.
    None,
    /// A short regular file.
    Inline(Vec<u8>),
    /// A symlink's target.
    Target(Vec<u8>),
    /// A stored regular file.
    Object(Digest),
}

impl DraftContent {
    fn borrow(&self) -> Content<'_> {
        match self {
            Self::None => Content::None,
            Self::Inline(data) => Content::Inline(data),
            Self::Target(target) => Content::Target(target),
            Self::Object(digest) => Content::Object(digest),
        }
    }
}

/// One inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DraftNode {
    /// `nlink` is counted when the draft ends.
    pub stat: Stat,
    /// In any order.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// As its type has it.
    pub content: DraftContent,
}

impl DraftNode {
    /// A directory of root's, mode 0755, made in 1970: what an archive leaves out.
    #[must_use]
    pub fn missing_directory() -> Self {
        let mode = 0o040_755;
        let mtime = Timestamp::default();
        let stat = Stat { mode, uid: 0, gid: 0, nlink: 2, rdev: 0, size_bytes: 0, mtime };
        Self { stat, xattrs: Vec::new(), content: DraftContent::None }
    }

    fn pairs(&self) -> Vec<(&[u8], &[u8])> {
        self.xattrs.iter().map(|(name, value)| (name.as_slice(), value.as_slice())).collect()
    }
}

/// A name in the draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(usize);

/// An inode of the draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode(usize);

#[derive(Debug)]
struct Name {
    inode: Inode,
    children: BTreeMap<Vec<u8>, Slot>,
}

/// A tree under construction, never empty.
#[derive(Debug)]
pub struct Draft {
    names: Vec<Name>,
    inodes: Vec<DraftNode>,
}

impl Draft {
    /// The root directory.
    pub const ROOT: Slot = Slot(0);

    /// A tree of one directory.
    #[must_use]
    pub fn new(root: DraftNode) -> Self {
        Self { names: vec![Name { inode: Inode(0), children: BTreeMap::new() }], inodes: vec![root] }
    }

    /// Adds an inode, as yet without a name.
    pub fn add_inode(&mut self, node: DraftNode) -> Inode {
        self.inodes.push(node);
        Inode(self.inodes.len().saturating_sub(1))
    }

    /// Names an inode. What had the name goes, but a directory that replaces a directory keeps what is in it.
    pub fn set(&mut self, parent: Slot, name: &[u8], inode: Inode) -> Slot {
        let stays = self.child(parent, name).filter(|old| self.is_dir(*old) && self.inode_is_dir(inode));
        if let Some(slot) = stays {
            if let Some(entry) = self.names.get_mut(slot.0) {
                entry.inode = inode;
            }
            return slot;
        }
        let slot = Slot(self.names.len());
        self.names.push(Name { inode, children: BTreeMap::new() });
        if let Some(directory) = self.names.get_mut(parent.0) {
            directory.children.insert(name.to_vec(), slot);
        }
        slot
    }

    /// Changes the attributes of the root.
    pub fn set_root(&mut self, node: DraftNode) {
        if let Some(root) = self.inodes.first_mut() {
            *root = node;
        }
    }

    /// The name below a directory.
    #[must_use]
    pub fn child(&self, parent: Slot, name: &[u8]) -> Option<Slot> {
        self.names.get(parent.0)?.children.get(name).copied()
    }

    /// What a name names.
    #[must_use]
    pub fn inode(&self, slot: Slot) -> Option<Inode> {
        self.names.get(slot.0).map(|name| name.inode)
    }

    /// Whether a name names a directory.
    #[must_use]
    pub fn is_dir(&self, slot: Slot) -> bool {
        self.inode(slot).is_some_and(|inode| self.inode_is_dir(inode))
    }

    fn inode_is_dir(&self, inode: Inode) -> bool {
        self.inodes.get(inode.0).is_some_and(|node| node.stat.file_type() == FileType::Directory)
    }

    /// The finished tree, with link counts and link groups as the names have them.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn finish(&self) -> Result<Tree, BuildError> {
        let too_large = BuildError::TooLarge { limit: MAX_TREE_NODES };
        let uses = self.count();
        let Some(root) = self.inodes.first() else { return Err(too_large) };
        let mut builder = TreeBuilder::new(self.stat(Self::ROOT, root, &uses), &root.pairs())?;
        let mut pending = vec![(Self::ROOT, NodeId::ROOT)];
        while let Some((slot, parent)) = pending.pop() {
            for (name, child) in self.names.get(slot.0).into_iter().flat_map(|entry| &entry.children) {
                let Some((inode, node)) =
                    self.inode(*child).and_then(|inode| Some((inode, self.inodes.get(inode.0)?)))
                else {
                    continue;
                };
                let is_linked = uses.get(inode.0).is_some_and(|count| *count > 1);
                let group =
                    if is_linked { u32::try_from(inode.0).map_err(|_| too_large.clone())? } else { 0 };
                let stat = self.stat(*child, node, &uses);
                let id = builder.add(parent, name, stat, &node.pairs(), node.content.borrow(), group)?;
                if self.inode_is_dir(inode) {
                    pending.push((*child, id));
                }
            }
        }
        builder.finish()
    }

    /// Names of each inode, of those that the root leads to.
    fn count(&self) -> Vec<u32> {
        let mut uses = vec![0u32; self.inodes.len()];
        let mut pending = vec![Self::ROOT];
        while let Some(slot) = pending.pop() {
            let Some(name) = self.names.get(slot.0) else { continue };
            if let Some(count) = uses.get_mut(name.inode.0) {
                *count = count.saturating_add(1);
            }
            pending.extend(name.children.values());
        }
        uses
    }

    fn stat(&self, slot: Slot, node: &DraftNode, uses: &[u32]) -> Stat {
        let mut stat = node.stat;
        stat.nlink = if stat.file_type() == FileType::Directory {
            let children = self.names.get(slot.0).into_iter().flat_map(|name| name.children.values());
            let subdirectories = children.filter(|child| self.is_dir(**child)).count();
            u32::try_from(subdirectories.saturating_add(2)).unwrap_or(u32::MAX)
        } else {
            self.inode(slot).and_then(|inode| uses.get(inode.0).copied()).unwrap_or(1)
        };
        stat
    }
}
