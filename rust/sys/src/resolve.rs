//! Opening paths that cannot lead out of a directory.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

/// How often a lookup that raced with a rename or mount is repeated; `openat2(2)` says `EAGAIN` then.
const MAX_RACES: u32 = 128;

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
/// `O_CLOEXEC` is always set. `mode` counts with `O_CREAT` only.
///
/// # Errors
/// Those of `openat2(2)`; `EAGAIN` where somebody kept renaming directories on the way.
pub fn open_in_root(root: BorrowedFd<'_>, path: &[u8], flags: u32, mode: u32) -> io::Result<OwnedFd> {
    let flags = OFlags::from_bits_retain(flags) | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
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
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    use super::*;

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
