//! The order of operations, and which of them there are.

use super::*;
use crate::cancel::Never;
use crate::tree::{Content, Stat, Timestamp, TreeBuilder};

fn stat(mode: u32, nlink: u32, size_bytes: u64) -> Stat {
    Stat { mode, uid: 0, gid: 0, nlink, rdev: 0, size_bytes, mtime: Timestamp { secs: 7, nanos: 0 } }
}

const DIR: u32 = 0o040_755;
const FILE: u32 = 0o100_644;

/// `(path, mode, link group, content)`; parents first.
fn tree(entries: &[(&str, u32, u32, &str)]) -> Tree {
    let mut builder = TreeBuilder::new(stat(DIR, 2, 0), &[]).unwrap();
    let mut ids = HashMap::from([(String::new(), NodeId::ROOT)]);
    for (path, mode, group, content) in entries {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let names = entries.iter().filter(|entry| *group != 0 && entry.2 == *group).count().max(1);
        let is_file = FileType::from_mode(*mode) == Some(FileType::Regular);
        let size = if is_file { content.len() as u64 } else { 0 };
        let content = if is_file { Content::Inline(content.as_bytes()) } else { Content::None };
        let stat = stat(*mode, u32::try_from(names).unwrap(), size);
        let id = builder.add(ids[parent], name.as_bytes(), stat, &[], content, *group).unwrap();
        ids.insert((*path).to_owned(), id);
    }
    builder.finish().unwrap()
}

struct Inline;

impl SameContent for Inline {
    fn same(&mut self, wanted: Node<'_>, found: Node<'_>) -> Result<bool, Cancelled> {
        Ok(wanted.content() == found.content())
    }
}

fn difference(result: &Tree, before: &Tree) -> Vec<String> {
    let operations = list_operations(result, before, &mut Inline, &Never).unwrap();
    let text = |operation: &Operation| {
        let path = String::from_utf8(operation.path(result, before)).unwrap();
        let what = match *operation {
            Operation::Unlock(_) => "unlock".to_owned(),
            Operation::Remove { entries, .. } => format!("remove {entries}"),
            Operation::Make { what: Make::Directory, .. } => "mkdir".to_owned(),
            Operation::Make { what: Make::File, node, .. } => {
                format!("write {}", result.node(node).stat().size_bytes)
            }
            Operation::Make { what: Make::Link { first }, .. } => {
                format!("link {}", String::from_utf8(result.node(first).path()).unwrap())
            }
            Operation::Make { what: Make::Symlink, .. } => "symlink".to_owned(),
            Operation::Make { what: Make::Node, .. } => "node".to_owned(),
            Operation::SetAttributes { which, .. } => format!("set {which}"),
        };
        format!("{what}: {path}")
    };
    operations.iter().map(text).collect()
}

#[test]
fn equal_trees_need_nothing() {
    let entries = [("d", DIR, 0, ""), ("d/f", FILE, 0, "x"), ("a", FILE, 1, "y"), ("b", FILE, 1, "y")];
    assert_eq!(difference(&tree(&entries), &tree(&entries)), Vec::<String>::new());
}

#[test]
fn an_empty_destination_gets_directories_first_and_their_attributes_last_from_the_bottom_up() {
    let result = tree(&[("d", DIR, 0, ""), ("d/e", DIR, 0, ""), ("d/e/f", FILE, 0, "x")]);
    let expected = [
        "mkdir: d",
        "mkdir: d/e",
        "write 1: d/e/f",
        "set owner, mode, xattrs, mtime: d/e",
        "set owner, mode, xattrs, mtime: d",
        "set mtime: ",
    ];
    assert_eq!(difference(&result, &tree(&[])), expected);
}

#[test]
fn what_is_not_in_the_result_goes_before_anything_is_made_in_its_directory() {
    let result = tree(&[("a", FILE, 0, "x")]);
    let before = tree(&[("x", DIR, 0, ""), ("x/y", FILE, 0, ""), (".bootc-fast-0", FILE, 0, "half")]);
    let expected = ["remove 1: .bootc-fast-0", "remove 2: x", "write 1: a", "set mtime: "];
    assert_eq!(difference(&result, &before), expected);
}

#[test]
fn attributes_alone_do_not_rewrite_a_file_nor_touch_its_directory() {
    let result = tree(&[("a", 0o104_755, 0, "x")]);
    let before = tree(&[("a", FILE, 0, "x")]);
    assert_eq!(difference(&result, &before), ["set mode: a"]);
}

#[test]
fn other_content_of_equal_size_is_written() {
    let result = tree(&[("a", FILE, 0, "x")]);
    assert_eq!(difference(&result, &tree(&[("a", FILE, 0, "y")])), ["write 1: a", "set mtime: "]);
}

#[test]
fn names_of_one_inode_are_made_once_and_linked() {
    let result = tree(&[("a", FILE, 9, "x"), ("b", FILE, 9, "x"), ("c", FILE, 9, "x")]);
    let before = tree(&[("a", FILE, 4, "x"), ("b", FILE, 4, "x")]);
    assert_eq!(difference(&result, &before), ["write 1: a", "link a: b", "link a: c", "set mtime: "]);
}

#[test]
fn a_file_with_another_name_outside_the_result_is_written_anew() {
    let result = tree(&[("a", FILE, 0, "x")]);
    let before = tree(&[("a", FILE, 4, "x"), ("z", FILE, 4, "x")]);
    assert_eq!(difference(&result, &before), ["remove 1: z", "write 1: a", "set mtime: "]);
}

#[test]
fn a_directory_closed_to_its_owner_is_opened_first_and_closed_last() {
    let result = tree(&[("d", 0o040_000, 0, ""), ("d/f", FILE, 0, "x")]);
    let before = tree(&[("d", 0o040_000, 0, "")]);
    assert_eq!(difference(&result, &before), ["unlock: d", "write 1: d/f", "set mode, mtime: d"]);
}

#[test]
fn a_directory_and_a_leaf_replace_each_other() {
    let file = tree(&[("a", FILE, 0, "x")]);
    let directory = tree(&[("a", DIR, 0, ""), ("a/b", FILE, 0, "x")]);
    assert_eq!(difference(&file, &directory), ["write 1: a", "set mtime: "]);
    let expected = ["mkdir: a", "write 1: a/b", "set owner, mode, xattrs, mtime: a", "set mtime: "];
    assert_eq!(difference(&directory, &file), expected);
}

#[test]
fn a_deep_tree_does_not_exhaust_the_stack() {
    let mut builder = TreeBuilder::new(stat(DIR, 2, 0), &[]).unwrap();
    let mut parent = NodeId::ROOT;
    for _ in 0..crate::limits::MAX_DEPTH {
        parent = builder.add(parent, b"d", stat(DIR, 2, 0), &[], Content::None, 0).unwrap();
    }
    let deep = builder.finish().unwrap();
    let flat = tree(&[]);
    assert_eq!(
        list_operations(&deep, &flat, &mut Inline, &Never).unwrap().len(),
        2 * crate::limits::MAX_DEPTH + 1
    );
    assert_eq!(list_operations(&flat, &deep, &mut Inline, &Never).unwrap().len(), 2);
}
