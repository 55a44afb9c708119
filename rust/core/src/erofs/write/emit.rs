//! The bytes of the image, in the order of [`super::place`].

use super::super::layout::{NULL_BLOCK, SUPERBLOCK_MAGIC, composefs, feature, inode};
use super::collect::{Body, Inode, Inodes};
use super::dirs::Entry;
use super::error::WriteError;
use super::place::{Places, Shape, chunk_bits};
use super::units::{
    BLOCK, BLOCK_BITS, CHUNK_ENTRY, DIRENT, INODES_START, SLOT, SUPERBLOCK_START, XATTR_HEADER, XATTR_WORD,
};
use super::xattrs::{InodeXattrs, Xattr, name_filter};
use crate::cancel::{Cancel, Ticker};
use crate::tree::Timestamp;

/// The layout that this writes, in the composefs header.
const COMPOSEFS_V1: u32 = 1;

/// All that is to be written.
#[derive(Debug)]
pub(super) struct Image<'a, 't> {
    pub inodes: &'a Inodes<'t>,
    pub shared: &'a [Xattr<'t>],
    pub places: &'a Places,
    pub epoch: Timestamp,
    pub has_acl: bool,
}

impl Image<'_, '_> {
    /// Writes it all.
    pub(super) fn emit(&self, cancel: &dyn Cancel) -> Result<Vec<u8>, WriteError> {
        let mut ticker = Ticker::counting(cancel, (self.inodes.inodes.len() as u64).saturating_mul(2));
        let mut out = Vec::with_capacity(self.places.end);
        self.header(&mut out);
        self.superblock(&mut out);
        for index in 0..self.inodes.inodes.len() {
            ticker.count(1);
            ticker.tick()?;
            self.inode(&mut out, index);
        }
        out.resize(self.places.inodes_end, 0);
        for xattr in self.shared {
            put_xattr(&mut out, xattr);
        }
        pad(&mut out, BLOCK);
        for (inode, shape) in self.inodes.inodes.iter().zip(&self.places.shapes) {
            ticker.count(1);
            ticker.tick()?;
            self.blocks(&mut out, inode, shape);
            pad(&mut out, BLOCK);
        }
        ticker.finish()?;
        debug_assert_eq!(out.len(), self.places.end, "placing and writing disagree");
        Ok(out)
    }

    fn header(&self, out: &mut Vec<u8>) {
        let flags = if self.has_acl { composefs::FLAG_HAS_ACL } else { 0 };
        for field in [composefs::MAGIC_VALUE, composefs::FORMAT_VERSION_VALUE, flags, COMPOSEFS_V1] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.resize(SUPERBLOCK_START, 0);
    }

    fn superblock(&self, out: &mut Vec<u8>) {
        let places = self.places;
        let compat = feature::COMPAT_MTIME | feature::COMPAT_XATTR_FILTER;
        let root = places.inodes.first().map_or(0, |at| at / SLOT);
        put32(out, SUPERBLOCK_MAGIC);
        put32(out, 0); // checksum: none, fs-verity covers all
        put32(out, compat);
        out.extend_from_slice(&[BLOCK_BITS, 0]);
        put16(out, low16(root));
        put64(out, self.inodes.inodes.len() as u64);
        put64(out, self.epoch.secs.cast_unsigned());
        put32(out, self.epoch.nanos);
        put32(out, low32(places.end / BLOCK));
        put32(out, 0); // meta_blkaddr: nids count from the image's start
        put32(out, low32(places.inodes_end / BLOCK)); // xattr_blkaddr
        out.resize(INODES_START, 0);
    }

    fn inode(&self, out: &mut Vec<u8>, index: usize) {
        let (inodes, places) = (self.inodes, self.places);
        let parts = (
            inodes.inodes.get(index),
            inodes.xattrs.get(index),
            places.shapes.get(index),
            places.inodes.get(index),
            places.blocks.get(index),
        );
        let (Some(inode), Some(xattrs), Some(shape), Some(at), Some(blocks)) = parts else { return };
        out.resize(*at, 0);
        let first_block = if shape.blocks > 0 { low32(blocks / BLOCK) } else { 0 };
        put_inode(out, inode, shape, low32(index), first_block);
        self.put_xattrs(out, xattrs);
        match &inode.body {
            Body::Directory(dir) => self.put_entries(out, dir.tail()),
            Body::Inline(data) => {
                let start = data.len().saturating_sub(shape.tail_bytes);
                out.extend_from_slice(data.get(start..).unwrap_or_default());
            }
            Body::Target(target) if shape.blocks == 0 => out.extend_from_slice(target),
            // Null chunks: the overlay takes the object's data.
            Body::Object(_) => (0..shape.tail_bytes / CHUNK_ENTRY).for_each(|_| put32(out, NULL_BLOCK)),
            Body::Target(_) | Body::Special(_) => {}
        }
    }

    fn put_xattrs(&self, out: &mut Vec<u8>, xattrs: &InodeXattrs<'_>) {
        if xattrs.shared.is_empty() && xattrs.local.is_empty() {
            return;
        }
        let shared = || xattrs.shared.iter().filter_map(|index| self.shared.get(*index as usize));
        let filter = name_filter(shared().chain(&xattrs.local));
        put32(out, filter);
        out.push(low8(xattrs.shared.len()));
        out.resize(out.len() + XATTR_HEADER - 5, 0);
        let table = self.places.inodes_end / BLOCK * BLOCK;
        for index in &xattrs.shared {
            let at = self.places.shared.get(*index as usize).copied().unwrap_or(table);
            put32(out, low32((at - table) / XATTR_WORD));
        }
        for xattr in &xattrs.local {
            put_xattr(out, xattr);
        }
    }

    /// One block, or the inline piece, of a directory: all heads, then all names.
    fn put_entries(&self, out: &mut Vec<u8>, entries: &[Entry<'_>]) {
        let mut name_at = entries.len() * DIRENT;
        for entry in entries {
            let at = self.places.inodes.get(entry.inode as usize).copied().unwrap_or_default();
            put64(out, (at / SLOT) as u64);
            put16(out, low16(name_at));
            out.extend_from_slice(&[entry.file_type, 0]);
            name_at += entry.name.len();
        }
        for entry in entries {
            out.extend_from_slice(entry.name);
        }
    }

    fn blocks(&self, out: &mut Vec<u8>, inode: &Inode<'_>, shape: &Shape) {
        match &inode.body {
            Body::Directory(dir) => {
                for block in dir.blocks() {
                    self.put_entries(out, block);
                    pad(out, BLOCK);
                }
            }
            Body::Inline(data) => {
                let whole = data.get(..data.len().saturating_sub(shape.tail_bytes)).unwrap_or_default();
                out.extend_from_slice(whole);
            }
            Body::Target(target) if shape.blocks > 0 => out.extend_from_slice(target),
            Body::Object(_) | Body::Target(_) | Body::Special(_) => {}
        }
    }
}

fn put_inode(out: &mut Vec<u8>, inode: &Inode<'_>, shape: &Shape, number: u32, first_block: u32) {
    let union = match inode.body {
        Body::Object(size) => chunk_bits(size) - u32::from(BLOCK_BITS),
        Body::Special(device) => device,
        _ => first_block,
    };
    let form = if shape.compact { 0 } else { inode::FORMAT_EXTENDED };
    put16(out, form | shape.data_layout << inode::FORMAT_LAYOUT_SHIFT);
    put16(out, xattr_count(shape.xattr_bytes));
    put16(out, low16(inode.mode));
    if shape.compact {
        put16(out, low16(inode.nlink));
        put32(out, low32(shape.size_bytes));
        put32(out, 0); // mtime: that of the superblock
        put32(out, union);
        put32(out, number);
        put16(out, low16(inode.uid));
        put16(out, low16(inode.gid));
        put32(out, 0);
        return;
    }
    put16(out, 0);
    put64(out, shape.size_bytes);
    put32(out, union);
    put32(out, number);
    put32(out, inode.uid);
    put32(out, inode.gid);
    put64(out, inode.mtime.secs.cast_unsigned());
    put32(out, inode.mtime.nanos);
    put32(out, inode.nlink);
    out.extend_from_slice(&[0; 16]);
}

/// `i_xattr_icount`: 0, or 1 and the words behind the header.
fn xattr_count(bytes: usize) -> u16 {
    bytes.checked_sub(XATTR_HEADER).map_or(0, |rest| low16(1 + rest / XATTR_WORD))
}

fn put_xattr(out: &mut Vec<u8>, xattr: &Xattr<'_>) {
    out.extend_from_slice(&[low8(xattr.suffix.len()), xattr.index]);
    put16(out, low16(xattr.value.len()));
    out.extend_from_slice(&xattr.suffix);
    out.extend_from_slice(&xattr.value);
    pad(out, XATTR_WORD);
}

fn pad(out: &mut Vec<u8>, alignment: usize) {
    out.resize(out.len().next_multiple_of(alignment), 0);
}

fn put16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

// What is written was checked when it was collected and placed: these only change the type.

fn low8(value: usize) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}

fn low16(value: impl TryInto<u16>) -> u16 {
    value.try_into().unwrap_or(u16::MAX)
}

fn low32(value: impl TryInto<u32>) -> u32 {
    value.try_into().unwrap_or(u32::MAX)
}
