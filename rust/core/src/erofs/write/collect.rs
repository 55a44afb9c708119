//! From a tree to the image's inodes, in the image's order: breadth first, each inode where the first of its
//! names is.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};

use super::super::layout::{composefs as names, dirent};
use super::dirs::{DirBlocks, Entry};
use super::error::WriteError;
use super::units::XATTR_WORD;
use super::xattrs::InodeXattrs;
use crate::cancel::{Cancel, Ticker};
use crate::limits::MAX_SYMLINK_BYTES;
use crate::tree::{Content, FileType, Node, NodeId, Stat, Timestamp, Tree};
use crate::verity::Digest;

const PERMISSIONS: u32 = 0o7777;
const S_IFCHR: u32 = 0o020_000;
const S_IFREG: u32 = 0o100_000;

/// What an inode holds.
#[derive(Debug)]
pub(super) enum Body<'t> {
    Directory(DirBlocks<'t>),
    /// Bytes of a regular file that live in the image.
    Inline(&'t [u8]),
    Target(&'t [u8]),
    /// A regular file of this many bytes whose content is an object.
    Object(u64),
    /// Device, FIFO or socket, with its device number or 0.
    Special(u32),
}

/// An inode without its attributes, which stand beside it in [`Inodes::xattrs`].
#[derive(Debug)]
pub(super) struct Inode<'t> {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Timestamp,
    pub nlink: u32,
    pub body: Body<'t>,
}

/// All inodes; the index is `i_ino`.
#[derive(Debug, Default)]
pub(super) struct Inodes<'t> {
    pub inodes: Vec<Inode<'t>>,
    pub xattrs: Vec<InodeXattrs<'t>>,
}

/// Names `00` to `ff`: under the overlay, whose lower data layer is the object directory, they hide the objects.
static STUB_NAMES: [[u8; 2]; 256] = {
    let hex = *b"0123456789abcdef";
    let mut names = [[0u8; 2]; 256];
    let mut index = 0;
    #[allow(clippy::indexing_slicing)] // evaluated at compile time: out of bounds would not build
    while index < 256 {
        names[index] = [hex[index / 16], hex[index % 16]];
        index += 1;
    }
    names
};

/// Hard links: how many names there are, and the directory whose name for it is the first in depth-first order.
#[derive(Debug)]
struct Link {
    names: u32,
    home: NodeId,
    inode: Option<u32>,
}

struct Collector<'t> {
    out: Inodes<'t>,
    links: HashMap<u32, Link>,
    /// Directories in the order of their inodes: node, own inode, parent's inode.
    queue: VecDeque<(Node<'t>, u32, u32)>,
    /// Entries of the directories, by inode.
    entries: Vec<(u32, Vec<Entry<'t>>)>,
    /// Entries whose inode comes later: position in `entries`, position in the directory, link group.
    deferred: Vec<(usize, usize, u32)>,
}

/// Collects the inodes of a tree, with the whiteout stubs of the root.
pub(super) fn collect<'t>(tree: &'t Tree, cancel: &dyn Cancel) -> Result<Inodes<'t>, WriteError> {
    let mut ticker = Ticker::new(cancel);
    let links = find_links(tree, &mut ticker)?;
    let mut collector = Collector {
        out: Inodes::default(),
        links,
        queue: VecDeque::new(),
        entries: Vec::new(),
        deferred: Vec::new(),
    };
    let root = collector.push_node(tree.root(), 1)?;
    collector.queue.push_back((tree.root(), root, root));
    while let Some((node, me, parent)) = collector.queue.pop_front() {
        collector.directory(node, me, parent, &mut ticker)?;
    }
    let mut out = collector.finish();
    if let Some(xattrs) = out.xattrs.first_mut() {
        // Without it overlayfs would merge the object directory into the root.
        xattrs.set(names::OPAQUE, &b"y"[..]);
    }
    Ok(out)
}

/// Depth first, in the order of a composefs dump file: there the first name of an inode is the file, all others
/// are links to it, and C mkcomposefs numbers inodes by the files.
fn find_links(tree: &Tree, ticker: &mut Ticker<'_>) -> Result<HashMap<u32, Link>, WriteError> {
    let mut links: HashMap<u32, Link> = HashMap::new();
    let mut stack = vec![tree.root().children()];
    while let Some(children) = stack.last_mut() {
        ticker.tick()?;
        let Some(node) = children.next() else {
            stack.pop();
            continue;
        };
        if node.is_dir() {
            stack.push(node.children());
        } else if let Some(group) = node.link_group() {
            let first = || Link { names: 0, home: node.parent().id(), inode: None };
            let link = links.entry(group).or_insert_with(first);
            link.names = link.names.saturating_add(1);
        }
    }
    Ok(links)
}

impl<'t> Collector<'t> {
    fn directory(
        &mut self,
        dir: Node<'t>,
        me: u32,
        parent: u32,
        ticker: &mut Ticker<'_>,
    ) -> Result<(), WriteError> {
        let mut entries = vec![
            Entry { name: b".", inode: me, file_type: dirent::TYPE_DIRECTORY },
            Entry { name: b"..", inode: parent, file_type: dirent::TYPE_DIRECTORY },
        ];
        let mut children = dir.children().peekable();
        let mut stubs = STUB_NAMES.iter().filter(|_| dir.id() == NodeId::ROOT).peekable();
        let mut hides_something = false;
        loop {
            ticker.tick()?;
            let name = children.peek().map(Node::name);
            let entry = match stubs.peek() {
                // A child of the same name takes the stub's place.
                Some(stub) if name == Some(&stub[..]) => {
                    stubs.next();
                    continue;
                }
                Some(stub) if name.is_none_or(|name| name > &stub[..]) => {
                    let name = &stub[..];
                    stubs.next();
                    self.stub(dir, name)?
                }
                _ => {
                    let Some(child) = children.next() else { break };
                    hides_something |= is_whiteout(child.stat());
                    self.child(child, me, entries.len())?
                }
            };
            entries.push(entry);
        }
        if hides_something && let Some(xattrs) = self.out.xattrs.get_mut(me as usize) {
            xattrs.set(names::ESCAPED_WHITEOUTS, &b""[..]);
            xattrs.set(names::USER_WHITEOUTS, &b""[..]);
            xattrs.set(names::ESCAPED_OPAQUE, &b"x"[..]);
            xattrs.set(names::USER_OPAQUE, &b"x"[..]);
        }
        self.entries.push((me, entries));
        Ok(())
    }

    fn child(&mut self, node: Node<'t>, parent: u32, position: usize) -> Result<Entry<'t>, WriteError> {
        let name = node.name();
        if node.is_dir() {
            let inode = self.push_node(node, 1)?;
            self.queue.push_back((node, inode, parent));
            return Ok(Entry { name, inode, file_type: dirent::TYPE_DIRECTORY });
        }
        let file_type =
            if is_whiteout(node.stat()) { dirent::TYPE_REGULAR } else { dirent_type(node.file_type()) };
        let inode = match node.link_group() {
            None => self.push_node(node, 1)?,
            Some(group) => self.linked(node, group, position)?,
        };
        Ok(Entry { name, inode, file_type })
    }

    /// The inode of a file with several names; 0 for the time being where its own place comes later.
    fn linked(&mut self, node: Node<'t>, group: u32, position: usize) -> Result<u32, WriteError> {
        let (names, home, known) = self
            .links
            .get(&group)
            .map_or((1, node.parent().id(), None), |link| (link.names, link.home, link.inode));
        if let Some(inode) = known {
            return Ok(inode);
        }
        if home != node.parent().id() {
            self.deferred.push((self.entries.len(), position, group));
            return Ok(0);
        }
        let inode = self.push_node(node, names)?;
        if let Some(link) = self.links.get_mut(&group) {
            link.inode = Some(inode);
        }
        Ok(inode)
    }

    fn stub(&mut self, root: Node<'t>, name: &'static [u8]) -> Result<Entry<'t>, WriteError> {
        let mut xattrs = InodeXattrs::default();
        if let Some(label) = root.xattr(b"security.selinux") {
            xattrs.set(&b"security.selinux"[..], label);
        }
        let stat = root.stat();
        let inode = Inode {
            mode: S_IFCHR | 0o644,
            uid: stat.uid,
            gid: stat.gid,
            mtime: stat.mtime,
            nlink: 1,
            body: Body::Special(0),
        };
        Ok(Entry { name, inode: self.push(inode, xattrs)?, file_type: dirent::TYPE_CHAR_DEVICE })
    }

    fn push_node(&mut self, node: Node<'t>, nlink: u32) -> Result<u32, WriteError> {
        let stat = node.stat();
        let mut xattrs = InodeXattrs::default();
        if let Content::Object(digest) = node.content() {
            xattrs.set(names::METACOPY, metacopy(digest));
            xattrs.set(names::REDIRECT, redirect(digest));
        }
        for xattr in node.xattrs() {
            let escaped = xattr.name.strip_prefix(names::OVERLAY_PREFIX);
            let name = escaped.map_or(Cow::Borrowed(xattr.name), |rest| {
                [names::OVERLAY_ESCAPED_PREFIX, rest].concat().into()
            });
            xattrs.set(name, xattr.value);
        }
        let mut mode = stat.mode;
        if is_whiteout(stat) {
            // As it is, overlayfs would act on it. Escaped, the mount shows a file with overlayfs's mark of a
            // whiteout, on which an overlay that is mounted over this one acts.
            mode = S_IFREG | mode & PERMISSIONS;
            xattrs.set(names::ESCAPED_WHITEOUT, &b""[..]);
            xattrs.set(names::USER_WHITEOUT, &b""[..]);
        }
        check_xattrs(node, &xattrs)?;
        let body = body_of(node)?;
        let inode = Inode { mode, uid: stat.uid, gid: stat.gid, mtime: stat.mtime, nlink, body };
        self.push(inode, xattrs)
    }

    fn push(&mut self, inode: Inode<'t>, xattrs: InodeXattrs<'t>) -> Result<u32, WriteError> {
        let index = u32::try_from(self.out.inodes.len()).map_err(|_| WriteError::TooLarge)?;
        self.out.inodes.push(inode);
        self.out.xattrs.push(xattrs);
        Ok(index)
    }

    /// Fills in the inodes of the entries that came before them, and cuts the directories into blocks.
    fn finish(mut self) -> Inodes<'t> {
        for (directory, position, group) in &self.deferred {
            let inode = self.links.get(group).and_then(|link| link.inode);
            let entry = self.entries.get_mut(*directory).and_then(|(_, entries)| entries.get_mut(*position));
            if let (Some(inode), Some(entry)) = (inode, entry) {
                entry.inode = inode;
            }
        }
        for (index, entries) in self.entries {
            if let Some(inode) = self.out.inodes.get_mut(index as usize) {
                let blocks = DirBlocks::new(entries);
                inode.nlink = u32::try_from(blocks.link_count()).unwrap_or(u32::MAX);
                inode.body = Body::Directory(blocks);
            }
        }
        self.out
    }
}

/// Whether overlayfs would take this for a whiteout.
fn is_whiteout(stat: &Stat) -> bool {
    stat.file_type() == FileType::CharDevice && stat.rdev == 0
}

fn dirent_type(file_type: FileType) -> u8 {
    match file_type {
        FileType::Regular => dirent::TYPE_REGULAR,
        FileType::Directory => dirent::TYPE_DIRECTORY,
        FileType::CharDevice => dirent::TYPE_CHAR_DEVICE,
        FileType::BlockDevice => dirent::TYPE_BLOCK_DEVICE,
        FileType::Fifo => dirent::TYPE_FIFO,
        FileType::Socket => dirent::TYPE_SOCKET,
        FileType::Symlink => dirent::TYPE_SYMLINK,
    }
}

fn body_of(node: Node<'_>) -> Result<Body<'_>, WriteError> {
    let stat = node.stat();
    match (stat.file_type(), node.content()) {
        (FileType::Directory, _) => Ok(Body::Directory(DirBlocks::default())),
        (FileType::Regular, Content::Inline(data)) => Ok(Body::Inline(data)),
        (FileType::Regular, Content::Object(_)) => Ok(Body::Object(stat.size_bytes)),
        (FileType::Regular, Content::OnDisk) => Err(WriteError::NotIngested { path: path_of(node) }),
        (FileType::Symlink, Content::Target(target)) => {
            let len = target.len() as u64;
            if len > MAX_SYMLINK_BYTES {
                let (what, limit) = ("symlink target", MAX_SYMLINK_BYTES);
                return Err(WriteError::TooLong { what, path: path_of(node), len, limit });
            }
            Ok(Body::Target(target))
        }
        (FileType::CharDevice | FileType::BlockDevice, Content::None) => u32::try_from(stat.rdev)
            .map(Body::Special)
            .map_err(|_| WriteError::Device { path: path_of(node), rdev: stat.rdev }),
        (FileType::Fifo | FileType::Socket, Content::None) => Ok(Body::Special(0)),
        _ => Err(WriteError::Content { path: path_of(node) }),
    }
}

/// The limits of `struct erofs_xattr_entry` (a byte, 16 bits) and of `i_xattr_icount` (16 bits, words of 4 bytes).
fn check_xattrs(node: Node<'_>, xattrs: &InodeXattrs<'_>) -> Result<(), WriteError> {
    const MAX_NAME: usize = u8::MAX as usize;
    const MAX_VALUE: usize = u16::MAX as usize;
    // What escaping a whiteout adds to its directory still has to fit.
    const MAX_TOTAL: usize = (u16::MAX as usize) * XATTR_WORD - 512;
    let too_long = |what, len: usize, limit: usize| {
        Err(WriteError::TooLong { what, path: path_of(node), len: len as u64, limit: limit as u64 })
    };
    for xattr in &xattrs.local {
        if xattr.suffix.len() > MAX_NAME {
            return too_long("extended attribute name", xattr.suffix.len(), MAX_NAME);
        }
        if xattr.value.len() > MAX_VALUE {
            return too_long("extended attribute value", xattr.value.len(), MAX_VALUE);
        }
    }
    match xattrs.size_bytes() {
        len if len > MAX_TOTAL => too_long("all extended attributes", len, MAX_TOTAL),
        _ => Ok(()),
    }
}

fn path_of(node: Node<'_>) -> String {
    String::from_utf8_lossy(&node.path()).into_owned()
}

/// `struct ovl_metacopy` (`fs/overlayfs/overlayfs.h`): version, length, flags, algorithm, digest.
fn metacopy(digest: &Digest) -> Vec<u8> {
    let len = u8::try_from(4 + digest.as_bytes().len()).unwrap_or(u8::MAX);
    let mut value = vec![0, len, 0, digest.algorithm().kernel_id()];
    value.extend_from_slice(digest.as_bytes());
    value
}

/// Path of the object below the data-only layer: `/12/34…`.
fn redirect(digest: &Digest) -> Vec<u8> {
    let hex = digest.to_string();
    let (directory, rest) = hex.split_at_checked(2).unwrap_or_default();
    format!("/{directory}/{rest}").into_bytes()
}
