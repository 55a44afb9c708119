//! Trees for the comparisons: any that Linux can hold, and our tree as the composefs crate's.

#![allow(dead_code, reason = "every test binary uses some of it")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "clippy only sees #[test] functions as tests, not their helpers"
)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use bootc_fast_core::tree::{Content, FileType, Node, NodeId, Stat, Timestamp, Tree, TreeBuilder};
use bootc_fast_core::verity::{Algorithm, Digest};
use composefs::fsverity::FsVerityHashValue;
use composefs::generic_tree::LeafId;
use composefs::tree as theirs;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// What a name refers to.
#[derive(Debug, Clone)]
pub enum Kind {
    Directory,
    Inline(Vec<u8>),
    Object(u8, u64),
    Symlink(Vec<u8>),
    Char(u64),
    Block(u64),
    Fifo,
    Socket,
    /// Another name of the n-th file.
    Link(usize),
}

/// One name of a generated tree.
#[derive(Debug, Clone)]
pub struct Spec {
    pub parent: usize,
    pub name: Vec<u8>,
    pub kind: Kind,
    pub permissions: u32,
    pub owner: (u32, u32),
    pub mtime: Timestamp,
    pub xattrs: Xattrs,
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_map(|byte| if matches!(byte, 0 | b'/') { b'_' } else { byte });
    prop_oneof![
        4 => vec(byte.clone(), 1..12),
        // The names of the stubs, and those beside `.` and `..`.
        2 => "[0-9a-f]{2}".prop_map(String::into_bytes),
        1 => "[!-0]{1,3}".prop_map(|text| text.replace('/', "+").into_bytes()),
        1 => vec(byte, 200..=255),
    ]
    .prop_filter("not a name", |name| !matches!(name.as_slice(), b"." | b".."))
}

fn kind() -> impl Strategy<Value = Kind> {
    let target = vec(any::<u8>().prop_map(|byte| byte.max(1)), 1..200);
    let long_target = vec(any::<u8>().prop_map(|byte| byte.max(1)), 900..4095);
    // glibc's makedev of up to 12 bits of major and 20 of minor: what the kernel has.
    let device = (0u64..4096, 0u64..(1 << 20))
        .prop_map(|(major, minor)| (major << 8) | (minor & 0xff) | ((minor & !0xff) << 12));
    let size =
        prop_oneof![65u64..9000, Just(4096), Just(4097), (0u32..45).prop_map(|bits| (1u64 << bits) + 65)];
    prop_oneof![
        6 => Just(Kind::Directory),
        4 => vec(any::<u8>(), 0..=64).prop_map(Kind::Inline),
        // Beyond what composefs inlines: the layout has it all the same.
        1 => vec(any::<u8>(), 0..5000).prop_map(Kind::Inline),
        6 => (any::<u8>(), size).prop_map(|(seed, size)| Kind::Object(seed, size)),
        3 => target.prop_map(Kind::Symlink),
        1 => long_target.prop_map(Kind::Symlink),
        1 => device.clone().prop_map(Kind::Char),
        1 => Just(Kind::Char(0)),
        1 => device.prop_map(Kind::Block),
        1 => Just(Kind::Fifo),
        1 => Just(Kind::Socket),
        3 => any::<usize>().prop_map(Kind::Link),
    ]
}

fn xattrs() -> impl Strategy<Value = Xattrs> {
    let name = prop_oneof![
        "user\\.[a-z]{1,4}",
        "trusted\\.[a-z]{1,4}",
        "trusted\\.overlay\\.[a-z]{1,10}",
        Just("trusted.overlay.metacopy".to_owned()),
        "(security\\.|lustre\\.|weird\\.)[a-z]{0,3}",
        // Without more after them: for such names, which Linux does not have, the crate sets the flag for access
        // control lists and C mkcomposefs does not.
        "system\\.posix_acl_(access|default)",
        Just("security.selinux".to_owned()),
        "user\\.[a-z]{250}",
    ];
    let value = prop_oneof![
        6 => vec(any::<u8>(), 0..3),
        3 => vec(0u8..3, 0..60),
        1 => vec(any::<u8>(), 3000..6000),
    ];
    prop_oneof![
        3 => Just(Xattrs::new()),
        2 => btree_map(name.prop_map(String::into_bytes), value, 0..5),
    ]
}

fn spec() -> impl Strategy<Value = Spec> {
    let id = || prop_oneof![3 => Just(0u32), 2 => 0u32..70_000, 1 => any::<u32>()];
    let nanos = prop_oneof![2 => Just(0u32), 1 => 0u32..1_000_000_000];
    let secs = prop_oneof![4 => 1_700_000_000i64..1_700_000_003, 1 => -3i64..3, 1 => any::<i64>()];
    let mtime = (secs, nanos).prop_map(|(secs, nanos)| Timestamp { secs, nanos });
    (any::<usize>(), name(), kind(), 0u32..0o10000, (id(), id()), mtime, xattrs()).prop_map(
        |(parent, name, kind, permissions, owner, mtime, xattrs)| Spec {
            parent,
            name,
            kind,
            permissions,
            owner,
            mtime,
            xattrs,
        },
    )
}

/// Specs of a whole tree; the first is the root.
pub fn specs() -> impl Strategy<Value = Vec<Spec>> {
    let root = spec().prop_map(|spec| Spec { kind: Kind::Directory, ..spec });
    (root, prop_oneof![8 => vec(spec(), 0..40), 1 => vec(spec(), 100..400)]).prop_map(|(root, mut rest)| {
        rest.insert(0, root);
        rest
    })
}

/// A digest made of one byte.
pub fn digest(algorithm: Algorithm, seed: u8) -> Digest {
    Digest::from_bytes(algorithm, &vec![seed; algorithm.digest_bytes()]).unwrap()
}

/// The spec with a link replaced by what it links to, and the link group; `None` of a link to nothing.
fn resolve<'s>(spec: &'s Spec, files: &mut Vec<&'s Spec>) -> Option<(Spec, u32)> {
    let group = |index: usize| u32::try_from(index).unwrap() + 1;
    match spec.kind {
        Kind::Link(index) => {
            let index = index.checked_rem(files.len())?;
            let (parent, name) = (spec.parent, spec.name.clone());
            Some((Spec { parent, name, ..files[index].clone() }, group(index)))
        }
        // A hard-linked whiteout is no tree to the crate.
        Kind::Directory | Kind::Char(0) => Some((spec.clone(), 0)),
        _ => {
            files.push(spec);
            Some((spec.clone(), group(files.len() - 1)))
        }
    }
}

/// The tree of some specs; names that are taken and links to nothing are left out.
pub fn build(algorithm: Algorithm, specs: &[Spec]) -> Tree {
    let root = specs.first().unwrap();
    let mut builder = TreeBuilder::new(stat(root, 0o040_000, 0, 0), &pairs(root)).unwrap();
    let mut directories = vec![NodeId::ROOT];
    let mut files: Vec<&Spec> = Vec::new();
    let mut taken = HashSet::new();
    for spec in &specs[1..] {
        let parent = directories[spec.parent % directories.len()];
        if !taken.insert((parent, spec.name.clone())) {
            continue;
        }
        let Some((spec, group)) = resolve(spec, &mut files) else { continue };
        let digest = match spec.kind {
            Kind::Object(seed, _) => digest(algorithm, seed),
            _ => digest(algorithm, 0),
        };
        let (kind, rdev, size, content) = match &spec.kind {
            Kind::Directory => (0o040_000, 0, 0, Content::None),
            Kind::Inline(data) => (0o100_000, 0, data.len() as u64, Content::Inline(data)),
            Kind::Object(_, size) => (0o100_000, 0, *size, Content::Object(&digest)),
            Kind::Symlink(target) => (0o120_000, 0, target.len() as u64, Content::Target(target)),
            Kind::Char(rdev) => (0o020_000, *rdev, 0, Content::None),
            Kind::Block(rdev) => (0o060_000, *rdev, 0, Content::None),
            Kind::Fifo => (0o010_000, 0, 0, Content::None),
            Kind::Socket => (0o140_000, 0, 0, Content::None),
            Kind::Link(_) => unreachable!(),
        };
        let stat = stat(&spec, kind, rdev, size);
        let id = builder.add(parent, &spec.name, stat, &pairs(&spec), content, group).unwrap();
        if matches!(spec.kind, Kind::Directory) {
            directories.push(id);
        }
    }
    builder.finish().unwrap()
}

fn stat(spec: &Spec, kind: u32, rdev: u64, size_bytes: u64) -> Stat {
    let (uid, gid) = spec.owner;
    Stat { mode: kind | spec.permissions, uid, gid, nlink: 1, rdev, size_bytes, mtime: spec.mtime }
}

fn pairs(spec: &Spec) -> Vec<(&[u8], &[u8])> {
    spec.xattrs.iter().map(|(name, value)| (name.as_slice(), value.as_slice())).collect()
}

/// Our tree as the crate's.
pub fn to_theirs<H: FsVerityHashValue>(tree: &Tree) -> theirs::FileSystem<H> {
    let root = tree.root();
    let mut leaves = Vec::new();
    let mut links = HashMap::new();
    let root = directory(root, &mut leaves, &mut links);
    theirs::FileSystem { root, leaves }
}

fn directory<H: FsVerityHashValue>(
    node: Node<'_>,
    leaves: &mut Vec<theirs::Leaf<H>>,
    links: &mut HashMap<u32, LeafId>,
) -> theirs::Directory<H> {
    let mut made = theirs::Directory::new(their_stat(node));
    for child in node.children() {
        let inode = if child.is_dir() {
            theirs::Inode::Directory(Box::new(directory(child, leaves, links)))
        } else {
            let known = child.link_group().and_then(|group| links.get(&group).copied());
            let id = known.unwrap_or(LeafId(leaves.len()));
            if known.is_none() {
                leaves.push(theirs::Leaf { stat: their_stat(child), content: their_content(child) });
            }
            child.link_group().map(|group| links.insert(group, id));
            theirs::Inode::leaf(id)
        };
        made.insert(OsStr::from_bytes(child.name()), inode);
    }
    made
}

fn their_stat(node: Node<'_>) -> theirs::Stat {
    let stat = node.stat();
    theirs::Stat {
        st_mode: stat.mode & 0o7777,
        st_uid: stat.uid,
        st_gid: stat.gid,
        st_mtim_sec: stat.mtime.secs,
        st_mtim_nsec: stat.mtime.nanos,
        xattrs: node
            .xattrs()
            .map(|xattr| (OsStr::from_bytes(xattr.name).into(), xattr.value.into()))
            .collect(),
    }
}

fn their_content<H: FsVerityHashValue>(node: Node<'_>) -> theirs::LeafContent<H> {
    let stat = node.stat();
    match (stat.file_type(), node.content()) {
        (_, Content::Inline(data)) => theirs::LeafContent::Regular(theirs::RegularFile::Inline(data.into())),
        (_, Content::Object(digest)) => {
            let id = H::from_hex(digest.to_string()).unwrap();
            theirs::LeafContent::Regular(theirs::RegularFile::External(id, stat.size_bytes))
        }
        (_, Content::Target(target)) => theirs::LeafContent::Symlink(OsStr::from_bytes(target).into()),
        (FileType::CharDevice, _) => theirs::LeafContent::CharacterDevice(stat.rdev),
        (FileType::BlockDevice, _) => theirs::LeafContent::BlockDevice(stat.rdev),
        (FileType::Fifo, _) => theirs::LeafContent::Fifo,
        (FileType::Socket, _) => theirs::LeafContent::Socket,
        other => panic!("no content: {other:?}"),
    }
}
