//! Trees as text, merged and rendered again.
//!
//! One entry a line: `path = content`, `path/`, `path -> target`, `path fifo`, `path socket`, `path char 1:3`,
//! `path == group` (a name of hard link group 1, 2, …; its content is the group's number). After `|` come
//! attributes: `mode=0600 uid=1 gid=2 xattr:user.a=v`. Directories on the way need no line.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "clippy only sees #[test] functions as tests"
)]

use std::collections::BTreeMap;

use bootc_fast_core::cancel::Never;
use bootc_fast_core::etc::plan::{PlanInput, SideInput, plan};
use bootc_fast_core::etc::policy::Policy;
use bootc_fast_core::etc::result::{Change, MergeReport, MergeResult, SideName, Strategy};
use bootc_fast_core::tree::{Content, FileType, Node, NodeId, Stat, Timestamp, Tree, TreeBuilder};

struct Line<'a> {
    path: &'a str,
    stat: Stat,
    xattrs: Vec<(String, String)>,
    data: String,
    group: u32,
}

fn parse(line: &str) -> Line<'_> {
    let (entry, attributes) = line.split_once(" | ").unwrap_or((line, ""));
    let (path, kind, data, group) = if let Some((path, group)) = entry.split_once(" == ") {
        (path, 0o100_644, group.to_owned(), group.parse().unwrap())
    } else if let Some((path, content)) = entry.split_once(" = ") {
        (path, 0o100_644, content.to_owned(), 0)
    } else if let Some((path, target)) = entry.split_once(" -> ") {
        (path, 0o120_777, target.to_owned(), 0)
    } else if let Some(path) = entry.strip_suffix(" fifo") {
        (path, 0o010_644, String::new(), 0)
    } else if let Some(path) = entry.strip_suffix(" socket") {
        (path, 0o140_644, String::new(), 0)
    } else if let Some((path, number)) = entry.split_once(" char ") {
        (path, 0o020_644, number.to_owned(), 0)
    } else {
        (entry.strip_suffix('/').unwrap_or_else(|| panic!("{line}")), 0o040_755, String::new(), 0)
    };
    let mut stat = Stat {
        mode: kind,
        uid: 0,
        gid: 0,
        nlink: 1,
        rdev: 0,
        size_bytes: 0,
        mtime: Timestamp { secs: 7, nanos: 0 },
    };
    if kind == 0o020_644 {
        stat.rdev = data.parse().unwrap();
    } else {
        stat.size_bytes = data.len() as u64;
    }
    let mut xattrs = Vec::new();
    for attribute in attributes.split_whitespace() {
        let (name, value) = attribute.split_once('=').unwrap();
        match name {
            "mode" => stat.mode = stat.mode & 0o170_000 | u32::from_str_radix(value, 8).unwrap(),
            "uid" => stat.uid = value.parse().unwrap(),
            "gid" => stat.gid = value.parse().unwrap(),
            _ => xattrs.push((name.strip_prefix("xattr:").unwrap().to_owned(), value.to_owned())),
        }
    }
    Line { path, stat, xattrs, data, group }
}

pub fn tree(lines: &[&str]) -> Tree {
    let mut all: BTreeMap<&str, Line<'_>> = BTreeMap::new();
    for line in lines {
        let line = parse(line);
        for (at, _) in line.path.match_indices('/') {
            let parent = &line.path[..at];
            all.entry(parent).or_insert_with(|| Line { path: parent, ..parse("x/") });
        }
        all.insert(line.path, line);
    }
    let root = all.remove("").unwrap_or_else(|| parse("/"));
    let borrow = |xattrs: &[(String, String)]| -> Vec<(Vec<u8>, Vec<u8>)> {
        xattrs.iter().map(|(name, value)| (name.clone().into_bytes(), value.clone().into_bytes())).collect()
    };
    let owned = borrow(&root.xattrs);
    let pairs: Vec<(&[u8], &[u8])> = owned.iter().map(|(n, v)| (n.as_slice(), v.as_slice())).collect();
    let mut builder = TreeBuilder::new(root.stat, &pairs).unwrap();
    let mut ids: BTreeMap<&str, NodeId> = BTreeMap::from([("", NodeId::ROOT)]);
    // Byte order of paths puts every directory before what is in it.
    for (path, line) in &all {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let content = match line.stat.file_type() {
            FileType::Regular => Content::Inline(line.data.as_bytes()),
            FileType::Symlink => Content::Target(line.data.as_bytes()),
            _ => Content::None,
        };
        let owned = borrow(&line.xattrs);
        let pairs: Vec<(&[u8], &[u8])> = owned.iter().map(|(n, v)| (n.as_slice(), v.as_slice())).collect();
        let id = builder.add(ids[parent], name.as_bytes(), line.stat, &pairs, content, line.group).unwrap();
        ids.insert(path, id);
    }
    builder.finish().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// One line a node, as [`tree`] takes them, attributes only where they are not the usual ones.
pub fn render(tree: &Tree) -> Vec<String> {
    let mut lines = Vec::new();
    let mut pending = vec![tree.root()];
    while let Some(node) = pending.pop() {
        pending.extend(node.children());
        let line = render_node(node);
        if node.id() != NodeId::ROOT || line != "/" {
            lines.push(line);
        }
    }
    lines.sort();
    lines
}

fn render_node(node: Node<'_>) -> String {
    let path = text(&node.path());
    let usual = match node.file_type() {
        FileType::Directory => 0o755,
        FileType::Symlink => 0o777,
        _ => 0o644,
    };
    let entry = match (node.file_type(), node.content()) {
        (FileType::Regular, Content::Inline(data)) if node.link_group().is_some() => {
            format!("{path} == {}", text(data))
        }
        (FileType::Regular, Content::Inline(data)) => format!("{path} = {}", text(data)),
        (FileType::Symlink, Content::Target(target)) => format!("{path} -> {}", text(target)),
        (FileType::Fifo, _) => format!("{path} fifo"),
        (FileType::CharDevice, _) => format!("{path} char {}", node.stat().rdev),
        (FileType::Directory, _) => format!("{path}/"),
        other => panic!("{other:?}"),
    };
    let stat = node.stat();
    let mut attributes = Vec::new();
    if stat.mode & 0o7777 != usual {
        attributes.push(format!("mode={:04o}", stat.mode & 0o7777));
    }
    if stat.uid != 0 {
        attributes.push(format!("uid={}", stat.uid));
    }
    if stat.gid != 0 {
        attributes.push(format!("gid={}", stat.gid));
    }
    attributes.extend(node.xattrs().map(|xattr| format!("xattr:{}={}", text(xattr.name), text(xattr.value))));
    if attributes.is_empty() { entry } else { format!("{entry} | {}", attributes.join(" ")) }
}

fn paths(changes: &[Change]) -> Vec<String> {
    changes.iter().map(|change| text(&change.path)).collect()
}

/// A merge that has been done.
pub struct Done {
    pub result: MergeResult,
}

/// Merges; every conflict gets this strategy.
pub fn merge_with(strategy: Strategy, hidden: &[&str], p: &[&str], c: &[&str], n: &[&str]) -> Done {
    let (p, c, n) = (tree(p), tree(c), tree(n));
    let side = |tree| SideInput { tree, dir: None, objects: None };
    let hidden: Vec<Vec<u8>> = hidden.iter().map(|path| path.as_bytes().to_vec()).collect();
    let policy = Policy::new(Vec::new(), strategy);
    let input = PlanInput {
        pristine: side(&p),
        current: side(&c),
        new: side(&n),
        hidden: &hidden,
        flagged: &[],
        policy: &policy,
        is_last: false,
        pristine_image: None,
        new_image: None,
    };
    let result = plan(&input, &Never).unwrap();
    for id in 0..result.tree.len() {
        let id = NodeId(u32::try_from(id).unwrap());
        let origin = result.origin(id).unwrap();
        let from = if origin.side == SideName::Current { &c } else { &n };
        assert_ne!(origin.side, SideName::Pristine);
        let (node, from) = (result.tree.node(id), from.node(origin.node));
        assert_eq!((node.file_type(), node.content()), (from.file_type(), from.content()));
    }
    Done { result }
}

pub fn merge(p: &[&str], c: &[&str], n: &[&str]) -> Done {
    merge_with(Strategy::Fail, &[], p, c, n)
}

impl Done {
    pub fn report(&self) -> &MergeReport {
        &self.result.report
    }

    /// R has exactly these entries.
    pub fn gives(self, lines: &[&str]) -> Self {
        assert_eq!(render(&self.result.tree), render(&tree(lines)));
        self
    }

    /// The lists that are reported, by first letter: `k`ept, `d`eleted, image change `i`gnored, image addition
    /// `a`dded, `c`onflict; each followed by a path, sorted. No others.
    pub fn reports(self, wanted: &[&str]) -> Self {
        let report = &self.result.report;
        let mut found = Vec::new();
        let lists = [
            ("k", &report.kept),
            ("d", &report.deleted),
            ("i", &report.image_changes_ignored),
            ("a", &report.image_additions_kept),
        ];
        for (mark, list) in lists {
            found.extend(paths(list).into_iter().map(|path| format!("{mark} {path}")));
        }
        found.extend(report.conflicts.iter().map(|conflict| format!("c {}", text(&conflict.path))));
        found.sort();
        let mut wanted = wanted.to_vec();
        wanted.sort_unstable();
        assert_eq!(found, wanted);
        self
    }
}
