//! Whether nodes of different sides are the same, alone or with all that is in them.

use super::Merger;
use super::counts;
use crate::etc::content::{ContentError, Side, same_content};
use crate::etc::meta::same_meta;
use crate::etc::triples::Triples;
use crate::tree::{FileType, Node};

/// What the admin did to a directory and all in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Divergence {
    /// Unchanged to the last leaf.
    Nothing,
    /// Things were only deleted.
    OnlyDeleted,
    /// Something was changed or added.
    Changed,
}

impl<'a> Merger<'a> {
    /// Content of a node of P or N and one of C.
    pub(super) fn same_as_current(
        &mut self,
        side: &Side<'_>,
        image: Node<'_>,
        c: Node<'_>,
    ) -> Result<bool, ContentError> {
        same_content(side, image, self.c, c, self.cancel)
    }

    /// Content and attributes of two leaves of P and N.
    pub(super) fn is_image_leaf_unchanged(&mut self, p: Node<'_>, n: Node<'_>) -> Result<bool, ContentError> {
        Ok(same_meta(p, n) && self.same_image_content(p, n)?)
    }

    /// Content of two nodes of P and N.
    pub(super) fn same_image_content(&mut self, p: Node<'_>, n: Node<'_>) -> Result<bool, ContentError> {
        same_content(self.p, p, self.n, n, self.cancel)
    }

    /// Whether N has exactly what P has at and below a path.
    pub(super) fn is_image_unchanged(&mut self, p: Node<'a>, n: Node<'a>) -> Result<bool, ContentError> {
        let mut pending = vec![(p, n)];
        while let Some((p, n)) = pending.pop() {
            self.ticker.tick()?;
            if !self.is_image_leaf_unchanged(p, n)? {
                return Ok(false);
            }
            for names in Triples::new(Some(p), None, Some(n)) {
                match (names.p.filter(counts), names.n.filter(counts)) {
                    (None, None) => {}
                    (Some(p), Some(n)) => pending.push((p, n)),
                    _ => return Ok(false),
                }
            }
        }
        Ok(true)
    }

    /// What the admin did to the directory at `self.path`. Reports nothing.
    pub(super) fn divergence(&mut self, p: Node<'a>, c: Node<'a>) -> Result<Divergence, ContentError> {
        let mut found = Divergence::Nothing;
        let mut pending = vec![(p, c)];
        while let Some((p, c)) = pending.pop() {
            self.ticker.tick()?;
            if c.file_type() == FileType::Socket {
                continue;
            }
            found = found.max(self.node_divergence(p, c)?);
            for names in Triples::new(Some(p).filter(Node::is_dir), Some(c).filter(Node::is_dir), None) {
                if found == Divergence::Changed {
                    return Ok(found);
                }
                match (names.p.filter(counts), names.c) {
                    (Some(p), Some(c)) => pending.push((p, c)),
                    (None, Some(c)) if counts(&c) => found = Divergence::Changed,
                    (Some(p), None) if !self.hidden.has(&p.path()) => {
                        found = found.max(Divergence::OnlyDeleted);
                    }
                    _ => {}
                }
            }
        }
        Ok(found)
    }

    fn node_divergence(&mut self, p: Node<'a>, c: Node<'a>) -> Result<Divergence, ContentError> {
        if !same_meta(p, c) {
            return Ok(Divergence::Changed);
        }
        let is_same = self.same_as_current(self.p, p, c)?;
        Ok(if is_same { Divergence::Nothing } else { Divergence::Changed })
    }
}
