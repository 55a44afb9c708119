//! Carrying out the operations, one by one.

use std::collections::HashSet;
use std::os::fd::AsFd;

use rustix::fs::{self, AtFlags, Mode};
use rustix::io::{Errno, retry_on_intr};

use super::Pass;
use super::anew::Look;
use super::content::{ContentSource, CopyError, Written, write_anew, write_content};
use super::destination::{Destination, create_beneath, join, split_name};
use super::error::{ApplyError, During, Warning};
use super::inode::{Inode, set_attributes};
use super::place::Temporary;
use crate::cancel::{Cancel, Cancelled};
use crate::etc::attributes::Attributes;
use crate::etc::content::ContentError;
use crate::etc::ops::{Make, OWNER_ALL, Operation};
use crate::tree::{FileType, Node, NodeId, Tree};

/// What the carrying-out needs and what it counts.
pub(super) struct Runner<'r> {
    pub(super) result: &'r Tree,
    /// The destination as it was scanned.
    pub(super) before: &'r Tree,
    pub(super) source: &'r dyn ContentSource,
    pub(super) destination: Destination,
    pub(super) cancel: &'r dyn Cancel,
    pub(super) bytes_copied: u64,
    pub(super) warnings: Vec<Warning>,
    /// What becomes of what is not as it was planned with.
    pub(super) pass: Pass,
    /// Nodes of the result that were not made.
    pub(super) missing: HashSet<NodeId>,
    /// Those of them that are to be planned again.
    pub(super) stale: Vec<NodeId>,
}

impl Runner<'_> {
    pub(super) fn run(&mut self, operation: &Operation) -> Result<(), ApplyError> {
        let path = operation.path(self.result, self.before);
        match *operation {
            Operation::Unlock(_) => self.unlock(&path),
            Operation::Remove { old, .. } => self.remove(&path, self.before.node(old)),
            Operation::Make { what, node, old } => {
                self.make(what, &path, self.result.node(node), old.map(|old| self.before.node(old)))
            }
            Operation::SetAttributes { node, which } => {
                self.set_attributes(&path, self.result.node(node), which)
            }
        }
    }

    fn make(
        &mut self,
        what: Make,
        path: &[u8],
        node: Node<'_>,
        old: Option<Node<'_>>,
    ) -> Result<(), ApplyError> {
        match what {
            Make::Directory => self.make_directory(path, node, old),
            Make::File => self.write_file(path, node, old),
            Make::Link { first } => self.link(path, node, first, old),
            Make::Symlink => self.make_symlink(path, node, old),
            Make::Node => self.make_node(path, node, old),
        }
    }

    fn unlock(&mut self, path: &[u8]) -> Result<(), ApplyError> {
        let inode = self.destination.inode(path, FileType::Directory)?;
        let mode = inode.stat().during("look at", path)?.st_mode;
        inode.chmod(mode | OWNER_ALL).during("set mode of", path)
    }

    fn set_attributes(&mut self, path: &[u8], node: Node<'_>, which: Attributes) -> Result<(), ApplyError> {
        let inode = self.destination.inode(path, node.file_type())?;
        set_attributes(&inode, node, which, path, &mut self.warnings)
    }

    fn make_directory(
        &mut self,
        path: &[u8],
        node: Node<'_>,
        old: Option<Node<'_>>,
    ) -> Result<(), ApplyError> {
        let (parent, name) = split_name(path);
        let dir = self.destination.directory(parent)?;
        let make = |dir: std::os::fd::BorrowedFd<'_>, name: &[u8]| fs::mkdirat(dir, name, Mode::RWXU);
        if old.is_none() {
            return retry_on_intr(|| make(dir, name)).during("make directory", path);
        }
        let wanted = Some(node.parent());
        let (temporary, ()) = Temporary::make(dir, wanted, true, make).during("make directory", path)?;
        self.put(temporary, path, old)
    }

    fn write_file(&mut self, path: &[u8], node: Node<'_>, old: Option<Node<'_>>) -> Result<(), ApplyError> {
        let (parent, _) = split_name(path);
        let dir = self.destination.directory(parent)?;
        let made = Temporary::make(dir, Some(node.parent()), false, create_beneath);
        let (temporary, fd) = made.during("create file", path)?;
        let written = write_content(self.source, node, fd.as_fd(), self.cancel).and_then(|written| {
            let is_taken_as_it_is = self.pass != Pass::First && matches!(written, Written::Stale);
            if is_taken_as_it_is {
                write_anew(self.source, node, fd.as_fd(), self.cancel)
            } else {
                Ok(written)
            }
        });
        let (bytes, look) = match written.map_err(|error| describe(error, path))? {
            Written::Bytes(bytes) => (bytes, None),
            Written::Anew { bytes, look } => {
                self.warnings.push(Warning::Changed { path: path.to_vec() });
                (bytes, Some(look))
            }
            Written::Stale => {
                drop(temporary);
                return self.miss(path, node, old);
            }
        };
        self.bytes_copied = self.bytes_copied.saturating_add(bytes);
        let inode = Inode::created(fd);
        let attributes = look.as_ref().and_then(Look::node).unwrap_or(node);
        set_attributes(&inode, attributes, Attributes::ALL, path, &mut self.warnings)?;
        self.put(temporary, path, old)
    }

    /// There is nothing that could be written: it is planned again; in the end it counts as deleted if it is gone.
    fn miss(&mut self, path: &[u8], node: Node<'_>, old: Option<Node<'_>>) -> Result<(), ApplyError> {
        self.missing.insert(node.id());
        if self.pass != Pass::Last {
            self.stale.push(node.id());
            return Ok(());
        }
        if !self.source.is_gone(node) {
            return Err(ApplyError::Unsettled { path: path.to_vec() });
        }
        self.warnings.push(Warning::Vanished { path: path.to_vec() });
        old.map_or(Ok(()), |old| self.remove(path, old))
    }

    fn link(
        &mut self,
        path: &[u8],
        node: Node<'_>,
        first: NodeId,
        old: Option<Node<'_>>,
    ) -> Result<(), ApplyError> {
        if self.missing.contains(&first) {
            return self.write_leaf(path, node, old);
        }
        let target = self.result.node(first).path();
        let (target_parent, target_name) = split_name(&target);
        let from = self.destination.directory(target_parent)?;
        let from = rustix::io::fcntl_dupfd_cloexec(from, 3).during("open directory", target_parent)?;
        let (parent, _) = split_name(path);
        let dir = self.destination.directory(parent)?;
        let made = Temporary::make(dir, Some(node.parent()), false, |dir, name| {
            fs::linkat(&from, target_name, dir, name, AtFlags::empty())
        });
        match made {
            Ok((temporary, ())) => self.put(temporary, path, old),
            // Too many names, or a file system without hard links.
            Err(error @ (Errno::MLINK | Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS)) => {
                self.warnings.push(Warning::NotLinked { path: path.to_vec(), error });
                self.write_leaf(path, node, old)
            }
            Err(error) => Err(error).during("link", path),
        }
    }

    fn write_leaf(&mut self, path: &[u8], node: Node<'_>, old: Option<Node<'_>>) -> Result<(), ApplyError> {
        match node.file_type() {
            FileType::Regular => self.write_file(path, node, old),
            FileType::Symlink => self.make_symlink(path, node, old),
            _ => self.make_node(path, node, old),
        }
    }

    fn make_symlink(&mut self, path: &[u8], node: Node<'_>, old: Option<Node<'_>>) -> Result<(), ApplyError> {
        let crate::tree::Content::Target(target) = node.content() else {
            return Err(Errno::INVAL).during("make symlink", path);
        };
        self.make_leaf("make symlink", path, node, old, |dir, name| fs::symlinkat(target, dir, name))
    }

    fn make_node(&mut self, path: &[u8], node: Node<'_>, old: Option<Node<'_>>) -> Result<(), ApplyError> {
        let kind = match node.file_type() {
            FileType::CharDevice => fs::FileType::CharacterDevice,
            FileType::BlockDevice => fs::FileType::BlockDevice,
            _ => fs::FileType::Fifo,
        };
        let mode = Mode::RUSR | Mode::WUSR;
        let rdev = node.stat().rdev;
        self.make_leaf("make node", path, node, old, |dir, name| fs::mknodat(dir, name, kind, mode, rdev))
    }

    fn make_leaf(
        &mut self,
        step: &'static str,
        path: &[u8],
        node: Node<'_>,
        old: Option<Node<'_>>,
        make: impl FnMut(std::os::fd::BorrowedFd<'_>, &[u8]) -> Result<(), Errno>,
    ) -> Result<(), ApplyError> {
        let (parent, _) = split_name(path);
        let dir = self.destination.directory(parent)?;
        let (temporary, ()) = Temporary::make(dir, Some(node.parent()), false, make).during(step, path)?;
        let inode = Inode::open(temporary.dir(), temporary.name(), node.file_type()).during("open", path)?;
        set_attributes(&inode, node, Attributes::ALL, path, &mut self.warnings)?;
        self.put(temporary, path, old)
    }

    /// Gives what was made its name, and removes what had it.
    fn put(&mut self, temporary: Temporary, path: &[u8], old: Option<Node<'_>>) -> Result<(), ApplyError> {
        let (parent, name) = split_name(path);
        let old_is_dir = old.map(|old| old.is_dir());
        let aside = temporary.put(name, old_is_dir).during("put in place", path)?;
        let (Some(aside), Some(old)) = (aside, old) else { return Ok(()) };
        self.destination.forget();
        self.remove(&join(parent, &aside), old)
    }

    /// Removes what the scan found as `old`, now at `path`, with everything below it.
    fn remove(&mut self, path: &[u8], old: Node<'_>) -> Result<(), ApplyError> {
        let skip = old.path().len();
        let mut nodes = vec![old];
        let mut next = 0usize;
        // Parents before children; so from the end, children before parents.
        while let Some(node) = nodes.get(next).copied() {
            next = next.saturating_add(1);
            nodes.extend(node.children());
        }
        let place = |node: Node<'_>| {
            let whole = node.path();
            [path, whole.get(skip..).unwrap_or_default()].concat()
        };
        for node in nodes.iter().filter(|node| node.is_dir() && node.children().len() > 0) {
            if node.stat().mode & OWNER_ALL != OWNER_ALL {
                self.unlock(&place(*node))?;
            }
        }
        for (count, node) in nodes.iter().rev().enumerate() {
            if count > 0 && count.is_multiple_of(64) {
                self.cancel.check()?;
            }
            self.unlink(&place(*node), node.is_dir())?;
        }
        Ok(())
    }

    fn unlink(&mut self, path: &[u8], is_dir: bool) -> Result<(), ApplyError> {
        let (parent, name) = split_name(path);
        if is_dir {
            self.destination.forget();
        }
        let dir = self.destination.directory(parent)?;
        let flags = if is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        match retry_on_intr(|| fs::unlinkat(dir, name, flags)) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error).during("remove", path),
        }
    }
}

fn describe(error: CopyError, path: &[u8]) -> ApplyError {
    match error {
        CopyError::Open(ContentError::Cancelled(cancelled)) => cancelled.into(),
        CopyError::Open(source) => ApplyError::Content { path: path.to_vec(), source },
        CopyError::Read(source) => {
            ApplyError::Io { step: "read the content of", path: path.to_vec(), source }
        }
        CopyError::Write(source) => ApplyError::Io { step: "write", path: path.to_vec(), source },
        CopyError::Cancelled => Cancelled.into(),
    }
}
