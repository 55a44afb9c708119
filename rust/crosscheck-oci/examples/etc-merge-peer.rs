//! The merge of /etc in the steps that bootc takes, as a peer for the benchmarks: `etc-merge-peer PRISTINE CURRENT NEW`.
//!
//! Steps, calls and their order are those of bootc's crate `etc-merge`: three trees are collected one after the other,
//! of every file its attributes, its extended attributes by path, its fs-verity digest if it has one, else SHA-256 of
//! its content; then what differs is listed, and written to NEW a path at a time, through cap-std. The data structures
//! are this program's own. Like bootc's, it ignores devices, sockets and FIFOs, and flushes nothing.

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::{Read, Write, stdout};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use cap_std_ext::cap_std::ambient_authority;
use cap_std_ext::cap_std::fs::{Dir, MetadataExt, Permissions, PermissionsExt};
use cap_std_ext::dirext::CapStdExtDirExt;
use composefs::fsverity::{
    FsVerityHashValue, MeasureVerityError, Sha256HashValue, Sha512HashValue, measure_verity_opt,
};
use rustix::fs::{
    AtFlags, Gid, Uid, XattrFlags, chownat, lgetxattr, llistxattr, lsetxattr, readlinkat, symlinkat,
};
use sha2::{Digest, Sha256};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What decides whether two files are the same, besides their content.
#[derive(Debug, PartialEq, Eq)]
struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    xattrs: BTreeMap<OsString, Vec<u8>>,
}

#[derive(Debug)]
enum Kind {
    Directory(BTreeMap<OsString, Node>),
    /// A digest in hex, of whichever kind.
    File(String),
    Symlink(OsString),
}

#[derive(Debug)]
struct Node {
    attributes: Attributes,
    kind: Kind,
}

impl Node {
    fn children(&self) -> Option<&BTreeMap<OsString, Node>> {
        match &self.kind {
            Kind::Directory(children) => Some(children),
            Kind::File(_) | Kind::Symlink(_) => None,
        }
    }

    fn is_like(&self, other: &Self) -> bool {
        self.attributes == other.attributes
            && match (&self.kind, &other.kind) {
                (Kind::Directory(_), Kind::Directory(_)) => true,
                (Kind::File(one), Kind::File(two)) => one == two,
                (Kind::Symlink(one), Kind::Symlink(two)) => one == two,
                _ => false,
            }
    }
}

fn path_through(dir: &Dir, path: &Path) -> PathBuf {
    Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())).join(path)
}

fn read_xattrs(dir: &Dir, name: &OsStr) -> Result<BTreeMap<OsString, Vec<u8>>> {
    let path = path_through(dir, Path::new(name));
    let mut names = vec![0; 4096];
    let length = llistxattr(&path, &mut names)?;
    names.truncate(length);
    let mut found = BTreeMap::new();
    for one in names.split(|byte| *byte == 0).filter(|one| !one.is_empty()) {
        let mut value = vec![0; 1 << 16];
        let length = lgetxattr(&path, one, &mut value)?;
        value.truncate(length);
        found.insert(OsString::from_vec(one.to_vec()), value);
    }
    Ok(found)
}

fn digest(dir: &Dir, name: &OsStr) -> Result<String> {
    let measured = match measure_verity_opt::<Sha256HashValue>(dir.open(name)?) {
        Err(MeasureVerityError::InvalidDigestAlgorithm { .. }) => {
            measure_verity_opt::<Sha512HashValue>(dir.open(name)?)?.map(|value| value.to_hex())
        }
        other => other?.map(|value| value.to_hex()),
    };
    if let Some(measured) = measured {
        return Ok(measured);
    }
    let (mut file, mut hasher, mut buffer) = (dir.open(name)?, Sha256::new(), vec![0; 8192]);
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        hasher.update(buffer.get(..length).unwrap_or_default());
    }
    let mut hex = String::new();
    for byte in hasher.finalize() {
        write!(hex, "{byte:02x}")?;
    }
    Ok(hex)
}

fn collect(dir: &Dir) -> Result<BTreeMap<OsString, Node>> {
    let mut found = BTreeMap::new();
    for entry in dir.entries()? {
        let entry = entry?;
        let (name, kind, metadata) = (entry.file_name(), entry.file_type()?, entry.metadata()?);
        let xattrs = read_xattrs(dir, &name)?;
        let kind = if kind.is_symlink() {
            Kind::Symlink(OsString::from_vec(readlinkat(dir, &name, Vec::new())?.into_bytes()))
        } else if kind.is_dir() {
            Kind::Directory(collect(&dir.open_dir(&name)?)?)
        } else if kind.is_file() {
            Kind::File(digest(dir, &name)?)
        } else {
            continue;
        };
        let attributes =
            Attributes { mode: metadata.mode(), uid: metadata.uid(), gid: metadata.gid(), xattrs };
        found.insert(name, Node { attributes, kind });
    }
    Ok(found)
}

#[derive(Debug, Default)]
struct Difference {
    added: Vec<PathBuf>,
    modified: Vec<PathBuf>,
    removed: Vec<PathBuf>,
}

type Children = BTreeMap<OsString, Node>;

impl Difference {
    fn list_changed(&mut self, pristine: &Children, current: &Children, above: &Path) {
        for (name, node) in current {
            let path = above.join(name);
            match pristine.get(name) {
                None => {
                    self.added.push(path.clone());
                    if let Some(children) = node.children() {
                        self.list_changed(&Children::new(), children, &path);
                    }
                }
                Some(before) => {
                    if !before.is_like(node) {
                        self.modified.push(path.clone());
                    }
                    if let (Some(before), Some(children)) = (before.children(), node.children()) {
                        self.list_changed(before, children, &path);
                    }
                }
            }
        }
    }

    fn list_removed(&mut self, pristine: &Children, current: &Children, above: &Path) {
        for (name, before) in pristine {
            let path = above.join(name);
            match (before.children(), current.get(name)) {
                (_, None) => self.removed.push(path),
                (Some(before), Some(node)) => {
                    if let Some(children) = node.children() {
                        self.list_removed(before, children, &path);
                    }
                }
                (None, Some(_)) => (),
            }
        }
    }
}

/// Walks a tree from its root, as bootc does for every path that it writes.
fn find<'t>(root: &'t Children, path: &Path) -> Option<&'t Node> {
    let mut names = path.iter();
    let mut node = root.get(names.next()?)?;
    for name in names {
        node = node.children()?.get(name)?;
    }
    Some(node)
}

fn write(current: &Dir, new: &Dir, path: &Path, node: &Node, there: Option<&Node>) -> Result<()> {
    let is_directory = node.children().is_some();
    if there.is_some_and(|there| there.children().is_some() != is_directory) {
        return Err(format!("{}: a directory on one side only", path.display()).into());
    }
    match &node.kind {
        Kind::Directory(_) => {
            if there.is_none() {
                new.create_dir_all(path)?;
            }
            new.set_permissions(path, Permissions::from_mode(node.attributes.mode))?;
        }
        Kind::Symlink(target) => {
            new.remove_all_optional(path)?;
            symlinkat(target, new, path)?;
        }
        Kind::File(_) => {
            new.remove_all_optional(path)?;
            current.copy(path, new, path)?;
        }
    }
    let (uid, gid) = (Uid::from_raw(node.attributes.uid), Gid::from_raw(node.attributes.gid));
    chownat(new, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    for (name, value) in &node.attributes.xattrs {
        lsetxattr(path_through(new, path), name.as_bytes(), value, XattrFlags::empty())?;
    }
    Ok(())
}

fn merge(current: (&Dir, &Children), new: (&Dir, &Children), difference: &Difference) -> Result<()> {
    for path in difference.added.iter().chain(&difference.modified) {
        let node = find(current.1, path).ok_or("what differs is not there")?;
        write(current.0, new.0, path, node, find(new.1, path))?;
    }
    for path in &difference.removed {
        match new.0.symlink_metadata_optional(path)? {
            None => (),
            Some(found) if found.is_dir() => new.0.remove_dir_all(path)?,
            Some(_) => new.0.remove_file(path)?,
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [pristine, current, new] = arguments.as_slice() else {
        return Err("usage: PRISTINE CURRENT NEW".into());
    };
    let open = |path: &OsString| Dir::open_ambient_dir(path, ambient_authority());
    let (pristine, current, new) = (open(pristine)?, open(current)?, open(new)?);
    let (before, running, next) = (collect(&pristine)?, collect(&current)?, collect(&new)?);
    let mut difference = Difference::default();
    difference.list_changed(&before, &running, Path::new(""));
    difference.list_removed(&before, &running, Path::new(""));
    merge((&current, &running), (&new, &next), &difference)?;
    let (kept, removed) = (difference.added.len() + difference.modified.len(), difference.removed.len());
    Ok(writeln!(stdout(), "{kept} kept, {removed} removed")?)
}
