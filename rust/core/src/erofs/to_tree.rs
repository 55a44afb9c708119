//! An image as a [`Tree`].

use std::collections::HashMap;

use super::error::ErofsError;
use super::image::Image;
use super::inode::{Inode, Nid};
use super::view::{View, ViewContent};
use super::walk::Walk;
use crate::cancel::{Cancel, Ticker};
use crate::limits::{MAX_TREE_CONTENT_BYTES, MAX_TREE_XATTR_BYTES};
use crate::tree::{Content, FileType, NodeId, Tree, TreeBuilder};

impl Image {
    /// What the kernel shows below a directory: composefs images as their mounted overlay, others as they are.
    /// Contents that are in the image are copied into the tree.
    ///
    /// # Errors
    /// [`ErofsError`]: what is corrupt, or which limit is hit; [`ErofsError::Cancelled`].
    pub fn tree(&self, subdir: &[u8], cancel: &dyn Cancel) -> Result<Tree, ErofsError> {
        let mut ticker = Ticker::new(cancel);
        let mut reader = self.reader()?;
        let mut walk = Walk::new(reader.image()?, subdir)?;
        let root = walk.next(reader.image()?)?.filter(|inode| inode.file_type() == FileType::Directory);
        let Some(root) = root else {
            return Err(ErofsError::NotADirectory { path: subdir.to_vec() });
        };
        let mut making = Making::new(reader.image()?, &root)?;
        loop {
            let image = reader.image()?;
            let Some(inode) = walk.next(image)? else { break };
            ticker.tick()?;
            if !image.is_hidden(&inode) {
                making.add(image, &walk, &inode)?;
            }
        }
        Ok(making.builder.finish()?)
    }
}

struct Making {
    builder: TreeBuilder,
    /// The directories that the walk is in.
    parents: Vec<NodeId>,
    /// First name of each inode that has several.
    linked: HashMap<Nid, NodeId>,
    groups: u32,
    content_bytes: u64,
    xattr_bytes: u64,
}

impl Making {
    fn new(image: &Image, root: &Inode) -> Result<Self, ErofsError> {
        let view = image.view(root, b"/")?;
        let builder = TreeBuilder::new(root.stat, &borrowed(&view))?;
        Ok(Self {
            builder,
            parents: vec![NodeId::ROOT],
            linked: HashMap::new(),
            groups: 0,
            content_bytes: 0,
            xattr_bytes: 0,
        })
    }

    fn add(&mut self, image: &Image, walk: &Walk, inode: &Inode) -> Result<(), ErofsError> {
        let view = image.view(inode, walk.path())?;
        self.count_xattrs(&view)?;
        let data;
        let content = match &view.content {
            ViewContent::None => Content::None,
            ViewContent::Target(target) => Content::Target(target),
            ViewContent::Object(digest) => Content::Object(digest),
            ViewContent::InImage => {
                let left = MAX_TREE_CONTENT_BYTES.saturating_sub(self.content_bytes);
                data = image.data(inode, "MAX_TREE_CONTENT_BYTES", left)?;
                self.content_bytes = self.content_bytes.saturating_add(data.len() as u64);
                Content::Inline(&data)
            }
        };
        let depth = walk.depth();
        self.parents.truncate(depth);
        let parent = self.parents.last().copied().unwrap_or(NodeId::ROOT);
        let group = self.group(inode);
        let id = self.builder.add(parent, walk.name(), inode.stat, &borrowed(&view), content, group)?;
        if inode.file_type() == FileType::Directory {
            self.parents.push(id);
        } else if inode.stat.nlink > 1 {
            self.linked.entry(inode.nid).or_insert(id);
        }
        Ok(())
    }

    /// The group of an inode that was seen before, which the first name then gets too; else 0.
    fn group(&mut self, inode: &Inode) -> u32 {
        let Some(first) = self.linked.get(&inode.nid) else { return 0 };
        let next = self.groups.saturating_add(1);
        let group = self.builder.link_group_or(*first, next);
        self.groups = self.groups.max(group);
        group
    }

    fn count_xattrs(&mut self, view: &View<'_>) -> Result<(), ErofsError> {
        let bytes: usize =
            view.xattrs.iter().map(|(name, value)| name.len().saturating_add(value.len())).sum();
        self.xattr_bytes = self.xattr_bytes.saturating_add(bytes as u64);
        if self.xattr_bytes > MAX_TREE_XATTR_BYTES {
            let found = self.xattr_bytes;
            return Err(ErofsError::Limit {
                name: "MAX_TREE_XATTR_BYTES",
                limit: MAX_TREE_XATTR_BYTES,
                found,
            });
        }
        Ok(())
    }
}

fn borrowed<'v>(view: &'v View<'_>) -> Vec<(&'v [u8], &'v [u8])> {
    view.xattrs.iter().map(|(name, value)| (name.as_slice(), *value)).collect()
}
