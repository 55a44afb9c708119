//! R while it is being decided: subtrees taken whole from one side, and nodes with merged attributes.

use std::borrow::Cow;
use std::collections::HashMap;

use super::meta::{Blend, Xattrs};
use super::result::{Origin, SideName};
use crate::cancel::{Cancelled, Ticker};
use crate::tree::{BuildError, FileType, Node, NodeId, Stat, Tree, TreeBuilder};

/// A node of one side.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chosen<'t> {
    pub(super) side: SideName,
    pub(super) node: Node<'t>,
}

impl<'t> Chosen<'t> {
    pub(super) fn current(node: Node<'t>) -> Self {
        Self { side: SideName::Current, node }
    }

    pub(super) fn new_image(node: Node<'t>) -> Self {
        Self { side: SideName::New, node }
    }

    fn origin(self) -> Origin {
        Origin { side: self.side, node: self.node.id() }
    }
}

/// An entry of R.
#[derive(Debug)]
pub(super) struct Draft<'t> {
    pub(super) name: Cow<'t, [u8]>,
    pub(super) body: Body<'t>,
}

#[derive(Debug)]
pub(super) enum Body<'t> {
    /// A node with all attributes and all that is in it, but sockets.
    Whole(Chosen<'t>),
    Made(Box<Made<'t>>),
}

/// A node whose attributes, or children, are not all of one side.
#[derive(Debug)]
pub(super) struct Made<'t> {
    pub(super) permissions: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) xattrs: Xattrs<'t>,
    /// Content, size and time of last modification.
    pub(super) origin: Chosen<'t>,
    pub(super) children: Vec<Draft<'t>>,
}

impl<'t> Made<'t> {
    pub(super) fn blended(blend: Blend<'t>, origin: Chosen<'t>, children: Vec<Draft<'t>>) -> Self {
        let Blend { permissions, uid, gid, xattrs, .. } = blend;
        Self { permissions, uid, gid, xattrs, origin, children }
    }

    /// The attributes of `meta`, the content of `origin`.
    pub(super) fn with_meta_of(meta: Node<'t>, origin: Chosen<'t>, children: Vec<Draft<'t>>) -> Self {
        let stat = meta.stat();
        Self {
            permissions: stat.mode & 0o7777,
            uid: stat.uid,
            gid: stat.gid,
            xattrs: meta.xattrs().map(|xattr| (xattr.name, Cow::Borrowed(xattr.value))).collect(),
            origin,
            children,
        }
    }

    fn stat(&self) -> Stat {
        let origin = self.origin.node.stat();
        // A symlink's permission bits mean nothing and cannot be set: they stay what they are.
        let is_link = origin.file_type() == FileType::Symlink;
        let bits = if is_link { origin.mode & 0o7777 } else { self.permissions };
        Stat { mode: origin.mode & 0o170_000 | bits, uid: self.uid, gid: self.gid, ..*origin }
    }

    fn borrowed_xattrs(&self) -> Vec<(&[u8], &[u8])> {
        self.xattrs.iter().map(|(name, value)| (*name, value.as_ref())).collect()
    }
}

impl<'t> Draft<'t> {
    pub(super) fn whole(from: Chosen<'t>) -> Self {
        Self { name: Cow::Borrowed(from.node.name()), body: Body::Whole(from) }
    }

    pub(super) fn made(name: &'t [u8], made: Made<'t>) -> Self {
        Self { name: Cow::Borrowed(name), body: Body::Made(Box::new(made)) }
    }

    /// Whether this is an image's node, whole and under its own name.
    pub(super) fn is_image_child_of(&self, parent: Node<'t>) -> bool {
        match &self.body {
            Body::Whole(Chosen { side: SideName::New, node }) => {
                node.parent().id() == parent.id() && self.name == node.name()
            }
            _ => false,
        }
    }

    /// Breaks the draft down into its nodes, each before its children.
    fn visit<'d>(
        &'d self,
        visit: &mut dyn FnMut(Step<'d, 't>) -> Result<NodeId, BuildError>,
        ticker: &mut Ticker<'_>,
    ) -> Result<(), DraftError> {
        let mut pending = vec![(Step { name: &self.name, parent: NodeId::ROOT, item: Item::of(self) })];
        while let Some(step) = pending.pop() {
            ticker.tick()?;
            let item = step.item;
            if item.node().file_type() == FileType::Socket {
                continue;
            }
            let parent = visit(step)?;
            match item {
                Item::Made(made) => {
                    let children = made.children.iter();
                    pending.extend(children.map(|child| Step {
                        name: &child.name,
                        parent,
                        item: Item::of(child),
                    }));
                }
                Item::Whole(Chosen { side, node }) => pending.extend(node.children().map(|node| Step {
                    name: node.name(),
                    parent,
                    item: Item::Whole(Chosen { side, node }),
                })),
            }
        }
        Ok(())
    }
}

/// Why a draft does not become a tree.
#[derive(Debug, thiserror::Error)]
pub(super) enum DraftError {
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

struct Step<'d, 't> {
    name: &'d [u8],
    parent: NodeId,
    item: Item<'d, 't>,
}

#[derive(Clone, Copy)]
enum Item<'d, 't> {
    Whole(Chosen<'t>),
    Made(&'d Made<'t>),
}

impl<'d, 't> Item<'d, 't> {
    fn of(draft: &'d Draft<'t>) -> Self {
        match &draft.body {
            Body::Whole(from) => Self::Whole(*from),
            Body::Made(made) => Self::Made(made),
        }
    }

    fn from(&self) -> Chosen<'t> {
        match self {
            Self::Whole(from) => *from,
            Self::Made(made) => made.origin,
        }
    }

    fn node(&self) -> Node<'t> {
        self.from().node
    }

    /// What names of R must have in common to be names of one inode: the inode, and all attributes.
    fn link_key(&self) -> Option<LinkKey> {
        let Chosen { side, node } = self.from();
        let group = node.link_group().filter(|_| !node.is_dir())?;
        let attributes = match self {
            Self::Whole(_) => None,
            Self::Made(made) => {
                let xattrs = made.xattrs.iter().map(|(name, value)| (name.to_vec(), value.to_vec()));
                Some((made.stat().mode, made.uid, made.gid, xattrs.collect()))
            }
        };
        Some((side, group, attributes))
    }
}

type LinkKey = (SideName, u32, Option<(u32, u32, u32, Vec<(Vec<u8>, Vec<u8>)>)>);

/// A link group of R: its number and how many names it has.
type Links = HashMap<LinkKey, (u32, u32)>;

/// R, and where each of its nodes is from; `expected`: about how many nodes it has.
pub(super) fn build(
    root: &Draft<'_>,
    expected: usize,
    has_links: bool,
    ticker: &mut Ticker<'_>,
) -> Result<(Tree, Vec<Origin>), DraftError> {
    let mut links = Links::new();
    if has_links {
        // Of two names of an inode, R may have one: so they are counted first.
        root.visit(
            &mut |step| {
                if let Some(key) = step.item.link_key() {
                    let next = u32::try_from(links.len()).unwrap_or(u32::MAX).saturating_add(1);
                    let (_, names) = links.entry(key).or_insert((next, 0));
                    *names = names.saturating_add(1);
                }
                Ok(NodeId::ROOT)
            },
            ticker,
        )?;
    }
    let mut builder: Option<TreeBuilder> = None;
    let mut origins = Vec::with_capacity(expected);
    root.visit(
        &mut |step| {
            origins.push(step.item.from().origin());
            match &mut builder {
                Some(builder) => add(builder, &step, &links),
                slot => {
                    slot.insert(start(&step.item)?).reserve(expected);
                    Ok(NodeId::ROOT)
                }
            }
        },
        ticker,
    )?;
    // The root is a directory and was visited; a root that is none fails in `start`.
    let builder = builder.ok_or(BuildError::Mode { mode: 0 })?;
    Ok((builder.finish()?, origins))
}

fn start(item: &Item<'_, '_>) -> Result<TreeBuilder, BuildError> {
    match item {
        Item::Made(made) => TreeBuilder::new(made.stat(), &made.borrowed_xattrs()),
        Item::Whole(Chosen { node, .. }) => {
            let xattrs: Vec<_> = node.xattrs().map(|xattr| (xattr.name, xattr.value)).collect();
            TreeBuilder::new(*node.stat(), &xattrs)
        }
    }
}

fn add(builder: &mut TreeBuilder, step: &Step<'_, '_>, links: &Links) -> Result<NodeId, BuildError> {
    let node = step.item.node();
    let (group, names) = step
        .item
        .link_key()
        .and_then(|key| links.get(&key).copied())
        .filter(|(_, names)| *names > 1)
        .unwrap_or((0, 1));
    let with_links = |stat: Stat| if node.is_dir() { stat } else { Stat { nlink: names, ..stat } };
    match &step.item {
        Item::Made(made) => {
            let stat = with_links(made.stat());
            builder.add(step.parent, step.name, stat, &made.borrowed_xattrs(), node.content(), group)
        }
        Item::Whole(_) => {
            let xattrs: Vec<_> = node.xattrs().map(|xattr| (xattr.name, xattr.value)).collect();
            let stat = with_links(*node.stat());
            builder.add(step.parent, step.name, stat, &xattrs, node.content(), group)
        }
    }
}
