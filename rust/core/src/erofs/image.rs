//! An opened image.

use std::fs::File;
use std::sync::Arc;

use bootc_fast_sys::map::Pages;

use super::bytes::Bytes;
use super::error::ErofsError;
use super::inode::{Inode, Nid};
use super::superblock::Superblock;
use super::xattr::LongPrefix;
use crate::limits::{MAX_IMAGE_BYTES, MAX_KEPT_BYTES};
use crate::tree::FileType;

enum Source {
    File(Pages),
    Memory(Arc<[u8]>),
}

/// An EROFS image. Every method takes what the image says as untrusted; nothing is kept but the superblock and the
/// table of xattr prefixes.
pub struct Image {
    source: Source,
    superblock: Superblock,
    long_prefixes: Vec<LongPrefix>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image").field("superblock", &self.superblock).finish_non_exhaustive()
    }
}

impl Image {
    /// Opens a file and reads its superblock: some microseconds, whatever its size.
    ///
    /// The rest is read as it is needed, before it is touched: a bad sector, or a file that was cut off meanwhile, is
    /// [`ErofsError::Unreadable`] of whatever needs it (see [`Pages`]).
    ///
    /// # Errors
    /// [`ErofsError::Io`] where it cannot be opened, else what is wrong with the superblock.
    pub fn open(file: &File) -> Result<Self, ErofsError> {
        let len = file.metadata()?.len();
        if len > MAX_IMAGE_BYTES {
            return Err(ErofsError::Limit { name: "MAX_IMAGE_BYTES", limit: MAX_IMAGE_BYTES, found: len });
        }
        Self::new(Source::File(Pages::open(file)?))
    }

    /// Takes an image in memory.
    ///
    /// # Errors
    /// What is wrong with the superblock.
    pub fn from_bytes(data: Vec<u8>) -> Result<Self, ErofsError> {
        Self::new(Source::Memory(data.into()))
    }

    fn new(source: Source) -> Result<Self, ErofsError> {
        let superblock = Superblock::read(&source.bytes())?;
        let mut image = Self { source, superblock, long_prefixes: Vec::new() };
        image.long_prefixes = image.read_long_prefixes()?;
        Ok(image)
    }

    /// A reader for who goes through all of it.
    ///
    /// # Errors
    /// [`ErofsError::Io`]: no memory.
    pub fn reader(&self) -> Result<Reader, ErofsError> {
        let source = match &self.source {
            Source::File(pages) => Source::File(pages.afresh()?),
            Source::Memory(data) => Source::Memory(Arc::clone(data)),
        };
        let (superblock, long_prefixes) = (self.superblock.clone(), self.long_prefixes.clone());
        Ok(Reader { image: Self { source, superblock, long_prefixes } })
    }

    /// The whole image.
    #[must_use]
    pub fn bytes(&self) -> Bytes<'_> {
        self.source.bytes()
    }

    /// The superblock.
    #[must_use]
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    pub(super) fn long_prefixes(&self) -> &[LongPrefix] {
        &self.long_prefixes
    }

    /// The inode of this number.
    ///
    /// # Errors
    /// [`ErofsError`] where it is outside the image or corrupt.
    pub fn inode(&self, nid: Nid) -> Result<Inode, ErofsError> {
        Inode::read(&self.bytes(), &self.superblock, nid)
    }

    /// The root directory.
    ///
    /// # Errors
    /// As [`Image::inode`], and [`ErofsError::NotADirectory`].
    pub fn root(&self) -> Result<Inode, ErofsError> {
        let root = self.inode(self.superblock.root)?;
        if root.file_type() == FileType::Directory {
            return Ok(root);
        }
        Err(ErofsError::NotADirectory { path: b"/".to_vec() })
    }

    /// The inode at a `/`-separated path, and the directory that holds it (the root is its own). Symlinks are not
    /// followed; `.` and `..` are not in the way of anything, they name nothing. As stored: overlay's whiteouts are
    /// found, see [`Image::find`](super::Image::find) for what the kernel shows.
    ///
    /// # Errors
    /// [`ErofsError::NotFound`], [`ErofsError::NotADirectory`], or what is corrupt on the way.
    pub fn lookup(&self, path: &[u8]) -> Result<(Inode, Inode), ErofsError> {
        let mut found = self.root()?;
        let mut parent = found;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            if found.file_type() != FileType::Directory {
                return Err(ErofsError::NotADirectory { path: path.to_vec() });
            }
            parent = found;
            let nid = if matches!(name, b"." | b"..") { None } else { self.find_in(&parent, name)? };
            found = match nid {
                Some(nid) => self.inode(nid)?,
                None => return Err(ErofsError::NotFound { path: path.to_vec() }),
            };
        }
        Ok((found, parent))
    }
}

/// An image of its own for who goes through all of one: what was read of it is let go when it is much.
#[derive(Debug)]
pub struct Reader {
    image: Image,
}

impl Reader {
    /// The image, for one inode and what belongs to it.
    ///
    /// # Errors
    /// [`ErofsError::Io`]: no memory.
    pub fn image(&mut self) -> Result<&Image, ErofsError> {
        if let Source::File(pages) = &mut self.image.source
            && pages.kept_bytes() > MAX_KEPT_BYTES
        {
            pages.forget()?;
        }
        Ok(&self.image)
    }
}

impl Source {
    fn bytes(&self) -> Bytes<'_> {
        match self {
            Self::File(pages) => Bytes::of_pages(pages),
            Self::Memory(data) => Bytes::new(data),
        }
    }
}
