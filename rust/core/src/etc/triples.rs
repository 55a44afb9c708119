//! Going through three directories at once, name by name.

use std::iter::{Flatten, Peekable};
use std::option;

use crate::tree::{Children, Node};

type Sorted<'t> = Peekable<Flatten<option::IntoIter<Children<'t>>>>;

/// What P, C and N have under one name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Triple<'t> {
    pub(super) name: &'t [u8],
    pub(super) p: Option<Node<'t>>,
    pub(super) c: Option<Node<'t>>,
    pub(super) n: Option<Node<'t>>,
}

/// All names in any of the directories, in byte order. What is absent, or no directory, has no names.
#[derive(Debug)]
pub(super) struct Triples<'t> {
    p: Sorted<'t>,
    c: Sorted<'t>,
    n: Sorted<'t>,
}

impl<'t> Triples<'t> {
    pub(super) fn new(p: Option<Node<'t>>, c: Option<Node<'t>>, n: Option<Node<'t>>) -> Self {
        let sorted =
            |node: Option<Node<'t>>| node.map(|node| node.children()).into_iter().flatten().peekable();
        Self { p: sorted(p), c: sorted(c), n: sorted(n) }
    }
}

impl<'t> Iterator for Triples<'t> {
    type Item = Triple<'t>;

    fn next(&mut self) -> Option<Triple<'t>> {
        let heads = [self.p.peek(), self.c.peek(), self.n.peek()];
        let name = heads.into_iter().flatten().map(Node::name).min()?;
        let take = |side: &mut Sorted<'t>| side.next_if(|node| node.name() == name);
        Some(Triple { name, p: take(&mut self.p), c: take(&mut self.c), n: take(&mut self.n) })
    }
}
