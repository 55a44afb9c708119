//! Extended attributes: behind the inode, shared ones by reference, names by prefix number.

use super::bytes::Bytes;
use super::error::ErofsError;
use super::image::Image;
use super::inode::Inode;
use super::layout::xattr as field;
use super::xattr_name::Name;
use crate::limits::MAX_NAME_BYTES;

/// An attribute as stored.
#[derive(Debug, Clone, Copy)]
pub struct XattrRef<'i> {
    index: u8,
    pub(super) name: Name<'i>,
    /// The value.
    pub value: &'i [u8],
}

impl XattrRef<'_> {
    /// Whether the kernel shows it: it has no handler for names without a prefix, nor for `lustre.`.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        !matches!(self.index, field::INDEX_NONE | field::INDEX_LUSTRE)
    }
}

/// A long name prefix: a short one and some more bytes. Offsets into the image, so that [`Image`] can keep them.
#[derive(Debug, Clone)]
pub(super) struct LongPrefix {
    base: u8,
    infix: Box<[u8]>,
}

/// Iterates over an inode's attributes: its own ones first, then the shared ones, which is also the order in which
/// the kernel looks for a name.
#[derive(Debug)]
pub struct Xattrs<'i> {
    image: &'i Image,
    own: Bytes<'i>,
    shared: Bytes<'i>,
    is_broken: bool,
}

impl<'i> Iterator for Xattrs<'i> {
    type Item = Result<XattrRef<'i>, ErofsError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_broken {
            return None;
        }
        if let Err(error) = self.skip_padding() {
            self.is_broken = true;
            return Some(Err(error));
        }
        if self.own.is_empty() && self.shared.is_empty() {
            return None;
        }
        let item = if self.own.is_empty() { self.next_shared() } else { self.next_own() };
        self.is_broken = item.is_err();
        Some(item)
    }
}

impl<'i> Xattrs<'i> {
    /// Room that was left for attributes to come is words of zeros: to the kernel, entries without a name whose
    /// index has no handler (`mkfs.erofs --root-xattr-isize`).
    fn skip_padding(&mut self) -> Result<(), ErofsError> {
        while !self.own.is_empty() && self.own.u32("the xattrs of an inode", 0)? == 0 {
            self.own = self.own.from("the xattrs of an inode", field::WORD_BYTES)?;
        }
        Ok(())
    }

    fn next_own(&mut self) -> Result<XattrRef<'i>, ErofsError> {
        let (entry, len) = self.image.xattr_entry(&self.own)?;
        self.own = self.own.from("the xattrs of an inode", len)?;
        Ok(entry)
    }

    fn next_shared(&mut self) -> Result<XattrRef<'i>, ErofsError> {
        let word = u64::from(self.shared.u32("a shared xattr's number", 0)?);
        self.shared = self.shared.from("the shared xattrs of an inode", field::WORD_BYTES)?;
        let offset =
            word.saturating_mul(field::WORD_BYTES).saturating_add(self.image.superblock().xattr_offset);
        let rest = self.image.bytes().from("a shared xattr", offset)?;
        Ok(self.image.xattr_entry(&rest)?.0)
    }
}

impl Image {
    /// An inode's attributes, as stored.
    ///
    /// # Errors
    /// [`ErofsError`] where their header is corrupt; the iterator ends with the first error of an entry.
    pub fn xattrs(&self, inode: &Inode) -> Result<Xattrs<'_>, ErofsError> {
        let area = self.bytes().part("the xattrs of an inode", inode.xattr_offset(), inode.xattr_bytes)?;
        if area.is_empty() {
            return Ok(Xattrs { image: self, own: area, shared: area, is_broken: false });
        }
        let area = area.loaded()?;
        let count = u64::from(area.u8("the xattr header", field::SHARED_COUNT)?);
        let shared_bytes = count.saturating_mul(field::WORD_BYTES);
        let own_start = field::HEADER_BYTES.saturating_add(shared_bytes);
        if own_start > area.len() {
            let what = "the number of shared xattrs of an inode";
            return Err(ErofsError::BadValue { what, offset: inode.offset, found: count });
        }
        let shared = area.part("the shared xattrs of an inode", field::HEADER_BYTES, shared_bytes)?;
        let own = area.from("the xattrs of an inode", own_start)?;
        Ok(Xattrs { image: self, own, shared, is_broken: false })
    }

    /// The entry at the start of `bytes`, and how many bytes it takes.
    fn xattr_entry<'i>(&'i self, bytes: &Bytes<'i>) -> Result<(XattrRef<'i>, u64), ErofsError> {
        let name_len = u64::from(bytes.u8("an xattr", field::NAME_BYTES)?);
        let index = bytes.u8("an xattr", field::NAME_INDEX)?;
        let value_len = u64::from(bytes.u16("an xattr", field::VALUE_BYTES)?);
        let suffix = bytes.part("the name of an xattr", field::ENTRY_BYTES, name_len)?.read()?;
        let value_start = field::ENTRY_BYTES.saturating_add(name_len);
        let value = bytes.part("the value of an xattr", value_start, value_len)?.read()?;
        let (prefix, infix) = self.xattr_prefix(index).ok_or(ErofsError::BadValue {
            what: "the name index of an xattr",
            offset: bytes.base(),
            found: index.into(),
        })?;
        let name = Name::new(prefix, infix, suffix);
        let len = name.len();
        if len == 0 || len > MAX_NAME_BYTES || suffix.contains(&0) || infix.contains(&0) {
            let what = "the name of an xattr (1 to 255 bytes without NUL); its length";
            return Err(ErofsError::BadValue { what, offset: bytes.base(), found: len as u64 });
        }
        let end = value_start.saturating_add(value_len);
        let aligned = end.checked_next_multiple_of(field::WORD_BYTES).unwrap_or(u64::MAX);
        let base_index = self.base_index(index);
        Ok((XattrRef { index: base_index, name, value }, aligned))
    }

    fn xattr_prefix(&self, index: u8) -> Option<(&'static [u8], &[u8])> {
        if index & field::LONG_PREFIX == 0 {
            return Some((field::PREFIXES.get(usize::from(index))?, &[]));
        }
        let long = self.long_prefixes().get(usize::from(index & !field::LONG_PREFIX))?;
        Some((field::PREFIXES.get(usize::from(long.base))?, &long.infix))
    }

    fn base_index(&self, index: u8) -> u8 {
        if index & field::LONG_PREFIX == 0 {
            return index;
        }
        self.long_prefixes().get(usize::from(index & !field::LONG_PREFIX)).map_or(index, |long| long.base)
    }

    /// Reads the table of long prefixes: u16 length, base index, infix, padding to a word, for each.
    ///
    /// It is in the packed inode if there is one, else in the image itself (`erofs_xattr_prefixes_init`).
    pub(super) fn read_long_prefixes(&self) -> Result<Vec<LongPrefix>, ErofsError> {
        let sb = self.superblock();
        let mut prefixes = Vec::with_capacity(sb.xattr_prefix_count.into());
        if sb.xattr_prefix_count == 0 {
            return Ok(prefixes);
        }
        let packed = sb.packed.map(|nid| self.inode(nid)).transpose()?;
        let mut at = sb.xattr_prefix_offset;
        for _ in 0..sb.xattr_prefix_count {
            let mut word = [0; 2];
            self.read_meta(packed.as_ref(), at, &mut word)?;
            let len = usize::from(u16::from_le_bytes(word));
            if len == 0 || len > MAX_NAME_BYTES {
                let what = "the length of a long xattr prefix";
                return Err(ErofsError::BadValue { what, offset: at, found: len as u64 });
            }
            let mut entry = vec![0; len];
            self.read_meta(packed.as_ref(), at.saturating_add(2), &mut entry)?;
            let (base, infix) = entry.split_first().map_or((0, &[][..]), |(base, infix)| (*base, infix));
            prefixes.push(LongPrefix { base, infix: infix.into() });
            let end = at.saturating_add(2).saturating_add(len as u64);
            at = end.checked_next_multiple_of(field::WORD_BYTES).unwrap_or(u64::MAX);
        }
        Ok(prefixes)
    }

    fn read_meta(&self, packed: Option<&Inode>, at: u64, buffer: &mut [u8]) -> Result<(), ErofsError> {
        let what = "the long xattr prefixes";
        let len = buffer.len() as u64;
        let Some(packed) = packed else {
            buffer.copy_from_slice(self.bytes().part(what, at, len)?.read()?);
            return Ok(());
        };
        if self.read_at(packed, at, buffer)? < buffer.len() {
            return Err(ErofsError::OutOfBounds { what, offset: at, len, image_len: self.bytes().len() });
        }
        Ok(())
    }
}
