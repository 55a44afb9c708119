//! The tree: an arena of nodes, names and attributes, made once by [`super::TreeBuilder`] and then only read.

use crate::verity::Digest;

/// Index of a node; the root is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The root directory of the tree.
    pub const ROOT: Self = Self(0);
}

/// The type bits of `st_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileType {
    /// `S_IFREG`.
    Regular,
    /// `S_IFDIR`.
    Directory,
    /// `S_IFLNK`.
    Symlink,
    /// `S_IFCHR`.
    CharDevice,
    /// `S_IFBLK`.
    BlockDevice,
    /// `S_IFIFO`.
    Fifo,
    /// `S_IFSOCK`.
    Socket,
}

impl FileType {
    /// From `st_mode`; `None` for bits that no type has.
    #[must_use]
    pub const fn from_mode(mode: u32) -> Option<Self> {
        match mode & 0o170_000 {
            0o100_000 => Some(Self::Regular),
            0o040_000 => Some(Self::Directory),
            0o120_000 => Some(Self::Symlink),
            0o020_000 => Some(Self::CharDevice),
            0o060_000 => Some(Self::BlockDevice),
            0o010_000 => Some(Self::Fifo),
            0o140_000 => Some(Self::Socket),
            _ => None,
        }
    }
}

/// Seconds and nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds; negative before 1970.
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

/// The fixed-size attributes of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// `st_mode`: type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links, as the source counts them.
    pub nlink: u32,
    /// Device number of a device node as `makedev(3)` gives it, else 0.
    pub rdev: u64,
    /// Bytes of content of a regular file or of a symlink's target; 0 for all else.
    pub size_bytes: u64,
    /// Time of last modification; never part of equality.
    pub mtime: Timestamp,
}

impl Stat {
    /// The type; a [`super::TreeBuilder`] admits no mode without one.
    #[must_use]
    pub fn file_type(&self) -> FileType {
        FileType::from_mode(self.mode).unwrap_or(FileType::Regular)
    }
}

/// What a scan saw of a regular file, beside [`Stat`]: the same afterwards means that the content is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskState {
    /// `st_ino`.
    pub inode: u64,
    /// Time of the last change of content or attributes.
    pub ctime: Timestamp,
    /// The kernel's fs-verity protects it.
    pub has_verity: bool,
}

/// Where a node's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'t> {
    /// Directories, devices, FIFOs, sockets.
    None,
    /// A regular file's bytes, held in the tree (composefs: up to 64 bytes).
    Inline(&'t [u8]),
    /// A symlink's target.
    Target(&'t [u8]),
    /// A regular file whose bytes are the repository object with this fs-verity digest.
    Object(&'t Digest),
    /// A regular file of a live directory: to be read under the directory that was scanned.
    OnDisk,
}

/// One extended attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr<'t> {
    /// With its namespace prefix: `user.mime_type`.
    pub name: &'t [u8],
    /// Any bytes.
    pub value: &'t [u8],
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) len: u32,
}

impl Span {
    pub(super) const EMPTY: Self = Self { start: 0, len: 0 };

    pub(super) fn of<T>(self, all: &[T]) -> &[T] {
        let start = self.start as usize;
        all.get(start..start.saturating_add(self.len as usize)).unwrap_or_default()
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum RawContent {
    None,
    Inline(Span),
    Target(Span),
    Object(u32),
    /// Index into `disk_states`; past its end where none is known.
    OnDisk(u32),
}

#[derive(Debug, Clone)]
pub(super) struct RawNode {
    pub(super) stat: Stat,
    pub(super) name: Span,
    pub(super) parent: NodeId,
    /// Range of `child_ids`, sorted by name.
    pub(super) children: Span,
    /// Range of `xattr_refs`, sorted by name.
    pub(super) xattrs: Span,
    /// Nodes with the same non-zero number are hard links of one inode.
    pub(super) link_group: u32,
    pub(super) content: RawContent,
}

/// An immutable tree of files. Memory: about 110 bytes a node plus its name.
#[derive(Debug)]
pub struct Tree {
    pub(super) nodes: Vec<RawNode>,
    pub(super) child_ids: Vec<NodeId>,
    /// Names, targets, inline contents, xattr names and values.
    pub(super) bytes: Vec<u8>,
    pub(super) xattr_refs: Vec<(Span, Span)>,
    pub(super) digests: Vec<Digest>,
    pub(super) disk_states: Vec<DiskState>,
    pub(super) has_links: bool,
}

impl Tree {
    /// Number of nodes, the root included; at least 1.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Never: a tree has a root.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Whether any node has a link group.
    #[must_use]
    pub fn has_links(&self) -> bool {
        self.has_links
    }

    /// The root directory.
    #[must_use]
    pub fn root(&self) -> Node<'_> {
        self.node(NodeId::ROOT)
    }

    /// The node with this id; of an id of another tree, some node or the root, never a panic.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Node<'_> {
        let id = if (id.0 as usize) < self.nodes.len() { id } else { NodeId::ROOT };
        Node { tree: self, id }
    }

    /// The node at a `/`-separated path below the root; leading and double slashes do not count.
    #[must_use]
    pub fn find(&self, path: &[u8]) -> Option<Node<'_>> {
        path.split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty())
            .try_fold(self.root(), |node, name| node.child(name))
    }
}

/// A node of a [`Tree`], borrowed; cheap to copy.
#[derive(Debug, Clone, Copy)]
pub struct Node<'t> {
    tree: &'t Tree,
    id: NodeId,
}

impl<'t> Node<'t> {
    // `Tree::node` checked the id; the fallback can only be reached with an empty arena, which no builder makes.
    fn raw(&self) -> Option<&'t RawNode> {
        self.tree.nodes.get(self.id.0 as usize)
    }

    /// This node's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Fixed-size attributes.
    #[must_use]
    pub fn stat(&self) -> &'t Stat {
        const NOTHING: Stat = Stat {
            mode: 0o040_000,
            uid: 0,
            gid: 0,
            nlink: 0,
            rdev: 0,
            size_bytes: 0,
            mtime: Timestamp { secs: 0, nanos: 0 },
        };
        self.raw().map_or(&NOTHING, |raw| &raw.stat)
    }

    /// Type of file.
    #[must_use]
    pub fn file_type(&self) -> FileType {
        self.stat().file_type()
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.file_type() == FileType::Directory
    }

    /// Last component of the path; empty for the root.
    #[must_use]
    pub fn name(&self) -> &'t [u8] {
        self.raw().map_or(&[], |raw| raw.name.of(&self.tree.bytes))
    }

    /// The directory that holds this node; the root is its own.
    #[must_use]
    pub fn parent(&self) -> Node<'t> {
        self.raw().map_or(*self, |raw| self.tree.node(raw.parent))
    }

    /// Path below the root, without a leading slash; empty for the root.
    #[must_use]
    pub fn path(&self) -> Vec<u8> {
        let mut names = Vec::new();
        let mut node = *self;
        while node.id != NodeId::ROOT {
            names.push(node.name());
            node = node.parent();
        }
        names.reverse();
        names.join(&b'/')
    }

    /// Children in byte order of their names.
    #[must_use]
    pub fn children(&self) -> Children<'t> {
        let ids = self.raw().map_or(&[][..], |raw| raw.children.of(&self.tree.child_ids));
        Children { tree: self.tree, ids: ids.iter() }
    }

    /// The child of this name: a binary search.
    #[must_use]
    pub fn child(&self, name: &[u8]) -> Option<Node<'t>> {
        let ids = self.raw()?.children.of(&self.tree.child_ids);
        let index = ids.binary_search_by(|id| self.tree.node(*id).name().cmp(name)).ok()?;
        ids.get(index).map(|id| self.tree.node(*id))
    }

    /// Extended attributes in byte order of their names.
    pub fn xattrs(&self) -> impl Iterator<Item = Xattr<'t>> + use<'t> {
        let tree = self.tree;
        let refs = self.raw().map_or(&[][..], |raw| raw.xattrs.of(&tree.xattr_refs));
        refs.iter().map(|(name, value)| Xattr { name: name.of(&tree.bytes), value: value.of(&tree.bytes) })
    }

    /// Value of one extended attribute.
    #[must_use]
    pub fn xattr(&self, name: &[u8]) -> Option<&'t [u8]> {
        self.xattrs().find(|xattr| xattr.name == name).map(|xattr| xattr.value)
    }

    /// Where the content is.
    #[must_use]
    pub fn content(&self) -> Content<'t> {
        let tree = self.tree;
        match self.raw().map(|raw| raw.content) {
            None | Some(RawContent::None) => Content::None,
            Some(RawContent::Inline(span)) => Content::Inline(span.of(&tree.bytes)),
            Some(RawContent::Target(span)) => Content::Target(span.of(&tree.bytes)),
            Some(RawContent::Object(index)) => {
                tree.digests.get(index as usize).map_or(Content::None, Content::Object)
            }
            Some(RawContent::OnDisk(_)) => Content::OnDisk,
        }
    }

    /// What the scan saw of a file that is [`Content::OnDisk`]; `None` where the tree was made in another way.
    #[must_use]
    pub fn disk_state(&self) -> Option<&'t DiskState> {
        match self.raw()?.content {
            RawContent::OnDisk(index) => self.tree.disk_states.get(index as usize),
            _ => None,
        }
    }

    /// Nodes with the same `Some` are hard links of one inode; `None`: the only name in this tree.
    #[must_use]
    pub fn link_group(&self) -> Option<u32> {
        self.raw().map(|raw| raw.link_group).filter(|group| *group != 0)
    }
}

/// Iterator over a directory's children.
#[derive(Debug, Clone)]
pub struct Children<'t> {
    tree: &'t Tree,
    ids: std::slice::Iter<'t, NodeId>,
}

impl<'t> Iterator for Children<'t> {
    type Item = Node<'t>;

    fn next(&mut self) -> Option<Node<'t>> {
        self.ids.next().map(|id| self.tree.node(*id))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.ids.size_hint()
    }
}

impl ExactSizeIterator for Children<'_> {}
