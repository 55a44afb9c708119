//! The repository itself.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, fsync, openat, symlinkat, syncfs};
use rustix::io::Errno;

use super::error::RepoError;
use super::object::{make_dir, split_name, store_bytes, store_file};
use super::{directory, meta, tarball};
use crate::cancel::{Cancel, Ticker};
use crate::erofs::to_image;
use crate::tree::Tree;
use crate::verity::{Algorithm, Digest, Params, digest_bytes};

/// Longest file whose bytes are kept in the image: what C mkcomposefs and composefs-rs do.
pub(super) const MAX_INLINE_BYTES: usize = 64;

/// How a root tree is taken in.
#[derive(Debug, Clone, Default)]
pub struct IngestOptions {
    /// Owner and group that everything gets, in place of its own.
    pub squash_owner: Option<(u32, u32)>,
    /// Paths below the root, without slashes at either end, each with all below it: left out. One that ends in
    /// `/*` leaves out what is in the directory and keeps the directory itself.
    pub exclude: Vec<Vec<u8>>,
}

impl IngestOptions {
    /// Whether a path is left out.
    pub(super) fn leaves_out(&self, path: &[u8]) -> bool {
        let is_below = |dir: &[u8]| path.strip_prefix(dir).is_some_and(|rest| rest.starts_with(b"/"));
        self.exclude.iter().any(|pattern| match pattern.strip_suffix(b"/*") {
            Some(dir) => is_below(dir),
            None => path == pattern || is_below(pattern),
        })
    }
}

/// A composefs repository that objects and images are added to.
///
/// Several writers may work at once: an object appears complete or not at all, and whoever comes second finds it
/// there. Nothing is ever removed or replaced.
#[derive(Debug)]
pub struct Repository {
    root: OwnedFd,
    objects: OwnedFd,
    params: Params,
    is_durable: bool,
}

impl Repository {
    /// Opens a repository, or makes one in a directory: `objects`, `images`, `streams`, `meta.json`.
    ///
    /// `is_durable`: an image gets its name only when it and all objects are on disk.
    ///
    /// # Errors
    /// [`RepoError::Meta`] where the repository has another hash algorithm; [`RepoError::Io`].
    pub fn open(root: BorrowedFd<'_>, algorithm: Algorithm, is_durable: bool) -> Result<Self, RepoError> {
        let dir = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(root, ".", dir, Mode::empty()).map_err(RepoError::io("open", "."))?;
        for name in ["objects", "images", "streams"] {
            make_dir(root.as_fd(), name)?;
        }
        meta::ensure(root.as_fd(), algorithm)?;
        let objects = openat(&root, "objects", dir | OFlags::NOFOLLOW, Mode::empty());
        let objects = objects.map_err(RepoError::io("open", "objects"))?;
        Ok(Self { root, objects, params: Params::composefs(algorithm), is_durable })
    }

    /// What names the objects.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    pub(super) fn objects(&self) -> BorrowedFd<'_> {
        self.objects.as_fd()
    }

    /// Stores a whole file, from its start; its offset is not touched.
    ///
    /// # Errors
    /// [`RepoError`].
    pub fn add_object(&self, source: BorrowedFd<'_>, cancel: &dyn Cancel) -> Result<Digest, RepoError> {
        self.store(source, b"", &mut Ticker::new(cancel)).map(|(digest, _)| digest)
    }

    /// Stores a whole file; returns its length in bytes too. `path` is for messages.
    pub(super) fn store(
        &self,
        source: BorrowedFd<'_>,
        path: &[u8],
        ticker: &mut Ticker<'_>,
    ) -> Result<(Digest, u64), RepoError> {
        store_file(self.objects(), &self.params, source, path, ticker)
    }

    /// Stores bytes.
    ///
    /// # Errors
    /// [`RepoError`].
    pub fn add_bytes(&self, data: &[u8]) -> Result<Digest, RepoError> {
        let digest = digest_bytes(&self.params, data);
        store_bytes(self.objects(), &digest, data)?;
        Ok(digest)
    }

    /// Stores every file of a directory tree that is longer than 64 bytes, and returns the tree.
    ///
    /// Mounts are not crossed: a mount point and all below it is left out, as is what vanishes meanwhile.
    ///
    /// # Errors
    /// [`RepoError`]; objects that were stored by then stay.
    pub fn ingest_directory(
        &self,
        dir: BorrowedFd<'_>,
        options: &IngestOptions,
        cancel: &dyn Cancel,
    ) -> Result<Tree, RepoError> {
        directory::ingest(self, dir, options, cancel)
    }

    /// Stores every file of a tar archive that is longer than 64 bytes, and returns the tree.
    ///
    /// Later entries replace earlier ones, directories on the way that the archive does not have are root's with
    /// mode 0755. Read are ustar, GNU and pax archives, with `SCHILY.xattr`, fractions of seconds, long names,
    /// hard links, devices and FIFOs. Names of container whiteouts mean nothing here.
    ///
    /// # Errors
    /// [`RepoError`]; objects that were stored by then stay.
    pub fn ingest_tar(
        &self,
        archive: &mut dyn std::io::Read,
        options: &IngestOptions,
        cancel: &dyn Cancel,
    ) -> Result<Tree, RepoError> {
        tarball::ingest(self, archive, options, cancel)
    }

    /// Writes the image of a tree as an object, and its name in `images`.
    ///
    /// # Errors
    /// [`RepoError`]; without the name nobody takes a stored image for one.
    pub fn write_image(&self, tree: &Tree, cancel: &dyn Cancel) -> Result<Digest, RepoError> {
        let image = to_image(tree, cancel)?;
        let digest = digest_bytes(&self.params, &image);
        store_bytes(self.objects(), &digest, &image)?;
        if self.is_durable {
            syncfs(&self.root).map_err(RepoError::io("sync", "."))?;
        }
        let (directory, rest) = split_name(&digest);
        let name = format!("images/{digest}");
        match symlinkat(format!("../objects/{directory}/{rest}"), &self.root, &name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(RepoError::io("create", name)(errno)),
        }
        if self.is_durable {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let images = openat(&self.root, "images", flags, Mode::empty());
            images.and_then(fsync).map_err(RepoError::io("sync", "images"))?;
        }
        Ok(digest)
    }
}
