//! What the admin has as a directory.

use super::compare::Divergence;
use super::{Drafts, Merger, counts, image, kind};
use crate::etc::content::ContentError;
use crate::etc::draft::{Chosen, Draft, Made};
use crate::etc::meta::{Blend, same_meta};
use crate::etc::result::Warning;
use crate::etc::triples::Triples;
use crate::tree::Node;

impl<'a> Merger<'a> {
    /// Decides an entry that is a directory in C.
    pub(super) fn directory(
        &mut self,
        p: Option<Node<'a>>,
        c: Node<'a>,
        n: Option<Node<'a>>,
        out: &mut Drafts<'a>,
    ) -> Result<(), ContentError> {
        let p_dir = p.filter(Node::is_dir);
        match (p, n) {
            (_, Some(n)) if n.is_dir() => {
                let draft = self.merge_directories(p_dir, c, n)?;
                out.push(draft);
                Ok(())
            }
            (Some(p), None) if p.is_dir() => self.come_back(p, c, out),
            (Some(p), Some(n)) if p.is_dir() => self.directory_against_leaf(p, c, n, out),
            (None, Some(n)) => {
                let is_new = format!("{}, added", kind(n));
                self.conflict(c, n, "directory, added".to_owned(), is_new, out);
                Ok(())
            }
            (p, n) => {
                if let (Some(p), Some(n)) = (p, n)
                    && !self.is_image_leaf_unchanged(p, n)?
                {
                    self.ignored("changed by the image");
                }
                self.keep_whole(p, c, out)
            }
        }
    }

    /// A directory in C and N: attributes one by one, and what is in it. `p`: only where it is a directory too.
    pub(super) fn merge_directories(
        &mut self,
        p: Option<Node<'a>>,
        c: Node<'a>,
        n: Node<'a>,
    ) -> Result<Draft<'a>, ContentError> {
        let blend = Blend::of(p, c, n, n, false);
        if !blend.kept.is_empty() {
            self.kept(blend.kept.join(", "));
        }
        if !blend.ignored.is_empty() {
            self.ignored(blend.ignored.join(", "));
        }
        if blend.is_label_kept {
            self.label_kept();
        }
        let mut children = Vec::new();
        for names in Triples::new(p, Some(c), Some(n)) {
            self.entry(names, &mut children)?;
        }
        let is_image = blend.kept.is_empty()
            && !blend.is_label_kept
            && children.len() == n.children().filter(counts).count()
            && children.iter().all(|child| child.is_image_child_of(n));
        if is_image {
            return Ok(Draft::whole(Chosen::new_image(n)));
        }
        Ok(Draft::made(n.name(), Made::blended(blend, Chosen::new_image(n), children)))
    }

    /// A directory that N dropped comes back with what C changed or added, if there is any.
    fn come_back(&mut self, p: Node<'a>, c: Node<'a>, out: &mut Drafts<'a>) -> Result<(), ContentError> {
        let mut children = Vec::new();
        for names in Triples::new(Some(p), Some(c), None) {
            self.entry(names, &mut children)?;
        }
        let is_changed = !same_meta(p, c);
        if children.is_empty() && !is_changed {
            return Ok(());
        }
        self.kept(if is_changed {
            "attributes changed; the image dropped it"
        } else {
            "holds what was kept; the image dropped it"
        });
        let made = Made::with_meta_of(c, Chosen::current(c), children);
        out.push(Draft::made(c.name(), made));
        Ok(())
    }

    /// The image made it a leaf.
    fn directory_against_leaf(
        &mut self,
        p: Node<'a>,
        c: Node<'a>,
        n: Node<'a>,
        out: &mut Drafts<'a>,
    ) -> Result<(), ContentError> {
        match self.divergence(p, c)? {
            Divergence::Nothing => out.extend(image(Some(n))),
            Divergence::OnlyDeleted => {
                self.deleted(format!("only deletions inside; the image made it a {}", kind(n)));
                out.extend(image(Some(n)));
            }
            Divergence::Changed => {
                let now = format!("now a {}", kind(n));
                self.conflict(c, n, "directory, with changes inside".to_owned(), now, out);
            }
        }
        Ok(())
    }

    /// C's directory with all that is in it, each path reported.
    fn keep_whole(
        &mut self,
        p: Option<Node<'a>>,
        c: Node<'a>,
        out: &mut Drafts<'a>,
    ) -> Result<(), ContentError> {
        self.kept(match p {
            None => "directory added".to_owned(),
            Some(p) => format!("{} replaced by directory", kind(p)),
        });
        out.push(Draft::whole(Chosen::current(c)));
        self.report_below(c)
    }

    fn report_below(&mut self, c: Node<'a>) -> Result<(), ContentError> {
        for child in c.children() {
            self.ticker.count(1);
            self.ticker.tick()?;
            let parent_len = self.enter(child.name());
            if counts(&child) {
                self.kept(format!("{} added", kind(child)));
                self.report_below(child)?;
            } else {
                self.report.warnings.push(Warning::SocketIgnored { path: self.path.clone() });
            }
            self.path.truncate(parent_len);
        }
        Ok(())
    }
}
