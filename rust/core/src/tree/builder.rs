//! Making a [`Tree`]: nodes in any order, parents before children; sorted and frozen at the end.

use super::model::{Content, DiskState, FileType, NodeId, RawContent, RawNode, Span, Stat, Tree};
use crate::limits::{MAX_NAME_BYTES, MAX_TREE_NODES};

/// Why a tree cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Empty, `.`, `..`, too long, or with a slash or NUL.
    #[error("{name:?} is no file name")]
    Name {
        /// As found, lossily decoded.
        name: String,
    },
    /// Twice the same name in one directory.
    #[error("{name:?} appears twice in one directory")]
    Duplicate {
        /// As found, lossily decoded.
        name: String,
    },
    /// The parent is missing or not a directory.
    #[error("the parent of {name:?} is not a directory")]
    Parent {
        /// As found, lossily decoded.
        name: String,
    },
    /// `st_mode` without a valid type.
    #[error("mode {mode:#o} has no file type")]
    Mode {
        /// As found.
        mode: u32,
    },
    /// More than [`MAX_TREE_NODES`] nodes, or more than 4 GiB of names and inline data.
    #[error("the tree is larger than {limit} nodes or 4 GiB of metadata")]
    TooLarge {
        /// [`MAX_TREE_NODES`].
        limit: usize,
    },
}

/// Collects nodes.
#[derive(Debug)]
pub struct TreeBuilder {
    tree: Tree,
}

impl TreeBuilder {
    /// A tree of one directory.
    ///
    /// # Errors
    /// [`BuildError::Mode`] where `root` is no directory.
    pub fn new(root: Stat, xattrs: &[(&[u8], &[u8])]) -> Result<Self, BuildError> {
        if FileType::from_mode(root.mode) != Some(FileType::Directory) {
            return Err(BuildError::Mode { mode: root.mode });
        }
        let tree = Tree {
            nodes: Vec::new(),
            child_ids: Vec::new(),
            bytes: Vec::new(),
            xattr_refs: Vec::new(),
            digests: Vec::new(),
            disk_states: Vec::new(),
            has_links: false,
        };
        let mut builder = Self { tree };
        builder.push(NodeId::ROOT, b"", root, xattrs, Content::None, 0)?;
        Ok(builder)
    }

    /// Nodes so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tree.nodes.len()
    }

    /// Never: there is a root.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tree.nodes.is_empty()
    }

    /// Makes room for so many nodes: growing step by step copied each one about once more.
    pub(crate) fn reserve(&mut self, nodes: usize) {
        let nodes = nodes.min(MAX_TREE_NODES).saturating_sub(self.len());
        self.tree.nodes.reserve_exact(nodes);
    }

    /// Adds a node below a directory that was added before.
    ///
    /// `link_group`: the same non-zero number for every name of one inode, else 0. `xattrs` in any order.
    ///
    /// # Errors
    /// [`BuildError`]; duplicates are found by [`TreeBuilder::finish`].
    pub fn add(
        &mut self,
        parent: NodeId,
        name: &[u8],
        stat: Stat,
        xattrs: &[(&[u8], &[u8])],
        content: Content<'_>,
        link_group: u32,
    ) -> Result<NodeId, BuildError> {
        let bad = name.is_empty()
            || name.len() > MAX_NAME_BYTES
            || name == b"."
            || name == b".."
            || name.iter().any(|byte| matches!(byte, b'/' | 0));
        if bad {
            return Err(BuildError::Name { name: lossy(name) });
        }
        let holder = self.tree.nodes.get(parent.0 as usize).map(|raw| raw.stat.file_type());
        if holder != Some(FileType::Directory) {
            return Err(BuildError::Parent { name: lossy(name) });
        }
        if FileType::from_mode(stat.mode).is_none() {
            return Err(BuildError::Mode { mode: stat.mode });
        }
        self.push(parent, name, stat, xattrs, content, link_group)
    }

    /// Makes a node that was added with link group 0 one of `group`; returns the group that it has then.
    ///
    /// For sources that learn only from the second name that an inode has two in this tree.
    pub fn link_group_or(&mut self, id: NodeId, group: u32) -> u32 {
        match self.tree.nodes.get_mut(id.0 as usize) {
            Some(node) => {
                if node.link_group == 0 {
                    node.link_group = group;
                    self.tree.has_links = true;
                }
                node.link_group
            }
            None => group,
        }
    }

    /// Notes what was seen of a file that was added as [`Content::OnDisk`]; of any other node, nothing happens.
    pub(super) fn set_disk_state(&mut self, id: NodeId, state: DiskState) -> Result<(), BuildError> {
        let index = small(self.tree.disk_states.len())?;
        if let Some(RawContent::OnDisk(slot)) =
            self.tree.nodes.get_mut(id.0 as usize).map(|node| &mut node.content)
        {
            *slot = index;
            self.tree.disk_states.push(state);
        }
        Ok(())
    }

    /// Gives a directory that was added the attributes that a later look at it found.
    pub(super) fn set_attributes(
        &mut self,
        id: NodeId,
        stat: Stat,
        xattrs: &[(&[u8], &[u8])],
    ) -> Result<(), BuildError> {
        let span = self.xattrs(xattrs)?;
        if let Some(node) = self.tree.nodes.get_mut(id.0 as usize).filter(|node| {
            [node.stat, stat].map(|stat| FileType::from_mode(stat.mode)) == [Some(FileType::Directory); 2]
        }) {
            (node.stat, node.xattrs) = (stat, span);
        }
        Ok(())
    }

    fn push(
        &mut self,
        parent: NodeId,
        name: &[u8],
        stat: Stat,
        xattrs: &[(&[u8], &[u8])],
        content: Content<'_>,
        link_group: u32,
    ) -> Result<NodeId, BuildError> {
        if self.tree.nodes.len() >= MAX_TREE_NODES {
            return Err(BuildError::TooLarge { limit: MAX_TREE_NODES });
        }
        let id = NodeId(small(self.tree.nodes.len())?);
        let name = self.bytes(name)?;
        let xattrs = self.xattrs(xattrs)?;
        let content = match content {
            Content::None => RawContent::None,
            Content::Inline(data) => RawContent::Inline(self.bytes(data)?),
            Content::Target(target) => RawContent::Target(self.bytes(target)?),
            Content::Object(digest) => {
                self.tree.digests.push(*digest);
                RawContent::Object(small(self.tree.digests.len().saturating_sub(1))?)
            }
            Content::OnDisk => RawContent::OnDisk(u32::MAX),
        };
        self.tree.has_links |= link_group != 0;
        self.tree.nodes.push(RawNode {
            stat,
            name,
            parent,
            children: Span::EMPTY,
            xattrs,
            link_group,
            content,
        });
        Ok(id)
    }

    fn xattrs(&mut self, xattrs: &[(&[u8], &[u8])]) -> Result<Span, BuildError> {
        let mut sorted = xattrs.to_vec();
        sorted.sort_unstable();
        let first_ref = small(self.tree.xattr_refs.len())?;
        for (key, value) in &sorted {
            let pair = (self.bytes(key)?, self.bytes(value)?);
            self.tree.xattr_refs.push(pair);
        }
        Ok(Span { start: first_ref, len: small(sorted.len())? })
    }

    fn bytes(&mut self, data: &[u8]) -> Result<Span, BuildError> {
        let span = Span { start: small(self.tree.bytes.len())?, len: small(data.len())? };
        self.tree.bytes.extend_from_slice(data);
        Ok(span)
    }

    /// Sorts the children of every directory and freezes the tree.
    ///
    /// # Errors
    /// [`BuildError::Duplicate`].
    pub fn finish(mut self) -> Result<Tree, BuildError> {
        self.group_children()?;
        let mut ids = std::mem::take(&mut self.tree.child_ids);
        let tree = &self.tree;
        for span in tree.nodes.iter().map(|node| node.children).filter(|span| span.len > 1) {
            let start = span.start as usize;
            let Some(own) = ids.get_mut(start..start.saturating_add(span.len as usize)) else { continue };
            // Most sources yield a directory's names sorted, or sorted backwards, which costs one comparison each.
            own.sort_unstable_by(|left, right| tree.node(*left).name().cmp(tree.node(*right).name()));
            let mut pairs = own.iter().zip(own.iter().skip(1));
            if let Some((left, _)) =
                pairs.find(|(left, right)| tree.node(**left).name() == tree.node(**right).name())
            {
                return Err(BuildError::Duplicate { name: lossy(tree.node(*left).name()) });
            }
        }
        self.tree.child_ids = ids;
        Ok(self.tree)
    }

    /// Gathers the children of every directory by counting: a sort of all nodes by parent and name, which looks both
    /// up for each comparison, was 3 % of the time of a whole plan.
    fn group_children(&mut self) -> Result<(), BuildError> {
        let nodes = &mut self.tree.nodes;
        let count = small(nodes.len())?;
        for index in 1..nodes.len() {
            let parent = nodes.get(index).map_or(NodeId::ROOT, |node| node.parent);
            if let Some(parent) = nodes.get_mut(parent.0 as usize) {
                parent.children.len = parent.children.len.saturating_add(1);
            }
        }
        let mut start = 0u32;
        for node in nodes.iter_mut() {
            let len = std::mem::take(&mut node.children.len);
            node.children.start = start;
            start = start.saturating_add(len);
        }
        let mut ids = vec![NodeId::ROOT; start as usize];
        for id in (1..count).map(NodeId) {
            let parent = nodes.get(id.0 as usize).map_or(NodeId::ROOT, |node| node.parent);
            let Some(parent) = nodes.get_mut(parent.0 as usize) else { continue };
            let at = parent.children.start.saturating_add(parent.children.len);
            parent.children.len = parent.children.len.saturating_add(1);
            if let Some(slot) = ids.get_mut(at as usize) {
                *slot = id;
            }
        }
        self.tree.child_ids = ids;
        Ok(())
    }
}

fn small(value: usize) -> Result<u32, BuildError> {
    u32::try_from(value).map_err(|_| BuildError::TooLarge { limit: MAX_TREE_NODES })
}

fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
