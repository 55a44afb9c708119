//! An inode's data: where each byte is, without copying.

use std::borrow::Cow;

use super::bytes::Bytes;
use super::error::ErofsError;
use super::image::Image;
use super::inode::{DataLayout, Inode};
use super::layout::{NULL_BLOCK, chunk};

/// A run of an inode's data.
#[derive(Debug, Clone, Copy)]
pub enum Extent<'i> {
    /// These bytes of the image; not empty.
    Data(Bytes<'i>),
    /// So many zeros; not 0.
    Hole(u64),
}

impl Extent<'_> {
    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Data(data) => data.len(),
            Self::Hole(len) => *len,
        }
    }

    /// Never.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Image {
    /// The run of data that `offset` is in, from there to its end; `None` at or past the end of the data.
    ///
    /// Source: the kernel's `erofs_map_blocks`.
    ///
    /// # Errors
    /// [`ErofsError::OutOfBounds`] where it is outside the image, [`ErofsError::Unsupported`].
    pub fn extent_at(&self, inode: &Inode, offset: u64) -> Result<Option<Extent<'_>>, ErofsError> {
        let Some(left) = inode.data_bytes.checked_sub(offset).filter(|left| *left > 0) else {
            return Ok(None);
        };
        let extent = match inode.layout {
            DataLayout::Plain if inode.union == NULL_BLOCK => Extent::Hole(left),
            DataLayout::Plain => self.flat(inode, offset, left)?,
            DataLayout::Inline => {
                let block_bytes = self.superblock().block_bytes();
                // The last block, full or not, is the tail.
                let tail =
                    inode.data_bytes.div_ceil(block_bytes).saturating_sub(1).saturating_mul(block_bytes);
                match tail.checked_sub(offset) {
                    Some(before) if before > 0 => self.flat(inode, offset, before)?,
                    _ => {
                        let start = inode.tail_offset().saturating_add(offset.saturating_sub(tail));
                        Extent::Data(self.bytes().part("the inline data of an inode", start, left)?)
                    }
                }
            }
            DataLayout::Chunked => self.chunk(inode, offset, left)?,
        };
        Ok(Some(extent))
    }

    fn flat(&self, inode: &Inode, offset: u64, len: u64) -> Result<Extent<'_>, ErofsError> {
        let start = self.superblock().in_blocks(inode.union).saturating_add(offset);
        self.bytes().part("the data of an inode", start, len).map(Extent::Data)
    }

    fn chunk(&self, inode: &Inode, offset: u64, left: u64) -> Result<Extent<'_>, ErofsError> {
        let format = inode.union & chunk::FORMAT_MASK;
        if format & !chunk::FORMAT_KNOWN != 0 || format & chunk::FORMAT_48BIT != 0 {
            return Err(ErofsError::Unsupported { feature: "chunk format", value: format.into() });
        }
        let is_index = format & chunk::FORMAT_INDEXES != 0;
        let (unit, block_field) = if is_index {
            (chunk::INDEX_BYTES, chunk::INDEX_BLOCK)
        } else {
            (chunk::BLOCK_MAP_ENTRY_BYTES, 0)
        };
        // At most 16 + 31 bits.
        let chunk_bits =
            u32::from(self.superblock().block_bits).saturating_add(format & chunk::FORMAT_BITS_MASK);
        let number = offset.checked_shr(chunk_bits).unwrap_or(0);
        let chunk_start = number.checked_shl(chunk_bits).unwrap_or(u64::MAX);
        let within = offset.saturating_sub(chunk_start);
        let chunk_bytes = 1u64.checked_shl(chunk_bits).unwrap_or(u64::MAX);
        let len = chunk_bytes.saturating_sub(within).min(left);
        let table = inode.tail_offset().checked_next_multiple_of(unit).unwrap_or(u64::MAX);
        let entry = table.saturating_add(number.saturating_mul(unit)).saturating_add(block_field);
        // The device number of an index is not looked at: without a device table the kernel masks it to 0.
        let block = self.bytes().u32("the chunk table of an inode", entry)?;
        if block == NULL_BLOCK {
            return Ok(Extent::Hole(len));
        }
        let start = self.superblock().in_blocks(block).saturating_add(within);
        self.bytes().part("a chunk of an inode", start, len).map(Extent::Data)
    }

    /// Reads into `buffer` from `offset` on; fewer bytes than asked for only at the end of the data.
    ///
    /// # Errors
    /// As [`Image::extent_at`].
    pub fn read_at(&self, inode: &Inode, offset: u64, buffer: &mut [u8]) -> Result<usize, ErofsError> {
        let mut done = 0usize;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(done as u64);
            let Some(extent) = self.extent_at(inode, at)? else { break };
            let len = usize::try_from(extent.len()).unwrap_or(usize::MAX).min(rest.len());
            if let Some(target) = rest.get_mut(..len) {
                match extent {
                    Extent::Data(data) => {
                        target.copy_from_slice(data.part("data", 0, len as u64)?.read()?);
                    }
                    Extent::Hole(_) => target.fill(0),
                }
            }
            done = done.saturating_add(len);
        }
        Ok(done)
    }

    /// All data of an inode, borrowed where it is in one piece.
    ///
    /// # Errors
    /// [`ErofsError::Limit`] where it is longer than `limit`, before anything is allocated; as [`Image::extent_at`].
    pub fn data(
        &self,
        inode: &Inode,
        limit_name: &'static str,
        limit: u64,
    ) -> Result<Cow<'_, [u8]>, ErofsError> {
        if inode.data_bytes > limit {
            return Err(ErofsError::Limit { name: limit_name, limit, found: inode.data_bytes });
        }
        match self.extent_at(inode, 0)? {
            None => Ok(Cow::Borrowed(&[])),
            Some(Extent::Data(data)) if data.len() == inode.data_bytes => data.read().map(Cow::Borrowed),
            Some(_) => {
                let len = usize::try_from(inode.data_bytes).unwrap_or(usize::MAX);
                let mut data = vec![0; len];
                self.read_at(inode, 0, &mut data)?;
                Ok(Cow::Owned(data))
            }
        }
    }
}
