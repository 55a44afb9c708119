//! Opening paths that cannot lead out of a directory.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

/// How often a lookup that raced with a rename or mount is repeated; `openat2(2)` says `EAGAIN` then.
const MAX_RACES: u32 = 128;

/// The longest path that the kernel takes at once: `PATH_MAX` less the NUL.
const MAX_AT_ONCE: usize = 4095;

/// Opens so that reading changes no access time, where that is allowed: to a file's owner and with `CAP_FOWNER`.
///
/// `open` is given `flags`, with `O_NOATIME` where they are for reading only, and again without where that is refused.
///
/// # Errors
/// Those of `open`.
///
/// Source: `open(2)`, `O_NOATIME`; `openat2(2)` refuses it along with `O_PATH`.
pub fn quietly<T>(flags: OFlags, mut open: impl FnMut(OFlags) -> Result<T, Errno>) -> Result<T, Errno> {
    if flags.intersects(OFlags::PATH | OFlags::WRONLY | OFlags::RDWR) {
        return open(flags);
    }
    match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(flags),
        opened => opened,
    }
}

/// Opens `path` as if `root` were `/`: absolute symlinks and `..` stay inside, magic links are refused.
///
/// `O_CLOEXEC` is always set. `mode` counts with `O_CREAT` only. A path that is longer than the kernel takes is opened
/// piece by piece; no piece but the last may have a symlink in it, and none leads out of where it begins.
///
/// # Errors
/// Those of `openat2(2)`; `EAGAIN` where somebody kept renaming directories on the way.
pub fn open_in_root(root: BorrowedFd<'_>, path: &[u8], flags: u32, mode: u32) -> io::Result<OwnedFd> {
    let flags = OFlags::from_bits_retain(flags) | OFlags::CLOEXEC;
    let Some((first, rest)) = split_long(path) else {
        return open_resolving(root, path, flags, mode, ResolveFlags::IN_ROOT);
    };
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let plainly = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let mut held = open_resolving(root, first, directory, 0, plainly)?;
    let mut rest = rest;
    while let Some((piece, more)) = split_long(rest) {
        held = open_resolving(held.as_fd(), piece, directory, 0, plainly)?;
        rest = more;
    }
    open_resolving(held.as_fd(), rest, flags, mode, ResolveFlags::IN_ROOT)
}

/// Splits off as much as the kernel takes at once; `None` where it takes all, or where one name alone is too long.
fn split_long(path: &[u8]) -> Option<(&[u8], &[u8])> {
    // From the root on, which the descriptor is.
    let path = path.get(path.iter().take_while(|byte| **byte == b'/').count()..)?;
    let start = path.get(..=MAX_AT_ONCE)?;
    let at = start.iter().rposition(|byte| *byte == b'/')?;
    Some((path.get(..at)?, path.get(at.checked_add(1)?..)?))
}

fn open_resolving(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    mode: u32,
    resolve: ResolveFlags,
) -> io::Result<OwnedFd> {
    let resolve = resolve | ResolveFlags::NO_MAGICLINKS;
    let mut races = 0;
    let open = |flags| loop {
        match openat2(root, path, flags, Mode::from_raw_mode(mode), resolve) {
            Err(Errno::AGAIN) if races < MAX_RACES => races += 1,
            Err(Errno::INTR) => {}
            result => return result,
        }
    };
    quietly(flags, open).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_the_kernel_does_not_take_at_once_is_split_at_a_name() {
        assert_eq!(split_long(&[b'a'; MAX_AT_ONCE]), None);
        assert_eq!(split_long(&[b'a'; MAX_AT_ONCE + 1]), None);
        let mut path = b"//".to_vec();
        path.extend([b'a'; MAX_AT_ONCE - 1]);
        path.extend(b"/bc/d");
        let (first, rest) = split_long(&path).unwrap();
        assert_eq!((first.len(), rest), (MAX_AT_ONCE - 1, &b"bc/d"[..]));
        path.insert(2, b'a');
        let (first, rest) = split_long(&path).unwrap();
        assert_eq!((first.len(), rest), (MAX_AT_ONCE, &b"bc/d"[..]));
    }

    #[test]
    fn a_symlink_that_leads_out_ends_inside() {
        let base = std::env::temp_dir().join(format!("resolve-{}", std::process::id()));
        fs::create_dir_all(base.join("root/etc")).unwrap();
        fs::write(base.join("root/etc/passwd"), "inside").unwrap();
        symlink("/etc/passwd", base.join("root/absolute")).unwrap();
        symlink("../../../../../etc/passwd", base.join("root/relative")).unwrap();
        let root = fs::File::open(base.join("root")).unwrap();
        for name in ["absolute", "relative"] {
            let fd = open_in_root(root.as_fd(), name.as_bytes(), OFlags::RDONLY.bits(), 0).unwrap();
            let mut text = String::new();
            fs::File::from(fd).read_to_string(&mut text).unwrap();
            assert_eq!(text, "inside");
        }
        fs::remove_dir_all(base).unwrap();
    }
}
