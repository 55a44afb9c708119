//! Inodes, compact and extended.

use super::bytes::Bytes;
use super::error::ErofsError;
use super::layout::{SLOT_BYTES, inode as field, xattr};
use super::superblock::Superblock;
use crate::tree::{FileType, Stat, Timestamp};

/// Inode number: a slot of 32 bytes, counted from the start of the metadata area.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nid(pub u64);

/// Where an inode's data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DataLayout {
    /// One extent of whole blocks.
    Plain,
    /// The same, and the tail behind the inode and its xattrs.
    Inline,
    /// A table of chunks behind the inode and its xattrs.
    Chunked,
}

/// An inode, parsed; refers to the image by offsets only.
#[derive(Debug, Clone, Copy)]
pub struct Inode {
    /// Its number.
    pub nid: Nid,
    /// Attributes. `size_bytes` is 0 unless it is a regular file or a symlink; see [`Inode::data_bytes`].
    pub stat: Stat,
    pub(super) layout: DataLayout,
    pub(super) union: u32,
    /// Bytes of data, of directories too.
    pub(super) data_bytes: u64,
    /// Offset in the image.
    pub(super) offset: u64,
    pub(super) header_bytes: u64,
    pub(super) xattr_bytes: u64,
}

impl Inode {
    /// Type of file.
    #[must_use]
    pub fn file_type(&self) -> FileType {
        self.stat.file_type()
    }

    /// Bytes of data: content, target or directory blocks.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// Where the xattrs start.
    pub(super) fn xattr_offset(&self) -> u64 {
        self.offset.saturating_add(self.header_bytes)
    }

    /// First byte after inode and xattrs: the tail or the chunk table.
    pub(super) fn tail_offset(&self) -> u64 {
        self.xattr_offset().saturating_add(self.xattr_bytes)
    }

    /// Parses the inode of this number.
    ///
    /// # Errors
    /// [`ErofsError`] where it is outside the image or a field has no meaning.
    pub(super) fn read(image: &Bytes<'_>, sb: &Superblock, nid: Nid) -> Result<Self, ErofsError> {
        let offset = sb.meta_offset.saturating_add(nid.0.saturating_mul(SLOT_BYTES));
        let compact = image.part("an inode", offset, field::COMPACT_BYTES)?.loaded()?;
        let format = compact.u16("inode format", field::FORMAT)?;
        if format & !field::FORMAT_KNOWN != 0 {
            return Err(ErofsError::Unsupported { feature: "inode format bits", value: format.into() });
        }
        let layout = layout_of(format)?;
        let mode = compact.u16("mode", field::MODE)?;
        let Some(file_type) = FileType::from_mode(mode.into()) else {
            return Err(ErofsError::BadValue { what: "the mode of an inode", offset, found: mode.into() });
        };
        let (stat, header_bytes) = if format & field::FORMAT_EXTENDED == 0 {
            (compact_stat(&compact, sb)?, field::COMPACT_BYTES)
        } else {
            let extended = image.part("an inode", offset, field::EXTENDED_BYTES)?.loaded()?;
            (extended_stat(&extended)?, field::EXTENDED_BYTES)
        };
        let data_bytes = stat.size_bytes;
        if i64::try_from(data_bytes).is_err() {
            return Err(ErofsError::BadValue { what: "the size of an inode", offset, found: data_bytes });
        }
        let union = compact.u32("inode union", field::UNION)?;
        let is_device = matches!(file_type, FileType::CharDevice | FileType::BlockDevice);
        let has_size = matches!(file_type, FileType::Regular | FileType::Symlink);
        let stat = Stat {
            mode: mode.into(),
            // `new_decode_dev` undoes what `makedev` does: the number is the same.
            rdev: if is_device { union.into() } else { 0 },
            size_bytes: if has_size { data_bytes } else { 0 },
            ..stat
        };
        let xattr_bytes = match compact.u16("xattr count", field::XATTR_COUNT)? {
            0 => 0,
            count => {
                let words = u64::from(count).saturating_sub(1);
                xattr::HEADER_BYTES.saturating_add(words.saturating_mul(xattr::WORD_BYTES))
            }
        };
        Ok(Self { nid, stat, layout, union, data_bytes, offset, header_bytes, xattr_bytes })
    }
}

fn layout_of(format: u16) -> Result<DataLayout, ErofsError> {
    match format >> field::FORMAT_LAYOUT_SHIFT & field::FORMAT_LAYOUT_MASK {
        field::LAYOUT_PLAIN => Ok(DataLayout::Plain),
        field::LAYOUT_INLINE => Ok(DataLayout::Inline),
        field::LAYOUT_CHUNKED => Ok(DataLayout::Chunked),
        number @ (field::LAYOUT_COMPRESSED_FULL | field::LAYOUT_COMPRESSED_COMPACT) => {
            Err(ErofsError::Unsupported { feature: "compression (an inode)", value: number.into() })
        }
        number => Err(ErofsError::Unsupported { feature: "data layout", value: number.into() }),
    }
}

fn compact_stat(bytes: &Bytes<'_>, sb: &Superblock) -> Result<Stat, ErofsError> {
    let after_epoch = bytes.u32("mtime", field::COMPACT_MTIME)?;
    Ok(Stat {
        mode: 0,
        uid: bytes.u16("uid", field::COMPACT_UID)?.into(),
        gid: bytes.u16("gid", field::COMPACT_GID)?.into(),
        nlink: bytes.u16("nlink", field::COMPACT_NLINK)?.into(),
        rdev: 0,
        size_bytes: bytes.u32("size", field::SIZE)?.into(),
        mtime: Timestamp { secs: sb.epoch.secs.wrapping_add(after_epoch.into()), nanos: sb.epoch.nanos },
    })
}

fn extended_stat(bytes: &Bytes<'_>) -> Result<Stat, ErofsError> {
    let nanos = bytes.u32("mtime", field::EXTENDED_MTIME_NANOS)?;
    if nanos >= 1_000_000_000 {
        let what = "the mtime's nanoseconds of an inode";
        return Err(ErofsError::BadValue { what, offset: bytes.base(), found: nanos.into() });
    }
    let secs = bytes.u64("mtime", field::EXTENDED_MTIME)?.cast_signed();
    Ok(Stat {
        mode: 0,
        uid: bytes.u32("uid", field::EXTENDED_UID)?,
        gid: bytes.u32("gid", field::EXTENDED_GID)?,
        nlink: bytes.u32("nlink", field::EXTENDED_NLINK)?,
        rdev: 0,
        size_bytes: bytes.u64("size", field::SIZE)?,
        mtime: Timestamp { secs, nanos },
    })
}
