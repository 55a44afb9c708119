//! Symlinks of R that lead nowhere once the new deployment runs.

use std::collections::VecDeque;

use super::result::Change;
use crate::cancel::{Cancelled, Ticker};
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

/// Finds symlinks of R whose target exists neither in the new image nor in R, in byte order of their paths.
///
/// `image`: the whole new image, whose `etc` R takes the place of; without it only links that stay in /etc can be
/// judged. Targets are resolved as the kernel would with the image as root.
pub(super) fn dangling_links(
    result: &Tree,
    image: Option<&Tree>,
    ticker: &mut Ticker<'_>,
) -> Result<Vec<Change>, Cancelled> {
    let mut found = Vec::new();
    let mut pending = vec![result.root()];
    while let Some(node) = pending.pop() {
        ticker.tick()?;
        pending.extend(node.children());
        let Content::Target(target) = node.content() else { continue };
        let from = node.parent().path();
        if resolve(result, image, &from, target) == Found::No {
            let what = if is_enablement(node) { "enablement link" } else { "symlink" };
            let reason = format!("{what} to {}, which does not exist", target.escape_ascii());
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
fn resolve(result: &Tree, image: Option<&Tree>, from: &[u8], target: &[u8]) -> Found {
    let mut walk = Walk { result, image, at: vec![b"etc".to_vec()] };
    walk.at.extend(from.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).map(<[u8]>::to_vec));
    let mut rest: VecDeque<Vec<u8>> = VecDeque::new();
    let mut hops = 0u32;
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
            Look::Absent => return Found::No,
            Look::Node(node) => {
                if let Content::Target(next) = node.content() {
                    hops = hops.saturating_add(1);
                    if hops >= MAX_HOPS {
                        return Found::No;
                    }
                    let next = next.to_vec();
                    walk.at.pop();
                    walk.push(&mut rest, &next);
                } else if !rest.is_empty() && node.file_type() != FileType::Directory {
                    return Found::No;
                }
            }
        }
    }
    Found::Yes
}

enum Look<'t> {
    Node(Node<'t>),
    Absent,
    Unknown,
}

/// A place in the new deployment's root: names from the root, free of symlinks.
struct Walk<'t> {
    result: &'t Tree,
    image: Option<&'t Tree>,
    at: Vec<Vec<u8>>,
}

impl<'t> Walk<'t> {
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

    fn look(&self) -> Look<'t> {
        let (tree, names) = match self.at.split_first() {
            Some((top, below)) if top == b"etc" => (self.result, below),
            _ => match self.image {
                Some(image) => (image, self.at.as_slice()),
                None => return Look::Unknown,
            },
        };
        tree.find(&names.join(&b'/')).map_or(Look::Absent, Look::Node)
    }
}
