//! `/etc/machine-id`: a real one is never replaced by the image's empty or `uninitialized` one.

use super::{Drafts, Merger};
use crate::etc::content::{ContentError, Side};
use crate::etc::draft::{Body, Chosen, Draft, Made};
use crate::etc::result::SideName;
use crate::tree::{FileType, Node};

/// No machine id is longer: 32 digits and a newline.
const MAX_BYTES: u64 = 64;

impl<'a> Merger<'a> {
    /// Decides `machine-id`, then puts the machine's own one back where the rules took an image's blank one.
    ///
    /// Source: `machine-id(5)`, "Initialization".
    pub(super) fn machine_id(
        &mut self,
        p: Option<Node<'a>>,
        c: Option<Node<'a>>,
        n: Option<Node<'a>>,
        out: &mut Drafts<'a>,
    ) -> Result<(), ContentError> {
        let start = out.len();
        self.decide(p, c, n, out)?;
        let Some(c) = c else { return Ok(()) };
        let is_blank = match n {
            None => true,
            Some(n) => read(self.n, n)?.is_some_and(|id| matches!(id.as_slice(), b"" | b"uninitialized")),
        };
        if !is_blank || !read(self.c, c)?.is_some_and(|id| is_real(&id)) {
            return Ok(());
        }
        self.put_back(c, start, out);
        Ok(())
    }

    fn put_back(&mut self, c: Node<'a>, start: usize, out: &mut Drafts<'a>) {
        let decided = out.get_mut(start);
        match decided.map(|draft| &mut draft.body) {
            None => out.push(Draft::whole(Chosen::current(c))),
            Some(Body::Whole(from)) if from.side == SideName::New => {
                let made = Made::with_meta_of(from.node, Chosen::current(c), Vec::new());
                out.truncate(start);
                out.push(Draft::made(c.name(), made));
            }
            Some(Body::Made(made)) if made.origin.side == SideName::New => {
                made.origin = Chosen::current(c);
                return;
            }
            Some(_) => return,
        }
        self.kept("a machine keeps its id");
    }
}

/// The text without white space around it; `None` of what is no short regular file.
fn read(side: &Side<'_>, node: Node<'_>) -> Result<Option<Vec<u8>>, ContentError> {
    if node.file_type() != FileType::Regular || node.stat().size_bytes > MAX_BYTES {
        return Ok(None);
    }
    Ok(side.read_head(node, MAX_BYTES)?.map(|data| data.trim_ascii().to_vec()))
}

fn is_real(id: &[u8]) -> bool {
    id.len() == 32 && id.iter().all(u8::is_ascii_hexdigit) && id.iter().any(|digit| *digit != b'0')
}
