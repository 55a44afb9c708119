//! What the admin deleted, and what only the image ever had.

use super::{Drafts, Merger, image};
use crate::etc::content::ContentError;
use crate::etc::draft::{Chosen, Draft, Made};
use crate::etc::meta::same_meta;
use crate::etc::triples::Triples;
use crate::etc::{result::Change, rules::counts};
use crate::tree::Node;

impl<'a> Merger<'a> {
    /// Decides an entry that C does not have.
    pub(super) fn removed(
        &mut self,
        p: Option<Node<'a>>,
        n: Option<Node<'a>>,
        out: &mut Drafts<'a>,
    ) -> Result<(), ContentError> {
        match (p, n) {
            (_, None) => Ok(()),
            (None, Some(_)) => {
                out.extend(image(n));
                Ok(())
            }
            (Some(p), Some(n)) if !p.is_dir() => {
                if !n.is_dir() && self.is_new_preferred() && !self.is_image_leaf_unchanged(p, n)? {
                    self.overruled(None, Some(n), out);
                    out.extend(image(Some(n)));
                    return Ok(());
                }
                self.deleted("");
                if n.is_dir() {
                    self.ignored("the image made it a directory");
                } else if !self.is_image_leaf_unchanged(p, n)? {
                    self.ignored("changed by the image");
                }
                Ok(())
            }
            (Some(_), Some(added)) if !added.is_dir() => {
                self.deleted("directory");
                self.added_below();
                out.extend(image(n));
                Ok(())
            }
            (Some(p), Some(n)) => self.removed_directory(p, n, out),
        }
    }

    /// Takes away only what P had; what the image added stays, in the image's directory.
    fn removed_directory(
        &mut self,
        p: Node<'a>,
        n: Node<'a>,
        out: &mut Drafts<'a>,
    ) -> Result<(), ContentError> {
        self.deleted("directory");
        let mut children = Vec::new();
        for names in Triples::new(Some(p), None, Some(n)) {
            self.ticker.tick()?;
            let parent_len = self.enter(names.name);
            let (below_p, below_n) = (names.p.filter(counts), names.n.filter(counts));
            if below_p.is_none() && below_n.is_some() {
                self.added_below();
            }
            let result = self.removed(below_p, below_n, &mut children);
            self.path.truncate(parent_len);
            result?;
        }
        if !children.is_empty() {
            let made = Made::with_meta_of(n, Chosen::new_image(n), children);
            out.push(Draft::made(n.name(), made));
        } else if !same_meta(p, n) {
            self.ignored("attributes changed by the image");
        }
        Ok(())
    }

    fn added_below(&mut self) {
        let path = self.path.clone();
        let reason = "added by the image under a deleted directory".to_owned();
        self.report.image_additions_kept.push(Change { path, reason });
    }
}
