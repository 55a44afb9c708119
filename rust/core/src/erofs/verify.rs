//! Reading all of an image, to know that all of it can be read.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;

use super::data::Extent;
use super::dir::lossy;
use super::error::ErofsError;
use super::image::Image;
use super::inode::{Inode, Nid};
use super::view::ViewContent;
use super::walk::Walk;
use crate::cancel::{Cancel, Ticker};
use crate::tree::FileType;
use crate::verity::Digest;

/// Most bytes that are written between two polls for cancellation.
const PIECE_BYTES: u64 = 1 << 18;

/// What an image holds, all of it seen.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Contents {
    /// Names that the kernel shows, the root included.
    pub entries: u64,
    /// The repository's objects that it needs, with their sizes in bytes.
    pub objects: BTreeMap<Digest, u64>,
}

#[derive(Default)]
struct Links {
    /// Offset, link count as stored, names found; a directory's `.` and `..` entries are among them.
    found: HashMap<Nid, (u64, u32, u32)>,
}

impl Links {
    fn count(&mut self, inode: &Inode, parent: Option<Nid>) {
        let is_directory = inode.file_type() == FileType::Directory;
        let names = if is_directory { 2 } else { 1 };
        let entry = self.found.entry(inode.nid).or_insert((inode.offset, inode.stat.nlink, 0));
        entry.2 = entry.2.saturating_add(names);
        if let Some((_, _, found)) =
            parent.filter(|_| is_directory).and_then(|parent| self.found.get_mut(&parent))
        {
            *found = found.saturating_add(1);
        }
    }

    fn check(self) -> Result<(), ErofsError> {
        match self.found.into_values().find(|(_, stored, found)| stored != found) {
            Some((offset, expected, found)) => Err(ErofsError::BadLinkCount { offset, expected, found }),
            None => Ok(()),
        }
    }
}

impl Image {
    /// Reads every inode, name, attribute and byte of data.
    ///
    /// # Errors
    /// [`ErofsError`]: the first thing that is corrupt, with link counts last; cancellation.
    pub fn verify(&self, cancel: &dyn Cancel) -> Result<Contents, ErofsError> {
        let mut ticker = Ticker::counting(cancel, self.superblock().inode_count);
        let mut reader = self.reader()?;
        let mut walk = Walk::new(reader.image()?, b"")?;
        let mut contents = Contents::default();
        let mut links = Links::default();
        loop {
            let image = reader.image()?;
            let Some(inode) = walk.next(image)? else { break };
            ticker.count(1);
            ticker.tick()?;
            links.count(&inode, walk.parent());
            if image.is_hidden(&inode) {
                continue;
            }
            contents.entries = contents.entries.saturating_add(1);
            match image.view(&inode, walk.path())?.content {
                ViewContent::Object(digest) => {
                    let size = *contents.objects.entry(digest).or_insert(inode.stat.size_bytes);
                    if size != inode.stat.size_bytes {
                        let what = "two sizes of one object";
                        return Err(ErofsError::BadObject { path: lossy(walk.path()), what });
                    }
                }
                ViewContent::InImage => image.for_each_extent(&inode, |_| Ok(ticker.tick()?))?,
                ViewContent::None | ViewContent::Target(_) => {}
            }
        }
        links.check()?;
        ticker.finish()?;
        Ok(contents)
    }

    /// Writes an inode's data.
    ///
    /// # Errors
    /// [`ErofsError::Io`] of `out`; as [`Image::extent_at`]; cancellation, with a part written.
    pub fn copy_data(
        &self,
        inode: &Inode,
        out: &mut dyn Write,
        cancel: &dyn Cancel,
    ) -> Result<(), ErofsError> {
        let zeros = vec![0; usize::try_from(PIECE_BYTES).unwrap_or(4096)];
        let mut reader = self.reader()?;
        let mut offset = 0u64;
        while let Some(extent) = reader.image()?.extent_at(inode, offset)? {
            cancel.check()?;
            let piece = extent.len().min(PIECE_BYTES);
            match extent {
                Extent::Data(data) => out.write_all(data.part("data", 0, piece)?.read()?)?,
                Extent::Hole(_) => {
                    out.write_all(zeros.get(..usize::try_from(piece).unwrap_or(0)).unwrap_or_default())?;
                }
            }
            offset = offset.saturating_add(piece);
        }
        Ok(())
    }

    /// Writes the content of the regular file at a path.
    ///
    /// # Errors
    /// [`ErofsError::NotAFile`], also where the content is a repository's object; as [`Image::copy_data`].
    pub fn copy_file(&self, path: &[u8], out: &mut dyn Write, cancel: &dyn Cancel) -> Result<(), ErofsError> {
        let inode = self.find(path)?;
        match self.view(&inode, path)?.content {
            ViewContent::InImage => self.copy_data(&inode, out, cancel),
            _ => Err(ErofsError::NotAFile { path: lossy(path) }),
        }
    }

    fn for_each_extent(
        &self,
        inode: &Inode,
        mut each: impl FnMut(Extent<'_>) -> Result<(), ErofsError>,
    ) -> Result<(), ErofsError> {
        let mut offset = 0u64;
        while let Some(extent) = self.extent_at(inode, offset)? {
            each(extent)?;
            offset = offset.saturating_add(extent.len());
        }
        Ok(())
    }
}
