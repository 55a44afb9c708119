//! Objects: complete under their name, or not there at all.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use bootc_fast_sys::enable_verity::enable_verity;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, mkdirat, openat, unlinkat};
use rustix::io::Errno;

use super::error::RepoError;
use crate::cancel::Ticker;
use crate::verity::{Algorithm, Digest, Params, VerityHasher};

/// Bytes read at once: large enough that system calls do not count, small enough for the second-level cache.
const BUFFER_BYTES: usize = 1 << 17;
const MODE: Mode = Mode::from_raw_mode(0o644);

/// A new file that has no name yet, or one that nobody looks for; gone when dropped.
#[derive(Debug)]
pub(super) struct Temporary<'d> {
    dir: BorrowedFd<'d>,
    file: OwnedFd,
    /// Where the file system has no `O_TMPFILE`.
    name: Option<String>,
}

impl<'d> Temporary<'d> {
    pub(super) fn create(dir: BorrowedFd<'d>) -> Result<Self, RepoError> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        match openat(dir, ".", flags | OFlags::TMPFILE, MODE) {
            Ok(file) => return Ok(Self { dir, file, name: None }),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {}
            Err(errno) => return Err(RepoError::io("create a file in", "objects")(errno)),
        }
        Self::named(dir)
    }

    fn named(dir: BorrowedFd<'d>) -> Result<Self, RepoError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!(".bootc-fast-{}-{number}", std::process::id());
            let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::CREATE | OFlags::EXCL;
            match openat(dir, &name, flags, MODE) {
                Ok(file) => return Ok(Self { dir, file, name: Some(name) }),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(RepoError::io("create", name)(errno)),
            }
        }
    }

    pub(super) fn write(&mut self, mut data: &[u8]) -> Result<(), RepoError> {
        while !data.is_empty() {
            match rustix::io::write(&self.file, data) {
                Ok(written) => data = data.get(written..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(RepoError::io("write", "objects")(errno)),
            }
        }
        Ok(())
    }

    /// Makes the file share the data of another one, where the file system can; the caller still has to hash it.
    fn reflink(&self, source: BorrowedFd<'_>) -> bool {
        rustix::fs::ioctl_ficlone(&self.file, source).is_ok()
    }

    /// Ends writing: fs-verity is enabled where the file system has it.
    ///
    /// The kernel refuses while anybody can write to the file, so the descriptor is exchanged for a read-only one.
    pub(super) fn seal(self, algorithm: Algorithm) -> Result<Sealed<'d>, RepoError> {
        let path = proc_path(self.file.as_fd());
        let opened = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let file = opened.map_err(RepoError::io("open", "objects"))?;
        let mut this = self;
        let name = this.name.take();
        let sealed = Sealed { dir: this.dir, file, name };
        drop(this);
        match enable_verity(sealed.file.as_fd(), u32::from(algorithm.kernel_id()), VERITY_BLOCK_BYTES) {
            // TXTBSY: a process that was forked meanwhile still has the writable descriptor. Never seen with
            // O_CLOEXEC but between fork and exec; composefs-rs copies the file then, here it stays without.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::TXTBSY | Errno::EXIST) => {}
            Err(errno) => return Err(RepoError::io("enable fs-verity on", "objects")(errno)),
        }
        Ok(sealed)
    }
}

const VERITY_BLOCK_BYTES: u32 = 4096;

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        remove(self.dir, self.name.as_deref());
    }
}

/// A complete file that waits for its name.
#[derive(Debug)]
pub(super) struct Sealed<'d> {
    dir: BorrowedFd<'d>,
    file: OwnedFd,
    name: Option<String>,
}

impl Drop for Sealed<'_> {
    fn drop(&mut self) {
        remove(self.dir, self.name.as_deref());
    }
}

fn remove(dir: BorrowedFd<'_>, name: Option<&str>) {
    if let Some(name) = name {
        // Nobody looks for it; what cannot be removed now is garbage, not damage.
        let _ = unlinkat(dir, name, AtFlags::empty());
    }
}

fn proc_path(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Gives a sealed file its name; `EEXIST` where there is one of that name.
pub(super) fn link_new(file: &Sealed<'_>, dir: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    match &file.name {
        Some(temporary) => linkat(file.dir, temporary.as_str(), dir, name, AtFlags::empty()),
        None => linkat(CWD, proc_path(file.file.as_fd()), dir, name, AtFlags::SYMLINK_FOLLOW),
    }
}

/// `<2 hex>` and `<the other hex>`.
pub(super) fn split_name(digest: &Digest) -> (String, String) {
    let mut first = digest.to_string();
    let rest = first.split_off(2);
    (first, rest)
}

/// Writes bytes of a known digest, unless they are there.
pub(super) fn store_bytes(objects: BorrowedFd<'_>, digest: &Digest, data: &[u8]) -> Result<(), RepoError> {
    if is_there(objects, digest)? {
        return Ok(());
    }
    let mut temporary = Temporary::create(objects)?;
    temporary.write(data)?;
    publish(objects, digest, temporary)
}

/// Stores a file that is open at its start: hashed first, copied only where the object is missing.
pub(super) fn store_file(
    objects: BorrowedFd<'_>,
    params: &Params,
    source: BorrowedFd<'_>,
    path: &[u8],
    ticker: &mut Ticker<'_>,
) -> Result<(Digest, u64), RepoError> {
    let mut hasher = VerityHasher::new(params.clone());
    let size = read_all(source, path, ticker, |data| {
        hasher.update(data);
        Ok(())
    })?;
    let digest = hasher.finish();
    if is_there(objects, &digest)? {
        return Ok((digest, size));
    }
    let mut temporary = Temporary::create(objects)?;
    let shares_data = temporary.reflink(source);
    // What is named must be what was hashed, and the source may have changed since: the copy is hashed again.
    let mut hasher = VerityHasher::new(params.clone());
    let size = if shares_data {
        read_all(temporary.file.as_fd(), path, ticker, |data| {
            hasher.update(data);
            Ok(())
        })?
    } else {
        read_all(source, path, ticker, |data| {
            hasher.update(data);
            temporary.write(data)
        })?
    };
    let digest = hasher.finish();
    publish(objects, &digest, temporary)?;
    Ok((digest, size))
}

/// Reads a file from its start, wherever its offset is; returns its length in bytes.
fn read_all(
    file: BorrowedFd<'_>,
    path: &[u8],
    ticker: &mut Ticker<'_>,
    mut take: impl FnMut(&[u8]) -> Result<(), RepoError>,
) -> Result<u64, RepoError> {
    let mut buffer = vec![0u8; BUFFER_BYTES];
    let mut offset = 0u64;
    loop {
        ticker.tick()?;
        match rustix::io::pread(file, buffer.as_mut_slice(), offset) {
            Ok(0) => return Ok(offset),
            Ok(read) => {
                take(buffer.get(..read).unwrap_or_default())?;
                offset = offset.saturating_add(read as u64);
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(RepoError::io("read", path)(errno)),
        }
    }
}

/// An object that is written piece by piece, before its digest is known.
#[derive(Debug)]
pub(super) struct NewObject<'r> {
    objects: BorrowedFd<'r>,
    temporary: Temporary<'r>,
    hasher: VerityHasher,
}

impl<'r> NewObject<'r> {
    pub(super) fn create(objects: BorrowedFd<'r>, params: &Params) -> Result<Self, RepoError> {
        let temporary = Temporary::create(objects)?;
        Ok(Self { objects, temporary, hasher: VerityHasher::new(params.clone()) })
    }

    pub(super) fn write(&mut self, data: &[u8]) -> Result<(), RepoError> {
        self.hasher.update(data);
        self.temporary.write(data)
    }

    /// Gives it its name, unless there is such an object.
    pub(super) fn finish(self) -> Result<Digest, RepoError> {
        let digest = self.hasher.finish();
        if !is_there(self.objects, &digest)? {
            publish(self.objects, &digest, self.temporary)?;
        }
        Ok(digest)
    }
}

/// The whole of a file of at most `limit` bytes; `None` of a longer one.
pub(super) fn read_short(file: BorrowedFd<'_>, limit: usize) -> Result<Option<Vec<u8>>, Errno> {
    let mut data = vec![0u8; limit.saturating_add(1)];
    let mut filled = 0usize;
    while filled <= limit {
        let rest = data.get_mut(filled..).unwrap_or_default();
        match rustix::io::pread(file, rest, filled as u64) {
            Ok(0) => {
                data.truncate(filled);
                return Ok(Some(data));
            }
            Ok(read) => filled = filled.saturating_add(read),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(None)
}

fn is_there(objects: BorrowedFd<'_>, digest: &Digest) -> Result<bool, RepoError> {
    let (directory, rest) = split_name(digest);
    let path = format!("{directory}/{rest}");
    match rustix::fs::accessat(objects, &path, rustix::fs::Access::EXISTS, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(RepoError::io("look for object", path)(errno)),
    }
}

fn publish(objects: BorrowedFd<'_>, digest: &Digest, temporary: Temporary<'_>) -> Result<(), RepoError> {
    let (directory, rest) = split_name(digest);
    let sealed = temporary.seal(digest.algorithm())?;
    let path = format!("{directory}/{rest}");
    let linked = match link_new(&sealed, objects, &path) {
        Err(Errno::NOENT) => {
            make_dir(objects, &directory)?;
            link_new(&sealed, objects, &path)
        }
        other => other,
    };
    match linked {
        // Stored by another writer meanwhile: the same name means the same bytes.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(RepoError::io("create object", path)(errno)),
    }
}

/// Makes a directory unless it is there.
pub(super) fn make_dir(at: BorrowedFd<'_>, name: &str) -> Result<(), RepoError> {
    match mkdirat(at, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(RepoError::io("create directory", name)(errno)),
    }
}
