//! The rules of the merge (spec etc-merge.md, "The rules, per path"), decided per path over three trees.
//!
//! Where the table is silent or two rows could apply, these hold; all keep every byte that the admin wrote:
//!
//! * A leaf that C changed (metadata alone counts) and N dropped: C, kept. A directory of which only the metadata was
//!   changed and that N dropped comes back empty.
//! * The conflict rows are about an image that *turns* a leaf into a directory or the other way round. Where P and N
//!   are both leaves, or both directories, and C has the other kind, C wins: kept, and *image change ignored* where
//!   N differs from P.
//! * A directory that the admin deleted and N made a leaf: the leaf is an image addition, and stays, as it does where
//!   only all that was in the directory was deleted.
//! * A directory whose metadata was changed, now a leaf in N: a conflict, as any other change inside.
//! * Added on both sides: directories are merged, C's metadata wins; a directory and a leaf are a conflict.
//! * A leaf that C and N both deleted or changed the same way is reported nowhere.
//! * What is hidden by a mount, or is a socket, counts as unchanged: R has what N has.
//! * A conflict with strategy `current` keeps C's directory whole, unchanged files included.
//! * Mode bits and a POSIX ACL are one thing to the kernel, merged class by class; see `acl.rs`.
//! * Where an image's leaf is kept or dropped as a whole, so is its label.
//! * Of hard links, C's are kept among the names whose content R has from C, N's among those that it has from N.

mod compare;
mod conflict;
mod directory;
mod leaf;
mod machine_id;
mod removed;

use super::content::{ContentError, Side};
use super::draft::{Chosen, Draft};
use super::hidden::Hidden;
use super::policy::Policy;
use super::result::{Change, MergeReport, Warning};
use super::triples::Triple;
use crate::cancel::{Cancel, Ticker};
use crate::tree::{FileType, Node};

/// Never in R: systemd's stamp says that /etc was brought up to date, which a new R is not.
const UPDATED: &[u8] = b".updated";
const MACHINE_ID: &[u8] = b"machine-id";

/// Decides R. The report's lists are in no order yet.
pub(super) struct Merger<'a> {
    pub(super) p: &'a Side<'a>,
    pub(super) c: &'a Side<'a>,
    pub(super) n: &'a Side<'a>,
    pub(super) hidden: Hidden<'a>,
    pub(super) policy: &'a Policy,
    pub(super) report: MergeReport,
    /// Where the admin's label stays: the first path, and how many.
    pub(super) labels_kept: Option<(Vec<u8>, u64)>,
    /// Of the entry being decided.
    pub(super) path: Vec<u8>,
    pub(super) cancel: &'a dyn Cancel,
    pub(super) ticker: Ticker<'a>,
}

/// Drafts of one directory's entries.
type Drafts<'a> = Vec<Draft<'a>>;

impl<'a> Merger<'a> {
    /// R's root.
    pub(super) fn root(&mut self) -> Result<Draft<'a>, ContentError> {
        let (p, c, n) = (self.p.tree.root(), self.c.tree.root(), self.n.tree.root());
        self.merge_directories(Some(p), c, n)
    }

    /// Decides one name of the directory at `self.path`.
    fn entry(&mut self, names: Triple<'a>, out: &mut Drafts<'a>) -> Result<(), ContentError> {
        self.ticker.count(1);
        self.ticker.tick()?;
        let at_root = self.path.is_empty();
        if at_root && names.name == UPDATED {
            return Ok(());
        }
        let parent_len = self.enter(names.name);
        let (p, c, n) = (names.p.filter(counts), names.c, names.n.filter(counts));
        let result = if at_root && names.name == MACHINE_ID {
            self.machine_id(p, c, n, out)
        } else {
            self.decide(p, c, n, out)
        };
        self.path.truncate(parent_len);
        result
    }

    /// Decides the entry at `self.path`. Sockets of P and N must have been left out.
    fn decide(
        &mut self,
        p: Option<Node<'a>>,
        c: Option<Node<'a>>,
        n: Option<Node<'a>>,
        out: &mut Drafts<'a>,
    ) -> Result<(), ContentError> {
        if self.hidden.has(&self.path) {
            out.extend(image(n));
            return Ok(());
        }
        match c {
            None => self.removed(p, n, out),
            Some(c) if c.file_type() == FileType::Socket => {
                self.report.warnings.push(Warning::SocketIgnored { path: self.path.clone() });
                out.extend(image(n));
                Ok(())
            }
            Some(c) if c.is_dir() => self.directory(p, c, n, out),
            Some(c) => self.leaf(p, c, n, out),
        }
    }

    /// Appends a name to the path; returns what to truncate it to.
    fn enter(&mut self, name: &[u8]) -> usize {
        let len = self.path.len();
        if len > 0 {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
        len
    }

    fn change(&self, reason: impl Into<String>) -> Change {
        Change { path: self.path.clone(), reason: reason.into() }
    }

    fn kept(&mut self, reason: impl Into<String>) {
        let change = self.change(reason);
        self.report.kept.push(change);
    }

    fn label_kept(&mut self) {
        let (_, count) = self.labels_kept.get_or_insert_with(|| (self.path.clone(), 0));
        *count = count.saturating_add(1);
    }

    fn deleted(&mut self, reason: impl Into<String>) {
        let change = self.change(reason);
        self.report.deleted.push(change);
    }

    fn ignored(&mut self, reason: impl Into<String>) {
        let change = self.change(reason);
        self.report.image_changes_ignored.push(change);
    }
}

/// The image's entry, if it has one.
fn image(n: Option<Node<'_>>) -> Option<Draft<'_>> {
    n.map(|n| Draft::whole(Chosen::new_image(n)))
}

/// Sockets are ignored on all sides.
fn counts(node: &Node<'_>) -> bool {
    node.file_type() != FileType::Socket
}

/// A type in words.
fn kind(node: Node<'_>) -> &'static str {
    match node.file_type() {
        FileType::Regular => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::CharDevice => "character device",
        FileType::BlockDevice => "block device",
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
    }
}
