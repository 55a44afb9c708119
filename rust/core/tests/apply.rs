//! Writing a result into real directories: exact, repeatable, and completed by the next call after any interruption.
#![allow(clippy::unwrap_used, reason = "clippy only sees #[test] functions as tests, not their helpers")]

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use bootc_fast_core::cancel::{Cancel, Cancelled, Never};
use bootc_fast_core::etc::apply::{Applied, ApplyError, ContentSource, Opened, Pass, Way, apply};
use bootc_fast_core::etc::content::ContentError;
use bootc_fast_core::tree::{Content, Node, Tree, open_beneath, scan};
use rustix::fs::{CWD, FileType, Mode, OFlags, XattrFlags, lsetxattr, mknodat};

/// A directory of its own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("apply-{name}-{}-{count}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn open(&self) -> File {
        File::open(&self.0).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Directory(File);

impl ContentSource for Directory {
    fn open(&self, node: Node<'_>) -> Result<Option<Opened<'_>>, ContentError> {
        let fd = open_beneath(self.0.as_fd(), &node.path(), OFlags::RDONLY).ok();
        Ok(fd.map(|fd| Opened::Live { file: File::from(fd), is_as_scanned: true }))
    }

    fn is_gone(&self, node: Node<'_>) -> bool {
        open_beneath(self.0.as_fd(), &node.path(), OFlags::PATH).is_err()
    }

    fn open_way(&self, _node: Node<'_>) -> std::io::Result<Option<(Way, Node<'_>)>> {
        Ok(None)
    }
}

/// One entry of a tree as text, less what no copy can share.
fn listing(tree: &Tree, root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut nodes = vec![tree.root()];
    while let Some(node) = nodes.pop() {
        nodes.extend(node.children());
        let stat = node.stat();
        let names: Vec<_> = node.xattrs().map(|xattr| (xattr.name.to_vec(), xattr.value.len())).collect();
        let content = match node.content() {
            Content::OnDisk => fs::read(root.join(PathBuf::from(String::from_utf8(node.path()).unwrap())))
                .unwrap_or_default(),
            Content::Target(target) => target.to_vec(),
            _ => Vec::new(),
        };
        let shared = node.link_group().map(|group| {
            let mut first = vec![tree.root()];
            let mut paths = Vec::new();
            while let Some(other) = first.pop() {
                first.extend(other.children());
                if other.link_group() == Some(group) {
                    paths.push(other.path());
                }
            }
            paths.sort();
            paths
        });
        lines.push(format!(
            "{:?} {:o} {} {} {} {:?} {:?} {names:?} {content:?} {shared:?}",
            String::from_utf8_lossy(&node.path()),
            stat.mode,
            stat.uid,
            stat.gid,
            stat.rdev,
            stat.mtime,
            stat.size_bytes
        ));
    }
    lines.sort();
    lines
}

fn fill(root: &Path) {
    fs::create_dir_all(root.join("d/e")).unwrap();
    fs::write(root.join("d/e/deep"), vec![b'x'; 300_000]).unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("tool"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(root.join("tool"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::hard_link(root.join("tool"), root.join("d/tool-too")).unwrap();
    symlink("../nowhere", root.join("d/link")).unwrap();
    mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    fs::write(root.join("was-a-directory"), "now a file").unwrap();
    fs::create_dir(root.join("was-a-file")).unwrap();
    fs::write(root.join("was-a-file/inside"), "text").unwrap();
    fs::create_dir(root.join("read-only")).unwrap();
    fs::write(root.join("read-only/inside"), "text").unwrap();
    lsetxattr(root.join("empty"), "user.long", &[7; 200], XattrFlags::empty()).unwrap();
    lsetxattr(root.join("d"), "user.directory", b"yes", XattrFlags::empty()).unwrap();
    fs::set_permissions(root.join("read-only"), fs::Permissions::from_mode(0o500)).unwrap();
}

/// Something else under most of the names, and things under names that the result does not have.
fn fill_otherwise(root: &Path) {
    fs::create_dir_all(root.join("was-a-directory/with/things")).unwrap();
    fs::write(root.join("was-a-directory/with/things/in"), "old").unwrap();
    fs::write(root.join("was-a-file"), "old").unwrap();
    fs::write(root.join(".bootc-fast-0"), "half of a f").unwrap();
    fs::write(root.join("tool"), "#!/bin/sh\n").unwrap();
    fs::write(root.join("empty"), "").unwrap();
    lsetxattr(root.join("empty"), "user.stale", b"1", XattrFlags::empty()).unwrap();
    symlink("/etc", root.join("d")).unwrap();
    fs::create_dir(root.join("read-only")).unwrap();
    fs::write(root.join("read-only/stale"), "old").unwrap();
    fs::set_permissions(root.join("read-only"), fs::Permissions::from_mode(0o000)).unwrap();
}

fn run(source: &Scratch, target: &Scratch, cancel: &dyn Cancel) -> Result<Applied, ApplyError> {
    let result = scan(source.open().as_fd(), &Never).unwrap().tree;
    let contents = Directory(source.open());
    apply(&result, &contents, target.open().as_fd(), Pass::Last, &mut |_, _| Ok(()), cancel)
}

fn assert_same(source: &Scratch, target: &Scratch) {
    let wanted = listing(&scan(source.open().as_fd(), &Never).unwrap().tree, &source.0);
    let found = listing(&scan(target.open().as_fd(), &Never).unwrap().tree, &target.0);
    assert_eq!(found, wanted);
}

#[test]
fn an_empty_directory_becomes_the_result_and_a_second_call_finds_nothing_to_do() {
    let (source, target) = (Scratch::new("source"), Scratch::new("target"));
    fill(&source.0);
    let first = run(&source, &target, &Never).unwrap();
    assert_same(&source, &target);
    assert_eq!(first.warnings, []);
    assert_eq!(first.bytes_copied, 300_000 + 10 + 10 + 4 + 4);
    assert_eq!(run(&source, &target, &Never).unwrap().operations, []);
}

#[test]
fn whatever_was_there_gives_way() {
    let (source, target) = (Scratch::new("source"), Scratch::new("target"));
    fill(&source.0);
    fill_otherwise(&target.0);
    run(&source, &target, &Never).unwrap();
    assert_same(&source, &target);
}

/// Cancels at the n-th question.
struct After(AtomicUsize);

impl Cancel for After {
    fn check(&self) -> Result<(), Cancelled> {
        let left = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        left.map(drop).map_err(|_| Cancelled)
    }
}

#[test]
fn after_any_number_of_operations_the_next_call_completes_the_result() {
    let source = Scratch::new("source");
    fill(&source.0);
    let result = scan(source.open().as_fd(), &Never).unwrap().tree;
    let contents = Directory(source.open());
    let total = {
        let target = Scratch::new("target");
        fill_otherwise(&target.0);
        run(&source, &target, &Never).unwrap().operations.len()
    };
    for stop in 0..total {
        let target = Scratch::new("target");
        fill_otherwise(&target.0);
        let dir = target.open();
        let mut progress = |done: usize, _: usize| if done < stop { Ok(()) } else { Err(Cancelled) };
        let ended = apply(&result, &contents, dir.as_fd(), Pass::Last, &mut progress, &Never);
        assert!(matches!(ended, Err(ApplyError::Cancelled(_))));
        run(&source, &target, &Never).unwrap();
        assert_same(&source, &target);
    }
}

#[test]
fn a_cancellation_inside_a_file_leaves_no_part_of_it() {
    let (source, target) = (Scratch::new("source"), Scratch::new("target"));
    // Larger than one step of copying, so that the canceller is asked in the middle.
    fs::write(source.0.join("large"), vec![b'x'; 9 << 20]).unwrap();
    let ended = run(&source, &target, &After(AtomicUsize::new(0)));
    assert!(matches!(ended, Err(ApplyError::Cancelled(_))));
    assert_eq!(fs::read_dir(&target.0).unwrap().count(), 0);
    run(&source, &target, &Never).unwrap();
    assert_same(&source, &target);
}

#[test]
fn a_symlink_in_place_of_a_directory_is_replaced_not_followed() {
    let (source, target, outside) = (Scratch::new("source"), Scratch::new("target"), Scratch::new("outside"));
    fs::create_dir(source.0.join("d")).unwrap();
    fs::write(source.0.join("d/file"), "text").unwrap();
    fs::write(outside.0.join("file"), "precious").unwrap();
    fs::write(outside.0.join("other"), "precious").unwrap();
    symlink(&outside.0, target.0.join("d")).unwrap();
    run(&source, &target, &Never).unwrap();
    assert_same(&source, &target);
    assert_eq!(fs::read(outside.0.join("file")).unwrap(), b"precious");
    assert_eq!(fs::read_dir(&outside.0).unwrap().count(), 2);
}

#[test]
fn a_name_linked_to_a_file_outside_is_replaced_not_changed() {
    let (source, target, outside) = (Scratch::new("source"), Scratch::new("target"), Scratch::new("outside"));
    fs::write(source.0.join("file"), "text").unwrap();
    fs::set_permissions(source.0.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(outside.0.join("file"), "text").unwrap();
    fs::hard_link(outside.0.join("file"), target.0.join("file")).unwrap();
    run(&source, &target, &Never).unwrap();
    assert_same(&source, &target);
    let mode = fs::metadata(outside.0.join("file")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
}

#[test]
fn a_symlink_planted_while_it_runs_stops_the_call_with_nothing_written_outside() {
    let (source, target, outside) = (Scratch::new("source"), Scratch::new("target"), Scratch::new("outside"));
    fs::create_dir(source.0.join("d")).unwrap();
    fs::write(source.0.join("d/file"), "text").unwrap();
    let result = scan(source.open().as_fd(), &Never).unwrap().tree;
    let contents = Directory(source.open());
    let mut plant = |done: usize, _: usize| {
        // The first operation made the directory; the second one would write into it.
        if done == 1 {
            fs::remove_dir(target.0.join("d")).unwrap();
            symlink(&outside.0, target.0.join("d")).unwrap();
        }
        Ok(())
    };
    let ended = apply(&result, &contents, target.open().as_fd(), Pass::Last, &mut plant, &Never);
    let error = ended.unwrap_err();
    assert_eq!(
        error.io().and_then(|(source, _)| source.raw_os_error()),
        Some(rustix::io::Errno::NOTDIR.raw_os_error())
    );
    assert_eq!(fs::read_dir(&outside.0).unwrap().count(), 0);
    run(&source, &target, &Never).unwrap();
    assert_same(&source, &target);
    assert_eq!(fs::read_dir(&outside.0).unwrap().count(), 0);
}
