//! What has to be done to a destination so that it becomes the merge result: the difference of two trees.
//!
//! Nothing in the destination is needed to make the result: contents come from the images and from the running
//! /etc only. So whatever prefix of the list was carried out, and whatever else happened to the destination in
//! between, the difference taken again completes it. Order within the list:
//!
//! 1. directories from the top down; in each, first what does not belong there goes (which also frees space),
//!    then its entries are made;
//! 2. attributes of directories from the bottom up: a directory that its owner cannot enter must be closed last,
//!    and every change of an entry renews its directory's mtime.

use std::collections::HashMap;

use super::attributes::Attributes;
use crate::cancel::{Cancel, Cancelled, Ticker};
use crate::tree::{FileType, Node, NodeId, Tree};

/// What is made under a name of the result that the destination lacks, or has otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    /// A directory; its attributes come last.
    Directory,
    /// A regular file with its attributes.
    File,
    /// A hard link to a name of the result that an earlier operation made.
    Link {
        /// Node of the result.
        first: NodeId,
    },
    /// A symlink with its attributes.
    Symlink,
    /// A FIFO or device node with its attributes.
    Node,
}

/// One step from the destination to the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Gives the owner `rwx` on a directory of the result whose entries change; its final mode comes last.
    Unlock(NodeId),
    /// Removes an entry that is not in the result, with everything below it.
    Remove {
        /// Node of the destination.
        old: NodeId,
        /// So many entries; itself included, so at least 1.
        entries: u64,
    },
    /// Makes an entry, in place of whatever is there.
    Make {
        /// Of which kind.
        what: Make,
        /// Node of the result.
        node: NodeId,
        /// What the destination has under this name.
        old: Option<NodeId>,
    },
    /// Sets attributes of what is there.
    SetAttributes {
        /// Node of the result.
        node: NodeId,
        /// Which of its attributes.
        which: Attributes,
    },
}

impl Operation {
    /// The path below the destination that it is about.
    #[must_use]
    pub fn path(&self, result: &Tree, destination: &Tree) -> Vec<u8> {
        match *self {
            Self::Unlock(node) | Self::Make { node, .. } | Self::SetAttributes { node, .. } => {
                result.node(node).path()
            }
            Self::Remove { old, .. } => destination.node(old).path(),
        }
    }
}

/// Says whether a regular file of the result and one of the destination, of equal size, have the same bytes.
///
/// A file that cannot be read is not the same: it will be written anew, and what is really wrong shows then.
pub trait SameContent {
    /// Compares the contents of a node of the result and a node of the destination.
    ///
    /// # Errors
    /// [`Cancelled`].
    fn same(&mut self, wanted: Node<'_>, found: Node<'_>) -> Result<bool, Cancelled>;
}

/// The operations that turn `destination` into `result`; none, if it is that already.
///
/// Cost: one step an entry of both trees, and `content` once for each regular file that could be left as it is.
///
/// # Errors
/// [`Cancelled`].
pub fn list_operations(
    result: &Tree,
    destination: &Tree,
    content: &mut dyn SameContent,
    cancel: &dyn Cancel,
) -> Result<Vec<Operation>, Cancelled> {
    let mut differ = Differ {
        groups: LinkGroups::of(result, destination),
        result,
        destination,
        content,
        operations: Vec::new(),
        last: Vec::new(),
        firsts: HashMap::new(),
    };
    let mut ticker = Ticker::new(cancel);
    let mut stack = vec![(NodeId::ROOT, Some(NodeId::ROOT))];
    while let Some((node, old)) = stack.pop() {
        differ.directory(node, old, &mut stack, &mut ticker)?;
    }
    let Differ { mut operations, last, .. } = differ;
    operations.extend(last.into_iter().rev());
    Ok(operations)
}

struct Differ<'a> {
    result: &'a Tree,
    destination: &'a Tree,
    content: &'a mut dyn SameContent,
    groups: LinkGroups,
    operations: Vec<Operation>,
    /// Attributes of directories, parents before children.
    last: Vec<Operation>,
    /// The name of each link group that is made as a file of its own.
    firsts: HashMap<u32, NodeId>,
}

impl Differ<'_> {
    fn directory(
        &mut self,
        id: NodeId,
        old: Option<NodeId>,
        stack: &mut Vec<(NodeId, Option<NodeId>)>,
        ticker: &mut Ticker<'_>,
    ) -> Result<(), Cancelled> {
        let (result, destination) = (self.result, self.destination);
        let node = result.node(id);
        let start = self.operations.len();
        for extra in old.into_iter().flat_map(|old| destination.node(old).children()) {
            ticker.tick()?;
            if node.child(extra.name()).is_none() {
                let entries = count_entries(extra);
                self.operations.push(Operation::Remove { old: extra.id(), entries });
            }
        }
        let mut dirty = self.operations.len() > start;
        for child in node.children() {
            ticker.tick()?;
            let found = old.and_then(|old| destination.node(old).child(child.name()));
            dirty |= self.entry(child, found)?;
            if child.is_dir() {
                stack.push((child.id(), found.filter(Node::is_dir).map(|found| found.id())));
            }
        }
        self.finish_directory(node, old.map(|old| destination.node(old)), start, dirty);
        Ok(())
    }

    /// Lists what an entry needs; true if that changes its directory.
    fn entry(&mut self, node: Node<'_>, found: Option<Node<'_>>) -> Result<bool, Cancelled> {
        if node.file_type() == FileType::Socket {
            return Ok(false);
        }
        if node.is_dir() {
            let missing = !found.is_some_and(|found| found.is_dir());
            if missing {
                self.make(Make::Directory, node, found);
            }
            return Ok(missing);
        }
        if let Some(found) = found
            && self.same_inode(node, found)?
        {
            let attributes = Attributes::difference(node, found);
            // Names of one inode share its attributes; setting them once is enough.
            let seen = node.link_group().is_some_and(|group| self.firsts.insert(group, node.id()).is_some());
            if !attributes.is_empty() && !seen {
                self.operations.push(Operation::SetAttributes { node: node.id(), which: attributes });
            }
            return Ok(false);
        }
        let what = self.creation(node);
        self.make(what, node, found);
        Ok(true)
    }

    /// Whether the destination's inode can stay: same thing, same content, and no other name, here or outside,
    /// that would change along with it.
    fn same_inode(&mut self, node: Node<'_>, found: Node<'_>) -> Result<bool, Cancelled> {
        let (stat, old) = (node.stat(), found.stat());
        if stat.file_type() != old.file_type() || !self.groups.is_intact(node, found) {
            return Ok(false);
        }
        Ok(match stat.file_type() {
            FileType::Regular if stat.size_bytes != old.size_bytes => false,
            FileType::Regular => stat.size_bytes == 0 || self.content.same(node, found)?,
            FileType::Symlink => node.content() == found.content(),
            FileType::CharDevice | FileType::BlockDevice => stat.rdev == old.rdev,
            FileType::Fifo => true,
            FileType::Directory | FileType::Socket => false,
        })
    }

    fn creation(&mut self, node: Node<'_>) -> Make {
        if let Some(group) = node.link_group().filter(|_| self.groups.names_of(node) > 1) {
            match self.firsts.get(&group) {
                Some(first) => return Make::Link { first: *first },
                None => self.firsts.insert(group, node.id()),
            };
        }
        match node.file_type() {
            FileType::Regular => Make::File,
            FileType::Symlink => Make::Symlink,
            _ => Make::Node,
        }
    }

    fn finish_directory(&mut self, node: Node<'_>, old: Option<Node<'_>>, start: usize, dirty: bool) {
        let Some(old) = old else {
            self.last.push(Operation::SetAttributes { node: node.id(), which: Attributes::ALL });
            return;
        };
        let mut attributes = Attributes::difference(node, old);
        if dirty {
            attributes = attributes.with(Attributes::MTIME);
            if old.stat().mode & OWNER_ALL != OWNER_ALL {
                attributes = attributes.with(Attributes::MODE);
                self.operations.insert(start, Operation::Unlock(node.id()));
            }
        }
        if !attributes.is_empty() {
            self.last.push(Operation::SetAttributes { node: node.id(), which: attributes });
        }
    }

    fn make(&mut self, what: Make, node: Node<'_>, found: Option<Node<'_>>) {
        let old = found.map(|found| found.id());
        self.operations.push(Operation::Make { what, node: node.id(), old });
    }
}

/// `S_IRWXU`.
pub(super) const OWNER_ALL: u32 = 0o700;

fn count_entries(node: Node<'_>) -> u64 {
    let mut count = 0u64;
    let mut stack = vec![node];
    while let Some(node) = stack.pop() {
        count = count.saturating_add(1);
        stack.extend(node.children());
    }
    count
}

/// Which names belong together, in the result and in the destination.
struct LinkGroups {
    /// Names of each group of the result.
    wanted: HashMap<u32, u32>,
    /// For each group of the result that the destination has name by name: the destination's group.
    intact: HashMap<u32, u32>,
}

impl LinkGroups {
    fn of(result: &Tree, destination: &Tree) -> Self {
        let mut wanted: HashMap<u32, u32> = HashMap::new();
        let mut pairs: HashMap<u32, Option<u32>> = HashMap::new();
        let mut stack = vec![(result.root(), Some(destination.root()))];
        while let Some((node, old)) = stack.pop() {
            for child in node.children() {
                let found = old.and_then(|old| old.child(child.name()));
                stack.push((child, found));
                let Some(group) = child.link_group() else { continue };
                let count = wanted.entry(group).or_default();
                *count = count.saturating_add(1);
                let here = found.and_then(|found| found.link_group());
                let known = pairs.entry(group).or_insert(here);
                if *known != here {
                    *known = None;
                }
            }
        }
        let intact = pairs.into_iter().filter_map(|(group, here)| Some((group, here?))).collect();
        Self { wanted, intact }
    }

    /// Names that the inode of this node of the result has in the result.
    fn names_of(&self, node: Node<'_>) -> u32 {
        node.link_group().and_then(|group| self.wanted.get(&group).copied()).unwrap_or(1)
    }

    /// Whether the names of the destination's inode are exactly those that the result's inode has.
    fn is_intact(&self, node: Node<'_>, found: Node<'_>) -> bool {
        // st_nlink counts names outside the destination too: a change here must not reach them, nor theirs us.
        if found.stat().nlink != self.names_of(node) {
            return false;
        }
        match node.link_group().filter(|_| self.names_of(node) > 1) {
            None => true,
            Some(group) => {
                found.link_group().is_some() && self.intact.get(&group).copied() == found.link_group()
            }
        }
    }
}

#[cfg(test)]
#[path = "ops_tests.rs"]
mod tests;
