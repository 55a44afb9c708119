//! POSIX ACLs and modes: the kernel keeps nine mode bits equal to three of the ACL's entries.
//!
//! Merged on their own, the mode can come from one side and the ACL from the other; writing either would then change
//! the other, and R would not be what a second run finds. So the one that the admin changed rules: a kept mode is
//! put into the ACL as `chmod` does, else the ACL gives the mode.
//!
//! Source: the kernel's `fs/posix_acl.c` (`posix_acl_equiv_mode`, `__posix_acl_chmod_masq`) and
//! `include/uapi/linux/posix_acl_xattr.h`: version 2 as u32, then entries of u16 tag, u16 permissions, u32 id.

use std::borrow::Cow;

use super::meta::Xattrs;

const NAME: &[u8] = b"system.posix_acl_access";
const HEADER_BYTES: usize = 4;
const ENTRY_BYTES: usize = 8;
const USER_OBJ: u16 = 0x01;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Makes the access ACL among `xattrs`, if there is one, and the mode agree; returns the mode.
pub(super) fn reconcile(mode: u32, is_mode_kept: bool, xattrs: &mut Xattrs<'_>) -> u32 {
    let Some((_, value)) = xattrs.iter_mut().find(|(name, _)| *name == NAME) else { return mode };
    let Some(implied) = mode_of(value) else { return mode };
    if implied == mode & 0o777 {
        return mode;
    }
    if is_mode_kept {
        *value = Cow::Owned(with_mode(value, mode));
        return mode;
    }
    mode & !0o777 | implied
}

fn entries(value: &[u8]) -> impl Iterator<Item = (u16, u16)> {
    value.get(HEADER_BYTES..).unwrap_or_default().chunks_exact(ENTRY_BYTES).filter_map(|entry| match entry {
        [tag_low, tag_high, low, high, ..] => {
            Some((u16::from_le_bytes([*tag_low, *tag_high]), u16::from_le_bytes([*low, *high])))
        }
        _ => None,
    })
}

/// The tag whose permissions are the mode's group bits: the mask where there is one.
fn group_tag(value: &[u8]) -> u16 {
    if entries(value).any(|(tag, _)| tag == MASK) { MASK } else { GROUP_OBJ }
}

/// `None` where it is no ACL that the kernel would take.
fn mode_of(value: &[u8]) -> Option<u32> {
    let bits =
        |wanted: u16| entries(value).find(|(tag, _)| *tag == wanted).map(|(_, bits)| u32::from(bits & 7));
    Some(bits(USER_OBJ)? << 6 | bits(group_tag(value))? << 3 | bits(OTHER)?)
}

fn with_mode(value: &[u8], mode: u32) -> Vec<u8> {
    let group = group_tag(value);
    let (header, body) = value.split_at(HEADER_BYTES.min(value.len()));
    let mut out = header.to_vec();
    for entry in body.chunks(ENTRY_BYTES) {
        let tag = entry.first_chunk::<2>().map_or(0, |tag| u16::from_le_bytes(*tag));
        let shift = match tag {
            USER_OBJ => 6,
            OTHER => 0,
            tag if tag == group => 3,
            _ => {
                out.extend_from_slice(entry);
                continue;
            }
        };
        let bits = u16::try_from(mode >> shift & 7).unwrap_or(0);
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&bits.to_le_bytes());
        out.extend_from_slice(entry.get(4..).unwrap_or_default());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16)]) -> Vec<u8> {
        let mut out = 2u32.to_le_bytes().to_vec();
        for (tag, bits) in entries {
            out.extend_from_slice(&tag.to_le_bytes());
            out.extend_from_slice(&bits.to_le_bytes());
            out.extend_from_slice(&u32::MAX.to_le_bytes());
        }
        out
    }

    #[test]
    fn a_kept_mode_is_put_into_the_acl() {
        let before = acl(&[(USER_OBJ, 6), (0x02, 4), (GROUP_OBJ, 4), (MASK, 4), (OTHER, 4)]);
        let after = acl(&[(USER_OBJ, 6), (0x02, 4), (GROUP_OBJ, 4), (MASK, 0), (OTHER, 0)]);
        let mut xattrs: Xattrs<'_> = vec![(NAME, Cow::Borrowed(before.as_slice()))];
        assert_eq!(reconcile(0o4600, true, &mut xattrs), 0o4600);
        assert_eq!(xattrs, [(NAME, Cow::Owned::<[u8]>(after))]);
    }

    #[test]
    fn an_acl_gives_the_mode_where_the_mode_is_the_images() {
        let value = acl(&[(USER_OBJ, 7), (GROUP_OBJ, 5), (OTHER, 1)]);
        let mut xattrs: Xattrs<'_> = vec![(NAME, Cow::Borrowed(value.as_slice()))];
        assert_eq!(reconcile(0o2600, false, &mut xattrs), 0o2751);
    }

    #[test]
    fn what_is_no_acl_changes_no_mode() {
        for value in [&b""[..], b"\x02\0\0\0", b"\x02\0\0\0\x01\0"] {
            let mut xattrs: Xattrs<'_> = vec![(NAME, Cow::Borrowed(value))];
            assert_eq!(reconcile(0o600, false, &mut xattrs), 0o600);
        }
    }
}
