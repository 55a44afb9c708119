//! Owner, mode and extended attributes: compared, and merged each on its own.

use std::borrow::Cow;

use super::acl::{self, Classes};
use super::attributes::PERMISSIONS;
use crate::tree::{FileType, Node};

/// Extended attributes with their values; a value is made anew only where an ACL has to follow a mode.
pub(super) type Xattrs<'t> = Vec<(&'t [u8], Cow<'t, [u8]>)>;

/// The security label: relabelling alone is no edit, but an admin's relabel stays.
const LABEL: &[u8] = b"security.selinux";

/// Attributes that never make two things differ (spec etc-merge.md): labels, the overlay's own, and what is computed
/// from content, IMA's measurement and EVM's seal.
///
/// R has those of the side whose content it has, but the label ([`Blend::label_kept`]); `security.evm` is never
/// written, since it seals one inode of one file system.
pub(super) fn is_ignored(name: &[u8]) -> bool {
    matches!(name, LABEL | b"security.evm" | b"security.ima") || name.starts_with(b"trusted.overlay.")
}

/// The label of C, where the admin gave it: P has another one, and N has not come to the same.
pub(super) fn kept_label<'t>(p: Option<Node<'_>>, c: Node<'t>, n: Node<'_>) -> Option<&'t [u8]> {
    let current = c.xattr(LABEL)?;
    let old = p?.xattr(LABEL)?;
    (current != old && n.xattr(LABEL) != Some(current)).then_some(current)
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
    /// Both changed something, each otherwise, and R has N's.
    pub(super) is_overruled: bool,
    /// All attributes, the label too, are C's.
    pub(super) is_current: bool,
    /// The label is the admin's, and neither P's nor N's.
    pub(super) is_label_kept: bool,
}

impl<'t> Blend<'t> {
    /// Merges one by one: where C is as P, N's; else C's. Without a P, every difference is C's.
    ///
    /// `content`: whose content R gets, and so what is computed from content. `is_new_preferred`: what both changed,
    /// each otherwise, is N's.
    pub(super) fn of(
        p: Option<Node<'t>>,
        c: Node<'t>,
        n: Node<'t>,
        content: Node<'t>,
        is_new_preferred: bool,
    ) -> Self {
        let mut picker = Picker { is_new_preferred, ..Picker::default() };
        let owner = |node: Node<'_>| (node.stat().uid, node.stat().gid);
        let uid = picker.pick("owner", p.map(|p| owner(p).0), owner(c).0, owner(n).0);
        let gid = picker.pick("group", p.map(|p| owner(p).1), owner(c).1, owner(n).1);
        let (mode, mut xattrs) = picker.mode_and_xattrs(p, c, n, gid);
        let kept_label = kept_label(p, c, n);
        let label = kept_label.or(n.xattr(LABEL));
        let is_current = mode == permissions(c)
            && (uid, gid) == owner(c)
            && label == c.xattr(LABEL)
            && xattrs.iter().map(|(name, value)| (*name, value.as_ref())).eq(counting(c));
        let computed = content.xattrs().filter(|xattr| is_ignored(xattr.name) && xattr.name != LABEL);
        xattrs.extend(computed.map(|xattr| (xattr.name, Cow::Borrowed(xattr.value))));
        xattrs.extend(label.map(|label| (LABEL, Cow::Borrowed(label))));
        let Picker { kept, ignored, is_overruled, .. } = picker;
        let is_label_kept = kept_label.is_some();
        Self { permissions: mode, uid, gid, xattrs, kept, ignored, is_overruled, is_current, is_label_kept }
    }
}

#[derive(Debug, Default)]
struct Picker {
    kept: Vec<&'static str>,
    ignored: Vec<&'static str>,
    is_new_preferred: bool,
    is_overruled: bool,
}

impl Picker {
    /// `p` is `None` where there is no P to compare with.
    fn pick<T: PartialEq + Copy>(&mut self, what: &'static str, p: Option<T>, c: T, n: T) -> T {
        if c == n || p == Some(c) {
            return n;
        }
        if self.is_new_preferred && p != Some(n) {
            self.is_overruled = true;
            return n;
        }
        if !self.kept.contains(&what) {
            self.kept.push(what);
        }
        if p != Some(n) && !self.ignored.contains(&what) {
            self.ignored.push(what);
        }
        c
    }

    /// Permission bits, and the extended attributes that count, of an inode whose owning group is `gid`.
    fn mode_and_xattrs<'t>(
        &mut self,
        p: Option<Node<'t>>,
        c: Node<'t>,
        n: Node<'t>,
        gid: u32,
    ) -> (u32, Xattrs<'t>) {
        let classes =
            |node: Node<'_>| Classes::of(permissions(node), node.stat().gid, node.xattr(acl::ACCESS));
        let in_p = p.map(classes);
        let (Some(in_c), Some(in_n), false) = (classes(c), classes(n), in_p == Some(None)) else {
            // No kernel takes such an ACL, so that it comes out of no other merge than this one: one attribute of many.
            let mode = self.pick("mode", p.map(permissions), permissions(c), permissions(n));
            return (mode, self.xattrs(p, c, n, &|_| true, gid));
        };
        let in_p = in_p.flatten();
        let merged = self.classes(["mode", "ACL"], in_p.as_ref(), &in_c, &in_n, gid);
        let special = |node: Node<'_>| permissions(node) & 0o7000;
        let mode = self.pick("mode", p.map(special), special(c), special(n)) | merged.mode();
        let mut xattrs = self.xattrs(p, c, n, &|name| name != acl::ACCESS, gid);
        let value = |node: Node<'t>| node.xattr(acl::ACCESS);
        let mut sides = vec![(&in_n, value(n)), (&in_c, value(c))];
        sides.extend(in_p.as_ref().zip(p).map(|(classes, p)| (classes, value(p))));
        if let Some(value) = acl::spell(&merged, &sides) {
            let at = xattrs.partition_point(|(name, _)| *name < acl::ACCESS);
            xattrs.insert(at, (acl::ACCESS, value));
        }
        (mode, xattrs)
    }

    /// Class by class; `names`: what those are called that a mode has as well, and the others.
    fn classes(
        &mut self,
        [mode, acl]: [&'static str; 2],
        p: Option<&Classes>,
        c: &Classes,
        n: &Classes,
        gid: u32,
    ) -> Classes {
        let sides: Vec<&Classes> = p.into_iter().chain([c, n]).collect();
        let mut merged = Classes::of_mode(0, gid);
        merged.owner = self.pick(mode, p.map(|p| p.owner), c.owner, n.owner);
        merged.group = self.pick(mode, p.map(|p| p.group), c.group, n.group);
        merged.other = self.pick(mode, p.map(|p| p.other), c.other, n.other);
        merged.mask = self.pick(acl, p.map(|p| p.mask), c.mask, n.mask);
        for who in sides.iter().flat_map(|side| side.named.keys()) {
            let of = |side: &Classes| side.named.get(who).copied();
            if let Some(bits) = self.pick(acl, p.map(of), of(c), of(n)) {
                merged.named.insert(*who, bits);
            }
        }
        if merged.limit(&sides) && !self.ignored.contains(&mode) {
            self.ignored.push(mode);
        }
        merged
    }

    /// A default ACL that both changed is merged class by class, too; what is made in the directory has that access.
    fn default_acl<'t>(
        &mut self,
        p: Option<Node<'t>>,
        c: Node<'t>,
        n: Node<'t>,
        gid: u32,
    ) -> Option<Cow<'t, [u8]>> {
        let value = |node: Node<'t>| node.xattr(acl::DEFAULT);
        let classes = |node: Node<'t>| value(node).and_then(|acl| Classes::of(0, gid, Some(acl)));
        let [in_p, in_c, in_n] = [p.map(value), Some(value(c)), Some(value(n))];
        if in_c != in_n
            && in_p != in_c
            && in_p != in_n
            && let (Some(in_c), Some(in_n)) = (classes(c), classes(n))
        {
            let merged = self.classes(["xattr"; 2], p.and_then(classes).as_ref(), &in_c, &in_n, gid);
            return Some(Cow::Owned(merged.to_default_acl()));
        }
        self.pick("xattr", in_p, value(c), value(n)).map(Cow::Borrowed)
    }

    fn xattrs<'t>(
        &mut self,
        p: Option<Node<'t>>,
        c: Node<'t>,
        n: Node<'t>,
        is_wanted: &dyn Fn(&[u8]) -> bool,
        gid: u32,
    ) -> Xattrs<'t> {
        let mut names: Vec<&[u8]> = counting(c).chain(counting(n)).map(|(name, _)| name).collect();
        names.retain(|name| is_wanted(name));
        names.sort_unstable();
        names.dedup();
        let mut merged = Vec::with_capacity(names.len());
        for name in names {
            let value = if name == acl::DEFAULT {
                self.default_acl(p, c, n, gid)
            } else {
                let value = self.pick("xattr", p.map(|p| p.xattr(name)), c.xattr(name), n.xattr(name));
                value.map(Cow::Borrowed)
            };
            merged.extend(value.map(|value| (name, value)));
        }
        merged
    }
}
