//! What a merge decided: the result R as a tree, where each of its contents comes from, and the report.

use std::borrow::Cow;

use crate::text::Shown;
use crate::tree::{NodeId, Tree};

/// One of the three trees of a merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SideName {
    /// P: /etc of the booted image.
    Pristine,
    /// C: the running /etc.
    Current,
    /// N: /etc of the staged image.
    New,
}

/// The node whose content, target or device number a node of R has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin {
    /// In this tree; never [`SideName::Pristine`]: what only P has is in no result.
    pub side: SideName,
    /// This node; of the same type as the node of R.
    pub node: NodeId,
}

/// What happens on a conflict (spec etc-merge.md, "Conflicts").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// Nothing may be written; R is made as with [`Strategy::Current`], to be looked at only.
    Fail,
    /// The admin's version wins, the image's leaf is kept as `<name>.bootc-new`.
    Current,
    /// The image's version wins, the admin's is kept as `<name>.bootc-saved`.
    New,
}

impl Strategy {
    /// As the policy files and the command line spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Current => "current",
            Self::New => "new",
        }
    }

    /// The inverse of [`Strategy::name`].
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Fail, Self::Current, Self::New].into_iter().find(|strategy| strategy.name() == name)
    }
}

/// One line of a list of the report.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Below /etc, without a leading slash; empty for /etc itself.
    pub path: Vec<u8>,
    /// In words, for people.
    pub reason: String,
}

/// Two changes of one path that no rule can join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Below /etc, without a leading slash.
    pub path: Vec<u8>,
    /// What the admin has there, in words.
    pub current: String,
    /// What the image has there, in words.
    pub new: String,
    /// What the policy chose.
    pub strategy: Strategy,
    /// Where the version that lost is kept in R; `None` for an image's directory, which is not kept.
    pub saved_as: Option<Vec<u8>>,
}

/// Something worth knowing that is no error.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Warning {
    /// A mount hides this path of the running /etc; R has what N has.
    MountNotCrossed {
        /// Below /etc.
        path: Vec<u8>,
    },
    /// A socket is never carried over.
    SocketIgnored {
        /// Below /etc.
        path: Vec<u8>,
    },
    /// It is immutable or append-only here, and not in R: what replaces R one day could not.
    FlagsNotCarried {
        /// Below /etc.
        path: Vec<u8>,
        /// `chattr +i`; else only `chattr +a`.
        is_immutable: bool,
    },
    /// Both sides changed it, and the image's is in R.
    Overruled {
        /// Below /etc.
        path: Vec<u8>,
        /// A program makes it anew; else the policy says so.
        is_machine_made: bool,
        /// Where the admin's content is kept.
        saved_as: Option<Vec<u8>>,
    },
    /// Labels (`security.selinux`) that the admin gave are kept, on so many paths: relabelling is no edit, and yet stays.
    LabelsKept {
        /// The first of them, below /etc.
        path: Vec<u8>,
        /// All of them; at least 1.
        count: u64,
    },
}

impl Warning {
    /// The path that it is about, below /etc.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        let (Self::MountNotCrossed { path }
        | Self::SocketIgnored { path }
        | Self::Overruled { path, .. }
        | Self::FlagsNotCarried { path, .. }
        | Self::LabelsKept { path, .. }) = self;
        path
    }

    /// What about the path, in words.
    #[must_use]
    pub fn text(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::MountNotCrossed { .. } => "a mount point, not looked into: left as the new image has it",
            Self::SocketIgnored { .. } => "a socket, not carried over",
            Self::FlagsNotCarried { is_immutable: true, .. } => {
                "immutable here (chattr +i), which is not carried over"
            }
            Self::FlagsNotCarried { is_immutable: false, .. } => {
                "append-only here (chattr +a), which is not carried over"
            }
            Self::Overruled { is_machine_made: true, .. } => {
                "changed here and in the new image; made by a program, so the image's is taken"
            }
            Self::Overruled { saved_as: None, .. } => {
                "changed here and in the new image; the image's is taken, as merge.toml says"
            }
            Self::Overruled { saved_as: Some(name), .. } => {
                return Cow::Owned(format!(
                    "changed here and in the new image; the image's is taken, as merge.toml says, the one from here is kept as /etc/{}",
                    Shown(name)
                ));
            }
            Self::LabelsKept { count: 1, .. } => "the SELinux label that it was given here is kept",
            Self::LabelsKept { count, .. } => {
                let others = count.saturating_sub(1);
                return Cow::Owned(format!(
                    "the SELinux label that it was given here is kept, and those of {others} more"
                ));
            }
        })
    }
}

/// Lists in byte order of their paths.
#[derive(Debug, Clone, Default)]
pub struct MergeReport {
    /// Every path of R that differs from N because of the admin.
    pub kept: Vec<Change>,
    /// Every path that P and N have and the admin removed.
    pub deleted: Vec<Change>,
    /// Every path where the image changed something that R does not have.
    pub image_changes_ignored: Vec<Change>,
    /// What the image added under a directory that the admin removed.
    pub image_additions_kept: Vec<Change>,
    /// All of them, whatever the strategy.
    pub conflicts: Vec<Conflict>,
    /// What else there is to know.
    pub warnings: Vec<Warning>,
    /// Symlinks of R that lead nowhere in the new deployment, and lead somewhere in the running one.
    pub dangling_links: Vec<Change>,
}

impl MergeReport {
    /// The conflicts that forbid writing R.
    pub fn fatal_conflicts(&self) -> impl Iterator<Item = &Conflict> {
        self.conflicts.iter().filter(|conflict| conflict.strategy == Strategy::Fail)
    }
}

/// What a merge decided.
#[derive(Debug)]
pub struct MergeResult {
    /// R, all attributes merged. Its contents are those of the origins: [`crate::tree::Content::OnDisk`] means the
    /// file under the origin's directory, at the *origin's* path, which a saved name makes another one.
    pub tree: Tree,
    /// By node of R.
    pub content_from: Vec<Origin>,
    /// What was decided, for people.
    pub report: MergeReport,
    /// A file was not what the scan saw when it was read: the sides are to be scanned, and merged, again.
    pub is_stale: bool,
}

impl MergeResult {
    /// Where the content of a node of R comes from.
    #[must_use]
    pub fn origin(&self, node: NodeId) -> Option<Origin> {
        self.content_from.get(node.0 as usize).copied()
    }
}
