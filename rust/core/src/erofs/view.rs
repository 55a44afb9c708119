//! What the kernel shows of an inode: a composefs image through its overlay, any other image as it is.
//!
//! Source: the kernel's `fs/overlayfs/{xattrs,namei,util,readdir}.c`; spec `host.md`, "EROFS image and objects".

use std::borrow::Cow;

use super::dir::lossy;
use super::error::ErofsError;
use super::image::Image;
use super::inode::Inode;
use super::layout::{composefs, metacopy};
use super::xattr::XattrRef as Stored;
use crate::limits::{MAX_INODE_XATTR_BYTES, MAX_SYMLINK_BYTES};
use crate::tree::FileType;
use crate::verity::{Algorithm, Digest};

/// Where a file's content is.
#[derive(Debug, Clone)]
pub enum ViewContent<'i> {
    /// No content: directories, devices, FIFOs, sockets.
    None,
    /// A symlink's target.
    Target(Cow<'i, [u8]>),
    /// In the repository.
    Object(Digest),
    /// In the image: [`Image::data`], [`Image::extent_at`].
    InImage,
}

/// An attribute with its whole name.
pub type ViewXattr<'i> = (Vec<u8>, &'i [u8]);

/// What the kernel shows of an inode.
#[derive(Debug, Clone)]
pub struct View<'i> {
    /// By name, each once.
    pub xattrs: Vec<ViewXattr<'i>>,
    /// Where the content is.
    pub content: ViewContent<'i>,
}

impl Image {
    /// Whether the overlay hides this inode: a whiteout, such as composefs's 256 stubs in the root.
    #[must_use]
    pub fn is_hidden(&self, inode: &Inode) -> bool {
        self.superblock().composefs.is_some()
            && inode.file_type() == FileType::CharDevice
            && inode.stat.rdev == 0
    }

    /// The inode at a path, as the kernel shows it: hidden ones are not there.
    ///
    /// # Errors
    /// As [`Image::lookup`].
    pub fn find(&self, path: &[u8]) -> Result<Inode, ErofsError> {
        let (inode, _) = self.lookup(path)?;
        if self.is_hidden(&inode) {
            return Err(ErofsError::NotFound { path: path.to_vec() });
        }
        Ok(inode)
    }

    /// Attributes and content of an inode, as the kernel shows them; `path` is for messages.
    ///
    /// # Errors
    /// [`ErofsError`]: what is corrupt; [`ErofsError::BadObject`] where the overlay attributes name no object.
    pub fn view<'i>(&'i self, inode: &Inode, path: &[u8]) -> Result<View<'i>, ErofsError> {
        let stored = self.stored_xattrs(inode, false)?;
        let is_composefs = self.superblock().composefs.is_some();
        let content = match inode.file_type() {
            FileType::Symlink => ViewContent::Target(self.symlink_target(inode)?),
            FileType::Regular if is_composefs => object(&stored, path)?,
            FileType::Regular => ViewContent::InImage,
            _ => ViewContent::None,
        };
        if !is_composefs {
            let xattrs = stored.into_iter().map(|xattr| (xattr.name.to_vec(), xattr.value)).collect();
            return Ok(View { xattrs, content });
        }
        let shown = |xattr: Stored<'i>| xattr.name.unescaped().map(|name| (name.to_vec(), xattr.value));
        let mut xattrs: Vec<ViewXattr<'_>> = stored.into_iter().filter_map(shown).collect();
        // Unescaping can change the order.
        xattrs.sort_unstable();
        Ok(View { xattrs, content })
    }

    /// The attributes as stored, by name, each once; with `all` also those that the kernel does not show.
    pub(super) fn stored_xattrs(&self, inode: &Inode, all: bool) -> Result<Vec<Stored<'_>>, ErofsError> {
        let mut xattrs: Vec<Stored<'_>> = Vec::new();
        let mut total = 0usize;
        for xattr in self.xattrs(inode)? {
            let xattr = xattr?;
            if !all && !xattr.is_shown() {
                continue;
            }
            total = total.saturating_add(xattr.name.len()).saturating_add(xattr.value.len());
            if total > MAX_INODE_XATTR_BYTES {
                let (limit, found) = (MAX_INODE_XATTR_BYTES as u64, total as u64);
                return Err(ErofsError::Limit { name: "MAX_INODE_XATTR_BYTES", limit, found });
            }
            xattrs.push(xattr);
        }
        // Stable: of two with one name the first stays, which is what `getxattr` finds.
        xattrs.sort_by_key(|xattr| xattr.name);
        xattrs.dedup_by_key(|xattr| xattr.name);
        Ok(xattrs)
    }

    /// A symlink's target.
    ///
    /// # Errors
    /// [`ErofsError`] where it is too long or has a NUL.
    pub fn symlink_target(&self, inode: &Inode) -> Result<Cow<'_, [u8]>, ErofsError> {
        let target = self.data(inode, "MAX_SYMLINK_BYTES", MAX_SYMLINK_BYTES)?;
        if let Some(position) = target.iter().position(|byte| *byte == 0) {
            let what = "a symlink target with a NUL; its position";
            return Err(ErofsError::BadValue { what, offset: inode.offset, found: position as u64 });
        }
        Ok(target)
    }
}

/// The value of an attribute; of these there are a few.
pub(super) fn value_of<'i>(xattrs: &[Stored<'i>], name: &[u8]) -> Option<&'i [u8]> {
    xattrs.iter().find(|xattr| xattr.name.is(name)).map(|xattr| xattr.value)
}

/// A file's content: without `metacopy` its own bytes, else the object that `redirect` names.
fn object(xattrs: &[Stored<'_>], path: &[u8]) -> Result<ViewContent<'static>, ErofsError> {
    let Some(value) = value_of(xattrs, composefs::METACOPY) else {
        return Ok(ViewContent::InImage);
    };
    let fail = |what| ErofsError::BadObject { path: lossy(path), what };
    let redirect = value_of(xattrs, composefs::REDIRECT).ok_or_else(|| fail("metacopy without redirect"))?;
    let digest = metacopy_digest(value).map_err(fail)?;
    if let Some(digest) = digest.filter(|digest| names_object(redirect, digest)) {
        return Ok(ViewContent::Object(digest));
    }
    match redirect_digest(redirect) {
        None => Err(fail("the redirect names no object of a repository")),
        Some(named) if digest.is_none() => Ok(ViewContent::Object(named)),
        Some(_) => Err(fail("redirect and metacopy name different objects")),
    }
}

/// Whether a redirect is the path of this object, without parsing it.
fn names_object(redirect: &[u8], digest: &Digest) -> bool {
    let mut buffer = [0; 128];
    let hex = digest.hex(&mut buffer);
    hex.split_at_checked(2).is_some_and(|(first, rest)| {
        let path = redirect.strip_prefix(b"/").and_then(|path| path.strip_prefix(first));
        path.and_then(|path| path.strip_prefix(b"/")) == Some(rest)
    })
}

/// `/` two hex digits `/` the others.
pub(super) fn redirect_digest(path: &[u8]) -> Option<Digest> {
    let path = std::str::from_utf8(path).ok()?;
    let (first, rest) = path.strip_prefix('/').unwrap_or(path).split_once('/')?;
    if first.len() != 2 {
        return None;
    }
    Digest::from_hex(&format!("{first}{rest}")).ok()
}

/// `ovl_check_metacopy_xattr`: `None` for a value without a digest.
pub(super) fn metacopy_digest(value: &[u8]) -> Result<Option<Digest>, &'static str> {
    let byte = |offset: u64| usize::try_from(offset).ok().and_then(|offset| value.get(offset)).copied();
    let Some((algorithm, length)) = byte(metacopy::ALGORITHM).zip(byte(metacopy::LENGTH)) else {
        return if value.is_empty() { Ok(None) } else { Err("metacopy is too short") };
    };
    if byte(metacopy::VERSION) != Some(0) || byte(metacopy::FLAGS) != Some(0) {
        return Err("metacopy has an unknown version or flags");
    }
    if usize::from(length) != value.len() {
        return Err("metacopy has a wrong length");
    }
    let header = usize::try_from(metacopy::HEADER_BYTES).unwrap_or(usize::MAX);
    let digest = value.get(header..).unwrap_or_default();
    if digest.is_empty() {
        return Ok(None);
    }
    let algorithm = Algorithm::from_kernel_id(algorithm).ok_or("metacopy has an unknown hash function")?;
    Digest::from_bytes(algorithm, digest).map(Some).ok_or("metacopy has a digest of the wrong length")
}
