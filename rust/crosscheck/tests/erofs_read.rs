//! Generated trees, written by the core and by the composefs crate, read by the core: our dump against the crate's,
//! and the tree that comes back against the one that went in.

#![allow(clippy::unwrap_used, reason = "clippy only sees #[test] functions as tests, not their helpers")]

mod common;

use bootc_fast_core::cancel::Never;
use bootc_fast_core::erofs::{ErofsError, Image, to_image};
use bootc_fast_core::tree::{Content, Node, Tree, Xattr};
use bootc_fast_core::verity::Algorithm;
use common::{Kind, Spec, build, specs, to_theirs};
use composefs::dumpfile::write_dumpfile;
use composefs::erofs::format::FormatVersion;
use composefs::erofs::reader::erofs_to_filesystem;
use composefs::erofs::writer::{ValidatedFileSystem, mkfs_erofs_versioned};
use composefs::fsverity::{FsVerityHashValue, Sha256HashValue, Sha512HashValue};
use proptest::prelude::*;

fn our_dump(image: &[u8]) -> String {
    let mut out = Vec::new();
    Image::from_bytes(image.to_vec()).unwrap().dump(&mut out, &Never).unwrap();
    String::from_utf8(out).unwrap()
}

fn assert_same_dump<H: FsVerityHashValue>(image: &[u8]) {
    let mut theirs = Vec::new();
    write_dumpfile(&mut theirs, &erofs_to_filesystem::<H>(image).unwrap()).unwrap();
    assert_eq!(our_dump(image), String::from_utf8(theirs).unwrap());
}

fn assert_same_dumps<H: FsVerityHashValue>(tree: &Tree) {
    assert_same_dump::<H>(&to_image(tree, &Never).unwrap());
    let theirs = ValidatedFileSystem::new(to_theirs::<H>(tree)).unwrap();
    for version in [FormatVersion::V0, FormatVersion::V1, FormatVersion::V2] {
        let image = mkfs_erofs_versioned(&theirs, version);
        assert_same_dump::<H>(&image);
        assert_verifies(&Image::from_bytes(image.into_vec()).unwrap());
    }
}

fn assert_verifies(image: &Image) {
    let contents = image.verify(&Never);
    // One object under two sizes is what these trees can have and real ones cannot.
    assert!(matches!(contents, Ok(_) | Err(ErofsError::BadObject { .. })), "{contents:?}");
}

/// The kernel has no handler for other names, so they are in no mounted tree.
fn is_shown(name: &[u8]) -> bool {
    let prefixes: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system.posix_acl_"];
    prefixes.iter().any(|prefix| name.starts_with(prefix))
}

fn shown_xattrs<'t>(node: &Node<'t>) -> Vec<Xattr<'t>> {
    node.xattrs().filter(|xattr| is_shown(xattr.name)).collect()
}

/// Every name that is written with the same inode number, by path.
fn links(node: &Node<'_>, tree: &Tree) -> Vec<Vec<u8>> {
    let mut paths = Vec::new();
    let mut pending = vec![tree.root()];
    while let Some(other) = pending.pop() {
        if node.link_group().is_some() && other.link_group() == node.link_group() {
            paths.push(other.path());
        }
        pending.extend(other.children());
    }
    paths.sort();
    paths
}

fn assert_came_back(written: &Tree, read: &Tree) {
    assert_eq!(written.len(), read.len());
    let mut pending = vec![written.root()];
    while let Some(node) = pending.pop() {
        let path = node.path();
        let found = read.find(&path).unwrap();
        let (left, right) = (node.stat(), found.stat());
        assert_eq!(
            (left.mode, left.uid, left.gid, left.rdev, left.size_bytes, left.mtime),
            (right.mode, right.uid, right.gid, right.rdev, right.size_bytes, right.mtime),
            "{path:?}"
        );
        assert_eq!(found.content(), node.content(), "{path:?}");
        assert_eq!(found.xattrs().collect::<Vec<_>>(), shown_xattrs(&node), "{path:?}");
        let names = links(&node, written);
        if names.len() > 1 {
            assert_eq!(links(&found, read), names, "{path:?}");
            assert_eq!(right.nlink as usize, names.len(), "{path:?}");
        } else {
            assert_eq!(found.link_group(), None, "{path:?}");
        }
        pending.extend(node.children());
    }
}

/// Every path can be looked up in the image, and each is what the tree has there.
fn assert_lookups(tree: &Tree, image: &Image) {
    let mut pending = vec![tree.root()];
    while let Some(node) = pending.pop() {
        let inode = image.find(&node.path()).unwrap();
        assert_eq!(inode.stat.mode, node.stat().mode);
        let missing = [&node.path()[..], b"/\x01missing"].concat();
        let error = image.find(&missing).unwrap_err();
        assert!(matches!(error, ErofsError::NotFound { .. } | ErofsError::NotADirectory { .. }), "{error}");
        pending.extend(node.children());
    }
}

/// What the crate's reader refuses; and whiteouts, which come back as files by design.
fn is_readable_by_crate(kind: &Kind) -> bool {
    match kind {
        Kind::Inline(data) => data.len() <= 64,
        Kind::Symlink(target) => target.len() <= 1024,
        _ => true,
    }
}

fn keep(specs: &[Spec], want: impl Fn(&Kind) -> bool) -> Vec<Spec> {
    specs.iter().filter(|spec| want(&spec.kind)).cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn dumps_what_the_crate_dumps(specs in specs()) {
        let specs = keep(&specs, is_readable_by_crate);
        assert_same_dumps::<Sha256HashValue>(&build(Algorithm::Sha256, &specs));
        assert_same_dumps::<Sha512HashValue>(&build(Algorithm::Sha512, &specs));
    }

    #[test]
    fn reads_back_the_tree_that_was_written(specs in specs()) {
        let specs = keep(&specs, |kind| !matches!(kind, Kind::Char(0)));
        let written = build(Algorithm::Sha512, &specs);
        let image = Image::from_bytes(to_image(&written, &Never).unwrap()).unwrap();
        let read = image.tree(b"", &Never).unwrap();
        assert_came_back(&written, &read);
        assert_lookups(&read, &image);
        assert_verifies(&image);
    }

    #[test]
    fn no_damage_makes_it_panic(specs in specs(), damage in prop::collection::vec((any::<usize>(), any::<u8>()), 1..6)) {
        let mut image = to_image(&build(Algorithm::Sha256, &specs), &Never).unwrap();
        let len = image.len() - 1024;
        for (at, byte) in damage {
            if let Some(target) = image.get_mut(1024 + at % len) {
                *target = byte;
            }
        }
        let Ok(image) = Image::from_bytes(image) else { return Ok(()) };
        drop(image.verify(&Never));
        drop(image.dump(&mut std::io::sink(), &Never));
        if let Ok(tree) = image.tree(b"", &Never) {
            let contents = tree.root().children().filter(|node| node.content() != Content::None);
            prop_assert!(contents.count() <= tree.len());
        }
    }
}
