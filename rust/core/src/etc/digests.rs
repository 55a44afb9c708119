//! fs-verity digests of the files of a side: from metadata, from the kernel, or computed; each once.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::content::{ContentError, Side, Source, failed, is_unchanged};
use crate::cancel::{Cancel, Cancelled};
use crate::tree::{Content, Node, NodeId, open_beneath};
use crate::verity::{Algorithm, Digest, Params, digest_bytes, digest_many, digest_reader};

/// Files up to this size are read in one piece, and hashed side by side with others.
const WHOLE_BYTES: u64 = 1 << 18;

/// What was computed so far, one slot a node: inserting into a map by node was 3 % of a plan's time.
#[derive(Debug, Default)]
pub(super) struct DigestCache(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    slots: Vec<Slot>,
    digests: Vec<Digest>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Slot {
    #[default]
    Unknown,
    Stale,
    /// Index into `digests`.
    At(u32),
}

/// What is known about a file.
enum Found {
    Nothing,
    Stale,
    Digest(Digest),
}

impl Known {
    /// A node has one slot: what is asked with another algorithm is computed anew.
    fn get(&self, id: NodeId, algorithm: Algorithm) -> Found {
        match self.slots.get(id.0 as usize) {
            None | Some(Slot::Unknown) => Found::Nothing,
            Some(Slot::Stale) => Found::Stale,
            Some(Slot::At(index)) => {
                let digest = self.digests.get(*index as usize).filter(|found| found.algorithm() == algorithm);
                digest.map_or(Found::Nothing, |digest| Found::Digest(*digest))
            }
        }
    }

    fn put(&mut self, id: NodeId, nodes: usize, digest: Option<Digest>) {
        if self.slots.is_empty() {
            self.slots.resize(nodes, Slot::Unknown);
        }
        // A digest that finds no room is computed again when it is asked for.
        let Some(slot) = self.slots.get_mut(id.0 as usize) else { return };
        *slot = match (digest, u32::try_from(self.digests.len())) {
            (None, _) => Slot::Stale,
            (Some(_), Err(_)) => Slot::Unknown,
            (Some(digest), Ok(index)) => {
                self.digests.push(digest);
                Slot::At(index)
            }
        };
    }
}

impl DigestCache {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The directory whose files are being read: neighbours share it, so that the kernel walks one name a file.
#[derive(Debug, Default)]
pub(super) struct Folder(Option<(NodeId, OwnedFd)>);

impl Folder {
    /// The parent of `node`, below `root`.
    fn of(&mut self, root: BorrowedFd<'_>, node: Node<'_>) -> Result<BorrowedFd<'_>, Errno> {
        let parent = node.parent();
        let known = self.0.take().filter(|(id, _)| *id == parent.id());
        let entered = match known {
            Some(known) => known,
            None => (parent.id(), open_beneath(root, &parent.path(), OFlags::PATH | OFlags::DIRECTORY)?),
        };
        Ok(self.0.insert(entered).1.as_fd())
    }
}

/// What reading a file came to.
enum Reading {
    /// The kernel vouches for this digest.
    Measured(Digest),
    Whole(Vec<u8>),
    Hashed(Digest),
}

impl Side<'_> {
    /// The digest of a regular file with the algorithm of the digest that it is to be compared with, as composefs
    /// counts it: 4096-byte blocks, no salt. `None` where the file is not what the scan saw.
    ///
    /// A file that has kernel fs-verity is measured, not read: where that equals `expected`, it is what was asked. A
    /// measurement with another salt or block size proves nothing, and the file is read after all.
    ///
    /// # Errors
    /// [`ContentError`].
    pub fn digest(
        &self,
        node: Node<'_>,
        expected: &Digest,
        cancel: &dyn Cancel,
    ) -> Result<Option<Digest>, ContentError> {
        let algorithm = expected.algorithm();
        if let Content::Object(digest) = node.content()
            && digest.algorithm() == algorithm
        {
            return Ok(Some(*digest));
        }
        let known = self.digests.lock().get(node.id(), algorithm);
        match known {
            Found::Digest(digest) => return Ok(Some(digest)),
            Found::Stale => return Ok(None),
            Found::Nothing => {}
        }
        let digest = self.read_for(node, expected, cancel)?.map(|read| match read {
            Reading::Whole(data) => digest_bytes(&Params::composefs(algorithm), &data),
            Reading::Measured(digest) | Reading::Hashed(digest) => digest,
        });
        self.digests.lock().put(node.id(), self.tree.len(), digest);
        Ok(digest)
    }

    /// Computes the digests of several files, small ones side by side; [`Side::digest`] then knows them.
    ///
    /// All must be expected to have digests of one algorithm. Memory: the small files' contents.
    ///
    /// # Errors
    /// [`ContentError`].
    pub(super) fn digest_batch(
        &self,
        batch: &[(Node<'_>, &Digest)],
        folder: &mut Folder,
        cancel: &dyn Cancel,
    ) -> Result<(), ContentError> {
        let Some(algorithm) = batch.first().map(|(_, expected)| expected.algorithm()) else { return Ok(()) };
        let mut whole = Vec::with_capacity(batch.len());
        for (node, expected) in batch {
            if let Some(data) = self.read_unchanged(*node, folder) {
                whole.push((node.id(), data));
                continue;
            }
            let done = match self.read_for(*node, expected, cancel)? {
                Some(Reading::Whole(data)) => {
                    whole.push((node.id(), data));
                    continue;
                }
                Some(Reading::Measured(digest) | Reading::Hashed(digest)) => Some(digest),
                None => None,
            };
            self.digests.lock().put(node.id(), self.tree.len(), done);
        }
        let contents: Vec<&[u8]> = whole.iter().map(|(_, data)| data.as_slice()).collect();
        let digests = digest_many(&Params::composefs(algorithm), &contents, cancel)?;
        let mut known = self.digests.lock();
        for ((id, _), digest) in whole.iter().zip(digests) {
            known.put(*id, self.tree.len(), Some(digest));
        }
        Ok(())
    }

    /// Reads a small file that is still what the scan saw; `None` for every other, and after every failure: those go
    /// the long way, which finds out why.
    ///
    /// One look at the file, after it was read: the same inode, size and times as the scan's mean that nothing
    /// changed since then. That saves one system call of six, and the directory held open most of a path walk; with
    /// the scan's, scan and plan of 100,000 files took 0.64 s of processor time where they had taken 0.86 s.
    fn read_unchanged(&self, node: Node<'_>, folder: &mut Folder) -> Option<Vec<u8>> {
        let (state, size_bytes) = (node.disk_state()?, node.stat().size_bytes);
        if state.has_verity || size_bytes == 0 || size_bytes > WHOLE_BYTES {
            return None;
        }
        let dir = folder.of(self.dir?, node).ok()?;
        // NONBLOCK: a FIFO that took the file's place is noticed, not waited for.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = File::from(open_beneath(dir, node.name(), flags).ok()?);
        let size = usize::try_from(size_bytes).ok()?;
        // Room for one byte more than the file had: reading one less shows its end without a second call.
        let mut data = vec![0; size.saturating_add(1)];
        if (&file).read(&mut data).ok()? != size || !is_unchanged(&file, node, state) {
            return None;
        }
        data.truncate(size);
        Some(data)
    }

    fn read_for(
        &self,
        node: Node<'_>,
        expected: &Digest,
        cancel: &dyn Cancel,
    ) -> Result<Option<Reading>, ContentError> {
        self.read_settled(node, |source, has_verity| {
            if let Source::Live(file) = source
                && has_verity
                && is_measured_as(file, expected).map_err(|error| failed(node, error))?
            {
                return Ok(Reading::Measured(*expected));
            }
            read_or_hash(source, node, expected.algorithm(), cancel)
        })
    }
}

fn is_measured_as(file: &File, expected: &Digest) -> io::Result<bool> {
    let measured = bootc_fast_sys::verity::measure(file.as_fd())?;
    Ok(measured.is_some_and(|(algorithm, bytes)| {
        algorithm == u16::from(expected.algorithm().kernel_id()) && bytes == expected.as_bytes()
    }))
}

fn read_or_hash(
    source: &mut Source<'_>,
    node: Node<'_>,
    algorithm: Algorithm,
    cancel: &dyn Cancel,
) -> Result<Reading, ContentError> {
    let mut data = Vec::new();
    if node.stat().size_bytes <= WHOLE_BYTES {
        // Room for one byte more than the file had: reading one less shows its end without a second call.
        let size = usize::try_from(node.stat().size_bytes).unwrap_or(0).saturating_add(1);
        data.resize(size, 0);
        let len = source.reader().read(&mut data).map_err(|error| failed(node, error))?;
        data.truncate(len);
        if len > 0 && len.saturating_add(1) == size {
            return Ok(Reading::Whole(data));
        }
    }
    let mut all = data.chain(source.reader());
    let digest = digest_reader(&Params::composefs(algorithm), &mut all, cancel);
    digest.map(Reading::Hashed).map_err(|error| {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Cancelled>()) {
            Some(cancelled) => (*cancelled).into(),
            None => failed(node, error),
        }
    })
}
