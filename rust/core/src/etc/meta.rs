//! Owner, mode and extended attributes: compared, and merged each on its own.

use std::borrow::Cow;

use super::acl;
use super::attributes::PERMISSIONS;
use crate::tree::{FileType, Node};

/// Extended attributes with their values; a value is made anew only where an ACL has to follow a mode.
pub(super) type Xattrs<'t> = Vec<(&'t [u8], Cow<'t, [u8]>)>;

/// Attributes that never make two things differ (spec etc-merge.md): labels, the overlay's own, EVM's seal.
///
/// R has those of the side whose content it has, and N's where that is a matter of choice; `security.evm` is
/// never written, since it seals one inode of one file system.
pub(super) fn is_ignored(name: &[u8]) -> bool {
    name == b"security.selinux" || name == b"security.evm" || name.starts_with(b"trusted.overlay.")
}

/// Permission bits as they count: a symlink has none.
fn permissions(node: Node<'_>) -> u32 {
    if node.file_type() == FileType::Symlink { 0o777 } else { node.stat().mode & PERMISSIONS }
}

/// Whether owner, mode and the extended attributes that count are the same.
pub(super) fn same_meta(first: Node<'_>, second: Node<'_>) -> bool {
    let (one, two) = (first.stat(), second.stat());
    (one.uid, one.gid) == (two.uid, two.gid)
        && permissions(first) == permissions(second)
        && counting(first).eq(counting(second))
}

fn counting(node: Node<'_>) -> impl Iterator<Item = (&[u8], &[u8])> {
    node.xattrs().filter(|xattr| !is_ignored(xattr.name)).map(|xattr| (xattr.name, xattr.value))
}

/// Merged attributes of one node of R.
#[derive(Debug)]
pub(super) struct Blend<'t> {
    /// Permission bits only.
    pub(super) permissions: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) xattrs: Xattrs<'t>,
    /// Names of what C changed and R has, where N has it otherwise.
    pub(super) kept: Vec<&'static str>,
    /// Names of what both changed, each otherwise.
    pub(super) ignored: Vec<&'static str>,
    /// All attributes that count are C's.
    pub(super) is_current: bool,
}

impl<'t> Blend<'t> {
    /// Merges one by one: where C is as P, N's; else C's. Without a P, every difference is C's.
    ///
    /// `labels`: whose ignored attributes R gets.
    pub(super) fn of(p: Option<Node<'t>>, c: Node<'t>, n: Node<'t>, labels: Node<'t>) -> Self {
        let mut picker = Picker::default();
        let owner = |node: Node<'_>| (node.stat().uid, node.stat().gid);
        let uid = picker.pick("owner", p.map(|p| owner(p).0), owner(c).0, owner(n).0);
        let gid = picker.pick("group", p.map(|p| owner(p).1), owner(c).1, owner(n).1);
        let mode_kept = picker.kept.len();
        let mode = picker.pick("mode", p.map(permissions), permissions(c), permissions(n));
        let is_mode_kept = picker.kept.len() > mode_kept;
        let mut xattrs = picker.xattrs(p, c, n);
        let mode = acl::reconcile(mode, is_mode_kept, &mut xattrs);
        let is_current = mode == permissions(c)
            && (uid, gid) == owner(c)
            && xattrs.iter().map(|(name, value)| (*name, value.as_ref())).eq(counting(c));
        let ignored = labels.xattrs().filter(|xattr| is_ignored(xattr.name));
        xattrs.extend(ignored.map(|xattr| (xattr.name, Cow::Borrowed(xattr.value))));
        Self { permissions: mode, uid, gid, xattrs, kept: picker.kept, ignored: picker.ignored, is_current }
    }
}

#[derive(Debug, Default)]
struct Picker {
    kept: Vec<&'static str>,
    ignored: Vec<&'static str>,
}

impl Picker {
    /// `p` is `None` where there is no P to compare with.
    fn pick<T: PartialEq + Copy>(&mut self, what: &'static str, p: Option<T>, c: T, n: T) -> T {
        if c == n || p == Some(c) {
            return n;
        }
        if self.kept.last() != Some(&what) {
            self.kept.push(what);
        }
        if p != Some(n) && self.ignored.last() != Some(&what) {
            self.ignored.push(what);
        }
        c
    }

    fn xattrs<'t>(&mut self, p: Option<Node<'t>>, c: Node<'t>, n: Node<'t>) -> Xattrs<'t> {
        let mut names: Vec<&[u8]> = counting(c).chain(counting(n)).map(|(name, _)| name).collect();
        names.sort_unstable();
        names.dedup();
        let mut merged = Vec::with_capacity(names.len());
        for name in names {
            let value = self.pick("xattr", p.map(|p| p.xattr(name)), c.xattr(name), n.xattr(name));
            merged.extend(value.map(|value| (name, Cow::Borrowed(value))));
        }
        merged
    }
}
