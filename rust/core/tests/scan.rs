//! Scanning real directories.
#![allow(clippy::unwrap_used, reason = "clippy only sees #[test] functions as tests, not their helpers")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use bootc_fast_core::cancel::{Cancel, Cancelled, Never};
use bootc_fast_core::tree::{Content, FileType, Scan, ScanError, Tree, scan};
use rustix::fs::{CWD, FileType as Kind, Mode, XattrFlags, lsetxattr, mknodat};

struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bootc-fast-scan-{}-{name}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn scan_path(path: &Path) -> Scan {
    scan(File::open(path).unwrap().as_fd(), &Never).unwrap()
}

fn paths(tree: &Tree) -> Vec<Vec<u8>> {
    let mut pending = vec![tree.root()];
    let mut found = Vec::new();
    while let Some(node) = pending.pop() {
        pending.extend(node.children());
        found.push(node.path());
    }
    found.sort();
    found
}

#[test]
fn every_type_is_seen_and_none_is_opened() {
    let dir = Temporary::new("types");
    let at = |name: &str| dir.0.join(name);
    fs::write(at("file"), b"four").unwrap();
    symlink("../some where\n", at("link")).unwrap();
    fs::create_dir(at("sub")).unwrap();
    fs::write(dir.0.join(OsStr::from_bytes(b"sub/\xff-\n")), b"").unwrap();
    // Opening a FIFO that nobody writes to would hang this test.
    mknodat(CWD, at("fifo"), Kind::Fifo, Mode::RUSR, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let scanned = scan_path(&dir.0);
    let kind = |name: &str| scanned.tree.find(name.as_bytes()).unwrap().file_type();
    assert_eq!(kind("file"), FileType::Regular);
    assert_eq!(kind("fifo"), FileType::Fifo);
    assert_eq!(kind("socket"), FileType::Socket);
    assert_eq!(kind("sub"), FileType::Directory);
    assert_eq!(scanned.tree.find(b"link").unwrap().content(), Content::Target(b"../some where\n"));
    assert_eq!(scanned.tree.find(b"file").unwrap().stat().size_bytes, 4);
    assert!(scanned.tree.find(b"sub/\xff-\n").is_some());
    assert!(scanned.report.mounts.is_empty());
}

#[test]
fn names_of_one_inode_share_a_link_group() {
    let dir = Temporary::new("links");
    fs::write(dir.0.join("a"), b"1").unwrap();
    fs::create_dir(dir.0.join("d")).unwrap();
    fs::hard_link(dir.0.join("a"), dir.0.join("d/b")).unwrap();
    fs::write(dir.0.join("c"), b"1").unwrap();
    let scanned = scan_path(&dir.0);
    let group = |name: &str| scanned.tree.find(name.as_bytes()).unwrap().link_group();
    assert!(group("a").is_some());
    assert_eq!(group("a"), group("d/b"));
    assert_eq!(group("c"), None);
}

#[test]
fn long_extended_attributes_are_read_whole() {
    let dir = Temporary::new("xattrs");
    let value = vec![7u8; 3000];
    lsetxattr(&dir.0, "user.root", b"r", XattrFlags::empty()).unwrap();
    fs::write(dir.0.join("f"), b"").unwrap();
    lsetxattr(dir.0.join("f"), "user.long", &value, XattrFlags::empty()).unwrap();
    lsetxattr(dir.0.join("f"), "user.empty", b"", XattrFlags::empty()).unwrap();
    let tree = scan_path(&dir.0).tree;
    assert_eq!(tree.root().xattr(b"user.root"), Some(&b"r"[..]));
    let file = tree.find(b"f").unwrap();
    assert_eq!(file.xattr(b"user.long"), Some(value.as_slice()));
    assert_eq!(file.xattr(b"user.empty"), Some(&b""[..]));
    assert_eq!(file.xattrs().count(), 2);
}

#[test]
fn several_threads_see_what_one_sees() {
    let dir = Temporary::new("threads");
    let mut expected = vec![Vec::new()];
    for sub in 0..12 {
        let name = format!("d{sub}");
        fs::create_dir(dir.0.join(&name)).unwrap();
        expected.push(name.clone().into_bytes());
        // One directory is large enough to be split among the threads.
        for file in 0..if sub == 3 { 3000 } else { 300 } {
            let name = format!("{name}/f{file}");
            fs::write(dir.0.join(&name), b"").unwrap();
            expected.push(name.into_bytes());
        }
    }
    expected.sort();
    assert_eq!(paths(&scan_path(&dir.0).tree), expected);
}

#[test]
fn a_path_longer_than_path_max_is_reached() {
    let dir = Temporary::new("deep");
    let name = "n".repeat(200);
    let mut at = rustix::fs::openat(CWD, &dir.0, rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
    for _ in 0..30 {
        rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, &name, rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
    }
    assert_eq!(scan_path(&dir.0).tree.len(), 31);
}

struct After(AtomicU32);

impl Cancel for After {
    fn check(&self) -> Result<(), Cancelled> {
        let calls = self.0.fetch_add(1, Ordering::Relaxed);
        if calls >= 1 { Err(Cancelled) } else { Ok(()) }
    }
}

#[test]
fn a_cancelled_scan_ends() {
    let dir = Temporary::new("cancel");
    for file in 0..9000 {
        fs::write(dir.0.join(format!("f{file}")), b"").unwrap();
    }
    let opened = File::open(&dir.0).unwrap();
    // Asked at most every 8 ms; scanned again and again until an 8 ms boundary falls into a scan.
    let cancel = After(AtomicU32::new(0));
    let ended = (0..500).any(|_| matches!(scan(opened.as_fd(), &cancel), Err(ScanError::Cancelled(_))));
    assert!(ended);
}
