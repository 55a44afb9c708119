//! What the admin has as a file, symlink, device or FIFO.

use super::{Drafts, Merger, image, kind};
use crate::etc::content::ContentError;
use crate::etc::draft::{Chosen, Draft, Made};
use crate::etc::meta::{Blend, kept_label, same_meta};
use crate::tree::{FileType, Node};

impl<'a> Merger<'a> {
    /// Decides an entry that is a leaf in C.
    pub(super) fn leaf(
        &mut self,
        p: Option<Node<'a>>,
        c: Node<'a>,
        n: Option<Node<'a>>,
        out: &mut Drafts<'a>,
    ) -> Result<(), ContentError> {
        let p_leaf = p.filter(|p| !p.is_dir());
        if let Some(p) = p_leaf {
            let same = self.same_as_current(self.p, p, c)?;
            if same && same_meta(p, c) {
                self.unchanged_leaf(p, c, n, out);
                return Ok(());
            }
            if let Some(n) = n.filter(|n| are_of_one_type(p, c, *n)) {
                return self.blend_leaf(p, c, n, same, out);
            }
        }
        match n {
            None if p_leaf.is_some() && self.is_new_preferred() => {
                self.overruled(Some(c), None, out);
                Ok(())
            }
            None => {
                self.kept(reason(p, c, "changed; the image dropped it"));
                out.push(Draft::whole(Chosen::current(c)));
                Ok(())
            }
            Some(n) if n.is_dir() => self.leaf_against_directory(p, c, n, out),
            Some(n) => self.leaf_against_leaf(p, c, n, out),
        }
    }

    /// N's, but for a label that the admin gave.
    fn unchanged_leaf(&mut self, p: Node<'a>, c: Node<'a>, n: Option<Node<'a>>, out: &mut Drafts<'a>) {
        let relabelled = n.filter(|n| are_of_one_type(p, c, *n) && kept_label(Some(p), c, *n).is_some());
        let Some(n) = relabelled else {
            out.extend(image(n));
            return;
        };
        self.label_kept();
        let blend = Blend::of(Some(p), c, n, n, false);
        out.push(Draft::made(n.name(), Made::blended(blend, Chosen::new_image(n), Vec::new())));
    }

    /// Each attribute on its own.
    fn blend_leaf(
        &mut self,
        p: Node<'a>,
        c: Node<'a>,
        n: Node<'a>,
        is_content_unchanged: bool,
        out: &mut Drafts<'a>,
    ) -> Result<(), ContentError> {
        let is_new_preferred = self.is_new_preferred();
        let (mut is_content_ignored, mut is_content_lost) = (false, false);
        let origin = if is_content_unchanged || self.same_as_current(self.n, n, c)? {
            Chosen::new_image(n)
        } else {
            let is_changed_by_both = !self.same_image_content(p, n)?;
            is_content_lost = is_changed_by_both && is_new_preferred;
            is_content_ignored = is_changed_by_both && !is_new_preferred;
            if is_content_lost { Chosen::new_image(n) } else { Chosen::current(c) }
        };
        let is_content_kept = origin.side == Chosen::current(c).side;
        let blend = Blend::of(Some(p), c, n, origin.node, is_new_preferred);
        if is_content_lost || blend.is_overruled {
            self.overruled(is_content_lost.then_some(c), Some(n), out);
        }
        let content = content_word(c);
        let word = |is_in: bool| is_in.then_some(content);
        let kept: Vec<_> = word(is_content_kept).into_iter().chain(blend.kept.iter().copied()).collect();
        let ignored: Vec<_> =
            word(is_content_ignored).into_iter().chain(blend.ignored.iter().copied()).collect();
        if !ignored.is_empty() {
            self.ignored(ignored.join(", "));
        }
        if blend.is_label_kept {
            self.label_kept();
        }
        if kept.is_empty() && !blend.is_label_kept {
            out.extend(image(Some(n)));
            return Ok(());
        }
        if !kept.is_empty() {
            self.kept(kept.join(", "));
        }
        out.push(if is_content_kept && blend.is_current {
            Draft::whole(Chosen::current(c))
        } else {
            Draft::made(c.name(), Made::blended(blend, origin, Vec::new()))
        });
        Ok(())
    }

    /// Not all of one type, or nothing to compare with: one side wins as a whole.
    fn leaf_against_leaf(
        &mut self,
        p: Option<Node<'a>>,
        c: Node<'a>,
        n: Node<'a>,
        out: &mut Drafts<'a>,
    ) -> Result<(), ContentError> {
        if self.same_as_current(self.n, n, c)? && same_meta(c, n) {
            out.extend(image(Some(n)));
            return Ok(());
        }
        let is_image_unchanged = match p {
            Some(p) => self.is_image_leaf_unchanged(p, n)?,
            None => false,
        };
        if !is_image_unchanged && self.is_new_preferred() {
            self.overruled(Some(c), Some(n), out);
            out.extend(image(Some(n)));
            return Ok(());
        }
        self.kept(reason(p, c, "type changed"));
        if !is_image_unchanged {
            self.ignored(if p.is_some() { "changed by the image" } else { "added by the image" });
        }
        out.push(Draft::whole(Chosen::current(c)));
        Ok(())
    }

    fn leaf_against_directory(
        &mut self,
        p: Option<Node<'a>>,
        c: Node<'a>,
        n: Node<'a>,
        out: &mut Drafts<'a>,
    ) -> Result<(), ContentError> {
        let Some(p_dir) = p.filter(Node::is_dir) else {
            let how = if p.is_some() { "changed" } else { "added" };
            let is_new = if p.is_some() { "now a directory" } else { "a directory, added" };
            self.conflict(c, n, format!("{}, {how}", kind(c)), is_new.to_owned(), out);
            return Ok(());
        };
        self.kept(reason(p, c, "type changed"));
        if !self.is_image_unchanged(p_dir, n)? {
            self.ignored("the directory changed in the image");
        }
        out.push(Draft::whole(Chosen::current(c)));
        Ok(())
    }
}

fn are_of_one_type(p: Node<'_>, c: Node<'_>, n: Node<'_>) -> bool {
    p.file_type() == c.file_type() && c.file_type() == n.file_type()
}

/// What the admin did, where P and C were of one type: `same_type`.
fn reason(p: Option<Node<'_>>, c: Node<'_>, same_type: &str) -> String {
    match p {
        None => format!("{} added", kind(c)),
        Some(p) if p.file_type() != c.file_type() => format!("{} replaced by {}", kind(p), kind(c)),
        Some(_) => same_type.to_owned(),
    }
}

fn content_word(node: Node<'_>) -> &'static str {
    match node.file_type() {
        FileType::Symlink => "target",
        FileType::CharDevice | FileType::BlockDevice => "device number",
        _ => "content",
    }
}
