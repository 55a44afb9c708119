//! Extended attributes of one inode, and the table of those that several inodes share.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashMap;

use xxhash_rust::xxh32::xxh32;

use super::super::layout::xattr::{FILTER_SEED, INDEX_LUSTRE, PREFIXES};
use super::units::{XATTR_ENTRY, XATTR_HEADER, XATTR_WORD};

/// Name indices of access control lists, `system.posix_acl_access` and `…_default`.
const INDEX_ACL: std::ops::RangeInclusive<u8> = 2..=3;

/// `h_shared_count` is a byte; attributes beyond it stay with the inode.
const MAX_SHARED: usize = u8::MAX as usize;

/// One attribute: its name as an index into the table of prefixes, and the rest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Xattr<'t> {
    pub index: u8,
    pub suffix: Cow<'t, [u8]>,
    pub value: Cow<'t, [u8]>,
}

impl<'t> Xattr<'t> {
    fn new(name: Cow<'t, [u8]>, value: Cow<'t, [u8]>) -> Self {
        let (index, prefix) = prefix_of(&name);
        let suffix = match name {
            Cow::Borrowed(name) => Cow::Borrowed(name.strip_prefix(prefix).unwrap_or(name)),
            Cow::Owned(name) => Cow::Owned(name.strip_prefix(prefix).unwrap_or(&name).to_vec()),
        };
        Self { index, suffix, value }
    }

    fn prefix(&self) -> &'static [u8] {
        PREFIXES.get(usize::from(self.index)).copied().unwrap_or_default()
    }

    /// The order that C mkcomposefs sorts by: the whole name as bytes, then the shorter value, then its bytes.
    fn cmp(&self, other: &Self) -> Ordering {
        let key = self.prefix().iter().chain(self.suffix.iter());
        let other_key = other.prefix().iter().chain(other.suffix.iter());
        key.cmp(other_key)
            .then_with(|| self.value.len().cmp(&other.value.len()))
            .then_with(|| self.value.cmp(&other.value))
    }

    /// Bytes on disk, padded.
    pub(super) fn size_bytes(&self) -> usize {
        (XATTR_ENTRY + self.suffix.len() + self.value.len()).next_multiple_of(XATTR_WORD)
    }
}

/// The prefix of the table that fits.
///
/// `lustre.` is left out: C mkcomposefs does not know it and stores such names whole, under index 0.
fn prefix_of(name: &[u8]) -> (u8, &'static [u8]) {
    let known = PREFIXES.iter().zip(0u8..).skip(1);
    known
        .filter(|(prefix, index)| *index != INDEX_LUSTRE && name.starts_with(prefix))
        .map(|(prefix, index)| (index, *prefix))
        .last()
        .unwrap_or_default()
}

/// The attributes of one inode.
#[derive(Debug, Clone, Default)]
pub(super) struct InodeXattrs<'t> {
    /// Indices into the shared table.
    pub shared: Vec<u32>,
    /// Stored with the inode.
    pub local: Vec<Xattr<'t>>,
}

impl<'t> InodeXattrs<'t> {
    /// Sets an attribute; one of the same name is replaced, as by C mkcomposefs.
    pub(super) fn set(&mut self, name: impl Into<Cow<'t, [u8]>>, value: impl Into<Cow<'t, [u8]>>) {
        let xattr = Xattr::new(name.into(), value.into());
        let same = |other: &&mut Xattr<'t>| other.index == xattr.index && other.suffix == xattr.suffix;
        match self.local.iter_mut().find(same) {
            Some(old) => old.value = xattr.value,
            None => self.local.push(xattr),
        }
    }

    /// Whether an access control list is among them; only before [`share`].
    pub(super) fn has_acl(&self) -> bool {
        self.local.iter().any(|xattr| INDEX_ACL.contains(&xattr.index) && xattr.suffix.is_empty())
    }

    /// Bytes on disk, between the inode and its inline data; 0 without attributes.
    pub(super) fn size_bytes(&self) -> usize {
        if self.shared.is_empty() && self.local.is_empty() {
            return 0;
        }
        let local: usize = self.local.iter().map(Xattr::size_bytes).sum();
        XATTR_HEADER + self.shared.len() * XATTR_WORD + local
    }
}

/// The Bloom filter over names that lets the kernel skip a search: a clear bit means "may be here".
pub(super) fn name_filter<'x, 't: 'x>(xattrs: impl Iterator<Item = &'x Xattr<'t>>) -> u32 {
    let bit = |xattr: &Xattr<'_>| xxh32(&xattr.suffix, FILTER_SEED + u32::from(xattr.index)) % 32;
    !xattrs.fold(0, |bits, xattr| bits | 1 << bit(xattr))
}

/// Sorts every inode's attributes, and moves those that more than one inode has into a table.
///
/// The table is in descending order, as C mkcomposefs writes it.
pub(super) fn share<'t>(inodes: &mut [InodeXattrs<'t>]) -> Vec<Xattr<'t>> {
    let mut users: HashMap<&Xattr<'t>, u32> = HashMap::new();
    for inode in inodes.iter_mut() {
        inode.local.sort_by(Xattr::cmp);
    }
    for xattr in inodes.iter().flat_map(|inode| &inode.local) {
        let count = users.entry(xattr).or_default();
        *count = count.saturating_add(1);
    }
    let mut table: Vec<Xattr<'t>> =
        users.iter().filter(|(_, count)| **count > 1).map(|(xattr, _)| (*xattr).clone()).collect();
    table.sort_unstable_by(|left, right| right.cmp(left));
    let position: HashMap<&Xattr<'t>, u32> = table.iter().zip(0..).collect();
    for inode in inodes {
        let InodeXattrs { shared, local } = inode;
        local.retain(|xattr| match position.get(xattr) {
            Some(index) if shared.len() < MAX_SHARED => {
                shared.push(*index);
                false
            }
            _ => true,
        });
    }
    table
}
