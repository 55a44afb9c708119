//! Conflicts: what the policy chooses, and the names under which the version that lost is kept.

use std::borrow::Cow;

use super::{Drafts, Merger};
use crate::etc::draft::{Chosen, Draft};
use crate::etc::policy::Preference;
use crate::etc::result::{Conflict, Strategy, Warning};
use crate::limits::MAX_NAME_BYTES;
use crate::tree::Node;

impl<'a> Merger<'a> {
    /// Reports the conflict of C's and N's version of `self.path` and puts both into R, as the policy says.
    pub(super) fn conflict(
        &mut self,
        c: Node<'a>,
        n: Node<'a>,
        current: String,
        new: String,
        out: &mut Drafts<'a>,
    ) {
        let strategy = self.policy.choose(&self.path);
        let (winner, loser, suffix) = match strategy {
            Strategy::Fail | Strategy::Current => {
                (Chosen::current(c), Chosen::new_image(n), &b".bootc-new"[..])
            }
            Strategy::New => (Chosen::new_image(n), Chosen::current(c), &b".bootc-saved"[..]),
        };
        out.push(Draft::whole(winner));
        // An image's directory is in the image, to be looked at there; a leaf is small enough to be kept.
        let is_saved = strategy == Strategy::New || !n.is_dir();
        let mut saved_as = None;
        if is_saved {
            let name = free_name(c, Some(n), suffix, out);
            let parent_len = self.path.len().saturating_sub(c.name().len());
            saved_as = Some([self.path.get(..parent_len).unwrap_or_default(), &name].concat());
            let saved = Draft::whole(loser);
            out.push(Draft { name: Cow::Owned(name), ..saved });
        } else {
            self.ignored("in conflict; the image's directory is not kept");
        }
        self.report.conflicts.push(Conflict { path: self.path.clone(), current, new, strategy, saved_as });
    }
}

impl<'a> Merger<'a> {
    /// Whether the image's version of the leaf at `self.path` wins where both sides changed it.
    pub(super) fn is_new_preferred(&self) -> bool {
        self.policy.prefer(&self.path) != Preference::Current
    }

    /// Reports that it did. `lost`: C's leaf, where R does not have its content; kept beside unless a program makes it.
    pub(super) fn overruled(&mut self, lost: Option<Node<'a>>, n: Option<Node<'a>>, out: &mut Drafts<'a>) {
        let is_machine_made = self.policy.prefer(&self.path) == Preference::MachineMade;
        let saved_as = lost.filter(|_| !is_machine_made).map(|c| {
            let name = free_name(c, n, b".bootc-saved", out);
            let parent_len = self.path.len().saturating_sub(c.name().len());
            let path = [self.path.get(..parent_len).unwrap_or_default(), &name].concat();
            out.push(Draft { name: Cow::Owned(name), ..Draft::whole(Chosen::current(c)) });
            path
        });
        let path = self.path.clone();
        self.report.warnings.push(Warning::Overruled { path, is_machine_made, saved_as });
    }
}

/// `<name><suffix>`, numbered where C, N or R have that, cut where it would be too long.
fn free_name(c: Node<'_>, n: Option<Node<'_>>, suffix: &[u8], out: &Drafts<'_>) -> Vec<u8> {
    let is_taken = |name: &[u8]| {
        c.parent().child(name).is_some()
            || n.is_some_and(|n| n.parent().child(name).is_some())
            || out.iter().any(|draft| draft.name == name)
    };
    let mut number = 0u64;
    loop {
        let ending = if number == 0 { Vec::new() } else { format!(".{number}").into_bytes() };
        let room = MAX_NAME_BYTES.saturating_sub(suffix.len()).saturating_sub(ending.len());
        let base = c.name().get(..room).unwrap_or(c.name());
        let name = [base, suffix, &ending].concat();
        if !is_taken(&name) {
            return name;
        }
        number = number.saturating_add(1);
    }
}
