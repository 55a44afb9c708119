//! Mode bits and POSIX access ACL: one thing to the kernel, merged class by class.
//!
//! The kernel keeps the nine mode bits equal to three of the ACL's entries, and the mask bounds all entries but the
//! owner's and the others'. Merged as two attributes, the mode of one side and the ACL of another would grant what
//! neither grants: so both are taken apart into classes (owner, owning group, mask, others, each named one), each
//! class is merged on its own, and what comes out is put together again.
//!
//! Whoever falls into one class on one side may fall into another in the result: one whose named entry went is one
//! of the others now, a member of the owning group that was changed too. [`Classes::limit`] therefore takes back
//! what no side grants to somebody.
//!
//! Source: the kernel's `fs/posix_acl.c` (`posix_acl_permission`, `posix_acl_equiv_mode`) and
//! `include/uapi/linux/posix_acl_xattr.h`: version 2 as u32, then entries of u16 tag, u16 permissions, u32 id.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// The extended attribute that holds an access ACL.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The one that holds what is made in a directory begins with.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const ENTRY_BYTES: usize = 8;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
const NO_ID: u32 = u32::MAX;
const ALL_BITS: u16 = 7;

/// A user (`USER`) or group (`GROUP`) that has an entry of its own; entries stand in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Named {
    tag: u16,
    id: u32,
}

/// Who may do what: three bits for each class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Classes {
    pub(super) owner: u16,
    pub(super) group: u16,
    pub(super) other: u16,
    /// Bounds the owning group and all that are named; `None` only where nobody is.
    pub(super) mask: Option<u16>,
    pub(super) named: BTreeMap<Named, u16>,
    /// The owning group.
    gid: u32,
}

impl Classes {
    /// Of an inode without an ACL.
    pub(super) fn of_mode(mode: u32, gid: u32) -> Self {
        let bits = |shift: u32| u16::try_from(mode >> shift & 7).unwrap_or(0);
        Self { owner: bits(6), group: bits(3), other: bits(0), mask: None, named: BTreeMap::new(), gid }
    }

    /// Of an inode with this mode, owning group and ACL; `None` where the kernel would not take the ACL.
    pub(super) fn of(mode: u32, gid: u32, acl: Option<&[u8]>) -> Option<Self> {
        let Some(acl) = acl else { return Some(Self::of_mode(mode, gid)) };
        let body = acl.strip_prefix(&VERSION.to_le_bytes())?;
        if body.len() % ENTRY_BYTES != 0 {
            return None;
        }
        let (mut owner, mut group, mut other, mut mask) = (None, None, None, None);
        let mut named = BTreeMap::new();
        for entry in body.chunks_exact(ENTRY_BYTES) {
            let [tag_low, tag_high, low, high, id @ ..] = entry else { return None };
            let (tag, bits) = (u16::from_le_bytes([*tag_low, *tag_high]), u16::from_le_bytes([*low, *high]));
            if bits > ALL_BITS {
                return None;
            }
            let id = u32::from_le_bytes(id.try_into().ok()?);
            let is_first = match tag {
                USER_OBJ => owner.replace(bits).is_none(),
                GROUP_OBJ => group.replace(bits).is_none(),
                OTHER => other.replace(bits).is_none(),
                MASK => mask.replace(bits).is_none(),
                USER | GROUP => named.insert(Named { tag, id }, bits).is_none(),
                _ => false,
            };
            if !is_first {
                return None;
            }
        }
        if mask.is_none() && !named.is_empty() {
            return None;
        }
        Some(Self { owner: owner?, group: group?, other: other?, mask, named, gid })
    }

    /// The nine mode bits: the group's are the mask's where there is one.
    pub(super) fn mode(&self) -> u32 {
        u32::from(self.owner) << 6 | u32::from(self.mask.unwrap_or(self.group)) << 3 | u32::from(self.other)
    }

    /// As the kernel keeps it; `None` where the mode says it all.
    pub(super) fn to_acl(&self) -> Option<Vec<u8>> {
        self.mask.map(|_| self.to_default_acl())
    }

    /// As the kernel keeps a default ACL, which no mode stands for.
    pub(super) fn to_default_acl(&self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        let mut push = |tag: u16, bits: u16, id: u32| {
            out.extend_from_slice(&tag.to_le_bytes());
            out.extend_from_slice(&bits.to_le_bytes());
            out.extend_from_slice(&id.to_le_bytes());
        };
        push(USER_OBJ, self.owner, NO_ID);
        for (who, bits) in self.named.iter().filter(|(who, _)| who.tag == USER) {
            push(USER, *bits, who.id);
        }
        push(GROUP_OBJ, self.group, NO_ID);
        for (who, bits) in self.named.iter().filter(|(who, _)| who.tag == GROUP) {
            push(GROUP, *bits, who.id);
        }
        if let Some(mask) = self.mask {
            push(MASK, mask, NO_ID);
        }
        push(OTHER, self.other, NO_ID);
        out
    }

    fn bound(&self) -> u16 {
        self.mask.unwrap_or(ALL_BITS)
    }

    /// What somebody who is not the owner may do.
    fn grants(&self, person: &Person<'_>) -> u16 {
        if let Some(bits) = person.user.and_then(|id| self.named.get(&Named { tag: USER, id })) {
            return bits & self.bound();
        }
        let named = person.groups.iter().filter_map(|id| self.named.get(&Named { tag: GROUP, id: *id }));
        let owning = person.groups.contains(&self.gid).then_some(&self.group);
        let matching = named.chain(owning).copied().reduce(|one, two| one | two);
        matching.map_or(self.other, |bits| bits & self.bound())
    }

    /// Takes bits from every entry that grants them to somebody who is not the owner.
    fn deny(&mut self, person: &Person<'_>, bits: u16) {
        if let Some(entry) = person.user.and_then(|id| self.named.get_mut(&Named { tag: USER, id })) {
            *entry &= !bits;
            return;
        }
        let mut is_member = person.groups.contains(&self.gid);
        if is_member {
            self.group &= !bits;
        }
        for id in person.groups {
            if let Some(entry) = self.named.get_mut(&Named { tag: GROUP, id: *id }) {
                *entry &= !bits;
                is_member = true;
            }
        }
        if !is_member {
            self.other &= !bits;
        }
    }

    /// Takes back what none of `sides` grants; true if that was anything.
    ///
    /// Also gives a mask where merging left somebody named without one. Cost: one step for each set of at most four
    /// of the groups that occur, times the users that are named; none where no ACL and no change of group is about.
    pub(super) fn limit(&mut self, sides: &[&Self]) -> bool {
        if sides.iter().all(|side| side.mask.is_none() && side.gid == self.gid) {
            return false;
        }
        self.take_back(sides)
    }

    /// Takes back what the other one does not grant; the owner's bits only where both have the same owner.
    pub(super) fn intersect(&mut self, other: &Self, is_owner_same: bool) {
        if is_owner_same {
            self.owner &= other.owner;
        }
        if self.mask.is_none() && other.mask.is_none() && self.gid == other.gid {
            self.group &= other.group;
            self.other &= other.other;
        } else {
            self.take_back(&[other]);
        }
    }

    fn take_back(&mut self, sides: &[&Self]) -> bool {
        if self.mask.is_none() && !self.named.is_empty() {
            self.mask = sides.iter().rev().find_map(|side| side.mask);
        }
        let before = self.clone();
        self.keep_restraints(sides);
        let everybody = || sides.iter().flat_map(|side| side.named.keys());
        let users: BTreeSet<u32> = everybody().filter(|who| who.tag == USER).map(|who| who.id).collect();
        let mut groups: BTreeSet<u32> =
            everybody().filter(|who| who.tag == GROUP).map(|who| who.id).collect();
        groups.extend(sides.iter().map(|side| side.gid));
        let groups: Vec<u32> = groups.into_iter().collect();
        for_each_set(&groups, &mut |groups| {
            for user in users.iter().copied().map(Some).chain([None]) {
                let person = Person { user, groups };
                let excess = self.grants(&person) & !most(sides, &person);
                if excess != 0 {
                    self.deny(&person, excess);
                }
            }
        });
        *self != before
    }

    /// Whoever has an entry on some side and would get more without it than all sides together grant keeps one.
    fn keep_restraints(&mut self, sides: &[&Self]) {
        for who in sides.iter().flat_map(|side| side.named.keys().copied()) {
            if self.named.contains_key(&who) {
                continue;
            }
            let ids = [self.gid, who.id];
            let persons = match who.tag {
                USER => [&[][..], &ids[..1]].map(|groups| Person { user: Some(who.id), groups }),
                _ => [&ids[1..], &ids[..]].map(|groups| Person { user: None, groups }),
            };
            if persons.iter().any(|person| self.grants(person) & !most(sides, person) != 0) {
                let least = persons.iter().fold(ALL_BITS, |bits, person| bits & most(sides, person));
                let bits = persons.iter().fold(0, |bits, person| bits | self.grants(person)) & least;
                self.mask.get_or_insert(self.group | bits);
                self.named.insert(who, bits);
            }
        }
    }
}

/// Somebody who is not the owner: a user that entries may name, a member of these groups.
struct Person<'a> {
    user: Option<u32>,
    groups: &'a [u32],
}

/// What the sides together grant.
fn most(sides: &[&Classes], person: &Person<'_>) -> u16 {
    sides.iter().fold(0, |bits, side| bits | side.grants(person))
}

/// More groups than the owning ones and a few named ones are judged in pairs only.
const MAX_GROUPS: usize = 12;

/// Calls for the sets that can matter: one group through which the result grants something, and on each of three
/// sides one whose entry denies it there.
fn for_each_set(groups: &[u32], visit: &mut dyn FnMut(&[u32])) {
    let largest = if groups.len() > MAX_GROUPS { 2 } else { 4 };
    let mut pending: Vec<(Vec<u32>, usize)> = vec![(Vec::new(), 0)];
    while let Some((set, from)) = pending.pop() {
        visit(&set);
        if set.len() < largest {
            pending.extend(groups.iter().enumerate().skip(from).map(|(at, group)| {
                let mut larger = set.clone();
                larger.push(*group);
                (larger, at.saturating_add(1))
            }));
        }
    }
}

/// The ACL as one of the sides has it, byte for byte, where it says the same.
pub(super) fn spell<'t>(merged: &Classes, sides: &[(&Classes, Option<&'t [u8]>)]) -> Option<Cow<'t, [u8]>> {
    let same = |side: &Classes| {
        (side.owner, side.group, side.other, side.mask, &side.named)
            == (merged.owner, merged.group, merged.other, merged.mask, &merged.named)
    };
    match sides.iter().find(|(side, _)| same(side)) {
        Some((_, value)) => value.map(Cow::Borrowed),
        None => merged.to_acl().map(Cow::Owned),
    }
}

#[cfg(test)]
#[path = "acl_tests.rs"]
mod tests;
