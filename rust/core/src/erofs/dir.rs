//! Directories: blocks of entries sorted by name, over all blocks.

use std::cmp::Ordering;

use super::bytes::Bytes;
use super::data::Extent;
use super::error::ErofsError;
use super::image::Image;
use super::inode::{Inode, Nid};
use super::layout::dirent;
use crate::limits::MAX_NAME_BYTES;
use crate::tree::FileType;

/// One name of a directory.
#[derive(Debug, Clone, Copy)]
pub struct DirEntry<'i> {
    /// 1 to 255 bytes without slash and NUL; may be `.` or `..`.
    pub name: &'i [u8],
    /// What it names.
    pub nid: Nid,
}

/// A directory block, its entry count checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct DirBlock<'i> {
    bytes: Bytes<'i>,
    /// Offset of the first name, which is the size of the entry array.
    names: u64,
    /// Of the directory's inode, for messages.
    directory: u64,
}

impl<'i> DirBlock<'i> {
    fn new(bytes: Bytes<'i>, directory: u64) -> Result<Self, ErofsError> {
        let names = u64::from(bytes.u16("a directory block", dirent::NAME_OFFSET)?);
        let whole = names.is_multiple_of(dirent::BYTES);
        if names < dirent::BYTES || names >= bytes.len() || !whole {
            let what = "the first name's offset in a directory block";
            return Err(ErofsError::BadValue { what, offset: bytes.base(), found: names });
        }
        Ok(Self { bytes, names, directory })
    }

    /// Number of entries, at least 1.
    pub(super) fn len(&self) -> u64 {
        self.names.checked_div(dirent::BYTES).unwrap_or(0)
    }

    /// The entry at `index` below [`DirBlock::len`].
    pub(super) fn entry(&self, index: u64) -> Result<DirEntry<'i>, ErofsError> {
        let at = index.saturating_mul(dirent::BYTES);
        let entry = self.bytes.part("a directory entry", at, dirent::BYTES)?;
        let start = u64::from(entry.u16("name offset", dirent::NAME_OFFSET)?);
        let next = at.saturating_add(dirent::BYTES);
        let is_last = next >= self.names;
        let end = if is_last {
            self.bytes.len()
        } else {
            let offset = next.saturating_add(dirent::NAME_OFFSET);
            u64::from(self.bytes.u16("name offset", offset)?)
        };
        let len = end.checked_sub(start).filter(|_| start >= self.names);
        let Some(len) = len else {
            let what = "the name offset of a directory entry";
            return Err(ErofsError::BadValue { what, offset: entry.base(), found: start });
        };
        let mut name = self.bytes.part("the name of a directory entry", start, len)?.read()?;
        if is_last {
            // Padded with zeros to the end of the block.
            name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        }
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.iter().any(|byte| matches!(byte, b'/' | 0))
        {
            return Err(ErofsError::BadName { name: lossy(name), offset: self.directory });
        }
        Ok(DirEntry { name, nid: Nid(entry.u64("inode number", dirent::NID)?) })
    }

    /// Binary search.
    fn find(&self, name: &[u8]) -> Result<Option<Nid>, ErofsError> {
        let (mut low, mut high) = (0u64, self.len());
        while low < high {
            let middle = low.midpoint(high);
            let entry = self.entry(middle)?;
            match entry.name.cmp(name) {
                Ordering::Equal => return Ok(Some(entry.nid)),
                Ordering::Less => low = middle.saturating_add(1),
                Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }
}

impl Image {
    /// Number of blocks of a directory.
    pub(super) fn dir_blocks(&self, directory: &Inode) -> u64 {
        directory.data_bytes.div_ceil(self.superblock().block_bytes())
    }

    /// A block of a directory; `index` is below [`Image::dir_blocks`].
    pub(super) fn dir_block(&self, directory: &Inode, index: u64) -> Result<DirBlock<'_>, ErofsError> {
        let block_bytes = self.superblock().block_bytes();
        let offset = index.saturating_mul(block_bytes);
        let len = directory.data_bytes.saturating_sub(offset).min(block_bytes);
        match self.extent_at(directory, offset)? {
            Some(Extent::Data(data)) => {
                let block = data.part("a directory block", 0, len)?.loaded()?;
                DirBlock::new(block, directory.offset)
            }
            _ => Err(ErofsError::BadValue {
                what: "a directory with a hole",
                offset: directory.offset,
                found: offset,
            }),
        }
    }

    /// The inode number of a name in a directory: a binary search over blocks, then within one, as the kernel does.
    ///
    /// # Errors
    /// [`ErofsError`] where the directory's blocks on the way are corrupt; [`ErofsError::NotADirectory`].
    pub fn find_in(&self, directory: &Inode, name: &[u8]) -> Result<Option<Nid>, ErofsError> {
        if directory.file_type() != FileType::Directory {
            return Err(ErofsError::NotADirectory { path: name.to_vec() });
        }
        // The last block whose first name is not greater.
        let (mut low, mut high) = (0u64, self.dir_blocks(directory));
        while low < high {
            let middle = low.midpoint(high);
            let first = self.dir_block(directory, middle)?.entry(0)?;
            if first.name <= name { low = middle.saturating_add(1) } else { high = middle }
        }
        match low.checked_sub(1) {
            Some(block) => self.dir_block(directory, block)?.find(name),
            None => Ok(None),
        }
    }
}

/// Bytes for a message.
pub(super) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
