//! Symlinks of R that lead nowhere once the new deployment runs.

use std::collections::VecDeque;

use super::result::Change;
use crate::cancel::{Cancelled, Ticker};
use crate::erofs::{ErofsError, Image};
use crate::text::Shown;
use crate::tree::{Content, FileType, Node, Tree};

/// `MAXSYMLINKS` of Linux.
const MAX_HOPS: u32 = 40;

/// What is filled at run time, or is a mount or state of its own: nobody can say what will be there.
const RUNTIME: [&[u8]; 10] =
    [b"dev", b"proc", b"sys", b"run", b"tmp", b"var", b"boot", b"efi", b"sysroot", b"mnt"];

/// Where a path leads.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Yes,
    No,
    /// Out of what is known: run-time directories, and all but /etc where there is no image.
    Unknown,
}

/// A root directory: its `/etc`, and the image that holds all else, where there is one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Root<'t> {
    pub(super) etc: &'t Tree,
    pub(super) image: Option<&'t Image>,
}

/// Finds symlinks of R that lead nowhere in the new deployment and lead somewhere here, in byte order of their paths.
///
/// What leads nowhere here does no harm by doing so still. Without an image only links that stay in /etc can be
/// judged. Targets are resolved as the kernel would with the image as root, by binary searches in its directories:
/// a walk of the whole image, which can have a million files, for some dozen links cost more than all of planning.
pub(super) fn dangling_links(
    new: Root<'_>,
    running: Root<'_>,
    ticker: &mut Ticker<'_>,
) -> Result<Vec<Change>, Cancelled> {
    let mut found = Vec::new();
    let mut pending = vec![new.etc.root()];
    while let Some(node) = pending.pop() {
        ticker.tick()?;
        pending.extend(node.children());
        let Content::Target(target) = node.content() else { continue };
        let from = node.parent().path();
        if resolve(new, &from, target) != Found::No {
            continue;
        }
        let here = resolve(running, &from, target);
        if here == Found::Yes || (here == Found::Unknown && running.image.is_none()) {
            let what = if is_enablement(node) { "enablement link" } else { "symlink" };
            let reason = format!("{what} to {}, which does not exist any more", Shown(target));
            found.push(Change { path: node.path(), reason });
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn is_enablement(node: Node<'_>) -> bool {
    let parent = node.parent();
    parent.name().ends_with(b".wants") || parent.name().ends_with(b".requires")
}

/// Follows `target` as it stands in the directory `from` below /etc.
fn resolve(root: Root<'_>, from: &[u8], target: &[u8]) -> Found {
    let mut walk = Walk { root, at: vec![b"etc".to_vec()] };
    walk.at.extend(from.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).map(<[u8]>::to_vec));
    let mut rest: VecDeque<Vec<u8>> = VecDeque::new();
    let mut hops = 0u32;
    // `file/` names a directory, whatever comes before.
    let mut is_directory_asked = asks_for_directory(target);
    walk.push(&mut rest, target);
    while let Some(name) = rest.pop_front() {
        if name == b".." {
            walk.at.pop();
            continue;
        }
        walk.at.push(name);
        if walk.is_runtime() {
            return Found::Unknown;
        }
        match walk.look() {
            Look::Unknown => return Found::Unknown,
            Look::Link(next) => {
                hops = hops.saturating_add(1);
                if hops >= MAX_HOPS {
                    return Found::No;
                }
                walk.at.pop();
                is_directory_asked |= rest.is_empty() && asks_for_directory(&next);
                walk.push(&mut rest, &next);
            }
            Look::Directory => {}
            Look::Other if rest.is_empty() && !is_directory_asked => {}
            Look::Absent | Look::Other => return Found::No,
        }
    }
    Found::Yes
}

fn asks_for_directory(target: &[u8]) -> bool {
    target.ends_with(b"/") || target.ends_with(b"/.")
}

enum Look {
    /// A symlink to this.
    Link(Vec<u8>),
    Directory,
    Other,
    Absent,
    Unknown,
}

/// A place in the new deployment's root: names from the root, free of symlinks.
struct Walk<'t> {
    root: Root<'t>,
    at: Vec<Vec<u8>>,
}

impl Walk<'_> {
    /// Puts the components of a target before what is left to walk; an absolute one starts at the root.
    fn push(&mut self, rest: &mut VecDeque<Vec<u8>>, target: &[u8]) {
        if target.first() == Some(&b'/') {
            self.at.clear();
        }
        let names = target.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
        for name in names.rev() {
            rest.push_front(name.to_vec());
        }
    }

    fn is_runtime(&self) -> bool {
        self.at.first().is_some_and(|top| RUNTIME.contains(&top.as_slice()))
    }

    fn look(&self) -> Look {
        match (self.at.split_first(), self.root.image) {
            (Some((top, below)), _) if top == b"etc" => look_in_tree(self.root.etc, &below.join(&b'/')),
            (_, Some(image)) => look_in_image(image, &self.at),
            (_, None) => Look::Unknown,
        }
    }
}

fn look_in_tree(tree: &Tree, path: &[u8]) -> Look {
    match tree.find(path).map(|node| (node.content(), node.is_dir())) {
        None => Look::Absent,
        Some((Content::Target(target), _)) => Look::Link(target.to_vec()),
        Some((_, true)) => Look::Directory,
        Some((_, false)) => Look::Other,
    }
}

fn look_in_image(image: &Image, at: &[Vec<u8>]) -> Look {
    let found = image.find(&at.join(&b'/')).and_then(|inode| match inode.file_type() {
        FileType::Symlink => image.symlink_target(&inode).map(|target| Look::Link(target.into_owned())),
        FileType::Directory => Ok(Look::Directory),
        _ => Ok(Look::Other),
    });
    match found {
        Ok(look) => look,
        Err(ErofsError::NotFound { .. } | ErofsError::NotADirectory { .. }) => {
            // A directory that an image has empty is there to be mounted on, or filled: /nix, /opt, /srv, /home.
            let above = at.split_last().map(|(_, above)| above).unwrap_or_default();
            if is_empty(image, above) { Look::Unknown } else { Look::Absent }
        }
        // Of an image that is corrupt there, nobody can say what it has; its /etc was walked and is not.
        Err(_) => Look::Unknown,
    }
}

fn is_empty(image: &Image, at: &[Vec<u8>]) -> bool {
    let path = at.join(&b'/');
    let is_directory = image.find(&path).is_ok_and(|inode| inode.file_type() == FileType::Directory);
    let first = || -> Result<bool, ErofsError> {
        let mut walk = crate::erofs::Walk::new(image, &path)?;
        // The directory itself comes first.
        walk.next(image)?;
        Ok(walk.next(image)?.is_none())
    };
    is_directory && first().unwrap_or(false)
}
