use super::{WriteError, to_image};
use crate::cancel::{Cancel, Cancelled, Never};
use crate::erofs::Image;
use crate::tree::{Content, NodeId, Stat, Timestamp, Tree, TreeBuilder};
use crate::verity::Digest;

const OBJECT: Digest = Digest::Sha256([7; 32]);

fn stat(mode: u32) -> Stat {
    let mtime = Timestamp { secs: 1_700_000_000, nanos: 5 };
    Stat { mode, uid: 0, gid: 0, nlink: 1, rdev: 0, size_bytes: 0, mtime }
}

fn builder() -> TreeBuilder {
    TreeBuilder::new(stat(0o040_755), &[]).unwrap()
}

fn one(name: &[u8], stat: Stat, xattrs: &[(&[u8], &[u8])], content: Content<'_>) -> Tree {
    let mut builder = builder();
    builder.add(NodeId::ROOT, name, stat, xattrs, content, 0).unwrap();
    builder.finish().unwrap()
}

fn read_back(tree: &Tree) -> Tree {
    Image::from_bytes(to_image(tree, &Never).unwrap()).unwrap().tree(b"", &Never).unwrap()
}

fn error_of(tree: &Tree) -> WriteError {
    to_image(tree, &Never).unwrap_err()
}

#[test]
fn same_tree_in_another_order_gives_the_same_bytes() {
    let names: [&[u8]; 3] = [b"z", b"a", b"\xff"];
    let make = |names: &mut dyn Iterator<Item = &&[u8]>| {
        let mut builder = builder();
        for name in names {
            builder.add(NodeId::ROOT, name, stat(0o100_644), &[], Content::Inline(name), 0).unwrap();
        }
        to_image(&builder.finish().unwrap(), &Never).unwrap()
    };
    assert_eq!(make(&mut names.iter()), make(&mut names.iter().rev()));
}

#[test]
fn root_has_256_stubs_that_nobody_sees() {
    let image = to_image(&builder().finish().unwrap(), &Never).unwrap();
    let mut names: Vec<_> = (0..=255u8).map(|byte| format!("{byte:02x}")).collect();
    names.retain(|name| !image.windows(2).any(|window| window == name.as_bytes()));
    assert!(names.is_empty(), "missing: {names:?}");
    assert_eq!(Image::from_bytes(image).unwrap().tree(b"", &Never).unwrap().len(), 1);
}

#[test]
fn users_file_takes_the_place_of_a_stub() {
    let tree = one(b"0a", stat(0o100_600), &[], Content::Inline(b"mine"));
    assert_eq!(read_back(&tree).find(b"0a").unwrap().content(), Content::Inline(b"mine"));
}

/// As C mkcomposefs 1.0.8 does; composefs-rs 0.9.4 takes it for one of its own stubs, and the file is lost.
#[test]
fn users_whiteout_with_the_name_and_attributes_of_a_stub_is_kept() {
    let tree = one(b"0a", stat(0o020_644), &[], Content::None);
    let read = read_back(&tree);
    let found = read.find(b"0a").unwrap();
    assert_eq!(found.stat().mode, 0o100_644);
    assert_eq!(found.xattr(b"trusted.overlay.whiteout"), Some(&b""[..]));
}

/// The crate refuses such trees, though overlayfs makes them: it links all whiteouts of an upper layer.
#[test]
fn hard_linked_whiteouts_mark_every_directory_they_are_in() {
    let mut builder = builder();
    for name in [b"a", b"b"] {
        let dir = builder.add(NodeId::ROOT, name, stat(0o040_755), &[], Content::None, 0).unwrap();
        builder.add(dir, b"gone", stat(0o020_000), &[], Content::None, 1).unwrap();
    }
    let read = read_back(&builder.finish().unwrap());
    for name in [b"a", b"b"] {
        let dir = read.find(name).unwrap();
        assert_eq!(dir.xattr(b"trusted.overlay.opaque"), Some(&b"x"[..]));
        assert_eq!(dir.child(b"gone").unwrap().stat().nlink, 2);
    }
}

#[test]
fn marks_of_a_whiteout_replace_attributes_of_the_same_name() {
    let xattrs: [(&[u8], &[u8]); 2] =
        [(b"trusted.overlay.whiteout", b"user's"), (b"user.overlay.whiteout", b"user's")];
    let read = read_back(&one(b"w", stat(0o020_000), &xattrs, Content::None));
    let values: Vec<_> = read.find(b"w").unwrap().xattrs().map(|xattr| xattr.value).collect();
    assert_eq!(values, [b"", b""]);
}

/// The format counts shared attributes in a byte; the crate writes the count modulo 256.
#[test]
fn more_shared_attributes_than_a_byte_counts_are_all_kept() {
    let names: Vec<String> = (0..300).map(|number| format!("user.n{number}")).collect();
    let xattrs: Vec<(&[u8], &[u8])> = names.iter().map(|name| (name.as_bytes(), &b"v"[..])).collect();
    let mut builder = builder();
    for name in [b"a", b"b"] {
        builder.add(NodeId::ROOT, name, stat(0o100_644), &xattrs, Content::Inline(b""), 0).unwrap();
    }
    let read = read_back(&builder.finish().unwrap());
    assert_eq!(read.find(b"a").unwrap().xattrs().count(), 300);
    assert_eq!(read.find(b"b").unwrap().xattrs().count(), 300);
}

#[test]
fn times_before_1970_survive() {
    let mtime = Timestamp { secs: -5, nanos: 7 };
    let tree = one(b"old", Stat { mtime, ..stat(0o100_644) }, &[], Content::Inline(b""));
    assert_eq!(read_back(&tree).find(b"old").unwrap().stat().mtime, mtime);
    assert_eq!(read_back(&tree).root().stat().mtime, stat(0).mtime);
}

#[test]
fn rejects_a_file_that_was_not_stored() {
    let tree = one(b"f", stat(0o100_644), &[], Content::OnDisk);
    assert_eq!(error_of(&tree), WriteError::NotIngested { path: "f".into() });
}

#[test]
fn rejects_content_that_the_type_cannot_have() {
    for (mode, content) in [
        (0o100_644, Content::None),
        (0o100_644, Content::Target(b"x")),
        (0o120_777, Content::Inline(b"x")),
        (0o010_644, Content::Object(&OBJECT)),
    ] {
        let error = error_of(&one(b"f", stat(mode), &[], content));
        assert_eq!(error, WriteError::Content { path: "f".into() }, "{mode:o}");
    }
}

#[test]
fn rejects_what_the_fields_cannot_hold() {
    let value = vec![0u8; 65536];
    let error = error_of(&one(b"f", stat(0o100_644), &[(b"user.x", &value)], Content::Inline(b"")));
    assert!(
        matches!(error, WriteError::TooLong { what: "extended attribute value", len: 65536, .. }),
        "{error}"
    );
    let target = vec![b'x'; 4096];
    let error = error_of(&one(b"l", stat(0o120_777), &[], Content::Target(&target)));
    assert!(matches!(error, WriteError::TooLong { what: "symlink target", limit: 4095, .. }), "{error}");
    let device = Stat { rdev: 1 << 32, ..stat(0o060_600) };
    let error = error_of(&one(b"d", device, &[], Content::None));
    assert_eq!(error, WriteError::Device { path: "d".into(), rdev: 1 << 32 });
    let huge = Stat { size_bytes: u64::MAX, ..stat(0o100_600) };
    assert_eq!(error_of(&one(b"h", huge, &[], Content::Object(&OBJECT))), WriteError::TooLarge);
}

#[test]
fn stops_when_cancelled() {
    struct Always;
    impl Cancel for Always {
        fn check(&self) -> Result<(), Cancelled> {
            Err(Cancelled)
        }
    }
    let mut builder = builder();
    // Enough for the 8 ms after which the first question is asked.
    for number in 0..400_000u32 {
        let name = format!("{number}");
        builder.add(NodeId::ROOT, name.as_bytes(), stat(0o100_644), &[], Content::Inline(b"x"), 0).unwrap();
    }
    let tree = builder.finish().unwrap();
    assert_eq!(to_image(&tree, &Always).unwrap_err(), WriteError::Cancelled(Cancelled));
}
