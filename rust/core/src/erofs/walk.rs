//! Walking all inodes below a directory, in the order of their paths, without an allocation an entry.

use std::collections::HashSet;

use super::dir::lossy;
use super::error::ErofsError;
use super::image::Image;
use super::inode::{Inode, Nid};
use crate::limits::MAX_DEPTH;
use crate::tree::FileType;

/// A pre-order walk: a directory, then what is in it, siblings in byte order.
///
/// Ends on every image: no directory is entered twice, and the bytes of all directories together are not more than
/// the image has (each entry takes 13 of them, so that the number of entries is bounded too).
#[derive(Debug)]
pub struct Walk {
    start: Option<Inode>,
    parent: Nid,
    stack: Vec<Frame>,
    path: Vec<u8>,
    entered: HashSet<Nid>,
    directory_bytes: u64,
}

/// A directory that the walk is in.
#[derive(Debug)]
struct Frame {
    directory: Inode,
    parent: Nid,
    block: u64,
    entry: u64,
    path_len: usize,
}

impl Walk {
    /// A walk that starts with the inode at `path`.
    ///
    /// # Errors
    /// As [`Image::lookup`].
    pub fn new(image: &Image, path: &[u8]) -> Result<Self, ErofsError> {
        let (inode, parent) = image.lookup(path)?;
        Ok(Self {
            start: Some(inode),
            parent: parent.nid,
            stack: Vec::new(),
            path: Vec::new(),
            entered: HashSet::new(),
            directory_bytes: 0,
        })
    }

    /// The next inode; after `None`, and after an error, there is no more. Its path is [`Walk::path`].
    ///
    /// # Errors
    /// [`ErofsError`]: what is corrupt here.
    pub fn next(&mut self, image: &Image) -> Result<Option<Inode>, ErofsError> {
        let result = self.step(image);
        if result.is_err() {
            self.start = None;
            self.stack.clear();
        }
        result
    }

    /// Path of the last inode below the start, without a leading slash; empty for the start itself.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// Last component of [`Walk::path`].
    #[must_use]
    pub fn name(&self) -> &[u8] {
        self.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }

    /// The directory that holds the last inode; `None` for the start itself.
    #[must_use]
    pub fn parent(&self) -> Option<Nid> {
        let holder = match self.stack.last()? {
            // The last inode is a directory that the walk has just entered.
            frame if frame.path_len == self.path.len() => self.stack.iter().rev().nth(1)?,
            frame => frame,
        };
        Some(holder.directory.nid)
    }

    /// How far below the start the last inode is; the start itself has 0, what is in it 1.
    #[must_use]
    pub fn depth(&self) -> usize {
        if self.path.is_empty() { 0 } else { self.path.split(|byte| *byte == b'/').count() }
    }

    /// Do not descend into the directory that [`Walk::next`] has just returned.
    pub fn skip_children(&mut self) {
        if self.stack.last().is_some_and(|frame| frame.path_len == self.path.len()) {
            self.stack.pop();
        }
    }

    fn step(&mut self, image: &Image) -> Result<Option<Inode>, ErofsError> {
        if let Some(inode) = self.start.take() {
            let parent = self.parent;
            self.enter(image, inode, parent)?;
            return Ok(Some(inode));
        }
        while let Some(frame) = self.stack.last_mut() {
            if frame.block >= image.dir_blocks(&frame.directory) {
                self.path.truncate(frame.path_len);
                self.stack.pop();
                continue;
            }
            let block = image.dir_block(&frame.directory, frame.block)?;
            if frame.entry >= block.len() {
                frame.block = frame.block.saturating_add(1);
                frame.entry = 0;
                continue;
            }
            let entry = block.entry(frame.entry)?;
            frame.entry = frame.entry.saturating_add(1);
            let directory = frame.directory;
            match entry.name {
                b"." => check_dots(".", &directory, directory.nid, entry.nid)?,
                b".." => check_dots("..", &directory, frame.parent, entry.nid)?,
                name => {
                    self.push_name(&directory, name)?;
                    let inode = image.inode(entry.nid)?;
                    self.enter(image, inode, directory.nid)?;
                    return Ok(Some(inode));
                }
            }
        }
        Ok(None)
    }

    /// Replaces the last name of the path, which must be smaller.
    fn push_name(&mut self, directory: &Inode, name: &[u8]) -> Result<(), ErofsError> {
        let len = self.stack.last().map_or(0, |frame| frame.path_len);
        let previous = self.path.get(len..).unwrap_or_default();
        let previous = previous.strip_prefix(b"/").unwrap_or(previous);
        if !previous.is_empty() && previous >= name {
            return Err(ErofsError::UnsortedName { name: lossy(name), offset: directory.offset });
        }
        self.path.truncate(len);
        if len > 0 {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
        Ok(())
    }

    fn enter(&mut self, image: &Image, inode: Inode, parent: Nid) -> Result<(), ErofsError> {
        if inode.file_type() != FileType::Directory {
            return Ok(());
        }
        if !self.entered.insert(inode.nid) {
            return Err(ErofsError::DirectoryLoop { offset: inode.offset, path: lossy(&self.path) });
        }
        let limit = image.bytes().len();
        self.directory_bytes = self.directory_bytes.saturating_add(inode.data_bytes);
        if self.directory_bytes > limit {
            let found = self.directory_bytes;
            return Err(ErofsError::Limit { name: "image size in bytes of directories", limit, found });
        }
        if self.stack.len() >= MAX_DEPTH {
            let limit = MAX_DEPTH as u64;
            return Err(ErofsError::Limit { name: "MAX_DEPTH", limit, found: limit.saturating_add(1) });
        }
        let path_len = self.path.len();
        self.stack.push(Frame { directory: inode, parent, block: 0, entry: 0, path_len });
        Ok(())
    }
}

fn check_dots(name: &'static str, directory: &Inode, expected: Nid, found: Nid) -> Result<(), ErofsError> {
    if expected == found {
        return Ok(());
    }
    let offset = directory.offset;
    Err(ErofsError::BadSelfReference { name, offset, expected: expected.0, found: found.0 })
}
